//! Writing a checkpoint.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::BufMut;

use super::{
    BLOCK_HEADER_BYTES, CheckpointMeta, FOOTER, HEADER_BYTES, ITEMS, MAGIC, POSITION, SESSIONS,
    USES, VERSION, digest_of, side_path,
};
use crate::files::{self, File};
use crate::keystore::{Frozen, Kept, contents_of};
use crate::log_file::put_membership;

/// A block of items is closed once it holds so much.
const BLOCK_BYTES: usize = 256 * 1024;

/// So much is written at a time; between two writes the pace is asked. Short
/// pieces of work: on few cores a writer that computes for milliseconds keeps
/// whoever serves clients from a core for as long.
const WRITE_BYTES: usize = 64 * 1024;

/// So much is written between two syncs: a single sync of a whole checkpoint
/// would keep the disk from the log for as long as it takes. But not less:
/// each sync that meets one of the log delays it.
const SYNC_EVERY_BYTES: u64 = 16 * 1024 * 1024;

/// The pace of a server's checkpoints: fast enough that a million small items
/// take less than a second, with enough of the disk and of a core left for
/// the log.
pub const CHECKPOINT_BYTES_PER_SECOND: u64 = 256 * 1024 * 1024;

/// What a checkpoint came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Size of the file.
    pub bytes: u64,
    /// Items in it.
    pub items: u64,
}

/// How far a checkpoint is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes written.
    pub bytes: u64,
    /// Bytes of items that were replaced since the keystore was frozen: what the
    /// checkpoint costs in memory, at the most.
    pub kept_bytes: u64,
    /// Bytes of all items, as [`Keystore::memory_bytes`] counts them.
    ///
    /// [`Keystore::memory_bytes`]: crate::keystore::Keystore::memory_bytes
    pub data_bytes: u64,
}

impl Progress {
    /// Whether so much was overwritten meanwhile that the checkpoint should
    /// be over soon, whatever else waits for the disk.
    pub fn hurries(&self) -> bool {
        self.kept_bytes > self.data_bytes / 4
    }
}

/// Why there is no checkpoint. An old one is untouched.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The operating system refused, or whoever paces the writing.
    #[error("the checkpoint cannot be written: {0}")]
    Io(#[from] io::Error),
    /// The caller is wrong about what it wants to write.
    #[error("a checkpoint at {meta} of a keystore at {keystore}")]
    Index {
        /// Index of the meta data.
        meta: u64,
        /// Index of the keystore.
        keystore: u64,
    },
    /// Memory has changed by itself.
    #[error(
        "the items in memory are not those that were applied up to index {index} (their hash is \
         {found:016x}, not {applied:016x}): check this machine's memory; the server must fetch its \
         data from the others again"
    )]
    Contents {
        /// Index of the checkpoint.
        index: u64,
        /// The hash that was kept while entries were applied.
        applied: u64,
        /// The hash of the items as they are.
        found: u64,
    },
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Io(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// A pace for [`write_paced`]: so many bytes per second at the most, except in
/// a hurry.
pub fn at_rate(bytes_per_second: u64) -> impl FnMut(Progress) -> io::Result<()> {
    let begun = Instant::now();
    move |progress| {
        let due = Duration::from_secs_f64(progress.bytes as f64 / bytes_per_second.max(1) as f64);
        if !progress.hurries() {
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        Ok(())
    }
}

/// [`write_paced`] at full speed.
///
/// # Errors
/// As [`write_paced`].
pub fn write(path: &Path, frozen: &Frozen, meta: &CheckpointMeta) -> Result<Written, WriteError> {
    write_paced(path, frozen.clone(), meta, &mut |_| Ok(()))
}

/// Writes `frozen` as the checkpoint at `path`, durably, replacing the one
/// that is there, and lets go of `frozen` part by part on the way. `meta.index`
/// must be `frozen.applied()`. Takes long for large stores: call it on a thread
/// of its own. `pace` is asked after each write: it may sleep, and ends the writing
/// with an error.
///
/// # Errors
/// [`WriteError`]; the old checkpoint is untouched then.
pub fn write_paced(
    path: &Path,
    frozen: Frozen,
    meta: &CheckpointMeta,
    pace: &mut dyn FnMut(Progress) -> io::Result<()>,
) -> Result<Written, WriteError> {
    let side = side_path(path);
    let result = File::create(&side).map_err(WriteError::from).and_then(|file| {
        let mut synced = 0;
        let (file, written) = stream(file, frozen, meta, &mut |file: &mut File, progress| {
            if progress.bytes - synced >= SYNC_EVERY_BYTES && !progress.hurries() {
                file.sync_data()?;
                synced = progress.bytes;
            }
            pace(progress)
        })?;
        file.sync_all()?;
        place(&side, path)?;
        Ok(written)
    });
    if result.is_err() {
        // A disk that is full must not stay full of this. If it cannot be
        // removed either, the next start does it.
        let _ = files::remove_file(&side);
    }
    result
}

/// Puts the checkpoint that lies at `side`, synced, in the place of the one at
/// `path`, durably.
///
/// # Errors
/// Those of the file system.
pub fn place(side: &Path, path: &Path) -> io::Result<()> {
    files::rename(side, path)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    files::sync_dir(dir.unwrap_or(Path::new(".")))
}

/// Writes `frozen` in the format of the keystore-file to `file`, whatever that
/// is, and gives it back. `meta.index` must be `frozen.applied()`.
///
/// # Errors
/// [`WriteError`].
pub fn write_to<W: Write>(
    file: W,
    frozen: &Frozen,
    meta: &CheckpointMeta,
) -> Result<(W, Written), WriteError> {
    stream(file, frozen.clone(), meta, &mut |_, _| Ok(()))
}

/// `settle` is called with the file after each write.
fn stream<W: Write>(
    file: W,
    frozen: Frozen,
    meta: &CheckpointMeta,
    settle: &mut dyn FnMut(&mut W, Progress) -> io::Result<()>,
) -> Result<(W, Written), WriteError> {
    let position = frozen.position();
    if meta.index != position.applied {
        return Err(WriteError::Index { meta: meta.index, keystore: position.applied });
    }
    let kept = frozen.kept();
    let data_bytes = position.memory_bytes;
    let buffer = Vec::with_capacity(BLOCK_BYTES * 5 / 4);
    let mut out = Blocks { file, settle, kept, data_bytes, buffer, bytes: 0, blocks: 0, digest: 0 };
    out.header();

    let begin = out.begin(POSITION);
    for number in [meta.index, meta.term, position.cas_counter, position.clock_ms] {
        out.buffer.put_u64_le(number);
    }
    for number in [position.items, frozen.hasher().seed(), rand::random()] {
        out.buffer.put_u64_le(number);
    }
    put_membership(&mut out.buffer, &meta.membership);
    out.end(begin)?;

    if !frozen.sessions().is_empty() {
        let begin = out.begin(SESSIONS);
        frozen.sessions().encode(&mut out.buffer);
        out.end(begin)?;
        let begin = out.begin(USES);
        frozen.sessions().encode_uses(&mut out.buffer);
        out.end(begin)?;
    }

    let (mut items, mut contents) = (0, 0u64);
    for (number, group) in frozen.into_groups() {
        let mut begin = out.begin_items(number);
        for item in group.items() {
            if out.buffer.len() - begin >= BLOCK_BYTES {
                out.end(begin)?;
                begin = out.begin_items(number);
            }
            let bytes = item.bytes();
            contents = contents.wrapping_add(contents_of(bytes));
            items += 1;
            out.buffer.put_u32_le(bytes.len() as u32);
            out.buffer.put_slice(bytes);
        }
        out.end(begin)?;
    }
    if (items, contents) != (position.items, position.contents) {
        let (index, applied) = (meta.index, position.contents);
        return Err(WriteError::Contents { index, applied, found: contents });
    }
    let (blocks, digest) = (out.blocks, out.digest);
    let begin = out.begin(FOOTER);
    for number in [blocks, items, contents, digest] {
        out.buffer.put_u64_le(number);
    }
    out.end(begin)?;
    out.flush()?;
    let written = Written { bytes: out.bytes, items };
    Ok((out.file, written))
}

/// Blocks on their way into a file.
struct Blocks<'a, W> {
    file: W,
    settle: &'a mut dyn FnMut(&mut W, Progress) -> io::Result<()>,
    kept: Kept,
    data_bytes: u64,
    /// Whole blocks that are still to be written, and the one under way.
    buffer: Vec<u8>,
    /// Bytes written.
    bytes: u64,
    blocks: u64,
    digest: u64,
}

impl<W: Write> Blocks<'_, W> {
    fn header(&mut self) {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.put_slice(MAGIC);
        header.put_u32_le(VERSION);
        header.put_u32_le(crc32c::crc32c(&header));
        self.buffer.extend_from_slice(&header);
    }

    /// Begins a block: where in the buffer.
    fn begin(&mut self, kind: u32) -> usize {
        let begin = self.buffer.len();
        self.buffer.put_bytes(0, 4);
        self.buffer.put_u32_le(kind);
        self.buffer.put_bytes(0, 4);
        begin
    }

    fn begin_items(&mut self, group: usize) -> usize {
        let begin = self.begin(ITEMS);
        self.buffer.put_u32_le(group as u32);
        begin
    }

    fn end(&mut self, begin: usize) -> io::Result<()> {
        let block = &mut self.buffer[begin..];
        let length = (block.len() - BLOCK_HEADER_BYTES) as u32;
        block[8..12].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c_append(self.blocks as u32, &block[4..]);
        block[..4].copy_from_slice(&crc.to_le_bytes());
        self.digest = digest_of(&block[..BLOCK_HEADER_BYTES], self.digest);
        self.blocks += 1;
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        let (bytes, data_bytes) = (self.bytes, self.data_bytes);
        let progress = Progress { bytes, kept_bytes: self.kept.bytes(), data_bytes };
        (self.settle)(&mut self.file, progress)
    }
}
