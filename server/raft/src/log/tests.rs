//! The log against a plain vector, and its disk against another.

use alloc::vec::Vec;

use proptest::prelude::*;

use super::{Log, Position};
use crate::config::Restored;
use crate::output::Persist;
use crate::types::{Body, Entry, HardState, Index, Membership, Payload, SnapshotMeta, Term};

#[derive(Clone, PartialEq, Eq, Debug)]
struct Sized(usize);

impl Payload for Sized {
    fn size(&self) -> usize {
        self.0
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Append {
        new_term: bool,
        size: usize,
    },
    /// Drops this share, in percent, of what is not applied.
    Truncate(u64),
    Apply(u64),
    Write,
    Sync,
    Compact(u64),
    Trim,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (prop::bool::weighted(0.3), 0_usize..50)
            .prop_map(|(new_term, size)| Step::Append { new_term, size }),
        1 => (0_u64..100).prop_map(Step::Truncate),
        2 => (0_u64..100).prop_map(Step::Apply),
        3 => Just(Step::Write),
        2 => Just(Step::Sync),
        1 => (0_u64..100).prop_map(Step::Compact),
        1 => Just(Step::Trim),
    ]
}

/// A log, and what it should be.
struct Twin {
    log: Log<Sized>,
    all: Vec<Entry<Sized>>,
    disk: Vec<Entry<Sized>>,
    writing: Vec<Persist<Sized>>,
    term: Term,
    applied: Index,
}

impl Twin {
    fn new() -> Self {
        let meta = SnapshotMeta { index: 0, term: 0, membership: Membership::default() };
        let mut restored = Restored {
            hard_state: HardState::default(),
            snapshot: meta,
            runs: Vec::new(),
            memberships: Vec::new(),
            entries: Vec::new(),
            commit: 0,
            floor: None,
        };
        Twin {
            log: Log::restore(&mut restored, 300),
            all: Vec::new(),
            disk: Vec::new(),
            writing: Vec::new(),
            term: 1,
            applied: 0,
        }
    }

    fn share(&self, from: Index, percent: u64) -> Index {
        from + (self.log.last().index - from) * percent / 100
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Append { new_term, size } => {
                self.term += u64::from(new_term);
                let index = self.log.last().index + 1;
                let entry = Entry { index, term: self.term, body: Body::Command(Sized(size)) };
                self.all.push(entry.clone());
                self.log.append(entry);
            }
            Step::Truncate(percent) => {
                let from = self.share(self.applied, percent) + 1;
                if from <= self.log.last().index {
                    // Only a leader of a later term truncates.
                    self.term += 1;
                    self.log.truncate(from);
                    self.all.truncate(from as usize - 1);
                }
            }
            Step::Apply(percent) => self.applied = self.share(self.applied, percent),
            Step::Write => {
                if self.log.has_unpersisted() {
                    let hard = HardState { term: self.term, vote: None };
                    self.writing.push(self.log.take_batch(hard, false));
                }
            }
            Step::Sync => {
                if !self.writing.is_empty() {
                    let batch = self.writing.remove(0);
                    if let Some(first) = batch.entries.first() {
                        self.disk.truncate(first.index as usize - 1);
                    }
                    self.disk.extend(batch.entries);
                    assert!(self.log.synced(&batch.mark));
                }
            }
            Step::Compact(percent) => {
                let base = self.log.base().index;
                let limit = self.applied.min(self.log.durable());
                let first = base + (limit.saturating_sub(base)) * percent / 100 + 1;
                if first > base + 1 {
                    self.log.compact(first);
                }
            }
            Step::Trim => self.log.trim_cache(self.applied),
        }
    }

    fn compare(&self) {
        assert_eq!(self.log.check(), Ok(()));
        let at = |index: Index| index.checked_sub(1).and_then(|i| self.all.get(i as usize));
        let term = |index| if index == 0 { Some(0) } else { at(index).map(|entry| entry.term) };
        let (base, last) = (self.log.base().index, self.all.len() as Index);
        assert_eq!(self.log.last(), Position { index: last, term: term(last).unwrap() });
        for index in 0..last + 2 {
            let expected = if index < base { None } else { term(index) };
            assert_eq!(self.log.term_at(index), expected, "term at {index}");
        }
        for index in self.log.cache_first()..=last {
            for limit in [0, 40, 100, 1000] {
                let (entries, bytes) = self.log.entries(index, limit);
                assert_eq!(entries, self.all[index as usize - 1..][..entries.len()]);
                let sizes = entries.iter().map(super::entry_bytes);
                assert_eq!(bytes, sizes.clone().sum::<usize>());
                assert!(entries.len() == 1 || bytes <= limit);
                let next = self.all.get(index as usize - 1 + entries.len());
                assert!(next.is_none_or(|next| bytes + super::entry_bytes(next) > limit));
            }
            let rest = self.all[index as usize - 1..].iter().map(super::entry_bytes);
            assert_eq!(self.log.bytes_from(index), rest.sum::<usize>());
            for limit in 0..=self.term {
                let found = self.log.last_not_after(index, limit);
                let fits = |i: &Index| term(*i).is_some_and(|term| term <= limit);
                let expected = (base..=index).rev().find(fits);
                assert_eq!(found, expected.unwrap_or(base.saturating_sub(1)));
            }
        }
        let same = self.all.iter().zip(&self.disk).take_while(|(a, b)| a == b).count();
        assert!(self.log.durable() <= same as Index, "not everything is on the disk");
        if self.writing.is_empty() && !self.log.has_unpersisted() {
            assert_eq!(self.log.durable(), last);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn equals_a_vector(steps in prop::collection::vec(step(), 0..60)) {
        let mut twin = Twin::new();
        for step in steps {
            twin.take(step);
            twin.compare();
        }
    }
}
