//! Sending batches to the leader, under ids that let them be sent again: after
//! a failover they go to the next leader, and take effect once.
//!
//! A session is opened with the first write that is to be forwarded. A batch
//! whose last sending nobody will answer is *exposed*: it may have taken effect,
//! and keeps its ids for as long as it lives, also when this server leads
//! itself by then. One that was refused as of an unknown session, and was
//! never exposed, gets ids of another session. A client that has named its
//! writes itself is told instead: only it can give them others. Batches that
//! only read need no ids.
//!
//! What a load balancer sends to a server that does not lead is *relayed*: it
//! goes to the leader under the ids that the load balancer gave it, once, and the
//! answer goes back as it is. Nothing of that is parked here or sent again: the
//! load balancer knows better where to, and asks again under the same ids. A server
//! that led a moment ago relays nothing: it is taken for the leader still, and the load
//! balancer is about to hear who leads, and would send all of it there once more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use common::forward::{ForwardReply, Session, WriteIds};
use common::memcached;
use raft::{NodeId, Time};

use super::job::{Job, Names, Need};
use super::{Driver, Forward, ForwardWhat, Now, Refusal, Refused};
use crate::keystore::PlantedBug;

/// By then load balancers know that a server leads no more.
const NEWS_OF_LEADER: Duration = Duration::from_secs(1);

/// First sequences of batches whose clients have their answers.
type Answered = Arc<Mutex<Vec<WriteIds>>>;

/// Says that a batch is answered, by being dropped with it: whichever way it
/// ends.
#[derive(Debug)]
pub(super) struct Ticket {
    ids: WriteIds,
    answered: Answered,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).push(self.ids);
    }
}

/// This server's session.
pub(super) struct Sender {
    session: Session<NodeId>,
    answered: Answered,
    /// When this server led last.
    led_at: Option<Time>,
}

impl Sender {
    /// `seed` decides the ids of its sessions.
    pub(super) fn new(seed: u64) -> Self {
        Sender { session: Session::new(seed), answered: Answered::default(), led_at: None }
    }

    fn note_answered(&mut self) {
        for ids in self.answered.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            self.session.answered(ids);
        }
    }

    fn assign(&mut self, now: Now, job: &Job) -> Option<Names> {
        let requests = job.batch.requests.len() - job.cursor;
        let ids = self.session.assign(at(now), requests as u64)?;
        let ticket = Ticket { ids, answered: Arc::clone(&self.answered) };
        Some(Names { ids, base: job.cursor, ticket: Some(ticket) })
    }
}

fn at(now: Now) -> Duration {
    Duration::from_micros(now.mono_us)
}

impl Driver {
    /// Sends a batch of this server's clients to the leader.
    pub(super) fn forward(&mut self, now: Now, leader: NodeId, mut job: Job) {
        let mut ids = WriteIds::default();
        if job.need() == Need::Log {
            self.sender.note_answered();
            let session = &mut self.sender.session;
            let is_named = job.exposed
                || job.is_named_by_client()
                || job.names.as_ref().is_some_and(|names| session.gave(&names.ids));
            if !is_named {
                if !session.is_open(at(now)) {
                    self.open_session(now, leader);
                    return self.park(now, job);
                }
                job.names = self.sender.assign(now, &job);
                if job.names.is_none() {
                    return job.fail_not_executed(memcached::BUSY);
                }
            }
            if let Some(names) = &job.names {
                ids = self.sender.session.with_done_below(names.ids);
                // What was answered here meanwhile, by entries that this
                // server proposed itself, is not sent any more.
                ids.first_sequence += (job.cursor - names.base) as u64;
                ids.again = job.exposed;
            }
        }
        self.send_requests(leader, ids, job);
    }

    fn send_requests(&mut self, leader: NodeId, ids: WriteIds, job: Job) {
        let mut requests = BytesMut::with_capacity(job.batch.bytes + 64);
        memcached::encode_requests(&job.batch.requests[job.cursor..], &mut requests);
        let number = self.forwards.insert(leader, job);
        let what = ForwardWhat::Requests { ids, requests };
        self.forward.push(Forward { to: leader, number, what });
    }

    /// Looked at in each turn.
    pub(super) fn note_led(&mut self, now: Now) {
        if self.node.is_leader() {
            self.sender.led_at = Some(now.mono_us);
        }
    }

    /// Whether load balancers may still take this server for the leader.
    pub(super) fn led_lately(&self, now: Now) -> bool {
        let lately = |at: Time| at + NEWS_OF_LEADER.as_micros() as Time;
        self.sender.led_at.is_some_and(|at| now.mono_us < lately(at))
    }

    /// Sends what a load balancer has sent here to the leader, under its ids.
    pub(super) fn relay(&mut self, now: Now, leader: NodeId, mut job: Job) {
        if let Some(session) = job.opens {
            let number = self.forwards.insert(leader, job);
            let what = ForwardWhat::OpenSession(session);
            return self.forward.push(Forward { to: leader, number, what });
        }
        if self.keystore.has(PlantedBug::RelayRenames) && job.need() == Need::Log {
            self.sender.note_answered();
            if !self.sender.session.is_open(at(now)) {
                self.open_session(now, leader);
                return self.park(now, job);
            }
            job.names = self.sender.assign(now, &job);
        }
        let ids = job.names.as_ref().map_or_else(WriteIds::default, |names| {
            let mut ids = names.ids;
            ids.first_sequence += (job.cursor - names.base) as u64;
            WriteIds { again: job.exposed, ..ids }
        });
        self.send_requests(leader, ids, job);
    }

    /// Nobody will answer what was relayed: whoever sent it asks again, under
    /// the same ids. What only reads has not been executed in any case.
    pub(super) fn relay_lost(&mut self, now: Now, job: Job) {
        match job.forwarded {
            Some(from) if job.need() != Need::Log => self.not_leader(from),
            _ => self.ask_again(now, job),
        }
    }

    fn open_session(&mut self, now: Now, leader: NodeId) {
        let number = self.forwards.number();
        if let Some(session) = self.sender.session.open(at(now), leader, number) {
            let what = ForwardWhat::OpenSession(session);
            self.forward.push(Forward { to: leader, number, what });
        }
    }

    /// A forward that could not even be sent: nothing was executed by it.
    pub fn forward_failed(&mut self, now: Now, to: NodeId, number: u64) {
        if self.sender.session.is_opening(to, number) {
            self.sender.session.opened(at(now), &ForwardReply::NotLeader);
        } else if let Some(job) = self.forwards.take(to, number) {
            self.park(now, job);
        }
    }

    /// The answer to a forwarded batch.
    pub fn forward_reply(&mut self, now: Now, from: NodeId, number: u64, reply: &ForwardReply) {
        if self.sender.session.is_opening(from, number) {
            self.sender.session.opened(at(now), reply);
            // A refusal is not asked about again at once.
            self.unpark |= matches!(reply, ForwardReply::Done(_));
            return;
        }
        let Some(mut job) = self.forwards.take(from, number) else { return };
        match reply {
            ForwardReply::Done(bytes) => {
                job.batch.out.extend_from_slice(bytes);
                job.batch.finish();
            }
            // Not at once: the peer has no leader to name either, and would
            // be asked again and again. What was relayed is refused.
            ForwardReply::NotLeader => self.park(now, job),
            ForwardReply::SessionUnknown => self.session_unknown(now, job),
            // Nor here: one that still leads has no room for all of it, and
            // would be asked again and again. Of what was relayed, the load balancer
            // is told just that.
            ForwardReply::Lost if job.forwarded.is_none() && self.node.leader() == Some(from) => {
                job.exposed = job.names.is_some();
                self.park(now, job);
            }
            ForwardReply::Lost => self.attempt_lost(now, job),
        }
    }

    /// The refusal proves that this sending was not executed; an earlier one
    /// may have been.
    fn session_unknown(&mut self, now: Now, mut job: Job) {
        if let Some(id) = job.forwarded {
            return self.refuse.push(Refused { id, why: Refusal::SessionUnknown });
        }
        if let Some(names) = &job.names {
            self.sender.session.is_unknown(names.ids.session);
        }
        if job.is_named_by_client() {
            return job.fail_session();
        }
        if job.exposed {
            return job.fail_unknown();
        }
        // They name nothing that could come yet.
        job.names = None;
        self.park(now, job);
        self.unpark = true;
    }

    /// Nobody will answer the last sending.
    fn attempt_lost(&mut self, now: Now, mut job: Job) {
        if job.forwarded.is_some() {
            return self.relay_lost(now, job);
        }
        job.exposed = job.names.is_some();
        self.park(now, job);
        self.unpark = true;
    }

    /// The link to `peer` is gone, and with it the answers that were to come
    /// over it.
    pub fn link_lost(&mut self, now: Now, peer: NodeId) {
        self.sender.session.link_lost(peer);
        for job in self.forwards.take_all(peer) {
            self.attempt_lost(now, job);
        }
    }

    /// `leader` leads now: what others were asked goes there, under the same
    /// ids.
    pub(super) fn leader_is(&mut self, now: Now, leader: NodeId) {
        self.sender.session.leader_changed();
        for job in self.forwards.take_all_but(leader) {
            self.attempt_lost(now, job);
        }
    }

    /// This server begins anew while its links stay: whoever has forwarded something
    /// here is told that nobody will answer it any more.
    pub fn abandon_forwarded(&mut self, now: Now) -> Vec<Refused> {
        for job in self.forwards.take_if(|job| job.forwarded.is_some()) {
            self.relay_lost(now, job);
        }
        let proposed = std::mem::take(&mut self.proposed);
        for job in proposed.into_iter().filter_map(|proposed| proposed.job) {
            if job.forwarded.is_some() {
                self.ask_again(now, job);
            }
        }
        let groups = std::mem::take(&mut self.read_groups);
        for job in groups.into_iter().flat_map(|group| group.jobs) {
            if let Some(from) = job.forwarded {
                self.not_leader(from);
            }
        }
        std::mem::take(&mut self.refuse)
    }
}
