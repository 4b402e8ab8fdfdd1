//! The vocabulary of the algorithm: terms, indexes, entries, membership.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

/// A position in the replicated log. The first entry has index 1; 0 means
/// "before the log".
pub type Index = u64;

/// A period with at most one leader (paper, section 5.1). Terms start at 1;
/// 0 means "before any election".
pub type Term = u64;

/// Microseconds on the driver's monotonic clock, from an arbitrary origin.
/// The core never reads a clock: every input that can depend on time
/// carries it.
pub type Time = u64;

/// An index and the term of the entry there.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Position {
    /// The index.
    pub index: Index,
    /// The term of the entry there; 0 before the log.
    pub term: Term,
}

impl Position {
    /// Whether a log that ends here is at least as up to date as one that
    /// ends at `other` (paper, section 5.4.1).
    pub fn covers(self, other: Position) -> bool {
        (self.term, self.index) >= (other.term, other.index)
    }

    /// The one of the two that a log must reach to be as up to date as both.
    #[must_use]
    pub fn furthest(self, other: Position) -> Position {
        if self.covers(other) { self } else { other }
    }
}

/// Names a replica. Ids are given out by the replicated [`Membership`], start
/// at 1 and are never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u64);

impl core::fmt::Display for NodeId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// What an entry carries for the state machine. The core only moves it about
/// and counts its bytes, for windows and batches.
pub trait Payload: Clone {
    /// Size in bytes, as it counts against windows and batch limits.
    fn size(&self) -> usize;
}

/// One entry of the replicated log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry<P> {
    /// Position in the log.
    pub index: Index,
    /// Term of the leader that created it.
    pub term: Term,
    /// What it does.
    pub body: Body<P>,
}

/// What an entry does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body<P> {
    /// Written by a new leader so that it can commit the entries of earlier
    /// terms (paper, sections 5.4.2 and 8). The first leader of a cluster
    /// writes the first membership instead.
    Noop,
    /// A command for the state machine.
    Command(P),
    /// A new membership; in force as soon as it is appended (dissertation,
    /// section 4.1).
    Membership(Membership),
}

/// Whether a member counts in elections and commits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Suffrage {
    /// Votes and counts.
    Voter,
    /// Receives the log, but neither votes nor counts (dissertation, 4.2.1).
    Learner,
}

/// One member of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Whether it votes.
    pub suffrage: Suffrage,
    /// Opaque to the core: how the driver finds the member (addresses, name).
    pub info: Arc<[u8]>,
}

/// As many dismissed members are kept in mind; those of the smallest ids are
/// forgotten first. They travel with each membership.
pub const MAX_DISMISSED: usize = 64;

/// Who is in the cluster. Travels whole in a log entry and in snapshots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// Every voter and learner.
    pub members: BTreeMap<NodeId, Member>,
    /// The id that the next new member gets; only grows.
    pub next_id: u64,
    /// Who is a member no longer because somebody wanted that, and what was
    /// known of them: for the driver, which must not admit them again by itself.
    /// The last [`MAX_DISMISSED`] of them.
    pub dismissed: BTreeMap<NodeId, Arc<[u8]>>,
}

impl Default for Membership {
    fn default() -> Self {
        Membership { members: BTreeMap::new(), next_id: 1, dismissed: BTreeMap::new() }
    }
}

impl Membership {
    /// A first membership with `voters`; `next_id` follows the highest id.
    pub fn of_voters(voters: impl IntoIterator<Item = (NodeId, Arc<[u8]>)>) -> Self {
        let members: BTreeMap<_, _> = voters
            .into_iter()
            .map(|(id, info)| (id, Member { suffrage: Suffrage::Voter, info }))
            .collect();
        let next_id = members.keys().next_back().map_or(1, |id| id.0 + 1);
        Membership { members, next_id, ..Membership::default() }
    }

    /// The ids that vote, in order.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().filter(|(_, m)| m.suffrage == Suffrage::Voter).map(|(id, _)| *id)
    }

    /// Whether `id` votes.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.members.get(&id).is_some_and(|m| m.suffrage == Suffrage::Voter)
    }
}

/// A change of one member (dissertation, section 4.1: single-server changes).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Admit a new member as a learner, under the next free id.
    AddLearner {
        /// How the driver finds it.
        info: Arc<[u8]>,
    },
    /// Make a learner a voter.
    Promote(NodeId),
    /// Drop a voter or a learner.
    Remove(NodeId),
    /// Drop it and keep in mind that this was wanted.
    Dismiss {
        /// Which member.
        id: NodeId,
        /// What is kept of it, opaque to the core.
        info: Arc<[u8]>,
    },
    /// Replace the addresses of a member.
    Update {
        /// Which member.
        id: NodeId,
        /// Its new info.
        info: Arc<[u8]>,
    },
}

/// What must be on disk before a vote is told to anybody (paper, figure 2).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HardState {
    /// The latest term that this replica has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
}

/// A point in the log that a snapshot or checkpoint stands for.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SnapshotMeta {
    /// The last index that the snapshot contains; 0 for an empty state.
    pub index: Index,
    /// The term of that entry.
    pub term: Term,
    /// The membership as of that index.
    pub membership: Membership,
}
