//! Handing leadership over (dissertation, section 3.10).

use crate::error::TransferError;
use crate::message::Message;
use crate::node::{Node, Role};
use crate::types::{NodeId, Payload, Time};

/// A transfer under way.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) to: NodeId,
    /// Proposals are accepted again from then on, if this replica still leads.
    pub(crate) deadline: Time,
    /// The target was told to campaign since the last heartbeat.
    pub(crate) told: bool,
}

impl<P: Payload> Node<P> {
    /// Hands leadership to `to`, or to the voter that is furthest along. The
    /// target is brought up to date and then told to campaign. Until one
    /// election timeout is over proposals are refused; after it they are
    /// accepted again if no new leader has appeared.
    ///
    /// # Errors
    /// When this replica does not lead, or nobody can take over.
    pub fn transfer(&mut self, now: Time, to: Option<NodeId>) -> Result<(), TransferError> {
        self.advance(now);
        let Role::Leader(leader) = &self.role else {
            return Err(TransferError::NotLeader { leader: self.leader });
        };
        if let Some(transfer) = &leader.transfer {
            return Err(TransferError::InProgress { to: transfer.to });
        }
        let to = match to {
            Some(to) if to == self.config.id => return Ok(()),
            Some(to) if !self.memberships.current().is_voter(to) => {
                return Err(TransferError::NotVoter(to));
            }
            Some(to) => to,
            None => self.best_successor().ok_or(TransferError::NoCandidate)?,
        };
        let deadline = self.now.saturating_add(self.config.election_timeout_max_us);
        if let Role::Leader(leader) = &mut self.role {
            leader.transfer = Some(Transfer { to, deadline, told: false });
        }
        Ok(())
    }

    /// The voter that was heard lately and is furthest along.
    pub(crate) fn best_successor(&self) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        let recent = self.config.election_timeout_min_us;
        let heard = |at: Time| self.now.saturating_sub(at) <= recent;
        let voters = leader.peers.iter().filter(|peer| peer.voter && heard(peer.last_contact));
        voters.max_by_key(|peer| peer.matched).map(|peer| peer.id)
    }

    /// Whether the target of a transfer has everything and is to be told.
    pub(crate) fn transfer_due(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        leader.transfer.as_ref().is_some_and(|transfer| {
            let mut peers = leader.peers.iter();
            let complete = |matched| matched == self.log.last().index;
            !transfer.told && peers.any(|peer| peer.id == transfer.to && complete(peer.matched))
        })
    }

    /// Tells the target of a transfer to campaign once it has everything;
    /// again with each heartbeat, since the message may be lost.
    pub(crate) fn tell_successor(&mut self) {
        if !self.transfer_due() {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        transfer.told = true;
        // From now on an election may override stickiness at any time.
        leader.reads.give_up_lease();
        self.out.say(&self.ballot, transfer.to, Message::TimeoutNow);
    }

    /// The leader wants this replica to take over.
    pub(crate) fn on_timeout_now(&mut self, from: NodeId) {
        if self.leader != Some(from) || !matches!(self.role, Role::Follower(_)) {
            self.out.reject(from, "is not the leader and cannot hand leadership over");
        } else if self.may_campaign() {
            self.start_election(true);
        }
    }
}
