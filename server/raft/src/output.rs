//! What the core asks of its driver, and what the driver hands back.

use alloc::vec::Vec;

use crate::message::Envelope;
use crate::types::{Entry, HardState, Index, Membership, NodeId, Position, SnapshotMeta, Term};

/// Why a [`Event::Rejected`] append was refused: this server's log has other entries
/// where it is committed. One of the two logs is not what it was.
pub const COMMITTED_DIFFERS: &str = "append contradicts what is committed";

/// Everything that one turn of the core produced. The driver handles the
/// parts in the order of the fields; the crate's page has the whole contract.
#[derive(Clone, Debug)]
pub struct Output<P> {
    /// Messages that may leave at once, before anything is durable.
    pub send: Vec<Envelope<P>>,
    /// To be written to the write-ahead stream, in this order and in one
    /// batch; once it is durable the driver calls `Node::synced` with
    /// `persist.mark`. Votes and acknowledgements that depend on it come out
    /// after that, in `send`.
    pub persist: Option<Persist<P>>,
    /// Committed entries to apply, consecutive, each exactly once.
    pub committed: Vec<Entry<P>>,
    /// Reads that may be served once `index` is applied.
    pub reads: Vec<ReadReady>,
    /// Reads that cannot be served here: leadership was lost, or nobody
    /// leads. The driver retries or refuses them.
    pub reads_failed: Vec<u64>,
    /// Entries that a peer needs and that are no longer in memory; answered
    /// with `Node::fetched`, at any later time.
    pub fetch: Vec<Fetch>,
    /// Snapshot work; answered as [`SnapshotTask`] says.
    pub snapshots: Vec<SnapshotTask>,
    /// What changed, for logs, statistics and the simulator.
    pub events: Vec<Event>,
}

impl<P> Default for Output<P> {
    fn default() -> Self {
        Output {
            send: Vec::new(),
            persist: None,
            committed: Vec::new(),
            reads: Vec::new(),
            reads_failed: Vec::new(),
            fetch: Vec::new(),
            snapshots: Vec::new(),
            events: Vec::new(),
        }
    }
}

/// One batch for the write-ahead stream.
#[derive(Clone, Debug)]
pub struct Persist<P> {
    /// Present when term or vote changed; written before the entries.
    pub hard_state: Option<HardState>,
    /// Entries to append. The first may have an index at or below the last
    /// one written: everything from that index on is replaced.
    pub entries: Vec<Entry<P>>,
    /// What is durable once this batch and all before it are.
    pub mark: DurableMark,
}

/// How far the write-ahead stream is durable. Index alone would not do: the
/// same index may have been written, truncated and written again in another
/// term.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DurableMark {
    /// Term and vote as of this batch.
    pub hard_state: HardState,
    /// Last index of the log as of this batch.
    pub index: Index,
    /// The term of the entry at `index`.
    pub term: Term,
}

/// A read that may be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadReady {
    /// The driver's own number, as given to `Node::read`.
    pub request: u64,
    /// Serve it once this index is applied.
    pub index: Index,
}

/// Entries wanted from disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// For which peer.
    pub peer: NodeId,
    /// First index wanted.
    pub from: Index,
    /// Last index that exists.
    pub to: Index,
    /// Stop after about so many bytes, but give at least one entry.
    pub max_bytes: usize,
}

/// Snapshot work for the driver.
#[derive(Clone, Debug)]
pub enum SnapshotTask {
    /// Read a chunk of the newest local snapshot and hand it to
    /// `Node::snapshot_chunk`, to be sent to `peer`.
    Read {
        /// For which peer.
        peer: NodeId,
        /// The snapshot that is being sent; 0: choose the newest.
        index: Index,
        /// First byte wanted. May lie beyond the end when a peer talks
        /// nonsense: answer without bytes then.
        offset: u64,
    },
    /// Write a chunk that arrived to the side file; answered with
    /// `Node::snapshot_written`.
    Write {
        /// What the snapshot stands for.
        meta: SnapshotMeta,
        /// Byte offset of `data`; 0 begins the side file anew. Beyond its end
        /// when the replica restarted in the middle and less is left than was
        /// confirmed: answered with what there is.
        offset: u64,
        /// Bytes.
        data: Vec<u8>,
        /// The last chunk: verify the whole, make it durable, replace the
        /// state machine with it, restart the log file behind it.
        done: bool,
    },
}

/// What the replica is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoleKind {
    /// Follows, or waits for somebody to follow.
    Follower,
    /// Asks whether it could win, or campaigns.
    Candidate,
    /// Leads.
    Leader,
}

/// What changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Role, term or known leader changed.
    Role {
        /// The role now.
        role: RoleKind,
        /// The term now.
        term: Term,
        /// Whom it takes for the leader.
        leader: Option<NodeId>,
    },
    /// Another membership is in force (not necessarily committed yet).
    Membership {
        /// Index of the entry that carries it; 0: it came with a snapshot
        /// or was rolled back to the initial one.
        index: Index,
        /// The membership.
        membership: Membership,
    },
    /// A suffix of the log was replaced: entries from `from` on are gone.
    Truncated {
        /// First index that was dropped.
        from: Index,
    },
    /// The log ended below its floor (`Restored::floor`) and has reached it:
    /// what was lost is there again.
    FloorReached {
        /// Where the log ends now.
        last: Position,
    },
    /// A message was refused at the boundary. [`COMMITTED_DIFFERS`] says more: this
    /// server's log is not one of the same cluster any more.
    Rejected {
        /// Who sent it.
        from: NodeId,
        /// Why.
        why: &'static str,
    },
}
