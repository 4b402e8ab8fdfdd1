//! One host: its disk, its clocks and, while it runs, the server process on
//! it. Plays the part of the shell: the real driver, driven in the order in
//! which the shell drives it, with virtual devices.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use common::control::MemberInfo;
use common::ids::{ClusterId, FolderId};
use lb::registry::LinkId;
use raft::{Fetch, NodeId, SnapshotTask};
use server::driver::{Driver, Facts};
use server::membership::{self, Rules};

use crate::clock::Clock;
use crate::disk::Disk;
use crate::network::Lane;
use crate::process::{Input, Process};
use crate::queue::Micros;
use crate::watch::Watch;

/// The driver is asked at least so often (as in the shell).
const LONGEST_SLEEP: Micros = 50_000;

/// A host, running or not.
pub(crate) struct Host {
    pub(crate) number: usize,
    /// Counts the folders that this host has had: a wiped disk is another
    /// server.
    pub(crate) folder: u64,
    pub(crate) disk: Disk,
    pub(crate) clock: Clock,
    pub(crate) process: Option<Process>,
    /// Counts starts and crashes: what was scheduled for an earlier life is
    /// void.
    pub(crate) life: u32,
    pub(crate) paused: bool,
    pub(crate) disk_mode: DiskMode,
    /// How this folder is found, also as the membership has it.
    info: (MemberInfo, Arc<[u8]>),
    /// Without a place in a cluster it is there from then on.
    pub(crate) fresh_from: Micros,
    /// The cluster that a load balancer has told a fresh server of.
    pub(crate) heard_of: Option<ClusterId>,
    /// Load balancers that have told a fresh server what they know.
    pub(crate) heard: BTreeSet<usize>,
    /// It knows no load balancer any more.
    pub(crate) unlisted: bool,
    /// The disk as it was at some earlier stop.
    pub(crate) earlier: Option<Disk>,
    /// It has that now, and nobody has said yet what to make of it.
    pub(crate) put_back: bool,
    /// The run that waits to be a member: it goes on when it is one.
    fresh_run: bool,
}

/// How the disk treats syncs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DiskMode {
    Fine,
    Slow,
    /// The next sync fails.
    Failing,
    /// There is no room for the next batch.
    Full,
}

/// What a turn asks of the world.
pub(crate) struct Outgoing {
    pub(crate) frames: Vec<(NodeId, Lane, Bytes, u32)>,
    pub(crate) fetches: Vec<Fetch>,
    pub(crate) snapshots: Vec<SnapshotTask>,
    /// Answers for clients; `None`: the connection was closed instead.
    pub(crate) answers: Vec<(u64, Option<BytesMut>)>,
    /// Answers for load balancers, by the links that they asked over.
    pub(crate) routed: Vec<(LinkId, Bytes)>,
    /// A batch went to the disk.
    pub(crate) wrote: bool,
    /// Sees everything that the cores do.
    pub(crate) watch: Watch,
    /// How the hosts of this run behave.
    pub(crate) ways: Ways,
}

/// How the hosts of a run behave.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Ways {
    /// A batch goes to the disk beside the turn on followers, too.
    pub(crate) thread: bool,
    /// Planted: the disk is believed before it is done.
    pub(crate) ack_before_sync: bool,
    /// By which rules leaders look after the membership; `None` where nobody
    /// comes or goes.
    pub(crate) rules: Option<Rules>,
}

/// How the folder of a host is found, and that as the membership has it.
fn info_of(host: usize, folder: u64) -> (MemberInfo, Arc<[u8]>) {
    let number = host as u8 + 1;
    let info = MemberInfo {
        folder: FolderId(u128::from(number) << 64 | u128::from(folder)),
        name: format!("srv-{number}"),
        peer: ([10, 0, 0, number], 6001).into(),
        client: ([10, 0, 0, number], 7001).into(),
        run: None,
    };
    let bytes = membership::info_bytes(&info);
    (info, bytes)
}

impl Outgoing {
    pub(crate) fn say(&mut self, to: NodeId, lane: Lane, frame: BytesMut) {
        self.frames.push((to, lane, frame.freeze(), self.watch.silence.next()));
    }
}

impl Host {
    pub(crate) fn new(number: usize, origin: u64, disk: Disk) -> Self {
        let mut host = Host {
            number,
            folder: 0,
            disk,
            clock: Clock::new(origin),
            process: None,
            life: 0,
            paused: false,
            disk_mode: DiskMode::Fine,
            info: info_of(number, 0),
            fresh_from: 0,
            heard_of: None,
            heard: BTreeSet::new(),
            unlisted: false,
            earlier: None,
            put_back: false,
            fresh_run: false,
        };
        host.begin_fresh_run();
        host
    }

    /// Starts over with an empty folder.
    pub(crate) fn begin_anew(&mut self, disk: Disk) {
        self.disk = disk;
        self.folder += 1;
        self.info = info_of(self.number, self.folder);
        self.heard_of = None;
        self.heard.clear();
        self.unlisted = false;
        self.earlier = None;
        self.put_back = false;
        self.begin_fresh_run();
    }

    /// A process starts that is no member yet: the folder's next run.
    pub(crate) fn begin_fresh_run(&mut self) {
        self.fresh_run = false;
        self.begin_run();
        self.fresh_run = true;
    }

    /// A process starts: the folder's next run, unless it is a member only now.
    pub(crate) fn begin_run(&mut self) {
        if !std::mem::take(&mut self.fresh_run) {
            let nonce = (self.number as u64) << 48 ^ self.folder << 32 ^ u64::from(self.life);
            self.info.0.run = Some(self.disk.runs.begin(nonce));
        }
    }

    /// Whether a server runs here that is no member of anything.
    pub(crate) fn is_fresh_and_up(&self, now: Micros) -> bool {
        self.disk.id.is_none() && now >= self.fresh_from
    }

    /// What the driver is told about itself.
    pub(crate) fn facts(&self, started_ms: u64, session_seed: u64) -> Facts {
        Facts {
            info: self.info.0.clone(),
            cluster: self.disk.cluster.unwrap_or(ClusterId(0)),
            pid: 0,
            counters: Arc::default(),
            started_ms,
            session_seed,
        }
    }

    /// How this folder is found.
    pub(crate) fn member_info(&self) -> &MemberInfo {
        &self.info.0
    }

    /// How the membership names this folder.
    pub(crate) fn info(&self) -> Arc<[u8]> {
        Arc::clone(&self.info.1)
    }

    /// The driver, if the process runs.
    pub(crate) fn driver(&self) -> Option<&Driver> {
        self.process.as_ref().map(|process| &process.driver)
    }

    /// Whether the process runs and is not held up.
    pub(crate) fn is_awake(&self) -> bool {
        !self.paused && self.process.as_ref().is_some_and(|process| !process.inline)
    }

    /// One turn: inputs first, then timers.
    pub(crate) fn turn(&mut self, at: Micros, out: &mut Outgoing) {
        let now = self.clock.now(at);
        let Some(process) = &mut self.process else { return };
        let inputs = std::mem::take(&mut process.inbox);
        if !inputs.is_empty() {
            out.watch.silence.begin(inputs.iter().map(Input::chain).max().unwrap_or(0));
            for input in inputs {
                process.input(now, input);
            }
            process.work(now, &mut self.disk, out);
        }
        let rings = at >= process.timer_at && !process.inline;
        if rings {
            out.watch.silence.begin(0);
            process.driver.tick(now);
            if out.ways.rules.is_some() {
                process.members.mind(&mut process.driver, now);
            }
            process.work(now, &mut self.disk, out);
        }
        self.after_turn(at, rings, out);
    }

    /// The disk is done with the oldest batch; the turn that waited goes on.
    pub(crate) fn disk_done(&mut self, at: Micros, out: &mut Outgoing) {
        let now = self.clock.now(at);
        let Some(mark) = self.disk.synced() else { return };
        let Some(process) = &mut self.process else { return };
        process.writing = false;
        process.inline = false;
        out.watch.silence.begin(0);
        if !out.ways.ack_before_sync {
            out.watch.synced(process.id, &mark);
            process.driver.synced(now, mark);
        }
        process.work(now, &mut self.disk, out);
        self.after_turn(at, false, out);
    }

    /// Sets the timer, which only moves nearer until it has rung.
    fn after_turn(&mut self, at: Micros, rang: bool, out: &mut Outgoing) {
        let Some(process) = &mut self.process else { return };
        process.collect_answers(out);
        let deadline = self.clock.when(process.driver.next_deadline());
        let wake_at = deadline.max(at + 1).min(at + LONGEST_SLEEP);
        if rang || wake_at < process.timer_at || process.timer_at == 0 {
            process.timer_at = wake_at;
        }
    }
}
