//! Compaction, recycling, the archive, and starts that skip.

use std::time::{Duration, Instant};

use super::super::segment::{list, path_of};
use super::*;
use crate::command::{Command, Operation};
use crate::files::faults::{Faults, Kind};

const KEEP: LogOptions = LogOptions { segment_bytes: 2048, keep: true };

/// A command given at a time.
fn timed(index: Index, term: Term) -> Entry<Payload> {
    let key = format!("key-{index:0100}");
    let operation = Operation::Delete { key: key.as_bytes() };
    let mut bytes = Vec::new();
    Command { clock_ms: clock(index), id: None, operation }.encode(&mut bytes);
    command(index, term, &bytes)
}

/// Each two entries have one time.
fn clock(index: Index) -> u64 {
    1000 + index / 2 * 10
}

/// Appends and commits entries up to `to`.
fn fill_to(log: &mut LogFile, to: Index) {
    for index in log.last_index() + 1..=to {
        let entry = if index % 10 == 0 {
            Entry { index, term: 3, body: Body::Noop }
        } else {
            timed(index, 3)
        };
        log.append(None, &[entry], index).unwrap();
        log.sync().unwrap();
    }
}

fn numbers(dir: &TempDir) -> Vec<u64> {
    list(dir.path()).unwrap().segments.into_iter().map(|(number, _)| number).collect()
}

fn free(dir: &TempDir) -> usize {
    list(dir.path()).unwrap().free.len()
}

/// Waits for the thread that clears away.
fn eventually(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never happened");
        std::thread::yield_now();
    }
}

#[test]
fn whole_segments_below_an_index_are_freed_and_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0);
    let state = HardState { term: 3, vote: Some(NodeId(2)) };
    log.append(Some(state), &[], 0).unwrap();
    fill_to(&mut log, 100);
    log.spare.wait().unwrap();
    let before = numbers(&dir);
    assert!(before.len() > 5);
    let first = log.compact(60).unwrap();
    assert!((2..=60).contains(&first) && log.reader().range() == (first, 100));
    assert_eq!(numbers(&dir), before, "nothing goes before the mark is durable");
    log.sync().unwrap();
    fill_to(&mut log, 130);
    eventually(|| !numbers(&dir).contains(&1));
    let error = log.reader().read(first - 1, 100, 99).unwrap_err();
    assert!(matches!(error, LogError::NotHere { .. }), "{error}");
    assert_eq!(log.reader().read(first, first, 0).unwrap()[0].index, first);
    assert_eq!(log.compact(60).unwrap(), first, "nothing more to free");
    drop(log);
    let (mut log, recovered) = open(&dir, 90);
    assert_eq!((recovered.hard_state, recovered.commit), (state, 130));
    assert_eq!(recovered.entries.len(), 40);
    assert_eq!((recovered.runs, log.reader().range()), (vec![(first, 3)], (first, 130)));
    // The active segment always stays.
    let first = log.compact(u64::MAX).unwrap();
    log.sync().unwrap();
    assert!(first <= 130);
    eventually(|| numbers(&dir).len() <= 2);
    fill_to(&mut log, 140);
    assert_eq!(log.reader().read(first, 140, usize::MAX).unwrap().len() as u64, 141 - first);
}

#[test]
fn a_recycled_segment_shows_nothing_of_its_past() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    let (mut log, _) = open(&dir, 0);
    let mut recycled = 0;
    for round in 0..40 {
        for _ in 0..7 {
            let entry = timed(model.entries.len() as u64 + 1, 3);
            let commit = entry.index;
            log.append(None, std::slice::from_ref(&entry), commit).unwrap();
            model.append(None, &[entry], commit);
        }
        log.compact(log.last_index().saturating_sub(10)).unwrap();
        log.sync().unwrap();
        if round % 3 == 0 {
            // As after a crash: wherever the log ends, old records follow.
            drop(log);
            let after = model.commit - 5;
            let (opened, recovered) = open(&dir, after);
            assert_eq!(recovered.torn, None);
            assert_eq!(recovered.entries, model.entries[after as usize..]);
            log = opened;
        }
        recycled += usize::from(!log.active.zeroed);
        assert!(free(&dir) <= 4 && numbers(&dir).len() <= 6);
    }
    assert!(recycled > 10, "{recycled}");
}

#[test]
fn a_torn_write_on_a_recycled_segment_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0);
    while log.active.zeroed || log.end < 600 || log.end > 1500 {
        let last = log.last_index();
        fill_to(&mut log, last + 1);
        log.compact(last).unwrap();
        log.sync().unwrap();
    }
    let (last, end) = (log.last_index(), log.end);
    let batch = [timed(last + 1, 3), timed(last + 2, 3)];
    log.append(None, &batch, 0).unwrap();
    let file = OpenOptions::new().write(true).open(&log.active.path).unwrap();
    drop(log);
    // The first page of the batch did not make it: old bytes are there.
    file.write_all_at(&[0x55; 40], end as u64).unwrap();
    let (mut log, recovered) = open(&dir, last - 1);
    assert_eq!(recovered.torn.map(|torn| torn.offset), Some(end as u64));
    assert_eq!(log.last_index(), last);
    // A record that ends where the second entry begins brings nothing back.
    log.append(None, &batch[..1], 0).unwrap();
    drop(log);
    let (log, recovered) = open(&dir, last);
    assert_eq!((recovered.entries.as_slice(), recovered.torn), (&batch[..1], None));
    drop(log);
}

#[test]
fn closed_segments_are_archived_and_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = LogFile::open(dir.path(), KEEP, 0).unwrap();
    fill_to(&mut log, 50);
    log.compact(40).unwrap();
    fill_to(&mut log, 100);
    log.compact(90).unwrap();
    log.append(None, &[timed(101, 4)], 100).unwrap();
    log.sync().unwrap();
    drop(log);
    assert!(dir.path().join("archive").join("0000000001.segment").exists());
    let archive = LogArchive::open(dir.path()).unwrap();
    assert_eq!(archive.range(), (1, 100), "what is not committed is not in it");
    let all: Vec<_> = archive.entries(1..=u64::MAX).map(Result::unwrap).collect();
    assert!(all.iter().map(|entry| entry.index).eq(1..=100));
    assert_eq!(all[30], timed(31, 3));
    let some: Vec<_> = archive.entries(33..=77).map(Result::unwrap).collect();
    assert_eq!(some, all[32..77]);
    for clock_ms in 980..clock(100) + 20 {
        let expected = (1..=100).rev().find(|index| index % 10 != 0 && clock(*index) <= clock_ms);
        let found = archive.index_at(clock_ms).unwrap();
        // A no-op in between has no time of its own.
        let noop = found.is_multiple_of(10) && Some(found + 1) != expected;
        assert!(Some(found) == expected.or(Some(0)) || noop, "{clock_ms}: {found} {expected:?}");
    }
    let error = archive.entries(0..=1).next().unwrap().unwrap_err();
    assert!(matches!(error, LogError::NotHere { .. }), "{error}");
    // A start needs nothing of it.
    std::fs::remove_dir_all(dir.path().join("archive")).unwrap();
    let (_, recovered) = LogFile::open(dir.path(), KEEP, 95).unwrap();
    assert_eq!(recovered.entries.len(), 6);
    assert!(LogArchive::open(dir.path()).unwrap().range().0 > 1);
}

#[test]
fn a_reset_frees_everything_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0);
    let state = HardState { term: 7, vote: None };
    log.append(Some(state), &[], 0).unwrap();
    fill_to(&mut log, 60);
    log.reset(Position { index: 500, term: 6 }).unwrap();
    log.append(None, &[timed(501, 7)], 501).unwrap();
    log.sync().unwrap();
    drop(log);
    let (log, recovered) = open(&dir, 500);
    assert_eq!((recovered.hard_state, recovered.commit), (state, 501));
    assert_eq!(
        (recovered.entries.as_slice(), log.reader().range()),
        (&[timed(501, 7)][..], (501, 501))
    );
    drop(log);
    assert!(numbers(&dir).len() <= 2);
}

#[test]
fn a_start_reads_only_what_is_behind_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0);
    fill_to(&mut log, 200);
    log.spare.wait().unwrap();
    drop(log);
    let segments = numbers(&dir).len() as u64;
    let faults = Faults::watch(dir.path());
    let (log, recovered) = open(&dir, 195);
    assert_eq!(recovered.entries.len(), 5);
    // The head of each, and two whole ones: the last in use, and the one
    // with the end of the checkpoint. A file is read by one call, and a
    // second one that finds its end. What is in use is read again, to be
    // written again.
    let reads = faults.calls(Kind::Read);
    assert!(reads <= segments + 7, "{reads} reads, {segments} segments");
    // What was not read is there all the same.
    assert_eq!((log.reader().range(), recovered.runs), ((1, 200), vec![(1, 3)]));
    let mut next = 1;
    while next <= 200 {
        let entries = log.reader().read(next, 200, 500).unwrap();
        assert!(entries.iter().zip(next..).all(|(entry, index)| entry.index == index));
        next += entries.len() as u64;
    }
}

#[test]
fn segments_that_nothing_needs_may_be_damaged_or_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir, 0);
    fill_to(&mut log, 100);
    let copies: Vec<_> = numbers(&dir)
        .into_iter()
        .map(|number| path_of(dir.path(), number))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let first = log.compact(80).unwrap();
    log.sync().unwrap();
    fill_to(&mut log, 120);
    drop(log);
    // The process died while it cleared away: some are there, some are not,
    // one is half something else.
    for (number, (path, bytes)) in copies.iter().enumerate().take(4) {
        let mut bytes = bytes.clone();
        bytes[number * 300..number * 300 + 70].fill(0);
        if number != 2 {
            fs::write(path, bytes).unwrap();
        }
    }
    let (log, recovered) = open(&dir, 100);
    assert_eq!((recovered.entries.len(), log.reader().range()), (20, (first, 120)));
    drop(log);
    assert!(!copies[0].0.exists() && !copies[1].0.exists() && !copies[3].0.exists());
}
