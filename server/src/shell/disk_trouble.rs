//! A disk that is full, or fails.
//!
//! Full: nothing of a batch was written, so it waits and is tried again, and
//! everything that needs no disk goes on. A leader refuses writes, and hands
//! leadership to a server whose disk takes them, if there is proof of one.
//! Failed: what a failed write or sync left behind cannot be known, so the
//! process drops everything and begins again with what the disk says.

use std::time::{Duration, Instant};

use common::control::Trouble;

use super::member::Member;
use crate::driver::Now;

/// Between two attempts to hand leadership over.
const HAND_OVER_EVERY: Duration = Duration::from_secs(1);

/// The log-file cannot be written any more. [`run`](crate::run) ends with
/// this; whoever called it may call it again, and the server recovers from
/// what is on its disk and from the others.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0}; what a failed write left behind cannot be known, so nothing more is built on it: \
     check the disk; a start recovers from what it holds, and from the other servers"
)]
pub struct DiskFailed(pub(super) String);

#[derive(Default)]
pub(super) struct DiskTrouble {
    full: bool,
    handed_over: Option<Instant>,
}

impl Member {
    /// There is no room for what is to be written.
    pub(super) fn disk_full(&mut self, error: &str) {
        if !std::mem::replace(&mut self.disk.full, true) {
            tracing::error!(
                error,
                "the disk is full: writes are refused, reads go on; it is tried again until there \
                 is room"
            );
            self.note_trouble();
        }
    }

    /// Something was written.
    pub(super) fn room_found(&mut self) {
        if std::mem::take(&mut self.disk.full) {
            tracing::info!("the disk has room again: writes go on");
            self.note_trouble();
        }
    }

    pub(super) fn note_trouble(&mut self) {
        let trouble = match () {
            () if self.disk.full => Some(Trouble::DiskFull),
            () if self.checkpoints.failed() => Some(Trouble::NoCheckpoint),
            () => None,
        };
        self.driver.set_trouble(trouble);
        self.report(true);
    }

    /// A leader whose disk is full hands over when something is committed that
    /// its own disk does not have: then a majority without it has room.
    pub(super) fn hand_over_if_full(&mut self, now: Now) {
        if !self.disk.full || !self.driver.is_leader() {
            return;
        }
        let status = self.driver.node().status();
        let tried = self.disk.handed_over.is_some_and(|at| at.elapsed() < HAND_OVER_EVERY);
        if status.commit > status.durable && !tried {
            self.disk.handed_over = Some(Instant::now());
            match self.driver.transfer(now, None) {
                Ok(()) => tracing::warn!("leadership is handed over: this server's disk is full"),
                Err(error) => tracing::info!(%error, "leadership stays here"),
            }
        }
    }

    /// Tells those who read the log-file how far it is committed. Only a hint:
    /// without room for it it is left out.
    pub(super) fn note_commit(&mut self) -> Result<(), DiskFailed> {
        let commit = self.driver.node().commit();
        self.log.note_commit(commit).map_err(|error| DiskFailed(error.to_string()))
    }
}
