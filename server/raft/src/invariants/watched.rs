//! What the checker knows of a node: what its disk holds, and what it lost.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::output::DurableMark;
use crate::types::{HardState, Index, Membership, Position, Term};

/// What is known of a node.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) hard: HardState,
    pub(super) commit: Index,
    pub(super) applied: Index,
    /// The term that it leads, and its last index.
    pub(super) leads: Option<(Term, Index)>,
    /// The membership that was in force.
    pub(super) membership: Membership,
    pub(super) disk: Disk,
    /// What it had on its disk and lost, until its disk has got there again.
    pub(super) lost: Option<Lost>,
}

/// What a node lost that was durable.
#[derive(Clone, Debug)]
pub(super) struct Lost {
    /// Where its log ended.
    pub(super) floor: Position,
    /// In this life its log has got there again.
    pub(super) reached: bool,
    /// The disks that it had: what it acknowledged on the strength of them.
    pub(super) disks: Vec<Disk>,
}

/// What a node's disk holds, by the batches that were synced.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) hard: HardState,
    /// The entries up to here are in a snapshot or older.
    pub(super) base: Index,
    /// The term of the entry there.
    pub(super) base_term: Term,
    /// Terms of the entries behind it.
    pub(super) terms: Vec<Term>,
    pub(super) batches: VecDeque<Batch>,
}

#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) mark: DurableMark,
    pub(super) first: Index,
    pub(super) terms: Vec<Term>,
}

impl Disk {
    pub(super) fn holds(&self, index: Index, term: Term) -> bool {
        index <= self.base
            || self.terms.get((index - self.base - 1) as usize).is_some_and(|&at| at == term)
    }

    pub(super) fn last(&self) -> Position {
        let index = self.base + self.terms.len() as u64;
        Position { index, term: self.terms.last().copied().unwrap_or(self.base_term) }
    }

    /// Where the log ended, without what batches that were not synced may have
    /// replaced.
    pub(super) fn settled(&self) -> Position {
        let replaced = self.batches.iter().map(|batch| batch.first).min();
        let kept = replaced.unwrap_or(Index::MAX).saturating_sub(self.base + 1);
        match self.terms.get(..kept as usize) {
            Some(terms) => Position {
                index: self.base + kept,
                term: terms.last().copied().unwrap_or(self.base_term),
            },
            None => self.last(),
        }
    }

    pub(super) fn write(&mut self, batch: &Batch) {
        self.hard = batch.mark.hard_state;
        if let Some(keep) = batch.first.checked_sub(self.base + 1)
            && !batch.terms.is_empty()
        {
            self.terms.truncate(keep as usize);
            self.terms.extend_from_slice(&batch.terms);
        }
    }
}

impl Watched {
    /// Whether it has the entry, or acknowledged it, lost it, and votes as if
    /// it had it.
    pub(super) fn vouches(&self, index: Index, term: Term) -> bool {
        let had = self.lost.iter().flat_map(|lost| &lost.disks);
        self.disk.holds(index, term) || had.into_iter().any(|disk| disk.holds(index, term))
    }

    /// What is missing on `disk`, on which it starts again.
    pub(super) fn lost_by(&self, disk: &Disk) -> Option<Lost> {
        let had = &self.disk;
        let settled = had.settled();
        let held =
            |(index, &term): (Index, &Term)| index > settled.index || disk.holds(index, term);
        let mut lost = self.lost.clone();
        if had.base > disk.last().index || !(had.base + 1..).zip(&had.terms).all(held) {
            let lost = lost.get_or_insert(Lost {
                floor: Position::default(),
                reached: false,
                disks: Vec::new(),
            });
            lost.floor = lost.floor.furthest(settled);
            lost.disks.push(Disk { batches: VecDeque::new(), ..had.clone() });
        }
        lost.map(|lost| Lost { reached: disk.last().covers(lost.floor), ..lost })
    }
}
