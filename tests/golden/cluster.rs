//! The cluster: machines, the wire between them, and what happened so far.

use std::collections::{BTreeMap, BTreeSet};

use raft::invariants::{Checker, check_node};
use raft::{Config, Envelope, Membership, Node, NodeId, SnapshotMeta, SnapshotTask, Time};

use super::machine::{Cmd, Machine, Task};
use super::print;

/// Bytes of a snapshot in one chunk.
const CHUNK_BYTES: usize = 8;

/// Deliveries after which a cluster should long have gone quiet.
const MAX_DELIVERIES: usize = 5_000;

/// How much of what happens is printed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) enum Detail {
    Nothing,
    /// Not what is written and delivered.
    Outcome,
    Everything,
}

/// Which messages a command means; `None` for any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Select {
    pub(crate) from: Option<u64>,
    pub(crate) to: Option<u64>,
    pub(crate) kind: Option<String>,
    /// The oldest alone.
    pub(crate) first: bool,
}

impl Select {
    fn fits(&self, envelope: &Envelope<Cmd>) -> bool {
        self.from.is_none_or(|from| envelope.from.0 == from)
            && self.to.is_none_or(|to| envelope.to.0 == to)
            && self.kind.as_ref().is_none_or(|kind| kind == print::kind(&envelope.message))
    }
}

/// The cluster.
pub(crate) struct Cluster {
    pub(crate) machines: BTreeMap<u64, Machine>,
    pub(crate) wire: Vec<Envelope<Cmd>>,
    /// Links on which everything is lost, one way.
    pub(crate) cut: BTreeSet<(u64, u64)>,
    pub(crate) settings: Config,
    pub(crate) detail: Detail,
    pub(crate) lines: Vec<String>,
    checker: Checker<Cmd>,
    /// Somebody lies: only what each replica by itself must keep is checked.
    pub(crate) has_liars: bool,
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        Cluster {
            machines: BTreeMap::new(),
            wire: Vec::new(),
            cut: BTreeSet::new(),
            settings: Config::new(NodeId(0), 0),
            detail: Detail::Everything,
            lines: Vec::new(),
            checker: Checker::new(),
            has_liars: false,
        }
    }

    pub(crate) fn say(&mut self, detail: Detail, line: String) {
        if detail <= self.detail {
            self.lines.push(line);
        }
    }

    pub(crate) fn machine(&mut self, node: u64) -> &mut Machine {
        self.machines.get_mut(&node).unwrap_or_else(|| panic!("there is no server {node}"))
    }

    pub(crate) fn add(&mut self, node: u64, membership: Membership) {
        let now = self.machines.values().map(|machine| machine.now).max().unwrap_or(1_000_000);
        self.machines.insert(node, Machine::new(now, membership));
        self.start(node);
    }

    /// Starts a replica from what is on its disk.
    pub(crate) fn start(&mut self, node: u64) {
        let mut config = self.settings.clone();
        let machine = self.machine(node);
        let restored = machine.restore();
        config.id = NodeId(node);
        config.seed = node * 100 + machine.starts;
        let started = Node::new(machine.now, config, restored.clone());
        machine.node = Some(started.clone());
        if !self.has_liars {
            self.checker.started(&started, &restored).unwrap();
        }
        self.turn(node);
    }

    /// Calls into a replica, and handles what comes of it.
    pub(crate) fn with<R>(&mut self, node: u64, call: impl FnOnce(&mut Node<Cmd>, Time) -> R) -> R {
        let machine = self.machine(node);
        let now = machine.now;
        let result = call(machine.core(), now);
        self.turn(node);
        result
    }

    /// Takes a replica's output and does what it says, until there is none.
    pub(crate) fn turn(&mut self, node: u64) {
        loop {
            self.take_output(node);
            let machine = self.machine(node);
            if !machine.hold_tasks
                && let Some(task) = machine.tasks.pop_front()
            {
                self.work(node, task);
            } else if !machine.hold_sync && !machine.batches.is_empty() {
                self.sync_all(node);
            } else {
                return;
            }
        }
    }

    fn take_output(&mut self, node: u64) {
        let machine = self.machines.get_mut(&node).expect("a machine");
        let now = machine.now;
        let core = machine.node.as_mut().expect("the replica is up");
        let mut out = std::mem::take(&mut machine.out);
        core.take_output(now, &mut out);
        if self.has_liars {
            check_node(core).unwrap();
        } else {
            self.checker.observe(core, &out).unwrap();
        }
        for entry in &out.committed {
            if let raft::Body::Command(cmd) = &entry.body {
                machine.state.push(cmd.name.clone());
            }
        }
        let fetches = out.fetch.drain(..).map(Task::Fetch);
        machine.tasks.extend(fetches);
        machine.tasks.extend(out.snapshots.drain(..).map(Task::Snapshot));
        for line in print::outcome(node, &out) {
            self.say(Detail::Outcome, line);
        }
        if let Some(batch) = out.persist.take() {
            self.say(Detail::Everything, print::batch(node, &batch));
            self.machine(node).batches.push_back(batch);
        }
        for envelope in out.send.drain(..) {
            if !self.cut.contains(&(node, envelope.to.0)) {
                self.wire.push(envelope);
            }
        }
    }

    /// The oldest batches, `count` of them, become durable by one sync.
    pub(crate) fn sync(&mut self, node: u64, count: usize) {
        let machine = self.machines.get_mut(&node).expect("a machine");
        let count = count.min(machine.batches.len());
        let mut mark = None;
        for batch in machine.batches.drain(..count) {
            mark = Some(batch.mark);
            machine.disk.write(batch);
        }
        if let Some(mark) = mark {
            self.checker.synced(NodeId(node), &mark);
            let now = machine.now;
            machine.core().synced(now, mark);
        }
    }

    fn sync_all(&mut self, node: u64) {
        self.sync(node, usize::MAX);
    }

    pub(crate) fn work(&mut self, node: u64, task: Task) {
        match task {
            Task::Fetch(fetch) => {
                let line = format!("{node} fetches {}..{}", fetch.from, fetch.to);
                self.say(Detail::Outcome, format!("{line} for {}", fetch.peer.0));
                self.machine(node).fetch(fetch);
            }
            Task::Snapshot(SnapshotTask::Read { peer, index, offset }) => {
                self.read_chunk(node, peer, index, offset);
            }
            Task::Snapshot(SnapshotTask::Write { meta, offset, data, done }) => {
                self.write_chunk(node, meta, offset, &data, done);
            }
        }
    }

    fn read_chunk(&mut self, node: u64, peer: NodeId, index: u64, offset: u64) {
        let machine = self.machine(node);
        let now = machine.now;
        let meta = machine.disk.checkpoint.clone();
        let bytes = machine.disk.checkpoint_state.join(" ").into_bytes();
        let offset = if index == meta.index { offset } else { 0 };
        let begin = (offset as usize).min(bytes.len());
        let end = (begin + CHUNK_BYTES).min(bytes.len());
        let (data, done) = (bytes[begin..end].to_vec(), end == bytes.len());
        machine.core().snapshot_chunk(now, peer, meta, offset, data, done);
    }

    fn write_chunk(&mut self, node: u64, meta: SnapshotMeta, offset: u64, data: &[u8], done: bool) {
        // What was written before comes first.
        self.sync_all(node);
        let machine = self.machine(node);
        let now = machine.now;
        if offset == 0 {
            machine.side_file.clear();
        }
        let held = machine.side_file.len() as u64;
        if held < offset {
            // What was confirmed was lost with the process.
            machine.core().snapshot_written(now, meta.index, held, None);
            return;
        }
        assert_eq!(held, offset, "chunks come in order");
        machine.side_file.extend_from_slice(data);
        let (index, next) = (meta.index, offset + data.len() as u64);
        if !done {
            machine.core().snapshot_written(now, index, next, None);
            return;
        }
        let text = String::from_utf8(std::mem::take(&mut machine.side_file)).expect("is text");
        machine.state = text.split_whitespace().map(str::to_owned).collect();
        machine.disk.checkpoint_state.clone_from(&machine.state);
        machine.disk.checkpoint = meta.clone();
        machine.disk.restart_log();
        if !self.has_liars {
            self.checker.installed(NodeId(node), &meta).unwrap();
        }
        self.say(Detail::Outcome, format!("{node} installs {index}@{}", meta.term));
        self.machine(node).core().snapshot_written(now, index, next, Some(meta));
    }

    /// Takes the selected messages off the wire.
    pub(crate) fn take(&mut self, select: &Select) -> Vec<Envelope<Cmd>> {
        let mut taken = Vec::new();
        let mut rest = Vec::new();
        for envelope in self.wire.drain(..) {
            let more = !select.first || taken.is_empty();
            if more && select.fits(&envelope) {
                taken.push(envelope);
            } else {
                rest.push(envelope);
            }
        }
        self.wire = rest;
        taken
    }

    pub(crate) fn deliver(&mut self, envelope: Envelope<Cmd>) {
        let (from, to) = (envelope.from.0, envelope.to.0);
        let up = self.machines.get(&to).is_some_and(|machine| machine.node.is_some());
        if up && !self.cut.contains(&(from, to)) {
            self.say(Detail::Everything, print::message(&envelope));
            self.with(to, |core, now| core.step(now, envelope));
        }
    }

    /// Delivers everything, and what it leads to, until the wire is empty.
    pub(crate) fn settle(&mut self) {
        for _ in 0..MAX_DELIVERIES {
            if self.wire.is_empty() {
                return;
            }
            let envelope = self.wire.remove(0);
            self.deliver(envelope);
        }
        panic!("the cluster does not come to rest: {:#?}", self.wire);
    }

    /// The clock of one replica goes on, and its timers run.
    pub(crate) fn pass(&mut self, node: u64, us: u64) {
        let until = self.machine(node).now + us;
        while let Some(core) = &self.machine(node).node {
            let deadline = core.next_deadline();
            if deadline > until {
                break;
            }
            let machine = self.machine(node);
            machine.now = machine.now.max(deadline);
            self.with(node, |core, now| core.tick(now));
        }
        self.machine(node).now = until;
        if self.machine(node).node.is_some() {
            self.turn(node);
        }
    }

    /// The clock of one replica jumps to its next deadline.
    pub(crate) fn time_out(&mut self, node: u64) {
        let machine = self.machine(node);
        machine.now = machine.now.max(machine.core().next_deadline());
        self.with(node, |core, now| core.tick(now));
    }

    /// All clocks go on together while messages flow.
    pub(crate) fn run(&mut self, us: u64) {
        const STEP_US: u64 = 10_000;
        let nodes: Vec<u64> = self.machines.keys().copied().collect();
        for _ in 0..us / STEP_US {
            for &node in &nodes {
                self.pass(node, STEP_US);
            }
            self.settle();
        }
    }
}
