//! Load balancers serve while all is well but for their own link to the leader.
//!
//! A load balancer that reaches a server which follows a leader, that has led for a
//! while with a majority behind it, answers what it is asked: neither that there is
//! no leader, nor that the outcome is unknown. Whether it reaches the leader
//! itself makes no difference.

use std::collections::BTreeMap;

use common::memcached::{NO_LEADER, UNKNOWN};
use raft::{NodeId, RoleKind};

use crate::faults::Fault;
use crate::host::DiskMode;
use crate::network::lb_node;
use crate::plan::MAX_LBS;
use crate::queue::Micros;
use crate::world::World;

/// Conditions that have held for so long are steady: a link that is cut is given up
/// after a second, then all have to learn of it.
const STEADY_AFTER: Micros = 2_500_000;

/// Under which conditions a load balancer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Conditions {
    leader: usize,
    term: u64,
    /// Whether it reaches the leader itself.
    reaches_leader: bool,
    life: u32,
}

/// Since when things are as they are.
#[derive(Default)]
pub(crate) struct Steady {
    lbs: [Option<(Conditions, Micros)>; MAX_LBS],
    /// Batches that must be answered if things stay so: since when they are.
    due: BTreeMap<u64, Micros>,
}

impl Steady {
    /// Something else has gone wrong.
    pub(crate) fn begin_anew(&mut self, now: Micros) {
        for (_, since) in self.lbs.iter_mut().flatten() {
            *since = now;
        }
    }
}

impl World {
    /// Notes what has changed.
    pub(crate) fn mind_steadiness(&mut self) {
        for lb in 0..self.lbs.len() {
            self.mind_steadiness_of(lb);
        }
    }

    /// Since when the conditions of a load balancer are what they are, if they are good.
    fn mind_steadiness_of(&mut self, lb: usize) -> Option<Micros> {
        let conditions = self.conditions(lb);
        let known = &mut self.steady.lbs[lb];
        if known.map(|(known, _)| known) != conditions {
            *known = conditions.map(|conditions| (conditions, self.now));
        }
        known.map(|(_, since)| since)
    }

    fn conditions(&self, lb: usize) -> Option<Conditions> {
        let troubled = [Fault::Loss, Fault::Delay].iter().any(|fault| self.allowed.has(*fault));
        let serves = self.lbs[lb].port.as_ref().is_some_and(|port| port.stops.is_none());
        if !serves || troubled {
            return None;
        }
        let leader = self.leader().filter(|leader| self.is_well(*leader))?;
        let driver = self.hosts[leader].driver()?;
        let (id, term) = (driver.node().id(), driver.node().term());
        let membership = driver.node().membership();
        let follow: Vec<usize> = (0..self.hosts.len())
            .filter(|host| *host != leader && self.follows(*host, id, term))
            .filter(|host| self.reach_each_other(leader, *host))
            .collect();
        let votes =
            |host: &&usize| self.hosts[**host].disk.id.is_some_and(|id| membership.is_voter(id));
        let is_majority =
            2 * (1 + follow.iter().filter(votes).count()) > membership.voters().count();
        let is_linked = |host: usize| {
            self.control.is_linked(host, lb) && self.reach_each_other(host, lb_node(lb))
        };
        let reaches_leader = is_linked(leader);
        let reaches = reaches_leader || follow.iter().any(|host| is_linked(*host));
        let life = self.lbs[lb].life;
        (is_majority && reaches).then_some(Conditions { leader, term, reaches_leader, life })
    }

    fn is_well(&self, host: usize) -> bool {
        let at = &self.hosts[host];
        at.process.is_some() && !at.paused && at.disk_mode == DiskMode::Fine
    }

    fn follows(&self, host: usize, leader: NodeId, term: u64) -> bool {
        self.is_well(host)
            && self.hosts[host].driver().is_some_and(|driver| {
                let status = driver.node().status();
                let is_voter = driver.node().membership().is_voter(status.id);
                status.role == RoleKind::Follower
                    && is_voter
                    && (status.leader, status.term) == (Some(leader), term)
            })
    }

    fn reach_each_other(&self, one: usize, other: usize) -> bool {
        !self.network.is_cut(one, other) && !self.network.is_cut(other, one)
    }

    /// A client asks a load balancer for something.
    pub(crate) fn expect_answer(&mut self, lb: usize, batch: u64) {
        // Of what is sent again some must be refused: see `docs/architecture.md`.
        if self.clients.ids(batch).again {
            return;
        }
        if let Some(since) = self.mind_steadiness_of(lb)
            && self.now >= since + STEADY_AFTER
        {
            self.steady.due.insert(batch, since);
        }
    }

    /// A load balancer has answered.
    pub(crate) fn check_steady_answer(&mut self, lb: usize, batch: u64, answer: &[u8]) {
        let Some(since) = self.steady.due.remove(&batch) else { return };
        if self.mind_steadiness_of(lb) != Some(since) {
            return;
        }
        let refused = [NO_LEADER, UNKNOWN].into_iter().find(|text| {
            answer.split(|byte| *byte == b'\n').any(|line| line.starts_with(text.as_bytes()))
        });
        if let Some(text) = refused {
            let conditions = self.steady.lbs[lb];
            let what =
                format!("lb-{} says of batch {batch} `{text}`, under {conditions:?}", lb + 1);
            self.fail("load balancers serve while their servers do", what);
        }
    }
}
