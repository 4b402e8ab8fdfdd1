//! Settings of a replica, and what can be seen of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use raft::{NodeId, Term};

use super::Network;

/// Settings of one replica.
#[derive(Clone)]
pub struct ReplicaConfig {
    /// The cluster: who is in it, and how they are reached.
    pub network: Network,
    /// Where the replica keeps its log and its snapshots; nobody else may use
    /// the folder. `None`: in memory. A replica in memory that was stopped has
    /// forgotten whom it voted for, so it cannot come back under its id.
    pub dir: Option<PathBuf>,
    /// Heartbeats and time limits.
    pub timings: Timings,
    /// A snapshot is taken each time so many entries were applied. As many
    /// stay in memory for slow replicas.
    pub snapshot_entries: u64,
    /// Applied commands that wait for a slow reader of
    /// [`Replica::applied`](super::Replica::applied) at the most.
    pub applied_buffer: usize,
    /// Told of every change of state, term or leader, without exception.
    pub observer: Option<Observer>,
}

/// Called on the replica's own thread, so it must not block: state, term or
/// leader of this replica changed.
pub type Observer = Arc<dyn Fn(NodeId, Status) + Send + Sync>;

impl ReplicaConfig {
    /// A replica in memory, with the usual timings.
    pub fn new(network: Network) -> Self {
        ReplicaConfig {
            network,
            dir: None,
            timings: Timings::default(),
            snapshot_entries: 10_000,
            applied_buffer: 1024,
            observer: None,
        }
    }
}

impl std::fmt::Debug for ReplicaConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicaConfig")
            .field("network", &self.network)
            .field("dir", &self.dir)
            .field("timings", &self.timings)
            .finish_non_exhaustive()
    }
}

/// Time limits of a replica. They should be the same on all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timings {
    /// A leader is heard at least so often.
    pub heartbeat: Duration,
    /// Who hears no leader for a time drawn from this range campaigns. Several
    /// heartbeats, and longer than a sync of the disk.
    pub election_timeout: (Duration, Duration),
    /// A proposal or a read is given up after this.
    pub deadline: Duration,
}

impl Default for Timings {
    /// Heartbeats each 50 ms, elections after 200 to 400 ms, five seconds for
    /// a proposal.
    fn default() -> Self {
        Timings {
            heartbeat: Duration::from_millis(50),
            election_timeout: (Duration::from_millis(200), Duration::from_millis(400)),
            deadline: Duration::from_secs(5),
        }
    }
}

/// What a replica is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Follows a leader, or waits for one.
    Follower,
    /// Campaigns.
    Candidate,
    /// Leads, as far as it knows: one that was cut off believes so until it
    /// notices, for up to an election timeout.
    Leader,
    /// Was stopped, or failed.
    Stopped,
}

/// A replica's view of who leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// What it is.
    pub state: State,
    /// Its term.
    pub term: Term,
    /// Whom it takes for the leader; itself when it leads.
    pub leader: Option<NodeId>,
}
