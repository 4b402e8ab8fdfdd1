//! What replicas tell each other. One variant for each message, with the
//! fields that it needs and no others.

use alloc::vec::Vec;

use crate::types::{Entry, Index, NodeId, SnapshotMeta, Term};

/// A message with its sender's term, as it travels between replicas.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope<P> {
    /// Who sent it.
    pub from: NodeId,
    /// Who is to get it.
    pub to: NodeId,
    /// The sender's term; for pre-votes the term that it would campaign in.
    pub term: Term,
    /// What it says.
    pub message: Message<P>,
}

/// What a replica says to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message<P> {
    /// "Would you vote for me?" Changes no state at the receiver
    /// (dissertation, section 9.6).
    PreVote {
        /// The candidate's last log position.
        last_index: Index,
        /// Its term.
        last_term: Term,
    },
    /// Answer to [`Message::PreVote`].
    PreVoteReply {
        /// Whether the sender would vote so.
        granted: bool,
    },
    /// RequestVote (paper, figure 2).
    Vote {
        /// The candidate's last log position.
        last_index: Index,
        /// Its term.
        last_term: Term,
        /// The leader itself asked for this election (transfer), so that
        /// leader stickiness does not apply (dissertation, section 3.10).
        transfer: bool,
    },
    /// Answer to [`Message::Vote`]; leaves only once the vote is durable.
    VoteReply {
        /// Whether the vote was given.
        granted: bool,
    },
    /// AppendEntries (paper, figure 2).
    Append {
        /// Index of the entry before `entries`.
        prev_index: Index,
        /// Its term.
        prev_term: Term,
        /// The leader's commit index.
        commit: Index,
        /// The newest read round (see [`Message::Heartbeat`]).
        read_round: u64,
        /// Consecutive entries from `prev_index + 1`; may be empty (a probe).
        entries: Vec<Entry<P>>,
    },
    /// The append matched; leaves only once everything up to `match_index` is
    /// durable.
    AppendReply {
        /// The sender's log equals the leader's up to here, durably.
        match_index: Index,
        /// Echo of the newest read round seen.
        read_round: u64,
    },
    /// The append did not match (paper, section 5.3, fast back-off).
    AppendReject {
        /// The `prev_index` that was refused.
        prev_index: Index,
        /// The last index up to which the sender's log may match: at or below
        /// `prev_index`, of a term at or below the refused one.
        hint_index: Index,
        /// The term of the sender's entry at `hint_index`.
        hint_term: Term,
    },
    /// Keeps leadership known; carries no entries, so it never queues behind
    /// any.
    Heartbeat {
        /// The leader's commit index, bounded by what the receiver is known
        /// to have.
        commit: Index,
        /// Number of the newest read round: an echo of it proves that the
        /// sender was still the leader when the round began (dissertation,
        /// section 6.4).
        read_round: u64,
    },
    /// Answer to [`Message::Heartbeat`].
    HeartbeatReply {
        /// Echo.
        read_round: u64,
        /// The sender's last log index, so that a leader notices lost appends.
        last_index: Index,
    },
    /// A follower or learner asks from which index on a read is linearizable.
    ReadIndex {
        /// The sender's own number for the request.
        request: u64,
    },
    /// Answer to [`Message::ReadIndex`].
    ReadIndexReply {
        /// Echo.
        request: u64,
        /// The read may be served once this index is applied; `None`: the
        /// sender is not the leader, or cannot say yet.
        index: Option<Index>,
    },
    /// The leader asks the receiver to campaign at once (dissertation, 3.10).
    TimeoutNow,
    /// One chunk of a snapshot.
    SnapshotChunk {
        /// What the snapshot stands for.
        meta: SnapshotMeta,
        /// Byte offset of `data` in the snapshot.
        offset: u64,
        /// Bytes of the state machine's snapshot.
        data: Vec<u8>,
        /// Whether this is the last chunk.
        done: bool,
    },
    /// How far a snapshot has arrived; the next chunk wanted starts here.
    SnapshotReply {
        /// Index of the snapshot that is being received.
        index: Index,
        /// First byte that is still missing.
        next_offset: u64,
        /// The snapshot is installed (or was not needed): go on with appends.
        installed: bool,
    },
}
