//! Where a connection and its batch meet again.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use tokio::net::tcp::OwnedWriteHalf;

use super::batch::{Finish, Finished};
use super::counters::Counters;
use super::{INITIAL_BYTES, KEEP_BYTES};

/// The half of a connection that its batches know: one for each connection,
/// used again for each batch.
///
/// A batch that is finished writes its replies to the socket there and then.
/// The connection's task usually need not run for that: it sleeps until its
/// client sends something and finds the buffers here. So a request costs one
/// turn of the task, not two.
///
/// Only one batch of a connection is out at a time, and the task writes only
/// while none is out, so that two writers can never meet.
pub(super) struct Link {
    socket: OwnedWriteHalf,
    counters: Arc<Counters>,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    back: Option<Finished>,
    /// The task sleeps and has not seen `back`.
    asleep: bool,
    /// The task waits for the batch itself, not only for more bytes.
    wanted: bool,
    waker: Option<Waker>,
}

impl Link {
    pub(super) fn new(socket: OwnedWriteHalf, counters: Arc<Counters>) -> Self {
        Link { socket, counters, slot: Mutex::default() }
    }

    /// The batch that came back, with what could not be written of its
    /// replies. `wanted`: wake the task when it comes back. Otherwise the task
    /// is woken only if something is left for it to do.
    pub(super) fn poll_back(&self, cx: &Context<'_>, wanted: bool) -> Poll<Finished> {
        let mut slot = self.slot();
        if let Some(finished) = slot.back.take() {
            slot.asleep = false;
            return Poll::Ready(finished);
        }
        slot.asleep = true;
        slot.wanted = wanted;
        // A task's waker is the same each time: no reference is counted here.
        if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            slot.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Writes what is left, at the client's pace.
    pub(super) async fn write_all(&self, out: &mut BytesMut) -> io::Result<()> {
        while !self.write_now(out)? {
            self.socket.writable().await?;
        }
        Ok(())
    }

    /// Writes what the socket takes; true when that was all.
    fn write_now(&self, out: &mut BytesMut) -> io::Result<bool> {
        while !out.is_empty() {
            match self.socket.try_write(out) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    self.counters.written(bytes);
                    if bytes == out.len() {
                        out.clear();
                    } else {
                        out.advance(bytes);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        // Nothing in a critical section can leave it half done.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Finish for Link {
    fn finish(&self, mut finished: Finished) {
        // The slices hold the read buffer; it can only be used again without them.
        finished.requests.clear();
        if finished.complete && self.write_now(&mut finished.out).is_err() {
            finished.complete = false;
        }
        if finished.out.is_empty() && finished.out.capacity() > KEEP_BYTES {
            finished.out = BytesMut::with_capacity(INITIAL_BYTES);
        }
        let left = !finished.complete || !finished.out.is_empty();
        let mut slot = self.slot();
        slot.back = Some(finished);
        if slot.asleep && (slot.wanted || left) {
            slot.asleep = false;
            if let Some(waker) = &slot.waker {
                waker.wake_by_ref();
            }
        }
    }
}
