//! Replicating a state machine of one's own.
//!
//! A [`StateMachine`] applies commands, one after the other, and nothing else
//! decides its state. A [`Replica`] keeps one of several copies of it: it is
//! given commands by anybody, agrees with the others on their order, and
//! applies those that a majority holds, so that all copies go through the same
//! states. As long as a majority of the replicas runs and can talk, the
//! cluster goes on.
//!
//! ```
//! use store_server::embed::{Network, NodeId, Replica, ReplicaConfig, RestoreError, StateMachine};
//!
//! /// Counts what it is told to add.
//! #[derive(Default)]
//! struct Counter(u64);
//!
//! impl StateMachine for Counter {
//!     type Reply = u64;
//!
//!     fn apply(&mut self, _index: u64, command: &[u8]) -> u64 {
//!         self.0 += command.len() as u64;
//!         self.0
//!     }
//!
//!     fn snapshot(&self) -> Vec<u8> {
//!         self.0.to_le_bytes().to_vec()
//!     }
//!
//!     fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
//!         self.0 = u64::from_le_bytes(snapshot.try_into().map_err(|_| "not eight bytes")?);
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let network = Network::in_process([NodeId(1), NodeId(2), NodeId(3)]);
//! let start = |id| Replica::start(id, ReplicaConfig::new(network.clone()), Counter::default());
//! let replicas = [start(NodeId(1))?, start(NodeId(2))?, start(NodeId(3))?];
//!
//! // Whichever replica is asked: it finds the leader.
//! assert_eq!(replicas[0].propose_anywhere("three").await?, 5);
//! assert_eq!(replicas[1].propose_anywhere("ab").await?, 7);
//! // Replicas answer questions without a command.
//! assert_eq!(replicas[2].read(|counter| counter.0).await?, 7);
//!
//! for replica in &replicas {
//!     replica.stop();
//!     replica.stopped().await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is certain
//!
//! - A reply from [`Replica::propose`] says that a majority has the command,
//!   durably if the replicas have folders, and that every later
//!   [`Replica::read`], on whichever replica, sees its effect.
//! - [`ProposeError`] tells what certainly was not executed from what may
//!   have been. Commands that must not take effect twice should be such that
//!   the state machine can tell, or be looked for before they are proposed
//!   again.
//! - All replicas apply the same commands in the same order, so `apply` must
//!   depend on nothing but the state and the command: no clock, no random
//!   number, no order of a hash table.
//!
//! # Where replicas live
//!
//! [`Network::in_process`] connects replicas of one process by queues, for
//! tests and for learning; [`Network::udp`] connects replicas of any
//! processes and hosts by the same authenticated QUIC links that store
//! servers use. In either, a test can [cut](Network::cut) the link between any
//! two replicas, [one way](Network::cut_one_way) or both.
//!
//! With [`ReplicaConfig::dir`] a replica keeps its log (the store's own
//! [`log_file`](crate::log_file)) and its newest snapshot in a folder, and can be
//! stopped, or crash, and be started again. Nothing is acknowledged before it
//! is durable. A folder that was lost or set back to an older copy must not be
//! used again under the same id: with it went promises that others count on.
//! Without a folder everything is in memory, and an id cannot come back.
//!
//! Each replica has a thread of its own, on which the state machine runs too,
//! and with a folder another one for the log. The futures of [`Replica`] need
//! a tokio runtime with its timer; [`Network::udp`] needs its IO as well.
//!
//! # What is not here
//!
//! The members are fixed: changes of the membership are made by the store
//! server, not by this interface. A snapshot is a `Vec<u8>`, and is held in
//! memory once. The log of a folder is not cut behind a snapshot.

mod config;
mod disk;
mod engine;
mod error;
mod inbox;
mod keystore;
mod network;
mod replica;
mod snapshot_file;
#[cfg(test)]
mod tests;
mod udp;
mod waiting;

use bytes::Bytes;

pub use config::{Observer, ReplicaConfig, State, Status, Timings};
pub use error::{Failure, ProposeError, ReadError, StartError};
pub use keystore::KeystoreMachine;
pub use network::Network;
pub use raft::{Index, NodeId, Term};
pub use replica::Replica;

/// What is replicated.
pub trait StateMachine: Send + 'static {
    /// What a command is answered with.
    type Reply: Send + 'static;

    /// Applies the command of the entry at `index`. Called once for each
    /// command, in order; indexes ascend, with gaps. Must do the same on all
    /// replicas; a command that makes no sense is answered, not a reason to
    /// panic.
    fn apply(&mut self, index: Index, command: &[u8]) -> Self::Reply;

    /// The whole state as bytes. Called on the replica's thread each
    /// [`ReplicaConfig::snapshot_entries`] entries: a slow one delays replies.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the whole state by that of a snapshot.
    ///
    /// # Errors
    /// When the bytes are no snapshot; the replica stops then.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError>;
}

/// Why bytes are no snapshot of a state machine.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct RestoreError(String);

impl From<&str> for RestoreError {
    fn from(why: &str) -> Self {
        RestoreError(why.to_owned())
    }
}

impl From<String> for RestoreError {
    fn from(why: String) -> Self {
        RestoreError(why)
    }
}

/// A command that was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Its index.
    pub index: Index,
    /// The term of the leader that put it into the log.
    pub term: Term,
    /// The command.
    pub command: Bytes,
}

/// The state as of an index.
#[derive(Clone, Default)]
struct Snapshot {
    meta: raft::SnapshotMeta,
    state: Bytes,
}
