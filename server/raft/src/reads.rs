//! Linearizable reads without log entries (dissertation, section 6.4): a
//! leader confirms that it still leads, for all waiting reads at once, or
//! relies on its lease; the others ask it.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::config::Config;
use crate::leader::Leader;
use crate::message::Message;
use crate::node::{Node, Role};
use crate::outbox::{Ballot, Outbox};
use crate::output::ReadReady;
use crate::planted::PlantedBug;
use crate::types::{Index, NodeId, Payload, Time};

/// Reads at a leader.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    /// Number of the newest round; each term counts from 0.
    pub(crate) round: u64,
    /// The round that is being confirmed, and what its reads have to wait for.
    open: Option<(u64, Index)>,
    /// The reads of that round.
    confirming: Vec<Asker>,
    /// Those that came after it began.
    waiting: Vec<Asker>,
    /// When the rounds that are not confirmed began; only with leases.
    begun: VecDeque<(u64, Time)>,
    lease_until: Time,
    lease_given_up: bool,
}

/// Who wants to read.
#[derive(Clone, Copy, Debug)]
enum Asker {
    /// The driver, with its number.
    Local(u64),
    /// A peer, with its number.
    Peer(NodeId, u64),
}

impl Reads {
    /// Nobody can be answered any more.
    pub(crate) fn fail_all<P>(&self, out: &mut Outbox<P>, ballot: &Ballot) {
        for asker in self.confirming.iter().chain(&self.waiting) {
            match *asker {
                Asker::Local(request) => out.reads_failed.push(request),
                Asker::Peer(peer, request) => {
                    out.say(ballot, peer, Message::ReadIndexReply { request, index: None });
                }
            }
        }
    }

    /// Whether a round could begin.
    fn is_due(&self) -> bool {
        !self.waiting.is_empty() && self.open.is_none()
    }

    pub(crate) fn begin_lease_round(&mut self, now: Time) {
        self.round += 1;
        self.begun.push_back((self.round, now));
    }

    /// A transfer may depose this leader without a timeout: no lease again in
    /// this term.
    pub(crate) fn give_up_lease(&mut self) {
        self.lease_given_up = true;
    }

    fn has_lease(&self, config: &Config, now: Time) -> bool {
        config.lease_reads && !self.lease_given_up && now < self.lease_until
    }

    /// A majority has echoed `round`: none of them votes for anybody else
    /// until a minimum election timeout after it began, by their clocks.
    fn extend_lease(&mut self, round: u64, config: &Config, now: Time) {
        let keep = 1000_u64.saturating_sub(config.lease_drift_permille);
        let length = config.election_timeout_min_us / 1000 * keep;
        while let Some(&(begun, at)) = self.begun.front()
            && begun <= round
        {
            let from = if config.has(PlantedBug::LeaseFromReply) { now } else { at };
            self.lease_until = self.lease_until.max(from.saturating_add(length));
            self.begun.pop_front();
        }
    }
}

/// Reads at a follower or learner, on their way to the leader.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forward {
    /// The request that waits for its answer: number, when it left, reads.
    asked: Option<(u64, Time, Vec<u64>)>,
    waiting: Vec<u64>,
}

impl Forward {
    /// Another leader: it knows nothing of what the last one was asked.
    pub(crate) fn ask_again_at_once(&mut self) {
        if let Some((_, at, _)) = &mut self.asked {
            *at = 0;
        }
    }

    pub(crate) fn retry_at(&self, config: &Config) -> Time {
        let at = self.asked.as_ref().map(|(_, at, _)| *at);
        at.map_or(Time::MAX, |at| at.saturating_add(2 * config.heartbeat_us))
    }

    fn is_due(&self, config: &Config, now: Time) -> bool {
        match &self.asked {
            Some(_) => now >= self.retry_at(config),
            None => !self.waiting.is_empty(),
        }
    }
}

impl<P: Payload> Node<P> {
    /// Asks from which index on a read is linearizable. The answer comes with
    /// `Output::reads`, or `reads_failed` when nobody here can give it. On the
    /// leader all reads of a turn share one round of messages, and at most
    /// one round is under way.
    pub fn read(&mut self, now: Time, request: u64) {
        self.advance(now);
        match &mut self.role {
            Role::Leader(leader) => leader.reads.waiting.push(Asker::Local(request)),
            Role::Follower(follower) if self.leader.is_some() => {
                follower.forward.waiting.push(request);
            }
            Role::Follower(_) | Role::Candidate(_) => self.out.reads_failed.push(request),
        }
    }

    /// A follower asks. It has one request under way, so that a newer one
    /// replaces the one before.
    pub(crate) fn on_read_index(&mut self, from: NodeId, request: u64) {
        let Role::Leader(leader) = &mut self.role else {
            let none = Message::ReadIndexReply { request, index: None };
            self.out.say(&self.ballot, from, none);
            return;
        };
        if leader.peer(from).is_none() {
            self.out.reject(from, "asks for a read index, but is no member");
            return;
        }
        let waiting = &mut leader.reads.waiting;
        waiting.retain(|asker| !matches!(asker, Asker::Peer(peer, _) if *peer == from));
        waiting.push(Asker::Peer(from, request));
    }

    /// Whether this leader knows everything that was committed before it:
    /// an entry of its own term is committed.
    pub(crate) fn has_committed_own_term(&self) -> bool {
        self.log.term_at(self.commit) == Some(self.ballot.term())
    }

    pub(crate) fn read_round_due(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.reads.is_due())
            && self.has_committed_own_term()
    }

    /// Begins a round for all reads that wait, once in a turn.
    pub(crate) fn begin_read_round(&mut self) {
        while self.read_round_due() {
            let Role::Leader(leader) = &mut self.role else { return };
            let Leader { reads, peers, .. } = &mut **leader;
            core::mem::swap(&mut reads.confirming, &mut reads.waiting);
            let unasked = self.config.has(PlantedBug::ReadWithoutRound);
            if reads.has_lease(&self.config, self.now) || unasked {
                self.serve_confirmed(self.commit);
                return;
            }
            reads.round += 1;
            if self.config.lease_reads {
                reads.begun.push_back((reads.round, self.now));
            }
            reads.open = Some((reads.round, self.commit));
            for peer in peers.iter().filter(|peer| peer.voter) {
                let commit = self.commit.min(peer.matched);
                let heartbeat = Message::Heartbeat { commit, read_round: reads.round };
                self.out.say(&self.ballot, peer.id, heartbeat);
            }
            self.confirm_reads();
        }
    }

    /// A round was echoed, or the leader alone is a majority.
    pub(crate) fn confirm_reads(&mut self) {
        let own = self.memberships.current().is_voter(self.config.id);
        let Role::Leader(leader) = &mut self.role else { return };
        let own = own.then_some(leader.reads.round);
        let Some(confirmed) = leader.majority(own, |peer| peer.echoed) else { return };
        leader.reads.extend_lease(confirmed, &self.config, self.now);
        if let Some((round, index)) = leader.reads.open
            && round <= confirmed
        {
            leader.reads.open = None;
            self.serve_confirmed(index);
        }
    }

    fn serve_confirmed(&mut self, index: Index) {
        let Role::Leader(leader) = &mut self.role else { return };
        for asker in leader.reads.confirming.drain(..) {
            match asker {
                Asker::Local(request) => self.out.reads.push(ReadReady { request, index }),
                Asker::Peer(peer, request) => {
                    let reply = Message::ReadIndexReply { request, index: Some(index) };
                    self.out.say(&self.ballot, peer, reply);
                }
            }
        }
    }

    pub(crate) fn forward_due(&self) -> bool {
        let Role::Follower(follower) = &self.role else { return false };
        self.leader.is_some() && follower.forward.is_due(&self.config, self.now)
    }

    /// Asks the leader for all reads that wait, or again for those it has not
    /// answered.
    pub(crate) fn forward_reads(&mut self) {
        if !self.forward_due() {
            return;
        }
        let Some(leader) = self.leader else { return };
        let Role::Follower(follower) = &mut self.role else { return };
        let forward = &mut follower.forward;
        let request = if let Some((number, at, _)) = &mut forward.asked {
            *at = self.now;
            *number
        } else {
            self.read_number += 1;
            let waiting = core::mem::take(&mut forward.waiting);
            forward.asked = Some((self.read_number, self.now, waiting));
            self.read_number
        };
        self.out.say(&self.ballot, leader, Message::ReadIndex { request });
    }

    /// The leader's answer. An answer that it cannot say is no reason to give
    /// up: it is asked again, or whoever leads then.
    pub(crate) fn on_read_index_reply(&mut self, from: NodeId, request: u64, index: Option<Index>) {
        let Some(index) = index else { return };
        if self.leader != Some(from) {
            self.out.reject(from, "gives a read index, but does not lead");
            return;
        }
        let Role::Follower(follower) = &mut self.role else { return };
        let asked = follower.forward.asked.take_if(|(number, _, _)| *number == request);
        let Some((_, _, reads)) = asked else { return };
        self.out.reads.extend(reads.into_iter().map(|request| ReadReady { request, index }));
        // It also says what is committed, sooner than the next heartbeat.
        self.commit_matched(index);
    }

    /// No leader is in sight.
    pub(crate) fn fail_forwarded(&mut self) {
        let Role::Follower(follower) = &mut self.role else { return };
        let forward = &mut follower.forward;
        let asked = forward.asked.take().map(|(_, _, reads)| reads);
        self.out.reads_failed.extend(asked.into_iter().flatten());
        self.out.reads_failed.append(&mut forward.waiting);
    }
}
