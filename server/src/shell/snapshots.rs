//! Snapshots on their way to peers, and to this server.
//!
//! Nothing here waits on the driver's thread: chunks are read by threads of
//! the runtime, and one thread writes what arrives. A snapshot that is being
//! sent keeps its file open, so that a newer checkpoint may take its name
//! meanwhile. One that arrives lies beside the keystore-file until all of it
//! was read back and found whole; what is there of it outlives a restart.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use raft::{Index, NodeId, SnapshotMeta};

use super::inbox::{Inbox, Input};
use crate::driver::Chunk;
use crate::files::{self, File};
use crate::keystore::Keystore;
use crate::keystore_file::{self, CheckpointMeta, Growth, KeystoreFileError};

/// Bytes of a snapshot in one message. Chunks go one at a time, so that this
/// is what travels per round trip, which on a busy machine takes six threads
/// their turns: with 1 MiB a server under full load got 6 MB in a second. A
/// copy of one takes about a millisecond, and nothing urgent waits behind it.
const CHUNK_BYTES: u64 = 4 * 1024 * 1024;

/// A snapshot that nobody has asked for so long is closed: the peer has it, or
/// is gone.
const FORGET_AFTER: Duration = Duration::from_secs(10);

/// What arrives is synced so often, so that the end is not one long sync.
const SYNC_EVERY_BYTES: u64 = 8 * 1024 * 1024;

/// Before a transfer that found no room begins anew.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// A checkpoint that is being sent.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    file: Arc<File>,
    meta: SnapshotMeta,
    size: u64,
}

#[derive(Debug)]
struct Sending {
    open: Option<Outgoing>,
    /// A chunk is being read.
    reading: bool,
    asked: Instant,
}

/// A snapshot that has arrived and is whole and durable, under the name of the
/// side file.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) meta: SnapshotMeta,
    pub(crate) next_offset: u64,
    pub(crate) keystore: Keystore,
}

/// What one reading of a chunk came to.
pub(crate) type ChunkRead = Result<(Outgoing, Chunk), KeystoreFileError>;

struct Write {
    meta: SnapshotMeta,
    offset: u64,
    data: Vec<u8>,
    done: bool,
}

pub(super) struct Snapshots {
    /// The keystore-file.
    path: PathBuf,
    inbox: Arc<Inbox>,
    sending: BTreeMap<NodeId, Sending>,
    writer: Option<mpsc::Sender<Write>>,
    arrival: Arc<Arrival>,
    /// When the last chunk arrived.
    received: Option<Instant>,
}

/// How far the snapshot is that arrives, for whoever wants to know.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    bytes: AtomicU64,
    permille: AtomicU16,
}

impl Arrival {
    /// Bytes that are there, and thousandths of it, nearly; `None`: nothing arrives.
    pub(super) fn so_far(&self) -> Option<(u64, u16)> {
        let bytes = self.bytes.load(Ordering::Relaxed);
        (bytes > 0).then(|| (bytes, self.permille.load(Ordering::Relaxed)))
    }

    fn note(&self, bytes: u64, permille: u16) {
        self.permille.store(permille, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

/// Where a snapshot lies until it is whole.
pub(super) fn side_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".incoming");
    name.into()
}

impl Snapshots {
    pub(super) fn new(path: PathBuf, inbox: Arc<Inbox>) -> Self {
        let arrival = Arc::default();
        Snapshots { path, inbox, sending: BTreeMap::new(), writer: None, arrival, received: None }
    }

    /// How far the snapshot is that arrives.
    pub(super) fn arrival(&self) -> Arc<Arrival> {
        Arc::clone(&self.arrival)
    }

    /// Reads a chunk for `peer`; [`Input::ChunkRead`] follows. While one is
    /// being read for it the core's repetition is not needed.
    pub(super) fn read(&mut self, peer: NodeId, index: Index, offset: u64) {
        let now = Instant::now();
        let sending = self.sending.entry(peer);
        let sending = sending.or_insert(Sending { open: None, reading: false, asked: now });
        sending.asked = now;
        if std::mem::replace(&mut sending.reading, true) {
            return;
        }
        let open = sending.open.take().filter(|open| open.meta.index == index);
        let (path, inbox) = (self.path.clone(), Arc::clone(&self.inbox));
        tokio::task::spawn_blocking(move || {
            let result = read_chunk(&path, open, index, offset);
            inbox.push(Input::ChunkRead { peer, result: Box::new(result) });
        });
    }

    /// A chunk was read.
    pub(super) fn chunk_read(&mut self, peer: NodeId, open: Option<Outgoing>) {
        if let Some(sending) = self.sending.get_mut(&peer) {
            sending.reading = false;
            sending.open = open;
        }
    }

    /// The oldest snapshot that is on its way to a peer: who gets it needs the
    /// log from there on.
    pub(super) fn oldest(&mut self) -> Option<Index> {
        self.sending.retain(|_, sending| sending.reading || sending.asked.elapsed() < FORGET_AFTER);
        self.sending.values().filter_map(|sending| Some(sending.open.as_ref()?.meta.index)).min()
    }

    /// Removes a snapshot that began to arrive and that nobody goes on with.
    pub(super) fn remove_leftover(&self) {
        if self.received.is_none_or(|at| at.elapsed() > FORGET_AFTER) {
            // It takes room, no more: the next time will do as well.
            let _ = files::remove_file(&side_path(&self.path));
        }
    }

    /// Writes a chunk that arrived; [`Input::ChunkWritten`] follows, or
    /// [`Input::Arrived`] when it was the last.
    pub(super) fn write(
        &mut self,
        meta: SnapshotMeta,
        offset: u64,
        data: Vec<u8>,
        done: bool,
    ) -> io::Result<()> {
        let writer = match &self.writer {
            Some(writer) => writer,
            None => {
                let (sender, queue) = mpsc::channel();
                let (path, inbox) = (side_path(&self.path), Arc::clone(&self.inbox));
                let side = Side { path, open: None, arrival: self.arrival() };
                std::thread::Builder::new()
                    .name("snapshot".to_owned())
                    .spawn(move || side.run(&queue, &inbox))?;
                self.writer.insert(sender)
            }
        };
        self.received = Some(Instant::now());
        // The thread lives as long as this sender.
        let _ = writer.send(Write { meta, offset, data, done });
        Ok(())
    }
}

fn read_chunk(path: &Path, open: Option<Outgoing>, index: Index, offset: u64) -> ChunkRead {
    let failed = |source| KeystoreFileError::Io { file: path.to_owned(), source };
    let open = match open {
        Some(open) => open,
        None => {
            // All of it is read once before any of it is sent: a damaged
            // checkpoint is no snapshot.
            let mut file = File::open(path).map_err(failed)?;
            let size = file.len().map_err(failed)?;
            let meta = keystore_file::verify(path, &mut file, size)?;
            Outgoing { file: Arc::new(file), meta, size }
        }
    };
    // Of another snapshot than the one asked for the first chunk serves.
    let offset = if open.meta.index == index { offset } else { 0 };
    let end = open.size.min(offset.saturating_add(CHUNK_BYTES)).max(offset);
    let mut data = Vec::new();
    // Beyond its end there is nothing, and nothing is done.
    let done = offset < open.size && end == open.size;
    if offset < open.size {
        data.resize((end - offset) as usize, 0);
        open.file.read_exact_at(&mut data, offset).map_err(failed)?;
    }
    let meta = open.meta.clone();
    Ok((open, Chunk { meta, offset, data, done }))
}

/// The file in which a snapshot arrives.
struct Side {
    path: PathBuf,
    open: Option<Incoming>,
    arrival: Arc<Arrival>,
}

struct Incoming {
    meta: CheckpointMeta,
    file: File,
    length: u64,
    synced: u64,
    growth: Growth,
}

impl Side {
    fn run(mut self, queue: &mpsc::Receiver<Write>, inbox: &Inbox) {
        while let Ok(Write { meta, offset, data, done }) = queue.recv() {
            let index = meta.index;
            let written = self.write(&meta, offset, &data);
            let next_offset = match written {
                Ok(next_offset) => next_offset,
                Err(error) => self.give_up(index, &error.to_string(), FULL_PAUSE),
            };
            if !done || next_offset != offset + data.len() as u64 {
                inbox.push(Input::ChunkWritten { index, next_offset });
                continue;
            }
            match self.load(&meta) {
                Ok(keystore) => {
                    tracing::info!(index, bytes = next_offset, "a snapshot has arrived whole");
                    let arrived = Arrived { meta, next_offset, keystore };
                    inbox.push(Input::Arrived(Box::new(arrived)));
                }
                Err(error) => {
                    let next_offset = self.give_up(index, &error, Duration::ZERO);
                    inbox.push(Input::ChunkWritten { index, next_offset });
                }
            }
        }
    }

    /// Writes a chunk; how long the side file is now.
    fn write(&mut self, meta: &CheckpointMeta, offset: u64, data: &[u8]) -> io::Result<u64> {
        if offset == 0 {
            let file = File::create(&self.path)?;
            tracing::info!(index = meta.index, "a snapshot begins to arrive");
            let (meta, growth) = (meta.clone(), Growth::default());
            self.open = Some(Incoming { meta, file, length: 0, synced: 0, growth });
        } else if self.open.as_ref().is_none_or(|open| open.meta != *meta) {
            self.open = self.resume(meta)?;
        }
        let Some(open) = &mut self.open else { return Ok(0) };
        if offset > open.length {
            return Ok(open.length);
        }
        open.file.write_all_at(data, offset)?;
        open.length = offset + data.len() as u64;
        open.file.set_len(open.length)?;
        if open.length >= open.synced + SYNC_EVERY_BYTES {
            open.file.sync_data()?;
            open.synced = open.length;
        }
        self.arrival.note(open.length, open.growth.look(&self.path, open.length));
        Ok(open.length)
    }

    /// What is left of this very snapshot from before a restart.
    fn resume(&self, meta: &CheckpointMeta) -> io::Result<Option<Incoming>> {
        let Some((found, length)) = keystore_file::verified_prefix(&self.path) else {
            return Ok(None);
        };
        if found != *meta {
            return Ok(None);
        }
        let file = File::open_rw(&self.path)?;
        file.set_len(length)?;
        tracing::info!(index = meta.index, bytes = length, "a snapshot goes on arriving");
        let (meta, growth) = (meta.clone(), Growth::default());
        Ok(Some(Incoming { meta, file, length, synced: 0, growth }))
    }

    /// Reads back what has arrived and makes it durable. Nothing was replaced yet.
    fn load(&mut self, meta: &CheckpointMeta) -> Result<Keystore, String> {
        let Some(open) = self.open.take() else { return Err("nothing has arrived".to_owned()) };
        self.arrival.note(0, 0);
        let file = File::open(&self.path).map_err(|error| error.to_string())?;
        let (keystore, found) = keystore_file::read_from(&self.path, file, open.length)
            .map_err(|error| error.to_string())?;
        if found != *meta {
            return Err("it stands for something else than was announced".to_owned());
        }
        open.file.sync_all().map_err(|error| error.to_string())?;
        Ok(keystore)
    }

    fn give_up(&mut self, index: Index, error: &str, pause: Duration) -> u64 {
        tracing::error!(index, error, "a snapshot was given up, it is asked for anew");
        self.open = None;
        self.arrival.note(0, 0);
        // A disk that is full must not stay full of this.
        let _ = files::remove_file(&self.path);
        std::thread::sleep(pause);
        0
    }
}
