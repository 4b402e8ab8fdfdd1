//! Segments: files of zeros, or of a past use, with a header; made ahead of
//! their use.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, BufMut, Bytes};
use raft::Index;

use super::error::{Context, LogError};
use crate::files::{self, File, sync_dir};

/// Where the first record begins.
pub(super) const HEADER_BYTES: usize = 64;

const MAGIC: &[u8; 8] = b"STORELOG";
const VERSION: u32 = 1;
const SUFFIX: &str = "segment";
/// One that is being made.
pub(super) const SIDE_SUFFIX: &str = "segment.tmp";
/// One that is of no use any more, and waits for the next.
pub(super) const FREE_SUFFIX: &str = "segment.free";
/// The folder, below that of the log, of segments that are kept for ever.
pub(super) const ARCHIVE: &str = "archive";

/// Zeros are written and synced in steps, so that the syncs of the segment in
/// use never wait behind a large one.
const STEP_BYTES: usize = 256 * 1024;

/// What is read at a time where the disk refuses a larger piece.
const BLOCK_BYTES: usize = 4096;

/// The head of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// The same in all segments of one log.
    pub(super) log: u128,
    /// 1, 2, ...
    pub(super) number: u64,
    /// Starting value of the checksums of its records.
    pub(super) seed: u32,
    /// It was made of zeros, not from a segment that was in use.
    pub(super) zeroed: bool,
}

/// A segment that can be written and read. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) seed: u32,
    pub(super) zeroed: bool,
    /// Its size: what records and the seal may fill.
    pub(super) capacity: usize,
    pub(super) path: Arc<Path>,
    /// Kept open while it is written; others are opened when they are read.
    pub(super) file: Option<Arc<File>>,
    /// Index of the last entry when it was begun, if it was.
    pub(super) before: Option<Index>,
}

pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    named(dir, number, SUFFIX)
}

pub(super) fn named(dir: &Path, number: u64, suffix: &str) -> PathBuf {
    dir.join(format!("{number:010}.{suffix}"))
}

/// What the folder of a log holds, each by number, ascending.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) segments: Vec<(u64, PathBuf)>,
    pub(super) free: Vec<(u64, PathBuf)>,
    /// Left by a process that ended while it made them.
    pub(super) side: Vec<PathBuf>,
}

/// The segments in a folder.
///
/// # Errors
/// When the folder cannot be read or holds something else.
pub(super) fn list(dir: &Path) -> Result<Listing, LogError> {
    let mut listing = Listing::default();
    for path in files::list(dir).context("cannot list", dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == ARCHIVE {
            continue;
        }
        let (number, suffix) = name.split_once('.').unwrap_or((&name, ""));
        let number = number.parse::<u64>().ok().filter(|n| path == named(dir, *n, suffix));
        match (number, suffix) {
            (Some(number), SUFFIX) => listing.segments.push((number, path)),
            (Some(number), FREE_SUFFIX) => listing.free.push((number, path)),
            (Some(_), SIDE_SUFFIX) => listing.side.push(path),
            _ => return Err(LogError::Foreign { file: path, what: "its name".to_owned() }),
        }
    }
    listing.segments.sort_unstable();
    listing.free.sort_unstable();
    Ok(listing)
}

/// What the first bytes of a segment say.
#[derive(Debug)]
pub(super) enum HeaderFound {
    Good(Header),
    /// One bit of it had changed; this is what it was.
    Mended(Header),
    Damaged(&'static str),
}

impl Header {
    pub(super) fn encode(&self, salt: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(VERSION);
        bytes.put_u32_le(HEADER_BYTES as u32);
        bytes.put_u128_le(self.log);
        bytes.put_u64_le(self.number);
        bytes.put_u64_le(salt);
        bytes.put_u8(u8::from(!self.zeroed));
        bytes.resize(HEADER_BYTES - 4, 0);
        bytes.put_u32_le(crc32c::crc32c(&bytes));
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&bytes);
        header
    }

    /// Reads and judges the head of the segment at `path`.
    ///
    /// # Errors
    /// When it is of something else, or of a newer version.
    pub(super) fn decode(bytes: &[u8], path: &Path, number: u64) -> Result<HeaderFound, LogError> {
        let header = bytes.get(..HEADER_BYTES).and_then(|bytes| bytes.try_into().ok());
        let Some(mut header): Option<[u8; HEADER_BYTES]> = header else {
            return Ok(HeaderFound::Damaged("it is shorter than its header"));
        };
        if is_whole(&header) {
            return Ok(HeaderFound::Good(Self::parse(&header, path, number)?));
        }
        for bit in 0..HEADER_BYTES * 8 {
            header[bit / 8] ^= 1 << (bit % 8);
            if &header[..8] == MAGIC && is_whole(&header) {
                return Ok(HeaderFound::Mended(Self::parse(&header, path, number)?));
            }
            header[bit / 8] ^= 1 << (bit % 8);
        }
        let named = (&header[32..40]).get_u64_le() == number;
        if &header[..8] != MAGIC && !named && header.iter().any(|byte| *byte != 0) {
            let what = "it does not begin as one".to_owned();
            return Err(LogError::Foreign { file: path.to_owned(), what });
        }
        Ok(HeaderFound::Damaged("the checksum of its header does not match"))
    }

    fn parse(header: &[u8; HEADER_BYTES], path: &Path, number: u64) -> Result<Self, LogError> {
        let file = || path.to_owned();
        if &header[..8] != MAGIC {
            let what = "it does not begin as one".to_owned();
            return Err(LogError::Foreign { file: file(), what });
        }
        let seed = (&header[HEADER_BYTES - 4..]).get_u32_le();
        let mut rest = &header[8..];
        let version = rest.get_u32_le();
        if version != VERSION {
            return Err(LogError::NewerVersion { file: file(), version, known: VERSION });
        }
        rest.advance(4);
        let (log, found) = (rest.get_u128_le(), rest.get_u64_le());
        rest.advance(8);
        let zeroed = rest.get_u8() == 0;
        if found != number {
            let what = format!("it is segment {found} under another name");
            return Err(LogError::Foreign { file: file(), what });
        }
        Ok(Header { log, number, seed, zeroed })
    }
}

fn is_whole(header: &[u8; HEADER_BYTES]) -> bool {
    let (bytes, mut crc) = header.split_at(HEADER_BYTES - 4);
    crc.get_u32_le() == crc32c::crc32c(bytes)
}

impl Segment {
    /// Makes segment `number` of zeros and its head, durably, under its name.
    /// Gives up with `Interrupted` once `stop` is set.
    pub(super) fn create(
        dir: &Path,
        log: u128,
        number: u64,
        capacity: usize,
        stop: &AtomicBool,
    ) -> io::Result<Segment> {
        Self::create_with(dir, log, number, |file, _| fill(file, 0, capacity, stop))
    }

    /// Makes segment `number`, durably, under its name. `content` puts the
    /// bytes into the file, given the starting value of its checksums.
    pub(super) fn create_with(
        dir: &Path,
        log: u128,
        number: u64,
        content: impl FnOnce(&File, u32) -> io::Result<()>,
    ) -> io::Result<Segment> {
        let side = named(dir, number, SIDE_SUFFIX);
        let header = Header { log, number, seed: 0, zeroed: true };
        let made = File::create(&side)
            .and_then(|file| Self::take_into_use(dir, file, &side, header, content));
        if made.is_err() {
            // On a full disk it must not hold the room that others need. If
            // it stays all the same, the next start removes it.
            let _ = files::remove_file(&side);
        }
        made
    }

    /// Makes segment `number` out of a free one, durably, under its name: the
    /// blocks are there already, and the new salt makes the old records void.
    pub(super) fn recycle(dir: &Path, log: u128, number: u64, free: &Path) -> io::Result<Segment> {
        let header = Header { log, number, seed: 0, zeroed: false };
        Self::take_into_use(dir, File::open_rw(free)?, free, header, |_, _| Ok(()))
    }

    /// Writes content and header, and gives the file its name. Until then
    /// nothing depends on what is in it.
    fn take_into_use(
        dir: &Path,
        file: File,
        from: &Path,
        header: Header,
        content: impl FnOnce(&File, u32) -> io::Result<()>,
    ) -> io::Result<Segment> {
        let Header { number, zeroed, .. } = header;
        let header = header.encode(rand::random());
        let seed = (&header[HEADER_BYTES - 4..]).get_u32_le();
        content(&file, seed)?;
        file.write_all_at(&header, 0)?;
        file.sync_all()?;
        let path = path_of(dir, number);
        files::rename(from, &path)?;
        sync_dir(dir)?;
        let (capacity, path, file) = (file.len()? as usize, path.into(), Some(Arc::new(file)));
        Ok(Segment { number, seed, zeroed, capacity, path, file, before: None })
    }

    /// A segment whose head was read already.
    pub(super) fn found(path: &Path, header: Header, capacity: usize) -> Segment {
        let Header { number, seed, zeroed, .. } = header;
        Segment { number, seed, zeroed, capacity, path: path.into(), file: None, before: None }
    }

    /// Its file for writing, opened if it is not.
    pub(super) fn open(&mut self) -> io::Result<Arc<File>> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => Arc::new(File::open_rw(&self.path)?),
        };
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// The same, to be opened when it is read.
    pub(super) fn closed(&self) -> Segment {
        Segment { file: None, ..self.clone() }
    }

    /// Its file; opened if it is not.
    pub(super) fn file(&self) -> io::Result<Arc<File>> {
        match &self.file {
            Some(file) => Ok(Arc::clone(file)),
            None => Ok(Arc::new(File::open(&self.path)?)),
        }
    }

    /// Makes it larger, for a batch that would not fit.
    pub(super) fn grow(&mut self, capacity: usize) -> io::Result<()> {
        let file = self.open()?;
        fill(&file, self.capacity, capacity, &AtomicBool::new(false))?;
        file.sync_all()?;
        self.capacity = capacity;
        Ok(())
    }

    /// Overwrites `from..to` with zeros, durably.
    pub(super) fn erase(&mut self, from: usize, to: usize) -> io::Result<()> {
        let file = self.open()?;
        fill(&file, from, to, &AtomicBool::new(false))?;
        file.sync_all()
    }

    pub(super) fn damaged(&self, offset: usize, what: impl Into<String>) -> LogError {
        LogError::damaged(&self.path, offset as u64, what)
    }
}

/// Zeros that are really written: the blocks are allocated and initialised,
/// so that a later fdatasync of them has no metadata to write.
pub(super) fn fill(file: &File, from: usize, to: usize, stop: &AtomicBool) -> io::Result<()> {
    let zeros = vec![0; STEP_BYTES.min(to.saturating_sub(from))];
    let mut at = from;
    while at < to {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let step = zeros.len().min(to - at);
        file.write_all_at(&zeros[..step], at as u64)?;
        file.sync_data()?;
        at += step;
    }
    Ok(())
}

/// The bytes of a file, and where the disk refused to read: zeros are there.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) bytes: Bytes,
    pub(super) unreadable: Vec<(usize, usize)>,
}

/// The whole file, or as much as can be read of it.
pub(super) fn read_all(path: &Path) -> Result<Content, LogError> {
    if let Ok(bytes) = files::read(path) {
        return Ok(Content { bytes: bytes.into(), unreadable: Vec::new() });
    }
    let file = File::open(path).context("cannot open", path)?;
    let size = file.len().context("cannot look at", path)? as usize;
    let (mut bytes, mut unreadable) = (vec![0; size], Vec::new());
    for (number, block) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
        let from = number * BLOCK_BYTES;
        if file.read_exact_at(block, from as u64).is_err() {
            block.fill(0);
            unreadable.push((from, from + block.len()));
        }
    }
    Ok(Content { bytes: bytes.into(), unreadable })
}

/// Up to `bytes` from the beginning of the file, and its size.
pub(super) fn read_head(path: &Path, bytes: usize) -> io::Result<(Vec<u8>, usize)> {
    let file = File::open(path)?;
    let size = file.len()? as usize;
    let mut head = vec![0; size.min(bytes)];
    file.read_exact_at(&mut head, 0)?;
    Ok((head, size))
}
