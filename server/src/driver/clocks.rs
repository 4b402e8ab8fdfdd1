//! The clock that entries carry, and wall clocks that are far from it.
//!
//! The replicated clock goes where the furthest clock of any leader has been,
//! and stays there until the others are there, too. Nothing that is promised
//! rests on it but when sessions end (`keystore/sessions.rs`); but whoever runs
//! a cluster should know. So a server says once in its log
//!
//! - that its clock is far behind the replicated one: it is wrong itself, or that
//!   of an earlier leader was;
//! - when it begins to lead, that its clock is far ahead of those that led
//!   before: it is about to move the replicated clock. It knows that by entries
//!   that came one after the other as time passed here; how old an entry is that
//!   came alone, nobody can tell.
//!
//! `stats` has how far behind it is, as `clock_behind_ms`.

use raft::Time;

use super::{Driver, Now};
use crate::command::Command;
use crate::keystore::PlantedBug;

/// From so much on a clock is far from another one, in milliseconds.
const FAR_MS: i64 = 60_000;

/// A clock is well again when it is nearer than this.
const NEAR_MS: i64 = 30_000;

/// Entries have to come for so long to tell a leader's clock; microseconds.
const PACE_US: Time = 30_000_000;

/// Meanwhile the two clocks go alike but for this, in milliseconds.
const PACE_MS: i64 = 10_000;

/// What this server knows of its wall clock and others.
#[derive(Default)]
pub(super) struct Clocks {
    /// How far the wall clock is behind the replicated one, or ahead of it if
    /// that is negative, milliseconds.
    behind_ms: i64,
    is_behind: bool,
    /// By how much this clock was ahead of the leader's at some time.
    first: Option<(Time, i64)>,
    /// By how much it is, as far as that is certain.
    ahead_ms: Option<i64>,
}

impl Clocks {
    pub(super) fn behind_ms(&self) -> i64 {
        self.behind_ms.max(0)
    }

    /// Compares with the replicated clock. Whether it is found to be far behind
    /// now, and was not before.
    fn compare(&mut self, replicated_ms: u64, now: Now) -> bool {
        self.behind_ms = difference(replicated_ms, now.wall_ms);
        let was_behind = self.is_behind;
        self.is_behind = self.behind_ms > if was_behind { NEAR_MS } else { FAR_MS };
        self.is_behind && !was_behind
    }

    /// Another leader stamped an entry with this.
    fn hear(&mut self, stamp_ms: u64, now: Now) {
        let ahead_ms = difference(now.wall_ms, stamp_ms);
        match self.first {
            Some((at, first)) if ahead_ms.abs_diff(first) <= PACE_MS as u64 => {
                if now.mono_us >= at.saturating_add(PACE_US) {
                    self.ahead_ms = Some(ahead_ms);
                    self.first = Some((now.mono_us, ahead_ms));
                }
            }
            _ => (self.first, self.ahead_ms) = (Some((now.mono_us, ahead_ms)), None),
        }
    }

    /// How far it is ahead of those that led before, if that is known and much.
    fn far_ahead(&self) -> Option<i64> {
        self.ahead_ms.filter(|ahead_ms| *ahead_ms > FAR_MS)
    }

    /// This server begins to lead.
    pub(super) fn leads(&mut self, replicated_ms: u64, now: Now) {
        if let Some(ahead_ms) = self.far_ahead().filter(|_| now.wall_ms > replicated_ms) {
            tracing::warn!(
                ahead_s = ahead_ms / 1000,
                "this server leads now, and its clock is far ahead of those that led before: \
                 sessions of clients end early, and none expires until the other clocks are there. \
                 Set the clock of this machine"
            );
        }
        (self.first, self.ahead_ms) = (None, None);
    }
}

fn difference(one_ms: u64, other_ms: u64) -> i64 {
    let wide = i128::from(one_ms) - i128::from(other_ms);
    wide.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

impl Driver {
    /// The clock for entries that are proposed now. It never goes back along the
    /// log: not behind what was applied, nor behind what this server's log
    /// holds of an earlier leader and is not applied yet.
    pub(super) fn advance_clock(&mut self, now: Now) {
        self.clock_ms = self.clock_ms.max(now.wall_ms);
        if let Some(newest) = self.node.newest_command()
            && let Ok(clock_ms) = Command::clock_of(&newest.0)
            && !self.keystore.has(PlantedBug::StampGoesBack)
        {
            self.clock_ms = self.clock_ms.max(clock_ms);
        }
    }

    /// An entry with this stamp was applied.
    pub(super) fn hear_clock(&mut self, now: Now, stamp_ms: u64) {
        self.clock_ms = self.clock_ms.max(stamp_ms);
        if !self.node.is_leader() {
            self.clocks.hear(stamp_ms, now);
        }
    }

    /// Compares this server's clock with the replicated one.
    pub(super) fn compare_clocks(&mut self, now: Now) {
        let replicated_ms = self.keystore.clock_ms();
        if self.clocks.compare(replicated_ms, now) {
            tracing::warn!(
                behind_s = self.clocks.behind_ms / 1000,
                "the clock of this machine is far behind that of the entries: it is wrong, or that \
                 of a server that led before was. Sessions of clients do not expire until it is \
                 there. Set the clocks"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Now = Now { mono_us: 5_000_000, wall_ms: 1_700_000_000_000 };

    fn after(seconds: u64) -> Now {
        Now {
            mono_us: START.mono_us + seconds * 1_000_000,
            wall_ms: START.wall_ms + seconds * 1_000,
        }
    }

    #[test]
    fn a_clock_that_is_far_behind_is_said_once_each_time() {
        let mut clocks = Clocks::default();
        assert!(!clocks.compare(START.wall_ms + 60_000, START));
        assert!(clocks.compare(START.wall_ms + 60_001, START));
        assert_eq!(clocks.behind_ms(), 60_001);
        assert!(!clocks.compare(START.wall_ms + 90_000, START));
        // About as far as it was first: that is no news.
        assert!(!clocks.compare(START.wall_ms + 90_000, after(40)));
        assert!(!clocks.compare(START.wall_ms + 90_001, START));
        assert!(!clocks.compare(START.wall_ms, after(1)));
        assert_eq!(clocks.behind_ms(), 0, "it is ahead");
        assert!(clocks.compare(START.wall_ms + 3_600_000, after(2)));
    }

    #[test]
    fn how_far_it_is_ahead_takes_entries_that_come_as_time_passes() {
        let mut clocks = Clocks::default();
        let stamp = |now: Now| now.wall_ms - 600_000;
        for second in 0..30 {
            clocks.hear(stamp(after(second)), after(second));
            assert_eq!(clocks.far_ahead(), None);
        }
        clocks.hear(stamp(after(30)), after(30));
        assert_eq!(clocks.far_ahead(), Some(600_000));
        // The other one's is set right.
        clocks.hear(after(31).wall_ms, after(31));
        assert_eq!(clocks.far_ahead(), None);
    }

    #[test]
    fn entries_of_long_ago_say_nothing_about_a_clock() {
        let mut clocks = Clocks::default();
        // One alone, and then another, much later.
        clocks.hear(START.wall_ms - 3_600_000, START);
        clocks.hear(after(3_600).wall_ms - 5, after(3_600));
        assert_eq!(clocks.far_ahead(), None);
        // A backlog, of a day in a minute.
        for second in 0..60 {
            clocks.hear(START.wall_ms - 86_400_000 + second * 1_440_000, after(4_000 + second));
            assert_eq!(clocks.far_ahead(), None);
        }
        // A clock that stands still.
        for second in 0..600 {
            clocks.hear(START.wall_ms, after(5_000 + second));
            assert_eq!(clocks.far_ahead(), None);
        }
    }

    #[test]
    fn no_clock_is_too_large() {
        let mut clocks = Clocks::default();
        clocks.compare(u64::MAX, START);
        assert_eq!(clocks.behind_ms(), i64::MAX);
        clocks.hear(u64::MAX, START);
        clocks.hear(0, Now { wall_ms: u64::MAX, ..START });
        assert_eq!(clocks.far_ahead(), None);
    }
}
