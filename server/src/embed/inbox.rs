//! Everything that happens to a replica, in one queue.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::StateMachine;
use super::disk::Done;
use super::error::{ProposeError, ReadError};
use super::network::Frame;

/// Frames that wait at the most. Raft repeats what it needs; a replica that
/// cannot keep up must not run out of memory.
const MAX_FRAMES: usize = 10_000;

/// A proposal's reply goes here.
pub(super) type ReplyTo<R> = oneshot::Sender<Result<R, ProposeError>>;

/// Looks at the state machine, or hears why it cannot.
pub(super) type Query<M> = Box<dyn FnOnce(Result<&M, ReadError>) + Send>;

/// One thing that happened.
pub(super) enum Input<M: StateMachine> {
    /// A frame of another replica.
    Frame(Frame),
    /// A command; `forward`: if another replica leads, to that.
    Propose { command: Bytes, forward: bool, reply: ReplyTo<M::Reply> },
    /// A read; not `linearizable`: of the state as it is here.
    Read { linearizable: bool, query: Query<M> },
    /// The disk is done with something.
    Disk(Done),
    /// The replica is asked to stop.
    Stop,
}

/// The queue. Whatever is pushed after it was closed is dropped.
pub(super) struct Inbox<M: StateMachine> {
    queue: Mutex<Queue<M>>,
    bell: Condvar,
}

struct Queue<M: StateMachine> {
    inputs: Vec<Input<M>>,
    frames: usize,
    closed: bool,
}

impl<M: StateMachine> Inbox<M> {
    pub(super) fn new() -> Arc<Self> {
        let queue = Queue { inputs: Vec::new(), frames: 0, closed: false };
        Arc::new(Inbox { queue: Mutex::new(queue), bell: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Queue<M>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, input: Input<M>) {
        let mut queue = self.lock();
        if queue.closed {
            return;
        }
        if matches!(input, Input::Frame(_)) {
            if queue.frames >= MAX_FRAMES {
                return;
            }
            queue.frames += 1;
        }
        queue.inputs.push(input);
        let first = queue.inputs.len() == 1;
        drop(queue);
        if first {
            self.bell.notify_one();
        }
    }

    /// Swaps what has arrived into `inputs`, which must be empty; waits for
    /// it, but not longer than `timeout`.
    pub(super) fn wait(&self, timeout: Duration, inputs: &mut Vec<Input<M>>) {
        debug_assert!(inputs.is_empty());
        let queue = self.lock();
        let empty = |queue: &mut Queue<M>| queue.inputs.is_empty();
        let waited = self.bell.wait_timeout_while(queue, timeout, empty);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.inputs, inputs);
        queue.frames = 0;
    }

    /// Ends the queue. Those who wait for an answer hear that there is none.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        let left = std::mem::take(&mut queue.inputs);
        drop(queue);
        drop(left);
    }
}
