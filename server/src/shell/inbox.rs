//! Everything that happens to the driver, in one queue.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use common::control::{Hello, ToServer};
use common::front_end::{Batch, Service};
use common::udp::{Lane, Link};
use raft::{DurableMark, Entry, Index, NodeId, Term};

use super::snapshots::{Arrived, ChunkRead};
use crate::command::Payload;
use crate::keystore_file::WriteError;

/// A link to a load balancer, with the number that it has for this process.
#[derive(Clone)]
pub(crate) struct LbLink {
    pub(crate) number: u64,
    pub(crate) link: Link,
}

/// One thing that happened.
pub(crate) enum Input {
    /// A client asks.
    Client(Batch),
    /// A peer's frame.
    Frame { from: NodeId, link: u64, lane: Lane, frame: Bytes },
    /// An authenticated link came up, dialled or accepted.
    Link { link: Link, hello: Hello },
    /// A peer's link is gone.
    LinkClosed { from: NodeId, link: u64, reason: String },
    /// The process of the leader of this term has ended.
    LeaderGone { leader: NodeId, term: Term },
    /// A load balancer routes requests of its clients here.
    Routed { link: LbLink, frame: Bytes },
    /// A link to a load balancer is gone.
    LbLost(u64),
    /// A load balancer says something.
    FromLb { lb: SocketAddr, message: ToServer },
    /// The log thread is done with a batch.
    Synced { mark: DurableMark, took: Duration },
    /// The disk has no room for what is to be written; it is tried again.
    DiskFull(String),
    /// The log-file cannot be written any more.
    LogFailed(String),
    /// An old entry is damaged.
    LogDamaged,
    /// Entries for a slow peer were read.
    Fetched { peer: NodeId, entries: Vec<Entry<Payload>> },
    /// A checkpoint was written, or could not be.
    Checkpointed(Result<Index, WriteError>),
    /// An operator wants something.
    Operator(super::operator::Step),
    /// A chunk of a snapshot was read for a peer.
    ChunkRead { peer: NodeId, result: Box<ChunkRead> },
    /// A chunk of a snapshot was written; how long the side file is now.
    ChunkWritten { index: Index, next_offset: u64 },
    /// A snapshot has arrived, and is whole.
    Arrived(Box<Arrived>),
    /// The snapshot that arrived is the keystore-file, and the log-file begins
    /// behind it.
    Placed,
    /// The process is asked to stop.
    Stop,
}

/// A queue with a bell. Whoever rings first in a turn wakes the driver; it
/// then takes everything at once, so that one wake-up serves many.
#[derive(Default)]
pub(crate) struct Inbox {
    queue: Mutex<Vec<Input>>,
    bell: tokio::sync::Notify,
}

impl Inbox {
    pub(crate) fn push(&self, input: Input) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push(input);
        let first = queue.len() == 1;
        drop(queue);
        if first {
            self.bell.notify_one();
        }
    }

    /// Swaps what has arrived into `inputs`, which must be empty.
    pub(crate) fn take(&self, inputs: &mut Vec<Input>) {
        debug_assert!(inputs.is_empty());
        std::mem::swap(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner), inputs);
    }

    /// Forgets what only the member concerns that has just ended: its peers'
    /// frames, its disk.
    pub(crate) fn keep_for_another_member(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.retain(|input| {
            matches!(
                input,
                Input::Client(_)
                    | Input::Routed { .. }
                    | Input::LbLost(_)
                    | Input::FromLb { .. }
                    | Input::Stop
            )
        });
        drop(queue);
        // Whoever was to be woken by what is left has gone.
        self.bell.notify_one();
    }

    /// Takes out what load balancers have routed here.
    pub(crate) fn take_routed(&self) -> Vec<(LbLink, Bytes)> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = queue.extract_if(.., |input| matches!(input, Input::Routed { .. }));
        let routed = taken.filter_map(|input| match input {
            Input::Routed { link, frame } => Some((link, frame)),
            _ => None,
        });
        routed.collect()
    }

    /// Waits until something has arrived.
    pub(crate) async fn wait(&self) {
        self.bell.notified().await;
    }
}

impl Service for Inbox {
    fn call(&self, batch: Batch) {
        self.push(Input::Client(batch));
    }
}
