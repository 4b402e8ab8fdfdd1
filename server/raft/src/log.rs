//! The log as the core sees it: where each term begins for everything that is
//! on disk, and the entries themselves for the part that is still in memory.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::config::Restored;
use crate::output::{DurableMark, Persist};
use crate::types::{Body, Entry, HardState, Index, Payload, Position, Term};

#[cfg(test)]
mod tests;

/// What an entry counts beside its payload, so that empty ones count too.
const ENTRY_OVERHEAD_BYTES: usize = 32;

/// A cached entry, with the sum of the sizes up to and including it: the
/// bytes of any range are one subtraction.
#[derive(Clone, Debug)]
struct Cached<P> {
    entry: Entry<P>,
    end: u64,
}

/// A batch on its way to the disk.
#[derive(Clone, Debug)]
struct Batch {
    mark: DurableMark,
    /// The first index that it writes: entries that an earlier batch wrote
    /// from here on are gone once this one is written.
    first: Index,
    /// The log was replaced by a snapshot since.
    void: bool,
}

/// The log.
#[derive(Clone, Debug)]
pub(crate) struct Log<P> {
    /// Just before the first entry that still exists; its term is known.
    base: Position,
    /// Where each term begins, for everything after `base`.
    runs: Vec<(Index, Term)>,
    last: Position,
    /// The newest entries, up to `last`. Always holds what is not applied,
    /// not handed to the disk or not durable.
    cache: VecDeque<Cached<P>>,
    /// `end` of the entry before the cache.
    cache_begin: u64,
    cache_limit: u64,
    /// Handed to the driver up to here.
    persisted: Index,
    /// Known to be on disk, and to be the same there, up to here.
    durable: Index,
    batches: VecDeque<Batch>,
}

/// What an entry counts against windows and limits.
pub(crate) fn entry_bytes<P: Payload>(entry: &Entry<P>) -> usize {
    ENTRY_OVERHEAD_BYTES
        + match &entry.body {
            Body::Noop => 0,
            Body::Command(payload) => payload.size(),
            Body::Membership(membership) => membership
                .members
                .values()
                .map(|member| ENTRY_OVERHEAD_BYTES + member.info.len())
                .sum(),
        }
}

impl<P: Payload> Log<P> {
    /// The log that was found on disk. `restored` is connected (see
    /// [`Restored::discard_unconnected`]).
    pub(crate) fn restore(restored: &mut Restored<P>, cache_limit: usize) -> Self {
        let snapshot = Position { index: restored.snapshot.index, term: restored.snapshot.term };
        // The term before the first entry is on no disk. Unless it is the
        // snapshot's, that entry serves as the base: one entry less to give.
        let base = match restored.runs.first() {
            Some(&(1, _)) => Position::default(),
            Some(&(index, term)) if index <= snapshot.index => Position { index, term },
            _ => snapshot,
        };
        let mut runs: Vec<(Index, Term)> = Vec::new();
        for &(index, term) in &restored.runs {
            if index > snapshot.index {
                break;
            }
            if index <= base.index + 1 {
                runs.clear();
            }
            runs.push((index.max(base.index + 1), term));
        }
        runs.retain(|&(index, _)| index <= snapshot.index);
        let mut log = Log {
            base,
            runs,
            last: snapshot,
            cache: VecDeque::with_capacity(restored.entries.len()),
            cache_begin: 0,
            cache_limit: cache_limit as u64,
            persisted: 0,
            durable: 0,
            batches: VecDeque::new(),
        };
        for entry in restored.entries.drain(..) {
            log.append(entry);
        }
        log.persisted = log.last.index;
        log.durable = log.last.index;
        log
    }

    pub(crate) fn base(&self) -> Position {
        self.base
    }

    pub(crate) fn last(&self) -> Position {
        self.last
    }

    pub(crate) fn durable(&self) -> Index {
        self.durable
    }

    /// The first index that is in memory.
    pub(crate) fn cache_first(&self) -> Index {
        self.last.index + 1 - self.cache.len() as u64
    }

    /// The term of the entry at `index`; `None` when it is not in the log.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.last.index {
            return Some(self.last.term);
        }
        if index > self.last.index || index < self.base.index {
            return None;
        }
        if index == self.base.index {
            return Some(self.base.term);
        }
        let run = self.runs.partition_point(|&(first, _)| first <= index);
        run.checked_sub(1).map(|run| self.runs[run].1)
    }

    /// Appends the entry after the last one.
    pub(crate) fn append(&mut self, entry: Entry<P>) {
        debug_assert_eq!(entry.index, self.last.index + 1, "the log has no gaps");
        debug_assert!(entry.term >= self.last.term, "terms never go back along the log");
        if self.runs.last().is_none_or(|&(_, term)| term != entry.term) {
            self.runs.push((entry.index, entry.term));
        }
        self.last = Position { index: entry.index, term: entry.term };
        let end = self.end() + entry_bytes(&entry) as u64;
        self.cache.push_back(Cached { entry, end });
    }

    /// Drops everything from `from` on; `from` is not applied yet.
    pub(crate) fn truncate(&mut self, from: Index) {
        debug_assert!(from > self.base.index && from >= self.cache_first());
        let keep = from.saturating_sub(self.cache_first());
        let before = Position { index: from - 1, term: self.term_at(from - 1).unwrap_or(0) };
        self.cache.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        while self.runs.last().is_some_and(|&(first, _)| first >= from) {
            self.runs.pop();
        }
        self.last = before;
        self.persisted = self.persisted.min(before.index);
        self.durable = self.durable.min(before.index);
    }

    /// Replaces the whole log by a snapshot that ends at `position` and is
    /// durable.
    pub(crate) fn reset(&mut self, position: Position) {
        self.cache_begin = self.end();
        self.cache.clear();
        self.runs.clear();
        self.base = position;
        self.last = position;
        self.persisted = position.index;
        self.durable = position.index;
        for batch in &mut self.batches {
            batch.void = true;
        }
    }

    /// The log on disk now begins at `first`, which is within the log.
    pub(crate) fn compact(&mut self, first: Index) {
        let Some(term) = self.term_at(first - 1) else { return };
        self.base = Position { index: first - 1, term };
        let keep_from = self.runs.partition_point(|&(begin, _)| begin <= first);
        if keep_from > 0 {
            self.runs.drain(..keep_from - 1);
            self.runs[0].0 = first;
        }
        self.runs.retain(|&(begin, _)| begin <= self.last.index);
        while self.cache.front().is_some_and(|cached| cached.entry.index < first) {
            self.drop_oldest();
        }
    }

    /// The largest index at or below `index` whose term is at or below
    /// `term`: below everything that cannot match a log in which `index` has
    /// that term (paper, section 5.3, last paragraphs).
    pub(crate) fn last_not_after(&self, index: Index, term: Term) -> Index {
        if index <= self.base.index {
            return index;
        }
        let mut end = self.last.index;
        for &(first, run_term) in self.runs.iter().rev() {
            if run_term <= term && first <= index {
                return end.min(index);
            }
            end = first - 1;
        }
        if self.base.term <= term { self.base.index } else { self.base.index.saturating_sub(1) }
    }

    /// Bytes of the entries `from ..= last`; those not in memory count as 0.
    pub(crate) fn bytes_from(&self, from: Index) -> usize {
        let skipped = from.saturating_sub(self.cache_first());
        let begin = match usize::try_from(skipped).ok().and_then(|skipped| skipped.checked_sub(1)) {
            None => self.cache_begin,
            Some(before) => self.cache.get(before).map_or_else(|| self.end(), |cached| cached.end),
        };
        (self.end() - begin) as usize
    }

    /// Entries from `from` on, at least one and about `max_bytes` at the
    /// most, and their bytes. Empty when `from` is not in memory.
    pub(crate) fn entries(&self, from: Index, max_bytes: usize) -> (Vec<Entry<P>>, usize) {
        let Some(skip) = from.checked_sub(self.cache_first()).map(|skip| skip as usize) else {
            return (Vec::new(), 0);
        };
        if skip >= self.cache.len() {
            return (Vec::new(), 0);
        }
        let begin = if skip == 0 { self.cache_begin } else { self.cache[skip - 1].end };
        let limit = begin.saturating_add(max_bytes as u64);
        // Usually everything fits; a search is needed only when it does not.
        let end = if self.end() <= limit {
            self.cache.len()
        } else {
            self.cache.partition_point(|cached| cached.end <= limit).max(skip + 1)
        };
        let entries = self.cache.range(skip..end).map(|cached| cached.entry.clone()).collect();
        (entries, (self.cache[end - 1].end - begin) as usize)
    }

    /// Appends the entries `from ..= to` to `out`; they are in memory.
    pub(crate) fn copy(&self, from: Index, to: Index, out: &mut Vec<Entry<P>>) {
        if from > to {
            return;
        }
        let skip = (from - self.cache_first()) as usize;
        let count = (to + 1 - from) as usize;
        out.extend(self.cache.range(skip..skip + count).map(|cached| cached.entry.clone()));
    }

    /// Whether entries wait to be handed to the disk.
    pub(crate) fn has_unpersisted(&self) -> bool {
        self.persisted < self.last.index
    }

    /// Everything that the disk has not been given yet, as one batch.
    pub(crate) fn take_batch(&mut self, hard: HardState, hard_changed: bool) -> Persist<P> {
        let first = self.persisted + 1;
        let mut entries = Vec::with_capacity((self.last.index - self.persisted) as usize);
        self.copy(first, self.last.index, &mut entries);
        self.persisted = self.last.index;
        let mark = DurableMark { hard_state: hard, index: self.last.index, term: self.last.term };
        self.batches.push_back(Batch { mark, first, void: false });
        Persist { hard_state: hard_changed.then_some(hard), entries, mark }
    }

    /// The disk reached `mark`. `false` when no batch on the way has it.
    ///
    /// Marks are unique: between two batches either term or vote differ, or
    /// the log of one term grew, and within a term it is truncated at most
    /// once. So a mark names its batch, and what later batches replace does
    /// not count as durable, even at the same index and term.
    pub(crate) fn synced(&mut self, mark: &DurableMark) -> bool {
        let Some(at) = self.batches.iter().position(|batch| batch.mark == *mark) else {
            return false;
        };
        let void = self.batches[at].void;
        self.batches.drain(..=at);
        if !void {
            let replaced = self.batches.iter().filter(|batch| !batch.void).map(|batch| batch.first);
            let intact = replaced.map(|first| first - 1).min().unwrap_or(Index::MAX);
            self.durable = self.durable.max(mark.index.min(self.persisted).min(intact));
        }
        true
    }

    /// Takes everything up to `index` for durable: what a planted bug believes.
    pub(crate) fn trust_index(&mut self, index: Index) {
        self.durable = self.durable.max(index.min(self.persisted));
    }

    /// Forgets the oldest entries while the cache is over its limit. Entries
    /// that are not applied (`applied`) or not durable stay.
    pub(crate) fn trim_cache(&mut self, applied: Index) {
        let free = applied.min(self.durable);
        while self.end() - self.cache_begin > self.cache_limit
            && self.cache.front().is_some_and(|cached| cached.entry.index <= free)
        {
            self.drop_oldest();
        }
    }

    /// The newest command that is in memory; entries that are not applied are.
    pub(crate) fn newest_command(&self) -> Option<&P> {
        self.cache.iter().rev().find_map(|cached| match &cached.entry.body {
            Body::Command(payload) => Some(payload),
            Body::Noop | Body::Membership(_) => None,
        })
    }

    fn drop_oldest(&mut self) {
        if let Some(cached) = self.cache.pop_front() {
            self.cache_begin = cached.end;
        }
    }

    fn end(&self) -> u64 {
        self.cache.back().map_or(self.cache_begin, |cached| cached.end)
    }

    /// What must hold of any log; for `invariants`.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let ascending = |pair: &[(Index, Term)]| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1;
        if !self.runs.windows(2).all(ascending) {
            return Err("the terms of the log do not ascend");
        }
        if self.runs.first().is_some_and(|&(first, _)| first != self.base.index + 1) {
            return Err("the first run does not begin behind the base");
        }
        if self.runs.last().map_or(self.base.term, |&(_, term)| term) != self.last.term {
            return Err("the last run is not of the last term");
        }
        if self.cache_first() <= self.base.index {
            return Err("the cache holds entries from before the base");
        }
        if self.cache.front().is_some_and(|cached| cached.entry.index != self.cache_first())
            || self.cache.back().is_some_and(|cached| cached.entry.index != self.last.index)
        {
            return Err("the cache is not the end of the log");
        }
        if self.durable > self.persisted || self.persisted > self.last.index {
            return Err("more is durable than was written");
        }
        if self.cache_first() > self.durable + 1 {
            return Err("an entry left the cache before it was durable");
        }
        Ok(())
    }
}
