//! A replica's own view of itself, for statistics and tests.

use alloc::vec::Vec;

use crate::output::RoleKind;
use crate::types::{Index, Membership, NodeId, Position, Suffrage, Term, Time};

/// What a replica says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// This replica.
    pub id: NodeId,
    /// What it is.
    pub role: RoleKind,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// Whom it takes for the leader; itself when it leads.
    pub leader: Option<NodeId>,
    /// The first index whose entry it still has, in memory or on disk.
    pub first_index: Index,
    /// The last index of its log.
    pub last_index: Index,
    /// Its log lost entries that had been durable and ended here, or before:
    /// until it does so again it votes for nobody behind that and does not
    /// campaign.
    pub floor: Option<Position>,
    /// Its log is durable up to here.
    pub durable: Index,
    /// The highest index that it knows to be committed.
    pub commit: Index,
    /// The last committed entry that was handed out to be applied.
    pub applied: Index,
    /// The index that its newest checkpoint stands for.
    pub checkpoint: Index,
    /// The membership in force.
    pub membership: Membership,
    /// The index of the entry that carries it.
    pub membership_index: Index,
    /// On the leader: every peer. Elsewhere empty.
    pub peers: Vec<PeerStatus>,
    /// Bytes in the log that are not known to be committed.
    pub uncommitted_bytes: usize,
    /// Messages that were refused at the boundary since the start.
    pub rejected: u64,
}

/// What a leader knows about a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// The peer.
    pub id: NodeId,
    /// Whether it votes.
    pub suffrage: Suffrage,
    /// Its log equals the leader's up to here, durably.
    pub matched: Index,
    /// The next index that would be sent to it.
    pub next: Index,
    /// How it is being supplied.
    pub state: PeerState,
    /// Bytes of appends on their way to it.
    pub inflight_bytes: usize,
    /// When it was last heard.
    pub last_contact: Time,
}

/// How a leader supplies a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerState {
    /// It is not known where the logs agree: one append at a time.
    Probe,
    /// Appends are pipelined within the window.
    Replicate,
    /// It needs entries that are no longer in the log.
    Snapshot {
        /// The snapshot that is being sent; 0 until the driver has named it.
        index: Index,
        /// How much of it has arrived.
        offset: u64,
    },
}
