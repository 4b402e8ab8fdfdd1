//! Following: appends, heartbeats, and votes, which every role may be asked
//! for.

use alloc::vec::Vec;

use crate::message::Message;
use crate::node::{Node, Role};
use crate::output::{COMMITTED_DIFFERS, Event};
use crate::planted::PlantedBug;
use crate::reads::Forward;
use crate::types::{Body, Entry, Index, NodeId, Payload, Position, Term};

/// What a follower knows about its leader's log, in this term.
#[derive(Clone, Debug, Default)]
pub(crate) struct Follower {
    /// Our log equals the leader's up to here.
    matched: Index,
    /// The leader was told so up to here.
    acked: Index,
    /// An append waits for its answer.
    reply_due: bool,
    /// The newest read round that was heard.
    read_round: u64,
    /// Reads that the leader is asked about.
    pub(crate) forward: Forward,
}

/// The header of an append.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppendHeader {
    pub(crate) prev: Position,
    pub(crate) commit: Index,
    pub(crate) read_round: u64,
}

impl<P: Payload> Node<P> {
    /// The election timer of a follower ran out, or a read was not answered.
    pub(crate) fn tick_follower(&mut self) {
        if self.now >= self.election_deadline {
            self.restart_election_timer();
            if self.may_campaign() {
                self.start_pre_vote();
            } else if self.leader.take().is_some() {
                self.note_role();
            }
            if self.leader.is_none() {
                self.fail_forwarded();
            }
        }
    }

    /// A message that only a leader sends arrived in the current term.
    /// `false` when the sender cannot be its leader.
    pub(crate) fn hear_leader(&mut self, from: NodeId) -> bool {
        match &self.role {
            Role::Leader(_) => {
                self.out.reject(from, "claims to lead in the term that this replica leads");
                return false;
            }
            Role::Candidate(_) => self.become_follower(self.term()),
            Role::Follower(_) => {}
        }
        match self.leader {
            None => {
                self.leader = Some(from);
                self.gone = None;
                if let Role::Follower(follower) = &mut self.role {
                    follower.forward.ask_again_at_once();
                }
                self.note_role();
            }
            Some(leader) if leader != from => {
                self.out.reject(from, "claims to lead in the term of another leader");
                return false;
            }
            Some(_) => {}
        }
        self.heard_at = Some(self.now);
        self.restart_election_timer();
        true
    }

    /// AppendEntries, the receiver's part (paper, figure 2).
    pub(crate) fn on_append(
        &mut self,
        from: NodeId,
        header: AppendHeader,
        mut entries: Vec<Entry<P>>,
    ) {
        if !self.hear_leader(from) || self.is_installing() {
            return;
        }
        let mut prev = header.prev;
        let last_new = prev.index + entries.len() as u64;
        if prev.index < self.commit {
            // What is committed is the same everywhere, and may be gone here.
            let known = entries.partition_point(|entry| entry.index <= self.commit);
            let meets = entries.drain(..known).next_back();
            let differs = |entry: Entry<P>| {
                self.log.term_at(entry.index).is_some_and(|term| term != entry.term)
            };
            if meets.is_some_and(differs) {
                self.out.reject(from, COMMITTED_DIFFERS);
                return;
            }
            prev.index = self.commit.min(last_new);
        } else if self.log.term_at(prev.index) != Some(prev.term) {
            let near = prev.index.min(self.log.last().index);
            let hint_index = self.log.last_not_after(near, prev.term);
            let hint_term = self.log.term_at(hint_index).unwrap_or(0);
            let reject = Message::AppendReject { prev_index: prev.index, hint_index, hint_term };
            self.out.say(&self.ballot, from, reject);
            return;
        }
        let Role::Follower(follower) = &self.role else { return };
        let settled = self.commit.max(follower.matched);
        if !self.accept_entries(entries, settled) {
            self.out.reject(from, "append contradicts what it sent before, or what is committed");
            return;
        }
        if self.config.has(PlantedBug::TruncateAlways) && self.log.last().index > last_new {
            self.truncate_log(last_new + 1);
        }
        let Role::Follower(follower) = &mut self.role else { return };
        follower.matched = follower.matched.max(last_new.max(prev.index));
        follower.read_round = follower.read_round.max(header.read_round);
        follower.reply_due = true;
        self.commit_to(header.commit.min(last_new));
    }

    /// Appends what is new of `entries`, whose predecessor matches; what
    /// contradicts them goes. `false`, and nothing is changed, when that would
    /// touch anything up to `settled`.
    fn accept_entries(&mut self, mut entries: Vec<Entry<P>>, settled: Index) -> bool {
        let last = self.log.last().index;
        if entries.first().is_some_and(|first| first.index <= last) {
            let known = entries
                .iter()
                .take_while(|entry| self.log.term_at(entry.index) == Some(entry.term))
                .count();
            entries.drain(..known);
            if let Some(conflict) = entries.first().map(|entry| entry.index)
                && conflict <= last
            {
                if conflict <= settled {
                    return false;
                }
                self.truncate_log(conflict);
            }
        }
        for entry in entries {
            if let Body::Membership(membership) = &entry.body {
                self.memberships.push(entry.index, membership.clone());
                self.note_membership();
            }
            self.log.append(entry);
        }
        self.note_floor();
        true
    }

    fn truncate_log(&mut self, from: Index) {
        self.log.truncate(from);
        self.out.events.push(Event::Truncated { from });
        if self.memberships.truncate(from) {
            self.note_membership();
        }
    }

    /// The leader lives, and has committed up to `commit`, which it knows
    /// this replica to have.
    pub(crate) fn on_heartbeat(&mut self, from: NodeId, commit: Index, read_round: u64) {
        if !self.hear_leader(from) {
            return;
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.read_round = follower.read_round.max(read_round);
        }
        // The leader believes that this replica has everything up to `commit`.
        // It is certain of what it matched itself in this term, and of
        // entries of this term: only this leader makes such.
        let own = matches!(&self.role, Role::Follower(follower) if commit <= follower.matched);
        if !self.is_installing() && (own || self.log.term_at(commit) == Some(self.term())) {
            self.commit_to(commit);
        }
        let last_index = self.log.last().index;
        self.out.say(&self.ballot, from, Message::HeartbeatReply { read_round, last_index });
    }

    /// The leader says that everything up to `index` is committed. Only what
    /// is known to equal its log is taken for committed.
    pub(crate) fn commit_matched(&mut self, index: Index) {
        if let Role::Follower(follower) = &self.role {
            let known = index.min(follower.matched);
            self.commit_to(known);
        }
    }

    /// The log equals the leader's up to `index`, by way of a snapshot, and
    /// the leader was told.
    pub(crate) fn matched_by_snapshot(&mut self, index: Index) {
        if let Role::Follower(follower) = &mut self.role {
            follower.matched = follower.matched.max(index);
            follower.acked = follower.acked.max(index);
        }
    }

    /// Whether an acknowledgement could leave now.
    pub(crate) fn acknowledgement_due(&self) -> bool {
        let Role::Follower(follower) = &self.role else { return false };
        let durable = follower.matched.min(self.log.durable());
        // A leader that fell silent is nobody to tell; it may come back.
        self.leader.is_some()
            && follower.reply_due
            && (durable == follower.matched || durable > follower.acked)
    }

    /// Acknowledges what is durable: once for all appends of a turn, and
    /// again when the disk gets further.
    pub(crate) fn acknowledge(&mut self) {
        if !self.acknowledgement_due() {
            return;
        }
        let Some(leader) = self.leader else { return };
        let Role::Follower(follower) = &mut self.role else { return };
        let match_index = follower.matched.min(self.log.durable());
        follower.acked = match_index;
        follower.reply_due = match_index < follower.matched;
        let read_round = follower.read_round;
        self.out.say(&self.ballot, leader, Message::AppendReply { match_index, read_round });
    }

    /// Whether a leader was heard within the minimum election timeout, so
    /// that nobody can have had a reason to campaign (dissertation, 4.2.3).
    pub(crate) fn is_sticky(&self) -> bool {
        if self.config.has(PlantedBug::NoPreVote) {
            return false;
        }
        self.is_leader()
            || self.heard_at.is_some_and(|heard| {
                self.now.saturating_sub(heard) < self.config.election_timeout_min_us
            })
    }

    /// "Would you vote for me?" Nothing changes here (dissertation, 9.6).
    ///
    /// Candidates are answered whoever they are, here and in
    /// [`on_vote`](Self::on_vote): this replica's membership may be older
    /// than the candidate's (dissertation, section 4.1). So a learner answers,
    /// too: it is asked only by those in whose membership it votes already.
    pub(crate) fn on_pre_vote(&mut self, from: NodeId, term: Term, last: Position) {
        let granted = term > self.term() && last.covers(self.vote_floor()) && !self.is_sticky();
        if granted {
            self.give_way(from, last);
        }
        let term = if granted { term } else { self.term() };
        self.out.say_freely(from, term, Message::PreVoteReply { granted });
    }

    /// RequestVote, the receiver's part (paper, figure 2), in the current term.
    pub(crate) fn on_vote(&mut self, from: NodeId, last: Position) {
        let free = match self.ballot.current.vote {
            Some(voted) => voted == from,
            None => self.leader.is_none(),
        };
        let granted = free && last.covers(self.vote_floor()) && !self.is_leader();
        if granted {
            self.ballot.current.vote = Some(from);
            self.restart_election_timer();
        }
        self.out.say(&self.ballot, from, Message::VoteReply { granted });
    }
}
