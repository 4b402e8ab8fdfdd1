//! The owner of the stream.

use std::path::PathBuf;
use std::sync::Arc;

use raft::{Entry, HardState, Index, Position};

use super::LogOptions;
use super::error::LogError;
use super::frame::Place;
use super::reader::LogReader;
use super::record::{
    COMMIT_BYTES, COMPACTED_BYTES, PROMISE_BYTES, Promise, RESET_BYTES, Record, SEAL_BYTES,
    START_BYTES, STOP_BYTES, Start, entry_bytes, put, put_entry,
};
use super::segment::{HEADER_BYTES, Segment};
use super::spare::SpareMaker;
use crate::command::Payload;
use crate::files::File;

/// Offsets are 32 bits wide.
pub(super) const MAX_SEGMENT_BYTES: usize = 1 << 31;

/// The batch buffer is given back when one large batch made it grow further.
const BUFFER_BYTES: usize = 1024 * 1024;

/// The write-ahead stream, open for writing. See the [module](super) for its
/// contract.
#[derive(Debug)]
pub struct LogFile {
    pub(super) dir: PathBuf,
    pub(super) options: LogOptions,
    pub(super) active: Segment,
    /// That of the active segment.
    pub(super) file: Arc<File>,
    /// Whether the active segment has its start record.
    pub(super) started: bool,
    /// Where the next record goes.
    pub(super) end: usize,
    /// Everything before this offset of the active segment is durable.
    pub(super) durable: usize,
    pub(super) last: Position,
    pub(super) promise: Promise,
    /// Records of promises in the stream, modulo 65536.
    pub(super) votes: u16,
    pub(super) turns: u64,
    pub(super) commit: Index,
    pub(super) first_segment: u64,
    /// Not needed any more, once what says so is durable.
    pub(super) freed: Vec<Segment>,
    pub(super) buffer: Vec<u8>,
    pub(super) spare: SpareMaker,
    pub(super) reader: LogReader,
    pub(super) poisoned: bool,
}

impl LogFile {
    /// Writes a batch: term and vote first, then the entries, then a mark if
    /// `commit` has moved. It is durable after the next [`LogFile::sync`].
    /// An entry whose index exists already replaces everything from there on.
    ///
    /// # Errors
    /// [`LogError::NoRoom`] and [`LogError::OutOfOrder`]: nothing was written.
    /// [`LogError::Io`]: end the process.
    pub fn append(
        &mut self,
        hard_state: Option<HardState>,
        entries: &[Entry<Payload>],
        commit: Index,
    ) -> Result<(), LogError> {
        let last = self.check_order(entries)?;
        let commit = commit.min(last);
        let mark = commit > self.commit;
        let size = if hard_state.is_some() { PROMISE_BYTES } else { 0 }
            + entries.iter().map(entry_bytes).sum::<usize>()
            + if mark { COMMIT_BYTES } else { 0 };
        if size == 0 {
            return if self.poisoned { Err(LogError::Poisoned) } else { Ok(()) };
        }
        let mut place = self.begin(size)?;
        let before = (self.promise, self.votes, self.commit);
        if let Some(hard_state) = hard_state {
            self.promise.hard_state = hard_state;
            put(&mut self.buffer, place, &Record::Promise(self.promise));
            self.votes = self.votes.wrapping_add(1);
            place.votes = self.votes;
        }
        let mut at = self.end + self.buffer.len();
        for entry in entries {
            put_entry(&mut self.buffer, place, entry);
        }
        if mark {
            put(&mut self.buffer, place, &Record::Commit(commit));
            self.commit = commit;
        }
        self.write().inspect_err(|_| (self.promise, self.votes, self.commit) = before)?;
        if let Some(first) = entries.first() {
            self.turns += u64::from(first.index <= self.last.index);
            let mut index = self.reader.lock();
            for entry in entries {
                self.last = Position { index: entry.index, term: entry.term };
                self.promise.reached(self.last);
                index.appended(self.last, self.active.number, at);
                at += entry_bytes(entry);
            }
        }
        Ok(())
    }

    /// Makes everything that was appended durable, with one fdatasync.
    ///
    /// # Errors
    /// [`LogError::Io`]: end the process, nothing can be promised any more.
    pub fn sync(&mut self) -> Result<(), LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        if self.durable != self.end {
            if let Err(source) = self.file.sync_data() {
                self.poisoned = true;
                return Err(self.failed("cannot sync", source));
            }
            self.durable = self.end;
        }
        for segment in self.freed.drain(..) {
            self.spare.free(segment.number, &segment.path);
        }
        Ok(())
    }

    /// Writes a mark that entries up to `commit` are committed, without need
    /// for a sync: for idle moments, so that whoever reads the files sees all
    /// of them. Left out when the segment has no room for it.
    ///
    /// # Errors
    /// As [`LogFile::append`].
    pub fn note_commit(&mut self, commit: Index) -> Result<(), LogError> {
        let commit = commit.min(self.last.index);
        if commit > self.commit && self.started && self.fits(COMMIT_BYTES) {
            return self.append(None, &[], commit);
        }
        Ok(())
    }

    /// Empties the log: it goes on behind `base`, where a snapshot took over.
    /// Durable after the next [`LogFile::sync`], which also frees the segments
    /// before.
    ///
    /// # Errors
    /// As [`LogFile::append`].
    pub fn reset(&mut self, base: Position) -> Result<(), LogError> {
        let place = self.begin(RESET_BYTES + COMPACTED_BYTES)?;
        put(&mut self.buffer, place, &Record::Reset(base));
        let segment = self.active.number;
        put(&mut self.buffer, place, &Record::Compacted { segment, base });
        self.write()?;
        self.turns += 1;
        self.last = base;
        self.commit = self.commit.max(base.index);
        self.promise.reached(base);
        self.first_segment = segment;
        let mut index = self.reader.lock();
        index.reset(base);
        self.freed.extend(index.drop_segments(segment));
        Ok(())
    }

    /// Frees the segments that hold no entry from `first` on, which must be
    /// committed and in a durable checkpoint; gives the first index that is
    /// still there. The active segment always stays. What says so is written
    /// here, and the segments are recycled, removed or archived after the next
    /// [`LogFile::sync`], by another thread.
    ///
    /// # Errors
    /// As [`LogFile::append`].
    pub fn compact(&mut self, first: Index) -> Result<Index, LogError> {
        let first = first.min(self.commit + 1);
        let found = {
            let index = self.reader.lock();
            let starts = index.segments().filter_map(|segment| {
                let before = segment.before?;
                (before < first && before >= index.range().0).then_some((segment.number, before))
            });
            starts.last().and_then(|(segment, before)| {
                let term = index.term_at(before)?;
                Some((segment, Position { index: before, term }))
            })
        };
        let Some((segment, base)) = found else { return Ok(self.reader.range().0) };
        let place = self.begin(COMPACTED_BYTES)?;
        put(&mut self.buffer, place, &Record::Compacted { segment, base });
        self.write()?;
        self.first_segment = segment;
        let mut index = self.reader.lock();
        index.compact(base);
        self.freed.extend(index.drop_segments(segment));
        Ok(base.index + 1)
    }

    /// Ends the stream in good order, durably: what is in it is known to be
    /// complete then, and damage in the last batch cannot pass for a write
    /// that never finished. Records may follow all the same.
    ///
    /// # Errors
    /// As [`LogFile::sync`].
    pub fn finish(&mut self) -> Result<(), LogError> {
        self.sync()?;
        if self.started && self.fits(STOP_BYTES) {
            self.buffer.clear();
            let place = self.place();
            put(&mut self.buffer, place, &Record::Stop);
            self.write()?;
        }
        self.sync()
    }

    /// For reading entries back, from any thread.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// Index of the last entry.
    pub fn last_index(&self) -> Index {
        self.last.index
    }

    fn check_order(&self, entries: &[Entry<Payload>]) -> Result<Index, LogError> {
        let mut last = self.last.index;
        for (position, entry) in entries.iter().enumerate() {
            let index = entry.index;
            let commit = self.commit;
            if index <= commit || index > last + 1 || (position > 0 && index != last + 1) {
                return Err(LogError::OutOfOrder { index, last, commit });
            }
            last = index;
        }
        Ok(last)
    }

    /// Whether a record fits the active segment, its seal behind it.
    fn fits(&self, size: usize) -> bool {
        self.end + size + SEAL_BYTES <= self.active.capacity
    }

    /// Makes sure that `size` bytes of records fit, and starts a batch.
    fn begin(&mut self, size: usize) -> Result<Place, LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        let start = if self.started { 0 } else { START_BYTES };
        if !self.fits(start + size) {
            self.roll(HEADER_BYTES + START_BYTES + size + SEAL_BYTES)?;
        }
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES);
        let place = self.place();
        if !self.started {
            let LogFile { last, promise, commit, first_segment, turns, .. } = *self;
            let start = Start { last, promise, commit, first_segment, turns };
            put(&mut self.buffer, place, &Record::Start(start));
            self.active.before = Some(last.index);
            self.reader.lock().add_segment(self.active.clone());
        }
        Ok(place)
    }

    /// Writes the batch in the buffer behind everything else. A disk that has
    /// become read-only has taken nothing: the call may be repeated, and writes
    /// over whatever an earlier one left.
    fn write(&mut self) -> Result<(), LogError> {
        if let Err(source) = self.file.write_all_at(&self.buffer, self.end as u64) {
            if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem {
                return Err(self.no_room(source));
            }
            self.poisoned = true;
            return Err(self.failed("cannot write", source));
        }
        self.end += self.buffer.len();
        self.started = true;
        Ok(())
    }

    /// Goes on in the next segment, which must hold `needed` bytes.
    fn roll(&mut self, needed: usize) -> Result<(), LogError> {
        if needed > MAX_SEGMENT_BYTES {
            return Err(self.no_room(std::io::ErrorKind::InvalidInput.into()));
        }
        if !self.started {
            // Nothing is in it yet: no reason to leave it.
            return self.active.grow(needed).map_err(|source| self.no_room(source));
        }
        self.order_spare();
        let dir = &self.dir;
        let no_room = |source| LogError::NoRoom { path: dir.clone(), source };
        let spare = self.spare.wait().map_err(no_room)?;
        if spare.capacity < needed {
            spare.grow(needed).map_err(no_room)?;
        }
        let file = spare.open().map_err(no_room)?;
        self.seal()?;
        if let Some(next) = self.spare.take() {
            self.reader.lock().add_segment(self.active.closed());
            self.active = next;
            self.file = file;
            self.started = false;
            self.end = HEADER_BYTES;
            self.durable = HEADER_BYTES;
        }
        self.order_spare();
        Ok(())
    }

    /// Completes the active segment, durably.
    fn seal(&mut self) -> Result<(), LogError> {
        self.buffer.clear();
        let place = self.place();
        put(&mut self.buffer, place, &Record::Seal);
        self.write()?;
        self.sync()
    }

    fn place(&self) -> Place {
        let (offset, durable) = (self.end as u32, self.durable as u32);
        Place { seed: self.active.seed, offset, durable, votes: self.votes }
    }

    pub(super) fn order_spare(&mut self) {
        let capacity = (self.active.capacity * 2).min(self.options.segment_bytes);
        self.spare.order(self.active.number + 1, capacity);
    }

    fn failed(&self, what: &'static str, source: std::io::Error) -> LogError {
        LogError::Io { what, path: self.active.path.to_path_buf(), source }
    }

    fn no_room(&self, source: std::io::Error) -> LogError {
        LogError::NoRoom { path: self.dir.clone(), source }
    }
}
