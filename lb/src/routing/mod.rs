//! The way of a client's requests to the servers and back.
//!
//! The servers have dialled the load balancer to register; the same links
//! carry the requests ([`common::forward`]). One read from a client is one
//! frame to a server, and the answer to it one write to the client; frames of
//! several connections that are sent in one turn of the runtime share packets.
//!
//! - A run of requests with a write among them goes to the leader; one that
//!   only reads goes where the [`Policy`] says. Followers confirm with the
//!   leader before they answer (ReadIndex), so all reads are linearizable.
//! - While the leader is not seen from here, what is for it goes to a server that
//!   follows it, which hands it on. Another one takes its place if it is lost, or
//!   does not do so.
//! - What cannot go anywhere is parked, within bounds and until its deadline.
//! - Reads whose server is lost, or follows nobody any more, go elsewhere.
//! - Writes whose leader is lost or deposed go to the new leader at once,
//!   under the ids that make them take effect once: the client's own if it has
//!   named them, else those of a [`Session`] of this process. Only if the
//!   session has ended meanwhile can nobody tell whether they were executed,
//!   and that is what the client is told.
//!
//! [`Router`] does no IO but to queue frames; it is told the time. It knows
//! links and routes, not servers: those are the balancer's business.

mod job;
mod planted;
mod policy;
mod routes;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use common::forward::{self, ForwardReply, Session, WriteIds};
use common::ids::ServerId;
use common::limits::{LATE_CHANCE, MAX_PARKED_BATCHES, MAX_PARKED_BYTES, MAX_ROUTED_BYTES};
use common::memcached::{BUSY, NO_LEADER, SHUTTING_DOWN, TOO_LARGE, encode_requests};
use common::udp::{Lane, Link, SendError};

use crate::config::Policy;
use crate::registry::LinkId;
pub use job::{Job, proceed};
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
#[cfg(not(feature = "planted-bugs"))]
use planted::PlantedBug;
use policy::Chooser;
pub use routes::Routes;

/// A load balancer that stops answers everything before its front end closes
/// the connections.
const ANSWER_WITHIN: Duration = Duration::from_millis(900);

/// What frames are sent over.
pub trait Wire {
    /// Queues a frame; never blocks.
    ///
    /// # Errors
    /// Why it will not be sent.
    fn send(&self, encode: impl FnOnce(&mut BytesMut)) -> Result<(), SendError>;
}

impl Wire for Link {
    fn send(&self, encode: impl FnOnce(&mut BytesMut)) -> Result<(), SendError> {
        self.send_with(Lane::Request, encode)
    }
}

/// What was done since the process started.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Routed {
    /// Requests routed to the leader because of a write in their run.
    pub(crate) writes: u64,
    /// Requests routed by the policy.
    pub(crate) reads: u64,
    /// Runs that were sent once more.
    pub(crate) retries: u64,
}

/// What was sent and is not answered.
struct Sent {
    over: LinkId,
    job: Job,
}

/// See the module's page.
pub struct Router<W> {
    links: BTreeMap<LinkId, W>,
    routes: Routes,
    /// Where writes go: the leader's own link, or one of the relays.
    over: Option<LinkId>,
    /// Who led last.
    led: Option<(ServerId, u64)>,
    chooser: Chooser,
    sent: BTreeMap<u64, Sent>,
    next_number: u64,
    parked: VecDeque<Job>,
    parked_bytes: usize,
    /// Of all jobs that are here.
    bytes: usize,
    session: Session<LinkId>,
    /// Jobs whose run is answered.
    ready: Vec<Job>,
    /// It stops, and has answered everything by then.
    stops_by: Option<Duration>,
    pub(crate) routed: Routed,
    #[cfg(feature = "planted-bugs")]
    planted: Option<PlantedBug>,
}

impl<W: Wire> Router<W> {
    /// A router without links. `session_seed` decides the ids of its sessions:
    /// drawn at random, for no two of them may be the same.
    pub fn new(policy: Policy, session_seed: u64) -> Self {
        Router {
            links: BTreeMap::new(),
            routes: Routes::default(),
            over: None,
            led: None,
            chooser: Chooser::new(policy),
            sent: BTreeMap::new(),
            next_number: 1,
            parked: VecDeque::new(),
            parked_bytes: 0,
            bytes: 0,
            session: Session::new(session_seed),
            ready: Vec::new(),
            stops_by: None,
            routed: Routed::default(),
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }

    /// Takes a job whose next run is to be routed. It comes back by
    /// [`Router::exchange`] once that is answered.
    fn submit(&mut self, now: Duration, mut job: Job) {
        if self.over.is_some() {
            job.allow(now + LATE_CHANCE);
        }
        if let Some(by) = self.stops_by {
            job.hurry(by);
        }
        let bytes = job.bytes();
        if job.is_write() {
            self.routed.writes += job.run_length();
        } else {
            self.routed.reads += job.run_length();
        }
        if self.bytes + bytes > MAX_ROUTED_BYTES {
            job.fail(BUSY, BUSY);
            return self.ready.push(job);
        }
        self.bytes += bytes;
        self.place(now, job);
    }

    /// Takes a job, if there is one, and gives one whose run is answered.
    pub fn exchange(&mut self, now: Duration, job: Option<Job>) -> Option<Job> {
        if let Some(job) = job {
            self.submit(now, job);
        }
        self.pop_ready()
    }

    /// A job whose run is answered.
    pub fn pop_ready(&mut self) -> Option<Job> {
        self.ready.pop()
    }

    /// Jobs that wait for an answer, and those that wait for a leader.
    pub fn waiting(&self) -> (usize, usize) {
        (self.sent.len(), self.parked.len())
    }

    /// A link is open.
    pub fn link_up(&mut self, id: LinkId, link: W) {
        self.links.insert(id, link);
    }

    /// A link is gone, and with it the answers that were to come over it.
    pub fn link_lost(&mut self, now: Duration, id: LinkId) {
        self.links.remove(&id);
        self.chooser.forget(id);
        self.session.link_lost(id);
        self.routes.leader.take_if(|leader| *leader == id);
        self.routes.relays.retain(|relay| *relay != id);
        self.routes.readers.retain(|reader| *reader != id);
        self.choose_way();
        for job in self.take_sent(|sent| sent.over == id) {
            self.attempt_lost(now, job);
        }
    }

    /// Who leads and who may be read from.
    pub fn set_routes(&mut self, now: Duration, routes: Routes) {
        if self.routes == routes {
            return;
        }
        let before = std::mem::replace(&mut self.routes, routes);
        let way = self.over;
        self.choose_way();
        if let Some(way) = way.filter(|way| !self.routes.has(*way)) {
            self.session.link_lost(way);
        }
        // Whoever leads opens sessions, whichever way it is asked.
        if self.routes.led != before.led {
            self.session.leader_changed();
        }
        self.open_session(now);
        if let Some(over) = self.over {
            let is_another = self.routes.led != self.led;
            self.led = self.routes.led;
            let Routes { leader, readers, .. } = self.routes.clone();
            // A leader that was only lost from sight still answers, and so does
            // whoever hands on to it; one that another one has replaced need not,
            // also if it hands on to that one now.
            let moved = self.take_sent(|sent| {
                let is_stale = sent.job.is_write() && is_another && leader != Some(sent.over);
                is_stale || (sent.over != over && !readers.contains(&sent.over))
            });
            for job in moved {
                self.attempt_lost(now, job);
            }
        }
        self.unpark(now);
    }

    /// Where writes go from now on. One relay is as good as another: it stays
    /// until it is none any more.
    fn choose_way(&mut self) {
        let Routes { leader, relays, .. } = &self.routes;
        let same = self.over.filter(|over| relays.contains(over));
        self.over = leader.or(same).or_else(|| relays.first().copied());
    }

    /// `relay` has not handed on what is for the leader: the next one is to try, but
    /// not at once, or they would be asked in turn without a pause.
    fn leave_relay(&mut self, relay: LinkId) {
        let relays = &self.routes.relays;
        if self.routes.leader.is_none()
            && self.over == Some(relay)
            && let Some(place) = relays.iter().position(|other| *other == relay)
        {
            self.over = Some(relays[(place + 1) % relays.len()]);
        }
    }

    /// What `over` answers to `number`.
    pub fn reply(&mut self, now: Duration, over: LinkId, number: u64, reply: ForwardReply) {
        if self.session.is_opening(over, number) {
            self.session.opened(now, &reply);
            // A refusal is not asked about again at once.
            match reply {
                ForwardReply::Done(_) => self.unpark(now),
                ForwardReply::NotLeader | ForwardReply::Lost => self.leave_relay(over),
                ForwardReply::SessionUnknown => {}
            }
            return;
        }
        if self.sent.get(&number).is_none_or(|sent| sent.over != over) {
            return;
        }
        let Some(Sent { mut job, .. }) = self.sent.remove(&number) else { return };
        self.chooser.answered(over);
        match reply {
            ForwardReply::Done(replies) => {
                job.done(&replies);
                self.conclude(job);
            }
            ForwardReply::NotLeader => match self.routes.leader {
                // A follower that lost its leader, or one that led: the leader itself
                // answers.
                Some(leader) if leader != over && job.is_write() => {
                    self.send_write(now, leader, job);
                }
                Some(leader) if leader != over => self.send(now, leader, job),
                _ => {
                    self.leave_relay(over);
                    self.park(now, job);
                }
            },
            ForwardReply::SessionUnknown => self.session_unknown(now, job),
            // Not at once: one that still leads has no room for all of it, and
            // would be asked again and again. Nor relays, one after the other.
            ForwardReply::Lost if self.routes.leader.is_none_or(|leader| leader == over) => {
                self.routed.retries += 1;
                job.expose();
                self.leave_relay(over);
                self.park(now, job);
            }
            ForwardReply::Lost => self.attempt_lost(now, job),
        }
    }

    /// Time has passed: what is overdue gets its answer, what is parked
    /// another try.
    pub fn tick(&mut self, now: Duration) {
        for job in self.take_sent(|sent| sent.job.deadline() <= now) {
            self.fail_unknown(job);
        }
        self.open_session(now);
        self.unpark(now);
    }

    /// Nothing new comes: what waits for a leader is refused, and what was
    /// sent is answered soon.
    pub fn stop(&mut self, now: Duration) {
        let by = now + ANSWER_WITHIN;
        self.stops_by = Some(by);
        // Also if it should be parked later, because its link is lost.
        for sent in self.sent.values_mut() {
            sent.job.hurry(by);
        }
        for mut job in self.take_parked() {
            job.hurry(by);
            self.park(now, job);
        }
    }

    /// Sends a job where it belongs.
    fn place(&mut self, now: Duration, job: Job) {
        let over = match (job.is_write(), self.over) {
            (true, leader) => leader,
            (false, leader) => self.chooser.choose(&self.routes.readers).or(leader),
        };
        match over {
            None => self.park(now, job),
            Some(over) if job.is_write() => self.send_write(now, over, job),
            Some(over) => self.send(now, over, job),
        }
    }

    fn send_write(&mut self, now: Duration, leader: LinkId, mut job: Job) {
        // The ids of a session that is over must stay, if they may have taken
        // effect: its end is what the answer will be.
        let is_named = job.is_exposed()
            || job.is_named_by_client()
            || job.ids.is_some_and(|ids| self.session.gave(&ids));
        if !is_named {
            if !self.session.is_open(now) {
                self.open_session(now);
                return self.park(now, job);
            }
            job.ids = self.session.assign(now, job.run_length());
            if job.ids.is_none() {
                return self.fail(job, BUSY);
            }
        }
        self.send(now, leader, job);
    }

    fn send(&mut self, now: Duration, over: LinkId, job: Job) {
        let Some(link) = self.links.get(&over) else { return self.park(now, job) };
        let number = self.next_number;
        self.next_number += 1;
        let ids = job.ids.map_or_else(WriteIds::default, |ids| {
            let again = job.is_exposed();
            WriteIds { again, ..self.session.with_done_below(ids) }
        });
        let sent = link.send(|out| {
            forward::encode_requests_head(number, &ids, out);
            encode_requests(job.run(), out);
        });
        match sent {
            Ok(()) => {
                self.chooser.sent(over);
                self.sent.insert(number, Sent { over, job });
            }
            // Its end will be told, and the routes change.
            Err(SendError::Closed) => self.park(now, job),
            Err(_) if job.is_exposed() => self.park(now, job),
            Err(SendError::TooLong { .. }) => self.fail(job, TOO_LARGE),
            Err(_) => self.fail(job, BUSY),
        }
    }

    /// Nobody will answer the last sending of a job.
    fn attempt_lost(&mut self, now: Duration, mut job: Job) {
        self.routed.retries += 1;
        if job.is_write() && self.has(PlantedBug::LostIsRefused) {
            return self.fail(job, NO_LEADER);
        }
        if job.is_write() && self.has(PlantedBug::OtherIds) && !job.is_named_by_client() {
            job.ids = None;
        } else if job.is_write() {
            job.expose();
        }
        self.place(now, job);
    }

    /// The refusal proves that this sending was not executed; an earlier one
    /// may have been.
    fn session_unknown(&mut self, now: Duration, mut job: Job) {
        let Some(ids) = job.ids else { return self.park(now, job) };
        if job.is_named_by_client() {
            job.fail_session();
            return self.conclude(job);
        }
        self.session.is_unknown(ids.session);
        if job.is_exposed() {
            return self.fail_unknown(job);
        }
        self.routed.retries += 1;
        job.ids = None;
        self.place(now, job);
    }

    /// Asks the leader to open a session, unless there is one.
    fn open_session(&mut self, now: Duration) {
        let Some(leader) = self.over else { return };
        let Some(link) = self.links.get(&leader) else { return };
        let number = self.next_number;
        self.next_number += 1;
        let Some(session) = self.session.open(now, leader, number) else { return };
        if link.send(|out| forward::encode_open_session(number, session, out)).is_err() {
            self.session.link_lost(leader);
        }
    }

    /// Waits for a leader, within bounds.
    fn park(&mut self, now: Duration, job: Job) {
        let room = self.parked.len() < MAX_PARKED_BATCHES
            && self.parked_bytes + job.bytes() <= MAX_PARKED_BYTES;
        let why = match room {
            _ if job.deadline() <= now => NO_LEADER,
            _ if self.stops_by.is_some() && !job.is_exposed() => SHUTTING_DOWN,
            true => {
                self.parked_bytes += job.bytes();
                return self.parked.push_back(job);
            }
            false => BUSY,
        };
        if job.is_exposed() {
            return self.fail_unknown(job);
        }
        self.fail(job, why);
    }

    fn take_parked(&mut self) -> VecDeque<Job> {
        self.parked_bytes = 0;
        std::mem::take(&mut self.parked)
    }

    /// Tries again with what is parked, in order of arrival; what is overdue
    /// is answered.
    fn unpark(&mut self, now: Duration) {
        for job in self.take_parked() {
            match job.deadline() <= now {
                true if self.has(PlantedBug::ParkedDropped) => self.bytes -= job.bytes(),
                true => self.park(now, job),
                false => self.place(now, job),
            }
        }
    }

    fn fail(&mut self, mut job: Job, why: &'static str) {
        job.fail(why, why);
        self.conclude(job);
    }

    fn fail_unknown(&mut self, mut job: Job) {
        job.fail_unknown();
        self.conclude(job);
    }

    /// The run is answered.
    fn conclude(&mut self, mut job: Job) {
        if let Some(ids) = job.ids.take() {
            self.session.answered(ids);
        }
        self.bytes -= job.bytes();
        self.ready.push(job);
    }

    fn take_sent(&mut self, matches: impl Fn(&Sent) -> bool) -> Vec<Job> {
        let chooser = &mut self.chooser;
        let taken = self.sent.extract_if(.., |_, sent| matches(sent));
        taken
            .map(|(_, sent)| {
                chooser.answered(sent.over);
                sent.job
            })
            .collect()
    }
}
