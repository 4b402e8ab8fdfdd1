//! The server's side of a backup: from a frozen keystore to an operator.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use common::udp::{Lane, Link, Receive};
use tokio::sync::{Semaphore, mpsc};

use super::About;
use super::link::{CHUNK_BYTES, DATA, MESSAGE, ToMember, ToOperator, WINDOW_BYTES};
use crate::keystore::Frozen;
use crate::keystore_file::{CheckpointMeta, WriteError};

/// An operator that takes nothing for so long is given up: the frozen keystore
/// costs memory as long as it is held.
const PATIENCE: Duration = Duration::from_secs(60);

/// Chunks that wait between the thread that encodes and the link.
const CHUNKS_AHEAD: usize = 4;

/// An operator that asked for a backup.
#[derive(Clone)]
pub(crate) struct Asked {
    link: Link,
    room: Arc<Semaphore>,
    /// One backup for each link, unless it was refused.
    began: Arc<AtomicBool>,
}

/// Listens to an operator's link; `asked` is called with its wish.
pub(crate) fn listen(link: &Link, asked: impl Fn(Asked) + Send + Sync + 'static) {
    let (room, began) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
    let receiver = OperatorReceiver {
        asked: Asked { link: link.clone(), room, began },
        tell: Box::new(asked),
    };
    link.start(Arc::new(receiver));
}

struct OperatorReceiver {
    asked: Asked,
    tell: Box<dyn Fn(Asked) + Send + Sync>,
}

impl OperatorReceiver {
    fn take(&self, lane: Lane, frame: &[u8]) -> Result<(), String> {
        if lane != Lane::Control {
            return Err(format!("a frame on lane {lane:?}"));
        }
        let message = serde_json::from_slice(frame).map_err(|error| error.to_string())?;
        let (ToMember::Backup { room: bytes } | ToMember::More { bytes }) = message;
        let room = &self.asked.room;
        if bytes > WINDOW_BYTES as u64
            || room.available_permits() + bytes as usize > 2 * WINDOW_BYTES
        {
            return Err(format!("room for {bytes} bytes more than may be under way"));
        }
        room.add_permits(bytes as usize);
        if matches!(message, ToMember::Backup { .. })
            && !self.asked.began.swap(true, Ordering::Relaxed)
        {
            (self.tell)(self.asked.clone());
        }
        Ok(())
    }
}

impl Receive for OperatorReceiver {
    fn frame(&self, lane: Lane, frame: Bytes) {
        if let Err(why) = self.take(lane, &frame) {
            tracing::warn!(operator = %self.asked.link.remote(), why, "operator's frame refused");
            self.asked.link.close(&format!("frame refused: {why}"));
        }
    }

    fn closed(&self, reason: String) {
        tracing::debug!(operator = %self.asked.link.remote(), reason, "operator's link closed");
        self.asked.room.close();
    }
}

impl Asked {
    /// Says no.
    pub(crate) fn refuse(&self, why: &str, again: bool) {
        self.began.store(false, Ordering::Relaxed);
        self.say(&ToOperator::Refused { why: why.to_owned(), again });
    }

    fn say(&self, message: &ToOperator) {
        let json = serde_json::to_vec(message).unwrap_or_default();
        let sent = self.link.send_with(Lane::Bulk, |out| {
            out.put_u8(MESSAGE);
            out.put_slice(&json);
        });
        if let Err(error) = sent {
            tracing::debug!(%error, "an operator is gone");
        }
    }

    /// Sends a backup of `frozen`: a thread encodes it, no further ahead than
    /// the operator takes it. The store goes on meanwhile.
    pub(crate) async fn send(self, frozen: Frozen, meta: CheckpointMeta, about: About) {
        self.say(&ToOperator::Begins { about: about.clone() });
        let (sender, mut chunks) = mpsc::channel::<Bytes>(CHUNKS_AHEAD);
        let encoding = tokio::task::spawn_blocking(move || {
            let out = Chunks { sender, buffer: BytesMut::with_capacity(CHUNK_BYTES) };
            Ok::<_, WriteError>(super::write_to(out, &frozen, &meta, &about)?.flush()?)
        });
        let (mut bytes, mut crc32c) = (0u64, 0);
        while let Some(chunk) = chunks.recv().await {
            crc32c = crc32c::crc32c_append(crc32c, &chunk);
            bytes += chunk.len() as u64;
            if let Err(why) = self.send_chunk(&chunk).await {
                tracing::warn!(operator = %self.link.remote(), why, "a backup was given up");
                return self.link.close(why);
            }
        }
        match encoding.await {
            Ok(Ok(())) => {
                tracing::info!(operator = %self.link.remote(), bytes, "a backup was sent");
                self.say(&ToOperator::Done { bytes, crc32c });
            }
            Ok(Err(error)) => self.refuse(&format!("it cannot be encoded: {error}"), false),
            Err(error) => self.refuse(&format!("it cannot be encoded: {error}"), false),
        }
    }

    async fn send_chunk(&self, chunk: &Bytes) -> Result<(), &'static str> {
        let room = self.room.acquire_many(chunk.len() as u32);
        match tokio::time::timeout(PATIENCE, room).await {
            Ok(Ok(permit)) => permit.forget(),
            Ok(Err(_)) => return Err("the operator is gone"),
            Err(_) => return Err("the operator takes nothing"),
        }
        let sent = self.link.send_with(Lane::Bulk, |out| {
            out.reserve(chunk.len() + 1);
            out.put_u8(DATA);
            out.put_slice(chunk);
        });
        sent.map_err(|_| "the operator's link is full or closed")
    }
}

/// Cuts what is written into chunks, and waits when they are not taken.
struct Chunks {
    sender: mpsc::Sender<Bytes>,
    buffer: BytesMut,
}

impl Chunks {
    fn pass_on(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = self.buffer.split().freeze();
        self.sender.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() >= CHUNK_BYTES {
            self.pass_on()?;
            self.buffer.reserve(CHUNK_BYTES);
        }
        let taken = bytes.len().min(CHUNK_BYTES - self.buffer.len());
        self.buffer.put_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on()
    }
}
