//! Asking for votes: first whether it would help (pre-vote), then in earnest.

use alloc::vec::Vec;

use crate::message::Message;
use crate::node::{Node, Role};
use crate::planted::PlantedBug;
use crate::quorum::is_majority;
use crate::step::MAX_TERM;
use crate::types::{NodeId, Payload, Term, Time};

/// A candidate, of either phase.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// Only asks whether it could win; its term is untouched.
    pub(crate) pre: bool,
    /// Votes that override leader stickiness.
    transfer: bool,
    granted: Vec<NodeId>,
    refused: Vec<NodeId>,
    /// Those who have not answered are asked again.
    pub(crate) ask_again_at: Time,
}

impl<P: Payload> Node<P> {
    /// Starts an election at once, without a pre-vote: the first leader of a
    /// new cluster, or a hint from somebody who saw the leader's process end.
    ///
    /// The hint overrides leader stickiness, so a wrong one costs a live
    /// leader its term; nothing worse. With lease reads it must not, since a
    /// lease counts on that stickiness: then a hint is ignored while a leader
    /// was heard within the minimum election timeout.
    pub fn campaign(&mut self, now: Time) {
        self.advance(now);
        let leased = self.config.lease_reads && self.is_sticky();
        if !self.is_leader() && self.may_campaign() && !leased {
            self.start_election(!self.config.lease_reads);
        }
    }

    /// Only voters campaign (dissertation, section 4.2.1), by their own
    /// membership, not while their state is being replaced, and not with a log
    /// that lacks what they have acknowledged: their own vote would be one for
    /// a log below their floor.
    pub(crate) fn may_campaign(&self) -> bool {
        (self.memberships.may_need(self.config.id, self.commit)
            || self.learner_votes(self.config.id))
            && (self.floor.is_none() || self.config.has(PlantedBug::CampaignBelowFloor))
            && !self.is_installing()
            && self.term() < MAX_TERM
    }

    /// Planted: whether `id` votes though it is a learner.
    fn learner_votes(&self, id: NodeId) -> bool {
        self.config.has(PlantedBug::LearnerVotes)
            && self.memberships.current().members.contains_key(&id)
    }

    pub(crate) fn start_pre_vote(&mut self) {
        if self.config.has(PlantedBug::NoPreVote) {
            return self.start_election(false);
        }
        self.become_candidate(true, false);
        self.count_vote(self.config.id, true);
    }

    pub(crate) fn start_election(&mut self, transfer: bool) {
        let term = self.term() + 1;
        self.adopt_term(term);
        self.ballot.current.vote = Some(self.config.id);
        // Its own vote counts once it is durable: see `count_own_vote`.
        self.become_candidate(false, transfer);
    }

    fn become_candidate(&mut self, pre: bool, transfer: bool) {
        self.fail_forwarded();
        self.incoming = None;
        self.leader = None;
        self.restart_election_timer();
        let candidate = Candidate {
            pre,
            transfer,
            granted: Vec::new(),
            refused: Vec::new(),
            ask_again_at: self.now,
        };
        self.role = Role::Candidate(candidate);
        self.note_role();
        self.ask_for_votes();
    }

    pub(crate) fn tick_candidate(&mut self) {
        if self.now >= self.election_deadline {
            if self.may_campaign() {
                self.start_pre_vote();
            } else {
                self.become_follower(self.term());
                self.restart_election_timer();
            }
            return;
        }
        let Role::Candidate(candidate) = &mut self.role else { return };
        if self.now < candidate.ask_again_at {
            return;
        }
        if candidate.pre || self.ballot.is_durable() {
            self.ask_for_votes();
        } else {
            // The first requests still wait for the disk.
            candidate.ask_again_at = self.now.saturating_add(self.config.heartbeat_us);
        }
    }

    /// Asks the voters who have not answered; in the first phase those, too,
    /// who refused, since they may only have heard the leader a moment later.
    fn ask_for_votes(&mut self) {
        let last = self.log.last();
        let Role::Candidate(candidate) = &self.role else { return };
        let ask_again_at = self.ask_again_at(candidate.pre);
        let Role::Candidate(candidate) = &mut self.role else { return };
        candidate.ask_again_at = ask_again_at;
        let membership = self.memberships.current();
        let all = self.config.has(PlantedBug::LearnerVotes);
        for &voter in membership.members.keys() {
            if !membership.is_voter(voter) && !all {
                continue;
            }
            let answered = candidate.granted.contains(&voter)
                || (!candidate.pre && candidate.refused.contains(&voter));
            if voter == self.config.id || answered {
                continue;
            }
            let (last_index, last_term) = (last.index, last.term);
            if candidate.pre {
                let term = self.ballot.term() + 1;
                self.out.say_freely(voter, term, Message::PreVote { last_index, last_term });
            } else {
                let transfer = candidate.transfer;
                let vote = Message::Vote { last_index, last_term, transfer };
                self.out.say(&self.ballot, voter, vote);
            }
        }
    }

    pub(crate) fn on_pre_vote_reply(&mut self, from: NodeId, term: Term, granted: bool) {
        let Role::Candidate(candidate) = &self.role else { return };
        if candidate.pre && granted && term == self.term() + 1 {
            self.count_vote(from, true);
        }
    }

    pub(crate) fn on_vote_reply(&mut self, from: NodeId, granted: bool) {
        let Role::Candidate(candidate) = &self.role else { return };
        if !candidate.pre {
            self.count_vote(from, granted);
        }
    }

    /// Term and vote became durable: a candidate's own vote counts from now.
    pub(crate) fn count_own_vote(&mut self) {
        let Role::Candidate(candidate) = &self.role else { return };
        if !candidate.pre && self.ballot.current.vote == Some(self.config.id) {
            self.count_vote(self.config.id, true);
        }
    }

    /// Counts an answer, if it comes from a voter of this replica's own
    /// membership: a learner's vote counts for nothing.
    fn count_vote(&mut self, from: NodeId, granted: bool) {
        if !self.memberships.current().is_voter(from) && !self.learner_votes(from) {
            return;
        }
        let voters = self.memberships.current().voter_count();
        let gone = self.gone_leader().map(|(leader, _)| leader);
        let gone = gone.filter(|leader| self.memberships.current().is_voter(*leader));
        let Role::Candidate(candidate) = &mut self.role else { return };
        let answers = if granted { &mut candidate.granted } else { &mut candidate.refused };
        if !answers.contains(&from) {
            answers.push(from);
        }
        let won = is_majority(candidate.granted.len(), voters);
        // Who is gone will not answer, unless it has come back already.
        let silent = gone.is_some_and(|gone| {
            !candidate.pre
                && !candidate.granted.contains(&gone)
                && !candidate.refused.contains(&gone)
        });
        let against = candidate.refused.len() + usize::from(silent);
        let lost = !is_majority(voters.saturating_sub(against), voters);
        match (won, candidate.pre) {
            (true, true) => self.start_election(false),
            (true, false) => self.become_leader(),
            (false, _) if lost => {
                self.become_follower(self.term());
                self.try_again_soon();
            }
            (false, _) => {}
        }
    }
}
