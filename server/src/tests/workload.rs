//! A server's life as its disk sees it, and what was promised on the way.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use common::ids::{ClusterId, ServerId};
use common::memcached::StoreVerb;
use raft::{Body, Entry, HardState, Index, Membership, NodeId, Position, Term};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::start::{Outcome, replay, start};
use crate::command::{Command, Operation, Payload};
use crate::files::faults::{Faults, Op};
use crate::identity::{Folder, Identity};
use crate::keystore::Keystore;
use crate::keystore_file::{self, CheckpointMeta};
use crate::log_file::{LogFile, LogOptions};
use crate::shell::restore::write_members;

/// Small, so that a few entries fill a segment.
pub(super) const OPTIONS: LogOptions = LogOptions { segment_bytes: 4096, keep: false };

/// Keys are few, so that they are overwritten.
pub(super) const KEYS: u32 = 12;

/// What changes the log, one record at a time.
#[derive(Clone, Debug)]
pub(super) enum Step {
    HardState(HardState),
    /// Replaces everything from its index on.
    Entry(Entry<Payload>),
    /// A snapshot took over everything up to here.
    Reset(Index, Term),
}

/// What a log should hold.
#[derive(Clone, Default, Debug)]
pub(super) struct LogState {
    pub(super) hard_state: HardState,
    /// Where it begins: behind this index, which has this term.
    pub(super) base: (Index, Term),
    pub(super) entries: BTreeMap<Index, Entry<Payload>>,
}

/// What a crash at some point must leave. A change that is under way counts in
/// `begun` and may be there.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    /// What is done, for messages.
    pub(super) doing: &'static str,
    /// Steps that are durable.
    pub(super) durable: usize,
    /// Steps that were ever handed over.
    pub(super) begun: usize,
    /// Checkpoints that may be there.
    pub(super) checkpoints: Vec<(Index, Term)>,
    pub(super) identities: Vec<Option<Identity>>,
}

/// All that happened.
#[derive(Debug)]
pub(super) struct History {
    pub(super) journal: Vec<Op>,
    /// Notes of the journal are positions in here.
    pub(super) promises: Vec<Promise>,
    /// The log before the first step and after each.
    pub(super) states: Vec<LogState>,
    /// Every entry that was ever committed.
    pub(super) committed: BTreeMap<Index, Entry<Payload>>,
    /// What each checkpoint holds.
    pub(super) keystores: BTreeMap<Index, Keystore>,
}

struct Workload<'a> {
    dir: &'a Path,
    faults: Faults,
    random: SmallRng,
    log: Option<LogFile>,
    term: Term,
    commit: Index,
    promise: Promise,
    history: History,
}

/// Of the cluster, at all times.
pub(super) fn membership() -> Membership {
    Membership::of_voters([1, 2, 3].map(|id| (NodeId(id), b"here".as_slice().into())))
}

/// The name of a key.
pub(super) fn key(number: u32) -> String {
    format!("key-{number}")
}

/// Runs `turns` operations, chosen by `seed`, on the empty folder `dir`.
pub(super) fn run(dir: &Path, seed: u64, turns: usize) -> History {
    let promise = Promise {
        doing: "begin",
        durable: 0,
        begun: 0,
        checkpoints: Vec::new(),
        identities: vec![None],
    };
    let faults = Faults::watch(dir);
    faults.record();
    let mut workload = Workload {
        dir,
        faults,
        random: SmallRng::seed_from_u64(seed),
        log: None,
        term: 1,
        commit: 0,
        history: History {
            journal: Vec::new(),
            promises: Vec::new(),
            states: vec![LogState::default()],
            committed: BTreeMap::new(),
            keystores: BTreeMap::new(),
        },
        promise,
    };
    workload.adopt();
    workload.vote();
    for _ in 0..turns {
        match workload.random.random_range(0..100) {
            0..55 => workload.append(),
            55..60 => workload.sync(),
            60..70 => workload.checkpoint(),
            70..80 => workload.compact(),
            80..87 => workload.install(),
            87..94 => workload.restart(),
            _ => workload.vote(),
        }
        workload.settle();
    }
    workload.note("end");
    drop(workload.log.take());
    workload.history.journal = workload.faults.journal();
    workload.history
}

impl Promise {
    /// The same for promises that allow the same.
    pub(super) fn bounds(&self) -> (usize, usize, Vec<(Index, Term)>, usize) {
        (self.durable, self.begun, self.checkpoints.clone(), self.identities.len())
    }
}

impl LogState {
    pub(super) fn last(&self) -> Index {
        self.entries.keys().next_back().copied().unwrap_or(self.base.0)
    }

    /// The term at `index`, if the log knows it.
    pub(super) fn term(&self, index: Index) -> Option<Term> {
        match index == self.base.0 {
            true => Some(self.base.1),
            false => self.entries.get(&index).map(|entry| entry.term),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::HardState(hard_state) => self.hard_state = *hard_state,
            Step::Entry(entry) => {
                self.entries.retain(|index, _| *index < entry.index);
                self.entries.insert(entry.index, entry.clone());
            }
            Step::Reset(index, term) => {
                self.entries.clear();
                self.base = (*index, *term);
            }
        }
    }
}

impl Workload<'_> {
    fn note(&mut self, doing: &'static str) {
        self.promise.doing = doing;
        self.faults.note(self.history.promises.len() as u64);
        self.history.promises.push(self.promise.clone());
    }

    fn log(&mut self) -> &mut LogFile {
        self.log.as_mut().unwrap()
    }

    /// Waits for the thread that makes segments, so that the journal of a
    /// seed is always the same.
    fn settle(&mut self) {
        self.log().settle();
    }

    /// Steps that are under way from now on.
    fn begin(&mut self, doing: &'static str, steps: &[Step]) {
        for step in steps {
            let mut state = self.now().clone();
            state.step(step);
            self.history.states.push(state);
        }
        self.promise.begun += steps.len();
        self.note(doing);
    }

    /// The log as it is in memory.
    fn now(&self) -> &LogState {
        self.history.states.last().unwrap()
    }

    fn sync(&mut self) {
        self.note("sync");
        self.log().sync().unwrap();
        self.promise.durable = self.promise.begun;
        self.note("synced");
    }

    /// As a server is taken into a cluster.
    fn adopt(&mut self) {
        let address = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let new = Identity::new("srv-1", address(6001), address(7001), vec![address(5001)]);
        let adopted =
            Identity { cluster: Some(ClusterId(7)), server: Some(ServerId(3)), ..new.clone() };
        self.promise.identities.push(Some(new.clone()));
        self.note("first identity");
        let mut folder = Folder::open(self.dir).unwrap();
        folder.save(new.clone()).unwrap();
        self.promise.identities = vec![Some(new), Some(adopted.clone())];
        self.promise.checkpoints.push((0, 0));
        self.note("adopt");
        self.write_checkpoint(0, 0);
        write_members(&self.dir.join("keystore-file"), &membership()).unwrap();
        let (log, _) = LogFile::open(&self.dir.join("log-file"), OPTIONS, 0).unwrap();
        log.settle();
        self.log = Some(log);
        folder.adopt(ClusterId(7), ServerId(3)).unwrap();
        self.promise.identities = vec![Some(adopted)];
        self.note("adopted");
    }

    fn write_checkpoint(&mut self, index: Index, term: Term) {
        let keystore = replay(self.history.committed.range(..=index).map(|(_, entry)| entry));
        let meta = CheckpointMeta { index, term, membership: membership() };
        let path = self.dir.join("keystore-file");
        keystore_file::write(&path, &keystore.freeze(), &meta).unwrap();
        self.history.keystores.insert(index, keystore);
    }

    fn entry(&mut self, index: Index, term: Term) -> Entry<Payload> {
        if self.random.random_ratio(1, 12) {
            return Entry { index, term, body: Body::Noop };
        }
        let key = key(self.random.random_range(0..KEYS));
        let mut value = vec![0; self.random.random_range(0..700)];
        self.random.fill(&mut value[..]);
        let operation = Operation::Store {
            verb: StoreVerb::Set,
            key: key.as_bytes(),
            flags: index as u32,
            deadline_ms: 0,
            value: &value,
        };
        let mut bytes = Vec::new();
        Command { clock_ms: index, id: None, operation }.encode(&mut bytes);
        Entry { index, term, body: Body::Command(Payload(Bytes::from(bytes))) }
    }

    /// A batch; at times of a later leader, which replaces what was not
    /// committed. Then, mostly, a sync and a commit.
    fn append(&mut self) {
        let last = self.now().last();
        let mut hard_state = None;
        let mut first = last + 1;
        if self.random.random_ratio(1, 5) {
            self.term += 1;
            hard_state = Some(HardState { term: self.term, vote: None });
            first = self.random.random_range(self.commit + 1..=last + 1);
        }
        let count = self.random.random_range(1..6);
        let term = self.term;
        let entries: Vec<_> = (first..first + count).map(|i| self.entry(i, term)).collect();
        let steps: Vec<_> = hard_state
            .map(Step::HardState)
            .into_iter()
            .chain(entries.iter().cloned().map(Step::Entry))
            .collect();
        let commit = self.commit;
        self.begin("append", &steps);
        self.log().append(hard_state, &entries, commit).unwrap();
        if self.random.random_ratio(3, 4) {
            self.settle();
            self.sync();
            let last = self.now().last();
            let commit = self.random.random_range(self.commit..=last);
            self.committed(commit);
        }
    }

    fn committed(&mut self, commit: Index) {
        let entries: Vec<_> =
            self.now().entries.range(self.commit + 1..commit + 1).map(|(_, e)| e.clone()).collect();
        self.history.committed.extend(entries.into_iter().map(|entry| (entry.index, entry)));
        self.commit = commit;
    }

    fn vote(&mut self) {
        self.term += 1;
        let hard_state = HardState { term: self.term, vote: Some(NodeId(2)) };
        self.begin("vote", &[Step::HardState(hard_state)]);
        self.log().append(Some(hard_state), &[], 0).unwrap();
        self.sync();
    }

    fn checkpoint(&mut self) {
        let index = self.commit;
        let newest = self.promise.checkpoints[0];
        if index <= newest.0 {
            return;
        }
        let term = self.history.committed[&index].term;
        // A server checkpoints what its own disk has.
        self.sync();
        self.promise.checkpoints.push((index, term));
        self.note("checkpoint");
        self.write_checkpoint(index, term);
        self.promise.checkpoints = vec![(index, term)];
        self.note("checkpoint written");
    }

    /// What the checkpoint has is not needed in the log, but for a few entries
    /// that slow peers may want.
    fn compact(&mut self) {
        let first = self.promise.checkpoints[0].0.saturating_sub(2) + 1;
        let commit = self.commit;
        self.note("compact");
        self.log().note_commit(commit).unwrap();
        self.log().compact(first).unwrap();
        self.sync();
    }

    /// A snapshot of the leader, ahead of the log or in conflict with it.
    fn install(&mut self) {
        let last = self.now().last();
        self.term += 1;
        let term = self.term;
        let index = self.random.random_range(self.commit + 1..=last + 5);
        let entries: Vec<_> = (self.commit + 1..=index).map(|i| self.entry(i, term)).collect();
        // The leader's term is durable before it is followed.
        let hard_state = HardState { term, vote: None };
        self.begin("follow", &[Step::HardState(hard_state)]);
        self.log().append(Some(hard_state), &[], 0).unwrap();
        self.sync();
        self.history.committed.extend(entries.into_iter().map(|entry| (entry.index, entry)));
        self.promise.checkpoints.push((index, term));
        self.begin("install", &[Step::Reset(index, term)]);
        self.write_checkpoint(index, term);
        self.log().reset(Position { index, term }).unwrap();
        self.settle();
        self.log().sync().unwrap();
        self.commit = index;
        self.promise.durable = self.promise.begun;
        self.promise.checkpoints = vec![(index, term)];
        self.note("installed");
    }

    /// A stop and a start: what was written but not synced is durable then.
    fn restart(&mut self) {
        self.note("restart");
        if self.random.random_bool(0.5) {
            self.log().finish().unwrap();
        }
        drop(self.log.take());
        let Outcome::Member(started) = start(self.dir, OPTIONS) else {
            panic!("it does not start")
        };
        self.log = Some(started.log);
        self.settle();
        self.promise.durable = self.promise.begun;
        self.note("restarted");
    }
}
