//! Settings of one replica, and the state it restarts from.

use alloc::vec::Vec;

use crate::types::{Entry, HardState, Index, Membership, NodeId, SnapshotMeta, Term};

/// Settings of one replica. Times are microseconds.
#[derive(Clone, Debug)]
pub struct Config {
    /// This replica.
    pub id: NodeId,
    /// A follower that hears nothing campaigns after a time drawn from
    /// `election_timeout_min_us ..= election_timeout_max_us`.
    pub election_timeout_min_us: u64,
    /// See `election_timeout_min_us`.
    pub election_timeout_max_us: u64,
    /// A leader is heard at least so often.
    pub heartbeat_us: u64,
    /// Seed of the generator that draws election timeouts.
    pub seed: u64,
    /// One append carries about so many bytes at the most.
    pub max_append_bytes: usize,
    /// Bytes of appends on the way to one peer at the most.
    pub window_bytes: usize,
    /// While an append is on the way, another leaves only once it would carry
    /// this many bytes or the last one left `append_gap_us` ago: small ones
    /// wait for the answer and travel as one batch (as Nagle's algorithm).
    pub append_full_bytes: usize,
    /// See `append_full_bytes`.
    pub append_gap_us: u64,
    /// Entries kept in memory for slow peers; older ones are fetched.
    pub cache_bytes: usize,
    /// Uncommitted bytes that a leader accepts before it refuses proposals.
    pub max_uncommitted_bytes: usize,
    /// Serve reads on the leader's lease instead of asking a quorum.
    pub lease_reads: bool,
    /// Bound on how much faster another replica's clock may run than this
    /// one's, in parts per thousand; shortens the lease.
    pub lease_drift_permille: u64,
    /// A learner within this many entries of the leader, for one election
    /// timeout, is promoted by itself.
    pub promote_lag: u64,
    /// Whether the leader promotes learners that have caught up.
    pub auto_promote: bool,
}

impl Config {
    /// The defaults of DESIGN: heartbeat 50 ms, election timeout 200..400 ms.
    pub fn new(id: NodeId, seed: u64) -> Self {
        Config {
            id,
            election_timeout_min_us: 200_000,
            election_timeout_max_us: 400_000,
            heartbeat_us: 50_000,
            seed,
            max_append_bytes: 256 * 1024,
            window_bytes: 4 * 1024 * 1024,
            append_full_bytes: 64 * 1024,
            append_gap_us: 2_000,
            cache_bytes: 64 * 1024 * 1024,
            max_uncommitted_bytes: 64 * 1024 * 1024,
            lease_reads: false,
            lease_drift_permille: 50,
            promote_lag: 1_000,
            auto_promote: true,
        }
    }
}

/// What a replica finds on its disk when it starts.
#[derive(Clone, Debug)]
pub struct Restored<P> {
    /// Term and vote.
    pub hard_state: HardState,
    /// The checkpoint that the state machine was restored from; the default
    /// one (index 0) carries the first membership of a new cluster, and is
    /// empty on a server that waits to be admitted.
    pub snapshot: SnapshotMeta,
    /// Where the log on disk begins, and how its terms run: `(first index of
    /// the run, term)`, ascending. Empty when the log holds nothing. May begin
    /// before `snapshot.index`: those entries can be fetched for slow peers.
    pub runs: Vec<(Index, Term)>,
    /// Memberships found in the log after `snapshot.index`, ascending.
    pub memberships: Vec<(Index, Membership)>,
    /// All entries after `snapshot.index`, consecutive.
    pub entries: Vec<Entry<P>>,
    /// An index known to be committed (from a mark in the stream), or 0.
    pub commit: Index,
}
