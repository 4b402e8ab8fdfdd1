//! The five lanes of a link, and the queue in front of each.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use quinn::{SendStream, WriteError};

use super::error::SendError;
use crate::limits::{MAX_FRAME_BYTES, MAX_LANE_QUEUE_BYTES};

/// How many there are.
pub(super) const LANES: usize = 5;

/// What a frame is, so that urgent ones never queue behind large ones. Each
/// lane is a QUIC stream of its own in each direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Hello, and JSON messages between servers and load balancers.
    Control,
    /// Votes, heartbeats, acknowledgements, read indexes.
    Urgent,
    /// Log entries.
    Bulk,
    /// Forwarded client requests and their replies.
    Request,
    /// Chunks of snapshots: whatever else there is to send goes first.
    Snapshot,
}

impl Lane {
    /// All lanes, in the order in which their streams are opened. Control is
    /// the first, because the hello is the first frame.
    pub const ALL: [Self; LANES] =
        [Self::Control, Self::Urgent, Self::Bulk, Self::Request, Self::Snapshot];

    /// Position in [`Lane::ALL`].
    pub(super) fn index(self) -> usize {
        self as usize
    }

    /// First byte of the lane's stream.
    pub(super) fn tag(self) -> u8 {
        match self {
            Self::Control => b'C',
            Self::Urgent => b'U',
            Self::Bulk => b'B',
            Self::Request => b'R',
            Self::Snapshot => b'S',
        }
    }

    /// The lane whose stream starts with this byte.
    pub(super) fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.tag() == tag)
    }

    /// Of what is waiting in several lanes, the highest goes first.
    pub(super) fn priority(self) -> i32 {
        match self {
            Self::Urgent => 3,
            Self::Control => 2,
            Self::Request => 1,
            Self::Bulk => 0,
            Self::Snapshot => -1,
        }
    }
}

/// Length of the length in front of a frame.
pub(super) const HEADER_BYTES: usize = 4;

/// A queue that has grown beyond this gives its memory back once it is empty.
const KEPT_CAPACITY_BYTES: usize = 256 * 1024;

/// What waits in front of one lane's stream: the frames of this turn of the
/// runtime and, when the peer is slow, what QUIC has not taken yet.
#[derive(Debug)]
pub(super) struct Outgoing {
    stream: SendStream,
    queue: BytesMut,
    closed: bool,
}

impl Outgoing {
    pub(super) fn new(lane: Lane, stream: SendStream) -> Self {
        // Fails only when the stream is finished, which a new one is not.
        let _ = stream.set_priority(lane.priority());
        Self { stream, queue: BytesMut::from(&[lane.tag()][..]), closed: false }
    }

    /// Appends a frame. Returns whether the queue was idle, so that it is the
    /// caller who has to wake the writer.
    pub(super) fn append(&mut self, encode: impl FnOnce(&mut BytesMut)) -> Result<bool, SendError> {
        if self.closed {
            return Err(SendError::Closed);
        }
        let start = self.queue.len();
        if start >= MAX_LANE_QUEUE_BYTES {
            return Err(SendError::Full);
        }
        self.queue.extend_from_slice(&[0; HEADER_BYTES]);
        let body = start + HEADER_BYTES;
        encode(&mut self.queue);
        assert!(self.queue.len() >= body, "an encoder may only append");
        let bytes = self.queue.len() - body;
        if bytes > MAX_FRAME_BYTES {
            self.queue.truncate(start);
            return Err(SendError::TooLong { bytes });
        }
        // An idle lane takes any frame: the bound is above the longest one.
        if self.queue.len() > MAX_LANE_QUEUE_BYTES {
            self.queue.truncate(start);
            return Err(SendError::Full);
        }
        let length = u32::try_from(bytes).expect("the longest frame fits");
        self.queue[start..body].copy_from_slice(&length.to_le_bytes());
        Ok(start == 0)
    }

    /// Hands QUIC as much as it takes. When something stays, the waker in `cx`
    /// is called once more can go.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), SendError> {
        while !self.queue.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.queue) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(taken)) if taken == self.queue.len() => self.queue.clear(),
                Poll::Ready(Ok(taken)) => self.queue.advance(taken),
                Poll::Ready(Err(error)) => {
                    // Only `ConnectionLost` happens between peers of one
                    // version; a stopped stream is as useless as a lost link.
                    if !matches!(error, WriteError::ConnectionLost(_)) {
                        tracing::debug!(%error, "a lane was stopped by the peer");
                    }
                    self.shut();
                    return Err(SendError::Closed);
                }
            }
        }
        if self.queue.capacity() > KEPT_CAPACITY_BYTES {
            self.queue = BytesMut::new();
        }
        Ok(())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Refuses frames from now on and forgets those that wait.
    pub(super) fn shut(&mut self) {
        self.closed = true;
        self.queue = BytesMut::new();
    }

    /// Marks the end of the stream; the future ends when the peer has it all.
    pub(super) fn finish(&mut self) -> impl Future<Output = ()> + use<> {
        self.closed = true;
        let _ = self.stream.finish();
        let stopped = self.stream.stopped();
        async move {
            let _ = stopped.await;
        }
    }
}
