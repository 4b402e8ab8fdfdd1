//! The network between the hosts: who reaches whom, and when.

use crate::faults::{Fault, FaultSet};
use crate::plan::{MAX_HOSTS, MAX_LBS, NetworkPlan};
use crate::queue::Micros;
use crate::rng::Rng;

/// Lanes keep their own order, as on a real link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lane {
    /// Votes, heartbeats, acknowledgements.
    Urgent,
    /// Appends and snapshots.
    Bulk,
    /// Forwarded requests and their replies: neither lost nor doubled while
    /// the link is up, because the transport sees to that.
    Request,
    /// Orders that servers hand on, and the answers: as safe as requests.
    Control,
}

impl Lane {
    /// The transport sees to what is lost on it.
    fn is_safe(self) -> bool {
        matches!(self, Lane::Request | Lane::Control)
    }
}

/// Hosts and load balancers.
const MAX_NODES: usize = MAX_HOSTS + MAX_LBS;

/// The number of a load balancer in cuts; those below are the hosts.
pub(crate) fn lb_node(lb: usize) -> usize {
    MAX_HOSTS + lb
}

/// Directed pairs of nodes that cannot talk, as one fault made them.
#[derive(Clone, Default, Debug)]
pub(crate) struct Cut(pub(crate) Vec<(usize, usize)>);

pub(crate) struct Network {
    plan: NetworkPlan,
    /// What of the plan is in force: nothing after healing.
    faults: FaultSet,
    /// How many cuts block `[from][to]`.
    cuts: [[u8; MAX_NODES]; MAX_NODES],
    last_arrival: [[[Micros; MAX_HOSTS]; MAX_HOSTS]; 4],
    rng: Rng,
}

impl Network {
    pub(crate) fn new(seed: u64, plan: NetworkPlan, faults: FaultSet) -> Self {
        Network {
            plan,
            faults,
            cuts: [[0; MAX_NODES]; MAX_NODES],
            last_arrival: [[[0; MAX_HOSTS]; MAX_HOSTS]; 4],
            rng: Rng::new(seed, 2),
        }
    }

    /// When a frame that is sent now arrives; twice, if it is doubled.
    pub(crate) fn send(
        &mut self,
        now: Micros,
        (from, to): (usize, usize),
        lane: Lane,
    ) -> [Option<Micros>; 2] {
        // Drawn in any case: switching a fault off leaves the rest as it was.
        let [loss, duplicate, delay] = [(); 3].map(|()| self.rng.below(1000));
        let jitter = self.rng.around(self.plan.jitter);
        let extra = self.rng.below(self.plan.delay);
        if self.is_cut(from, to) {
            return [None, None];
        }
        let lost = self.faults.has(Fault::Loss) && loss < self.plan.loss_permille;
        if lost && !lane.is_safe() {
            return [None, None];
        }
        let mut at = now + self.plan.latency + jitter;
        let late = self.faults.has(Fault::Delay) && delay < self.plan.delay_permille;
        if late && !lane.is_safe() {
            // Not counted as the last arrival: the others do not wait for it.
            return [Some(at + extra), None];
        }
        if lost {
            at += 4 * self.plan.latency;
        }
        if !self.faults.has(Fault::Reorder) || lane.is_safe() {
            let last = &mut self.last_arrival[lane as usize][from][to];
            at = at.max(*last + 1);
            *last = at;
        }
        let twice = self.faults.has(Fault::Duplicate)
            && duplicate < self.plan.duplicate_permille
            && !lane.is_safe();
        [Some(at), twice.then_some(at + extra)]
    }

    /// How long something takes between a host and a client or a load balancer.
    pub(crate) fn client_latency(&mut self) -> Micros {
        self.plan.latency + self.rng.around(self.plan.jitter)
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[from][to] > 0
    }

    pub(crate) fn cut(&mut self, cut: &Cut) {
        for &(from, to) in &cut.0 {
            self.cuts[from][to] += 1;
        }
    }

    pub(crate) fn mend(&mut self, cut: &Cut) {
        for &(from, to) in &cut.0 {
            self.cuts[from][to] = self.cuts[from][to].saturating_sub(1);
        }
    }

    /// It behaves like this from now on.
    pub(crate) fn change(&mut self, plan: NetworkPlan, faults: FaultSet) {
        self.plan = plan;
        self.faults = faults;
    }

    /// Nothing is cut, lost, doubled or late any more.
    pub(crate) fn heal(&mut self) {
        self.cuts = [[0; MAX_NODES]; MAX_NODES];
        self.faults = FaultSet::NONE;
    }
}

impl Cut {
    /// `a` and `b` are separated, both ways or only from `a` to `b`.
    pub(crate) fn between(a: &[usize], b: &[usize], both_ways: bool) -> Self {
        let mut pairs = Vec::new();
        for &from in a {
            for &to in b {
                pairs.push((from, to));
                if both_ways {
                    pairs.push((to, from));
                }
            }
        }
        Cut(pairs)
    }
}
