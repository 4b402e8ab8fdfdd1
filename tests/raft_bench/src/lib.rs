//! Two Raft libraries that do the same work: three nodes in one thread,
//! entries of [`PAYLOAD_BYTES`] bytes, proposed in batches to the leader,
//! until all three have them committed, stored and applied.
//!
//! Both are driven alike: one message at a time to its node, then that node's
//! turn; messages go by value through a queue; payloads are shared
//! [`Bytes`](bytes::Bytes), so that a clone copies no payload; a batch of
//! entries for the disk is appended to a list in memory, and that is the sync.
//! The list, and the core's own copy, keep about [`KEPT_ENTRIES`] entries. Both
//! have pre-vote and check-quorum on, send at most 256 KiB in an append, and
//! have as many appends under way as they like.

mod ours;
mod raft_rs;

pub use ours::Ours;
pub use raft_rs::RaftRs;

/// Size of a proposal.
pub const PAYLOAD_BYTES: usize = 100;

/// Entries that stay in memory for slow peers, which these have none of.
pub const KEPT_ENTRIES: usize = 8_192;

/// Bytes of appends in one message at the most.
const MAX_APPEND_BYTES: usize = 256 * 1024;

/// Three nodes with an elected leader.
pub trait Cluster {
    /// Elects the first node.
    fn new() -> Self;

    /// Replicates `count` entries in batches of `batch`.
    ///
    /// # Panics
    /// When not every node has applied every entry in the end.
    fn replicate(&mut self, count: u64, batch: u64);
}

#[cfg(test)]
mod tests {
    use super::{Cluster, Ours, RaftRs};

    #[test]
    fn both_replicate_more_than_they_keep() {
        Ours::new().replicate(10_240, 64);
        RaftRs::new().replicate(10_240, 64);
    }
}
