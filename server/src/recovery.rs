//! What a server starts from, given what its disk still says. Pure: it is told
//! what was read, and decides; others read, repair and report.
//!
//! # What has to be kept
//!
//! A server that lost a part of what it had made durable has acknowledged
//! entries and given votes on the strength of it. It may come back under its
//! name if it knows two things for certain:
//!
//! - **term and vote** (the hard state): without them it could vote twice in a
//!   term. Lost or in doubt, the server has *amnesia*: it must not come back
//!   as who it was.
//! - **where its log ended**, or a position behind that. It becomes the
//!   *floor* (`raft::Restored::floor`): as long as the log ends below it, the
//!   server votes only for those whose logs reach it, just as it would have
//!   done undamaged, and does not campaign. It follows, is sent what it lost,
//!   and acknowledges that anew. `raft`'s page has the argument.
//!
//! # Outcomes
//!
//! | found | the server |
//! | --- | --- |
//! | nothing damaged | starts |
//! | damage in entries that the checkpoint contains | starts; the log begins behind the damage |
//! | damage that hid nothing but commit marks and the like | starts; the log is whole |
//! | damage behind the checkpoint | starts with what is before it, below a floor |
//! | checkpoint lost, log readable from its very first entry | starts, applies everything again |
//! | checkpoint lost | starts empty, below a floor: it is sent a snapshot |
//! | a checkpoint older than the log's beginning | starts from it, the log begins anew, below a floor |
//! | term or vote in doubt, or no log at all | [`Decision::Amnesia`] |
//! | below a floor, and nobody else votes | [`Decision::Refuse`]: nobody has what it lost |
//!
//! # How pieces of a log are put together
//!
//! Damage cuts the stream into [`Stretch`]es. A later one continues the log
//! before it only if that is certain, since what lay between may have replaced
//! entries: an index and a term name one entry and all before it (log
//! matching), and a leader's entries of one term are consecutive. So a stretch
//! connects where it says the term of the entry before its first one, or where
//! the two meet within one term. Entries that do not connect are worth nothing
//! but the position at which the log ended.

use std::fmt;
use std::path::PathBuf;

use raft::{
    Entry, HardState, Index, Membership, NodeId, Position, Restored, SnapshotMeta, Suffrage, Term,
};

#[cfg(test)]
mod tests;

/// A damaged place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// In which file.
    pub file: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// How long it is; 0: up to where nobody can tell.
    pub bytes: u64,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}: {}", self.file.display(), self.offset, self.what)?;
        if self.bytes > 0 { write!(f, " ({} bytes)", self.bytes) } else { Ok(()) }
    }
}

/// A part of the stream without damage in it, and what it leaves of the log
/// by its end: entries that it replaces or truncates itself are not in it.
/// Bytes that were damaged once and have been filled end a stretch, too.
///
/// One that says nothing about entries (no entry, no start, no truncation) is
/// not a stretch of the log and is left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stretch<P> {
    /// The log begins in it: at the first record of the first segment, or
    /// anew behind a snapshot. Nothing that stands before belongs to it.
    pub anew: bool,
    /// The index of its first entry; of the next one, if it has none. When it
    /// truncates or replaces entries that stand before it: the first index
    /// that it replaces.
    pub first: Index,
    /// The term of the entry before `first`, if a record says it. The first
    /// entries of leaders (no-ops, memberships) ought to, then every case is
    /// certain: all others follow one of their own term.
    pub prev_term: Option<Term>,
    /// The terms of its entries: `(first index of the run, term)`.
    pub runs: Vec<(Index, Term)>,
    /// Its last index; `first - 1` if it has no entries.
    pub last: Index,
    /// The memberships in it that are behind the checkpoint.
    pub memberships: Vec<(Index, Membership)>,
    /// Its entries behind the checkpoint, consecutive up to `last`.
    pub entries: Vec<Entry<P>>,
    /// The highest index that a record in it calls committed, or 0.
    pub commit: Index,
}

/// What reading the log-file gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogScan<P> {
    /// The newest term and vote in the stream.
    pub hard_state: HardState,
    /// No damage, nor the stream's end, can hide a newer one.
    pub hard_state_certain: bool,
    /// In the order of the stream; those of an undamaged log are one.
    pub stretches: Vec<Stretch<P>>,
    /// Where the log ended, by the newest record that tells; a position behind
    /// that, if damage may hide it. That is safe, but may keep the server quiet
    /// until there is a leader of a later term, whom a cluster may be unable to
    /// elect without it: records without entries ought to tell, too.
    pub end: Position,
    /// The floor that the stream records, unless the log has reached it since.
    pub floor: Option<Position>,
    /// What is damaged, torn tails not included.
    pub damage: Vec<Damage>,
}

/// The log-file, as it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FoundLog<P> {
    /// There is none, though the server is a member.
    Missing(PathBuf),
    /// It was read.
    Read(LogScan<P>),
}

/// The keystore-file, as it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FoundCheckpoint {
    /// Every checksum is right.
    Whole(SnapshotMeta),
    /// There is none, though the server is a member.
    Missing(PathBuf),
    /// It cannot be used. Entries of the log are to be scanned as if the
    /// checkpoint were at index 0.
    Damaged(Damage),
}

/// What the disk of a member says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found<P> {
    /// Who the server is.
    pub id: NodeId,
    /// Its checkpoint.
    pub checkpoint: FoundCheckpoint,
    /// Its log.
    pub log: FoundLog<P>,
}

/// What is to be done to the log-file before anything else is written to it.
/// Hard state and floor stay known throughout: they are recorded anew first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogRepair {
    /// Nothing.
    Keep,
    /// Of its entries `first ..= last` stay, the others are gone; damaged
    /// bytes are filled.
    Cut {
        /// The first that stays.
        first: Index,
        /// The last that stays; `first - 1`: none.
        last: Index,
    },
    /// No entry stays; it goes on behind this index.
    Restart(Index),
}

/// How a server starts.
#[derive(Clone, Debug)]
pub struct Recovery<P> {
    /// What the Raft node is given.
    pub restored: Restored<P>,
    /// The checkpoint is lost: the state machine starts empty.
    pub checkpoint_lost: bool,
    /// What the log-file needs; together with `restored.floor`.
    pub repair: LogRepair,
    /// What was wrong and what became of it, for the log: one line each.
    pub notes: Vec<String>,
}

/// What to do with what was found.
#[derive(Clone, Debug)]
pub enum Decision<P> {
    /// The server starts.
    Start(Box<Recovery<P>>),
    /// It must not come back under its id: its data are set aside, and it
    /// joins as a new server. Says why, with file and offset.
    Amnesia(String),
    /// It cannot start: nobody else has what it lost. Says why, with file and
    /// offset.
    Refuse(String),
}

/// Decides what a server starts from.
pub fn decide<P>(found: Found<P>) -> Decision<P> {
    let scan = match found.log {
        FoundLog::Read(scan) => scan,
        FoundLog::Missing(file) => {
            let file = file.display();
            return Decision::Amnesia(format!(
                "{file} is missing: what this server has voted and acknowledged is not known"
            ));
        }
    };
    if !scan.hard_state_certain {
        let damage = list(&scan.damage);
        return Decision::Amnesia(format!(
            "{damage}: this may hide what this server has voted, so that it must not vote again"
        ));
    }
    let mut notes: Vec<String> = scan.damage.iter().map(|damage| damage.to_string()).collect();
    let checkpoint = match found.checkpoint {
        FoundCheckpoint::Whole(meta) => Some(meta),
        FoundCheckpoint::Missing(file) => {
            notes.push(format!("{} is missing", file.display()));
            None
        }
        FoundCheckpoint::Damaged(damage) => {
            notes.push(damage.to_string());
            None
        }
    };
    let latest = latest_membership(&scan.stretches, checkpoint.as_ref());
    let damaged = !scan.damage.is_empty();
    let (end, floor) = (scan.end, scan.floor);
    let checkpoint_lost = checkpoint.is_none();
    let snapshot = checkpoint.unwrap_or_default();
    let joined = Log::join(scan.stretches, &snapshot).filter(|log| log.connects_to(&snapshot));
    let connected = joined.is_some();
    let mut log = joined.unwrap_or_else(|| Log::behind(&snapshot));
    if log.first == snapshot.index + 1 {
        log.prev_term = Some(snapshot.term);
    }
    let last = log.last();
    let floor = floor.unwrap_or_default().furthest(end);
    let floor = (!last.covers(floor)).then_some(floor);
    let repair = if !connected {
        LogRepair::Restart(snapshot.index)
    } else if damaged || last.index != end.index || log.left_out {
        LogRepair::Cut { first: log.first, last: last.index }
    } else {
        LogRepair::Keep
    };
    notes.extend(describe(repair, floor, last, checkpoint_lost));
    if checkpoint_lost && log.memberships.is_empty() {
        notes.push("who is in the cluster is not known here until a leader tells".to_owned());
    }
    if let (Some(floor), Some(membership)) = (floor, latest)
        && !membership.voters().any(|voter| voter != found.id)
    {
        return Decision::Refuse(format!(
            "{}: the log went up to entry {} and is readable up to {}, and no other server votes \
             that could supply the rest",
            notes.join("; "),
            floor.index,
            last.index
        ));
    }
    let restored = Restored {
        hard_state: scan.hard_state,
        commit: log.commit.min(last.index),
        snapshot,
        runs: log.runs,
        memberships: log.memberships,
        entries: log.entries,
        floor,
    };
    Decision::Start(Box::new(Recovery { restored, checkpoint_lost, repair, notes }))
}

fn list(damage: &[Damage]) -> String {
    let places: Vec<String> = damage.iter().map(ToString::to_string).collect();
    if places.is_empty() { "the end of the log-file is lost".to_owned() } else { places.join("; ") }
}

fn describe(
    repair: LogRepair,
    floor: Option<Position>,
    last: Position,
    checkpoint_lost: bool,
) -> Option<String> {
    let kept = match repair {
        LogRepair::Keep if floor.is_none() && !checkpoint_lost => return None,
        LogRepair::Keep => "the log stays as it is".to_owned(),
        LogRepair::Cut { first, last } if last < first => format!("no entry before {first} stays"),
        LogRepair::Cut { first, last } => format!("entries {first} to {last} stay"),
        LogRepair::Restart(index) => format!("the log begins anew behind entry {index}"),
    };
    let Some(floor) = floor else {
        return Some(format!("{kept}; nothing that is needed was lost"));
    };
    Some(format!(
        "{kept}; entries {} to {} are to be fetched from the others: until then this server does \
         not campaign, and votes only for those who have entry {} of term {}",
        last.index + 1,
        floor.index,
        floor.index,
        floor.term
    ))
}

/// The newest membership that anything readable names, connected or not.
fn latest_membership<P>(
    stretches: &[Stretch<P>],
    checkpoint: Option<&SnapshotMeta>,
) -> Option<Membership> {
    let in_log = stretches.iter().rev().find_map(|stretch| stretch.memberships.last());
    let newest = in_log.map(|(_, membership)| membership);
    let newest = newest.or(checkpoint.map(|meta| &meta.membership));
    newest.filter(|membership| has_voters(membership)).cloned()
}

fn has_voters(membership: &Membership) -> bool {
    membership.members.values().any(|member| member.suffrage == Suffrage::Voter)
}

/// The log as far as it could be put together.
struct Log<P> {
    /// It is known to begin at `first`; otherwise damage is before it.
    anew: bool,
    first: Index,
    prev_term: Option<Term>,
    runs: Vec<(Index, Term)>,
    last: Index,
    memberships: Vec<(Index, Membership)>,
    entries: Vec<Entry<P>>,
    commit: Index,
    /// Some stretch did not connect.
    left_out: bool,
}

impl<P> Log<P> {
    fn of(stretch: Stretch<P>) -> Self {
        let Stretch { anew, first, prev_term, runs, last, memberships, entries, commit } = stretch;
        let prev_term = if first <= 1 { Some(0) } else { prev_term };
        Log { anew, first, prev_term, runs, last, memberships, entries, commit, left_out: false }
    }

    /// An empty one behind a checkpoint.
    fn behind(snapshot: &SnapshotMeta) -> Self {
        Log {
            anew: true,
            first: snapshot.index + 1,
            prev_term: Some(snapshot.term),
            runs: Vec::new(),
            last: snapshot.index,
            memberships: Vec::new(),
            entries: Vec::new(),
            commit: snapshot.index,
            left_out: false,
        }
    }

    /// Joins what connects. A stretch that reaches the checkpoint needs
    /// nothing of what stands before it.
    fn join(stretches: Vec<Stretch<P>>, snapshot: &SnapshotMeta) -> Option<Self> {
        let mut log: Option<Log<P>> = None;
        let mut left_out = false;
        for stretch in stretches {
            match &mut log {
                Some(log) if !stretch.anew && log.is_continued_by(&stretch) => log.append(stretch),
                Some(_) if !stretch.anew => {
                    left_out = true;
                    let next = Log::of(stretch);
                    if next.connects_to(snapshot) {
                        log = Some(next);
                    }
                }
                _ => {
                    left_out = false;
                    log = Some(Log::of(stretch));
                }
            }
        }
        log.map(|log| Log { left_out, ..log })
    }

    fn term_at(&self, index: Index) -> Option<Term> {
        if index + 1 == self.first {
            return self.prev_term;
        }
        if index < self.first || index > self.last {
            return None;
        }
        let run = self.runs.partition_point(|(first, _)| *first <= index);
        run.checked_sub(1).map(|run| self.runs[run].1)
    }

    fn last(&self) -> Position {
        Position { index: self.last, term: self.term_at(self.last).unwrap_or(0) }
    }

    fn is_continued_by(&self, next: &Stretch<P>) -> bool {
        let Some(before) = next.first.checked_sub(1) else { return false };
        let here = self.term_at(before);
        match (next.prev_term, next.runs.first()) {
            (Some(term), _) => here == Some(term),
            (None, Some(&(_, term))) => {
                here == Some(term) || self.term_at(next.first) == Some(term)
            }
            (None, None) => false,
        }
    }

    fn append(&mut self, next: Stretch<P>) {
        let from = next.first;
        self.runs.truncate(self.runs.partition_point(|(first, _)| *first < from));
        for (first, term) in next.runs {
            if self.runs.last().is_none_or(|(_, before)| *before != term) {
                self.runs.push((first, term));
            }
        }
        self.memberships.retain(|(index, _)| *index < from);
        self.memberships.extend(next.memberships);
        self.entries.truncate(self.entries.partition_point(|entry| entry.index < from));
        self.entries.extend(next.entries);
        self.last = next.last;
        self.commit = self.commit.max(next.commit);
    }

    /// Whether it has the entry that the checkpoint ends with, or begins right
    /// behind that.
    fn connects_to(&self, snapshot: &SnapshotMeta) -> bool {
        if self.first > snapshot.index + 1 || self.last < snapshot.index {
            return false;
        }
        match self.term_at(snapshot.index) {
            Some(term) => term == snapshot.term,
            // It begins right behind the checkpoint, and does not say what
            // came before: behind a snapshot that was installed, that; behind
            // damage, whatever the first entry's term proves.
            None => self.anew || self.runs.first().is_some_and(|(_, term)| *term == snapshot.term),
        }
    }
}
