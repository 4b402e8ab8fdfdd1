//! The oracle against histories that are known to be good or bad.

use bytes::{Bytes, BytesMut};
use common::memcached::{Arithmetic, Reply, StoreVerb};
use proptest::prelude::*;
use raft::Body;
use server::command::{Command, Operation, Payload};
use server::keystore::sessions::Limits;

use super::witness::Applied;
use super::{Model, Violation, search, witness};
use crate::history::{
    Action, History, Key, Moment, Op, OpId, Outcome, Seen, Write, delta_of, key_name,
};

/// Builds a history and the log that belongs to it, step by step.
#[derive(Default)]
struct Story {
    history: History,
    log: Vec<Applied>,
    model: Model,
    moment: Moment,
}

impl Story {
    fn moment(&mut self) -> Moment {
        self.moment += 1;
        self.moment
    }

    fn call(&mut self, action: Action) -> OpId {
        let (number, call) = (self.history.ops.len(), self.moment());
        self.history.ops.push(Op {
            client: number,
            batch: number as u64,
            at: call,
            call,
            ret: None,
            applied_at_ret: 0,
            action,
            outcome: Outcome::Unknown,
        });
        number as OpId
    }

    fn set(&mut self, key: Key, value: &'static str) -> OpId {
        let value = Bytes::from_static(value.as_bytes());
        let write = Write::Store { verb: StoreVerb::Set, value, expected: None };
        self.call(Action::Write { key, write })
    }

    fn get(&mut self, keys: &[Key]) -> OpId {
        self.call(Action::Get { keys: keys.to_vec(), with_cas: true })
    }

    /// The write becomes an entry; gives its reply.
    fn apply(&mut self, op: OpId) -> Reply {
        let Action::Write { key, write } = self.history.ops[op as usize].action.clone() else {
            panic!("op {op} is no write");
        };
        let (name, mut bytes) = (key_name(key), BytesMut::new());
        let operation = match &write {
            Write::Store { verb, value, .. } => {
                Operation::Store { verb: *verb, key: &name, flags: op, deadline_ms: 0, value }
            }
            Write::Delete => Operation::Delete { key: &name },
            Write::Arithmetic { operation } => {
                Operation::Arithmetic { operation: *operation, key: &name, delta: delta_of(op) }
            }
        };
        Command { clock_ms: 0, id: None, operation }.encode(&mut bytes);
        let (moment, body) = (self.moment(), Body::Command(Payload(bytes.freeze())));
        self.log.push(Applied { term: 1, body, moment });
        self.model.apply(op, key, &write)
    }

    fn read(&self, keys: &[Key]) -> Outcome {
        let seen = |key| {
            let item = self.model.items.get(key)?;
            Some(Seen { value: item.value.clone(), flags: item.flags, cas: Some(item.cas) })
        };
        Outcome::Values(keys.iter().map(seen).collect())
    }

    fn end(&mut self, op: OpId, outcome: Outcome) {
        let (ret, applied) = (self.moment(), self.log.len() as u64);
        let op = &mut self.history.ops[op as usize];
        (op.ret, op.applied_at_ret, op.outcome) = (Some(ret), applied, outcome);
    }

    /// A write from beginning to end.
    fn write(&mut self, key: Key, value: &'static str) -> OpId {
        let op = self.set(key, value);
        let reply = self.apply(op);
        self.end(op, Outcome::Replied(reply));
        op
    }

    fn witness(&self) -> Result<(), Violation> {
        witness::check(&self.history, &self.log, Limits::default()).map(|_| ())
    }

    fn rules(&self) -> (Option<&'static str>, Option<&'static str>) {
        let found = search::check(&self.history).err();
        (self.witness().err().map(|v| v.rule), found.map(|v| v.rule))
    }
}

const NO_ORDER: Option<&str> = Some("not linearizable");

#[test]
fn reads_while_a_write_is_under_way_may_see_either() {
    let mut story = Story::default();
    story.write(0, "a");
    let write = story.set(0, "b");
    let (early, late) = (story.get(&[0]), story.get(&[0]));
    let before = story.read(&[0]);
    story.end(early, before);
    let reply = story.apply(write);
    let after = story.read(&[0]);
    story.end(late, after);
    story.end(write, Outcome::Replied(reply));
    assert_eq!(story.rules(), (None, None));
}

#[test]
fn a_stale_read_is_found() {
    let mut story = Story::default();
    story.write(0, "a");
    let old = story.read(&[0]);
    story.write(0, "b");
    let read = story.get(&[0]);
    story.end(read, old);
    assert_eq!(story.rules(), (Some("a stale read"), NO_ORDER));
}

#[test]
fn a_lost_write_is_found() {
    let mut story = Story::default();
    let lost = story.set(0, "a");
    story.end(lost, Outcome::Replied(Reply::Stored));
    let read = story.get(&[0]);
    let nothing = story.read(&[0]);
    story.end(read, nothing);
    assert_eq!(story.rules(), (Some("an acknowledged write was lost"), NO_ORDER));
}

#[test]
fn a_write_that_is_applied_twice_is_found() {
    let mut story = Story::default();
    let increment = |operation| Action::Write { key: 0, write: Write::Arithmetic { operation } };
    let once = story.call(increment(Arithmetic::Incr));
    story.apply(once);
    story.apply(once);
    assert_eq!(story.rules().0, Some("a write was applied twice"));
}

#[test]
fn a_refused_write_that_took_effect_is_found() {
    let mut story = Story::default();
    let refused = story.set(0, "a");
    story.apply(refused);
    story.end(refused, Outcome::NotExecuted);
    let read = story.get(&[0]);
    let value = story.read(&[0]);
    story.end(read, value);
    assert_eq!(story.rules(), (Some("a refused write took effect"), NO_ORDER));
}

#[test]
fn an_unknown_write_may_take_effect_later_or_never() {
    for takes_effect in [false, true] {
        let mut story = Story::default();
        let unknown = story.set(0, "a");
        story.write(1, "b");
        if takes_effect {
            story.apply(unknown);
        }
        let read = story.get(&[0, 1]);
        let values = story.read(&[0, 1]);
        story.end(read, values);
        assert_eq!(story.rules(), (None, None));
    }
}

#[test]
fn deletes_are_known_by_the_write_before_them_in_their_batch() {
    let story = |swapped: bool| {
        let mut story = Story::default();
        story.write(1, "old");
        let delete = |story: &mut Story| story.call(Action::Write { key: 1, write: Write::Delete });
        let set = story.set(1, "new");
        let follows = delete(&mut story);
        story.history.ops[follows as usize].batch = story.history.ops[set as usize].batch;
        story.history.ops[follows as usize].call = story.history.ops[set as usize].call;
        let alone = delete(&mut story);
        // That of the batch is not the one whose answer comes first.
        let order = if swapped { vec![follows, set] } else { vec![set, follows, alone] };
        let replies: Vec<_> = order.into_iter().map(|op| (op, story.apply(op))).collect();
        for (op, reply) in replies.into_iter().rev() {
            story.end(op, Outcome::Replied(reply));
        }
        story.rules().0
    };
    assert_eq!(story(false), None);
    assert!(story(true).is_some(), "a delete before the write in front of it");
}

#[test]
fn a_torn_snapshot_is_found_by_the_witness() {
    let mut story = Story::default();
    let read = story.get(&[0, 1]);
    story.write(0, "old");
    let Outcome::Values(first) = story.read(&[0]) else { panic!("a read gives values") };
    story.write(0, "new");
    story.write(1, "later");
    let Outcome::Values(second) = story.read(&[1]) else { panic!("a read gives values") };
    story.end(read, Outcome::Values([first, second].concat()));
    assert_eq!(story.rules(), (Some("a torn snapshot"), None));
}

#[test]
fn wrong_replies_are_found() {
    let mut story = Story::default();
    story.write(0, "word");
    let write = Write::Store {
        verb: StoreVerb::Cas(1),
        value: Bytes::from_static(b"next"),
        expected: Some(Bytes::from_static(b"word")),
    };
    let cas = story.call(Action::Write { key: 0, write });
    assert_eq!(story.apply(cas), Reply::Stored);
    story.end(cas, Outcome::Replied(Reply::Exists));
    assert_eq!(story.rules(), (Some("wrong reply"), NO_ORDER));
}

/// What one step of a random run does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Call(u8, Key),
    Apply(usize),
    End(usize),
    /// The newest answered read gets the answer of the read before it.
    Corrupt,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u8..6, 0..2_u16).prop_map(|(kind, key)| Step::Call(kind, key)),
        3 => (0_usize..8).prop_map(Step::Apply),
        4 => (0_usize..8).prop_map(Step::End),
        1 => Just(Step::Corrupt),
    ];
    prop::collection::vec(step, 1..60)
}

/// Plays steps on a store that answers correctly, with `corrupt` answers
/// exchanged now and then.
fn play(steps: &[Step], corrupt: bool) -> Story {
    let mut story = Story::default();
    // Operations that have not taken effect, and those that have.
    let mut called: Vec<OpId> = Vec::new();
    let mut effective: Vec<(OpId, Outcome)> = Vec::new();
    for step in steps {
        match *step {
            Step::Call(kind, key) => {
                let value = Bytes::from(format!("v{}", story.history.ops.len()));
                let store = |verb| Write::Store { verb, value: value.clone(), expected: None };
                let write = |write| Action::Write { key, write };
                let counting = Write::Arithmetic { operation: Arithmetic::Incr };
                called.push(story.call(match kind {
                    0 => write(store(StoreVerb::Set)),
                    1 => write(store(StoreVerb::Add)),
                    2 => write(Write::Delete),
                    3 => write(counting),
                    _ => Action::Get { keys: vec![key], with_cas: true },
                }));
            }
            Step::Apply(at) if at < called.len() => {
                let op = called.remove(at);
                let outcome = match story.history.ops[op as usize].action.clone() {
                    Action::Get { keys, .. } => story.read(&keys),
                    Action::Write { .. } => Outcome::Replied(story.apply(op)),
                };
                effective.push((op, outcome));
            }
            Step::End(at) if at < effective.len() => {
                let (op, outcome) = effective.remove(at);
                story.end(op, outcome);
            }
            Step::Corrupt if corrupt => exchange(&mut story),
            _ => {}
        }
    }
    story
}

fn exchange(story: &mut Story) {
    let ops = &mut story.history.ops;
    let reads: Vec<usize> = (0..ops.len())
        .rev()
        .filter(|at| matches!(ops[*at].outcome, Outcome::Values(_)))
        .take(2)
        .collect();
    if let [newest, before] = reads[..] {
        ops[newest].outcome = ops[before].outcome.clone();
    }
}

proptest! {
    #[test]
    fn what_is_right_is_accepted_by_both(steps in steps()) {
        prop_assert_eq!(play(&steps, false).rules(), (None, None));
    }

    /// The search sees less than the witness (no log, no tokens, no flags):
    /// what it refuses, the witness must refuse, too.
    #[test]
    fn the_witness_is_the_stricter(steps in steps()) {
        let story = play(&steps, true);
        if story.rules().1.is_some() {
            prop_assert!(story.witness().is_err());
        }
    }
}
