//! What can go wrong with a log-file, and the way out of it.

use std::io;
use std::path::{Path, PathBuf};

/// What to do about data that is gone.
pub(crate) const REJOIN: &str = "if the other servers are well, move this server's folder away \
     and start it again: it joins as a new server and fetches everything from them";

/// Why the log-file cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error("{what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, e.g. `cannot write`.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// There is no room for the next segment. Nothing was written: the call
    /// may be repeated once there is room.
    #[error(
        "the log in {path} takes no more for now: {source}; make room on its disk, or let it be \
         written to, then writes go on", path = path.display()
    )]
    NoRoom {
        /// The folder of the segments.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Bytes that were durable have changed.
    #[error("{file} is damaged at byte {offset}: {what}; {way_out}", file = file.display())]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Where the first bad record starts.
        offset: u64,
        /// What is wrong with it.
        what: String,
        /// What to do.
        way_out: &'static str,
    },
    /// A segment is not there although later or earlier ones need it.
    #[error("{file} is missing: {what}; put it back, or {way_out}", file = file.display())]
    MissingSegment {
        /// The segment that should be there.
        file: PathBuf,
        /// How that is known.
        what: String,
        /// What to do.
        way_out: &'static str,
    },
    /// A file that is no segment of this log.
    #[error("{file} is no segment of this log: {what}; move it away", file = file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// How that is known.
        what: String,
    },
    /// A later version of this program wrote it.
    #[error(
        "{file} has format version {version}, this program reads up to {known}: \
         start the newer program again", file = file.display()
    )]
    NewerVersion {
        /// The segment.
        file: PathBuf,
        /// Its version.
        version: u32,
        /// The newest version that is understood here.
        known: u32,
    },
    /// A write or sync failed before. What of it reached the disk is unknown,
    /// so nothing more may be promised on the strength of this file.
    #[error("an earlier write or sync of the log failed: the process must be restarted")]
    Poisoned,
    /// The caller skipped an index, or would replace a committed entry.
    #[error("entry {index} does not fit behind entry {last}, with {commit} committed")]
    OutOfOrder {
        /// The entry's index.
        index: u64,
        /// The last index of the log.
        last: u64,
        /// The highest index that the log says is committed.
        commit: u64,
    },
    /// Entries that are not (or no longer) in the log.
    #[error("entries {from}..={to} are not in the log, which holds {first}..={last}")]
    NotHere {
        /// First wanted.
        from: u64,
        /// Last wanted.
        to: u64,
        /// First present.
        first: u64,
        /// Last present.
        last: u64,
    },
}

impl LogError {
    pub(crate) fn damaged(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        LogError::Damaged { file: file.to_owned(), offset, what: what.into(), way_out: REJOIN }
    }
}

/// Gives IO errors their place.
pub(crate) trait Context<T> {
    fn context(self, what: &'static str, path: &Path) -> Result<T, LogError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: &'static str, path: &Path) -> Result<T, LogError> {
        self.map_err(|source| LogError::Io { what, path: path.to_owned(), source })
    }
}
