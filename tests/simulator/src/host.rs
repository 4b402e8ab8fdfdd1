//! One host: its disk, its clocks and, while it runs, the server process on
//! it. Plays the part of the shell: the real driver, driven in the order in
//! which the shell drives it, with virtual devices.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use common::forward::{self, ForwardFrame, WriteIds};
use common::front_end::{Batch, Finish, Finished};
use common::memcached::{self, Request};
use raft::{Entry, Fetch, Index, NodeId, SnapshotMeta, SnapshotTask};
use server::command::Payload;
use server::driver::{Actions, Chunk, DigestReport, Driver, ForwardId, Forwarder, Now};
use server::keystore::Keystore;
use server::wire;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::network::Lane;
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

/// A running server.
pub(crate) struct Process {
    pub(crate) id: NodeId,
    pub(crate) driver: Driver,
    actions: Actions,
    pub(crate) inbox: Vec<Input>,
    /// The turn waits for the disk.
    inline: bool,
    /// A batch is with the disk.
    writing: bool,
    /// A checkpoint is being written.
    pub(crate) checkpointing: bool,
    /// A bit has flipped in its memory.
    pub(crate) rotten: bool,
    /// It has learnt that its data is not that of the others.
    pub(crate) differs: bool,
    /// One is needed now: something on the disk cannot be read any more.
    pub(crate) wants_checkpoint: bool,
    pub(crate) checkpointed: Index,
    /// When the timer rings next, and the earliest event that is queued for it.
    pub(crate) timer_at: Micros,
    pub(crate) queued_at: Micros,
    /// A snapshot that is being received.
    pub(crate) side_file: Vec<u8>,
    pub(crate) snapshot_work: VecDeque<SnapshotTask>,
    answers: Arc<Mutex<Vec<(Origin, Finished)>>>,
}

/// Something that happened to a process.
pub(crate) enum Input {
    /// The last of `chain` messages in a row.
    Frame {
        from: NodeId,
        lane: Lane,
        frame: Bytes,
        chain: u32,
    },
    Client {
        number: u64,
        ids: WriteIds,
        requests: Vec<Request>,
    },
    Fetched {
        peer: NodeId,
        entries: Vec<Entry<Payload>>,
    },
    Checkpointed {
        index: Index,
        first_kept: Index,
    },
    Chunk {
        peer: NodeId,
        chunk: Chunk,
    },
    Written {
        index: Index,
        next_offset: u64,
    },
    Installed {
        next_offset: u64,
        meta: SnapshotMeta,
        state: Box<Keystore>,
    },
    LinkLost(NodeId),
    Campaign,
    Transfer,
    Change(raft::Change),
}

impl Input {
    fn chain(&self) -> u32 {
        if let Input::Frame { chain, .. } = self { *chain } else { 0 }
    }
}

/// Where a batch came from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    Client(u64),
    Peer(ForwardId),
}

/// Only servers forward here.
fn peer(id: ForwardId) -> NodeId {
    match id.from {
        Forwarder::Peer(peer) => peer,
        Forwarder::LoadBalancer(link) => unreachable!("no load balancer with link {link}"),
    }
}

struct Slip {
    origin: Origin,
    answers: Arc<Mutex<Vec<(Origin, Finished)>>>,
}

impl Finish for Slip {
    fn finish(&self, finished: Finished) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push((self.origin, finished));
    }
}

/// What a turn asks of the world.
pub(crate) struct Outgoing {
    pub(crate) frames: Vec<(NodeId, Lane, Bytes, u32)>,
    pub(crate) fetches: Vec<Fetch>,
    pub(crate) snapshots: Vec<SnapshotTask>,
    /// Answers for clients; `None`: the connection was closed instead.
    pub(crate) answers: Vec<(u64, Option<BytesMut>)>,
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
}

impl Outgoing {
    fn say(&mut self, to: NodeId, lane: Lane, frame: BytesMut) {
        self.frames.push((to, lane, frame.freeze(), self.watch.silence.next()));
    }
}

impl Host {
    pub(crate) fn new(number: usize, origin: u64, disk: Disk) -> Self {
        Host {
            number,
            folder: 0,
            disk,
            clock: Clock::new(origin),
            process: None,
            life: 0,
            paused: false,
            disk_mode: DiskMode::Fine,
        }
    }

    /// How the membership names this folder.
    pub(crate) fn info(&self) -> Arc<[u8]> {
        self.info_of(self.folder)
    }

    fn info_of(&self, folder: u64) -> Arc<[u8]> {
        format!("host {} folder {folder}", self.number).into_bytes().into()
    }

    /// Whether that is, or was, a folder of this host.
    pub(crate) fn has_had(&self, info: &Arc<[u8]>) -> bool {
        (0..=self.folder).any(|folder| self.info_of(folder) == *info)
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

impl Process {
    pub(crate) fn new(id: NodeId, driver: Driver, checkpointed: Index) -> Self {
        Process {
            id,
            driver,
            actions: Actions::default(),
            inbox: Vec::new(),
            inline: false,
            writing: false,
            checkpointing: false,
            rotten: false,
            differs: false,
            wants_checkpoint: false,
            checkpointed,
            timer_at: 0,
            queued_at: Micros::MAX,
            side_file: Vec::new(),
            snapshot_work: VecDeque::new(),
            answers: Arc::default(),
        }
    }

    fn input(&mut self, now: Now, input: Input) {
        match input {
            Input::Frame { from, lane: Lane::Request, frame, .. } => {
                self.request_frame(now, from, &frame);
            }
            Input::Frame { frame, .. } => {
                let envelope = wire::decode(&frame).expect("a peer's own encoding");
                self.driver.message(now, envelope);
            }
            Input::Client { number, ids, requests } => {
                let batch = self.batch(Origin::Client(number), requests).named(ids);
                self.driver.client(now, batch);
            }
            Input::Fetched { peer, entries } => self.driver.fetched(now, peer, entries),
            Input::Checkpointed { index, first_kept } => {
                self.checkpointing = false;
                self.checkpointed = index;
                self.driver.checkpointed(index);
                self.driver.compact(first_kept);
            }
            Input::Chunk { peer, chunk } => self.driver.snapshot_chunk(now, peer, chunk),
            Input::Written { index, next_offset } => {
                self.driver.snapshot_written(now, index, next_offset);
            }
            Input::Installed { next_offset, meta, state } => {
                self.checkpointed = meta.index;
                self.rotten = false;
                self.differs = false;
                drop(self.driver.installed(now, next_offset, meta, *state));
            }
            Input::LinkLost(peer) => {
                // Often taken for the end of the process, rightly or wrongly.
                if now.mono_us.is_multiple_of(2) {
                    let term = self.driver.node().term();
                    self.driver.leader_gone(now, peer, term);
                }
                self.driver.link_lost(now, peer);
            }
            Input::Campaign => self.driver.campaign(now),
            Input::Transfer => {
                // Refused by whoever does not lead any more.
                let _ = self.driver.transfer(now, None);
            }
            Input::Change(change) => {
                // Refused while another change is under way: asked again.
                let _ = self.driver.change(now, change);
            }
        }
    }

    fn request_frame(&mut self, now: Now, from: NodeId, frame: &Bytes) {
        match forward::decode_forward(frame).expect("a peer's own encoding") {
            ForwardFrame::Requests { number, ids, requests } => {
                let requests = memcached::decode_requests(requests).expect("a peer's own encoding");
                let id = ForwardId { from: Forwarder::Peer(from), number };
                let batch = self.batch(Origin::Peer(id), requests);
                self.driver.forwarded(now, id, ids, batch);
            }
            ForwardFrame::Reply { number, reply } => {
                self.driver.forward_reply(now, from, number, &reply);
            }
            ForwardFrame::OpenSession { number, session } => {
                let id = ForwardId { from: Forwarder::Peer(from), number };
                let batch = self.batch(Origin::Peer(id), Vec::new());
                self.driver.open_session_for(now, id, session, batch);
            }
            ForwardFrame::Digest { index, digest } => {
                self.driver.digest_reported(now, from, DigestReport { index, digest });
            }
        }
    }

    fn batch(&self, origin: Origin, requests: Vec<Request>) -> Batch {
        let slip = Slip { origin, answers: Arc::clone(&self.answers) };
        let bytes = requests.len() * 64;
        Batch::new(requests, BytesMut::new(), bytes, Arc::new(slip))
    }

    /// What the shell does after the inputs.
    fn work(&mut self, now: Now, disk: &mut Disk, out: &mut Outgoing) {
        loop {
            self.flush(now, out);
            if !self.writing
                && let Some(persist) = self.actions.persist.take()
            {
                let (mark, commit) = (persist.mark, self.driver.node().commit());
                disk.write(persist, commit);
                self.writing = true;
                out.wrote = true;
                if out.ways.ack_before_sync {
                    self.driver.synced(now, mark);
                    self.flush(now, out);
                } else if !out.ways.thread && !self.driver.is_leader() {
                    self.inline = true;
                    return;
                }
            }
            self.driver.apply(now);
            // A broken rule may be that there is no end to it.
            if out.watch.violation.is_some() || !self.driver.wants_flush(&self.actions) {
                return;
            }
        }
    }

    fn flush(&mut self, now: Now, out: &mut Outgoing) {
        let watch = &mut out.watch;
        self.driver.flush_watched(now, &mut self.actions, |node, output| {
            watch.observe(node, output);
        });
        self.send(out);
    }

    /// Whether something waits for the disk, which a snapshot must not
    /// overtake.
    pub(crate) fn has_unwritten(&self) -> bool {
        self.writing || self.actions.persist.is_some()
    }

    fn send(&mut self, out: &mut Outgoing) {
        for envelope in self.actions.send.drain(..) {
            let mut frame = BytesMut::with_capacity(wire::size_hint(&envelope.message));
            wire::encode(&envelope, &mut frame);
            let lane = match wire::lane_of(&envelope.message) {
                common::udp::Lane::Bulk => Lane::Bulk,
                _ => Lane::Urgent,
            };
            out.say(envelope.to, lane, frame);
            if out.watch.trace.is_on() {
                out.watch.trace.message(&envelope);
            }
        }
        for forward in self.actions.forward.drain(..) {
            let mut frame = BytesMut::new();
            forward.encode(&mut frame);
            out.say(forward.to, Lane::Request, frame);
        }
        for refused in self.actions.refuse.drain(..) {
            let mut frame = BytesMut::new();
            refused.encode(&mut frame);
            out.say(peer(refused.id), Lane::Request, frame);
        }
        self.differs |= self.actions.integrity_failure.take().is_some();
        for (leader, report) in self.actions.digests.drain(..) {
            let mut frame = BytesMut::new();
            forward::encode_digest(report.index, report.digest, &mut frame);
            out.say(leader, Lane::Request, frame);
        }
        out.fetches.append(&mut self.actions.fetch);
        out.snapshots.append(&mut self.actions.snapshots);
    }

    fn collect_answers(&mut self, out: &mut Outgoing) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        for (origin, finished) in answers.drain(..) {
            match origin {
                Origin::Client(number) => {
                    out.answers.push((number, finished.complete.then_some(finished.out)));
                }
                // A batch that was dropped was refused, and that was told.
                Origin::Peer(_) if !finished.complete => {}
                Origin::Peer(id) => {
                    let mut frame = BytesMut::new();
                    forward::encode_done(id.number, &finished.out, &mut frame);
                    out.say(peer(id), Lane::Request, frame);
                }
            }
        }
    }

    /// The process is gone: every connection of a client breaks.
    pub(crate) fn kill(self) -> Vec<u64> {
        let answers = Arc::clone(&self.answers);
        let unread: Vec<u64> = self
            .inbox
            .iter()
            .filter_map(|input| match input {
                Input::Client { number, .. } => Some(*number),
                _ => None,
            })
            .collect();
        drop(self);
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = answers.drain(..).filter_map(|(origin, _)| match origin {
            Origin::Client(number) => Some(number),
            Origin::Peer(_) => None,
        });
        broken.chain(unread).collect()
    }
}
