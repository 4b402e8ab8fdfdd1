//! The replica: its state, its clock, and what its driver asks of it.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::candidate::Candidate;
use crate::config::{Config, Restored};
use crate::follower::Follower;
use crate::gone::Gone;
use crate::leader::Leader;
use crate::log::Log;
use crate::membership::Memberships;
use crate::outbox::{Ballot, Outbox};
use crate::output::{DurableMark, Event, RoleKind};
use crate::planted::PlantedBug;
use crate::rng::Rng;
use crate::snapshot::Incoming;
use crate::status::Status;
use crate::types::{Index, Membership, NodeId, Payload, Position, SnapshotMeta, Term, Time};

/// One replica. See the crate's page for how it is driven.
#[derive(Clone, Debug)]
pub struct Node<P: Payload> {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    /// The latest time that any input carried.
    pub(crate) now: Time,
    pub(crate) ballot: Ballot,
    pub(crate) log: Log<P>,
    /// Set while the log ends below it, after it lost entries.
    pub(crate) floor: Option<Position>,
    pub(crate) commit: Index,
    /// Handed out to be applied up to here.
    pub(crate) applied: Index,
    pub(crate) memberships: Memberships,
    /// The newest local checkpoint.
    pub(crate) checkpoint: Position,
    pub(crate) role: Role,
    pub(crate) leader: Option<NodeId>,
    /// When a leader was last heard; makes a voter sticky to it.
    pub(crate) heard_at: Option<Time>,
    /// The last leader was seen to end, and no other one is known.
    pub(crate) gone: Option<Gone>,
    pub(crate) election_deadline: Time,
    pub(crate) incoming: Option<Incoming>,
    /// Number of the last read request to a leader.
    pub(crate) read_number: u64,
    pub(crate) out: Outbox<P>,
}

/// What the replica is, with the data that only this role needs.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    Follower(Follower),
    Candidate(Candidate),
    Leader(Box<Leader>),
}

impl<P: Payload> Node<P> {
    /// A follower with the state that was found on disk. Entries behind the
    /// snapshot that are known to be committed come out with the first
    /// `take_output`.
    ///
    /// # Panics
    /// When `restored.entries` are not the consecutive ones behind the
    /// snapshot: a driver that lost some must not start.
    pub fn new(now: Time, config: Config, mut restored: Restored<P>) -> Self {
        restored.discard_unconnected();
        let indexes = restored.snapshot.index + 1..;
        assert!(
            restored.entries.iter().zip(indexes).all(|(entry, index)| entry.index == index),
            "the restored log has a gap: damaged entries must not be skipped"
        );
        let log = Log::restore(&mut restored, config.cache_bytes);
        let snapshot = restored.snapshot;
        let mut memberships = Memberships::new(snapshot.index, snapshot.membership);
        for (index, membership) in restored.memberships {
            if index > snapshot.index && index <= log.last().index {
                memberships.push(index, membership);
            }
        }
        let floor = restored.floor.filter(|floor| !log.last().covers(*floor));
        let known = floor.unwrap_or_default().term.max(log.last().term);
        let term = restored.hard_state.term.max(known);
        let mut hard_state = restored.hard_state;
        if term > hard_state.term {
            hard_state.vote = None;
            hard_state.term = term;
        }
        // Read numbers must not repeat across restarts: an answer to the
        // former life's request would let a read see an old state.
        let mut rng = Rng::new(config.seed ^ config.id.0.rotate_left(32));
        let read_number = (rng.next() ^ now) >> 1;
        // A replica that promised a lease before its restart still keeps it.
        let heard_at = (config.lease_reads && term > 0).then_some(now);
        let mut node = Node {
            out: Outbox::new(config.id),
            commit: restored.commit.min(log.last().index).max(snapshot.index),
            applied: snapshot.index,
            checkpoint: Position { index: snapshot.index, term: snapshot.term },
            ballot: Ballot::new(hard_state),
            role: Role::Follower(Follower::default()),
            leader: None,
            election_deadline: now,
            incoming: None,
            config,
            rng,
            now,
            log,
            floor,
            memberships,
            heard_at,
            gone: None,
            read_number,
        };
        node.restart_election_timer();
        node
    }

    /// Lets time pass. To be called when `now >= next_deadline()`; at any
    /// other time it does no harm.
    pub fn tick(&mut self, now: Time) {
        self.advance(now);
        match self.role {
            Role::Follower(_) => self.tick_follower(),
            Role::Candidate(_) => self.tick_candidate(),
            Role::Leader(_) => self.tick_leader(),
        }
    }

    /// When `tick` and then `take_output` are to be called next, if nothing
    /// else happens before.
    pub fn next_deadline(&self) -> Time {
        match &self.role {
            Role::Follower(follower) if self.leader.is_some() => {
                self.election_deadline.min(follower.forward.retry_at(&self.config))
            }
            Role::Follower(_) => self.election_deadline,
            Role::Candidate(candidate) => self.election_deadline.min(candidate.ask_again_at),
            Role::Leader(_) => self.leader_deadline(),
        }
    }

    /// The batch with this mark, and all before it, is durable.
    pub fn synced(&mut self, now: Time, mark: DurableMark) {
        self.advance(now);
        if !self.log.synced(&mark) {
            return;
        }
        if self.config.has(PlantedBug::AckByIndex) {
            self.log.trust_index(mark.index);
        }
        let was_durable = self.ballot.is_durable();
        self.ballot.durable = mark.hard_state;
        if !was_durable && self.ballot.is_durable() {
            self.out.release();
            self.count_own_vote();
        }
        self.advance_commit();
    }

    /// A checkpoint of the state machine at `index`, which was applied, is
    /// durable: peers can be given it as a snapshot.
    pub fn checkpointed(&mut self, index: Index) {
        if index > self.applied || index <= self.checkpoint.index {
            return;
        }
        if let Some(term) = self.log.term_at(index) {
            self.checkpoint = Position { index, term };
            self.memberships.forget_before(index);
        }
    }

    /// The log on disk begins at `first_kept` from now on. Only what a
    /// checkpoint contains and the disk has may be dropped.
    pub fn compact(&mut self, first_kept: Index) {
        let first = first_kept.min(self.checkpoint.index.min(self.log.durable()) + 1);
        if first > self.log.base().index + 1 {
            self.log.compact(first);
        }
    }

    /// What a checkpoint of the state at `index` has to say about itself;
    /// `None` when `index` was not handed out yet, or lies before the newest
    /// checkpoint.
    pub fn snapshot_meta(&self, index: Index) -> Option<SnapshotMeta> {
        if index > self.applied {
            return None;
        }
        let term = self.log.term_at(index)?;
        let membership = self.memberships.at(index)?.clone();
        Some(SnapshotMeta { index, term, membership })
    }

    /// The membership that is committed, whether or not it was handed out
    /// already: every later leader has it, too.
    pub fn committed_membership(&self) -> Option<&Membership> {
        self.memberships.at(self.commit)
    }

    /// This replica.
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its term.
    pub fn term(&self) -> Term {
        self.ballot.term()
    }

    /// What it is.
    pub fn role(&self) -> RoleKind {
        match self.role {
            Role::Follower(_) => RoleKind::Follower,
            Role::Candidate(_) => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
        }
    }

    /// Whether it leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Whom it takes for the leader; itself when it leads.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The highest index that it knows to be committed.
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// See `Status::floor`.
    pub fn floor(&self) -> Option<Position> {
        self.floor
    }

    /// The newest command of its log, committed or not, unless that is applied
    /// and no longer in memory.
    pub fn newest_command(&self) -> Option<&P> {
        self.log.newest_command()
    }

    /// The membership in force, committed or not.
    pub fn membership(&self) -> &Membership {
        self.memberships.current()
    }

    /// The replica's view of itself. Allocates: not for every turn.
    pub fn status(&self) -> Status {
        Status {
            id: self.config.id,
            role: self.role(),
            term: self.term(),
            vote: self.ballot.current.vote,
            leader: self.leader,
            first_index: self.log.base().index + 1,
            last_index: self.log.last().index,
            floor: self.floor,
            durable: self.log.durable(),
            commit: self.commit,
            applied: self.applied,
            checkpoint: self.checkpoint.index,
            membership: self.memberships.current().clone(),
            membership_index: self.memberships.index(),
            peers: match &self.role {
                Role::Leader(leader) => leader.peers.iter().map(|peer| peer.status()).collect(),
                Role::Follower(_) | Role::Candidate(_) => Vec::new(),
            },
            uncommitted_bytes: self.log.bytes_from(self.commit + 1),
            rejected: self.out.rejected,
        }
    }

    /// Takes note of the time. A clock that goes back stands still.
    pub(crate) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    pub(crate) fn restart_election_timer(&mut self) {
        let timeout = self
            .rng
            .between(self.config.election_timeout_min_us, self.config.election_timeout_max_us);
        self.election_deadline = self.now.saturating_add(timeout);
    }

    /// Adopts a term; the vote in it is still free.
    pub(crate) fn adopt_term(&mut self, term: Term) {
        self.ballot.current.term = term;
        self.ballot.current.vote = None;
        self.out.drop_held();
    }

    /// Ends whatever role there was and follows; who leads is not known yet.
    pub(crate) fn become_follower(&mut self, term: Term) {
        let new_term = term > self.term();
        if new_term {
            self.adopt_term(term);
        } else if matches!(self.role, Role::Follower(_)) {
            return;
        }
        let mut follower = Follower::default();
        match core::mem::replace(&mut self.role, Role::Follower(Follower::default())) {
            // Reads on their way to a leader are asked of the next one.
            Role::Follower(before) => follower.forward = before.forward,
            Role::Candidate(_) => {}
            Role::Leader(leader) => {
                leader.reads.fail_all(&mut self.out, &self.ballot);
                self.restart_election_timer();
            }
        }
        self.role = Role::Follower(follower);
        self.leader = None;
        self.note_role();
    }

    /// Role, term or leader changed.
    pub(crate) fn note_role(&mut self) {
        let event = Event::Role { role: self.role(), term: self.term(), leader: self.leader };
        self.out.events.push(event);
    }

    pub(crate) fn note_membership(&mut self) {
        self.out.events.push(Event::Membership {
            index: self.memberships.index(),
            membership: self.memberships.current().clone(),
        });
    }

    /// The log grew: if it has reached the floor, everything is here again that
    /// was acknowledged before the loss and is committed. What it holds then
    /// is of a leader that had all that (crate page, "Damage").
    pub(crate) fn note_floor(&mut self) {
        if self.floor.is_some_and(|floor| self.log.last().covers(floor)) {
            self.floor = None;
            self.out.events.push(Event::FloorReached { last: self.log.last() });
        }
    }

    /// What a candidate's log must reach to get this replica's vote: the end
    /// of its own, be it there or lost (paper, section 5.4.1).
    pub(crate) fn vote_floor(&self) -> Position {
        let last = self.log.last();
        match self.floor {
            Some(floor) if !self.config.has(PlantedBug::FloorForgotten) => last.furthest(floor),
            _ => last,
        }
    }

    /// Moves the commit index; it never goes back.
    pub(crate) fn commit_to(&mut self, index: Index) {
        self.commit = self.commit.max(index.min(self.log.last().index));
    }
}
