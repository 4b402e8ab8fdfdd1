//! Where entries are.

use std::collections::BTreeMap;

use raft::{Index, Position, Term};

use super::segment::Segment;

/// Bytes of log between two points of the index, and read at a time.
pub(super) const POINT_BYTES: usize = 64 * 1024;

/// An entry whose place is remembered.
#[derive(Clone, Copy, Debug)]
struct Point {
    index: Index,
    segment: u64,
    offset: usize,
}

/// A sparse index: a point for each 64 KiB of the stream that was read or
/// written, at each new segment and wherever an entry replaced earlier ones.
/// Between two points the stream therefore holds consecutive entries that are
/// all in force.
#[derive(Debug, Default)]
pub(super) struct LogIndex {
    /// Just before the first entry present.
    base: Position,
    last: Index,
    /// How the terms run: `(first index of the run, term)`, ascending.
    runs: Vec<(Index, Term)>,
    points: Vec<Point>,
    segments: BTreeMap<u64, Segment>,
    /// Counts what may make things stale that were read under another count.
    generation: u64,
}

/// A stretch of the stream with consecutive entries.
pub(super) struct Span {
    pub(super) segment: Segment,
    pub(super) offset: usize,
    /// Index of its last entry.
    pub(super) end: Index,
}

impl LogIndex {
    /// First and last index present; an empty log gives `(last + 1, last)`.
    pub(super) fn range(&self) -> (Index, Index) {
        (self.base.index + 1, self.last)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn add_segment(&mut self, segment: Segment) {
        self.segments.insert(segment.number, segment);
    }

    /// Numbers of the segments that hold the log, ascending.
    pub(super) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.values()
    }

    pub(super) fn appended(&mut self, at: Position, segment: u64, offset: usize) {
        let Position { index, term } = at;
        let replaces = index <= self.last;
        if replaces {
            let keep = self.points.partition_point(|point| point.index < index);
            self.points.truncate(keep);
            self.runs.truncate(self.runs.partition_point(|(first, _)| *first < index));
            self.generation += 1;
        }
        let near = self.points.last().is_some_and(|point| {
            point.segment == segment && offset.wrapping_sub(point.offset) < POINT_BYTES
        });
        if replaces || !near {
            self.points.push(Point { index, segment, offset });
        }
        if self.runs.last().is_none_or(|(_, last)| *last != term) {
            self.runs.push((index, term));
        }
        self.last = index;
    }

    /// More entries of the same term follow the last one in its segment.
    pub(super) fn appended_up_to(&mut self, last: Index) {
        self.last = last;
    }

    /// Empty; the next entry has the index behind `base`.
    pub(super) fn reset(&mut self, base: Position) {
        self.points.clear();
        self.runs.clear();
        self.base = base;
        self.last = base.index;
        self.generation += 1;
    }

    /// Entries up to `base` are gone.
    pub(super) fn compact(&mut self, base: Position) {
        if base.index <= self.base.index {
            return;
        }
        self.generation += 1;
        self.base = base;
        let first = base.index + 1;
        // The last point before `first` may lead to it.
        let gone = self.points.partition_point(|point| point.index <= first);
        self.points.drain(..gone.saturating_sub(1));
        let gone = self.runs.partition_point(|(begin, _)| *begin <= first);
        self.runs.drain(..gone.saturating_sub(1));
    }

    /// Segments before `number` are gone.
    pub(super) fn drop_segments(&mut self, number: u64) -> Vec<Segment> {
        let kept = self.segments.split_off(&number);
        self.points.retain(|point| point.segment >= number);
        std::mem::replace(&mut self.segments, kept).into_values().collect()
    }

    /// The term of the entry at `index`, or of the one before the first.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last {
            return None;
        }
        let run = self.runs.partition_point(|(first, _)| *first <= index);
        run.checked_sub(1).map(|run| self.runs[run].1)
    }

    /// Where to read from to come to the entry `index`.
    pub(super) fn locate(&self, index: Index) -> Option<Span> {
        if index <= self.base.index || index > self.last {
            return None;
        }
        let after = self.points.partition_point(|point| point.index <= index);
        let point = self.points.get(after.checked_sub(1)?)?;
        let end = self.points.get(after).map_or(self.last, |next| next.index - 1);
        let segment = self.segments.get(&point.segment)?.clone();
        Some(Span { segment, offset: point.offset, end })
    }

    /// Remembers where `index` was found, unless that is near a known point:
    /// who reads a segment that was skipped at the start does not search it
    /// again for each piece.
    pub(super) fn learn(&mut self, index: Index, segment: u64, offset: usize) {
        let after = self.points.partition_point(|point| point.index <= index);
        let Some(before) = after.checked_sub(1).map(|before| self.points[before]) else { return };
        if before.segment == segment && offset.wrapping_sub(before.offset) >= POINT_BYTES {
            self.points.insert(after, Point { index, segment, offset });
        }
    }
}
