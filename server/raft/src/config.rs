//! Settings of one replica, and the state it restarts from.

use alloc::vec::Vec;

use crate::types::{Entry, HardState, Index, Membership, NodeId, Position, SnapshotMeta, Term};

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
    /// A bug to show that the tests find it.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<crate::planted::PlantedBug>,
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
            #[cfg(feature = "planted-bugs")]
            planted: None,
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
    /// A log that ends before `snapshot.index` (the state machine was ahead of
    /// the disk) is to be restarted behind the snapshot, and given as empty.
    pub runs: Vec<(Index, Term)>,
    /// Memberships found in the log after `snapshot.index`, ascending.
    pub memberships: Vec<(Index, Membership)>,
    /// All entries after `snapshot.index`, consecutive.
    pub entries: Vec<Entry<P>>,
    /// An index known to be committed (from a mark in the stream), or 0.
    pub commit: Index,
    /// Where the log ended before a part of it was lost that had been durable,
    /// or a position behind that. Until the log has got there again the
    /// replica votes as if it still ended there, and does not campaign. `None`
    /// when nothing was lost; one that the log reaches has no effect.
    pub floor: Option<Position>,
}

impl<P> Restored<P> {
    /// Drops the log when it does not contain the entry that the snapshot
    /// stands for: an installed snapshot replaced it, and the crash came
    /// before the log file was restarted behind it, or the state machine was
    /// ahead of the disk. Then answers `true`, and the driver has to restart
    /// its log file behind the snapshot before it writes to it again.
    /// [`Node::new`](crate::Node::new) does the same, but cannot tell.
    pub fn discard_unconnected(&mut self) -> bool {
        let snapshot = &self.snapshot;
        let last = self.entries.last().map(|entry| entry.index);
        let run = self.runs.iter().rev().find(|&&(first, _)| first <= snapshot.index);
        let connected = match (self.runs.first(), run) {
            (None, _) => true,
            // The log begins right behind the snapshot.
            (Some(&(first, _)), None) => first == snapshot.index + 1,
            (Some(_), Some(&(_, term))) => snapshot.index == 0 || term == snapshot.term,
        };
        if !connected {
            self.runs.clear();
            self.entries.clear();
            self.memberships.clear();
        } else if last.is_none() {
            self.runs.retain(|&(first, _)| first <= self.snapshot.index);
        }
        !connected
    }
}
