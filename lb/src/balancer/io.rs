//! What goes into a [`Balancer`](super::Balancer) and what comes out.

use std::net::SocketAddr;

use common::control::{Hello, ToLb, ToServer};
use common::ids::{ClusterId, FolderId};

use crate::events::Event;
use crate::memory::Memory;
use crate::registry::LinkId;

/// What a balancer is made with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// Process id, for people.
    pub pid: u32,
    /// Fresh servers that make a new cluster.
    pub expect: usize,
    /// The id of the cluster, should one be formed: drawn at random.
    pub cluster_to_form: ClusterId,
    /// The rotation's version starts here; it must not go back over a
    /// restart, as clients of `config get cluster` take only higher ones.
    pub config_version: u64,
}

/// Something that happened outside.
#[derive(Debug)]
pub enum Input {
    /// A link is open.
    Opened {
        /// Its new name.
        link: LinkId,
        /// The other end.
        remote: SocketAddr,
        /// The other end's first frame. Its version is ours: a peer of
        /// another one gets no link.
        hello: Hello,
    },
    /// A message came.
    Message {
        /// On this link.
        link: LinkId,
        /// What.
        message: Box<ToLb>,
    },
    /// A link is gone.
    Closed {
        /// Which.
        link: LinkId,
        /// Why, in words.
        reason: String,
    },
    /// An [`Output::Probe`] has been carried out.
    Probed {
        /// Of which server.
        folder: FolderId,
        /// Which address.
        peer: SocketAddr,
        /// That server answers there, or what happened instead.
        result: Result<(), String>,
    },
    /// An [`Output::Persist`] has been carried out.
    Persisted(
        /// Durable, or why not.
        Result<(), String>,
    ),
    /// Time passes: to be given several times in a second.
    Tick,
}

/// Something to do outside, in the order given.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Send a message. If that fails nothing need be done.
    Send {
        /// On this link.
        link: LinkId,
        /// What.
        message: ToServer,
    },
    /// Find out whether the server with this folder answers at this address,
    /// then say [`Input::Probed`].
    Probe {
        /// Which server.
        folder: FolderId,
        /// Which address.
        peer: SocketAddr,
    },
    /// Make the memory durable, then say [`Input::Persisted`].
    Persist(Memory),
    /// Close a link.
    Close {
        /// Which.
        link: LinkId,
        /// Why, for the other end.
        reason: String,
    },
    /// Log what happened.
    Log(Event),
}
