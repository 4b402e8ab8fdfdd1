//! The log-file against a plain model, and at its edges.

mod compact;
mod crash;
mod damage;
mod random;
mod settle;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use raft::{Body, Entry, HardState, Membership, NodeId, Position, Term};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use super::record::{COMMIT_BYTES, PROMISE_BYTES, SEAL_BYTES, START_BYTES, entry_bytes};
use super::segment::HEADER_BYTES;
use super::*;
use crate::command::Payload;

const SMALL: LogOptions = LogOptions { segment_bytes: 2048, keep: false };

fn command(index: Index, term: Term, bytes: &[u8]) -> Entry<Payload> {
    Entry { index, term, body: Body::Command(Payload(Bytes::copy_from_slice(bytes))) }
}

fn membership(id: u64) -> Membership {
    Membership::of_voters([(NodeId(id), b"somewhere".as_slice().into())])
}

fn open(dir: &TempDir, after: Index) -> (LogFile, Recovered) {
    LogFile::open(dir.path(), SMALL, after).unwrap()
}

/// What a log-file should hold.
#[derive(Clone, Default, Debug)]
struct Model {
    hard_state: HardState,
    entries: Vec<Entry<Payload>>,
    commit: Index,
}

impl Model {
    fn append(&mut self, hard_state: Option<HardState>, entries: &[Entry<Payload>], commit: u64) {
        self.hard_state = hard_state.unwrap_or(self.hard_state);
        for entry in entries {
            self.entries.truncate(entry.index as usize - 1);
            self.entries.push(entry.clone());
        }
        self.commit = self.commit.max(commit);
    }

    fn check(&self, recovered: &Recovered, after: Index) {
        assert_eq!(recovered.hard_state, self.hard_state);
        assert_eq!(recovered.commit, self.commit);
        assert_eq!(recovered.entries, self.entries[after as usize..]);
        let mut runs: Vec<(Index, Term)> = Vec::new();
        let mut memberships = Vec::new();
        for entry in &self.entries {
            if runs.last().is_none_or(|(_, term)| *term != entry.term) {
                runs.push((entry.index, entry.term));
            }
            if let Body::Membership(membership) = &entry.body
                && entry.index > after
            {
                memberships.push((entry.index, membership.clone()));
            }
        }
        assert_eq!(recovered.runs, runs);
        assert_eq!(recovered.memberships, memberships);
    }

    fn check_reader(&self, reader: &LogReader, random: &mut SmallRng) {
        let last = self.entries.len() as u64;
        if last == 0 {
            return;
        }
        let from = random.random_range(1..=last);
        let to = random.random_range(from..=last);
        let max_bytes = random.random_range(0..3000);
        let read = reader.read(from, to, max_bytes).unwrap();
        assert!(!read.is_empty());
        let end = from as usize - 1 + read.len();
        assert_eq!(read, self.entries[from as usize - 1..end]);
        if end < to as usize {
            let bytes: usize = read.iter().map(entry_bytes).sum();
            assert!(bytes >= max_bytes, "it stopped early");
        }
    }
}

/// Appends a random batch, to the log and to the model.
fn random_batch(log: &mut LogFile, model: &mut Model, term: &mut Term, random: &mut SmallRng) {
    let mut next = model.entries.len() as u64 + 1;
    let mut hard_state = None;
    if random.random_ratio(1, 8) {
        *term += 1;
        let vote = random.random_bool(0.5).then_some(NodeId(3));
        hard_state = Some(HardState { term: *term, vote });
        next = random.random_range(model.commit + 1..=next);
    }
    let entries: Vec<_> = (0..random.random_range(0..6))
        .map(|i| match random.random_range(0..10) {
            0 => Entry { index: next + i, term: *term, body: Body::Noop },
            1 => {
                Entry { index: next + i, term: *term, body: Body::Membership(membership(next + i)) }
            }
            _ => {
                let mut bytes = vec![0; random.random_range(0..300)];
                random.fill(&mut bytes[..]);
                command(next + i, *term, &bytes)
            }
        })
        .collect();
    let last = entries.last().map_or(model.entries.len() as u64, |entry| entry.index);
    let commit = random.random_range(model.commit..=last.max(model.commit));
    log.append(hard_state, &entries, commit).unwrap();
    model.append(hard_state, &entries, commit);
}

#[test]
fn what_was_appended_is_read_back_after_any_restart() {
    for seed in 0..12 {
        let mut random = SmallRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let (mut model, mut term) = (Model::default(), 1);
        for _ in 0..6 {
            let after = random.random_range(0..=model.commit);
            let (mut log, recovered) = open(&dir, after);
            assert_eq!(recovered.torn, None);
            model.check(&recovered, after);
            let reader = log.reader();
            for _ in 0..random.random_range(0..20) {
                random_batch(&mut log, &mut model, &mut term, &mut random);
                if random.random_bool(0.7) {
                    log.sync().unwrap();
                }
                model.check_reader(&reader, &mut random);
            }
            let (reader, commit) = look(dir.path()).unwrap();
            assert_eq!(commit, model.commit);
            model.check_reader(&reader, &mut random);
        }
    }
}

#[test]
fn a_new_log_is_empty_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (log, recovered) = open(&dir, 0);
    assert!(recovered.fresh);
    assert_eq!(log.last_index(), 0);
    assert_eq!(log.reader().range(), (1, 0));
    drop(log);
    let (_, recovered) = open(&dir, 0);
    assert!(!recovered.fresh);
    Model::default().check(&recovered, 0);
}

#[test]
fn an_entry_larger_than_a_segment_fits() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0);
    let large: Vec<u8> = (0..1 << 20).map(|i| (i % 251) as u8).collect();
    let entries = [command(1, 1, &large), command(2, 1, b"small"), command(3, 1, &large)];
    for entry in &entries {
        log.append(None, std::slice::from_ref(entry), 0).unwrap();
        log.sync().unwrap();
    }
    assert_eq!(log.reader().read(1, 3, usize::MAX).unwrap(), entries);
    assert_eq!(log.reader().read(1, 3, 0).unwrap(), entries[..1]);
    drop(log);
    let (_, recovered) = open(&dir, 1);
    assert_eq!(recovered.entries, entries[1..]);
}

#[test]
fn a_commit_mark_needs_no_sync_and_no_entry() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0);
    log.note_commit(1).unwrap();
    log.append(None, &[command(1, 1, b"a"), command(2, 1, b"b")], 0).unwrap();
    log.sync().unwrap();
    log.note_commit(1).unwrap();
    assert_eq!(look(dir.path()).unwrap().1, 1);
    log.note_commit(9).unwrap();
    assert_eq!(look(dir.path()).unwrap().1, 2, "no mark is ahead of the log");
    drop(log);
    assert_eq!(open(&dir, 0).1.commit, 2);
}

#[test]
fn a_log_behind_its_checkpoint_goes_on_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0);
    log.append(None, &[command(1, 1, b"a"), command(2, 1, b"b")], 2).unwrap();
    log.sync().unwrap();
    drop(log);
    let (mut log, recovered) = open(&dir, 10);
    assert!(recovered.entries.is_empty() && recovered.runs.is_empty());
    assert_eq!((log.last_index(), log.reader().range()), (10, (11, 10)));
    let error = log.append(None, &[command(3, 2, b"c")], 10).unwrap_err();
    assert!(matches!(error, LogError::OutOfOrder { .. }), "{error}");
    drop(log);
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0);
    log.reset(Position { index: 10, term: 1 }).unwrap();
    log.append(None, &[command(11, 2, b"c")], 11).unwrap();
    log.sync().unwrap();
    drop(log);
    let (log, recovered) = open(&dir, 10);
    assert_eq!(recovered.entries, [command(11, 2, b"c")]);
    assert_eq!(recovered.runs, [(11, 2)]);
    let error = log.reader().read(10, 11, 99).unwrap_err().to_string();
    assert!(error.contains("holds 11..=11"), "{error}");
}

#[test]
fn entries_out_of_order_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0);
    for wrong in [
        vec![command(2, 1, b"gap")],
        vec![command(0, 1, b"zero")],
        vec![command(1, 1, b"a"), command(3, 1, b"gap")],
        vec![command(1, 1, b"a"), command(1, 1, b"twice")],
    ] {
        let error = log.append(None, &wrong, 0).unwrap_err();
        assert!(matches!(error, LogError::OutOfOrder { .. }), "{error}");
    }
    log.append(None, &[command(1, 1, b"fine")], 0).unwrap();
}

#[test]
fn readers_see_only_what_was_in_the_log_together() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0);
    log.append(None, &[command(1, 1, &1u64.to_le_bytes())], 0).unwrap();
    let reader = log.reader();
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let thread = std::thread::spawn(move || {
        let mut reads = 0;
        while !stop.load(Ordering::Relaxed) || reads == 0 {
            let entries = reader.read(1, u64::MAX, usize::MAX).unwrap();
            for (entry, index) in entries.iter().zip(1..) {
                assert_eq!(entry.index, index);
            }
            // Each rewrite has a term of its own, from its first entry on.
            assert!(entries.is_sorted_by_key(|entry| entry.term));
            reads += 1;
        }
    });
    let mut random = SmallRng::seed_from_u64(1);
    for term in 2..300 {
        let last = log.last_index();
        let from = random.random_range(last.saturating_sub(20).max(1)..=last + 1);
        let entries: Vec<_> =
            (from..from + 20).map(|index| command(index, term, &[7; 100])).collect();
        log.append(None, &entries, 0).unwrap();
    }
    done.store(true, Ordering::Relaxed);
    thread.join().unwrap();
}

/// Puts another file in the place of the one that is written.
fn replace_file(log: &mut LogFile, path: &str) {
    let file = crate::files::File::open_rw(Path::new(path)).unwrap();
    log.file = Arc::new(file);
}

#[test]
fn after_a_failed_write_nothing_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0);
    log.append(None, &[command(1, 1, b"a")], 0).unwrap();
    log.sync().unwrap();
    let file = Arc::clone(&log.file);
    replace_file(&mut log, "/dev/full");
    let error = log.append(None, &[command(2, 1, b"b")], 0).unwrap_err();
    assert!(matches!(error, LogError::Io { .. }), "{error}");
    log.file = file;
    assert!(matches!(log.append(None, &[], 0), Err(LogError::Poisoned)));
    assert!(matches!(log.append(None, &[command(2, 1, b"b")], 0), Err(LogError::Poisoned)));
    assert!(matches!(log.sync(), Err(LogError::Poisoned)));
    drop(log);
    assert_eq!(open(&dir, 0).1.entries, [command(1, 1, b"a")]);
}

#[test]
fn after_a_failed_sync_nothing_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0);
    // Takes every write and refuses every sync.
    replace_file(&mut log, "/dev/null");
    log.append(None, &[command(1, 1, b"a")], 0).unwrap();
    assert!(matches!(log.sync(), Err(LogError::Io { .. })));
    assert!(matches!(log.sync(), Err(LogError::Poisoned)));
    assert!(matches!(log.append(None, &[command(2, 1, b"b")], 0), Err(LogError::Poisoned)));
}

#[test]
fn without_room_for_a_segment_nothing_is_written_and_it_heals() {
    let dir = tempfile::tempdir().unwrap();
    let (home, away) = (dir.path().join("log"), dir.path().join("away"));
    let (mut log, _) = LogFile::open(&home, SMALL, 0).unwrap();
    let mut model = Model::default();
    let mut append = |log: &mut LogFile| {
        let entry = command(model.entries.len() as u64 + 1, 1, &[1; 200]);
        let result = log.append(None, std::slice::from_ref(&entry), 0);
        if result.is_ok() {
            model.append(None, &[entry], 0);
        }
        result
    };
    // The spare that is there is used up, then no other can be made.
    log.spare.wait().unwrap();
    fs::rename(&home, &away).unwrap();
    let error = loop {
        if let Err(error) = append(&mut log) {
            break error;
        }
        log.sync().unwrap();
    };
    assert!(matches!(error, LogError::NoRoom { .. }), "{error}");
    assert!(append(&mut log).is_err());
    fs::rename(&away, &home).unwrap();
    append(&mut log).unwrap();
    log.sync().unwrap();
    drop(log);
    model.check(&LogFile::open(&home, SMALL, 0).unwrap().1, 0);
}

#[test]
fn a_read_only_disk_takes_nothing_and_it_heals() {
    let dir = tempfile::tempdir().unwrap();
    let faults = crate::files::faults::Faults::watch(dir.path());
    let (mut log, _) = open(&dir, 0);
    let mut model = Model::default();
    log.append(None, &[command(1, 1, b"a")], 0).unwrap();
    model.append(None, &[command(1, 1, b"a")], 0);
    log.sync().unwrap();
    faults.read_only(true);
    let vote = HardState { term: 2, vote: Some(NodeId(3)) };
    for _ in 0..3 {
        let error = log.append(Some(vote), &[command(2, 2, b"b")], 1).unwrap_err();
        assert!(matches!(error, LogError::NoRoom { .. }), "{error}");
    }
    assert_eq!(log.last_index(), 1);
    faults.read_only(false);
    log.append(None, &[command(2, 1, b"c")], 1).unwrap();
    model.append(None, &[command(2, 1, b"c")], 1);
    log.sync().unwrap();
    drop(log);
    // Neither the vote nor the mark of what was refused is there.
    model.check(&open(&dir, 0).1, 0);
}

#[test]
fn looking_at_a_log_that_is_being_written_never_finds_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0);
    let path = dir.path().to_owned();
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let thread = std::thread::spawn(move || {
        let mut before = 0;
        while !stop.load(Ordering::Relaxed) {
            let (reader, commit) = look(&path).unwrap();
            assert!(commit >= before && reader.range().1 >= commit);
            before = commit;
            if commit > 0 {
                let entry = &reader.read(commit, commit, 0).unwrap()[0];
                assert_eq!(*entry, command(commit, 1, &commit.to_le_bytes().repeat(20)));
            }
        }
    });
    for index in 1..=300u64 {
        let entry = command(index, 1, &index.to_le_bytes().repeat(20));
        log.append(None, &[entry], index).unwrap();
        log.sync().unwrap();
    }
    done.store(true, Ordering::Relaxed);
    thread.join().unwrap();
}
