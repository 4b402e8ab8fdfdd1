//! One computer of the test cluster: a replica, its disk and its state.

use std::collections::{BTreeMap, VecDeque};

use raft::{
    Body, Entry, Fetch, HardState, Index, Membership, Node, NodeId, Output, Persist, Position,
    Restored, SnapshotMeta, SnapshotTask, Term, Time,
};
use store_raft as raft;

use super::{Cmd, World};

/// Something that takes a machine some time.
#[derive(Debug)]
pub(crate) enum Work {
    Sync,
    Fetch(Fetch),
    Snapshot(SnapshotTask),
}

/// What survives a crash.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) hard: HardState,
    /// Index before the first entry.
    pub(crate) base: Index,
    pub(crate) entries: VecDeque<Entry<Cmd>>,
    pub(crate) checkpoint: SnapshotMeta,
    pub(crate) checkpoint_digest: u64,
    /// Where the log ended before it was damaged, until it gets there again.
    pub(crate) floor: Option<Position>,
}

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) node: Option<Node<Cmd>>,
    pub(crate) out: Output<Cmd>,
    pub(crate) disk: Disk,
    batches: VecDeque<Persist<Cmd>>,
    /// Counts restarts: work for an earlier life is void.
    pub(crate) life: u64,
    pub(crate) applied: Index,
    pub(crate) digest: u64,
    pub(crate) applied_terms: BTreeMap<Index, Term>,
    /// The bytes of a snapshot that is being received.
    pub(crate) side_file: Vec<u8>,
}

const CHUNK_BYTES: usize = 8;

/// A snapshot's bytes: the digest, then some more, so that it takes chunks.
fn snapshot_bytes(digest: u64, index: Index) -> Vec<u8> {
    let mut bytes = digest.to_le_bytes().to_vec();
    bytes.extend(std::iter::repeat_n(index as u8, 3 * CHUNK_BYTES));
    bytes
}

impl Disk {
    fn first(&self) -> Index {
        self.base + 1
    }

    /// The log file begins anew behind the checkpoint.
    fn restart_log(&mut self) {
        self.entries.clear();
        self.base = self.checkpoint.index;
        self.note_floor();
    }

    fn write(&mut self, persist: Persist<Cmd>) {
        if let Some(hard) = persist.hard_state {
            self.hard = hard;
        }
        if let Some(first) = persist.entries.first() {
            let keep = first.index - self.first();
            assert!(keep <= self.entries.len() as u64, "the core writes with a gap");
            self.entries.truncate(keep as usize);
            self.entries.extend(persist.entries);
            self.note_floor();
        }
    }

    fn last(&self) -> Position {
        let index = self.base + self.entries.len() as u64;
        let before = if self.base == self.checkpoint.index { self.checkpoint.term } else { 0 };
        Position { index, term: self.entries.back().map_or(before, |entry| entry.term) }
    }

    fn note_floor(&mut self) {
        let last = self.last();
        self.floor.take_if(|floor| last.covers(*floor));
    }

    /// The last `count` entries cannot be read any more, and with `all` the
    /// checkpoint neither. Where the log ended is still known. (The checkpoint
    /// of an empty log is all that a cluster knows of its first members.)
    pub(crate) fn damage(&mut self, count: u64, all: bool) {
        let floor = self.last().furthest(self.floor.unwrap_or_default());
        if all && floor.index > 0 {
            self.checkpoint = SnapshotMeta::default();
            self.checkpoint_digest = 0;
            self.restart_log();
        } else {
            let behind_checkpoint = self.last().index.saturating_sub(self.checkpoint.index);
            let kept = self.entries.len() as u64 - count.min(behind_checkpoint);
            self.entries.truncate(kept as usize);
        }
        self.floor = Some(floor);
        self.note_floor();
    }
}

impl Machine {
    pub(crate) fn new(_id: NodeId, membership: Membership) -> Self {
        let checkpoint = SnapshotMeta { index: 0, term: 0, membership };
        Machine {
            node: None,
            out: Output::default(),
            disk: Disk { checkpoint, ..Disk::default() },
            batches: VecDeque::new(),
            life: 0,
            applied: 0,
            digest: 0,
            applied_terms: BTreeMap::new(),
            side_file: Vec::new(),
        }
    }

    pub(crate) fn crash(&mut self, survive: usize) {
        self.node = None;
        self.life += 1;
        self.out = Output::default();
        for _ in 0..survive {
            if let Some(batch) = self.batches.pop_front() {
                self.disk.write(batch);
            }
        }
        self.batches.clear();
        self.side_file.clear();
    }

    pub(crate) fn restore(&mut self, _now: Time) -> Restored<Cmd> {
        let disk = &mut self.disk;
        self.applied = disk.checkpoint.index;
        self.digest = disk.checkpoint_digest;
        // The state machine was ahead of the disk: the log begins anew.
        let last = disk.entries.back().map_or(0, |entry| entry.index);
        if last < disk.checkpoint.index {
            disk.restart_log();
        }
        let mut runs: Vec<(Index, Term)> = Vec::new();
        for entry in &disk.entries {
            if runs.last().is_none_or(|&(_, term)| term != entry.term) {
                runs.push((entry.index, entry.term));
            }
        }
        let tail = disk.entries.iter().filter(|entry| entry.index > disk.checkpoint.index);
        let entries: Vec<_> = tail.cloned().collect();
        let memberships = entries
            .iter()
            .filter_map(|entry| match &entry.body {
                Body::Membership(membership) => Some((entry.index, membership.clone())),
                _ => None,
            })
            .collect();
        let mut restored = Restored {
            hard_state: disk.hard,
            snapshot: disk.checkpoint.clone(),
            runs,
            memberships,
            entries,
            commit: 0,
            floor: disk.floor,
        };
        if restored.discard_unconnected() {
            disk.restart_log();
        }
        restored
    }

    fn apply(&mut self, entry: &Entry<Cmd>) {
        assert_eq!(entry.index, self.applied + 1);
        self.applied = entry.index;
        let number = match &entry.body {
            Body::Command(Cmd(number, _)) => *number,
            _ => 1,
        };
        let mixed = (self.digest ^ number ^ entry.term).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.digest = mixed.rotate_left(17);
        self.applied_terms.insert(entry.index, entry.term);
    }
}

impl World {
    /// Hands batches to the disk, as many as may be on the way at once.
    pub(super) fn persist(&mut self, node: NodeId) {
        let machine = self.machines.get_mut(&node).unwrap();
        if machine.batches.len() < self.weather.batches
            && let Some(batch) = machine.out.persist.take()
        {
            machine.batches.push_back(batch);
            if machine.batches.len() == 1 {
                self.begin_sync(node);
            }
        }
    }

    fn begin_sync(&mut self, node: NodeId) {
        let (low, high) = self.weather.sync_us;
        let delay = self.dice.between(low, high);
        self.schedule(delay, node, Work::Sync);
    }

    pub(super) fn work(&mut self, node: NodeId, work: Work) {
        match work {
            Work::Sync => self.finish_sync(node),
            Work::Fetch(fetch) => self.finish_fetch(node, fetch),
            Work::Snapshot(task) => self.finish_snapshot(node, task),
        }
    }

    /// One sync may cover several batches; then only the last mark is told.
    fn finish_sync(&mut self, node: NodeId) {
        if self.stuck_disks.contains(&node) {
            self.schedule(10_000, node, Work::Sync);
            return;
        }
        let (now, merge) = (self.now, self.dice.chance(500));
        let machine = self.machines.get_mut(&node).unwrap();
        let count = if merge { machine.batches.len() } else { 1 };
        let mut mark = None;
        for batch in machine.batches.drain(..count) {
            mark = Some(batch.mark);
            machine.disk.write(batch);
        }
        if let Some(mark) = mark {
            self.checker.synced(node, &mark);
            machine.node.as_mut().unwrap().synced(now, mark);
        }
        if !machine.batches.is_empty() {
            self.begin_sync(node);
        }
    }

    pub(super) fn apply(&mut self, node: NodeId) {
        let machine = self.machines.get_mut(&node).unwrap();
        for entry in std::mem::take(&mut machine.out.committed) {
            machine.apply(&entry);
        }
    }

    pub(super) fn start_tasks(&mut self, node: NodeId) {
        let machine = self.machines.get_mut(&node).unwrap();
        let fetches = std::mem::take(&mut machine.out.fetch);
        let snapshots = std::mem::take(&mut machine.out.snapshots);
        for fetch in fetches {
            let delay = self.dice.between(100, 3000);
            self.schedule(delay, node, Work::Fetch(fetch));
        }
        for task in snapshots {
            // Writes keep their order.
            let delay = if matches!(task, SnapshotTask::Write { .. }) { 500 } else { 300 };
            self.schedule(delay, node, Work::Snapshot(task));
        }
    }

    fn finish_fetch(&mut self, node: NodeId, fetch: Fetch) {
        let now = self.now;
        let count = self.dice.between(1, 40) as usize;
        let machine = self.machines.get_mut(&node).unwrap();
        let wanted = fetch.from..=fetch.to;
        let entries: Vec<_> = if machine.disk.first() > fetch.from {
            Vec::new()
        } else {
            let found = machine.disk.entries.iter().filter(|e| wanted.contains(&e.index));
            found.take(count).cloned().collect()
        };
        machine.node.as_mut().unwrap().fetched(now, fetch.peer, entries);
    }

    fn finish_snapshot(&mut self, node: NodeId, task: SnapshotTask) {
        match task {
            SnapshotTask::Read { peer, index, offset } => {
                self.read_chunk(node, peer, index, offset);
            }
            SnapshotTask::Write { done: true, .. } if !self.machines[&node].batches.is_empty() => {
                // What was to be written before comes first.
                self.schedule(100, node, Work::Snapshot(task));
            }
            SnapshotTask::Write { meta, offset, data, done } => {
                self.write_chunk(node, meta, offset, &data, done);
            }
        }
    }

    fn read_chunk(&mut self, node: NodeId, peer: NodeId, index: Index, offset: u64) {
        let now = self.now;
        let machine = self.machines.get_mut(&node).unwrap();
        let meta = machine.disk.checkpoint.clone();
        let bytes = snapshot_bytes(machine.disk.checkpoint_digest, meta.index);
        let offset = if index == meta.index { offset } else { 0 };
        let end = (offset as usize + CHUNK_BYTES).min(bytes.len());
        let data = bytes[offset as usize..end].to_vec();
        let done = end == bytes.len();
        let core = machine.node.as_mut().unwrap();
        core.snapshot_chunk(now, peer, meta, offset, data, done);
    }

    fn write_chunk(
        &mut self,
        node: NodeId,
        meta: SnapshotMeta,
        offset: u64,
        data: &[u8],
        done: bool,
    ) {
        let now = self.now;
        let give_up = (self.dice.chance(20) && self.weather.loss_permille > 0)
            || (done && self.full_disks.contains(&node));
        let machine = self.machines.get_mut(&node).unwrap();
        if offset == 0 {
            machine.side_file.clear();
        }
        let index = meta.index;
        let core = machine.node.as_mut().unwrap();
        let length = machine.side_file.len() as u64;
        if length < offset {
            return core.snapshot_written(now, index, length, None);
        }
        machine.side_file.truncate(offset as usize);
        machine.side_file.extend_from_slice(data);
        if give_up {
            core.snapshot_written(now, index, 0, None);
        } else if done {
            let mut digest = [0; 8];
            digest.copy_from_slice(&machine.side_file[..8]);
            let digest = u64::from_le_bytes(digest);
            assert_eq!(machine.side_file, snapshot_bytes(digest, index), "chunks were mixed");
            machine.disk.checkpoint = meta.clone();
            machine.disk.checkpoint_digest = digest;
            machine.disk.restart_log();
            machine.applied = index;
            machine.digest = digest;
            self.checker.installed(node, &meta).unwrap();
            core.snapshot_written(now, index, offset + data.len() as u64, Some(meta));
        } else {
            core.snapshot_written(now, index, offset + data.len() as u64, None);
        }
    }

    /// Takes a checkpoint, and drops the log up to `tail` entries before it.
    pub(crate) fn checkpoint(&mut self, node: u64, tail: u64) {
        let machine = self.machines.get_mut(&NodeId(node)).unwrap();
        let Some(core) = &mut machine.node else { return };
        let Some(meta) = core.snapshot_meta(machine.applied) else { return };
        let index = meta.index;
        machine.disk.checkpoint = meta;
        machine.disk.checkpoint_digest = machine.digest;
        core.checkpointed(index);
        let first_kept = (index + 1).saturating_sub(tail);
        core.compact(first_kept);
        while machine.disk.entries.front().is_some_and(|entry| entry.index < first_kept) {
            machine.disk.entries.pop_front();
            machine.disk.base += 1;
        }
    }
}
