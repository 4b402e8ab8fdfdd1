//! What the member does about snapshots: sending them, and going on with one
//! that has arrived.

use std::sync::Arc;

use raft::{Index, NodeId, Position, SnapshotMeta, SnapshotTask};

use super::disk_trouble::BeginAgain;
use super::member::Member;
use super::snapshots::{Arrived, ChunkRead, side_path};
use crate::driver::{Chunk, Now};
use crate::keystore_file::WriteError;

/// The way of a snapshot from its last byte to the state of this server.
#[derive(Default)]
pub(super) struct Install {
    /// Waits for the disk to be done with everything before it.
    arrived: Option<Arrived>,
    /// Is being put in place.
    placing: Option<Arrived>,
}

impl Install {
    pub(super) fn arrived(&mut self, arrived: Arrived) {
        self.arrived = Some(arrived);
    }

    /// Whether a snapshot is about to replace the state.
    pub(super) fn is_under_way(&self) -> bool {
        self.arrived.is_some() || self.placing.is_some()
    }
}

impl Member {
    pub(super) fn snapshot_task(&mut self, now: Now, task: SnapshotTask) {
        match task {
            SnapshotTask::Read { peer, index, offset } => self.snapshots.read(peer, index, offset),
            SnapshotTask::Write { meta, offset, data, done } => {
                let index = meta.index;
                if let Err(error) = self.snapshots.write(meta, offset, data, done) {
                    tracing::error!(index, %error, "no thread for a snapshot that arrives");
                    self.driver.snapshot_written(now, index, 0);
                }
            }
        }
    }

    pub(super) fn chunk_read(&mut self, now: Now, peer: NodeId, result: ChunkRead) {
        let chunk = match result {
            Ok((open, chunk)) => {
                self.snapshots.chunk_read(peer, Some(open));
                chunk
            }
            Err(error) => {
                self.snapshots.chunk_read(peer, None);
                tracing::error!(%error, "the checkpoint cannot be sent: a new one is written");
                self.checkpoints.renew();
                let meta = SnapshotMeta::default();
                Chunk { meta, offset: 0, data: Vec::new(), done: false }
            }
        };
        self.driver.snapshot_chunk(now, peer, chunk);
    }

    /// Puts a snapshot that has arrived in place, once everything that was
    /// handed to the disk before is there and no older checkpoint is being
    /// written, which would take its name.
    pub(super) fn consider_install(&mut self) {
        let free =
            !self.log.is_busy() && self.actions.persist.is_none() && !self.checkpoints.is_writing();
        if !free {
            return;
        }
        if let Some(arrived) = self.install.arrived.take() {
            let path = self.shell.config.keystore_file.clone();
            let end = Position { index: arrived.meta.index, term: arrived.meta.term };
            self.log.place(side_path(&path), path, end, arrived.meta.membership.clone());
            self.install.placing = Some(arrived);
        }
    }

    /// It is in place.
    pub(super) fn placed(&mut self, now: Now) {
        self.log.placed();
        self.room_found();
        let Some(Arrived { meta, next_offset, keystore }) = self.install.placing.take() else {
            return;
        };
        let index = meta.index;
        tracing::info!(index, keys = keystore.len(), "going on with the snapshot");
        self.checkpoints.installed(index, keystore.memory_bytes());
        let old = self.driver.installed(now, next_offset, meta, keystore);
        // Letting go of millions of items takes longer than a heartbeat.
        tokio::task::spawn_blocking(move || drop(old));
    }

    /// A checkpoint was written, or could not be. With it the log behind it
    /// can go, but for a tail that spares servers which lag little a snapshot.
    pub(super) fn checkpointed(&mut self, result: Result<Index, WriteError>) {
        if let Err(error @ WriteError::Contents { .. }) = &result {
            self.failed = Some(BeginAgain::memory_failed(error).into());
        }
        let oldest = self.snapshots.oldest();
        self.checkpoints.done(result, oldest, &self.log, &mut self.driver);
        self.note_trouble();
        self.snapshots.remove_leftover();
    }
}

impl Member {
    /// Starts a checkpoint when one is due, unless the state is about to be
    /// replaced.
    pub(super) fn consider_checkpoint(&mut self) {
        if !self.install.is_under_way() {
            let inbox = Arc::clone(&self.shell.inbox);
            self.checkpoints.consider(&self.driver, &mut self.log, &inbox);
        }
    }
}
