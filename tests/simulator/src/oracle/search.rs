//! The history of each key against any order that could explain it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use bytes::Bytes;
use common::memcached::{Reply, StoreVerb};
use linearizability::{Call as Times, Object};

use super::Violation;
use super::model::{Effect, step};
use super::witness::describe;
use crate::history::{Action, History, Key, Op, OpId, Outcome, Seen, Write};

/// Steps for one key before the search is given up as undecided: operations
/// without an outcome multiply the orders.
const STEPS: u64 = 200_000;

/// What came of a search.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// An order was found for every key.
    Linearizable,
    /// Not enough steps, for so many keys.
    Undecided(usize),
}

/// Checks every key of `history`. A get of several keys is taken as one get
/// for each: that they are one snapshot is the witness's part.
#[cfg(test)]
pub(crate) fn check(history: &History) -> Result<Verdict, Violation> {
    check_rounds(history, &[])
}

/// Checks every key of a `history` that comes in rounds: between two of them
/// stands one of the `reads` of everything, alone, so that nothing of the round
/// before has an effect after it. Each round is searched by itself: it begins with
/// what that read has seen, and ends with the next one.
pub(crate) fn check_rounds(history: &History, reads: &[OpId]) -> Result<Verdict, Violation> {
    let mut undecided = 0;
    let mut begin = 0;
    let mut initial: BTreeMap<Key, Bytes> = BTreeMap::new();
    let ends = reads.iter().map(|read| *read as usize + 1).chain([history.ops.len()]);
    for end in ends {
        for (key, calls) in by_key(history, begin..end) {
            undecided += usize::from(!search(history, key, &calls, initial.get(&key))?);
        }
        if let Some(Op {
            action: Action::Get { keys, .. }, outcome: Outcome::Values(seen), ..
        }) = end.checked_sub(1).and_then(|last| history.ops.get(last))
        {
            let held =
                |(key, seen): (&Key, &Option<Seen>)| Some((*key, seen.as_ref()?.value.clone()));
            initial = keys.iter().zip(seen).filter_map(held).collect();
        }
        begin = end;
    }
    Ok(if undecided == 0 { Verdict::Linearizable } else { Verdict::Undecided(undecided) })
}

/// Searches an order for the `calls` on one key. False: given up.
fn search(
    history: &History,
    key: Key,
    calls: &[Call<'_>],
    initial: Option<&Bytes>,
) -> Result<bool, Violation> {
    let times: Vec<_> = calls.iter().map(|call| call.times).collect();
    let mut register =
        Register { calls, values: vec![Bytes::new()], numbers: HashMap::new(), initial: 0 };
    register.initial = initial.map_or(0, |value| register.number(value.clone()));
    match linearizability::search(&times, &mut register, STEPS) {
        linearizability::Verdict::Linearizable => Ok(true),
        linearizability::Verdict::Undecided { .. } => Ok(false),
        linearizability::Verdict::Impossible { stuck } => {
            let op = calls[stuck].op;
            let what = describe(op, &history.ops[op as usize]);
            let count = calls.len();
            let what = format!("no order of the {count} operations on k{key}, up to {what}");
            Err(Violation::new("not linearizable", what))
        }
    }
}

/// An operation on one key.
struct Call<'a> {
    op: OpId,
    times: Times,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Read(Option<&'a Bytes>),
    Write { write: &'a Write, reply: Option<&'a Reply> },
}

fn by_key(history: &History, range: Range<usize>) -> BTreeMap<Key, Vec<Call<'_>>> {
    let mut keys: BTreeMap<Key, Vec<Call<'_>>> = BTreeMap::new();
    let mut last_of_batch: BTreeMap<(Key, u64), usize> = BTreeMap::new();
    for (number, op) in range.clone().zip(&history.ops[range]) {
        let mut add = |key: Key, kind| {
            let calls = keys.entry(key).or_default();
            let after = last_of_batch.insert((key, op.batch), calls.len());
            let times = Times { call: op.call, ret: op.ret, after };
            calls.push(Call { op: number as OpId, times, kind });
        };
        match (&op.action, &op.outcome) {
            (_, Outcome::NotExecuted) | (Action::Get { .. }, Outcome::Unknown) => {}
            (Action::Get { keys, .. }, Outcome::Values(values)) => {
                for (key, seen) in keys.iter().zip(values) {
                    add(*key, Kind::Read(seen.as_ref().map(|seen| &seen.value)));
                }
            }
            (Action::Get { .. }, Outcome::Replied(_)) => {}
            (Action::Write { key, write }, outcome) => {
                let reply = match outcome {
                    Outcome::Replied(reply) => Some(reply),
                    _ => None,
                };
                add(*key, Kind::Write { write, reply });
            }
        }
    }
    keys
}

/// What a key holds: the number of a value, 0 for none.
type State = u32;

/// One key, and what was asked of it.
struct Register<'a> {
    calls: &'a [Call<'a>],
    values: Vec<Bytes>,
    numbers: HashMap<Bytes, State>,
    /// What the key holds at first.
    initial: State,
}

impl Register<'_> {
    fn number(&mut self, value: Bytes) -> State {
        let values = &mut self.values;
        *self.numbers.entry(value).or_insert_with_key(|value| {
            values.push(value.clone());
            values.len() as State - 1
        })
    }
}

impl Object for Register<'_> {
    type State = State;

    fn initial(&self) -> State {
        self.initial
    }

    fn step(&mut self, call: usize, state: &State) -> Option<State> {
        let call = &self.calls[call];
        let value = self.values[*state as usize].clone();
        let value = (*state != 0).then_some(&value);
        match &call.kind {
            Kind::Read(seen) => (*seen == value).then_some(*state),
            Kind::Write { write, reply } => {
                let outcomes = possible(value, call.op, write);
                let (_, effect) =
                    outcomes.into_iter().find(|(r, _)| reply.is_none_or(|told| told == r))?;
                Some(match effect {
                    Effect::Nothing => *state,
                    Effect::Remove => 0,
                    Effect::Put { value, .. } => self.number(value),
                })
            }
        }
    }
}

/// What a write may answer and do. Tokens of cas are the witness's part: here
/// a token means the value that it came with. A number can come back with
/// another token, so that the refusal of a number proves nothing.
fn possible(value: Option<&Bytes>, op: OpId, write: &Write) -> Vec<(Reply, Effect)> {
    let old = value.map(|value| (value, 0));
    let Write::Store { verb: StoreVerb::Cas(_), expected, .. } = write else {
        return vec![step(old, op, write, false)];
    };
    let same = value.is_some() && value == expected.as_ref();
    let is_number = value.is_some_and(|value| value.iter().all(u8::is_ascii_digit));
    let mut outcomes = vec![step(old, op, write, same)];
    if same && is_number {
        outcomes.push(step(old, op, write, false));
    }
    outcomes
}
