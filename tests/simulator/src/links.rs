//! Links between hosts: messages go where somebody has dialled.
//!
//! Who dials whom is decided by the server's own `dialling`, with the membership
//! that each server has at that moment, which may be an old one. A host is an
//! address: who dials a former member finds whoever is there now. A link is there
//! from the first message on that it could carry; it goes with the process at
//! either end, or when it breaks. Cuts of the network keep what is on its way, and
//! keep a new link from coming about, but break none.

use std::collections::BTreeMap;

use raft::NodeId;
use server::dialling::dials_after;

use crate::bugs::Bug;
use crate::control::micros;
use crate::plan::MAX_HOSTS;
use crate::queue::Micros;
use crate::world::World;

/// The links of all pairs of hosts.
#[derive(Default)]
pub(crate) struct Links {
    /// By the smaller host, then the other.
    pairs: [[Pair; MAX_HOSTS]; MAX_HOSTS],
}

#[derive(Clone, Copy, Default)]
struct Pair {
    is_up: bool,
    /// Since when there is none, if so.
    since: Micros,
}

impl Links {
    fn pair(&mut self, (one, other): (usize, usize)) -> &mut Pair {
        &mut self.pairs[one.min(other)][one.max(other)]
    }

    /// The link between two hosts breaks.
    pub(crate) fn lose(&mut self, between: (usize, usize), now: Micros) {
        *self.pair(between) = Pair { is_up: false, since: now };
    }

    /// The process on a host begins or ends, without a link.
    pub(crate) fn lose_all(&mut self, host: usize, now: Micros) {
        (0..MAX_HOSTS).for_each(|other| self.lose((host, other), now));
    }
}

impl World {
    /// Whether there is a link between two hosts, or one comes about now.
    pub(crate) fn carries(&mut self, between: (usize, usize)) -> bool {
        let Pair { is_up, since } = *self.links.pair(between);
        if is_up {
            return true;
        }
        let (one, other) = between;
        let gets_through = !self.network.is_cut(one, other) && !self.network.is_cut(other, one);
        let waited = self.now.saturating_sub(since);
        if gets_through && (self.dials(one, other, waited) || self.dials(other, one, waited)) {
            self.links.pair(between).is_up = true;
            self.tell_runs(one, other);
            self.tell_runs(other, one);
        }
        self.links.pair(between).is_up
    }

    /// Whether the server on one host, after so long without a link, dials the
    /// server on another one, which may be another than it thinks.
    fn dials(&self, from: usize, to: usize, waited: Micros) -> bool {
        let at = |host: usize| self.hosts[host].process.as_ref();
        let (Some(caller), Some(_)) = (at(from), at(to)) else { return false };
        let members = caller.driver.members();
        let addresses: BTreeMap<_, _> =
            members.iter().map(|member| (NodeId(member.id.0), member.info.peer)).collect();
        let address = self.hosts[to].member_info().peer;
        let is_due = |peer: &NodeId| {
            let after = dials_after(caller.id, *peer, &addresses).map(micros);
            let planted = self.bug == Some(Bug::OneDials);
            after.is_some_and(|after| if planted { after == 0 } else { waited >= after })
        };
        addresses.iter().any(|(peer, at)| *at == address && is_due(peer))
    }
}
