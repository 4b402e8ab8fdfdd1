//! The history against the replicated log.
//!
//! Every write is one entry, which fixes its place; every read gets the
//! earliest place that explains what it saw. The history is linearizable in
//! this order if no operation has a place before one that had ended when it
//! was called.

use std::collections::BTreeMap;

use bytes::Bytes;
use common::memcached::{Reply, StoreVerb};
use raft::{Body, Index};
use server::command::{Command, Operation, Payload};
use server::keystore::sessions::Limits;

use super::Violation;
use super::model::{Item, Model};
use super::sessions::Sessions;
use crate::history::{Action, History, Key, Moment, Op, OpId, Outcome, Seen, Write, key_of};

/// An entry that was applied, and when that happened first.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    pub(crate) term: raft::Term,
    pub(crate) body: Body<Payload>,
    pub(crate) moment: Moment,
}

/// Checks `history` against `log`, whose first entry has index 1, and gives
/// the store that the log leads to. `limits` are those of the table of sessions.
pub(crate) fn check(
    history: &History,
    log: &[Applied],
    limits: Limits,
) -> Result<Model, Violation> {
    let mut replay = Replay {
        history,
        model: Model::default(),
        versions: BTreeMap::new(),
        places: vec![None; history.ops.len()],
        deletes: waiting_deletes(history),
        before: None,
        sessions: Sessions::new(limits),
        clock_ms: 0,
    };
    for (position, applied) in log.iter().enumerate() {
        if let Body::Command(payload) = &applied.body {
            replay.command(position as Index + 1, applied, payload)?;
        } else {
            replay.before = None;
        }
    }
    replay.nothing_lost()?;
    replay.real_time()?;
    Ok(replay.model)
}

struct Replay<'a> {
    history: &'a History,
    model: Model,
    /// What each key held from an index on, ascending.
    versions: BTreeMap<Key, Vec<(Index, Option<Item>)>>,
    /// The index of each write.
    places: Vec<Option<Index>>,
    /// Deletes carry no number: they are matched by key, time and reply, and
    /// by the write before them in their batch.
    deletes: BTreeMap<Key, Vec<OpId>>,
    /// The write that is the entry before this one, and that entry's term.
    before: Option<(raft::Term, OpId)>,
    sessions: Sessions,
    /// The clock of the last command.
    clock_ms: u64,
}

/// Nothing that follows can have a place before this.
#[derive(Clone, Copy)]
struct Floor {
    index: Index,
    /// Whose place it is.
    op: Option<OpId>,
}

impl Floor {
    fn raise(&mut self, place: Option<Index>, op: usize) {
        if let Some(place) = place.filter(|place| *place > self.index) {
            *self = Floor { index: place, op: Some(op as OpId) };
        }
    }
}

/// Deletes by key. They carry no number, and therefore are sent alone or
/// behind a write of their batch that does: whoever leads proposes all writes of a batch
/// in one go, so that their entries follow each other, in one term. Where the
/// reply to the delete is known, that names its entry. Only when a new leader
/// has dropped the later ones of them are those proposed again, by themselves.
fn waiting_deletes(history: &History) -> BTreeMap<Key, Vec<OpId>> {
    let mut deletes: BTreeMap<Key, Vec<OpId>> = BTreeMap::new();
    for (number, op) in history.ops.iter().enumerate() {
        if let Action::Write { key, write: Write::Delete } = &op.action
            && op.outcome != Outcome::NotExecuted
        {
            deletes.entry(*key).or_default().push(number as OpId);
        }
    }
    for waiting in deletes.values_mut() {
        // The earliest deadline first; those without one last.
        waiting.sort_by_key(|number| history.ops[*number as usize].ret.unwrap_or(Moment::MAX));
    }
    deletes
}

/// The write before `number` in its batch.
fn write_before(ops: &[Op], number: OpId) -> Option<OpId> {
    let batch = ops[number as usize].batch;
    let before = (0..number).rev().take_while(|number| ops[*number as usize].batch == batch);
    before.into_iter().find(|number| matches!(ops[*number as usize].action, Action::Write { .. }))
}

/// The key that an entry is about, and the operation that it says it is.
fn origin(payload: &Payload) -> Option<(Key, Option<OpId>)> {
    let (name, number) = match Command::decode(&payload.0).ok()?.operation {
        Operation::Store { key, flags, .. } => (key, Some(flags)),
        Operation::Arithmetic { key, delta, .. } => (key, Some(delta.checked_sub(1)? as OpId)),
        Operation::Delete { key } => (key, None),
        Operation::OpenSession { .. } | Operation::Check { .. } | Operation::Verdict { .. } => {
            return None;
        }
    };
    Some((key_of(name)?, number))
}

impl Replay<'_> {
    fn command(
        &mut self,
        index: Index,
        applied: &Applied,
        payload: &Payload,
    ) -> Result<(), Violation> {
        let command = Command::decode(&payload.0)
            .map_err(|error| Violation::new("entry is no command", format!("{index}: {error}")))?;
        if command.clock_ms < self.clock_ms {
            let what =
                format!("entry {index} has {}, one before it {}", command.clock_ms, self.clock_ms);
            return Err(Violation::new("the replicated clock went back", what));
        }
        self.clock_ms = command.clock_ms;
        let is_own =
            matches!(command.operation, Operation::Check { .. } | Operation::Verdict { .. });
        // The servers' own entries have a clock, too, by which sessions expire.
        let admitted = self.sessions.admits(index, &command);
        if is_own || !admitted {
            // The servers' own, or nothing that takes effect.
            self.before = None;
            return Ok(());
        }
        let phantom = || {
            let what = format!("entry {index} is {command:?}");
            Violation::new("an entry that nobody asked for", what)
        };
        let (key, number) = origin(payload).ok_or_else(phantom)?;
        let number = match number {
            Some(number) => number,
            None => self.match_delete(key, applied).ok_or_else(phantom)?,
        };
        let op = self.history.ops.get(number as usize).ok_or_else(phantom)?;
        let Action::Write { key: asked, write } = &op.action else { return Err(phantom()) };
        if *asked != key || !is_same(write, &command.operation) || op.call > applied.moment {
            return Err(phantom());
        }
        if let Some(first) = self.places[number as usize].replace(index) {
            let what = format!("{} is entry {first} and entry {index}", describe(number, op));
            return Err(Violation::new("a write was applied twice", what));
        }
        self.before = Some((applied.term, number));
        let reply = self.model.apply(number, key, write);
        let now = self.model.items.get(&key).cloned();
        self.versions.entry(key).or_default().push((index, now));
        match &op.outcome {
            Outcome::NotExecuted => {
                let what = format!("{}, and is entry {index}", describe(number, op));
                Err(Violation::new("a refused write took effect", what))
            }
            Outcome::Replied(told) if *told != reply => {
                let what = format!("{} as entry {index}, but was {reply:?}", describe(number, op));
                Err(Violation::new("wrong reply", what))
            }
            _ => Ok(()),
        }
    }

    /// The delete of `key` that an entry can be: the one that follows the entry
    /// before in its batch; else, of those that fit, the one whose time ends
    /// first, which leaves most to the others.
    fn match_delete(&mut self, key: Key, applied: &Applied) -> Option<OpId> {
        let moment = applied.moment;
        let found = self.model.items.contains_key(&key);
        let reply = if found { Reply::Deleted } else { Reply::NotFound };
        let ops = &self.history.ops;
        let waiting = self.deletes.get_mut(&key)?;
        let before = self.before.filter(|(term, _)| *term == applied.term).map(|(_, op)| op);
        let fits = |number: OpId| {
            let op = &ops[number as usize];
            op.call < moment
                && op.ret.is_none_or(|ret| ret > moment)
                && (op.outcome == Outcome::Unknown || op.outcome == Outcome::Replied(reply.clone()))
        };
        // With an unknown outcome nothing hangs on its place in the batch.
        let leader = |number: OpId| {
            let known = ops[number as usize].outcome != Outcome::Unknown;
            write_before(ops, number).filter(|_| known)
        };
        let follows = |number: OpId| before.is_some() && leader(number) == before;
        let position = waiting
            .iter()
            .position(|number| follows(*number) && fits(*number))
            // Whoever waits though the write before it has its entry was cut off
            // from that by a change of leaders, and proposed once more.
            .or_else(|| {
                let placed = |leader: OpId| self.places[leader as usize].is_some();
                waiting.iter().position(|n| leader(*n).is_none_or(placed) && fits(*n))
            })?;
        Some(waiting.remove(position))
    }

    fn nothing_lost(&self) -> Result<(), Violation> {
        for (number, op) in self.history.ops.iter().enumerate() {
            let is_told = matches!(op.outcome, Outcome::Replied(_));
            if is_told && self.places[number].is_none() {
                let what = describe(number as OpId, op);
                return Err(Violation::new("an acknowledged write was lost", what));
            }
        }
        Ok(())
    }

    fn real_time(&mut self) -> Result<(), Violation> {
        // Calls and returns in order of time; the requests of a batch share both.
        let mut events: Vec<(Moment, bool, usize)> = Vec::new();
        for (number, op) in self.history.ops.iter().enumerate() {
            events.push((op.call, false, number));
            if let Some(ret) = op.ret {
                events.push((ret, true, number));
            }
        }
        events.sort_unstable();
        let mut floor = Floor { index: 0, op: None };
        let mut batch = (u64::MAX, floor);
        for (_, is_return, number) in events {
            if is_return {
                floor.raise(self.places[number], number);
                continue;
            }
            let op = &self.history.ops[number];
            if batch.0 != op.batch {
                batch = (op.batch, floor);
            }
            let place = self.place(number as OpId, op, batch.1)?;
            // What is unknown may take effect after what was sent behind it.
            if op.outcome != Outcome::Unknown {
                batch.1.raise(place, number);
            }
            self.places[number] = self.places[number].or(place);
        }
        Ok(())
    }

    /// Where the operation takes effect; `None` when it never does or says
    /// nothing about it.
    fn place(&self, number: OpId, op: &Op, floor: Floor) -> Result<Option<Index>, Violation> {
        match (&op.action, &op.outcome) {
            (Action::Write { write: Write::Delete, .. }, Outcome::Unknown)
                if write_before(&self.history.ops, number).is_some() =>
            {
                // Its entry may be that of another one: see `match_delete`.
                Ok(None)
            }
            (Action::Write { .. }, _) => {
                let Some(place) = self.places[number as usize] else { return Ok(None) };
                if place <= floor.index {
                    let before = self.named(floor);
                    let what =
                        format!("{} is entry {place}, behind {before}", describe(number, op));
                    return Err(Violation::new("a write before its call", what));
                }
                Ok(Some(place))
            }
            (Action::Get { keys, .. }, Outcome::Values(seen)) => {
                let place = self.snapshot(keys, seen, floor.index);
                match place.filter(|place| *place <= op.applied_at_ret) {
                    Some(place) => Ok(Some(place)),
                    None => Err(self.unexplained(number, op, keys, seen, floor)),
                }
            }
            (Action::Get { .. }, _) => Ok(None),
        }
    }

    fn named(&self, floor: Floor) -> String {
        let op = floor.op.map(|op| describe(op, &self.history.ops[op as usize]));
        format!("entry {}, where {} ended", floor.index, op.as_deref().unwrap_or("nothing"))
    }

    /// The first index from `floor` on at which all keys are as seen.
    fn snapshot(&self, keys: &[Key], seen: &[Option<Seen>], floor: Index) -> Option<Index> {
        let mut place = floor;
        loop {
            let before = place;
            for (key, seen) in keys.iter().zip(seen) {
                place = self.first_like(*key, seen.as_ref(), place)?;
            }
            if place == before {
                return Some(place);
            }
        }
    }

    /// The first index from `from` on at which `key` is as seen.
    fn first_like(&self, key: Key, seen: Option<&Seen>, from: Index) -> Option<Index> {
        let versions = self.versions.get(&key).map_or(&[][..], Vec::as_slice);
        let at = versions.partition_point(|(index, _)| *index <= from);
        let current = at.checked_sub(1).and_then(|at| versions[at].1.as_ref());
        if matches(current, seen) {
            return Some(from);
        }
        versions[at..]
            .iter()
            .find(|(_, item)| matches(item.as_ref(), seen))
            .map(|(index, _)| *index)
    }

    fn unexplained(
        &self,
        number: OpId,
        op: &Op,
        keys: &[Key],
        seen: &[Option<Seen>],
        floor: Floor,
    ) -> Violation {
        let stale = self.snapshot(keys, seen, 0).is_some_and(|place| place < floor.index);
        let what = format!("{}, behind {}", describe(number, op), self.named(floor));
        if stale {
            return Violation::new("a stale read", what);
        }
        let each = keys.iter().zip(seen);
        let torn = keys.len() > 1
            && each
                .into_iter()
                .all(|(key, seen)| self.first_like(*key, seen.as_ref(), 0).is_some());
        Violation::new(if torn { "a torn snapshot" } else { "a read of nothing written" }, what)
    }
}

fn matches(item: Option<&Item>, seen: Option<&Seen>) -> bool {
    match (item, seen) {
        (None, None) => true,
        (Some(item), Some(seen)) => {
            item.value == seen.value
                && item.flags == seen.flags
                && seen.cas.is_none_or(|cas| cas == item.cas)
        }
        _ => false,
    }
}

/// Whether an entry does what was asked.
fn is_same(write: &Write, operation: &Operation<'_>) -> bool {
    match (write, operation) {
        (
            Write::Store { verb: asked, value: wanted, .. },
            Operation::Store { verb, value, deadline_ms, .. },
        ) => asked == verb && wanted == value && *deadline_ms == 0,
        (Write::Delete, Operation::Delete { .. }) => true,
        (Write::Arithmetic { operation: asked }, Operation::Arithmetic { operation, .. }) => {
            asked == operation
        }
        _ => false,
    }
}

/// An operation in words.
pub(crate) fn describe(number: OpId, op: &Op) -> String {
    let short = |value: &Bytes| {
        let text = String::from_utf8_lossy(&value[..value.len().min(24)]).into_owned();
        if value.len() > 24 { format!("{text}.. ({} bytes)", value.len()) } else { text }
    };
    let action = match &op.action {
        Action::Get { keys, with_cas } => {
            let keys: Vec<_> = keys.iter().map(|key| format!("k{key}")).collect();
            format!("get{} {}", if *with_cas { "s" } else { "" }, keys.join(" "))
        }
        Action::Write { key, write: Write::Delete } => format!("delete k{key}"),
        Action::Write { key, write: Write::Arithmetic { operation } } => {
            format!("{} k{key}", format!("{operation:?}").to_lowercase())
        }
        Action::Write { key, write: Write::Store { verb, value, .. } } => match verb {
            StoreVerb::Cas(token) => format!("cas k{key} {token} = {}", short(value)),
            verb => format!("{} k{key} = {}", format!("{verb:?}").to_lowercase(), short(value)),
        },
    };
    let outcome = match &op.outcome {
        Outcome::Unknown => "outcome unknown".to_owned(),
        Outcome::NotExecuted => "refused".to_owned(),
        Outcome::Replied(reply) => format!("{reply:?}"),
        Outcome::Values(values) => {
            let values: Vec<_> = values
                .iter()
                .map(|seen| seen.as_ref().map_or("nothing".to_owned(), |seen| short(&seen.value)))
                .collect();
            values.join(", ")
        }
    };
    format!("op {number} of client {} at {} ms ({action} -> {outcome})", op.client, op.at / 1000)
}
