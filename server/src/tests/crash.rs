//! Every point of a crash, every state that it may leave.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use super::disk::{Choice, Disk, Image};
use super::start::{Outcome, Started, same, start};
use super::workload::{self, History, LogState, OPTIONS, Promise};
use crate::files::faults::{FileId, Op};

/// Outcomes that are looked at of each workload, beside the plain ones; when
/// there are more, a sample.
const BOUND: usize = 6000;

/// What a run over all states came to.
#[derive(Debug, Default)]
struct Tally {
    /// Operations in the journal.
    points: usize,
    /// Outcomes, with those that leave the same.
    outcomes: usize,
    /// Different states.
    visited: usize,
}

/// A folder in memory, where the system has such a thing.
pub(super) fn scratch() -> TempDir {
    match Path::new("/dev/shm").is_dir() {
        true => tempfile::tempdir_in("/dev/shm").unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

/// Opens every state that a crash may leave; the first bad one is the error.
fn check_all(history: &History, journal: &[Op], seed: u64) -> Result<Tally, String> {
    let outcomes = count(journal);
    let mut tally = Tally { points: journal.len(), outcomes, ..Tally::default() };
    let mut random = SmallRng::seed_from_u64(seed);
    let mut seen = HashSet::new();
    let mut disk = Disk::default();
    let mut promise = &history.promises[0];
    let scratch = scratch();
    for (point, op) in journal.iter().enumerate() {
        disk.apply(op);
        if let Op::Note(number) = op {
            promise = &history.promises[*number as usize];
        }
        for choice in disk.choices() {
            if !choice.is_plain() && random.random_range(0..outcomes) >= BOUND {
                continue;
            }
            let image = disk.image(choice);
            if !seen.insert((image.fingerprint(), promise.bounds())) {
                continue;
            }
            let dir = scratch.path().join(tally.visited.to_string());
            check(history, promise, &image, &dir)
                .map_err(|what| describe(point, op, promise, choice, &what))?;
            std::fs::remove_dir_all(&dir).unwrap();
            tally.visited += 1;
        }
    }
    Ok(tally)
}

fn count(journal: &[Op]) -> usize {
    let mut disk = Disk::default();
    let mut count = 0;
    for op in journal {
        disk.apply(op);
        count += disk.choices().len();
    }
    count
}

fn describe(point: usize, op: &Op, promise: &Promise, choice: Choice, what: &str) -> String {
    let mut op = format!("{op:?}");
    op.truncate(100);
    format!("crash behind operation {point} ({op}) of {}: {choice:?}: {what}", promise.doing)
}

/// Opens one state twice, and writes to it in between.
fn check(history: &History, promise: &Promise, image: &Image, dir: &Path) -> Result<(), String> {
    std::fs::create_dir(dir).unwrap();
    image.write(dir);
    let mut first = match start(dir, OPTIONS) {
        Outcome::Member(started) => *started,
        Outcome::Fresh => {
            let mut ids = promise.identities.iter();
            let may = ids.any(|id| id.as_ref().is_none_or(|id| id.cluster.is_none()));
            return if may { Ok(()) } else { Err("the identity is lost".to_owned()) };
        }
        Outcome::Amnesia(why) | Outcome::Refused(why) => return Err(why),
    };
    let state = check_started(history, promise, &first)?;
    let last_index = first.log.last_index();
    if last_index != first.last().index {
        return Err(format!("the log ends at {last_index}, the start says {:?}", first.last()));
    }
    // What was recovered stays, and the next entry goes behind it.
    let last = first.entries.last().map_or(first.checkpoint.0, |entry| entry.index);
    let term = first.entries.last().map_or(first.checkpoint.1, |entry| entry.term);
    let term = term.max(first.hard_state.term);
    let next = raft::Entry { index: last + 1, term, body: raft::Body::Noop };
    first.log.append(None, std::slice::from_ref(&next), 0).map_err(|error| error.to_string())?;
    first.log.sync().map_err(|error| error.to_string())?;
    let (hard_state, checkpoint) = (first.hard_state, first.checkpoint);
    let expected: Vec<_> = first.entries.iter().cloned().chain([next]).collect();
    drop(first);
    let second = match start(dir, OPTIONS) {
        Outcome::Member(started) => started,
        other => {
            return Err(format!(
                "the second start comes to {other:?}; the first: checkpoint {checkpoint:?}, \
                 {hard_state:?}, {:?}",
                expected.iter().map(|entry| (entry.index, entry.term)).collect::<Vec<_>>()
            ));
        }
    };
    if second.entries != expected
        || second.hard_state != hard_state
        || second.checkpoint != checkpoint
    {
        return Err(format!("the second start finds another log than the first ({state:?})"));
    }
    Ok(())
}

/// Compares with everything that the log may be.
fn check_started<'a>(
    history: &'a History,
    promise: &Promise,
    started: &Started,
) -> Result<&'a LogState, String> {
    if !promise.identities.contains(&Some(started.identity.clone())) {
        return Err(format!("an identity that never was: {:?}", started.identity));
    }
    if !promise.checkpoints.contains(&started.checkpoint) {
        return Err(format!(
            "the checkpoint {:?} instead of {:?}",
            started.checkpoint, promise.checkpoints
        ));
    }
    let index = started.checkpoint.0;
    let keystore = history.keystores.get(&index).ok_or("a checkpoint that never was")?;
    if !same(keystore, &started.keystore) {
        return Err("other items than the checkpoint had".to_owned());
    }
    if started.floor.is_some() {
        return Err(format!("nothing was lost, but there is a floor: {:?}", started.floor));
    }
    let possible = &history.states[promise.durable..=promise.begun];
    possible.iter().find(|state| is(state, started)).ok_or_else(|| {
        format!(
            "a log that never was, or an old one: {:?}, entries {:?}, committed {}",
            started.hard_state,
            started.entries.iter().map(|entry| (entry.index, entry.term)).collect::<Vec<_>>(),
            started.commit
        )
    })
}

/// Whether a start that finds `state` in the log must come to `started`.
fn is(state: &LogState, started: &Started) -> bool {
    let (after, term) = started.checkpoint;
    if state.hard_state != started.hard_state {
        return false;
    }
    // A log that does not reach the checkpoint, or contradicts it, goes on
    // empty behind it.
    let connected = state.last() >= after && state.term(after).is_none_or(|known| known == term);
    let entries = state.entries.range(after + 1..).map(|(_, entry)| entry);
    match connected {
        true => entries.eq(&started.entries),
        false => started.entries.is_empty(),
    }
}

/// Workloads whose states are looked at.
const SEEDS: std::ops::Range<u64> = 0..3;

const TURNS: usize = 60;

#[test]
fn whatever_a_crash_leaves_is_opened_and_nothing_promised_is_missing() {
    for seed in SEEDS {
        let dir = scratch();
        let history = workload::run(dir.path(), seed, TURNS);
        match check_all(&history, &history.journal, seed) {
            Ok(tally) => println!(
                "workload {seed}: {} operations, {} outcomes, {} states visited",
                tally.points, tally.outcomes, tally.visited
            ),
            Err(what) => panic!("workload {seed}: {what}"),
        }
    }
}

/// A mistake that a server could make: syncs that its journal then lacks.
struct Mistake {
    what: &'static str,
    lacks: fn(&Names, &Op) -> bool,
}

/// Under which names files came into being.
type Names = BTreeMap<FileId, PathBuf>;

fn syncs(names: &Names, op: &Op, suffix: &str) -> bool {
    matches!(op, Op::Sync(id) if names.get(id).is_some_and(|n| n.to_string_lossy().ends_with(suffix)))
}

const MISTAKES: &[Mistake] = &[
    Mistake {
        what: "the folder of the log is not synced after a segment was renamed",
        lacks: |_, op| *op == Op::SyncDir("log-file".into()),
    },
    Mistake {
        what: "the server's folder is not synced",
        lacks: |_, op| *op == Op::SyncDir("".into()),
    },
    Mistake {
        what: "a checkpoint is renamed before it is synced",
        lacks: |names, op| syncs(names, op, "keystore-file.tmp"),
    },
    Mistake {
        what: "the identity is renamed before it is synced",
        lacks: |names, op| syncs(names, op, "identity.tmp"),
    },
    Mistake {
        what: "segments are not synced: not their zeros and head, not what is appended",
        lacks: |names, op| syncs(names, op, ".segment.tmp"),
    },
];

#[test]
fn a_sync_that_is_left_out_is_noticed() {
    let dir = scratch();
    let history = workload::run(dir.path(), 0, TURNS);
    let names: Names = history
        .journal
        .iter()
        .filter_map(|op| match op {
            Op::Create(name, id) => Some((*id, name.clone())),
            _ => None,
        })
        .collect();
    for Mistake { what, lacks } in MISTAKES {
        let journal: Vec<_> =
            history.journal.iter().filter(|op| !lacks(&names, op)).cloned().collect();
        assert!(journal.len() < history.journal.len(), "nothing to leave out: {what}");
        let noticed = check_all(&history, &journal, 1).expect_err(what);
        println!("{what}: {noticed}");
    }
}

#[test]
fn a_promise_before_the_sync_is_noticed() {
    let dir = scratch();
    let history = workload::run(dir.path(), 0, TURNS);
    // The last sync of an install is none that a promise rests on: a start that
    // finds the checkpoint ahead of the log begins the log anew. Nor is that of
    // the second copy of the identity.
    for early in ["synced", "checkpoint written"] {
        let mut journal = history.journal.clone();
        for at in 1..journal.len() {
            let is_early = matches!(&journal[at], Op::Note(number)
                if history.promises[*number as usize].doing == early);
            if is_early && matches!(journal[at - 1], Op::Sync(_) | Op::SyncDir(_)) {
                journal.swap(at - 1, at);
            }
        }
        assert_ne!(journal, history.journal, "{early} comes behind no sync");
        let noticed = check_all(&history, &journal, 1).expect_err(early);
        println!("{early}: {noticed}");
    }
}
