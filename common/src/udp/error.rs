//! What can go wrong on the UDP side, in words for the operator.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Why there is no cluster key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is no such file.
    #[error(
        "no cluster key at {}: copy cluster.key there from a host of the cluster, or start the first load balancer, which makes one",
        path.display()
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is there but cannot be read.
    #[error("cannot read the cluster key {}: {source}; its owner must be the user who runs the store", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "{} is not a cluster key ({why}): it must hold 64 hexadecimal digits on one line; copy cluster.key again from a host of the cluster",
        path.display()
    )]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A new key cannot be kept.
    #[error("cannot write a new cluster key to {}: {source}; check that the folder is writable and not full", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why there is no link.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody answered.
    #[error("{addr} did not answer within {} ms: is it running, and does UDP reach it?", after.as_millis())]
    Timeout {
        /// Who was dialled.
        addr: SocketAddr,
        /// For how long.
        after: Duration,
    },
    /// The peer does not hold our key.
    #[error(
        "{addr} has a different cluster.key (ours has fingerprint {fingerprint}): copy cluster.key from a host of the cluster to the one that is to join it"
    )]
    DifferentKey {
        /// Who was dialled.
        addr: SocketAddr,
        /// Of our own key.
        fingerprint: String,
    },
    /// The peer speaks another version of the protocol, or ended the link
    /// while it was being set up.
    #[error("{addr} is no peer for us: {why}")]
    Refused {
        /// Who was dialled.
        addr: SocketAddr,
        /// In words.
        why: String,
    },
    /// The peer answered, then the link broke before it was set up.
    #[error("the link to {addr} broke while it was being set up: {why}")]
    Broken {
        /// Who was dialled.
        addr: SocketAddr,
        /// In words.
        why: String,
    },
    /// An address that cannot be dialled from this socket.
    #[error("{addr} cannot be dialled: {why}")]
    Unusable {
        /// Who was to be dialled.
        addr: SocketAddr,
        /// In words.
        why: String,
    },
    /// Our own endpoint is closed.
    #[error("this process is closing its UDP side")]
    Closed,
}

impl ConnectError {
    /// How long to wait before dialling again. Zero when nobody answered: the
    /// time was spent listening, and the next attempt must not start late.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Timeout { .. } => Duration::ZERO,
            Self::Broken { .. } => Duration::from_millis(50),
            Self::DifferentKey { .. }
            | Self::Refused { .. }
            | Self::Unusable { .. }
            | Self::Closed => Duration::from_secs(1),
        }
    }
}

/// Why a frame was not taken. Nothing of it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The peer takes frames slower than they are sent.
    #[error("the lane's queue is full: the peer is too slow, try again later or shed")]
    Full,
    /// The link is closed.
    #[error("the link is closed")]
    Closed,
    /// Longer than [`MAX_FRAME_BYTES`](crate::limits::MAX_FRAME_BYTES).
    #[error("a frame of {bytes} bytes is longer than a link carries: split it")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}
