//! A leader that is gone, or goes.

use raft::{NodeId, Term, TransferError};

use super::{Driver, Now};

impl Driver {
    /// The process of `leader` has ended, which led in `term`. Whether this
    /// server followed it, and does so no longer.
    pub fn leader_gone(&mut self, now: Now, leader: NodeId, term: Term) -> bool {
        self.node.leader_gone(now.mono_us, leader, term)
    }

    /// A load balancer sees that the leader of `term` is gone, and that this
    /// server is furthest along: it campaigns, if it sees no leader either.
    pub fn campaign_in(&mut self, now: Now, term: Term) {
        if self.node.term() == term && self.node.leader().is_none() {
            self.node.campaign(now.mono_us);
        }
    }

    /// Hands leadership over to whom the core thinks best, while requests are
    /// still taken. Whether that is under way: not on a server that does not
    /// lead, or is alone.
    pub fn begin_hand_over(&mut self, now: Now) -> bool {
        let result = self.node.transfer(now.mono_us, None);
        matches!(result, Ok(()) | Err(TransferError::InProgress { .. }))
    }

    /// Whether another server leads, and has been sent what waited for that.
    pub fn has_handed_over(&self) -> bool {
        let led = self.node.leader().is_some_and(|leader| leader != self.node.id());
        led && self.parked.is_empty()
    }
}
