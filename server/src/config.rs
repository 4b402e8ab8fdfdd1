//! What a server is started with, and what it says while it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use common::control::{MemberRecord, Role, Waiting};
use common::ids::{ClusterId, FolderId, ServerId};

use crate::log_file::LogOptions;

/// Settings of one server process.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Its name, e.g. `srv-1`.
    pub name: String,
    /// Its folder, holding `identity` and `lock`.
    pub dir: PathBuf,
    /// The write-ahead log: a folder of segments; `DIR/log-file` by default.
    pub log_file: PathBuf,
    /// The checkpoint; `DIR/keystore-file` by default.
    pub keystore_file: PathBuf,
    /// The cluster key's file.
    pub key_file: PathBuf,
    /// Load balancers to register with; empty with `fixed`.
    pub lbs: Vec<SocketAddr>,
    /// A cluster given by a configuration file instead of a load balancer.
    pub fixed: Option<FixedCluster>,
    /// Leader's heartbeat interval.
    pub heartbeat: Duration,
    /// Range of the election timeout.
    pub election_timeout: (Duration, Duration),
    /// A voter that the leader has not heard for so long is removed; zero: never.
    pub dead_after: Duration,
    /// Largest value accepted, in bytes.
    pub max_value_bytes: usize,
    /// A checkpoint is written once the log-file has grown by so much, or by the
    /// size of the data if that is more; as much of the log stays for servers
    /// that lag.
    pub checkpoint_after_bytes: u64,
    /// Segments of the log-file that are not needed any more go to its archive
    /// instead of being reused.
    pub keep_log: bool,
    /// Bytes that items may take before a leader refuses stores; `None`: no
    /// limit.
    pub memory_bytes: Option<u64>,
    /// Client connections accepted at a time.
    pub max_connections: usize,
}

impl ServerConfig {
    /// How the log-file is opened.
    pub fn log_options(&self) -> LogOptions {
        LogOptions { keep: self.keep_log, ..LogOptions::default() }
    }
}

/// The one of a server's load balancers that may found a cluster: that with the
/// smallest address. All servers that list the same ones agree on it, in
/// whatever order they list them, so that no two clusters are founded.
pub fn founder(lbs: &[SocketAddr]) -> Option<SocketAddr> {
    lbs.iter().copied().min()
}

/// The members of a cluster without a load balancer (`store run`).
#[derive(Clone, Debug)]
pub struct FixedCluster {
    /// Derived from the configuration, the same on every server.
    pub cluster: ClusterId,
    /// This server.
    pub id: ServerId,
    /// Everybody. Folder ids are derived from the configuration, too, because
    /// nobody hands them around: a server whose disk was wiped has that of the one
    /// that voted. It is told from it by its runs, and turned away for ever.
    pub members: Vec<MemberRecord>,
}

impl FixedCluster {
    /// The folder id of this server.
    pub fn own_folder(&self) -> Option<FolderId> {
        self.members.iter().find(|member| member.id == self.id).map(|member| member.info.folder)
    }
}

/// The sockets of a server, bound by whoever decides about ports.
#[derive(Debug)]
pub struct Sockets {
    /// For clients.
    pub client: std::net::TcpListener,
    /// For servers and load balancers.
    pub peer: std::net::UdpSocket,
}

/// A snapshot on its way to this server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Arriving {
    /// Bytes that are there.
    pub bytes: u64,
    /// Thousandths of it that are there, nearly: its size is known at its end.
    pub permille: u16,
}

/// Steps of a start, in the order in which they happen.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum Progress {
    /// The disk is read and the sockets serve.
    Serving {
        /// For clients.
        client: SocketAddr,
        /// For servers and load balancers.
        peer: SocketAddr,
        /// Entries that were replayed from the log-file.
        replayed: u64,
    },
    /// A load balancer has accepted the registration.
    Registered {
        /// Which.
        lb: SocketAddr,
        /// What a fresh server waits for.
        waiting_for: Option<Waiting>,
    },
    /// It is a member of a cluster and knows its role.
    Member {
        /// Which cluster.
        cluster: ClusterId,
        /// Its id.
        id: ServerId,
        /// Its role.
        role: Role,
    },
    /// The cluster had removed it, and has admitted it again under another id;
    /// it keeps its data.
    Rejoins {
        /// Its id before.
        before: ServerId,
        /// Its id from now on.
        id: ServerId,
    },
    /// It is sent what it lacks. Said again as it goes on, rarer the longer that
    /// takes.
    Syncing {
        /// Entries up to here are applied.
        applied: u64,
        /// The leader has committed up to here, as far as it has said so.
        commit: u64,
        /// The snapshot that is arriving, if one is.
        snapshot: Option<Arriving>,
    },
    /// It votes, and has everything that the leader had committed: the start is
    /// over.
    Voter {
        /// Its id.
        id: ServerId,
        /// Its role.
        role: Role,
        /// Members with its addresses that it takes the place of: nobody can be
        /// reached there any more but itself.
        replaces: Vec<ServerId>,
    },
    /// The disk is damaged; what it lacks comes from the other servers.
    Repairing {
        /// What was wrong, and what became of it.
        what: String,
    },
    /// The disk is damaged so that the server must not come back as who it was:
    /// its data were set aside, and it joins as a new one.
    SetAside {
        /// What is damaged.
        why: String,
        /// Where the data are now.
        aside: PathBuf,
    },
    /// A load balancer is not reached for long, or cannot be registered with.
    /// The server goes on trying.
    NotRegistered {
        /// Which.
        lb: SocketAddr,
        /// It answered, and is none for this server: it has another key, another
        /// version, or is no load balancer.
        refuses: bool,
        /// What happened, and what to do.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_founds_does_not_hang_on_the_order_of_the_list() {
        let lbs = ["10.0.0.9:5001", "10.0.0.10:5001", "10.0.0.9:5003", "[::1]:5001"];
        let mut lbs = lbs.map(|lb| lb.parse().unwrap());
        let smallest = "10.0.0.9:5001".parse().unwrap();
        for _ in 0..lbs.len() {
            lbs.rotate_left(1);
            assert_eq!(founder(&lbs), Some(smallest));
            let reversed: Vec<SocketAddr> = lbs.iter().rev().copied().collect();
            assert_eq!(founder(&reversed), Some(smallest));
        }
        assert_eq!(founder(&[]), None);
    }
}
