//! When requests are due, and waking up for it.
//!
//! epoll waits in whole milliseconds, too coarse for a schedule of many
//! thousand requests per second: on Linux a timer descriptor wakes the loop.

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
    armed_for: Option<Instant>,
    #[cfg(target_os = "linux")]
    timer: nix::sys::timerfd::TimerFd,
}

impl Pace {
    pub(crate) fn new(rate: f64, poll: &Poll) -> io::Result<Self> {
        #[cfg(not(target_os = "linux"))]
        let _ = poll;
        Ok(Pace {
            started: Instant::now(),
            interval_ns: 1e9 / rate,
            issued: 0,
            #[cfg(target_os = "linux")]
            armed_for: None,
            #[cfg(target_os = "linux")]
            timer: linux::timer(poll)?,
        })
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

    /// Sees to it that the loop wakes when the next request is due; gives
    /// the time to wait where no timer does it.
    #[cfg(target_os = "linux")]
    pub(crate) fn arm(&mut self, now: Instant) -> io::Result<Option<Duration>> {
        let due = self.next_due();
        if self.armed_for != Some(due) {
            linux::arm(&self.timer, due.saturating_duration_since(now))?;
            self.armed_for = Some(due);
        }
        Ok(None)
    }

    /// See above.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn arm(&mut self, now: Instant) -> io::Result<Option<Duration>> {
        Ok(Some(self.next_due().saturating_duration_since(now)))
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

    pub(super) fn timer(poll: &Poll) -> io::Result<TimerFd> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let descriptor = timer.as_fd().as_raw_fd();
        poll.registry().register(&mut SourceFd(&descriptor), TIMER, Interest::READABLE)?;
        Ok(timer)
    }

    /// Zero would disarm it.
    pub(super) fn arm(timer: &TimerFd, wait: Duration) -> io::Result<()> {
        let wait = TimeSpec::from_duration(wait.max(Duration::from_nanos(1)));
        timer.set(Expiration::OneShot(wait), TimerSetTimeFlags::empty())?;
        Ok(())
    }
}
