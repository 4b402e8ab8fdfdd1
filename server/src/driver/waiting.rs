//! What waits: for its entries to be applied, for a read index, for a leader's
//! answer, for a leader.

use std::collections::BTreeMap;

use raft::{Index, NodeId, Term, Time};

use super::job::Job;

/// A batch whose writes are in the log. Its entries are consecutive, since a
/// batch is proposed at one go.
#[derive(Debug)]
pub(super) struct Proposed {
    pub(super) first: Index,
    pub(super) last: Index,
    pub(super) term: Term,
    /// Bytes by which its stores may make the keystore grow.
    pub(super) growth: u64,
    /// Sessions that it opens, at the most.
    pub(super) opens: usize,
    /// `None` once it was answered by its deadline.
    pub(super) job: Option<Job>,
}

/// Reads that share one read index.
#[derive(Debug)]
pub(super) struct ReadGroup {
    pub(super) request: u64,
    /// Set once the core has answered: serve when this is applied.
    pub(super) index: Option<Index>,
    pub(super) jobs: Vec<Job>,
}

/// Batches that the leader executes for this server.
#[derive(Debug)]
pub(super) struct Forwards {
    next: u64,
    waiting: BTreeMap<u64, Forwarded>,
}

#[derive(Debug)]
struct Forwarded {
    to: NodeId,
    job: Job,
}

impl Forwards {
    /// Numbers of this life of the server. They differ from those of its
    /// earlier lives, whose late answers must not be taken for new ones.
    pub(super) fn of_life(started_ms: u64) -> Self {
        Forwards { next: started_ms << 20, waiting: BTreeMap::new() }
    }

    /// A number for something else that is sent.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn insert(&mut self, to: NodeId, job: Job) -> u64 {
        let number = self.number();
        self.waiting.insert(number, Forwarded { to, job });
        number
    }

    /// The job `number`, if it was forwarded to `from`.
    pub(super) fn take(&mut self, from: NodeId, number: u64) -> Option<Job> {
        if self.waiting.get(&number)?.to != from {
            return None;
        }
        self.waiting.remove(&number).map(|forwarded| forwarded.job)
    }

    pub(super) fn take_all(&mut self, peer: NodeId) -> Vec<Job> {
        self.take_those(|forwarded| forwarded.to == peer)
    }

    /// Those that were sent to others than `leader`.
    pub(super) fn take_all_but(&mut self, leader: NodeId) -> Vec<Job> {
        self.take_those(|forwarded| forwarded.to != leader)
    }

    pub(super) fn take_expired(&mut self, now: Time) -> Vec<Job> {
        self.take_if(|job| job.deadline <= now)
    }

    pub(super) fn take_if(&mut self, matches: impl Fn(&Job) -> bool) -> Vec<Job> {
        self.take_those(|forwarded| matches(&forwarded.job))
    }

    fn take_those(&mut self, matches: impl Fn(&Forwarded) -> bool) -> Vec<Job> {
        let taken = self.waiting.extract_if(.., |_, forwarded| matches(forwarded));
        taken.map(|(_, forwarded)| forwarded.job).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
