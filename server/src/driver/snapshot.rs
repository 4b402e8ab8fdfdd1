//! Checkpoints, and snapshots on their way from and to peers.

use raft::{Index, NodeId, SnapshotMeta};

use super::{Driver, Now};
use crate::keystore::Keystore;

/// A chunk of the newest checkpoint, as `SnapshotTask::Read` asked for it.
#[derive(Debug)]
pub struct Chunk {
    /// What the checkpoint stands for.
    pub meta: SnapshotMeta,
    /// Byte offset of `data`.
    pub offset: u64,
    /// Bytes of the keystore-file; none and not `done`: there is none to give.
    pub data: Vec<u8>,
    /// Whether this is its end.
    pub done: bool,
}

impl Driver {
    /// A checkpoint up to `index` is on disk.
    pub fn checkpointed(&mut self, index: Index) {
        self.node.checkpointed(index);
    }

    /// The log-file begins at `first_kept` from now on; only what the newest
    /// checkpoint contains may be gone.
    pub fn compact(&mut self, first_kept: Index) {
        self.node.compact(first_kept);
    }

    /// The answer to `SnapshotTask::Read`.
    pub fn snapshot_chunk(&mut self, now: Now, peer: NodeId, chunk: Chunk) {
        let Chunk { meta, offset, data, done } = chunk;
        self.node.snapshot_chunk(now.mono_us, peer, meta, offset, data, done);
    }

    /// A chunk of the snapshot at `index` is in the side file, whose length is
    /// now `next_offset`; 0 when it had to be given up.
    pub fn snapshot_written(&mut self, now: Now, index: Index, next_offset: u64) {
        self.node.snapshot_written(now.mono_us, index, next_offset, None);
    }

    /// The last chunk is written, the keystore-file replaced and the log-file
    /// restarted behind it, durably: the server goes on with that state. Gives
    /// back the state that is no longer needed: to let go of a large one takes
    /// long, and is better done elsewhere.
    pub fn installed(
        &mut self,
        now: Now,
        next_offset: u64,
        meta: SnapshotMeta,
        mut state: Keystore,
    ) -> Keystore {
        if meta.index > self.keystore.applied() {
            // Whether entries of ours are in the snapshot nobody can tell any
            // more, but by the sessions that it holds.
            while self.proposed.front().is_some_and(|front| front.first <= meta.index) {
                if let Some(job) = self.proposed.pop_front().and_then(|front| front.job) {
                    self.ask_again(now, job);
                }
            }
            self.committed.retain(|entry| entry.index > meta.index);
            state.set_limits(self.keystore.limits());
            std::mem::swap(&mut self.keystore, &mut state);
            self.integrity.restart();
            self.clock_ms = self.clock_ms.max(self.keystore.clock_ms());
        }
        self.node.snapshot_written(now.mono_us, meta.index, next_offset, Some(meta));
        state
    }
}
