//! Whether some order explains what the clients of one object were told: the
//! algorithm of Wing and Gong (1993) with the memory of Lowe (2017).
//!
//! An object is anything that answers calls by its state alone; what it is and
//! what its calls are, the caller says by an [`Object`]. Linearizability is
//! local (Herlihy and Wing 1990, theorem 1): the keys of a store are searched
//! one by one.
//!
//! A call without a return may take effect at any time after it was made, or
//! never. Such calls multiply the orders; they are tried only where nothing
//! else explains an answer, and not at all once every answer is explained.

mod done;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::hash::Hash;

use done::Done;

/// What the calls are made on.
pub trait Object {
    /// All that an answer depends on. Cheap to copy: it is kept for each
    /// place that the search has been at.
    type State: Clone + Eq + Hash;

    /// The state before the first call.
    fn initial(&self) -> Self::State;

    /// The state behind call number `call`, if that may come next: if its
    /// answer, where there is one, is what the object says in `state`.
    fn step(&mut self, call: usize, state: &Self::State) -> Option<Self::State>;
}

/// When a call was made and answered, in any unit. What was answered at the
/// moment when something else was called counts as concurrent with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// When it was made.
    pub call: u64,
    /// When its answer came; `None`: it may take effect at any time, or never.
    pub ret: Option<u64>,
    /// The call that this one must follow if that has an answer: the one
    /// before it in a pipeline.
    pub after: Option<usize>,
}

/// What came of a search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none. The answers up to that of call number `stuck` can be
    /// explained in some way, that one with them in none.
    Impossible {
        /// The call with the first answer that cannot be explained.
        stuck: usize,
    },
    /// The search was given up after so many steps as it was allowed.
    Undecided {
        /// The furthest answer that was in the way.
        stuck: usize,
    },
}

/// Searches for an order of `calls`, for at most so many steps.
pub fn search<O: Object>(calls: &[Call], object: &mut O, steps: u64) -> Verdict {
    Search::new(calls, object.initial()).run(object, steps)
}

#[derive(Clone, Copy)]
enum Point {
    Call(usize),
    Return(usize),
}

/// Where the next candidate is.
#[derive(Clone, Copy)]
enum At {
    /// This point, of calls that are answered.
    Answered(usize),
    /// This one of the open calls, before the return at this point.
    Open { place: usize, before: usize },
}

/// What was tried, and where the state was before that.
struct Tried<S> {
    at: At,
    call: usize,
    state: S,
}

struct Search<'a, S> {
    calls: &'a [Call],
    /// Calls and returns of answered calls in order of time, as a list that
    /// calls are taken out of while they are tried. Position 0 is the head of
    /// the list, the last one its end.
    points: Vec<Point>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// The position of a call's return in the list.
    return_at: Vec<usize>,
    /// Calls without an answer, in order of time.
    open: Vec<usize>,
    done: Done,
    state: S,
    seen: HashSet<(Box<[u64]>, S)>,
    trail: Vec<Tried<S>>,
    /// The last return that was in the way of everything.
    furthest: usize,
}

impl<'a, S: Clone + Eq + Hash> Search<'a, S> {
    fn new(calls: &'a [Call], state: S) -> Self {
        let mut order: Vec<(u64, bool, usize)> = Vec::with_capacity(calls.len() * 2);
        let mut open: Vec<usize> = Vec::new();
        for (number, call) in calls.iter().enumerate() {
            match call.ret {
                Some(ret) => order.extend([(call.call, false, number), (ret, true, number)]),
                None => open.push(number),
            }
        }
        order.sort_unstable();
        open.sort_unstable_by_key(|number| calls[*number].call);
        let mut return_at = vec![0; calls.len()];
        let mut points = Vec::with_capacity(order.len());
        let mut answered = Vec::with_capacity(calls.len());
        for (_, is_return, number) in order {
            points.push(if is_return { Point::Return(number) } else { Point::Call(number) });
            match is_return {
                true => return_at[number] = points.len(),
                false => answered.push(number),
            }
        }
        let count = points.len();
        Search {
            calls,
            points,
            next: (1..=count + 1).chain([count + 1]).collect(),
            previous: [0].into_iter().chain(0..=count).collect(),
            return_at,
            done: Done::new(calls.len(), &answered, &open),
            open,
            state,
            seen: HashSet::new(),
            trail: Vec::new(),
            furthest: 0,
        }
    }

    fn run(mut self, object: &mut impl Object<State = S>, steps: u64) -> Verdict {
        let end = self.points.len() + 1;
        let mut at = At::Answered(self.next[0]);
        for _ in 0..steps {
            at = match at {
                // Whatever is still open has no answer that must be explained.
                At::Answered(point) if point == end => return Verdict::Linearizable,
                At::Answered(point) => match self.points[point - 1] {
                    Point::Call(call) => match self.try_call(object, at, call) {
                        true => At::Answered(self.next[0]),
                        false => At::Answered(self.next[point]),
                    },
                    // It had to take effect before this, and could not.
                    Point::Return(_) => {
                        self.furthest = self.furthest.max(point);
                        At::Open { place: 0, before: point }
                    }
                },
                At::Open { place, before } => match self.open_call(place, before) {
                    Some(call) => match !self.done.has(call) && self.try_call(object, at, call) {
                        true => At::Answered(self.next[0]),
                        false => At::Open { place: place + 1, before },
                    },
                    None => match self.back() {
                        Some(at) => at,
                        None => return Verdict::Impossible { stuck: self.stuck() },
                    },
                },
            };
        }
        Verdict::Undecided { stuck: self.stuck() }
    }

    fn stuck(&self) -> usize {
        match self.points.get(self.furthest.saturating_sub(1)) {
            Some(Point::Return(call) | Point::Call(call)) => *call,
            None => 0,
        }
    }

    /// The open call at `place`, if it was made before the return at `before`.
    fn open_call(&self, place: usize, before: usize) -> Option<usize> {
        let Point::Return(returns) = self.points[before - 1] else { return None };
        let call = *self.open.get(place)?;
        (Some(self.calls[call].call) <= self.calls[returns].ret).then_some(call)
    }

    /// Lets `call` come next, if it can and this has not been tried before.
    fn try_call(&mut self, object: &mut impl Object<State = S>, at: At, call: usize) -> bool {
        let waits = |before: usize| self.calls[before].ret.is_some() && !self.done.has(before);
        if self.calls[call].after.is_some_and(waits) {
            return false;
        }
        let Some(after) = object.step(call, &self.state) else { return false };
        self.done.set(call);
        if !self.seen.insert((self.done.key(), after.clone())) {
            self.done.unset(call);
            return false;
        }
        let state = std::mem::replace(&mut self.state, after);
        self.trail.push(Tried { at, call, state });
        if let At::Answered(point) = at {
            self.unlink(point);
            self.unlink(self.return_at[call]);
        }
        true
    }

    /// Takes back what was tried last; the candidate behind it.
    fn back(&mut self) -> Option<At> {
        let Tried { at, call, state } = self.trail.pop()?;
        self.state = state;
        self.done.unset(call);
        Some(match at {
            At::Answered(point) => {
                self.link(self.return_at[call]);
                self.link(point);
                At::Answered(self.next[point])
            }
            At::Open { place, before } => At::Open { place: place + 1, before },
        })
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
