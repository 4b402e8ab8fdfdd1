//! From what was read to a log that can be written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use raft::{Entry, HardState, Index, Membership, Position, Restored, Term};

use super::LogOptions;
use super::error::{Context, LogError, REJOIN};
use super::frame::Place;
use super::reader::LogReader;
use super::record::{
    COMMIT_BYTES, Promise, Record, SEAL_BYTES, START_BYTES, STOP_BYTES, Start, entry_bytes, put,
    put_entry,
};
use super::scan::{Active, Depth, Scan, TornTail, scan};
use super::segment::{HEADER_BYTES, Segment, fill, path_of};
use super::spare::{SpareMaker, Yard};
use super::writer::{LogFile, MAX_SEGMENT_BYTES};
use crate::command::Payload;
use crate::files::{self, File, sync_dir};
use crate::recovery::{LogRepair, LogScan};

/// Size of the first segment, in bytes: made while the first start waits.
const FIRST_SEGMENT_BYTES: usize = 1024 * 1024;

/// Written at a time when a log is rebuilt.
const PIECE_BYTES: usize = 1024 * 1024;

/// What a log-file without damage holds; the parts of `raft::Restored` that
/// come from it.
#[derive(Debug, Default)]
pub struct Recovered {
    /// There was no log at all: it has been made.
    pub fresh: bool,
    /// Term and vote.
    pub hard_state: HardState,
    /// How the terms of the entries run: `(first index of the run, term)`,
    /// ascending. May begin before the checkpoint.
    pub runs: Vec<(Index, Term)>,
    /// Memberships in entries behind the checkpoint, ascending.
    pub memberships: Vec<(Index, Membership)>,
    /// Entries behind the checkpoint, consecutive.
    pub entries: Vec<Entry<Payload>>,
    /// The highest index that the log says is committed, or 0.
    pub commit: Index,
    /// Where the log ended before a part of it was lost, unless it got there
    /// again.
    pub floor: Option<Position>,
    /// An unfinished last write was cut off.
    pub torn: Option<TornTail>,
}

/// A log that was read and not changed yet: it is opened as it is, or rebuilt
/// from what is left of it.
#[derive(Debug)]
pub struct LogOpener {
    dir: PathBuf,
    scan: Scan,
}

impl LogFile {
    /// Reads the log in the folder `dir`, and changes nothing. Entries behind
    /// `after`, where the checkpoint ends, are kept. Damage is not an error:
    /// it is reported, and somebody else decides what it means.
    ///
    /// # Errors
    /// [`LogError::Foreign`], [`LogError::NewerVersion`], [`LogError::Io`];
    /// [`LogError::Damaged`] only where checksums hold, but the records do
    /// not fit together: no disk does that.
    pub fn scan(dir: &Path, after: Index) -> Result<(LogScan<Payload>, LogOpener), LogError> {
        let (found, scan) = scan(dir, after, Depth::Needed)?;
        Ok((found, LogOpener { dir: dir.to_owned(), scan }))
    }

    /// Opens the log in the folder `dir`, or makes one, and reads what is
    /// behind the checkpoint at `after` (0: none). What it returns is durable.
    /// For logs that are not to be repaired: any damage is an error here.
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
        let (mut found, opener) = Self::scan(dir, after)?;
        if let Some(damage) = found.damage.first() {
            return Err(LogError::damaged(&damage.file, damage.offset, damage.what.as_str()));
        }
        debug_assert!(found.hard_state_certain, "only damage hides it");
        let mut recovered = Recovered {
            fresh: opener.is_fresh(),
            hard_state: found.hard_state,
            floor: found.floor,
            torn: opener.torn().cloned(),
            ..Recovered::default()
        };
        let lost = |number, what| {
            let file = path_of(dir, number);
            Err(LogError::MissingSegment { file, what, way_out: REJOIN })
        };
        if recovered.fresh && after > 0 {
            return lost(1, format!("the checkpoint ends at entry {after}, but the log is gone"));
        }
        if let Some(log) = found.stretches.pop() {
            if log.first > after + 1 {
                let first = log.first;
                let what =
                    format!("the checkpoint ends at entry {after}, the log begins at {first}");
                return lost(opener.scan.first_segment.saturating_sub(1).max(1), what);
            }
            recovered.runs = log.runs;
            recovered.memberships = log.memberships;
            recovered.entries = log.entries;
            recovered.commit = log.commit;
        }
        let mut log = opener.open(options)?;
        if log.last_index() < after {
            // The checkpoint came from another server and is ahead of the log.
            log.reset(Position { index: after, term: 0 })?;
            log.sync()?;
            recovered.runs.clear();
            recovered.commit = after;
        }
        Ok((log, recovered))
    }
}

impl LogOpener {
    /// There is no log at all.
    pub fn is_fresh(&self) -> bool {
        self.scan.fresh
    }

    /// The unfinished last write that will be cut off.
    pub fn torn(&self) -> Option<&TornTail> {
        self.scan.torn.as_ref()
    }

    /// Opens the log as it is, for writing behind its end; makes one if there
    /// is none. Only for a log that needs no repair.
    ///
    /// # Errors
    /// [`LogError::NoRoom`], [`LogError::Io`]; [`LogError::MissingSegment`]
    /// when there is no end to write behind.
    pub fn open(self, options: LogOptions) -> Result<LogFile, LogError> {
        let LogOpener { dir, mut scan } = self;
        files::create_dir_all(&dir).context("cannot make", &dir)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_dir(parent).context("cannot sync", parent)?;
        }
        for side in &scan.side {
            files::remove_file(side).context("cannot remove", side)?;
        }
        let segment_bytes = options.segment_bytes.min(MAX_SEGMENT_BYTES);
        let options = LogOptions { segment_bytes, ..options };
        let active = match scan.active.take() {
            Some(active) => active,
            None if scan.fresh => {
                scan.log = rand::random();
                scan.first_segment = 1;
                let segment = first_segment(&dir, scan.log, options)?;
                Active { segment, end: HEADER_BYTES, started: false }
            }
            None => {
                let file = path_of(&dir, scan.highest + 1);
                let what = "the log went on in it".to_owned();
                return Err(LogError::MissingSegment { file, what, way_out: REJOIN });
            }
        };
        let Active { segment: mut active, end, started } = active;
        if let Some(torn) = &scan.torn {
            let to = end + torn.bytes as usize;
            active.erase(end, to).context("cannot cut the torn tail of", &active.path)?;
        }
        let file = active.open().context("cannot open", &active.path)?;
        // After the death of the process alone, records may be valid that
        // were never synced; from here on they are promised. After a sync that
        // failed the system may even take them for written although only its
        // memory has them: so they are written again.
        write_again(&file, end).context("cannot write again", &active.path)?;
        file.sync_data().context("cannot sync", &active.path)?;
        let spare = SpareMaker::start(yard(&dir, &scan, options));
        let mut log = LogFile {
            options,
            file,
            started,
            end,
            durable: end,
            last: scan.last,
            promise: scan.promise,
            votes: scan.votes,
            turns: scan.turns,
            commit: scan.commit,
            first_segment: scan.first_segment,
            freed: Vec::new(),
            buffer: Vec::new(),
            spare: spare.context("cannot start a thread for", &dir)?,
            reader: LogReader::new(scan.index),
            active,
            dir,
            poisoned: false,
        };
        for (number, path) in &scan.leftovers {
            log.spare.free(*number, path);
        }
        match scan.spare {
            Some(spare) => log.spare.put(spare),
            None => log.order_spare(),
        }
        Ok(log)
    }

    /// Opens the log after what [`recovery`](crate::recovery) decided: as it
    /// is, or rebuilt. `restored` then says what the log holds, no more.
    ///
    /// # Errors
    /// As [`LogOpener::open`] and [`LogOpener::rebuild`].
    pub fn repair(
        self,
        options: LogOptions,
        repair: LogRepair,
        restored: &mut Restored<Payload>,
    ) -> Result<LogFile, LogError> {
        match repair {
            LogRepair::Keep => self.open(options),
            LogRepair::Cut { .. } | LogRepair::Restart(_) => {
                let log = self.rebuild(options, restored)?;
                restored.runs.clear();
                for Entry { index, term, .. } in &restored.entries {
                    if restored.runs.last().is_none_or(|(_, last)| last != term) {
                        restored.runs.push((*index, *term));
                    }
                }
                Ok(log)
            }
        }
    }

    /// Begins the log anew behind the checkpoint, with the hard state, floor
    /// and entries of `content`. Everything goes into a new segment, which says
    /// that none before it is needed; it gets its name once all of it is
    /// durable. Until then nothing has changed; after that the old segments are
    /// cleared away. So it does not matter when the process ends: the next
    /// start finds either, and goes on.
    ///
    /// # Errors
    /// [`LogError::Io`]; nothing has changed then.
    pub fn rebuild(
        self,
        options: LogOptions,
        content: &Restored<Payload>,
    ) -> Result<LogFile, LogError> {
        let LogOpener { dir, scan } = self;
        files::create_dir_all(&dir).context("cannot make", &dir)?;
        let number = scan.highest + 1;
        let log = if scan.log == 0 { rand::random() } else { scan.log };
        let capacity = HEADER_BYTES
            + START_BYTES
            + content.entries.iter().map(entry_bytes).sum::<usize>()
            + COMMIT_BYTES
            + STOP_BYTES
            + SEAL_BYTES;
        let path = path_of(&dir, number);
        if capacity > MAX_SEGMENT_BYTES {
            let error: io::Error = io::ErrorKind::FileTooLarge.into();
            return Err(error).context("cannot rebuild the log as", &path);
        }
        let capacity = capacity.max(options.segment_bytes.min(MAX_SEGMENT_BYTES));
        let made = Segment::create_with(&dir, log, number, |file, seed| {
            let end = write_rebuilt(file, seed, number, &scan, content)?;
            fill(file, end, capacity, &AtomicBool::new(false))
        });
        made.context("cannot rebuild the log as", &path)?;
        // What was just written is read again: it is short, and a bad disk
        // shows at once.
        let (_, opener) = LogFile::scan(&dir, Index::MAX)?;
        opener.open(options)
    }
}

/// Writes the first `end` bytes of a file to where they are.
fn write_again(file: &File, end: usize) -> io::Result<()> {
    let mut piece = vec![0; end.min(PIECE_BYTES)];
    for at in (0..end).step_by(PIECE_BYTES) {
        let piece = &mut piece[..PIECE_BYTES.min(end - at)];
        file.read_exact_at(piece, at as u64)?;
        file.write_all_at(piece, at as u64)?;
    }
    Ok(())
}

fn write_rebuilt(
    file: &File,
    seed: u32,
    number: u64,
    scan: &Scan,
    content: &Restored<Payload>,
) -> io::Result<usize> {
    let Restored { snapshot, entries, hard_state, floor, .. } = content;
    let base = Position { index: snapshot.index, term: snapshot.term };
    let mut end = HEADER_BYTES;
    let mut buffer = Vec::with_capacity(PIECE_BYTES);
    // Never 0, so that a damaged start is known to hide something.
    let votes = scan.votes.wrapping_add(1).max(1);
    let place = |end: usize, durable: usize| Place {
        seed,
        offset: end as u32,
        durable: durable as u32,
        votes,
    };
    let start = Start {
        last: base,
        promise: Promise { hard_state: *hard_state, floor: floor.unwrap_or_default() },
        commit: base.index,
        first_segment: number,
        turns: scan.turns + 1,
    };
    put(&mut buffer, place(end, 0), &Record::Start(start));
    for entry in entries {
        put_entry(&mut buffer, place(end, 0), entry);
        if buffer.len() >= PIECE_BYTES {
            file.write_all_at(&buffer, end as u64)?;
            end += buffer.len();
            buffer.clear();
        }
    }
    let last = entries.last().map_or(base.index, |entry| entry.index);
    let commit = content.commit.min(last);
    if commit > base.index {
        put(&mut buffer, place(end, 0), &Record::Commit(commit));
    }
    file.write_all_at(&buffer, end as u64)?;
    end += buffer.len();
    buffer.clear();
    // The file has no name yet, and is durable when it gets one.
    put(&mut buffer, place(end, end), &Record::Stop);
    file.write_all_at(&buffer, end as u64)?;
    Ok(end + buffer.len())
}

fn yard(dir: &Path, scan: &Scan, options: LogOptions) -> Yard {
    let mut yard = Yard {
        dir: dir.to_owned(),
        log: scan.log,
        keep: options.keep,
        usual_bytes: options.segment_bytes,
        pool: Vec::new(),
    };
    yard.adopt(&scan.free);
    yard
}

fn first_segment(dir: &Path, log: u128, options: LogOptions) -> Result<Segment, LogError> {
    let capacity = options.segment_bytes.min(FIRST_SEGMENT_BYTES);
    Segment::create(dir, log, 1, capacity, &AtomicBool::new(false))
        .map_err(|source| LogError::NoRoom { path: dir.to_owned(), source })
}
