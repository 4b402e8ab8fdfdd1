//! A disk that is full, or fails.
//!
//! Full: nothing of a batch was written, so it waits and is tried again, and
//! everything that needs no disk goes on. A leader refuses writes, and hands
//! leadership to a server whose disk takes them, if there is proof of one.
//! Failed: what a failed write or sync left behind cannot be known, so the
//! process drops everything and begins again with what the disk says.

use std::time::{Duration, Instant};

use common::control::Trouble;

use raft::NodeId;

use super::member::Member;
use super::refetch;
use crate::driver::{IntegrityFailure, Now};

/// Between two attempts to hand leadership over.
const HAND_OVER_EVERY: Duration = Duration::from_secs(1);

/// A leader that is about to end waits so long for its successor.
const HAND_OVER_WITHIN: Duration = Duration::from_millis(500);

/// The server cannot go on with what it has in memory. [`run`](crate::run)
/// ends with this; whoever called it may call it again, and the server begins
/// anew with what its disk and the other servers say.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BeginAgain(String);

impl BeginAgain {
    /// The log-file cannot be written any more.
    pub(super) fn disk_failed(error: impl std::fmt::Display) -> Self {
        BeginAgain(format!(
            "{error}; what a failed write left behind cannot be known, so nothing more is built on \
             it: check the disk; a start recovers from what it holds, and from the other servers"
        ))
    }

    /// What is in memory is not what was applied.
    pub(super) fn memory_failed(error: impl std::fmt::Display) -> Self {
        BeginAgain(format!("{error}; a start reads everything from the disk again"))
    }

    /// The data are not those of the other servers.
    pub(super) fn data_differ(why: impl std::fmt::Display) -> Self {
        BeginAgain(format!("{why}: a start fetches everything from the other servers"))
    }
}

#[derive(Default)]
pub(super) struct DiskTrouble {
    full: bool,
    /// Since when the data are known to differ from those of the others.
    differ: Option<(Instant, String)>,
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
            () if self.disk.differ.is_some() => Some(Trouble::DataDiffer),
            () if self.disk.full => Some(Trouble::DiskFull),
            () if self.checkpoints.failed() => Some(Trouble::NoCheckpoint),
            () => None,
        };
        self.driver.set_trouble(trouble);
        self.report();
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

    /// A majority agrees on other data than this server has: it answers nothing
    /// any more, and the next start fetches everything anew.
    pub(super) fn data_differ(&mut self, failure: IntegrityFailure) {
        let IntegrityFailure { index, own, agreed } = failure;
        let why = format!(
            "the data of this server as of entry {index} are not those of the others (hash \
             {own:016x}, not {agreed:016x})"
        );
        if self.driver.node().membership().voters().all(|voter| voter == self.id) {
            // To drop them would be to lose them.
            return tracing::error!("{why}, but nobody else has any: it goes on with its own");
        }
        tracing::error!("{why}: it serves nothing until it has fetched theirs");
        if let Err(error) = refetch::want(&self.shell.config.dir, &why) {
            // Not to be begun again: it would come back with what it has.
            let error = anyhow::anyhow!("{why}, and that cannot be noted on its disk: {error}");
            self.failed = Some(error);
        }
        self.disk.differ = Some((Instant::now(), why));
        self.note_trouble();
    }

    /// The leader's log has other entries where this server's are committed.
    /// Nobody can say which of the two is right, so nothing of it is dropped.
    pub(super) fn history_differs(&mut self, leader: NodeId) {
        let why = format!(
            "entries that are committed in this server's log are others in that of server \
             {leader}, which leads: one of the two folders is not what it was. It serves \
             nothing. Keep this folder: it may be the only one with something that was \
             acknowledged, which `store log` and `store keystore` show. If the other servers lack \
             nothing, move it away and start the server again: it joins as a new one and fetches \
             everything from them"
        );
        tracing::error!("{why}");
        self.disk.differ.get_or_insert((Instant::now(), why.clone()));
        self.note_trouble();
        self.failed = Some(anyhow::anyhow!(why));
    }

    /// A leader whose data differ waits until another one leads.
    pub(super) fn end_if_data_differ(&mut self) {
        if let Some((since, why)) = &self.disk.differ
            && (!self.driver.is_leader() || since.elapsed() > HAND_OVER_WITHIN)
            && self.failed.is_none()
        {
            self.failed = Some(BeginAgain::data_differ(why).into());
        }
    }

    /// Tells those who read the log-file how far it is committed. Only a hint:
    /// without room for it it is left out.
    pub(super) fn note_commit(&mut self) -> Result<(), BeginAgain> {
        let commit = self.driver.node().commit();
        self.log.note_commit(commit).map_err(BeginAgain::disk_failed)
    }
}
