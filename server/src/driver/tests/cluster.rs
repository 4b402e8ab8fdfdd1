//! Drivers that hear each other through the bytes that really travel, disks
//! that are done when a test says so, and a clock that a test moves.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::control::MemberInfo;
use common::forward::{self, ForwardFrame};
use common::front_end::{Batch, Finish, Finished};
use common::ids::{ClusterId, FolderId};
use common::limits::MAX_FRAME_BYTES;
use common::memcached::decode_requests;
use raft::{Config, DurableMark, HardState, Membership, Message, NodeId, Restored, SnapshotMeta};

use super::{Answer, ids, requests};
use crate::driver::{
    Actions, DigestReport, Driver, Facts, ForwardId, ForwardWhat, Forwarder, IntegrityFailure,
    Node, Now,
};
use crate::keystore::{Keystore, KeystoreLimits};
use crate::wire;

const STEP_MS: u64 = 10;

/// Far more frames than any test needs while the clock stands still: servers
/// that send more answer each other for ever.
const MAX_FRAMES_AT_ONCE: usize = 2_000;

/// Far more rounds than a turn needs.
const MAX_ROUNDS: usize = 100;

/// What a frame on the way was, for those that tests count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Heartbeat,
    ReadIndex,
    OtherRaft,
    Open,
    Requests,
    Reply,
    Refusal,
    Digest,
}

#[derive(Clone)]
pub(super) struct Frame {
    from: u64,
    to: u64,
    kind: Kind,
    bytes: Bytes,
}

/// The servers 1, 2, ... of a cluster.
pub(super) struct Cluster {
    servers: Vec<Server>,
    now: Now,
    frames: VecDeque<Frame>,
    cut: BTreeSet<(u64, u64)>,
    /// Frames of this kind are put aside, here.
    holding: Option<Kind>,
    pub(super) held: Vec<Frame>,
    sent: Vec<(u64, Kind)>,
}

struct Server {
    driver: Driver,
    actions: Actions,
    slow_disk: bool,
    /// With the disk, while it is slow.
    writing: Option<DurableMark>,
    /// Whether forwarded requests are refused by the link.
    no_link: bool,
    failures: Vec<IntegrityFailure>,
    replies: Arc<Mutex<Vec<(u64, Bytes)>>>,
}

/// Sends the replies of a forwarded batch back, as the shell does.
struct ForwardOrigin {
    from: ForwardId,
    replies: Arc<Mutex<Vec<(u64, Bytes)>>>,
}

impl Finish for ForwardOrigin {
    fn finish(&self, finished: Finished) {
        if finished.complete {
            let mut frame = BytesMut::new();
            forward::encode_done(self.from.number, &finished.out, &mut frame);
            self.replies.lock().unwrap().push((peer(self.from), frame.freeze()));
        }
    }
}

fn peer(id: ForwardId) -> u64 {
    match id.from {
        Forwarder::Peer(peer) => peer.0,
        Forwarder::LoadBalancer(link) => unreachable!("no load balancer with link {link}"),
    }
}

fn info(id: u64) -> MemberInfo {
    MemberInfo {
        folder: FolderId(u128::from(id)),
        name: format!("srv-{id}"),
        peer: ([127, 0, 0, 1], 7000 + id as u16).into(),
        client: ([127, 0, 0, 1], 11000 + id as u16).into(),
        run: None,
    }
}

impl Cluster {
    /// `count` servers, none of which leads.
    pub(super) fn new(count: u64) -> Self {
        Cluster::with(count, |_| {})
    }

    pub(super) fn with(count: u64, set: impl Fn(&mut Config)) -> Self {
        let infos = (1..=count)
            .map(|id| (NodeId(id), serde_json::to_vec(&info(id)).expect("plain data").into()));
        let membership = Membership::of_voters(infos);
        let now = Now { mono_us: 1_000_000, wall_ms: 1_700_000_000_000 };
        let servers = (1..=count).map(|id| Server::new(now, id, &membership, &set)).collect();
        Cluster {
            servers,
            now,
            frames: VecDeque::new(),
            cut: BTreeSet::new(),
            holding: None,
            held: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// `count` servers, the first of which leads.
    pub(super) fn led(count: u64) -> Self {
        let mut cluster = Cluster::new(count);
        cluster.elect(1);
        cluster
    }

    pub(super) fn now(&self) -> Now {
        self.now
    }

    pub(super) fn set_wall_clock(&mut self, wall_ms: u64) {
        self.now.wall_ms = wall_ms;
    }

    fn server(&mut self, id: u64) -> &mut Server {
        &mut self.servers[id as usize - 1]
    }

    pub(super) fn driver(&mut self, id: u64) -> &mut Driver {
        &mut self.server(id).driver
    }

    /// A client's batch, which is one run if its first request has a token, as
    /// an input of a turn that is still to be played.
    pub(super) fn ask(&mut self, id: u64, text: &str) -> Answer {
        self.ask_sized(id, text, text.len())
    }

    /// As [`Cluster::ask`], with a batch that counts as `bytes`.
    pub(super) fn ask_sized(&mut self, id: u64, text: &str, bytes: usize) -> Answer {
        self.ask_batch(id, text, bytes, Duration::ZERO)
    }

    /// As [`Cluster::ask`], with a batch that has waited behind others.
    pub(super) fn ask_after(&mut self, id: u64, waited: Duration, text: &str) -> Answer {
        self.ask_batch(id, text, text.len(), waited)
    }

    fn ask_batch(&mut self, id: u64, text: &str, bytes: usize, waited: Duration) -> Answer {
        let answer = Answer::default();
        let origin = Arc::new(answer.clone());
        let batch = Batch::new(requests(text), BytesMut::new(), bytes, origin)
            .named(ids(text))
            .after(waited);
        let now = self.now;
        self.driver(id).client(now, batch);
        answer
    }

    /// A client's batch and all that follows from it at once.
    pub(super) fn play(&mut self, id: u64, text: &str) -> Answer {
        let answer = self.ask(id, text);
        self.run();
        answer
    }

    /// Plays turns and carries frames until nothing moves.
    pub(super) fn run(&mut self) {
        for id in 1..=self.servers.len() as u64 {
            self.turn(id);
        }
        let mut carried = 0;
        while let Some(frame) = self.frames.pop_front() {
            carried += 1;
            assert!(carried < MAX_FRAMES_AT_ONCE, "the servers never fall silent");
            let to = frame.to;
            self.deliver(&frame);
            self.turn(to);
        }
    }

    /// Lets time pass.
    pub(super) fn advance_ms(&mut self, time_ms: u64) {
        for _ in 0..time_ms / STEP_MS {
            self.now.mono_us += STEP_MS * 1000;
            self.now.wall_ms += STEP_MS;
            let now = self.now;
            for server in &mut self.servers {
                server.driver.tick(now);
            }
            self.run();
        }
    }

    pub(super) fn elect(&mut self, id: u64) {
        let now = self.now;
        self.driver(id).campaign(now);
        self.run();
        assert!(self.driver(id).is_leader(), "server {id} leads");
    }

    /// From now on nothing leaves for `id` or comes from it. What is on its
    /// way already still arrives.
    pub(super) fn isolate(&mut self, id: u64) {
        for other in 1..=self.servers.len() as u64 {
            self.cut.extend([(id, other), (other, id)]);
        }
    }

    /// From now on nothing of `from` reaches `to`.
    pub(super) fn cut(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    /// Frames of this kind do not arrive for now.
    pub(super) fn hold(&mut self, kind: Kind) {
        self.holding = Some(kind);
    }

    /// Those that were held arrive now, so often each; others pass again.
    pub(super) fn release(&mut self, times: usize) {
        self.holding = None;
        for frame in std::mem::take(&mut self.held) {
            self.frames.extend(std::iter::repeat_n(frame, times));
        }
        self.run();
    }

    /// The link between two servers breaks, with everything on its way.
    pub(super) fn break_link(&mut self, one: u64, other: u64) {
        let now = self.now;
        self.frames.retain(|frame| ![(one, other), (other, one)].contains(&(frame.from, frame.to)));
        self.driver(one).link_lost(now, NodeId(other));
        self.driver(other).link_lost(now, NodeId(one));
        self.run();
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    /// The links of `id` take no requests, or do again.
    pub(super) fn set_no_link(&mut self, id: u64, no_link: bool) {
        self.server(id).no_link = no_link;
    }

    /// What a server has found to be wrong with its data since the last time.
    pub(super) fn take_failures(&mut self, id: u64) -> Vec<IntegrityFailure> {
        std::mem::take(&mut self.server(id).failures)
    }

    /// What is written from now on is not durable before [`Cluster::sync`].
    pub(super) fn slow_disk(&mut self, id: u64) {
        self.server(id).slow_disk = true;
    }

    /// A slow disk finishes the batch that it has, if any, and some time passes.
    pub(super) fn play_slowly(&mut self, id: u64) {
        if self.server(id).writing.is_some() {
            self.sync(id);
        } else {
            self.advance_ms(STEP_MS);
        }
    }

    /// The disk finishes the batch that it has, and is given the next one.
    pub(super) fn sync(&mut self, id: u64) {
        let now = self.now;
        let server = self.server(id);
        let mark = server.writing.take().expect("a batch is with the disk");
        server.driver.synced(now, mark);
        self.run();
    }

    /// How many frames of this kind a server has sent since the last time.
    pub(super) fn take_sent(&mut self, id: u64, kind: Kind) -> usize {
        let before = self.sent.len();
        self.sent.retain(|sent| *sent != (id, kind));
        before - self.sent.len()
    }

    pub(super) fn last_index(&mut self, id: u64) -> u64 {
        self.driver(id).node().status().last_index
    }

    /// One turn, as the shell plays it.
    pub(super) fn turn(&mut self, id: u64) {
        let now = self.now;
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(rounds < MAX_ROUNDS, "the turn of server {id} never ends");
            let server = self.server(id);
            server.driver.flush(now, &mut server.actions);
            self.carry_out(id);
            let server = self.server(id);
            if server.writing.is_none()
                && let Some(persist) = server.actions.persist.take()
            {
                if server.slow_disk {
                    server.writing = Some(persist.mark);
                } else {
                    server.driver.synced(now, persist.mark);
                    continue;
                }
            }
            server.driver.apply(now);
            if !server.driver.wants_flush(&server.actions) {
                break;
            }
        }
        let replies = std::mem::take(&mut *self.server(id).replies.lock().unwrap());
        for (to, bytes) in replies {
            self.send(id, to, Kind::Reply, bytes);
        }
    }

    fn carry_out(&mut self, id: u64) {
        let now = self.now;
        let server = self.server(id);
        let no_link = server.no_link;
        let actions = &mut server.actions;
        assert!(actions.fetch.is_empty() && actions.snapshots.is_empty(), "logs stay in memory");
        let messages = std::mem::take(&mut actions.send);
        let forwards = std::mem::take(&mut actions.forward);
        let refusals = std::mem::take(&mut actions.refuse);
        let digests = std::mem::take(&mut actions.digests);
        server.failures.extend(actions.integrity_failure.take());
        for (leader, report) in digests {
            let mut frame = BytesMut::new();
            forward::encode_digest(report.index, report.digest, &mut frame);
            self.send(id, leader.0, Kind::Digest, frame.freeze());
        }
        for envelope in messages {
            let mut frame = BytesMut::new();
            wire::encode(&envelope, &mut frame);
            let kind = match envelope.message {
                Message::Heartbeat { .. } => Kind::Heartbeat,
                Message::ReadIndex { .. } => Kind::ReadIndex,
                _ => Kind::OtherRaft,
            };
            self.send(id, envelope.to.0, kind, frame.freeze());
        }
        for sent in forwards {
            if no_link {
                self.driver(id).forward_failed(now, sent.to, sent.number);
                continue;
            }
            let mut frame = BytesMut::new();
            sent.encode(&mut frame);
            let kind = match sent.what {
                ForwardWhat::Requests { .. } => Kind::Requests,
                ForwardWhat::OpenSession(_) => Kind::Open,
            };
            self.send(id, sent.to.0, kind, frame.freeze());
        }
        for refused in refusals {
            let mut frame = BytesMut::new();
            refused.encode(&mut frame);
            self.send(id, peer(refused.id), Kind::Refusal, frame.freeze());
        }
    }

    fn send(&mut self, from: u64, to: u64, kind: Kind, bytes: Bytes) {
        assert!(bytes.len() <= MAX_FRAME_BYTES, "a frame that no link carries");
        self.sent.push((from, kind));
        let frame = Frame { from, to, kind, bytes };
        if self.cut.contains(&(from, to)) {
            return;
        }
        if self.holding == Some(kind) {
            self.held.push(frame);
        } else {
            self.frames.push_back(frame);
        }
    }

    fn deliver(&mut self, frame: &Frame) {
        let now = self.now;
        let from = NodeId(frame.from);
        let server = self.server(frame.to);
        let is_raft = matches!(frame.kind, Kind::Heartbeat | Kind::ReadIndex | Kind::OtherRaft);
        if is_raft {
            let envelope = wire::decode(&frame.bytes).expect("a message");
            return server.driver.message(now, envelope);
        }
        match forward::decode_forward(&frame.bytes).expect("a request or its answer") {
            ForwardFrame::Requests { number, ids, requests } => {
                let from = ForwardId { from: Forwarder::Peer(from), number };
                let replies = Arc::clone(&server.replies);
                let bytes = requests.len();
                let requests = decode_requests(requests).expect("requests");
                let origin = Arc::new(ForwardOrigin { from, replies });
                let batch = Batch::new(requests, BytesMut::new(), bytes, origin);
                server.driver.forwarded(now, from, ids, batch);
            }
            ForwardFrame::Reply { number, reply } => {
                server.driver.forward_reply(now, from, number, &reply);
            }
            ForwardFrame::OpenSession { number, session } => {
                let from = ForwardId { from: Forwarder::Peer(from), number };
                let origin = Arc::new(ForwardOrigin { from, replies: Arc::clone(&server.replies) });
                let batch = Batch::new(Vec::new(), BytesMut::new(), 0, origin);
                server.driver.open_session_for(now, from, session, batch);
            }
            ForwardFrame::Digest { index, digest } => {
                server.driver.digest_reported(now, from, DigestReport { index, digest });
            }
        }
    }
}

impl Server {
    fn new(now: Now, id: u64, membership: &Membership, set: &impl Fn(&mut Config)) -> Self {
        let mut config = Config::new(NodeId(id), id);
        set(&mut config);
        let restored = Restored {
            hard_state: HardState::default(),
            snapshot: SnapshotMeta { membership: membership.clone(), ..SnapshotMeta::default() },
            runs: Vec::new(),
            memberships: Vec::new(),
            entries: Vec::new(),
            floor: None,
            commit: 0,
        };
        let facts = Facts {
            info: info(id),
            cluster: ClusterId(0xc0ffee),
            pid: 4711,
            counters: Arc::default(),
            started_ms: now.wall_ms,
            session_seed: id,
        };
        let node = Node::new(now.mono_us, config, restored);
        let keystore = Keystore::new(KeystoreLimits::default());
        Server {
            driver: Driver::new(node, keystore, facts),
            actions: Actions::default(),
            slow_disk: false,
            writing: None,
            no_link: false,
            failures: Vec::new(),
            replies: Arc::default(),
        }
    }
}
