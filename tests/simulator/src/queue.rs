//! What is going to happen, in order of virtual time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Virtual microseconds since the run began: the true time, which no host
/// sees.
pub(crate) type Micros = u64;

struct Scheduled<E> {
    at: Micros,
    /// Breaks ties in order of scheduling, so that a run has one order only.
    number: u64,
    event: E,
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    /// The heap gives the greatest first, which is to be the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// A queue of events by time.
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Scheduled<E>>,
    next_number: u64,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Queue { heap: BinaryHeap::with_capacity(256), next_number: 0 }
    }

    pub(crate) fn push(&mut self, at: Micros, event: E) {
        self.heap.push(Scheduled { at, number: self.next_number, event });
        self.next_number += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<(Micros, E)> {
        self.heap.pop().map(|scheduled| (scheduled.at, scheduled.event))
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;

    #[test]
    fn earliest_first_and_ties_in_order_of_scheduling() {
        let mut queue = Queue::new();
        for (at, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b')] {
            queue.push(at, event);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [(1, 'a'), (3, 'b'), (5, 'c'), (5, 'd')]);
    }
}
