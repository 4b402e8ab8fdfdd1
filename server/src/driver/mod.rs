//! The driver: sole owner of the Raft node, the keystore and everything that
//! waits for them. It is as pure as the core below it: no clock, no socket,
//! no file, no task. The shell (or the simulator) feeds it inputs, asks for
//! [`Actions`] and carries them out.
//!
//! One turn, in this order:
//!
//! 1. the inputs: [`Driver::client`], [`Driver::message`], [`Driver::synced`], ...
//! 2. [`Driver::flush`]: what the inputs led to, as [`Actions`]: messages to
//!    send at once, a batch for the log-file, forwarded requests;
//! 3. the shell sends and hands the batch to the log-file, so that the disk
//!    and the network work while
//! 4. [`Driver::apply`] applies what is committed and answers those who wait;
//! 5. all over from 2 while [`Driver::wants_flush`] says so.
//!
//! # What becomes of a batch of requests
//!
//! - It contains a write, and this server leads: every write becomes one
//!   entry. The reads of the batch are answered between the writes as they
//!   are applied: the commit of an entry that was proposed after the read
//!   arrived proves leadership as well as a read round would.
//! - It contains a write, and another server leads: the rest of the batch is
//!   forwarded there as a whole, and the leader's bytes come back. It has ids
//!   that let it be sent to the next leader, too, and take effect once: the
//!   client's own if it has named its writes, else those of this server.
//! - It only reads: it joins the group of this turn, which asks the core for
//!   one read index, on the leader as on followers.
//! - Nobody leads: it is parked until somebody does, or its deadline passes.
//!
//! # What is certain
//!
//! An entry of ours is known not to be executed only when another entry was
//! *committed* at its index. That it was truncated here proves nothing: a
//! replica that still has it may yet win an election and commit it. Until one
//! or the other is applied the outcome is unknown, and a deadline turns that
//! into the honest error text.
//!
//! A forwarded batch is known not to be executed only when *every* sending of
//! it was refused. Once it is sent again after an answer got lost, no leader
//! may say of it what it could say of a new one, such as that there is no room
//! for it: it executes the batch, or leaves it to the forwarder to try again.

mod apply;
mod integrity;
mod job;
mod leadership;
mod memory;
mod route;
mod sending;
mod snapshot;
mod stats;
#[cfg(test)]
mod tests;
mod trouble;
mod waiting;

use std::collections::VecDeque;

use bytes::BytesMut;
use common::forward::{self, WriteIds};
use common::front_end::Batch;
use raft::{Envelope, Fetch, NodeId, Output, Persist, SnapshotTask, Time};

use crate::command::{Command, Payload};
use crate::keystore::{Keystore, PlantedBug};
use integrity::Integrity;
pub use integrity::{DigestReport, IntegrityFailure, IntegrityOptions};
use job::Job;
use sending::Sender;
pub use snapshot::Chunk;
pub use stats::{Facts, ServerStats};
use waiting::{Forwards, Proposed, ReadGroup};

/// The core, with this server's commands.
pub type Node = raft::Node<Payload>;

/// What time it is, as the shell sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Monotonic, microseconds from an arbitrary origin.
    pub mono_us: Time,
    /// Unix milliseconds; may jump. Only a leader looks at it, to stamp
    /// entries, and never lets the stamps go back.
    pub wall_ms: u64,
}

/// What the shell is to do after a turn.
#[derive(Debug, Default)]
pub struct Actions {
    /// Raft messages that may leave at once.
    pub send: Vec<Envelope<Payload>>,
    /// For the log-file: append, make durable, then [`Driver::synced`].
    pub persist: Option<Persist<Payload>>,
    /// Requests that the leader is to execute.
    pub forward: Vec<Forward>,
    /// Forwarded requests that this server did not execute: to be told to
    /// those who sent them.
    pub refuse: Vec<Refused>,
    /// Entries to be read from the log-file, then `Driver::fetched`.
    pub fetch: Vec<Fetch>,
    /// Snapshot chunks to be read or written.
    pub snapshots: Vec<SnapshotTask>,
    /// What this server noted at integrity checks, for the leader.
    pub digests: Vec<(NodeId, DigestReport)>,
    /// This server's keystore is not that of the others: it must answer nothing
    /// any more and fetch its data from them again.
    pub integrity_failure: Option<IntegrityFailure>,
    /// The log of this leader contradicts what is committed in this server's:
    /// it must answer nothing any more.
    pub contradicted_by: Option<NodeId>,
    /// The role, the leader or the membership changed.
    pub changed: bool,
}

/// Something on its way to the leader.
#[derive(Debug)]
pub struct Forward {
    /// The leader.
    pub to: NodeId,
    /// This server's own number for it.
    pub number: u64,
    /// What is asked for.
    pub what: ForwardWhat,
}

/// What the leader is asked for.
#[derive(Debug)]
pub enum ForwardWhat {
    /// To execute a batch.
    Requests {
        /// Names its writes.
        ids: WriteIds,
        /// `common::memcached::encode_requests`.
        requests: BytesMut,
    },
    /// To open this session.
    OpenSession(u64),
}

impl Forward {
    /// Appends its frame.
    pub fn encode(&self, out: &mut BytesMut) {
        match &self.what {
            ForwardWhat::Requests { ids, requests } => {
                forward::encode_requests_head(self.number, ids, out);
                out.extend_from_slice(requests);
            }
            ForwardWhat::OpenSession(session) => {
                forward::encode_open_session(self.number, *session, out);
            }
        }
    }
}

/// A forwarded batch that was not executed, or not to the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Which.
    pub id: ForwardId,
    /// Why.
    pub why: Refusal,
}

/// Why a forwarded batch was not executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// This server does not lead, or has no room for it now: nothing was
    /// executed.
    NotLeader,
    /// The session of its writes is not known: nothing was executed.
    SessionUnknown,
    /// The leadership was lost on the way: a part was executed.
    Lost,
}

impl Refused {
    /// Appends its frame.
    pub fn encode(&self, out: &mut BytesMut) {
        match self.why {
            Refusal::NotLeader => forward::encode_not_leader(self.id.number, out),
            Refusal::SessionUnknown => forward::encode_session_unknown(self.id.number, out),
            Refusal::Lost => forward::encode_lost(self.id.number, out),
        }
    }
}

/// Who forwards batches to this server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Forwarder {
    /// Another server.
    Peer(NodeId),
    /// A load balancer, by the shell's number of its link.
    LoadBalancer(u64),
}

/// Names a batch that was forwarded to this server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ForwardId {
    /// Who sent it.
    pub from: Forwarder,
    /// The sender's number.
    pub number: u64,
}

/// See the module's page.
pub struct Driver {
    node: Node,
    keystore: Keystore,
    facts: Facts,
    stats: ServerStats,
    output: Output<Payload>,
    /// Committed, waiting for [`Driver::apply`].
    committed: VecDeque<raft::Entry<Payload>>,
    /// Buffer that entries are encoded into; payloads are slices of it.
    encode: BytesMut,
    /// The highest clock that was stamped or applied, unix milliseconds.
    clock_ms: u64,
    proposed: VecDeque<Proposed>,
    /// Reads that arrived in this turn.
    reading: Vec<Job>,
    read_groups: VecDeque<ReadGroup>,
    next_read: u64,
    forwards: Forwards,
    parked: VecDeque<Job>,
    parked_bytes: usize,
    /// Something changed that lets parked batches go on.
    unpark: bool,
    refuse: Vec<Refused>,
    forward: Vec<Forward>,
    sender: Sender,
    integrity: Integrity,
    stopping: bool,
    trouble: Option<common::control::Trouble>,
}

impl Driver {
    /// A driver of `node` with the keystore as of the checkpoint that the
    /// node was restored from.
    pub fn new(node: Node, keystore: Keystore, facts: Facts) -> Self {
        let clock_ms = keystore.clock_ms();
        let forwards = Forwards::of_life(facts.started_ms);
        let sender = Sender::new(facts.session_seed);
        Driver {
            node,
            keystore,
            facts,
            stats: ServerStats::default(),
            output: Output::default(),
            committed: VecDeque::new(),
            encode: BytesMut::new(),
            clock_ms,
            proposed: VecDeque::new(),
            reading: Vec::new(),
            read_groups: VecDeque::new(),
            next_read: 1,
            forwards,
            parked: VecDeque::new(),
            parked_bytes: 0,
            unpark: false,
            refuse: Vec::new(),
            forward: Vec::new(),
            sender,
            integrity: Integrity::default(),
            stopping: false,
            trouble: None,
        }
    }

    /// Requests of a client of this server, which may have named them.
    pub fn client(&mut self, now: Now, batch: Batch) {
        let deadline = self.deadline(now, &batch);
        let ids = batch.ids;
        self.route(now, Job::new(batch, deadline, None).named(ids));
    }

    /// Requests that a peer forwards, because it takes this server for the
    /// leader, or that a load balancer brings. `ids` name them.
    pub fn forwarded(&mut self, now: Now, from: ForwardId, ids: WriteIds, batch: Batch) {
        let deadline = self.deadline(now, &batch);
        self.route(now, Job::new(batch, deadline, Some(from)).named(ids));
    }

    /// A forwarder wants `session` to be open. `batch` has no requests; it is
    /// finished once that is so.
    pub fn open_session_for(&mut self, now: Now, from: ForwardId, session: u64, batch: Batch) {
        let deadline = self.deadline(now, &batch);
        let mut job = Job::new(batch, deadline, Some(from));
        job.opens = Some(session);
        self.route(now, job);
    }

    /// A Raft message of an authenticated peer.
    pub fn message(&mut self, now: Now, envelope: Envelope<Payload>) {
        self.node.step(now.mono_us, envelope);
    }

    /// Everything up to `mark` is durable.
    pub fn synced(&mut self, now: Now, mark: raft::DurableMark) {
        self.node.synced(now.mono_us, mark);
    }

    /// Entries read for a slow peer; none: they could not be read.
    pub fn fetched(&mut self, now: Now, peer: NodeId, entries: Vec<raft::Entry<Payload>>) {
        self.node.fetched(now.mono_us, peer, entries);
    }

    /// A link to `peer` is up: what waits for it goes on.
    pub fn link_up(&mut self, _peer: NodeId) {
        self.unpark = true;
    }

    /// Asks the core to campaign at once.
    pub fn campaign(&mut self, now: Now) {
        self.node.campaign(now.mono_us);
    }

    /// Proposes a change of the membership.
    ///
    /// # Errors
    /// The core's reason.
    pub fn change(&mut self, now: Now, change: raft::Change) -> Result<(), raft::ChangeError> {
        self.node.change(now.mono_us, change).map(|_| ())
    }

    /// Hands leadership over, to the voter that is furthest along by default.
    ///
    /// # Errors
    /// The core's reason.
    pub fn transfer(&mut self, now: Now, to: Option<NodeId>) -> Result<(), raft::TransferError> {
        self.node.transfer(now.mono_us, to)
    }

    /// Stops taking requests; a leader that could not do so before hands over.
    pub fn begin_stop(&mut self, now: Now) {
        self.stopping = true;
        if self.node.is_leader() {
            // No candidate for it: the others elect after their timeout.
            let _ = self.node.transfer(now.mono_us, None);
        }
        for job in std::mem::take(&mut self.parked) {
            job.fail_not_executed(common::memcached::SHUTTING_DOWN);
        }
        self.parked_bytes = 0;
    }

    /// Whether a stopping server has nothing left to wait for.
    pub fn is_idle(&self) -> bool {
        let hands_over = self.node.is_leader() && self.node.membership().voters().count() > 1;
        !hands_over
            && self.proposed.iter().all(|proposed| proposed.job.is_none())
            && self.read_groups.is_empty()
            && self.forwards.is_empty()
    }

    /// The clock for entries that are proposed now. It never goes back along the
    /// log: not behind what was applied, nor behind what this server's log
    /// holds of an earlier leader and is not applied yet.
    fn advance_clock(&mut self, now: Now) {
        self.clock_ms = self.clock_ms.max(now.wall_ms);
        if let Some(newest) = self.node.newest_command()
            && let Ok(clock_ms) = Command::clock_of(&newest.0)
            && !self.keystore.has(PlantedBug::StampGoesBack)
        {
            self.clock_ms = self.clock_ms.max(clock_ms);
        }
    }

    /// When [`Driver::tick`] wants to be called.
    pub fn next_deadline(&self) -> Time {
        self.node.next_deadline()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now) {
        if now.mono_us >= self.node.next_deadline() {
            self.node.tick(now.mono_us);
        }
        self.expire(now);
        self.consider_check(now);
        self.unpark |= !self.parked.is_empty();
    }

    /// Collects what the inputs of this turn led to.
    pub fn flush(&mut self, now: Now, actions: &mut Actions) {
        self.flush_watched(now, actions, |_, _| {});
    }

    /// As [`Driver::flush`]; `watch` sees the core and what it produced, for
    /// whoever checks its invariants.
    pub fn flush_watched(
        &mut self,
        now: Now,
        actions: &mut Actions,
        watch: impl FnOnce(&Node, &Output<Payload>),
    ) {
        if std::mem::take(&mut self.unpark) {
            self.route_parked(now);
        }
        self.ask_read_index(now);
        // A batch that the disk has not taken yet stays in its place: the core
        // adds to it, and holds back what must not overtake it.
        self.output.persist = actions.persist.take();
        self.node.take_output(now.mono_us, &mut self.output);
        watch(&self.node, &self.output);
        let output = &mut self.output;
        actions.send.append(&mut output.send);
        actions.persist = output.persist.take();
        actions.fetch.append(&mut output.fetch);
        actions.snapshots.append(&mut output.snapshots);
        self.committed.extend(output.committed.drain(..));
        for ready in output.reads.drain(..) {
            if let Some(group) = self.read_groups.iter_mut().find(|g| g.request == ready.request) {
                group.index = Some(ready.index);
            }
        }
        self.note_events(now, actions);
        self.fail_reads(now);
        actions.refuse.append(&mut self.refuse);
        actions.forward.append(&mut self.forward);
        self.integrity.flush(actions);
    }

    /// Whether another flush into `actions` would bring anything. What waits
    /// for the disk to take the batch there does not count.
    pub fn wants_flush(&self, actions: &Actions) -> bool {
        let core = match actions.persist {
            Some(_) => self.node.has_output_beside_batch(),
            None => self.node.has_output(),
        };
        let wants = self.unpark || !self.refuse.is_empty() || !self.forward.is_empty();
        wants || core || self.integrity.has_output()
    }

    fn note_events(&mut self, now: Now, actions: &mut Actions) {
        let mut leads = None;
        for event in self.output.events.drain(..) {
            match event {
                raft::Event::Role { role, term, leader } => {
                    tracing::info!(?role, term, leader = ?leader.map(|l| l.0), "raft role");
                    actions.changed = true;
                    self.unpark |= leader.is_some();
                    leads = leader.or(leads);
                }
                raft::Event::Membership { index, membership } => {
                    tracing::info!(
                        index,
                        voters = ?membership.voters().map(|id| id.0).collect::<Vec<_>>(),
                        members = membership.members.len(),
                        "membership"
                    );
                    actions.changed = true;
                }
                raft::Event::Truncated { from } => tracing::info!(from, "log suffix replaced"),
                raft::Event::FloorReached { last } => {
                    tracing::info!(index = last.index, term = last.term, "lost entries are back");
                    actions.changed = true;
                }
                raft::Event::Rejected { from, why } => {
                    if why == raft::COMMITTED_DIFFERS {
                        actions.contradicted_by = Some(from);
                    } else {
                        tracing::warn!(from = from.0, why, "message of a peer refused");
                    }
                }
            }
        }
        if let Some(leader) = leads {
            self.leader_is(now, leader);
        }
    }

    /// The keystore, for checkpoints and statistics.
    pub fn keystore(&self) -> &Keystore {
        &self.keystore
    }

    /// The core, for statistics.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Whether this server leads.
    pub fn is_leader(&self) -> bool {
        self.node.is_leader()
    }
}
