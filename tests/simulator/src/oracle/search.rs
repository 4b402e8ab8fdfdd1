//! The history of each key against any order that could explain it: the
//! algorithm of Wing and Gong (1993) with the memory of Lowe (2017).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use bytes::Bytes;
use common::memcached::{Reply, StoreVerb};

use super::Violation;
use super::model::{Effect, step};
use super::witness::describe;
use crate::history::{Action, History, Key, Moment, Op, OpId, Outcome, Seen, Write};

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
            match Search::new(&calls, initial.get(&key)).run() {
                Some(true) => {}
                None => undecided += 1,
                Some(false) => {
                    let last = calls.iter().max_by_key(|call| call.op);
                    let what = last.map_or(String::new(), |call| {
                        describe(call.op, &history.ops[call.op as usize])
                    });
                    let count = calls.len();
                    let what =
                        format!("no order of the {count} operations on k{key}, up to {what}");
                    return Err(Violation::new("not linearizable", what));
                }
            }
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

/// An operation on one key.
struct Call<'a> {
    op: OpId,
    call: Moment,
    ret: Option<Moment>,
    /// The operation of the same batch before this one.
    after: Option<usize>,
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
            calls.push(Call { op: number as OpId, call: op.call, ret: op.ret, after, kind });
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

#[derive(Clone, Copy)]
enum Point {
    Call(usize),
    Return(usize),
}

struct Search<'a> {
    calls: &'a [Call<'a>],
    /// Calls and returns in order of time, as a list that operations are
    /// taken out of while they are tried.
    points: Vec<Point>,
    next: Vec<usize>,
    previous: Vec<usize>,
    return_of: Vec<Option<usize>>,
    done: Vec<u64>,
    values: Vec<Bytes>,
    numbers: HashMap<Bytes, State>,
    /// What the key holds at first.
    initial: State,
    steps: u64,
}

impl<'a> Search<'a> {
    fn new(calls: &'a [Call<'a>], initial: Option<&Bytes>) -> Self {
        let mut order: Vec<(Moment, Point)> = Vec::with_capacity(calls.len() * 2);
        for (position, call) in calls.iter().enumerate() {
            order.push((call.call, Point::Call(position)));
            order.extend(call.ret.map(|ret| (ret, Point::Return(position))));
        }
        order.sort_by_key(|(moment, _)| *moment);
        let points: Vec<Point> = order.into_iter().map(|(_, point)| point).collect();
        let mut return_of = vec![None; calls.len()];
        for (at, point) in points.iter().enumerate() {
            if let Point::Return(position) = point {
                return_of[*position] = Some(at + 1);
            }
        }
        // Position 0 is the head of the list, the last one its end.
        let count = points.len();
        Search {
            calls,
            points,
            next: (1..=count + 1).chain([count + 1]).collect(),
            previous: [0].into_iter().chain(0..=count).collect(),
            return_of,
            done: vec![0; calls.len().div_ceil(64)],
            values: [Bytes::new()].into_iter().chain(initial.cloned()).collect(),
            numbers: initial.map(|value| (value.clone(), 1)).into_iter().collect(),
            initial: State::from(initial.is_some()),
            steps: 0,
        }
    }

    /// Whether there is an order; `None` when that took too many steps.
    fn run(mut self) -> Option<bool> {
        let end = self.points.len() + 1;
        let mut seen: BTreeSet<(Vec<u64>, State)> = BTreeSet::new();
        let mut trail: Vec<(usize, State)> = Vec::new();
        let mut state = self.initial;
        let mut at = self.next[0];
        loop {
            self.steps += 1;
            if self.steps > STEPS {
                return None;
            }
            if at == end {
                // Whatever is still open has no answer that must be explained,
                // unless a call is in the way of its own return.
                return Some(true);
            }
            match self.points[at - 1] {
                Point::Call(position) => {
                    if let Some(after) = self.try_call(position, state) {
                        self.done[position / 64] |= 1 << (position % 64);
                        if seen.insert((self.done.clone(), after)) {
                            trail.push((at, state));
                            state = after;
                            self.take_out(at, position);
                            at = self.next[0];
                            continue;
                        }
                        self.done[position / 64] &= !(1 << (position % 64));
                    }
                    at = self.next[at];
                }
                // It had to take effect before this, and could not: back.
                Point::Return(_) => {
                    let Some((last, before)) = trail.pop() else { return Some(false) };
                    let Point::Call(position) = self.points[last - 1] else { return Some(false) };
                    state = before;
                    self.done[position / 64] &= !(1 << (position % 64));
                    self.put_back(last, position);
                    at = self.next[last];
                }
            }
        }
    }

    /// The state behind the operation, if it can come next.
    fn try_call(&mut self, position: usize, state: State) -> Option<State> {
        let call = &self.calls[position];
        let is_done = |position: usize| self.done[position / 64] & (1 << (position % 64)) != 0;
        if call.after.is_some_and(|before| self.calls[before].ret.is_some() && !is_done(before)) {
            return None;
        }
        let value = self.values[state as usize].clone();
        let value = (state != 0).then_some(&value);
        match &call.kind {
            Kind::Read(seen) => (*seen == value).then_some(state),
            Kind::Write { write, reply } => {
                let outcomes = possible(value, call.op, write);
                let (_, effect) =
                    outcomes.into_iter().find(|(r, _)| reply.is_none_or(|told| told == r))?;
                Some(match effect {
                    Effect::Nothing => state,
                    Effect::Remove => 0,
                    Effect::Put { value, .. } => self.number(value),
                })
            }
        }
    }

    fn number(&mut self, value: Bytes) -> State {
        let values = &mut self.values;
        *self.numbers.entry(value).or_insert_with_key(|value| {
            values.push(value.clone());
            values.len() as State - 1
        })
    }

    fn take_out(&mut self, at: usize, position: usize) {
        self.unlink(at);
        if let Some(at) = self.return_of[position] {
            self.unlink(at);
        }
    }

    fn put_back(&mut self, at: usize, position: usize) {
        if let Some(at) = self.return_of[position] {
            self.link(at);
        }
        self.link(at);
    }

    fn unlink(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn link(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        self.next[previous] = at;
        self.previous[next] = at;
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
