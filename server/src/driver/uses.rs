//! Which sessions were used lately, as the leader knows it by itself: which
//! entry it had applied at which time of its monotonic clock. No clock on a
//! wall has a part in that, its own, those of others or the replicated one.
//!
//! A leader knows nothing of the time before its term. It takes what was used
//! then as used when it began to lead, and so spares every session for its
//! first seconds.

use std::collections::VecDeque;

use raft::{Index, Term, Time};

use super::{Driver, Now};

/// Times are told apart in so many steps of the span that is asked about.
const STEPS: Time = 10;

/// The index of the last entry applied, over the last moments.
#[derive(Default)]
pub(super) struct Uses {
    /// Of what follows.
    term: Term,
    /// What had been applied at the end of each step in which something was,
    /// oldest first.
    steps: VecDeque<(Time, Index)>,
    /// What was applied last, and when.
    last: (Time, Index),
}

impl Uses {
    fn begin(&mut self, term: Term, now: Time, applied: Index) {
        *self = Uses { term, steps: VecDeque::new(), last: (now, applied) };
    }

    fn note(&mut self, now: Time, index: Index, span: Time) {
        let step = (span / STEPS).max(1);
        if now / step != self.last.0 / step {
            self.steps.push_back(self.last);
            // Of those that are old enough to be asked for, the newest will do.
            while self.steps.get(1).is_some_and(|(at, _)| at.saturating_add(span) <= now) {
                self.steps.pop_front();
            }
        }
        self.last = (now, index);
    }

    /// The last entry that was applied `span` ago or before, but for one step.
    /// `None`: nobody here knows.
    fn applied_before(&self, now: Time, span: Time) -> Option<Index> {
        let known = self.steps.iter().chain([&self.last]).rev();
        known.copied().find(|(at, _)| at.saturating_add(span) <= now).map(|(_, index)| index)
    }
}

impl Driver {
    fn spared_us(&self) -> Time {
        self.keystore.sessions().limits().spared_us
    }

    /// Takes note that this server leads, if it does.
    pub(super) fn note_leading(&mut self, now: Now) {
        let term = self.node.term();
        if self.node.is_leader() && self.uses.term != term {
            self.uses.begin(term, now.mono_us, self.keystore.applied());
            self.clocks.leads(self.clock_ms, now);
        }
    }

    /// Takes note of a command that was applied just now.
    pub(super) fn note_use(&mut self, now: Now, index: Index) {
        if self.node.is_leader() {
            let span = self.spared_us();
            self.note_leading(now);
            self.uses.note(now.mono_us, index, span);
        }
    }

    /// Sessions whose last use is an entry behind this one were used lately;
    /// `None`: all of them may have been.
    pub(super) fn used_lately_behind(&mut self, now: Now) -> Option<Index> {
        self.note_leading(now);
        self.uses.applied_before(now.mono_us, self.spared_us())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Time = 1_000;

    fn led_from(now: Time, applied: Index) -> Uses {
        let mut uses = Uses::default();
        uses.begin(1, now, applied);
        uses
    }

    #[test]
    fn what_was_before_the_term_counts_from_its_beginning() {
        let uses = led_from(5_000, 70);
        assert_eq!(uses.applied_before(5_999, SPAN), None);
        assert_eq!(uses.applied_before(6_000, SPAN), Some(70));
        assert_eq!(led_from(0, 70).applied_before(999, SPAN), None, "the clock has just begun");
    }

    #[test]
    fn what_was_applied_is_known_to_one_step() {
        let mut uses = led_from(0, 0);
        for index in 1..=10_000 {
            uses.note(index * 7, index, SPAN);
            let now = index * 7 + 3;
            let Some(behind) = uses.applied_before(now, SPAN) else { continue };
            assert!(behind * 7 + SPAN <= now, "{behind} was used lately at {now}");
            assert!(behind * 7 + SPAN + 2 * SPAN / STEPS > now, "{behind} is long ago at {now}");
            assert!(uses.steps.len() as Time <= STEPS + 2);
        }
    }

    #[test]
    fn nothing_is_used_lately_after_a_rest() {
        let mut uses = led_from(0, 0);
        for index in 1..=50 {
            uses.note(100_000 + index, index, SPAN);
        }
        assert_eq!(uses.applied_before(101_049, SPAN), Some(0));
        assert_eq!(uses.applied_before(101_050, SPAN), Some(50));
        // One write after a long time says when the ones before it were not.
        uses.note(200_000, 51, SPAN);
        assert_eq!(uses.applied_before(200_001, SPAN), Some(50));
        assert_eq!(uses.applied_before(201_000, SPAN), Some(51));
    }
}
