//! Bits that rot: what is durable can no longer be read. The disk does not say
//! so; it is found out by whoever reads next.

use std::collections::BTreeSet;
use std::path::PathBuf;

use raft::{Body, Entry, Index, NodeId, Position, Term};
use server::command::Payload;
use server::recovery::{
    Damage, Found, FoundCheckpoint, FoundLog, LogRepair, LogScan, Recovery, Stretch,
};

use crate::disk::{CHECKPOINT, Disk, decode_keystore};
use crate::rng::Rng;

/// What is damaged. What is written anew is not.
#[derive(Default, Debug)]
pub(crate) struct Rot {
    /// Records of entries.
    entries: BTreeSet<Index>,
    /// The newest record of term and vote.
    hard_state: bool,
    /// The end of the stream: nothing valid stands behind the damage.
    end: bool,
    /// The whole log is gone.
    log: bool,
    checkpoint: bool,
}

impl Rot {
    fn any(&self) -> bool {
        !self.entries.is_empty() || self.hard_state || self.end || self.log || self.checkpoint
    }

    /// Records are written: the first, if so, a hard state; entries from
    /// `first` on.
    pub(crate) fn written(&mut self, hard_state: bool, first: Option<Index>) {
        self.hard_state &= !hard_state;
        self.end &= !hard_state && first.is_none();
        if let Some(first) = first {
            self.entries.split_off(&first);
        }
    }

    /// Entries before `first` are dropped.
    pub(crate) fn dropped_before(&mut self, first: Index) {
        self.entries = self.entries.split_off(&first);
        self.end &= !self.entries.is_empty();
    }

    pub(crate) fn new_checkpoint(&mut self) {
        self.checkpoint = false;
    }
}

impl Disk {
    /// Damages something, if there is anything.
    pub(crate) fn damage(&mut self, rng: &mut Rng) -> Option<&'static str> {
        match rng.below(20) {
            0 => {
                self.rot.log = true;
                return Some("its log is gone");
            }
            1..4 if self.hard_state.term > 0 => {
                self.rot.hard_state = true;
                return Some("its vote is damaged");
            }
            4..9 if self.damage_checkpoint(rng) => return Some("its checkpoint is damaged"),
            _ if self.entries.is_empty() => return None,
            _ => {}
        }
        // Fresh entries are the interesting ones.
        let count = self.entries.len() as u64;
        let reach = *rng.pick(&[1, 3, 20, count]);
        let index = self.last().index - rng.below(reach.min(count));
        let length = *rng.pick(&[1, 1, 1, 2, 10]);
        self.rot.entries.extend(index..(index + length).min(self.last().index + 1));
        let to_the_end = self.rot.entries.contains(&self.last().index);
        self.rot.end |= to_the_end && rng.chance(300);
        Some(if self.rot.end { "the end of its log is damaged" } else { "an entry is damaged" })
    }

    /// Damages the checkpoint, if there is one that is whole.
    pub(crate) fn damage_checkpoint(&mut self, rng: &mut Rng) -> bool {
        if self.checkpoint.is_empty() || self.rot.checkpoint {
            return false;
        }
        let at = rng.below(self.checkpoint.len() as u64) as usize;
        self.checkpoint[at] ^= 1 << rng.below(8);
        self.rot.checkpoint = true;
        true
    }

    /// Whether anything on it cannot be read.
    pub(crate) fn is_damaged(&self) -> bool {
        self.rot.any()
    }

    pub(crate) fn is_readable(&self, index: Index) -> bool {
        !self.rot.entries.contains(&index)
    }

    /// The checkpoint's bytes do not check.
    pub(crate) fn has_bad_checkpoint(&self) -> bool {
        self.rot.checkpoint
    }

    /// The first index behind damaged entries, of those up to `index`.
    pub(crate) fn behind_damage(&self, index: Index) -> Index {
        self.rot.entries.range(..=index).next_back().map_or(0, |bad| bad + 1)
    }

    /// What a start finds, as the server's own recovery is told it.
    pub(crate) fn found(&self, id: NodeId) -> Found<Payload> {
        let bad_checkpoint = !self.checkpoint.is_empty() && {
            let whole = decode_keystore(&self.checkpoint).is_some();
            assert_eq!(whole, !self.rot.checkpoint, "a checkpoint tells that it is damaged");
            !whole
        };
        let checkpoint = if bad_checkpoint {
            FoundCheckpoint::Damaged(damage(CHECKPOINT))
        } else {
            FoundCheckpoint::Whole(self.meta.clone())
        };
        let after = if bad_checkpoint { 0 } else { self.meta.index };
        let log = if self.rot.log {
            FoundLog::Missing(PathBuf::from(LOG))
        } else {
            FoundLog::Read(self.scan(after))
        };
        Found { id, checkpoint, log }
    }

    fn scan(&self, after: Index) -> LogScan<Payload> {
        let mut stretches = Vec::new();
        let mut stretch = Stretch { anew: true, ..stretch_from(self.base + 1, None) };
        let mut before: Option<Term> = None;
        let mut open = true;
        for entry in &self.entries {
            if self.rot.entries.contains(&entry.index) {
                if open {
                    stretches.push(std::mem::replace(&mut stretch, stretch_from(0, None)));
                }
                open = false;
            } else {
                if !open {
                    // A leader's first entry says the term before, and so
                    // every entry does.
                    let first = matches!(entry.body, Body::Noop | Body::Membership(_));
                    let term = before.filter(|term| first || *term == entry.term);
                    stretch = stretch_from(entry.index, term);
                    open = true;
                }
                add(&mut stretch, entry, after);
            }
            before = Some(entry.term);
        }
        if open {
            // Which mark stands where does not matter: it is the log's last.
            stretch.commit = self.commit.min(stretch.last);
            stretches.push(stretch);
        }
        let damaged = !self.rot.entries.is_empty() || self.rot.hard_state || self.rot.end;
        LogScan {
            hard_state: self.hard_state,
            hard_state_certain: !self.rot.hard_state && !self.rot.end,
            stretches,
            end: self.last(),
            floor: self.floor,
            damage: if damaged { vec![damage(LOG)] } else { Vec::new() },
        }
    }

    /// Does to the log what recovery has decided.
    pub(crate) fn repair(&mut self, recovery: &Recovery<Payload>) {
        match recovery.repair {
            LogRepair::Keep => {}
            LogRepair::Cut { first, last } => {
                self.entries.retain(|entry| entry.index >= first && entry.index <= last);
                self.base = first - 1;
            }
            LogRepair::Restart(index) => {
                self.entries.clear();
                self.base = index;
            }
        }
        if recovery.checkpoint_lost {
            self.meta = recovery.restored.snapshot.clone();
            self.checkpoint.clear();
        }
        self.commit = recovery.restored.commit;
        self.floor = recovery.restored.floor;
        self.rot = Rot::default();
    }

    /// Where the log ends.
    pub(crate) fn last(&self) -> Position {
        let index = self.base + self.entries.len() as u64;
        let before = match self.base {
            base if base == self.meta.index => self.meta.term,
            base if base == self.dropped.index => self.dropped.term,
            _ => 0,
        };
        Position { index, term: self.entries.last().map_or(before, |entry| entry.term) }
    }
}

const LOG: &str = "log-file";

fn damage(file: &str) -> Damage {
    Damage { file: file.into(), offset: 0, bytes: 0, what: "a bit has rotten".to_owned() }
}

fn stretch_from(first: Index, prev_term: Option<Term>) -> Stretch<Payload> {
    Stretch {
        anew: false,
        first,
        prev_term,
        runs: Vec::new(),
        last: first.saturating_sub(1),
        memberships: Vec::new(),
        entries: Vec::new(),
        commit: 0,
    }
}

fn add(stretch: &mut Stretch<Payload>, entry: &Entry<Payload>, after: Index) {
    if stretch.runs.last().is_none_or(|(_, term)| *term != entry.term) {
        stretch.runs.push((entry.index, entry.term));
    }
    stretch.last = entry.index;
    if entry.index > after {
        if let Body::Membership(membership) = &entry.body {
            stretch.memberships.push((entry.index, membership.clone()));
        }
        stretch.entries.push(entry.clone());
    }
}
