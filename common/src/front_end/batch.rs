//! Requests on their way to a service, and the replies on their way back.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use crate::forward::WriteIds;
use crate::limits::REQUEST_DEADLINE;
use crate::memcached::Request;

/// Requests that were read at one go from one connection, with room for their
/// replies.
///
/// Whoever holds it answers every request in order into `out` (nothing for
/// one that wants no reply) and calls [`Batch::finish`]. A batch that is
/// dropped instead closes its connection: a client must never wait for an
/// answer that nobody will give.
pub struct Batch {
    /// In the order in which they were sent.
    pub requests: Vec<Request>,
    /// The replies so far, as they go to the socket.
    pub out: BytesMut,
    /// About how many bytes `requests` hold, for bounds on what waits.
    pub bytes: usize,
    /// What names its requests if their client did so itself: all of them are
    /// writes then, with consecutive sequences. Session 0: it did not.
    pub ids: WriteIds,
    /// How long it has waited behind batches that were read together with it.
    pub waited: Duration,
    origin: Option<Arc<dyn Finish>>,
}

/// Where a batch goes back to.
pub trait Finish: Send + Sync {
    /// Takes the batch's buffers back; `replies` is `None` when the batch was
    /// dropped without an answer.
    fn finish(&self, finished: Finished);
}

/// A batch that is done, taken apart for its origin.
pub struct Finished {
    /// The requests, to be cleared and used again.
    pub requests: Vec<Request>,
    /// The replies.
    pub out: BytesMut,
    /// False: the batch was dropped without all of its answers.
    pub complete: bool,
}

impl Batch {
    /// A batch that goes back to `origin`.
    pub fn new(
        requests: Vec<Request>,
        out: BytesMut,
        bytes: usize,
        origin: Arc<dyn Finish>,
    ) -> Self {
        let (ids, waited) = (WriteIds::default(), Duration::ZERO);
        Batch { requests, out, bytes, ids, waited, origin: Some(origin) }
    }

    /// The same, with ids from the client.
    #[must_use]
    pub fn named(mut self, ids: WriteIds) -> Self {
        self.ids = ids;
        self
    }

    /// The same, after it has waited behind others.
    #[must_use]
    pub fn after(mut self, waited: Duration) -> Self {
        self.waited = waited;
        self
    }

    /// What is left of the time within which it is to be answered: that runs
    /// from when it was read, or each batch of a deep pipeline would wait in
    /// vain for the whole of it, one after the other.
    pub fn time_left(&self) -> Duration {
        REQUEST_DEADLINE.saturating_sub(self.waited)
    }

    /// All requests are answered in `out`: back to where it came from.
    pub fn finish(mut self) {
        self.give_back(true);
    }

    fn give_back(&mut self, complete: bool) {
        if let Some(origin) = self.origin.take() {
            origin.finish(Finished {
                requests: std::mem::take(&mut self.requests),
                out: std::mem::take(&mut self.out),
                complete,
            });
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.give_back(false);
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("requests", &self.requests)
            .field("out", &self.out.len())
            .finish_non_exhaustive()
    }
}
