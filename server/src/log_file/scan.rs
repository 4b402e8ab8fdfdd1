//! Reading the whole stream: what it holds, and where it ends.

use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};

use bytes::Bytes;
use raft::{Index, Position};

use super::error::{Context, LogError};
use super::frame::{self, Found, HEAD_BYTES, Head};
use super::index::LogIndex;
use super::record::{Promise, Record, START_BYTES, Start, decode};
use super::replay::Replay;
use super::segment::{
    ARCHIVE, HEADER_BYTES, Header, HeaderFound, Listing, Segment, list, path_of, read_all,
    read_head,
};
use super::walk::{Gap, Known, Walk, walk};
use crate::command::Payload;
use crate::recovery::LogScan;

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

/// What is needed to go on behind what was read.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) fresh: bool,
    pub(super) torn: Option<TornTail>,
    pub(super) log: u128,
    /// The highest number that any segment has, or had.
    pub(super) highest: u64,
    pub(super) first_segment: u64,
    pub(super) promise: Promise,
    pub(super) votes: u16,
    pub(super) turns: u64,
    pub(super) commit: Index,
    pub(super) last: Position,
    pub(super) index: LogIndex,
    /// The segment that is written next; none: it is lost.
    pub(super) active: Option<Active>,
    /// A segment that was never used.
    pub(super) spare: Option<Segment>,
    /// Segments that nothing needs any more.
    pub(super) leftovers: Vec<(u64, PathBuf)>,
    /// Free segments, and what a process left that ended while it made one.
    pub(super) free: Vec<(u64, PathBuf)>,
    pub(super) side: Vec<PathBuf>,
}

/// The segment that is written next, and where.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) segment: Segment,
    pub(super) end: usize,
    pub(super) started: bool,
}

/// How much of the stream is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Depth {
    /// Segments that hold nothing behind the checkpoint are skipped where
    /// their neighbours tell what is in them.
    Needed,
    /// Every byte.
    Everything,
    /// Archived segments too, as if nothing had been compacted; skipping.
    History,
}

/// What the first bytes of a segment say.
#[derive(Debug)]
struct Opening {
    path: PathBuf,
    size: usize,
    header: HeaderFound,
    start: Option<(Head, Start)>,
}

impl Opening {
    fn read(path: &Path, number: u64) -> Result<Self, LogError> {
        let path = path.to_owned();
        let (bytes, size) = match read_head(&path, HEADER_BYTES + START_BYTES) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(error).context("cannot open", &path);
            }
            Err(_) => {
                let header = HeaderFound::Damaged("its header cannot be read");
                return Ok(Opening { path, size: 0, header, start: None });
            }
        };
        let header = Header::decode(&bytes, &path, number)?;
        let mut opening = Opening { path, size, header, start: None };
        if let Some(header) = opening.header() {
            opening.start = start_of(&bytes, header.seed);
        }
        Ok(opening)
    }

    fn header(&self) -> Option<&Header> {
        match &self.header {
            HeaderFound::Good(header) | HeaderFound::Mended(header) => Some(header),
            HeaderFound::Damaged(_) => None,
        }
    }

    fn segment(&self) -> Option<Segment> {
        let mut segment = Segment::found(&self.path, *self.header()?, self.size);
        segment.before = self.start.map(|(_, start)| start.last.index);
        Some(segment)
    }
}

fn start_of(bytes: &[u8], seed: u32) -> Option<(Head, Start)> {
    let bytes = bytes.get(HEADER_BYTES..)?;
    let Found::Record(head) = frame::look(bytes, seed, HEADER_BYTES) else { return None };
    match decode(head, Bytes::copy_from_slice(&bytes[HEAD_BYTES..][..head.length]))? {
        Record::Start(start) => Some((head, start)),
        _ => None,
    }
}

/// Reads the log in `dir`; entries behind `after` are kept.
pub(super) fn scan(
    dir: &Path,
    after: Index,
    depth: Depth,
) -> Result<(LogScan<Payload>, Scan), LogError> {
    let mut listing = list_if_there(dir)?;
    if depth == Depth::History {
        listing.segments.extend(list_if_there(&dir.join(ARCHIVE))?.segments);
    }
    let mut openings = BTreeMap::new();
    for (number, path) in &listing.segments {
        openings.insert(*number, Opening::read(path, *number)?);
    }
    let log = same_log(&openings)?;
    let starts = openings.iter().filter_map(|(number, found)| Some((*number, found.start?.1)));
    let last_used = starts.clone().map(|(number, _)| number).max();
    let lowest = openings.keys().next().copied().unwrap_or(1);
    let first = if depth == Depth::History {
        // Where the log was begun anew after damage, it begins.
        let anew = starts.filter(|(number, start)| start.first_segment == *number);
        anew.map(|(number, _)| number).max().unwrap_or(lowest).max(lowest)
    } else {
        starts.map(|(_, start)| start.first_segment).max().unwrap_or(lowest)
    };
    let mut reading = Reading {
        dir,
        after,
        depth,
        openings: &openings,
        last_used: last_used.unwrap_or(first),
        replay: Replay::new(after, depth == Depth::History),
        torn: None,
        active: None,
    };
    if !openings.is_empty() {
        reading.run(first)?;
    }
    let Reading { mut replay, torn, active, .. } = reading;
    let sum = replay.finish();
    let behind = active.as_ref().map_or(u64::MAX, |active| active.segment.number + 1);
    let needed = replay.first_segment.max(first)..behind;
    let good = |opening: &&Opening| matches!(opening.header, HeaderFound::Good(_));
    let spare = openings.get(&behind).filter(good).and_then(Opening::segment);
    let left = |number: &u64| !needed.contains(number) && (spare.is_none() || *number != behind);
    let leftovers = listing.segments.iter().filter(|(number, _)| left(number)).cloned().collect();
    let scan = LogScan {
        hard_state: replay.promise.hard_state,
        hard_state_certain: replay.promise_certain,
        stretches: sum.stretches,
        end: sum.end,
        floor: sum.floor,
        damage: sum.damage,
    };
    let free = listing.free.iter().map(|(number, _)| *number);
    let rest = Scan {
        fresh: openings.is_empty(),
        torn,
        log,
        highest: openings.keys().copied().chain(free).max().unwrap_or(0),
        first_segment: needed.start,
        promise: replay.promise,
        votes: replay.votes,
        turns: replay.turns,
        commit: replay.commit,
        last: replay.last(),
        index: replay.index,
        active,
        spare,
        leftovers,
        free: listing.free,
        side: listing.side,
    };
    Ok((scan, rest))
}

fn list_if_there(dir: &Path) -> Result<Listing, LogError> {
    match list(dir) {
        Err(LogError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Ok(Listing::default())
        }
        listing => listing,
    }
}

/// All segments belong to one log.
fn same_log(openings: &BTreeMap<u64, Opening>) -> Result<u128, LogError> {
    let mut known = None;
    for opening in openings.values() {
        let Some(header) = opening.header() else { continue };
        if *known.get_or_insert(header.log) != header.log {
            let what = "it belongs to another one".to_owned();
            return Err(LogError::Foreign { file: opening.path.clone(), what });
        }
    }
    Ok(known.unwrap_or_default())
}

/// A segment that was read and walked.
struct Walked {
    bytes: Bytes,
    walk: Walk,
}

struct Reading<'a> {
    dir: &'a Path,
    after: Index,
    depth: Depth,
    openings: &'a BTreeMap<u64, Opening>,
    /// The last segment that has a start.
    last_used: u64,
    replay: Replay,
    torn: Option<TornTail>,
    active: Option<Active>,
}

impl Reading<'_> {
    /// Reads from segment `first` on. One thread reads and checks bytes, the
    /// other one plays the records of the segment before.
    fn run(&mut self, first: u64) -> Result<(), LogError> {
        let skipped: HashSet<u64> =
            (first..self.last_used).filter(|number| self.may_skip(*number)).collect();
        let (openings, last_used) = (self.openings, self.last_used);
        let wanted: Vec<Segment> = (first..=last_used)
            .filter(|number| !skipped.contains(number))
            .filter_map(|number| openings.get(&number)?.segment())
            .collect();
        std::thread::scope(|scope| {
            // The receiver is dropped at the end of this, so that the thread
            // does not wait for ever when playing ends with an error.
            let (sender, walked) = sync_channel(1);
            if wanted.len() <= 1 {
                drop(sender);
                return self.play(first, &skipped, &walked);
            }
            scope.spawn(move || {
                for segment in wanted {
                    let complete = segment.number < last_used;
                    if sender.send(read_and_walk(&segment, complete)).is_err() {
                        return;
                    }
                }
            });
            self.play(first, &skipped, &walked)
        })
    }

    fn play(
        &mut self,
        first: u64,
        skipped: &HashSet<u64>,
        walked: &Receiver<Result<Walked, LogError>>,
    ) -> Result<(), LogError> {
        let mut number = first;
        loop {
            let sealed = if skipped.contains(&number) {
                self.skip(number)?;
                true
            } else if let Some(segment) = self.openings.get(&number).and_then(Opening::segment) {
                let complete = number < self.last_used;
                // Behind the last one with a start there is one more at most.
                let walked = walked.recv().unwrap_or_else(|_| read_and_walk(&segment, complete));
                self.segment(segment, &walked?)?
            } else if number > self.last_used {
                let (path, what) = self.absent(number);
                self.replay.end_lost(&path, what);
                return Ok(());
            } else {
                let (path, what) = self.absent(number);
                let gap = Gap { at: 0, end: usize::MAX, kind: None, what };
                self.replay.gap(number, &path, gap);
                true
            };
            if number >= self.last_used && !sealed {
                return Ok(());
            }
            number += 1;
        }
    }

    fn absent(&self, number: u64) -> (PathBuf, &'static str) {
        match self.openings.get(&number) {
            Some(Opening { header: HeaderFound::Damaged(what), path, .. }) => (path.clone(), *what),
            _ => (path_of(self.dir, number), "the segment is missing"),
        }
    }

    /// Whether nothing in the segment is needed, as its start and the next
    /// one's tell.
    fn may_skip(&self, number: u64) -> bool {
        let start = |number| Some(self.openings.get(&number)?.start?.1);
        let (Some(here), Some(next)) = (start(number), start(number + 1)) else { return false };
        let mended = |opening: &Opening| matches!(opening.header, HeaderFound::Mended(_));
        self.depth != Depth::Everything
            && !self.openings.get(&number).is_some_and(mended)
            && next.last.index <= self.after
            && here.turns == next.turns
            && here.last.term == next.last.term
    }

    fn skip(&mut self, number: u64) -> Result<(), LogError> {
        let opening = |number| self.openings.get(&number);
        let (Some(here), Some(next)) = (opening(number), opening(number + 1)) else {
            return Ok(());
        };
        if let (Some(segment), Some(start), Some(next)) = (here.segment(), here.start, next.start) {
            self.replay.skip(&segment, start, next)?;
            self.replay.index.add_segment(segment);
        }
        Ok(())
    }

    /// Plays a segment; gives whether another one follows.
    fn segment(&mut self, segment: Segment, walked: &Walked) -> Result<bool, LogError> {
        let Walked { bytes, walk } = walked;
        let number = segment.number;
        if self.openings.get(&number).is_some_and(|o| matches!(o.header, HeaderFound::Mended(_))) {
            let what = "one bit of its header has changed";
            self.replay.note(number, &segment.path, HEADER_BYTES as u64, what);
        }
        self.replay.segment(bytes, &segment, walk)?;
        let complete = walk.sealed || number < self.last_used;
        if let Some(to) = walk.torn_to {
            self.torn = Some(TornTail {
                file: segment.path.to_path_buf(),
                offset: walk.end as u64,
                bytes: (to - walk.end) as u64,
            });
        }
        self.replay.index.add_segment(segment.clone());
        if !complete {
            self.active = Some(Active { segment, end: walk.end, started: walk.end > HEADER_BYTES });
        }
        Ok(complete)
    }
}

fn read_and_walk(segment: &Segment, complete: bool) -> Result<Walked, LogError> {
    let content = read_all(&segment.path)?;
    let known = Known {
        seed: segment.seed,
        zeroed: segment.zeroed,
        complete,
        unreadable: &content.unreadable,
    };
    let walk = walk(&content.bytes, known);
    Ok(Walked { bytes: content.bytes, walk })
}
