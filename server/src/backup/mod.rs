//! Backups: the whole keystore as of one index, in one file.
//!
//! [`fetch()`] asks a running server for one; [`write_to`] makes one of a
//! frozen keystore, [`read()`] puts it back, [`about`] only looks at its head.
//!
//! # Format, version 1
//!
//! Integers are little-endian.
//!
//! ```text
//! file      header, then a whole keystore-file (see keystore_file)
//! header    0   8  "STOREBAK"
//!           8   4  version (1)
//!           12  4  length of the text
//!           16  .  text: what the backup is of, as JSON
//!           .   4  CRC32C of everything before
//! text      {"cluster", "server", "id", "index", "term", "clock_ms",
//!           "items", "memory_bytes", "taken_ms", "program"}
//! ```
//! The keystore-file in it has a checksum for each block and a footer with one
//! of the whole, so that a backup that was cut or changed is never read.
//! Its membership is that of the cluster it was taken from; a restore
//! replaces it.

mod fetch;
mod link;
pub(crate) mod serve;
#[cfg(test)]
mod tests;

use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};
use common::ids::{ClusterId, ServerId};
use serde::{Deserialize, Serialize};

use crate::files::File;
use crate::keystore::{Frozen, Keystore};
use crate::keystore_file::{self, CheckpointMeta, KeystoreFileError, WriteError};

pub use fetch::{FetchError, Fetched, fetch};

const MAGIC: &[u8; 8] = b"STOREBAK";
const VERSION: u32 = 1;

/// Magic, version, length of the text.
const HEAD_BYTES: usize = 16;

/// Longest text that is believed.
const MAX_TEXT_BYTES: usize = 64 * 1024;

const WAY_OUT: &str = "use another copy of it, or take a new backup";

/// What a backup is of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct About {
    /// The cluster.
    pub cluster: Option<ClusterId>,
    /// The server that it was taken from, e.g. `srv-2`.
    pub server: String,
    /// That server's id.
    pub id: Option<ServerId>,
    /// Index of the last entry that it contains.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// The replicated clock at that entry, unix milliseconds.
    pub clock_ms: u64,
    /// Items in it.
    pub items: u64,
    /// What the items count for in memory.
    pub memory_bytes: u64,
    /// When it was taken, unix milliseconds.
    pub taken_ms: u64,
    /// Version of the program that wrote it.
    pub program: String,
}

impl About {
    /// Describes `frozen` as of `meta`, as taken at `taken_ms`.
    pub fn new(frozen: &Frozen, meta: &CheckpointMeta, taken_ms: u64) -> Self {
        let position = frozen.position();
        About {
            cluster: None,
            server: String::new(),
            id: None,
            index: meta.index,
            term: meta.term,
            clock_ms: position.clock_ms,
            items: position.items,
            memory_bytes: position.memory_bytes,
            taken_ms,
            program: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// About how long the file will be, for a progress bar.
    pub fn expected_bytes(&self) -> u64 {
        self.memory_bytes.saturating_sub(self.items * 48) + 4096
    }
}

/// Why a backup cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The operating system refused.
    #[error("cannot read the backup {file}: {source}", file = file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// Bytes have changed.
    #[error("the backup {file} is damaged at byte {offset}: {what}; {WAY_OUT}", file = file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where the bad part begins.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// Its end is missing.
    #[error("the backup {file} ends at byte {offset}, before it is complete; {WAY_OUT}", file = file.display())]
    Truncated {
        /// The file.
        file: PathBuf,
        /// Its length.
        offset: u64,
    },
    /// It is something else.
    #[error("{file} is no backup: it was not written by `store backup`", file = file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// A later version of this program wrote a part of it.
    #[error(
        "the backup {file} has a part of kind {kind} at byte {offset}, which this program does not \
         know: use the newer program", file = file.display()
    )]
    NewerBlock {
        /// The file.
        file: PathBuf,
        /// Where the part begins.
        offset: u64,
        /// Its kind.
        kind: u32,
    },
    /// A later version of this program wrote it.
    #[error(
        "the backup {file} has format version {version}, this program reads up to {known}: \
         use the newer program", file = file.display()
    )]
    NewerVersion {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u32,
        /// The newest version that is understood here.
        known: u32,
    },
}

/// A backup, in memory.
#[derive(Debug)]
pub struct Backup {
    /// What it is of.
    pub about: About,
    /// The items and counters.
    pub keystore: Keystore,
    /// Index, term and the membership of the cluster that it is of.
    pub meta: CheckpointMeta,
}

/// Writes a backup of `frozen` to `out` and gives `out` back.
///
/// # Errors
/// [`WriteError`].
pub fn write_to<W: Write>(
    mut out: W,
    frozen: &Frozen,
    meta: &CheckpointMeta,
    about: &About,
) -> Result<W, WriteError> {
    out.write_all(&head(about)?)?;
    keystore_file::write_to(out, frozen, meta).map(|(out, _)| out)
}

fn head(about: &About) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(about)?;
    let mut head = Vec::with_capacity(HEAD_BYTES + text.len() + 4);
    head.put_slice(MAGIC);
    head.put_u32_le(VERSION);
    head.put_u32_le(text.len() as u32);
    head.put_slice(&text);
    head.put_u32_le(crc32c::crc32c(&head));
    Ok(head)
}

/// Reads the backup at `path` completely, checking everything.
///
/// # Errors
/// [`BackupError`]; nothing of a damaged backup is given back.
pub fn read(path: &Path) -> Result<Backup, BackupError> {
    let opened = Opened::open(path)?;
    let (about, skipped) = (opened.about, opened.head_bytes);
    let read = keystore_file::read_from(path, opened.rest, opened.size - skipped);
    let (keystore, meta) = read.map_err(|error| shifted(error, skipped))?;
    let same = (about.index, about.term, about.items) == (meta.index, meta.term, keystore.len());
    if !same {
        let what = "its head describes other contents".to_owned();
        return Err(BackupError::Damaged { file: path.to_owned(), offset: 0, what });
    }
    Ok(Backup { about, keystore, meta })
}

/// What the backup at `path` says that it is of; its contents are not read.
///
/// # Errors
/// As [`read`].
pub fn about(path: &Path) -> Result<About, BackupError> {
    Opened::open(path).map(|opened| opened.about)
}

/// Whether the file at `path` begins as a backup does.
pub fn is_backup(path: &Path) -> bool {
    let mut magic = [0; MAGIC.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == MAGIC
}

/// A backup whose head was read.
pub(crate) struct Opened {
    pub(crate) about: About,
    /// The keystore-file in it.
    pub(crate) rest: BufReader<File>,
    pub(crate) head_bytes: u64,
    pub(crate) size: u64,
}

impl Opened {
    pub(crate) fn open(path: &Path) -> Result<Self, BackupError> {
        let io = |source| BackupError::Io { file: path.to_owned(), source };
        let damaged = |what: String| {
            let file = path.to_owned();
            BackupError::Damaged { file, offset: 0, what }
        };
        let file = File::open(path).map_err(io)?;
        let size = file.len().map_err(io)?;
        let mut file = BufReader::with_capacity(256 * 1024, file);
        let mut take = |bytes: &mut Vec<u8>, count: usize| {
            let begin = bytes.len();
            bytes.resize(begin + count, 0);
            file.read_exact(&mut bytes[begin..]).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    BackupError::Truncated { file: path.to_owned(), offset: size }
                }
                _ => io(error),
            })
        };
        let mut head = Vec::new();
        take(&mut head, HEAD_BYTES.min(size as usize))?;
        if !head.starts_with(MAGIC) {
            return Err(BackupError::Foreign { file: path.to_owned() });
        }
        if head.len() < HEAD_BYTES {
            return Err(BackupError::Truncated { file: path.to_owned(), offset: size });
        }
        let (version, length) = ((&head[8..]).get_u32_le(), (&head[12..]).get_u32_le() as usize);
        if length > MAX_TEXT_BYTES {
            return Err(damaged("the length of its head cannot be".to_owned()));
        }
        take(&mut head, length + 4)?;
        let (covered, mut crc) = head.split_at(HEAD_BYTES + length);
        if crc.get_u32_le() != crc32c::crc32c(covered) {
            return Err(damaged("the checksum of its head does not match".to_owned()));
        }
        if version != VERSION {
            let file = path.to_owned();
            return Err(BackupError::NewerVersion { file, version, known: VERSION });
        }
        let about = serde_json::from_slice(&head[HEAD_BYTES..HEAD_BYTES + length])
            .map_err(|error| damaged(format!("its head is unreadable: {error}")))?;
        Ok(Opened { about, rest: file, head_bytes: head.len() as u64, size })
    }
}

/// An error of the keystore-file in a backup, as one of the backup.
pub(crate) fn shifted(error: KeystoreFileError, by: u64) -> BackupError {
    match error {
        KeystoreFileError::Io { file, source } => BackupError::Io { file, source },
        KeystoreFileError::Damaged { file, offset, what, .. } => {
            BackupError::Damaged { file, offset: offset + by, what: what.to_string() }
        }
        KeystoreFileError::Truncated { file, offset, .. } => {
            BackupError::Truncated { file, offset: offset + by }
        }
        KeystoreFileError::Foreign { file } => {
            let what = "no keystore-file begins here".to_owned();
            BackupError::Damaged { file, offset: by, what }
        }
        KeystoreFileError::NewerBlock { file, offset, kind } => {
            BackupError::NewerBlock { file, offset: offset + by, kind }
        }
        KeystoreFileError::NewerVersion { file, version, known } => {
            BackupError::NewerVersion { file, version, known }
        }
    }
}
