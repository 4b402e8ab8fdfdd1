//! Reading everything that was ever kept: archived segments and live ones.

use std::ops::RangeInclusive;
use std::path::Path;

use raft::{Body, Entry, Index};

use super::error::LogError;
use super::reader::LogReader;
use super::scan::{Depth, scan};
use crate::command::{Command, Payload};
use crate::recovery::Damage;

/// Bytes of log that are read at a time.
const READ_BYTES: usize = 1024 * 1024;

/// The archived and the live entries of a log in one, for reading. Nothing is
/// locked or changed; the server may be running.
///
/// It begins where the log last began anew: behind a snapshot that another
/// server sent, or behind damage that was repaired. For what was before that
/// another server's archive is needed.
#[derive(Debug)]
pub struct LogArchive {
    reader: LogReader,
    first: Index,
    last: Index,
    damage: Vec<Damage>,
}

impl LogArchive {
    /// Reads which entries there are in the folder `dir` of a log-file.
    ///
    /// # Errors
    /// As [`LogFile::scan`](super::LogFile::scan).
    pub fn open(dir: &Path) -> Result<LogArchive, LogError> {
        let (found, scan) = scan(dir, Index::MAX, Depth::History)?;
        let (first, last) = scan.index.range();
        let last = last.min(scan.commit);
        let reader = LogReader::new(scan.index);
        Ok(LogArchive { reader, first, last, damage: found.damage })
    }

    /// The first entry, and the last one that is known to be committed; `(n +
    /// 1, n)` if there is none.
    pub fn range(&self) -> (Index, Index) {
        (self.first, self.last.max(self.first - 1))
    }

    /// Damaged places that were noticed; entries before the last of them are
    /// not in [`LogArchive::range`]. What is only noticed when an entry is read
    /// is an error then.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// The committed entries of a range, in order; a megabyte of them or one
    /// entry is in memory at a time. An error ends it.
    pub fn entries(
        &self,
        range: RangeInclusive<Index>,
    ) -> impl Iterator<Item = Result<Entry<Payload>, LogError>> + '_ {
        let (mut next, to) = (*range.start(), (*range.end()).min(self.last));
        let mut read = Vec::new().into_iter();
        std::iter::from_fn(move || {
            if read.len() == 0 && next <= to {
                match self.reader.read(next, to, READ_BYTES) {
                    Ok(entries) => {
                        next += entries.len() as u64;
                        read = entries.into_iter();
                    }
                    Err(error) => {
                        next = Index::MAX;
                        return Some(Err(error));
                    }
                }
            }
            read.next().map(Ok)
        })
    }

    /// The last command that was given at `clock_ms` or before, by the
    /// replicated clock; `first - 1` if all of them are later.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn index_at(&self, clock_ms: u64) -> Result<Index, LogError> {
        let (mut low, mut high) = self.range();
        low -= 1;
        // The clock never goes back along the log: up to `low` everything is
        // early enough, behind `high` everything is too late.
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            match self.clock_from(middle, high)? {
                Some((_, clock)) if clock <= clock_ms => low = middle,
                Some(_) => high = middle - 1,
                // No command is there.
                None => high = middle - 1,
            }
        }
        Ok(low)
    }

    /// The first command of a range, and its time.
    fn clock_from(&self, from: Index, to: Index) -> Result<Option<(Index, u64)>, LogError> {
        for entry in self.entries(from..=to) {
            let entry = entry?;
            if let Body::Command(payload) = &entry.body
                && let Ok(command) = Command::decode(&payload.0)
            {
                return Ok(Some((entry.index, command.clock_ms)));
            }
        }
        Ok(None)
    }
}
