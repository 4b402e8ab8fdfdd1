//! What the records of the stream add up to.

use std::path::Path;

use bytes::Bytes;
use raft::{Body, Index, Position};

use super::error::LogError;
use super::frame::{HEAD_BYTES, Head, parse};
use super::index::LogIndex;
use super::record::{
    CHANGE_BYTES, PROMISE_BYTES, Promise, Record, START, Start, decode, entry_position, is_entry,
    is_harmless,
};
use super::segment::{HEADER_BYTES, Segment};
use super::walk::{Gap, Walk};
use crate::command::Payload;
use crate::recovery::{Damage, Stretch};

/// The state that the records read so far add up to.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// Entries up to here are not kept.
    after: Index,
    /// What was compacted is there all the same.
    history: bool,
    /// Those that ended with damage, and the one that grows.
    done: Vec<Stretch<Payload>>,
    stretch: Option<Stretch<Payload>>,
    /// By segment, ascending.
    damage: Vec<(u64, Damage)>,
    /// Damage that no record has followed yet.
    open: Option<Open>,
    pub(super) promise: Promise,
    pub(super) promise_certain: bool,
    pub(super) votes: u16,
    pub(super) commit: Index,
    pub(super) turns: u64,
    pub(super) first_segment: u64,
    /// Where the log ends by the newest record that tells.
    last: Position,
    /// Entries that may be hidden behind `last`.
    hidden: Index,
    pub(super) index: LogIndex,
    /// Some record was read.
    begun: bool,
    /// There was damage since the last start.
    doubt: bool,
}

/// Damage whose meaning the next record tells.
#[derive(Clone, Copy, Debug)]
struct Open {
    bytes: usize,
    /// Known to hide nothing but these kinds.
    kind: Option<u8>,
}

/// What reading gave, without what is needed to go on writing.
pub(super) struct Sum {
    pub(super) stretches: Vec<Stretch<Payload>>,
    pub(super) damage: Vec<Damage>,
    pub(super) end: Position,
    pub(super) floor: Option<Position>,
}

impl Replay {
    pub(super) fn new(after: Index, history: bool) -> Self {
        Replay { after, history, promise_certain: true, ..Replay::default() }
    }

    /// Plays the records of one segment.
    pub(super) fn segment(
        &mut self,
        bytes: &Bytes,
        segment: &Segment,
        walk: &Walk,
    ) -> Result<(), LogError> {
        let mut gaps = walk.gaps.iter().peekable();
        let mut at = HEADER_BYTES;
        while at < walk.end {
            if let Some(gap) = gaps.next_if(|gap| gap.at == at) {
                self.gap(segment.number, &segment.path, *gap);
                at = gap.end;
                continue;
            }
            let head = parse(&bytes[at..at + HEAD_BYTES]);
            if (head.kind == START) != (at == HEADER_BYTES) {
                return Err(segment.damaged(at, "a segment must begin with its start record"));
            }
            let body = at + HEAD_BYTES..at + HEAD_BYTES + head.length;
            self.record(head, bytes, body, (segment.number, at))
                .map_err(|what| segment.damaged(at, what))?;
            at += head.total();
        }
        Ok(())
    }

    /// A damaged place.
    pub(super) fn gap(&mut self, segment: u64, path: &Path, gap: Gap) {
        let (bytes, offset) = (gap.end - gap.at, gap.at as u64);
        let known = if bytes >= usize::MAX / 2 { 0 } else { bytes as u64 };
        let file = path.to_owned();
        let damage = Damage { file, offset, bytes: known, what: gap.what.to_owned() };
        self.damage.push((segment, damage));
        let before = self.open.map_or(0, |open| open.bytes);
        let kind = if self.open.is_some() { None } else { gap.kind };
        self.open = Some(Open { bytes: bytes.saturating_add(before), kind });
    }

    /// Damage that hid nothing.
    pub(super) fn note(&mut self, segment: u64, path: &Path, bytes: u64, what: &str) {
        let file = path.to_owned();
        self.damage.push((segment, Damage { file, offset: 0, bytes, what: what.to_owned() }));
    }

    /// What damage hid, by the first record behind it: a stretch ends unless
    /// nothing that changes the log could have been there.
    fn close(&mut self, head: Head, segment: u64) -> Result<(), String> {
        let lost = head.votes.wrapping_sub(self.votes);
        let Some(open) = self.open.take() else {
            if lost != 0 && self.begun {
                return Err(format!("{lost} records of term and vote are not there"));
            }
            return Ok(());
        };
        // The first start of a log says nothing that is not known.
        if lost != 0 || (!self.begun && segment > 1) {
            self.promise_certain = false;
        }
        self.doubt = true;
        self.votes = head.votes;
        let left = open.bytes.checked_sub(usize::from(lost) * PROMISE_BYTES);
        let room = left.is_none_or(|left| left >= CHANGE_BYTES);
        if room && !open.kind.is_some_and(is_harmless) {
            self.end_stretch();
            let most = if open.kind.is_some_and(is_entry) { 1 } else { open.bytes / CHANGE_BYTES };
            self.hidden = self.hidden.saturating_add(most as u64);
        }
        Ok(())
    }

    fn end_stretch(&mut self) {
        self.done.extend(self.stretch.take());
        self.index.reset(Position::default());
    }

    fn record(
        &mut self,
        head: Head,
        bytes: &Bytes,
        body: std::ops::Range<usize>,
        place: (u64, usize),
    ) -> Result<(), String> {
        self.close(head, place.0)?;
        let unknown = || "a record of unknown content".to_owned();
        if is_entry(head.kind) {
            let at = entry_position(&bytes[body.clone()]).ok_or_else(unknown)?;
            self.entry(at, place)?;
            if at.index > self.after {
                let record = decode(head, bytes.slice(body)).ok_or_else(unknown)?;
                self.keep(record);
            }
            self.begun = true;
            return Ok(());
        }
        match decode(head, bytes.slice(body)).ok_or_else(unknown)? {
            Record::Start(start) => self.start(head, start)?,
            Record::Promise(promise) => {
                self.promise = promise;
                self.promise_certain = true;
                self.votes = head.votes.wrapping_add(1);
            }
            Record::Commit(commit) => self.committed(commit)?,
            Record::Reset(base) => self.reset(base),
            Record::Compacted { segment, base } => self.compacted(segment, base),
            Record::Entry(_) | Record::Seal | Record::Stop => {}
        }
        self.begun = true;
        Ok(())
    }

    fn start(&mut self, head: Head, start: Start) -> Result<(), String> {
        let here = Start {
            last: self.last,
            promise: self.promise,
            commit: self.commit,
            first_segment: self.first_segment,
            turns: self.turns,
        };
        let doubt = std::mem::take(&mut self.doubt);
        if self.stretch.is_some() && !doubt && start != here {
            return Err("the segment does not continue the one before".to_owned());
        }
        if self.stretch.is_none() || start.last != self.last {
            self.end_stretch();
            let anew = self.done.is_empty() && self.damage.is_empty();
            self.begin_stretch(anew, start.last);
        }
        if let Some(stretch) = &mut self.stretch {
            stretch.commit = stretch.commit.max(start.commit);
        }
        self.promise = start.promise;
        self.promise_certain = true;
        self.votes = head.votes;
        self.commit = self.commit.max(start.commit);
        self.turns = start.turns;
        self.first_segment = self.first_segment.max(start.first_segment);
        Ok(())
    }

    /// A stretch that goes on behind `base`.
    fn begin_stretch(&mut self, anew: bool, base: Position) {
        self.stretch = Some(Stretch {
            anew,
            first: base.index + 1,
            prev_term: Some(base.term),
            last: base.index,
            runs: Vec::new(),
            memberships: Vec::new(),
            entries: Vec::new(),
            commit: 0,
        });
        self.index.reset(base);
        self.last = base;
        self.hidden = 0;
    }

    fn committed(&mut self, commit: Index) -> Result<(), String> {
        if let Some(stretch) = &mut self.stretch {
            if commit > stretch.last {
                return Err(format!(
                    "entry {commit} is committed, but {} is the last",
                    stretch.last
                ));
            }
            stretch.commit = stretch.commit.max(commit);
        }
        self.commit = self.commit.max(commit);
        Ok(())
    }

    fn reset(&mut self, base: Position) {
        self.done.clear();
        self.begin_stretch(true, base);
        self.commit = self.commit.max(base.index);
        self.stretch.iter_mut().for_each(|stretch| stretch.commit = base.index);
        self.turns += 1;
    }

    /// Segments before `segment` are not needed, nor is damage in them.
    fn compacted(&mut self, segment: u64, base: Position) {
        self.first_segment = self.first_segment.max(segment);
        if self.history {
            return;
        }
        self.damage.retain(|(damaged, _)| *damaged >= segment);
        self.index.compact(base);
        if !self.damage.is_empty() {
            return;
        }
        self.done.clear();
        let Some(stretch) = &mut self.stretch else { return };
        stretch.anew = true;
        if stretch.first > base.index {
            return;
        }
        stretch.first = base.index + 1;
        stretch.prev_term = Some(base.term);
        let first = stretch.first;
        let gone = stretch.runs.partition_point(|(begin, _)| *begin <= first);
        if gone > 0 {
            stretch.runs.drain(..gone - 1);
            stretch.runs[0].0 = first;
        }
        stretch.runs.retain(|(begin, _)| *begin <= stretch.last);
        stretch.entries.drain(..stretch.entries.partition_point(|entry| entry.index < first));
        stretch.memberships.retain(|(index, _)| *index >= first);
    }

    fn entry(&mut self, at: Position, place: (u64, usize)) -> Result<(), String> {
        let Position { index, term } = at;
        if index == 0 {
            return Err("an entry without an index".to_owned());
        }
        if index <= self.commit && index <= self.last.index && self.stretch.is_some() {
            return Err(format!("entry {index} is replaced, but was committed"));
        }
        if self.stretch.is_none() {
            self.begin_stretch(false, Position { index: index - 1, term: 0 });
            self.stretch.iter_mut().for_each(|stretch| stretch.prev_term = None);
        }
        let Some(stretch) = &mut self.stretch else { return Ok(()) };
        if index > stretch.last + 1 {
            return Err(format!("entry {index} follows entry {}", stretch.last));
        }
        if index < stretch.first {
            // The segment before, with what is replaced, may be gone: a reset
            // further on in this one said that it is not needed. If none comes,
            // this connects to nothing.
            stretch.anew = false;
            stretch.first = index;
            stretch.prev_term = None;
        }
        if index <= stretch.last {
            let Stretch { runs, memberships, entries, .. } = &mut *stretch;
            runs.truncate(runs.partition_point(|(first, _)| *first < index));
            memberships.truncate(memberships.partition_point(|(at, _)| *at < index));
            entries.truncate(entries.partition_point(|entry| entry.index < index));
            self.turns += 1;
        }
        let before = stretch.runs.last().map(|(_, term)| *term).or(stretch.prev_term);
        if before.is_some_and(|before| before > term) {
            return Err(format!("entry {index} of term {term} follows one of a later term"));
        }
        if stretch.runs.last().is_none_or(|(_, last)| *last != term) {
            stretch.runs.push((index, term));
        }
        stretch.last = index;
        self.last = at;
        self.promise.reached(at);
        self.index.appended(at, place.0, place.1);
        Ok(())
    }

    /// Keeps an entry behind the checkpoint.
    fn keep(&mut self, record: Record) {
        let (Record::Entry(entry), Some(stretch)) = (record, &mut self.stretch) else { return };
        if let Body::Membership(membership) = &entry.body {
            stretch.memberships.push((entry.index, membership.clone()));
        }
        stretch.entries.push(entry);
    }

    /// A segment that need not be read: between its start and that of the one
    /// behind it entries follow each other, in one term, and the checkpoint
    /// contains them all.
    pub(super) fn skip(
        &mut self,
        segment: &Segment,
        start: (Head, Start),
        next: (Head, Start),
    ) -> Result<(), LogError> {
        let damaged = |what| segment.damaged(HEADER_BYTES, what);
        self.close(start.0, segment.number).map_err(damaged)?;
        self.start(start.0, start.1).map_err(damaged)?;
        self.begun = true;
        let (head, next) = next;
        let Some(stretch) = &mut self.stretch else { return Ok(()) };
        if next.last.index > stretch.last {
            let first = Position { index: stretch.last + 1, term: next.last.term };
            if stretch.runs.last().is_none_or(|(_, term)| *term != first.term) {
                stretch.runs.push((first.index, first.term));
            }
            self.index.appended(first, segment.number, HEADER_BYTES);
            self.index.appended_up_to(next.last.index);
            stretch.last = next.last.index;
        }
        stretch.commit = stretch.commit.max(next.commit);
        self.last = next.last;
        self.promise = next.promise;
        self.votes = head.votes;
        self.commit = self.commit.max(next.commit);
        self.first_segment = self.first_segment.max(next.first_segment);
        Ok(())
    }

    /// The end of the stream was lost, with everything in it.
    pub(super) fn end_lost(&mut self, file: &Path, what: &'static str) {
        let gap = Gap { at: 0, end: usize::MAX, kind: None, what };
        self.gap(u64::MAX, file, gap);
    }

    pub(super) fn finish(&mut self) -> Sum {
        if let Some(open) = self.open.take()
            && !open.kind.is_some_and(is_harmless)
        {
            self.end_stretch();
            let is_entry = open.kind.is_some_and(is_entry);
            self.promise_certain &= is_entry;
            let most = if is_entry { 1 } else { open.bytes / CHANGE_BYTES };
            self.hidden = self.hidden.saturating_add(most as u64);
        }
        if !self.begun && self.damage.is_empty() {
            // Made, and never written to.
            self.begin_stretch(true, Position::default());
        }
        let mut stretches = std::mem::take(&mut self.done);
        stretches.extend(self.stretch.take());
        let end = match self.hidden {
            0 => self.last,
            // Nobody appends entries of a term that is not in its hard state,
            // and a snapshot that replaced the log is the checkpoint.
            more => Position {
                index: self.last.index.max(self.after).saturating_add(more),
                term: self.last.term.max(self.promise.hard_state.term),
            },
        };
        let floor = self.promise.floor;
        let floor = (floor != Position::default() && !self.last.covers(floor)).then_some(floor);
        let damage = self.damage.drain(..).map(|(_, damage)| damage).collect();
        Sum { stretches, damage, end, floor }
    }

    pub(super) fn last(&self) -> Position {
        self.last
    }
}
