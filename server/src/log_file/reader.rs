//! Reading entries back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raft::{Entry, Index};

use super::error::{Context, LogError};
use super::frame::{Found, HEAD_BYTES, look, parse};
use super::index::{LogIndex, POINT_BYTES, Span};
use super::record::{Record, decode, entry_position, is_entry};
use super::segment::Segment;
use crate::command::Payload;
use crate::files::File;

/// Reads entries that have left memory. Cheap to clone; used from any thread
/// while the log goes on.
#[derive(Clone, Debug)]
pub struct LogReader {
    shared: Arc<Mutex<LogIndex>>,
}

impl LogReader {
    pub(super) fn new(index: LogIndex) -> Self {
        LogReader { shared: Arc::new(Mutex::new(index)) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, LogIndex> {
        // Nothing in here panics half way through a change.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// First and last index present; an empty log gives `(last + 1, last)`.
    pub fn range(&self) -> (Index, Index) {
        self.lock().range()
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
            let generation = self.lock().generation();
            let entries = self.read_once(from, to, max_bytes, generation);
            if self.lock().generation() == generation {
                return entries;
            }
        }
    }

    fn read_once(
        &self,
        from: Index,
        to: Index,
        max_bytes: usize,
        generation: u64,
    ) -> Result<Vec<Entry<Payload>>, LogError> {
        if from > to {
            return Ok(Vec::new());
        }
        let mut taken = Taken { entries: Vec::new(), bytes: 0, next: from, to, max_bytes };
        while !taken.full() {
            let (span, (first, last)) = {
                let index = self.lock();
                (index.locate(taken.next), index.range())
            };
            let Some(span) = span else {
                if taken.entries.is_empty() {
                    return Err(LogError::NotHere { from, to, first, last });
                }
                break;
            };
            let reached = taken.span(&span)?;
            let mut index = self.lock();
            if index.generation() == generation && taken.next <= span.end {
                index.learn(taken.next, span.segment.number, reached);
            }
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

    /// Takes what is wanted of a span; gives how far it came.
    fn span(&mut self, span: &Span) -> Result<usize, LogError> {
        let file = span.segment.file().context("cannot open", &span.segment.path)?;
        let mut offset = span.offset;
        let mut want = POINT_BYTES;
        while self.next <= span.end && !self.full() {
            let buffer = span.segment.read(&file, offset, want)?;
            let (used, needed) = self.buffer(span, offset, &buffer)?;
            offset += used;
            want = needed.max(POINT_BYTES);
        }
        Ok(offset)
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
            let (rest, here) = (&buffer[at..], start + at);
            let total = rest.get(..HEAD_BYTES).map_or(HEAD_BYTES, |head| parse(head).total());
            if total > rest.len() {
                if here.saturating_add(total) > span.segment.capacity {
                    let what = "the file ends in the middle of a record";
                    return Err(span.segment.damaged(here, what));
                }
                return Ok((at, total));
            }
            let Found::Record(head) = look(rest, span.segment.seed, here) else {
                let what = "the checksum of the record does not match";
                return Err(span.segment.damaged(here, what));
            };
            let body = at + HEAD_BYTES..at + HEAD_BYTES + head.length;
            at += total;
            if !is_entry(head.kind) {
                continue;
            }
            let index = entry_position(&rest[HEAD_BYTES..]).map(|position| position.index);
            if index.is_some_and(|index| index < self.next) {
                continue;
            }
            match decode(head, buffer.slice(body)) {
                Some(Record::Entry(entry)) if entry.index == self.next => {
                    self.bytes += total;
                    self.next += 1;
                    self.entries.push(entry);
                }
                _ => {
                    let what = format!("no entry {} where it should be", self.next);
                    return Err(span.segment.damaged(here, what));
                }
            }
        }
        Ok((at, 0))
    }
}

impl Segment {
    /// Up to `want` bytes from `offset` on.
    fn read(&self, file: &File, offset: usize, want: usize) -> Result<Bytes, LogError> {
        let mut buffer = vec![0; want.min(self.capacity.saturating_sub(offset))];
        let read = file.read_exact_at(&mut buffer, offset as u64);
        read.context("cannot read", &self.path)?;
        Ok(buffer.into())
    }
}
