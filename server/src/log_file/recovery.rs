//! Reading the whole stream: what is in force, and where it ends.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use raft::{Body, Entry, HardState, Index, Membership, Term};

use super::error::{LogError, REJOIN};
use super::reader::LogIndex;
use super::record::{RECORD_HEADER_BYTES, Record, Start, check, decode};
use super::segment::{HEADER_BYTES, Header, Segment, list, path_of, read_all};
use crate::command::Payload;

/// What is left of an unfinished last write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
}

/// What a log-file holds; the parts of `raft::Restored` that come from it.
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
    /// An unfinished last write was cut off.
    pub torn: Option<TornTail>,
}

/// The result of reading all segments.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) recovered: Recovered,
    pub(super) index: LogIndex,
    pub(super) last: Index,
    /// The segment that is written next, where, and whether it has its start.
    pub(super) active: Option<Active>,
    /// Segments that were never used and are still all zeros.
    pub(super) spare: Option<Segment>,
    /// Unused ones that are not.
    pub(super) spoilt: Vec<PathBuf>,
    pub(super) log: u128,
}

#[derive(Debug)]
pub(super) struct Active {
    pub(super) segment: Segment,
    pub(super) end: usize,
    pub(super) started: bool,
}

/// How the records of a segment end.
enum End {
    Sealed,
    /// Zeros up to the end of the file.
    Clean(usize),
    Bad(usize, String),
}

/// Reads the log in `dir`. Entries behind `after` are kept; with `None`, none.
pub(super) fn scan(dir: &Path, after: Option<Index>, write: bool) -> Result<Scan, LogError> {
    let found = list(dir)?;
    let mut replay = Replay::new(after);
    let mut scan = Scan {
        recovered: Recovered::default(),
        index: LogIndex::new(),
        last: 0,
        active: None,
        spare: None,
        spoilt: Vec::new(),
        log: 0,
    };
    let mut expected = found.first().map_or(1, |(number, _)| *number);
    // How the segment before ended, if that was not with a seal.
    let mut open_end: Option<(Segment, usize, Option<String>)> = None;
    let mut sealed = false;
    for (position, (number, path)) in found.iter().enumerate() {
        if *number != expected {
            return Err(missing(dir, expected, "there are segments before and behind it"));
        }
        expected += 1;
        let bytes = Bytes::from(read_all(path)?);
        let header = Header::decode(&bytes, path, *number)?;
        if position > 0 && header.log != scan.log {
            let what = "it belongs to another one".to_owned();
            return Err(LogError::Foreign { file: path.clone(), what });
        }
        scan.log = header.log;
        let segment = Segment::open(path, header, write)?;
        if let Some((before, end, what)) = &open_end {
            if next_valid(&bytes, &segment, HEADER_BYTES, 0).is_some() {
                let what = what.clone().unwrap_or_else(|| "the segment is not complete".to_owned());
                return Err(before.damaged(*end, what));
            }
            let clean = bytes[HEADER_BYTES..].iter().all(|byte| *byte == 0);
            if clean && scan.spare.is_none() && scan.spoilt.is_empty() {
                scan.spare = Some(segment);
            } else {
                scan.spoilt.push(path.clone());
            }
            continue;
        }
        match replay.segment(&bytes, &segment)? {
            End::Sealed => sealed = true,
            End::Clean(end) => {
                sealed = false;
                open_end = Some((segment.clone(), end, None));
            }
            End::Bad(end, what) => {
                if next_valid(&bytes, &segment, end + 1, end + 1).is_some() {
                    return Err(segment.damaged(end, what));
                }
                let used = bytes.iter().rposition(|byte| *byte != 0).map_or(end, |last| last + 1);
                replay.recovered.torn = Some(TornTail {
                    file: path.clone(),
                    offset: end as u64,
                    bytes: used.saturating_sub(end) as u64,
                });
                sealed = false;
                open_end = Some((segment.clone(), end, Some(what)));
            }
        }
        replay.index.add_segment(segment);
    }
    if sealed {
        return Err(missing(dir, expected, "the segment before it says that the log goes on"));
    }
    scan.active = open_end.map(|(segment, end, _)| {
        let started = end > HEADER_BYTES;
        Active { segment, end, started }
    });
    replay.finish(dir, &found, &mut scan)?;
    Ok(scan)
}

fn missing(dir: &Path, number: u64, what: &str) -> LogError {
    LogError::MissingSegment { file: path_of(dir, number), what: what.to_owned(), way_out: REJOIN }
}

/// A valid record at or behind `from` that was written when everything before
/// `durable` was known to be on disk.
///
/// This is what tells damage from a torn tail: a write that was under way when
/// the machine stopped may have reached the disk in any part, later pages
/// without earlier ones, but nothing written after its fsync can be there.
fn next_valid(bytes: &[u8], segment: &Segment, from: usize, durable: usize) -> Option<usize> {
    (from..bytes.len().saturating_sub(RECORD_HEADER_BYTES - 1)).find(|at| {
        // Zeros are most of a segment; a record has a kind.
        bytes[at + RECORD_HEADER_BYTES - 1] != 0
            && check(&bytes[*at..], segment.seed, *at as u32)
                .is_ok_and(|frame| frame.durable as usize >= durable)
    })
}

/// The state that the records read so far add up to.
struct Replay {
    after: Option<Index>,
    recovered: Recovered,
    index: LogIndex,
    last: Index,
    /// The first segment has told where the log begins.
    started: bool,
}

impl Replay {
    fn new(after: Option<Index>) -> Self {
        let recovered = Recovered::default();
        Replay { after, recovered, index: LogIndex::new(), last: 0, started: false }
    }

    fn segment(&mut self, bytes: &Bytes, segment: &Segment) -> Result<End, LogError> {
        let mut at = HEADER_BYTES;
        loop {
            if bytes[at..].iter().all(|byte| *byte == 0) {
                return Ok(End::Clean(at));
            }
            let frame = match check(&bytes[at..], segment.seed, at as u32) {
                Ok(frame) => frame,
                Err(what) => return Ok(End::Bad(at, what.to_owned())),
            };
            let end = at + frame.total();
            let record = decode(frame, bytes.slice(at + RECORD_HEADER_BYTES..end))
                .ok_or_else(|| segment.damaged(at, "a record of unknown content"))?;
            if matches!(record, Record::Start(_)) != (at == HEADER_BYTES) {
                return Err(segment.damaged(at, "a segment must begin with its start record"));
            }
            if record == Record::Seal {
                return Ok(End::Sealed);
            }
            self.record(record, segment.number, at).map_err(|what| segment.damaged(at, what))?;
            at = end;
        }
    }

    fn record(&mut self, record: Record, segment: u64, offset: usize) -> Result<(), String> {
        match record {
            Record::Start(start) => self.start(start)?,
            Record::HardState(state) => self.recovered.hard_state = state,
            Record::Entry(entry) => self.entry(entry, segment, offset)?,
            Record::Commit(commit) if commit > self.last => {
                return Err(format!("entry {commit} is committed, but {} is the last", self.last));
            }
            Record::Commit(commit) => self.recovered.commit = self.recovered.commit.max(commit),
            Record::Reset(last) => self.reset(last),
            Record::Seal => {}
        }
        Ok(())
    }

    fn start(&mut self, start: Start) -> Result<(), String> {
        let Recovered { hard_state, commit, .. } = self.recovered;
        if !self.started {
            self.started = true;
            self.reset(start.last);
            self.recovered.hard_state = start.hard_state;
            self.recovered.commit = start.commit;
        } else if start != (Start { last: self.last, hard_state, commit }) {
            return Err("the segment does not continue the one before".to_owned());
        }
        Ok(())
    }

    fn reset(&mut self, last: Index) {
        self.last = last;
        self.index.reset(last);
        self.recovered.runs.clear();
        self.recovered.memberships.clear();
        self.recovered.entries.clear();
        self.recovered.commit = self.recovered.commit.max(last);
    }

    fn entry(&mut self, entry: Entry<Payload>, segment: u64, offset: usize) -> Result<(), String> {
        let Entry { index, term, .. } = entry;
        let Recovered { runs, memberships, entries, commit, .. } = &mut self.recovered;
        if index == 0 || index > self.last + 1 {
            return Err(format!("entry {index} follows entry {}", self.last));
        }
        if index <= self.last {
            runs.truncate(runs.partition_point(|(first, _)| *first < index));
            memberships.truncate(memberships.partition_point(|(at, _)| *at < index));
            if index <= *commit {
                return Err(format!("entry {index} is replaced, but was committed"));
            }
        }
        match runs.last() {
            Some((_, last)) if *last > term => {
                return Err(format!("entry {index} of term {term} follows one of term {last}"));
            }
            Some((_, last)) if *last == term => {}
            _ => runs.push((index, term)),
        }
        if let Some(kept) = self.after.and_then(|after| index.checked_sub(after + 1)) {
            entries.truncate(kept as usize);
            if let Body::Membership(membership) = &entry.body {
                memberships.push((index, membership.clone()));
            }
            entries.push(entry);
        }
        self.index.appended(index, segment, offset);
        self.last = index;
        Ok(())
    }

    /// Puts the log behind the checkpoint.
    fn finish(
        mut self,
        dir: &Path,
        found: &[(u64, PathBuf)],
        scan: &mut Scan,
    ) -> Result<(), LogError> {
        if let Some(after) = self.after {
            let before = found.first().map_or(1, |(number, _)| number.saturating_sub(1).max(1));
            if found.is_empty() && after > 0 {
                let what = format!("the checkpoint ends at entry {after}, but the log is gone");
                return Err(missing(dir, before, &what));
            }
            if self.index.first() > after + 1 {
                let first = self.index.first();
                let what =
                    format!("the checkpoint ends at entry {after}, the log begins at {first}");
                return Err(missing(dir, before, &what));
            }
        }
        scan.recovered = std::mem::take(&mut self.recovered);
        scan.recovered.fresh = found.is_empty();
        scan.index = self.index;
        scan.last = self.last;
        Ok(())
    }
}
