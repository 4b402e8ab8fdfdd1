//! What a load balancer is started with.

use std::path::PathBuf;

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
    /// Client connections accepted at a time.
    pub max_connections: usize,
}

/// The sockets of a load balancer, bound by whoever decides about ports.
#[derive(Debug)]
pub struct Sockets {
    /// For clients: `get-servers`.
    pub client: std::net::TcpListener,
    /// For servers.
    pub server: std::net::UdpSocket,
}
