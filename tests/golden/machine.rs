//! One computer: a replica, its clock, its disk and its state machine.

use std::collections::VecDeque;

use raft::{
    Body, Entry, Fetch, HardState, Index, Membership, Node, Output, Payload, Persist, Position,
    Restored, SnapshotMeta, SnapshotTask, Term, Time,
};

/// A command: its name, and how big it pretends to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cmd {
    pub(crate) name: String,
    pub(crate) size: usize,
}

impl Payload for Cmd {
    fn size(&self) -> usize {
        self.size
    }
}

impl Cmd {
    /// `a`, or `a:5000` for one of 5,000 bytes.
    pub(crate) fn parse(text: &str) -> Cmd {
        let (name, size) = text.split_once(':').unwrap_or((text, "1"));
        Cmd { name: name.to_owned(), size: size.parse().expect("a size in bytes") }
    }
}

/// Work that a disk does when it gets to it.
#[derive(Debug)]
pub(crate) enum Task {
    Fetch(Fetch),
    Snapshot(SnapshotTask),
}

/// What survives a crash.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) hard: HardState,
    /// The index before the first entry.
    pub(crate) base: Index,
    pub(crate) entries: Vec<Entry<Cmd>>,
    pub(crate) checkpoint: SnapshotMeta,
    pub(crate) checkpoint_state: Vec<String>,
    /// Where the log ended before it was damaged, until it gets there again.
    pub(crate) floor: Option<Position>,
}

impl Disk {
    pub(crate) fn write(&mut self, batch: Persist<Cmd>) {
        if let Some(hard) = batch.hard_state {
            self.hard = hard;
        }
        if let Some(first) = batch.entries.first() {
            let keep = (first.index - self.base - 1) as usize;
            assert!(keep <= self.entries.len(), "the core writes with a gap");
            self.entries.truncate(keep);
            self.entries.extend(batch.entries);
            self.note_floor();
        }
    }

    fn last(&self) -> Position {
        let index = self.base + self.entries.len() as u64;
        let before = if self.base == 0 { 0 } else { self.checkpoint.term };
        Position { index, term: self.entries.last().map_or(before, |entry| entry.term) }
    }

    fn note_floor(&mut self) {
        let last = self.last();
        self.floor.take_if(|floor| last.covers(*floor));
    }

    /// The entry at `index` cannot be read, nor what comes behind it; where
    /// the log ended is still known.
    pub(crate) fn damage(&mut self, index: Index) {
        let last = self.last();
        self.entries.truncate((index - self.base - 1) as usize);
        self.floor = Some(last.furthest(self.floor.unwrap_or_default()));
        self.note_floor();
    }

    /// The checkpoint cannot be read, and the log does not reach back to the
    /// first entry; where it ended, term and vote are still known.
    pub(crate) fn lose(&mut self) {
        let last = self.last();
        self.checkpoint = SnapshotMeta::default();
        self.checkpoint_state.clear();
        self.restart_log();
        self.floor = Some(last.furthest(self.floor.unwrap_or_default()));
    }

    /// The log begins anew behind the checkpoint.
    pub(crate) fn restart_log(&mut self) {
        self.entries.clear();
        self.base = self.checkpoint.index;
        self.note_floor();
    }

    fn restore(&mut self) -> Restored<Cmd> {
        let checkpoint = self.checkpoint.index;
        if self.base + self.entries.len() as u64 <= checkpoint {
            self.restart_log();
        }
        let mut runs: Vec<(Index, Term)> = Vec::new();
        for entry in &self.entries {
            if runs.last().is_none_or(|&(_, term)| term != entry.term) {
                runs.push((entry.index, entry.term));
            }
        }
        let behind = self.entries.iter().filter(|entry| entry.index > checkpoint);
        let entries: Vec<_> = behind.cloned().collect();
        let membership = |entry: &Entry<Cmd>| match &entry.body {
            Body::Membership(membership) => Some((entry.index, membership.clone())),
            _ => None,
        };
        let mut restored = Restored {
            hard_state: self.hard,
            snapshot: self.checkpoint.clone(),
            runs,
            memberships: entries.iter().filter_map(membership).collect(),
            entries,
            commit: 0,
            floor: self.floor,
        };
        if restored.discard_unconnected() {
            self.restart_log();
        }
        restored
    }
}

/// The computer.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) node: Option<Node<Cmd>>,
    pub(crate) out: Output<Cmd>,
    pub(crate) now: Time,
    pub(crate) disk: Disk,
    /// Written, and not synced yet.
    pub(crate) batches: VecDeque<Persist<Cmd>>,
    pub(crate) tasks: VecDeque<Task>,
    /// Nothing is synced until the script says so.
    pub(crate) hold_sync: bool,
    /// Fetches and snapshot work wait until the script says so.
    pub(crate) hold_tasks: bool,
    /// Bytes of a snapshot that is being received.
    pub(crate) side_file: Vec<u8>,
    /// The state machine: every command that was applied.
    pub(crate) state: Vec<String>,
    pub(crate) starts: u64,
}

impl Machine {
    pub(crate) fn new(now: Time, membership: Membership) -> Machine {
        let checkpoint = SnapshotMeta { index: 0, term: 0, membership };
        Machine {
            node: None,
            out: Output::default(),
            now,
            disk: Disk { checkpoint, ..Disk::default() },
            batches: VecDeque::new(),
            tasks: VecDeque::new(),
            hold_sync: false,
            hold_tasks: false,
            side_file: Vec::new(),
            state: Vec::new(),
            starts: 0,
        }
    }

    /// What was not synced is lost, except the first `survive` batches.
    pub(crate) fn crash(&mut self, survive: usize) {
        self.node = None;
        self.out = Output::default();
        let survivors = survive.min(self.batches.len());
        for batch in self.batches.drain(..survivors) {
            self.disk.write(batch);
        }
        self.batches.clear();
        self.tasks.clear();
        self.side_file.clear();
    }

    pub(crate) fn restore(&mut self) -> Restored<Cmd> {
        self.starts += 1;
        self.state.clone_from(&self.disk.checkpoint_state);
        self.disk.restore()
    }

    pub(crate) fn core(&mut self) -> &mut Node<Cmd> {
        self.node.as_mut().expect("the replica is up")
    }

    /// A checkpoint of what is applied; the log keeps `tail` entries of it.
    pub(crate) fn checkpoint(&mut self, tail: u64) -> Index {
        let core = self.node.as_mut().expect("the replica is up");
        let meta = core.snapshot_meta(core.status().applied).expect("something is applied");
        let index = meta.index;
        self.disk.checkpoint = meta;
        self.disk.checkpoint_state.clone_from(&self.state);
        core.checkpointed(index);
        let first_kept = (index + 1).saturating_sub(tail);
        core.compact(first_kept);
        let gone = first_kept.saturating_sub(self.disk.base + 1) as usize;
        let gone = gone.min(self.disk.entries.len());
        self.disk.entries.drain(..gone);
        self.disk.base += gone as u64;
        index
    }

    pub(crate) fn fetch(&mut self, fetch: Fetch) {
        let mut room = fetch.max_bytes;
        let mut found: Vec<Entry<Cmd>> = Vec::new();
        if fetch.from > self.disk.base {
            let wanted = self.disk.entries.iter().filter(|entry| entry.index >= fetch.from);
            for entry in wanted.take_while(|entry| entry.index <= fetch.to) {
                let bytes = match &entry.body {
                    Body::Command(cmd) => cmd.size,
                    Body::Noop | Body::Membership(_) => 0,
                };
                if bytes > room && !found.is_empty() {
                    break;
                }
                room = room.saturating_sub(bytes);
                found.push(entry.clone());
            }
        }
        let now = self.now;
        self.core().fetched(now, fetch.peer, found);
    }
}
