//! Leading: proposals, heartbeats, what peers answer, and what is committed.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::error::{ChangeError, ProposeError};
use crate::message::Message;
use crate::node::{Node, Role};
use crate::planted::PlantedBug;
use crate::progress::{Peer, Supply};
use crate::quorum::reached;
use crate::reads::Reads;
use crate::transfer::Transfer;
use crate::types::{Body, Change, Entry, Index, NodeId, Payload, Suffrage, Term, Time};

/// What only a leader needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leader {
    /// Every other member, and those just removed; by id.
    pub(crate) peers: Vec<Peer>,
    pub(crate) reads: Reads,
    pub(crate) transfer: Option<Transfer>,
    pub(crate) next_heartbeat: Time,
    /// The last index at the heartbeat before.
    last_at_heartbeat: Index,
    /// Room to sort the voters' values in.
    scratch: Vec<u64>,
}

impl Leader {
    pub(crate) fn peer(&mut self, id: NodeId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.id == id)
    }

    /// What a majority of the voters has reached; `own` is this replica's
    /// value if it votes.
    pub(crate) fn majority(&mut self, own: Option<u64>, of: impl Fn(&Peer) -> u64) -> Option<u64> {
        self.scratch.clear();
        self.scratch.extend(own);
        self.scratch.extend(self.peers.iter().filter(|peer| peer.voter).map(of));
        reached(&mut self.scratch)
    }
}

impl<P: Payload> Node<P> {
    /// Appends a command to the log. It is committed if it ever comes out in
    /// `Output::committed` with the same index and term; another entry at
    /// that index says that it was lost.
    ///
    /// # Errors
    /// When this replica does not lead or cannot take more; nothing was done.
    pub fn propose(&mut self, now: Time, payload: P) -> Result<(Index, Term), ProposeError> {
        self.advance(now);
        let Role::Leader(leader) = &self.role else {
            return Err(ProposeError::NotLeader { leader: self.leader });
        };
        if leader.transfer.is_some() {
            return Err(ProposeError::Transferring);
        }
        if self.log.bytes_from(self.commit + 1) >= self.config.max_uncommitted_bytes {
            return Err(ProposeError::Full);
        }
        Ok(self.append_own(Body::Command(payload)))
    }

    /// Appends a membership change. A new learner gets the id that was
    /// `membership().next_id` before.
    ///
    /// # Errors
    /// When this replica does not lead, another change is not committed yet,
    /// or the change makes no sense; nothing was done.
    pub fn change(&mut self, now: Time, change: Change) -> Result<(Index, Term), ChangeError> {
        self.advance(now);
        let Role::Leader(leader) = &self.role else {
            return Err(ChangeError::NotLeader { leader: self.leader });
        };
        if leader.transfer.is_some() {
            return Err(ChangeError::Transferring);
        }
        // Without this, a change of an earlier leader could be in force
        // somewhere whose majority does not overlap with that of this change
        // (Ongaro, "bug in single-server membership changes", 2015).
        if self.log.term_at(self.commit) != Some(self.ballot.term())
            && !self.config.has(PlantedBug::EarlyChange)
        {
            return Err(ChangeError::NoCurrentTermCommit);
        }
        if self.memberships.index() > self.commit {
            return Err(ChangeError::InFlight);
        }
        if let Change::Promote(id) = change {
            self.check_close(id)?;
        }
        let forgets = !matches!(change, Change::Dismiss { .. })
            && self.config.has(PlantedBug::DismissalForgotten);
        let mut next = self.memberships.current().changed(change)?;
        if forgets {
            next.dismissed.clear();
        }
        let at = self.append_own(Body::Membership(next.clone()));
        self.memberships.push(at.0, next);
        self.note_membership();
        self.refresh_peers();
        self.advance_commit();
        Ok(at)
    }

    /// A voter that is far behind would hold up the commits that need it.
    fn check_close(&self, id: NodeId) -> Result<(), ChangeError> {
        let Role::Leader(leader) = &self.role else { return Ok(()) };
        let (last, limit) = (self.log.last().index, self.config.promote_lag);
        let lags =
            |peer: &Peer| peer.close_since.is_none() && last.saturating_sub(peer.matched) > limit;
        let peer = leader.peers.iter().find(|peer| peer.id == id);
        if peer.is_some_and(lags) { Err(ChangeError::Lagging(id)) } else { Ok(()) }
    }

    pub(crate) fn become_leader(&mut self) {
        self.role = Role::Leader(Box::default());
        self.leader = Some(self.config.id);
        self.gone = None;
        self.note_role();
        self.refresh_peers();
        // Entries of earlier terms commit together with this one, and reads
        // wait for it (paper, sections 5.4.2 and 8). The very first one of a
        // log carries the membership that the first voters were started with:
        // whoever joins later knows it from nowhere else.
        if self.memberships.index() == 0 {
            let first = self.memberships.current().clone();
            let (index, _) = self.append_own(Body::Membership(first.clone()));
            self.memberships.push(index, first);
            self.note_membership();
        } else {
            self.append_own(Body::Noop);
        }
        self.heartbeat_all();
    }

    fn append_own(&mut self, body: Body<P>) -> (Index, Term) {
        let (index, term) = (self.log.last().index + 1, self.term());
        self.log.append(Entry { index, term, body });
        (index, term)
    }

    /// The membership changed: brings the list of peers in line.
    fn refresh_peers(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let membership = self.memberships.current();
        let leave_at = self.now.saturating_add(2 * self.config.election_timeout_max_us);
        for peer in &mut leader.peers {
            let member = membership.members.get(&peer.id);
            peer.voter = member.is_some_and(|member| member.suffrage == Suffrage::Voter)
                || (member.is_some() && self.config.has(PlantedBug::LearnerCounts));
            if member.is_none() && peer.leaving.is_none() {
                peer.leaving = Some(leave_at);
            }
        }
        for (&id, member) in &membership.members {
            if id != self.config.id && leader.peer(id).is_none() {
                let voter = member.suffrage == Suffrage::Voter
                    || self.config.has(PlantedBug::LearnerCounts);
                leader.peers.push(Peer::new(id, voter, self.log.last().index + 1, self.now));
            }
        }
        leader.peers.sort_unstable_by_key(|peer| peer.id);
    }

    pub(crate) fn tick_leader(&mut self) {
        if !self.has_quorum_contact() {
            // CheckQuorum: who cannot commit must not look like a leader
            // (dissertation, section 6.2).
            self.become_follower(self.term());
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.transfer.as_ref().is_some_and(|transfer| self.now >= transfer.deadline) {
            leader.transfer = None;
        }
        if self.now >= leader.next_heartbeat {
            self.heartbeat_all();
            self.let_go_of_removed();
            self.promote_learners();
        }
    }

    fn own_vote<T>(&self, value: T) -> Option<T> {
        self.memberships.current().is_voter(self.config.id).then_some(value)
    }

    fn has_quorum_contact(&mut self) -> bool {
        let own = self.own_vote(self.now);
        let Role::Leader(leader) = &mut self.role else { return true };
        let heard = leader.majority(own, |peer| peer.last_contact).unwrap_or(self.now);
        self.now.saturating_sub(heard) <= self.config.election_timeout_max_us
    }

    /// Heartbeats to everybody; they carry the newest read round, and with
    /// leases begin a new one.
    pub(crate) fn heartbeat_all(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.next_heartbeat = self.now.saturating_add(self.config.heartbeat_us);
        if let Some(transfer) = &mut leader.transfer {
            transfer.told = false;
        }
        if self.config.lease_reads {
            leader.reads.begin_lease_round(self.now);
        }
        for peer in &leader.peers {
            let commit = self.commit.min(peer.matched);
            let heartbeat = Message::Heartbeat { commit, read_round: leader.reads.round };
            self.out.say(&self.ballot, peer.id, heartbeat);
        }
        self.confirm_reads();
    }

    /// Peers that were removed are supplied until they know about it.
    fn let_go_of_removed(&mut self) {
        let (now, removal, commit) = (self.now, self.memberships.index(), self.commit);
        let Role::Leader(leader) = &mut self.role else { return };
        leader.peers.retain(|peer| {
            let told = commit >= removal && peer.matched >= removal;
            peer.leaving.is_none_or(|until| !told && now < until)
        });
    }

    /// Makes voters of learners that have kept up for an election timeout:
    /// within `promote_lag` entries, or with all that existed a heartbeat ago,
    /// since at a high rate a count of entries is a short time.
    fn promote_learners(&mut self) {
        let (now, last) = (self.now, self.log.last().index);
        let Role::Leader(leader) = &mut self.role else { return };
        let before = core::mem::replace(&mut leader.last_at_heartbeat, last);
        let mut ready = None;
        for peer in leader.peers.iter_mut().filter(|peer| !peer.voter && peer.leaving.is_none()) {
            let lag = last.saturating_sub(peer.matched);
            let heard = now.saturating_sub(peer.last_contact) <= 2 * self.config.heartbeat_us;
            let near = lag <= self.config.promote_lag || peer.matched >= before;
            let close = heard && peer.matched > 0 && near;
            let since = *peer.close_since.get_or_insert(now);
            if !close {
                peer.close_since = None;
            } else if now.saturating_sub(since) >= self.config.election_timeout_max_us {
                ready = Some(peer.id);
            }
        }
        if let Some(id) = ready
            && self.config.auto_promote
        {
            // Refused while another change is under way; then the next
            // heartbeat tries again.
            let _ = self.change(now, Change::Promote(id));
        }
    }

    pub(crate) fn on_append_reply(&mut self, from: NodeId, match_index: Index, read_round: u64) {
        let (now, last) = (self.now, self.log.last().index);
        let Role::Leader(leader) = &mut self.role else { return };
        let newest = leader.reads.round;
        let Some(peer) = leader.peer(from) else { return };
        if match_index > last || read_round > newest {
            self.out.reject(from, "acknowledges what was never sent");
            return;
        }
        peer.last_contact = now;
        let echoed = read_round > peer.echoed;
        peer.echoed = peer.echoed.max(read_round);
        let moved = match_index > peer.matched;
        peer.acknowledged(match_index, now);
        if self.config.has(PlantedBug::AnswerRepeated)
            && !moved
            && let Some(term) = self.log.term_at(match_index)
        {
            self.out.say(&self.ballot, from, nudge(match_index, term, self.commit, newest));
        }
        if moved {
            self.advance_commit();
        }
        if echoed {
            self.confirm_reads();
        }
    }

    pub(crate) fn on_append_reject(
        &mut self,
        from: NodeId,
        prev_index: Index,
        hint_index: Index,
        hint_term: Term,
    ) {
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peer(from) else { return };
        peer.last_contact = now;
        let current = match &peer.supply {
            Supply::Probe { sent, .. } => sent.is_some_and(|probe| probe.prev == prev_index),
            Supply::Replicate => prev_index < peer.next,
            Supply::Snapshot(_) => false,
        };
        // What was acknowledged stays so: a refusal of it is an old one.
        if current && prev_index > peer.matched {
            let before = hint_index.min(prev_index - 1);
            let agree = self.log.last_not_after(before, hint_term);
            peer.probe_from(agree + 1, false);
        }
    }

    /// Beside keeping contact, the answer shows what got lost: appends that
    /// left before an earlier heartbeat must have arrived by now, and what has
    /// arrived must be acknowledged at some time. A peer whose log goes on to
    /// end before what it acknowledged has lost the rest (crate page, "Damage").
    pub(crate) fn on_heartbeat_reply(&mut self, from: NodeId, read_round: u64, last_index: Index) {
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else { return };
        let newest = leader.reads.round;
        let Some(peer) = leader.peer(from) else { return };
        if read_round > newest {
            self.out.reject(from, "echoes a read round that never began");
            return;
        }
        peer.last_contact = now;
        let echoed = read_round > peer.echoed;
        peer.echoed = peer.echoed.max(read_round);
        let lost = peer.stays_short(last_index, now, self.config.heartbeat_us / 2);
        if lost && !self.config.has(PlantedBug::LossUnnoticed) {
            peer.lost(last_index);
        }
        let stuck = now.saturating_sub(peer.progressed_at) >= self.config.heartbeat_us;
        let sent = peer.next - 1;
        if matches!(peer.supply, Supply::Replicate) && peer.has_inflight() && stuck {
            let prev_term = self.log.term_at(sent).filter(|_| last_index >= sent);
            // Reads bring many such answers in a heartbeat: half of one,
            // since answers do not come to the microsecond.
            let rested = now.saturating_sub(peer.nudged_at) >= self.config.heartbeat_us / 2;
            if let Some(prev_term) = prev_term {
                // The acknowledgement was lost, or the disk there is slow.
                if rested {
                    peer.nudged_at = now;
                    self.out.say(&self.ballot, from, nudge(sent, prev_term, self.commit, newest));
                }
            } else if peer.reported == Some(last_index) {
                let arrived = last_index.clamp(peer.matched, sent);
                peer.probe_from(arrived + 1, false);
            }
        }
        peer.reported = Some(last_index);
        if echoed {
            self.confirm_reads();
        }
    }

    /// Commits what a majority of the voters has made durable, if it is of
    /// this term: entries of earlier terms are only committed along with it
    /// (paper, section 5.4.2 and figure 8). The leader's own share is what
    /// its disk has, no more.
    pub(crate) fn advance_commit(&mut self) {
        let own = self.own_vote(self.log.durable());
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(reached) = leader.majority(own, |peer| peer.matched) else { return };
        let own_term = self.log.term_at(reached) == Some(self.ballot.term())
            || self.config.has(PlantedBug::CommitEarlierTerm);
        if reached > self.commit && own_term {
            self.commit = reached;
        }
        let removed = !self.memberships.current().is_voter(self.config.id);
        if removed && self.memberships.index() <= self.commit {
            self.leave();
        }
    }

    /// This leader is no member any more, and that is committed: it steps
    /// down (dissertation, section 4.2.2), and has somebody take over at once.
    fn leave(&mut self) {
        self.heartbeat_all();
        if let Some(successor) = self.best_successor() {
            self.out.say(&self.ballot, successor, Message::TimeoutNow);
        }
        self.become_follower(self.term());
    }
}

/// An append without entries: an acknowledgement is all that it is for.
fn nudge<P>(prev_index: Index, prev_term: Term, commit: Index, read_round: u64) -> Message<P> {
    Message::Append { prev_index, prev_term, commit, read_round, entries: Vec::new() }
}
