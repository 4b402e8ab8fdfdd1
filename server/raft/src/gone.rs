//! A leader whose process has ended, as somebody outside has seen: see the
//! crate's page, "Hints".
//!
//! Nothing here touches what safety rests on (terms, votes, logs): who
//! believes a leader to be gone only stops waiting for it, and grants and asks
//! for votes as it would have done a timeout later.

use crate::node::{Node, Role};
use crate::types::{NodeId, Payload, Position, Term, Time};

/// Voters campaign one after the other in the order of their ids, this part of
/// a heartbeat apart: long enough for an election, so that hardly ever two
/// divide the votes, and for nobody to wait long if the first ones are down, or
/// behind, too.
const TURNS_PER_HEARTBEAT: u64 = 4;

/// Who has noticed asks those who have not yet again after this part of a
/// heartbeat: they notice about now.
const ASKS_PER_HEARTBEAT: u64 = 16;

/// That the leader is gone, as long as no other one is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone {
    leader: NodeId,
    /// In which it led.
    term: Term,
    /// From then on elections take their usual time again: there is no
    /// majority.
    until: Time,
    /// How long after the first in line this replica campaigns.
    wait_us: u64,
    /// Whose turn was taken for better than the own one: that is done once, in
    /// case nothing comes of it.
    gave_way_to: Option<NodeId>,
}

impl<P: Payload> Node<P> {
    /// The process of `leader`, which leads in `term`, has ended. If this
    /// replica follows it there, it does so no longer, and soon asks whether
    /// it could be elected. Whether that is so.
    ///
    /// A false alarm is harmless unless a majority falls for it: the others
    /// still refuse pre-votes, and the leader's next message ends the matter.
    /// Then it costs an election. It is ignored with lease reads, since leases
    /// count on those who hear a leader to stick to it.
    pub fn leader_gone(&mut self, now: Time, leader: NodeId, term: Term) -> bool {
        self.advance(now);
        let follows = matches!(self.role, Role::Follower(_)) && self.leader == Some(leader);
        if !follows || term != self.term() || self.config.lease_reads {
            return false;
        }
        let until = self.now.saturating_add(self.config.election_timeout_max_us);
        let voters = self.memberships.current().voters();
        let before = voters.filter(|voter| *voter != leader && *voter < self.config.id);
        let turn = self.config.heartbeat_us / TURNS_PER_HEARTBEAT;
        let wait_us = turn.saturating_mul(before.count() as u64);
        self.gone = Some(Gone { leader, term, until, wait_us, gave_way_to: None });
        self.leader = None;
        self.heard_at = None;
        self.note_role();
        if self.may_campaign() {
            self.election_deadline = self.now.saturating_add(wait_us);
            self.tick_follower();
        }
        true
    }

    /// The last leader and its term, if its process is known to have ended
    /// lately and no other leader is known yet.
    pub fn gone_leader(&self) -> Option<(NodeId, Term)> {
        self.gone.filter(|gone| self.now < gone.until).map(|gone| (gone.leader, gone.term))
    }

    /// When a candidate asks again.
    pub(crate) fn ask_again_at(&self, pre: bool) -> Time {
        let heartbeat = self.config.heartbeat_us;
        let soon = pre && self.gone_leader().is_some();
        let wait = if soon { (heartbeat / ASKS_PER_HEARTBEAT).max(1) } else { heartbeat };
        self.now.saturating_add(wait)
    }

    /// This replica would vote for `to`, whose log ends at `last`: its own turn
    /// is over for now. Of two that ask at the same time, as they do where
    /// messages take long, the one with the longer log goes on, or that with
    /// the smaller id.
    pub(crate) fn give_way(&mut self, to: NodeId, last: Position) {
        let Some(gone) = &mut self.gone else { return };
        if self.now >= gone.until || gone.gave_way_to.replace(to) == Some(to) {
            return;
        }
        let pause = self.config.heartbeat_us.saturating_add(gone.wait_us);
        let later = self.now.saturating_add(pause);
        let is_better = last != self.log.last() || to < self.config.id;
        match &self.role {
            Role::Follower(_) => self.election_deadline = self.election_deadline.max(later),
            Role::Candidate(own) if own.pre && is_better => {
                self.become_follower(self.term());
                self.election_deadline = later;
            }
            Role::Candidate(_) | Role::Leader(_) => {}
        }
    }

    /// An election is lost: votes were divided, and nobody leads. The next one
    /// begins soon, at different times, unless whoever has won is heard by then.
    pub(crate) fn try_again_soon(&mut self) {
        if self.gone_leader().is_some() {
            let heartbeat = self.config.heartbeat_us;
            let wait = self.rng.between(heartbeat / TURNS_PER_HEARTBEAT, heartbeat);
            self.election_deadline = self.now.saturating_add(wait);
        }
    }
}
