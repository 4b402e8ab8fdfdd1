//! Where entries are, and reading them back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raft::{Entry, Index};

use super::error::{Context, LogError};
use super::record::{Record, check, decode, peek};
use super::segment::Segment;
use crate::command::Payload;

/// Bytes of log between two points of the index, and read at a time.
const POINT_BYTES: usize = 64 * 1024;

/// An entry whose place is remembered.
#[derive(Clone, Copy, Debug)]
struct Point {
    index: Index,
    segment: u64,
    offset: usize,
}

/// A sparse index: a point for each 64 KiB of the stream, at each new segment
/// and wherever an entry replaced earlier ones. Between two points the stream
/// therefore holds consecutive entries that are all in force.
#[derive(Debug, Default)]
pub(super) struct LogIndex {
    /// The first index present; `last + 1` when there is none.
    first: Index,
    last: Index,
    points: Vec<Point>,
    segments: BTreeMap<u64, Segment>,
    /// Counts replacements: what was read under another count may be stale.
    generation: u64,
}

impl LogIndex {
    pub(super) fn new() -> Self {
        LogIndex { first: 1, ..LogIndex::default() }
    }

    pub(super) fn first(&self) -> Index {
        self.first
    }

    pub(super) fn add_segment(&mut self, segment: Segment) {
        self.segments.insert(segment.number, segment);
    }

    pub(super) fn appended(&mut self, index: Index, segment: u64, offset: usize) {
        let replaces = index <= self.last;
        if replaces {
            let keep = self.points.partition_point(|point| point.index < index);
            self.points.truncate(keep);
            self.first = self.first.min(index);
            self.generation += 1;
        }
        let near = self.points.last().is_some_and(|point| {
            point.segment == segment && offset.wrapping_sub(point.offset) < POINT_BYTES
        });
        if replaces || !near {
            self.points.push(Point { index, segment, offset });
        }
        self.last = index;
    }

    /// Empty; the next entry has the index behind `last`.
    pub(super) fn reset(&mut self, last: Index) {
        self.points.clear();
        self.first = last + 1;
        self.last = last;
        self.generation += 1;
    }

    fn locate(&self, index: Index) -> Option<Span> {
        if index < self.first || index > self.last {
            return None;
        }
        let after = self.points.partition_point(|point| point.index <= index);
        let point = self.points.get(after.checked_sub(1)?)?;
        let end = self.points.get(after).map_or(self.last, |next| next.index - 1);
        let segment = self.segments.get(&point.segment)?.clone();
        Some(Span { segment, offset: point.offset, end })
    }
}

/// A stretch of the stream with consecutive entries.
struct Span {
    segment: Segment,
    offset: usize,
    /// Index of its last entry.
    end: Index,
}

/// Reads entries that have left memory. Cheap to clone; used from any thread
/// while the log goes on.
#[derive(Clone, Debug)]
pub struct LogReader {
    shared: Arc<Mutex<LogIndex>>,
}

impl LogReader {
    pub(super) fn new(shared: Arc<Mutex<LogIndex>>) -> Self {
        LogReader { shared }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, LogIndex> {
        // Nothing in here panics half way through a change.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// First and last index present; an empty log gives `(last + 1, last)`.
    pub fn range(&self) -> (Index, Index) {
        let index = self.lock();
        (index.first, index.last)
    }

    /// Entries from `from` up to `to` or to the end of the log, whatever comes
    /// first: at least one, and no more once they exceed `max_bytes`. All of
    /// them were in the log together at one instant.
    ///
    /// # Errors
    /// [`LogError::NotHere`] when `from` is not in the log;
    /// [`LogError::Damaged`] when its bytes have changed on disk.
    pub fn read(
        &self,
        from: Index,
        to: Index,
        max_bytes: usize,
    ) -> Result<Vec<Entry<Payload>>, LogError> {
        loop {
            let generation = self.lock().generation;
            let entries = self.read_once(from, to, max_bytes);
            if self.lock().generation == generation {
                return entries;
            }
        }
    }

    fn read_once(
        &self,
        from: Index,
        to: Index,
        max_bytes: usize,
    ) -> Result<Vec<Entry<Payload>>, LogError> {
        if from > to {
            return Ok(Vec::new());
        }
        let mut taken = Taken { entries: Vec::new(), bytes: 0, next: from, to, max_bytes };
        while !taken.full() {
            let (span, first, last) = {
                let index = self.lock();
                (index.locate(taken.next), index.first, index.last)
            };
            let Some(span) = span else {
                if taken.entries.is_empty() {
                    return Err(LogError::NotHere { from, to, first, last });
                }
                break;
            };
            taken.span(&span)?;
        }
        Ok(taken.entries)
    }
}

/// Entries read so far, and the bounds.
struct Taken {
    entries: Vec<Entry<Payload>>,
    bytes: usize,
    next: Index,
    to: Index,
    max_bytes: usize,
}

impl Taken {
    fn full(&self) -> bool {
        !self.entries.is_empty() && (self.next > self.to || self.bytes >= self.max_bytes)
    }

    fn span(&mut self, span: &Span) -> Result<(), LogError> {
        let mut offset = span.offset;
        let mut want = POINT_BYTES;
        while self.next <= span.end && !self.full() {
            let buffer = span.segment.read(offset, want)?;
            let (used, needed) = self.buffer(span, offset, &buffer)?;
            offset += used;
            want = needed.max(POINT_BYTES);
        }
        Ok(())
    }

    /// Takes the whole records of `buffer`; gives how many bytes they took and
    /// how many the next record needs.
    fn buffer(
        &mut self,
        span: &Span,
        start: usize,
        buffer: &Bytes,
    ) -> Result<(usize, usize), LogError> {
        let mut at = 0;
        while self.next <= span.end && !self.full() {
            let rest = &buffer[at..];
            let total = peek(rest).map_or(super::record::RECORD_HEADER_BYTES, |f| f.total());
            let here = start + at;
            if total > rest.len() {
                if here + total > span.segment.capacity {
                    let what = "the file ends in the middle of a record";
                    return Err(span.segment.damaged(here, what));
                }
                return Ok((at, total));
            }
            let frame = check(rest, span.segment.seed, here as u32)
                .map_err(|what| span.segment.damaged(here, what))?;
            let body = buffer.slice(at + super::record::RECORD_HEADER_BYTES..at + total);
            match decode(frame, body) {
                Some(Record::Entry(entry)) if entry.index == self.next => {
                    self.bytes += total;
                    self.next += 1;
                    self.entries.push(entry);
                }
                Some(Record::Entry(entry)) if entry.index > self.next => {
                    let what = format!("entry {} where {} should be", entry.index, self.next);
                    return Err(span.segment.damaged(here, what));
                }
                Some(_) => {}
                None => return Err(span.segment.damaged(here, "a record of unknown content")),
            }
            at += total;
        }
        Ok((at, 0))
    }
}

impl Segment {
    /// Up to `want` bytes from `offset` on.
    fn read(&self, offset: usize, want: usize) -> Result<Bytes, LogError> {
        let mut buffer = vec![0; want.min(self.capacity.saturating_sub(offset))];
        let read = self.file.read_exact_at(&mut buffer, offset as u64);
        read.context("cannot read", &self.path)?;
        Ok(buffer.into())
    }

    pub(super) fn damaged(&self, offset: usize, what: impl Into<String>) -> LogError {
        LogError::damaged(&self.path, offset as u64, what)
    }
}
