//! When requests are due, and waking up for it.
//!
//! epoll waits in whole milliseconds, too coarse for a schedule of many
//! thousand requests per second: on Linux a periodic timer descriptor wakes
//! the loop. It starts its next period when it is read.

use std::io;
use std::time::{Duration, Instant};

use mio::{Poll, Token};

/// The token of the timer.
pub(crate) const TIMER: Token = Token(usize::MAX);

/// A schedule of equally spaced requests.
#[derive(Debug)]
pub(crate) struct Pace {
    started: Instant,
    interval_ns: f64,
    issued: u64,
    #[cfg(target_os = "linux")]
    timer: nix::sys::timerfd::TimerFd,
}

impl Pace {
    pub(crate) fn new(rate: f64, poll: &Poll) -> io::Result<Self> {
        #[cfg(not(target_os = "linux"))]
        let _ = poll;
        let interval_ns = 1e9 / rate;
        Ok(Pace {
            started: Instant::now(),
            interval_ns,
            issued: 0,
            #[cfg(target_os = "linux")]
            timer: linux::ticks(Duration::from_nanos(interval_ns as u64), poll)?,
        })
    }

    /// The first request is due at `begin`.
    pub(crate) fn start(&mut self, begin: Instant) {
        self.started = begin;
    }

    /// When the next request is due.
    pub(crate) fn next_due(&self) -> Instant {
        self.started + Duration::from_nanos((self.issued as f64 * self.interval_ns) as u64)
    }

    /// Takes the next request if it is due: the time it was due.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next_due();
        if due > now {
            return None;
        }
        self.issued += 1;
        Some(due)
    }

    /// How long to wait where no timer wakes the loop.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        (!cfg!(target_os = "linux")).then(|| self.next_due().saturating_duration_since(now))
    }

    /// To be called when the loop woke for [`TIMER`].
    pub(crate) fn ticked(&self) {
        // Not yet expired again: nothing to read, the next tick comes.
        #[cfg(target_os = "linux")]
        let _ = self.timer.wait();
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::{AsFd, AsRawFd};
    use std::time::Duration;

    use mio::unix::SourceFd;
    use mio::{Interest, Poll};
    use nix::sys::time::TimeSpec;
    use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

    use super::TIMER;

    /// Not finer than this: a wake-up costs more than it makes precise.
    const FINEST: Duration = Duration::from_micros(50);

    pub(super) fn ticks(interval: Duration, poll: &Poll) -> io::Result<TimerFd> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let descriptor = timer.as_fd().as_raw_fd();
        poll.registry().register(&mut SourceFd(&descriptor), TIMER, Interest::READABLE)?;
        let interval = TimeSpec::from_duration(interval.max(FINEST));
        timer.set(Expiration::Interval(interval), TimerSetTimeFlags::empty())?;
        Ok(timer)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use mio::Events;

    use super::*;

    #[test]
    fn the_timer_ticks_again_and_again() {
        let mut poll = Poll::new().unwrap();
        let mut pace = Pace::new(2000.0, &poll).unwrap();
        let mut events = Events::with_capacity(4);
        for _ in 0..5 {
            poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
            assert!(events.iter().any(|event| event.token() == TIMER));
            pace.ticked();
        }
        // Five ticks of half a millisecond, and the request that is due at the start.
        let now = Instant::now();
        assert!((0..6).all(|_| pace.take(now).is_some()));
    }
}
