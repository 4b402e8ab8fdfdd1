//! The clocks of a host, which need not agree with anybody's.

use server::driver::Now;

use crate::queue::Micros;

/// Unix time at the beginning of every run.
const EPOCH_MS: u64 = 1_750_000_000_000;

/// A monotonic clock with a rate, and a wall clock with an offset.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// True time of the last change of rate, and what the clock showed then.
    since: Micros,
    shown: u64,
    /// Shown microseconds in a million true ones.
    rate_ppm: u64,
    wall_offset_ms: i64,
}

impl Clock {
    pub(crate) fn new(origin: u64) -> Self {
        Clock { since: 0, shown: origin, rate_ppm: 1_000_000, wall_offset_ms: 0 }
    }

    /// What the host sees at the true time `at`.
    pub(crate) fn now(&self, at: Micros) -> Now {
        let mono_us = self.shown + (at - self.since) * self.rate_ppm / 1_000_000;
        let wall = (EPOCH_MS + at / 1000).saturating_add_signed(self.wall_offset_ms);
        Now { mono_us, wall_ms: wall }
    }

    /// The first true time at which the clock shows at least `mono_us`.
    pub(crate) fn when(&self, mono_us: u64) -> Micros {
        let ahead = mono_us.saturating_sub(self.shown);
        self.since.saturating_add(ahead.saturating_mul(1_000_000).div_ceil(self.rate_ppm))
    }

    pub(crate) fn set_rate(&mut self, at: Micros, rate_ppm: u64) {
        self.shown = self.now(at).mono_us;
        self.since = at;
        self.rate_ppm = rate_ppm;
    }

    pub(crate) fn jump_wall(&mut self, by_ms: i64) {
        self.wall_offset_ms = self.wall_offset_ms.saturating_add(by_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn when_is_the_inverse_of_now() {
        let mut clock = Clock::new(500);
        clock.set_rate(1_000, 1_040_000);
        assert_eq!(clock.now(1_000).mono_us, 1_500);
        for mono_us in [1_501, 2_000, 123_457] {
            let at = clock.when(mono_us);
            assert!(clock.now(at).mono_us >= mono_us);
            assert!(clock.now(at - 1).mono_us < mono_us);
        }
    }
}
