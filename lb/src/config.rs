//! What a load balancer is started with.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which servers answer the reads that are routed, and which server a client
/// that asks with `get-servers` is sent to. All of them answer linearizably,
/// whichever it is; writes are routed to the leader.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The leader: no hop more than needed. It is named first, then the others
    /// by id.
    #[default]
    Leader,
    /// All servers, one after the other; each answer begins with the next.
    RoundRobin,
    /// The server with the fewest unanswered requests of this load balancer;
    /// those with the fewest connections of clients are named first.
    LeastLoaded,
}

impl Policy {
    const NAMES: [(&'static str, Policy); 3] = [
        ("leader", Policy::Leader),
        ("round-robin", Policy::RoundRobin),
        ("least-loaded", Policy::LeastLoaded),
    ];
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Policy::NAMES
            .into_iter()
            .find_map(|(name, policy)| (name == text).then_some(policy))
            .ok_or_else(|| format!("`{text}` is none of leader, round-robin and least-loaded"))
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Policy::NAMES.iter().find(|(_, policy)| policy == self);
        f.write_str(name.map_or("leader", |(name, _)| name))
    }
}

/// Settings of one load balancer process.
#[derive(Clone, Debug)]
pub struct LbConfig {
    /// Its name, e.g. `lb-1`.
    pub name: String,
    /// Its folder.
    pub dir: PathBuf,
    /// The cluster key's file.
    pub key_file: PathBuf,
    /// Fresh servers that make a new cluster.
    pub expect: usize,
    /// Which servers answer reads.
    pub policy: Policy,
    /// Client connections accepted at a time.
    pub max_connections: usize,
    /// Largest value accepted, in bytes.
    pub max_value_bytes: usize,
}

/// The sockets of a load balancer, bound by whoever decides about ports.
#[derive(Debug)]
pub struct Sockets {
    /// For clients.
    pub client: std::net::TcpListener,
    /// For servers.
    pub server: std::net::UdpSocket,
}
