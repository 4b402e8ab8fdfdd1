//! A running server: the real driver, and what it has under way with its
//! devices.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::control::{ToLb, ToPeer, ToServer};
use common::forward::{self, ForwardFrame, WriteIds};
use common::front_end::{Batch, Finish, Finished};
use common::ids::ServerId;
use common::memcached::{self, Request};
use lb::registry::LinkId;
use raft::{Entry, Index, NodeId, SnapshotMeta, SnapshotTask};
use server::command::Payload;
use server::driver::{Actions, Chunk, DigestReport, Driver, ForwardId, Forwarder, Now};
use server::keystore::Keystore;
use server::membership::{Members, Rules};
use server::wire;

use crate::disk::Disk;
use crate::host::{Outgoing, Ways};
use crate::network::Lane;
use crate::queue::Micros;

/// A running server.
pub(crate) struct Process {
    pub(crate) id: NodeId,
    pub(crate) driver: Driver,
    pub(crate) actions: Actions,
    pub(crate) inbox: Vec<Input>,
    /// The turn waits for the disk.
    pub(crate) inline: bool,
    /// A batch is with the disk.
    pub(crate) writing: bool,
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
    pub(crate) members: Members,
    /// What it has for load balancers.
    pub(crate) to_lbs: Vec<(usize, ToLb)>,
    /// What it has for other servers, about orders.
    pub(crate) to_peers: Vec<(NodeId, ToPeer)>,
    /// Links of load balancers that have routed something here.
    lb_links: BTreeSet<u64>,
    /// A load balancer has given it another id.
    pub(crate) rejoins_as: Option<ServerId>,
    /// A load balancer has refused it: it ends.
    pub(crate) refused: bool,
    /// Because an operator has removed it.
    pub(crate) dismissed: bool,
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
    FromLb {
        lb: usize,
        message: ToServer,
    },
    /// A load balancer routes requests of its clients here.
    Routed {
        link: u64,
        frame: Bytes,
    },
    /// A link of a load balancer is gone.
    LbLost(u64),
}

impl Input {
    pub(crate) fn chain(&self) -> u32 {
        if let Input::Frame { chain, .. } = self { *chain } else { 0 }
    }
}

/// Where a batch came from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    Client(u64),
    Forwarder(ForwardId),
}

/// What is for a forwarder leaves.
fn answer(id: ForwardId, frame: BytesMut, out: &mut Outgoing) {
    match id.from {
        Forwarder::Peer(peer) => out.say(peer, Lane::Request, frame),
        Forwarder::LoadBalancer(link) => out.routed.push((LinkId(link), frame.freeze())),
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

impl Process {
    pub(crate) fn new(id: NodeId, driver: Driver, checkpointed: Index, ways: Ways) -> Self {
        let rules = ways.rules.unwrap_or_else(|| Rules::new(Duration::ZERO));
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
            members: Members::new(rules),
            to_lbs: Vec::new(),
            to_peers: Vec::new(),
            lb_links: BTreeSet::new(),
            rejoins_as: None,
            refused: false,
            dismissed: false,
        }
    }

    pub(crate) fn input(&mut self, now: Now, input: Input) {
        match input {
            Input::Frame { from, lane: Lane::Request, frame, .. } => {
                self.execute(now, Forwarder::Peer(from), &frame);
            }
            Input::Frame { from, lane: Lane::Control, frame, .. } => {
                self.hear_peer(now, from, &frame);
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
            Input::FromLb { lb, message } => self.hear_lb(now, lb, message),
            Input::Routed { link, frame } => {
                self.execute(now, Forwarder::LoadBalancer(link), &frame);
                self.lb_links.insert(link);
            }
            Input::LbLost(link) => {
                self.lb_links.remove(&link);
            }
        }
    }

    fn execute(&mut self, now: Now, from: Forwarder, frame: &Bytes) {
        match (forward::decode_forward(frame).expect("a peer's own encoding"), from) {
            (ForwardFrame::Requests { number, ids, requests }, from) => {
                let requests = memcached::decode_requests(requests).expect("a peer's own encoding");
                let id = ForwardId { from, number };
                let batch = self.batch(Origin::Forwarder(id), requests);
                self.driver.forwarded(now, id, ids, batch);
            }
            (ForwardFrame::OpenSession { number, session }, from) => {
                let id = ForwardId { from, number };
                let batch = self.batch(Origin::Forwarder(id), Vec::new());
                self.driver.open_session_for(now, id, session, batch);
            }
            (ForwardFrame::Reply { number, reply }, Forwarder::Peer(from)) => {
                self.driver.forward_reply(now, from, number, &reply);
            }
            (ForwardFrame::Digest { index, digest }, Forwarder::Peer(from)) => {
                self.driver.digest_reported(now, from, DigestReport { index, digest });
            }
            (frame, Forwarder::LoadBalancer(_)) => panic!("a load balancer says {frame:?}"),
        }
    }

    fn batch(&self, origin: Origin, requests: Vec<Request>) -> Batch {
        let slip = Slip { origin, answers: Arc::clone(&self.answers) };
        let bytes = requests.len() * 64;
        Batch::new(requests, BytesMut::new(), bytes, Arc::new(slip))
    }

    /// What the shell does after the inputs.
    pub(crate) fn work(&mut self, now: Now, disk: &mut Disk, out: &mut Outgoing) {
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
            if let Forwarder::LoadBalancer(link) = refused.id.from
                && !self.lb_links.contains(&link)
            {
                continue;
            }
            answer(refused.id, frame, out);
        }
        for (peer, message) in self.to_peers.drain(..) {
            let json = serde_json::to_vec(&message).expect("plain data");
            out.say(peer, Lane::Control, BytesMut::from(&json[..]));
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

    pub(crate) fn collect_answers(&mut self, out: &mut Outgoing) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        for (origin, finished) in answers.drain(..) {
            match origin {
                Origin::Client(number) => {
                    out.answers.push((number, finished.complete.then_some(finished.out)));
                }
                // A batch that was dropped was refused, and that was told.
                Origin::Forwarder(_) if !finished.complete => {}
                Origin::Forwarder(id) => {
                    let mut frame = BytesMut::new();
                    forward::encode_done(id.number, &finished.out, &mut frame);
                    answer(id, frame, out);
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
            Origin::Forwarder(_) => None,
        });
        broken.chain(unread).collect()
    }
}
