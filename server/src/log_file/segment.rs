//! Segments: files of zeros with a header, made ahead of their use.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, BufMut};

use super::error::{Context, LogError};
use crate::files::{self, File, sync_dir};

/// Where the first record begins.
pub(super) const HEADER_BYTES: usize = 64;

const MAGIC: &[u8; 8] = b"STORELOG";
const VERSION: u32 = 1;
const SUFFIX: &str = ".segment";
const SIDE_SUFFIX: &str = ".segment.tmp";

/// Zeros are written and synced in steps, so that the syncs of the segment in
/// use never wait behind a large one.
const STEP_BYTES: usize = 256 * 1024;

/// The head of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// The same in all segments of one log.
    pub(super) log: u128,
    /// 1, 2, ...
    pub(super) number: u64,
    /// Starting value of the checksums of its records.
    pub(super) seed: u32,
}

/// A segment that can be written and read. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) seed: u32,
    /// Its size: what records and the seal may fill.
    pub(super) capacity: usize,
    pub(super) file: Arc<File>,
    pub(super) path: Arc<Path>,
}

pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}{SUFFIX}"))
}

/// The segments in a folder by number, ascending.
///
/// # Errors
/// When the folder cannot be read or holds something else.
pub(super) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, LogError> {
    let mut found = Vec::new();
    for path in files::list(dir).context("cannot list", dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(SIDE_SUFFIX) {
            continue;
        }
        let number = name.strip_suffix(SUFFIX).and_then(|number| number.parse::<u64>().ok());
        match number {
            Some(number) if path == path_of(dir, number) => found.push((number, path)),
            _ => return Err(LogError::Foreign { file: path, what: "its name".to_owned() }),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Removes segments that were being made when the process ended.
pub(super) fn remove_leftovers(dir: &Path) -> Result<(), LogError> {
    for path in files::list(dir).context("cannot list", dir)? {
        if path.to_string_lossy().ends_with(SIDE_SUFFIX) {
            files::remove_file(&path).context("cannot remove", &path)?;
        }
    }
    Ok(())
}

impl Header {
    fn encode(&self, salt: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(VERSION);
        bytes.put_u32_le(HEADER_BYTES as u32);
        bytes.put_u128_le(self.log);
        bytes.put_u64_le(self.number);
        bytes.put_u64_le(salt);
        bytes.resize(HEADER_BYTES - 4, 0);
        bytes.put_u32_le(crc32c::crc32c(&bytes));
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&bytes);
        header
    }

    /// Reads and judges the head of the segment at `path`.
    pub(super) fn decode(bytes: &[u8], path: &Path, number: u64) -> Result<Header, LogError> {
        let Some(header) = bytes.get(..HEADER_BYTES) else {
            return Err(LogError::damaged(path, 0, "it is shorter than its header"));
        };
        if &header[..8] != MAGIC {
            let what = "it does not begin as one".to_owned();
            return Err(LogError::Foreign { file: path.to_owned(), what });
        }
        let seed = (&header[HEADER_BYTES - 4..]).get_u32_le();
        if crc32c::crc32c(&header[..HEADER_BYTES - 4]) != seed {
            return Err(LogError::damaged(path, 0, "the checksum of its header does not match"));
        }
        let mut rest = &header[8..];
        let version = rest.get_u32_le();
        if version != VERSION {
            let file = path.to_owned();
            return Err(LogError::NewerVersion { file, version, known: VERSION });
        }
        rest.advance(4);
        let header = Header { log: rest.get_u128_le(), number: rest.get_u64_le(), seed };
        if header.number != number {
            let what = format!("it is segment {} under another name", header.number);
            return Err(LogError::Foreign { file: path.to_owned(), what });
        }
        Ok(header)
    }
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
        let path = path_of(dir, number);
        let side = path.with_extension("segment.tmp");
        let made = Self::fill_side(&side, Header { log, number, seed: 0 }, capacity, stop);
        if made.is_err() {
            // On a full disk it must not hold the room that others need. If
            // it stays all the same, the next start removes it.
            let _ = files::remove_file(&side);
        }
        let (file, seed) = made?;
        files::rename(&side, &path)?;
        sync_dir(dir)?;
        Ok(Segment { number, seed, capacity, file: Arc::new(file), path: path.into() })
    }

    fn fill_side(
        side: &Path,
        header: Header,
        capacity: usize,
        stop: &AtomicBool,
    ) -> io::Result<(File, u32)> {
        let file = File::create(side)?;
        fill(&file, 0, capacity, stop)?;
        let header = header.encode(rand::random());
        file.write_all_at(&header, 0)?;
        file.sync_all()?;
        Ok((file, (&header[HEADER_BYTES - 4..]).get_u32_le()))
    }

    /// Opens a segment whose head was read already.
    pub(super) fn open(path: &Path, header: Header, write: bool) -> Result<Segment, LogError> {
        let file = if write { File::open_rw(path) } else { File::open(path) };
        let file = file.context("cannot open", path)?;
        let capacity = file.len().context("cannot look at", path)? as usize;
        let Header { number, seed, .. } = header;
        Ok(Segment { number, seed, capacity, file: Arc::new(file), path: path.into() })
    }

    /// Makes it larger, for a batch that would not fit.
    pub(super) fn grow(&mut self, capacity: usize) -> io::Result<()> {
        fill(&self.file, self.capacity, capacity, &AtomicBool::new(false))?;
        self.file.sync_all()?;
        self.capacity = capacity;
        Ok(())
    }

    /// Overwrites `from..to` with zeros, durably.
    pub(super) fn erase(&self, from: usize, to: usize) -> io::Result<()> {
        fill(&self.file, from, to, &AtomicBool::new(false))?;
        self.file.sync_all()
    }
}

/// Zeros that are really written: the blocks are allocated and initialised,
/// so that a later fdatasync of them has no metadata to write.
fn fill(file: &File, from: usize, to: usize, stop: &AtomicBool) -> io::Result<()> {
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

/// The whole file.
pub(super) fn read_all(path: &Path) -> Result<Vec<u8>, LogError> {
    files::read(path).context("cannot read", path)
}
