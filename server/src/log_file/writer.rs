//! The owner of the stream.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use raft::{Entry, HardState, Index};

use super::LogOptions;
use super::error::{Context, LogError};
use super::reader::LogReader;
use super::record::{
    COMMIT_BYTES, HARD_STATE_BYTES, Place, Record, SEAL_BYTES, START_BYTES, Start, entry_bytes,
    put, put_entry, put_hard,
};
use super::recovery::{Active, Recovered, scan};
use super::segment::{HEADER_BYTES, Segment, remove_leftovers};
use super::spare::SpareMaker;
use crate::command::Payload;
use crate::files::{self, sync_dir};

/// Size of the first segment, in bytes: made while the first start waits.
const FIRST_SEGMENT_BYTES: usize = 1024 * 1024;

/// Offsets are 32 bits wide.
const MAX_SEGMENT_BYTES: usize = 1 << 31;

/// The batch buffer is given back when one large batch made it grow further.
const BUFFER_BYTES: usize = 1024 * 1024;

/// The write-ahead stream, open for writing. See the [module](super) for its
/// contract.
#[derive(Debug)]
pub struct LogFile {
    dir: PathBuf,
    options: LogOptions,
    pub(super) active: Segment,
    /// Whether the active segment has its start record.
    started: bool,
    /// Where the next record goes.
    end: usize,
    /// Everything before this offset of the active segment is durable.
    durable: usize,
    last: Index,
    hard_state: HardState,
    commit: Index,
    buffer: Vec<u8>,
    pub(super) spare: SpareMaker,
    reader: LogReader,
    poisoned: bool,
}

impl LogFile {
    /// Opens the log in the folder `dir`, or makes one, and reads what is
    /// behind the checkpoint at `after` (0: none). What it returns is durable.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::MissingSegment`],
    /// [`LogError::Foreign`], [`LogError::NewerVersion`] and
    /// [`LogError::Io`]; nothing is changed on disk then.
    pub fn open(
        dir: &Path,
        options: LogOptions,
        after: Index,
    ) -> Result<(LogFile, Recovered), LogError> {
        files::create_dir_all(dir).context("cannot make", dir)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_dir(parent).context("cannot sync", parent)?;
        }
        let mut scan = scan(dir, Some(after), true)?;
        remove_leftovers(dir)?;
        let options = LogOptions { segment_bytes: options.segment_bytes.min(MAX_SEGMENT_BYTES) };
        let active = match scan.active {
            Some(active) => active,
            None => {
                scan.log = rand::random();
                let segment = first_segment(dir, scan.log, options)?;
                scan.index.add_segment(segment.clone());
                Active { segment, end: HEADER_BYTES, started: false }
            }
        };
        for path in &scan.spoilt {
            files::remove_file(path).context("cannot remove", path)?;
        }
        let Active { segment: active, end, started } = active;
        if let Some(torn) = &scan.recovered.torn {
            let to = end + torn.bytes as usize;
            active.erase(end, to).context("cannot cut the torn tail of", &active.path)?;
        }
        // After the death of the process alone, records may be valid that
        // were never synced; from here on they are promised.
        active.file.sync_data().context("cannot sync", &active.path)?;
        let spare = SpareMaker::start(dir.to_owned(), scan.log);
        let mut log = LogFile {
            dir: dir.to_owned(),
            options,
            started,
            end,
            durable: end,
            last: scan.last,
            hard_state: scan.recovered.hard_state,
            commit: scan.recovered.commit,
            buffer: Vec::new(),
            spare: spare.context("cannot start a thread for", dir)?,
            reader: LogReader::new(Arc::new(Mutex::new(scan.index))),
            active,
            poisoned: false,
        };
        match scan.spare {
            Some(spare) => log.spare.put(spare),
            None => log.order_spare(),
        }
        let mut recovered = scan.recovered;
        if log.last < after {
            // The checkpoint came from another server and is ahead of the log.
            log.reset(after)?;
            log.sync()?;
            recovered.runs.clear();
            recovered.commit = after;
        }
        Ok((log, recovered))
    }

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
        let size = if hard_state.is_some() { HARD_STATE_BYTES } else { 0 }
            + entries.iter().map(entry_bytes).sum::<usize>()
            + if mark { COMMIT_BYTES } else { 0 };
        if size == 0 {
            return if self.poisoned { Err(LogError::Poisoned) } else { Ok(()) };
        }
        let place = self.begin(size)?;
        if let Some(state) = hard_state {
            put_hard(&mut self.buffer, place, state);
            self.hard_state = state;
        }
        let mut at = self.end + self.buffer.len();
        for entry in entries {
            put_entry(&mut self.buffer, place, entry);
        }
        if mark {
            put(&mut self.buffer, place, &Record::Commit(commit));
            self.commit = commit;
        }
        self.write()?;
        if !entries.is_empty() {
            self.last = last;
            let mut index = self.reader.lock();
            for entry in entries {
                index.appended(entry.index, self.active.number, at);
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
        if self.durable == self.end {
            return Ok(());
        }
        if let Err(source) = self.active.file.sync_data() {
            self.poisoned = true;
            return Err(self.failed("cannot sync", source));
        }
        self.durable = self.end;
        Ok(())
    }

    /// Writes a mark that entries up to `commit` are committed, without need
    /// for a sync: for idle moments, so that whoever reads the files sees all
    /// of them. Left out when the segment has no room for it.
    ///
    /// # Errors
    /// As [`LogFile::append`].
    pub fn note_commit(&mut self, commit: Index) -> Result<(), LogError> {
        let commit = commit.min(self.last);
        let fits = self.end + COMMIT_BYTES + SEAL_BYTES <= self.active.capacity;
        if commit > self.commit && fits && self.started {
            return self.append(None, &[], commit);
        }
        Ok(())
    }

    /// Empties the log: it goes on behind `last`, where a snapshot took over.
    /// Durable after the next [`LogFile::sync`].
    ///
    /// # Errors
    /// As [`LogFile::append`].
    pub fn reset(&mut self, last: Index) -> Result<(), LogError> {
        let place = self.begin(COMMIT_BYTES)?;
        put(&mut self.buffer, place, &Record::Reset(last));
        self.write()?;
        self.last = last;
        self.commit = self.commit.max(last);
        self.reader.lock().reset(last);
        Ok(())
    }

    /// For reading entries back, from any thread.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// Index of the last entry.
    pub fn last_index(&self) -> Index {
        self.last
    }

    fn check_order(&self, entries: &[Entry<Payload>]) -> Result<Index, LogError> {
        let mut last = self.last;
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

    /// Makes sure that `size` bytes of records fit, and starts a batch.
    fn begin(&mut self, size: usize) -> Result<Place, LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        let start = if self.started { 0 } else { START_BYTES };
        if self.end + start + size + SEAL_BYTES > self.active.capacity {
            self.roll(HEADER_BYTES + START_BYTES + size + SEAL_BYTES)?;
        }
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES);
        let place = self.place();
        if !self.started {
            let LogFile { last, hard_state, commit, .. } = *self;
            put(&mut self.buffer, place, &Record::Start(Start { last, hard_state, commit }));
        }
        Ok(place)
    }

    /// Writes the batch in the buffer behind everything else.
    fn write(&mut self) -> Result<(), LogError> {
        if let Err(source) = self.active.file.write_all_at(&self.buffer, self.end as u64) {
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
            return Err(no_room(&self.dir, std::io::ErrorKind::InvalidInput.into()));
        }
        if !self.started {
            // Nothing is in it yet: no reason to leave it.
            self.active.grow(needed).map_err(|source| no_room(&self.dir, source))?;
            self.reader.lock().add_segment(self.active.clone());
            return Ok(());
        }
        self.order_spare();
        let spare = self.spare.wait().map_err(|source| no_room(&self.dir, source))?;
        if spare.capacity < needed {
            spare.grow(needed).map_err(|source| no_room(&self.dir, source))?;
        }
        self.seal()?;
        if let Some(next) = self.spare.take() {
            self.reader.lock().add_segment(next.clone());
            self.active = next;
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
        Place { seed: self.active.seed, offset, durable }
    }

    fn order_spare(&mut self) {
        let capacity = (self.active.capacity * 2).min(self.options.segment_bytes);
        self.spare.order(self.active.number + 1, capacity);
    }

    fn failed(&self, what: &'static str, source: std::io::Error) -> LogError {
        LogError::Io { what, path: self.active.path.to_path_buf(), source }
    }
}

fn first_segment(dir: &Path, log: u128, options: LogOptions) -> Result<Segment, LogError> {
    let capacity = options.segment_bytes.min(FIRST_SEGMENT_BYTES);
    Segment::create(dir, log, 1, capacity, &AtomicBool::new(false))
        .map_err(|source| no_room(dir, source))
}

fn no_room(dir: &Path, source: std::io::Error) -> LogError {
    LogError::NoRoom { path: dir.to_owned(), source }
}
