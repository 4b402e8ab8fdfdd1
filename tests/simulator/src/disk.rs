//! A host's disk, at the level of what recovery finds on it: the write-ahead
//! stream in batches, and the newest checkpoint.
//!
//! # What a crash may lose
//!
//! A disk may have written the sectors of unsynced records in any order, so
//! that any subset of them can be there after a crash, some half. Recovery
//! reads from the front and cuts the log at the first record that is missing,
//! torn, or does not check, whatever lies behind it. So of all records that
//! are not synced some prefix counts: every subset leads to the prefix before
//! its first hole, and every prefix comes of a subset. That is what
//! [`Disk::crash`] draws. Batches do not change this, because no batch is
//! written before the one in front of it is synced: one at the most is open,
//! though it may have merged many appends. Of records that were synced none
//! may be missing; a disk that loses those is `bit-rot`.
//!
//! That recovery does cut there is tested on real bytes, by the tests of the
//! log-file, not here.

use std::collections::VecDeque;
use std::path::Path;

use common::ids::ClusterId;
use common::runs::Runs;
use raft::{Body, Entry, HardState, Index, Membership, NodeId, Persist, Position, SnapshotMeta};
use server::command::Payload;
use server::driver::Chunk;
use server::keystore::{Keystore, KeystoreLimits};
use server::keystore_file::{self, WriteError};

use crate::rng::Rng;
use crate::rot::Rot;

/// Name of a checkpoint in errors.
pub(crate) const CHECKPOINT: &str = "keystore-file";

/// What survives a crash, and what may not.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Who the folder belongs to; `None` on a fresh host.
    pub(crate) id: Option<NodeId>,
    /// Which cluster that is.
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) hard_state: HardState,
    /// Entries that are durable; the first has index `base + 1`.
    pub(crate) base: Index,
    pub(crate) entries: Vec<Entry<Payload>>,
    pub(crate) commit: Index,
    /// The last entry that was dropped because a checkpoint stands for it.
    pub(crate) dropped: Position,
    /// Where the log ended before it was damaged, until it gets there again.
    pub(crate) floor: Option<Position>,
    /// Written, not synced yet.
    waiting: VecDeque<(Persist<Payload>, Index)>,
    pub(crate) meta: SnapshotMeta,
    /// The bytes of the keystore-file; empty: no checkpoint but the first
    /// membership.
    pub(crate) checkpoint: Vec<u8>,
    /// What of all this cannot be read any more.
    pub(crate) rot: Rot,
    /// The runs of the folder; always durable before anybody hears of them.
    pub(crate) runs: Runs,
    /// Planted: term and vote are not synced with the rest.
    forgets_votes: bool,
}

impl Disk {
    /// An empty folder.
    pub(crate) fn empty(forgets_votes: bool) -> Self {
        Disk {
            forgets_votes,
            id: None,
            cluster: None,
            hard_state: HardState::default(),
            base: 0,
            entries: Vec::new(),
            commit: 0,
            dropped: Position::default(),
            waiting: VecDeque::new(),
            meta: SnapshotMeta::default(),
            checkpoint: Vec::new(),
            floor: None,
            rot: Rot::default(),
            runs: Runs::default(),
        }
    }

    /// All of it that is durable, of a disk that is not damaged.
    pub(crate) fn saved(&self) -> Disk {
        let Disk { id, cluster, hard_state, base, commit, dropped, floor, .. } = *self;
        Disk {
            entries: self.entries.clone(),
            meta: self.meta.clone(),
            checkpoint: self.checkpoint.clone(),
            runs: self.runs.clone(),
            id,
            cluster,
            hard_state,
            base,
            commit,
            dropped,
            floor,
            ..Disk::empty(self.forgets_votes)
        }
    }

    /// The membership in force by what is durable.
    pub(crate) fn membership(&self) -> &Membership {
        let memberships = self.entries.iter().rev().filter_map(|entry| match &entry.body {
            Body::Membership(membership) => Some(membership),
            _ => None,
        });
        let newest = { memberships }.next();
        newest.unwrap_or(&self.meta.membership)
    }

    /// The folder is now that of a member.
    pub(crate) fn adopt(&mut self, cluster: ClusterId, id: NodeId, membership: Membership) {
        self.cluster = Some(cluster);
        self.id = Some(id);
        self.meta.membership = membership;
    }

    /// Writes a batch; [`Disk::synced`] makes it durable.
    pub(crate) fn write(&mut self, persist: Persist<Payload>, commit: Index) {
        self.waiting.push_back((persist, commit));
    }

    /// The oldest batch that waits is durable: its mark.
    pub(crate) fn synced(&mut self) -> Option<raft::DurableMark> {
        let (persist, commit) = self.waiting.pop_front()?;
        let records = persist.entries.len() + 1;
        self.store(&persist, records);
        self.commit = self.commit.max(commit);
        Some(persist.mark)
    }

    /// Makes the first `records` records of a batch durable; the first is the
    /// hard state.
    fn store(&mut self, persist: &Persist<Payload>, records: usize) {
        if records > 0
            && let Some(hard_state) = persist.hard_state
            && !self.forgets_votes
        {
            self.hard_state = hard_state;
        }
        for entry in persist.entries.iter().take(records.saturating_sub(1)) {
            let at = (entry.index - self.base - 1) as usize;
            self.entries.truncate(at);
            self.entries.push(entry.clone());
            self.note_floor();
        }
        let first = persist.entries.first().filter(|_| records > 1);
        let hard_state = records > 0 && persist.hard_state.is_some();
        self.rot.written(hard_state, first.map(|entry| entry.index));
    }

    /// The host crashed. Of the batch that was not synced any prefix counts:
    /// see the module's page.
    pub(crate) fn crash(&mut self, rng: &mut Rng) -> usize {
        let lost = self.waiting.len();
        if let Some((persist, _)) = self.waiting.pop_front() {
            let records = rng.below(persist.entries.len() as u64 + 2) as usize;
            self.store(&persist, records);
        }
        self.waiting.clear();
        lost
    }

    /// Nothing of the batches that wait reached the disk.
    pub(crate) fn refuse(&mut self) {
        self.waiting.clear();
    }

    /// A checkpoint was written and renamed into place.
    pub(crate) fn put_checkpoint(&mut self, meta: SnapshotMeta, bytes: Vec<u8>) {
        self.meta = meta;
        self.checkpoint = bytes;
        self.rot.new_checkpoint();
    }

    /// A snapshot was installed: the log begins anew behind it.
    pub(crate) fn restart_log(&mut self) {
        self.base = self.meta.index;
        self.entries.clear();
        self.commit = self.commit.max(self.meta.index);
        self.rot = Rot::default();
        self.note_floor();
    }

    fn note_floor(&mut self) {
        let last = self.last();
        self.floor.take_if(|floor| last.covers(*floor));
    }

    /// Forgets entries before `first_kept`.
    pub(crate) fn compact(&mut self, first_kept: Index) {
        let count = first_kept.saturating_sub(self.base + 1).min(self.entries.len() as u64);
        if let Some(entry) = self.entries.drain(..count as usize).next_back() {
            self.dropped = Position { index: entry.index, term: entry.term };
        }
        self.base += count;
        self.rot.dropped_before(self.base + 1);
    }

    pub(crate) fn checkpoint(&self) -> (&SnapshotMeta, &[u8]) {
        (&self.meta, &self.checkpoint)
    }

    /// A chunk of the checkpoint at `index`, or the first one of the newest.
    /// One that is damaged is not given away.
    pub(crate) fn read_chunk(&self, index: Index, offset: u64, max_bytes: usize) -> Chunk {
        let from = if index == 0 || index == self.meta.index { offset as usize } else { 0 };
        let end = self.checkpoint.len().min(from + max_bytes);
        if self.has_bad_checkpoint() {
            return Chunk { meta: self.meta.clone(), offset, data: Vec::new(), done: false };
        }
        let data = self.checkpoint.get(from..end).unwrap_or(&[]).to_vec();
        let done = !self.checkpoint.is_empty() && end == self.checkpoint.len();
        Chunk { meta: self.meta.clone(), offset: from as u64, data, done }
    }

    /// Entries for a slow peer, at least one if there is any, and if it can be
    /// read.
    pub(crate) fn read(&self, from: Index, to: Index, max_bytes: usize) -> Vec<Entry<Payload>> {
        let Some(at) = from.checked_sub(self.base + 1) else { return Vec::new() };
        let mut bytes = 0;
        let entries = self.entries.iter().skip(at as usize).take((to + 1 - from) as usize);
        entries
            .take_while(|entry| {
                if !self.is_readable(entry.index) {
                    return false;
                }
                let first = bytes == 0;
                bytes += entry_bytes(entry).max(1);
                first || bytes <= max_bytes
            })
            .cloned()
            .collect()
    }

    /// The state that the checkpoint stands for.
    pub(crate) fn keystore(&self) -> Keystore {
        if self.checkpoint.is_empty() {
            // Where keys lie decides how long the next checkpoint is.
            let seed = self.id.map_or(0, |id| id.0);
            return Keystore::seeded(KeystoreLimits::default(), seed);
        }
        decode_keystore(&self.checkpoint).expect("the simulated disk keeps whole checkpoints").0
    }
}

/// Reads a keystore-file from bytes.
pub(crate) fn decode_keystore(bytes: &[u8]) -> Option<(Keystore, SnapshotMeta)> {
    keystore_file::read_from(Path::new(CHECKPOINT), bytes, bytes.len() as u64).ok()
}

/// The bytes of a keystore-file; `None` when the items in memory have changed
/// by themselves.
pub(crate) fn encode_keystore(keystore: &Keystore, meta: &SnapshotMeta) -> Option<Vec<u8>> {
    match keystore_file::write_to(Vec::new(), &keystore.freeze(), meta) {
        Ok((bytes, _)) => Some(bytes),
        Err(WriteError::Contents { .. }) => None,
        Err(error) => panic!("writing to memory, at the keystore's own index: {error}"),
    }
}

fn entry_bytes(entry: &Entry<Payload>) -> usize {
    match &entry.body {
        Body::Command(payload) => payload.0.len(),
        Body::Noop | Body::Membership(_) => 0,
    }
}
