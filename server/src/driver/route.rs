//! Which way a batch goes.

use bytes::BytesMut;
use common::control::Trouble;
use common::front_end::Batch;
use common::limits;
use common::memcached::{self, Request};
use raft::{NodeId, Time};

use super::job::{Job, Need, need};
use super::waiting::{Proposed, ReadGroup};
use super::{Driver, ForwardId, Forwarder, Now, Refusal, Refused};
use crate::command::{Command, Operation, Payload, REQUEST_ID_BYTES, RequestId};
use crate::keystore::PlantedBug;

/// Entries are encoded into chunks of this size, which their payloads share.
const ENCODE_CHUNK_BYTES: usize = 64 * 1024;

/// Bytes of a command beside its key and value, at the most.
const COMMAND_OVERHEAD_BYTES: usize = 32 + REQUEST_ID_BYTES;

/// What a request does to the keystore; `None`: it needs no entry.
fn operation(request: &Request) -> Option<Operation<'_>> {
    if need(request) != Need::Log {
        return None;
    }
    match request {
        Request::Store { verb, key, flags, value, .. } => {
            Some(Operation::Store { verb: *verb, key, flags: *flags, deadline_ms: 0, value })
        }
        Request::Delete { key, .. } => Some(Operation::Delete { key }),
        Request::Arithmetic { operation, key, delta, .. } => {
            Some(Operation::Arithmetic { operation: *operation, key, delta: *delta })
        }
        Request::OpenSession { session } => Some(Operation::OpenSession { session: *session }),
        other => unreachable!("{other:?} needs no entry"),
    }
}

impl Driver {
    /// By when a batch is answered. One that has waited behind others is only
    /// given up without a try if there is nobody to try it with.
    pub(super) fn deadline(&self, now: Now, batch: &Batch) -> Time {
        let left = match self.node.leader() {
            Some(_) => batch.time_left().max(limits::LATE_CHANCE),
            None => batch.time_left(),
        };
        now.mono_us + left.as_micros() as Time
    }

    /// Sends a batch its way; see the module's page.
    pub(super) fn route(&mut self, now: Now, mut job: Job) {
        match job.need() {
            Need::Nothing => {
                self.answer_until_log(&mut job);
                job.batch.finish();
            }
            _ if self.trouble == Some(Trouble::DataDiffer) => {
                self.refuse(job, memcached::DATA_DIFFER);
            }
            _ if self.stopping => self.refuse(job, memcached::SHUTTING_DOWN),
            Need::Read => match self.node.leader() {
                // It cannot make a new term durable, and so it cannot confirm
                // anything in it: the leader can.
                Some(leader) if self.is_out_of_room() && leader != self.node.id() => {
                    self.hand_on(now, leader, job);
                }
                _ => self.reading.push(job),
            },
            Need::Log if self.node.is_leader() => self.propose(now, job),
            Need::Log => match self.node.leader() {
                Some(leader) => self.hand_on(now, leader, job),
                None => self.park(now, job),
            },
        }
    }

    /// Hands a batch on to the leader, once: a peer that sent it took this
    /// server for the leader, and may be taken for it here in turn.
    fn hand_on(&mut self, now: Now, leader: NodeId, job: Job) {
        match job.forwarded {
            None => self.forward(now, leader, job),
            Some(ForwardId { from: Forwarder::LoadBalancer(_), .. })
                if !self.led_lately(now) && !self.keystore.has(PlantedBug::NoRelay) =>
            {
                self.relay(now, leader, job);
            }
            Some(from) => self.not_leader(from),
        }
    }

    /// Proposes every write that is left in the batch.
    fn propose(&mut self, now: Now, mut job: Job) {
        if self.is_out_of_room() && (job.exposed || job.opens.is_some()) {
            return self.put_off(now, job);
        }
        self.refuse_without_room(&mut job);
        let opens = self.refuse_sessions(now, &mut job);
        let mut growth = 0;
        // What may have been executed before can hardly be refused now.
        if self.keystore.limits().memory_bytes.is_some() && !job.exposed {
            growth = self.refuse_beyond_memory(&mut job);
        }
        if job.need() != Need::Log {
            return self.route(now, job);
        }
        self.advance_clock(now);
        let drops = job.is_named_by_client() && self.keystore.has(PlantedBug::NamesDropped);
        if (job.has_own_names() || drops) && !job.exposed {
            // This server was to forward it and leads now: nobody else can
            // have executed it, and it waits for its own entries.
            job.names = None;
        }
        let mut range = None;
        for position in job.cursor..job.batch.requests.len().max(usize::from(job.opens.is_some())) {
            let payload = match job.opens {
                Some(session) => self.encode(None, Operation::OpenSession { session }),
                None => match operation(&job.batch.requests[position]) {
                    Some(operation) => self.encode(job.id_of(position), operation),
                    None => continue,
                },
            };
            match (self.node.propose(now.mono_us, payload), &mut range) {
                (Ok((index, term)), None) => range = Some((index, index, term)),
                (Ok((index, _)), Some((_, last, _))) => *last = index,
                (Err(error), None) => return self.not_proposed(now, job, &error),
                // The bound was crossed inside this batch. What was proposed
                // counts; the rest is refused when the last of it is applied.
                (Err(_), Some(_)) => break,
            }
        }
        if let Some((first, last, term)) = range {
            // Not always the last: batches of an earlier term, whose entries
            // were dropped here but may yet be committed, can lie behind it.
            let at = self.proposed.partition_point(|waiting| waiting.first < first);
            self.proposed.insert(at, Proposed { first, last, term, growth, opens, job: Some(job) });
        }
    }

    fn not_proposed(&mut self, now: Now, job: Job, error: &raft::ProposeError) {
        match (error, job.forwarded) {
            (raft::ProposeError::Full, _) if !job.exposed && job.opens.is_none() => {
                job.fail_not_executed(memcached::BUSY);
            }
            _ => self.put_off(now, job),
        }
    }

    /// Not now: its forwarder is to try again in a moment, or this server.
    fn put_off(&mut self, now: Now, job: Job) {
        match job.forwarded {
            Some(from) => self.not_leader(from),
            None => self.park(now, job),
        }
    }

    /// Nobody can tell here what becomes of the rest of a batch. If it has
    /// ids, whoever gave them asks again.
    pub(super) fn ask_again(&mut self, now: Now, job: Job) {
        match job.forwarded {
            Some(id) if job.names.is_some() || job.opens.is_some() => {
                self.refuse.push(Refused { id, why: Refusal::Lost });
            }
            None if job.exposed => {
                self.park(now, job);
                self.unpark = true;
            }
            _ => job.fail_unknown(),
        }
    }

    pub(super) fn not_leader(&mut self, id: ForwardId) {
        self.refuse.push(Refused { id, why: Refusal::NotLeader });
    }

    /// One command, as the payload of an entry.
    fn encode(&mut self, id: Option<RequestId>, operation: Operation<'_>) -> Payload {
        let bytes = match operation {
            Operation::Store { key, value, .. } => key.len() + value.len(),
            Operation::Delete { key } | Operation::Arithmetic { key, .. } => key.len(),
            Operation::OpenSession { .. } | Operation::Check { .. } | Operation::Verdict { .. } => {
                0
            }
        } + COMMAND_OVERHEAD_BYTES;
        if self.encode.capacity() < bytes {
            self.encode = BytesMut::with_capacity(ENCODE_CHUNK_BYTES.max(bytes));
        }
        Command { clock_ms: self.clock_ms, id, operation }.encode(&mut self.encode);
        Payload(self.encode.split().freeze())
    }

    /// Does not execute the rest of a batch: one that was forwarded goes back
    /// whole, because its sender may know a better place for it.
    fn refuse(&mut self, job: Job, why: &'static str) {
        match job.forwarded {
            Some(from) if job.cursor == 0 => self.not_leader(from),
            _ => job.fail_not_executed(why),
        }
    }

    /// Waits for a leader, within bounds.
    pub(super) fn park(&mut self, now: Now, job: Job) {
        if self.stopping {
            return self.refuse(job, memcached::SHUTTING_DOWN);
        }
        if job.forwarded.is_some() {
            return self.refuse(job, memcached::NO_LEADER);
        }
        if job.deadline <= now.mono_us {
            return job.fail_not_executed(memcached::NO_LEADER);
        }
        if self.parked.len() >= limits::MAX_PARKED_BATCHES
            || self.parked_bytes + job.batch.bytes > limits::MAX_PARKED_BYTES
        {
            return job.fail_not_executed(memcached::BUSY);
        }
        self.parked_bytes += job.batch.bytes;
        self.parked.push_back(job);
    }

    /// Tries again with what is parked, in order of arrival.
    pub(super) fn route_parked(&mut self, now: Now) {
        if self.node.leader().is_none() {
            return;
        }
        for job in std::mem::take(&mut self.parked) {
            self.parked_bytes -= job.batch.bytes;
            self.route(now, job);
        }
    }

    /// One read index for all reads of this turn.
    pub(super) fn ask_read_index(&mut self, now: Now) {
        if self.reading.is_empty() {
            return;
        }
        let request = self.next_read;
        self.next_read += 1;
        let jobs = std::mem::take(&mut self.reading);
        self.read_groups.push_back(ReadGroup { request, index: None, jobs });
        self.node.read(now.mono_us, request);
    }

    /// Reads that the core could not place wait for a leader.
    pub(super) fn fail_reads(&mut self, now: Now) {
        for request in std::mem::take(&mut self.output.reads_failed) {
            let Some(position) = self.read_groups.iter().position(|g| g.request == request) else {
                continue;
            };
            for job in self.read_groups.remove(position).into_iter().flat_map(|g| g.jobs) {
                self.park(now, job);
            }
        }
    }

    /// Answers whatever has waited until its deadline.
    pub(super) fn expire(&mut self, now: Now) {
        for proposed in &mut self.proposed {
            if let Some(job) = proposed.job.take_if(|job| job.deadline <= now.mono_us) {
                job.fail_unknown();
            }
        }
        for job in self.forwards.take_expired(now.mono_us) {
            match job.forwarded {
                Some(_) => self.relay_lost(now, job),
                None => job.fail_unknown(),
            }
        }
        for group in &mut self.read_groups {
            for job in group.jobs.extract_if(.., |job| job.deadline <= now.mono_us) {
                job.fail_not_executed(memcached::NO_LEADER);
            }
        }
        self.read_groups.retain(|group| !group.jobs.is_empty());
        for job in std::mem::take(&mut self.parked) {
            if job.deadline > now.mono_us {
                self.parked.push_back(job);
            } else {
                self.parked_bytes -= job.batch.bytes;
                job.fail_not_executed(memcached::NO_LEADER);
            }
        }
    }
}
