//! Everything that is written, synced and renamed goes into a journal; a crash
//! is tried after each step of it, with any part of what was not synced lost.

use std::collections::BTreeMap;

use raft::{Restored, SnapshotMeta};

use super::*;
use crate::files::faults::{Faults, FileId, Op};
use crate::recovery::LogRepair;

/// What a disk holds: for sure, and perhaps.
#[derive(Clone, Default)]
struct Disk {
    files: BTreeMap<FileId, File>,
    names: BTreeMap<PathBuf, FileId>,
    /// Changes of names that no sync of their folder has made durable.
    pending: Vec<Op>,
}

#[derive(Clone, Default)]
struct File {
    durable: Vec<u8>,
    writes: Vec<(u64, Vec<u8>)>,
}

impl File {
    fn write(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
        let end = offset as usize + data.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[offset as usize..end].copy_from_slice(data);
    }
}

impl Disk {
    fn play(&mut self, op: &Op) {
        match op {
            Op::Present(name, id, bytes) => {
                self.names.insert(name.clone(), *id);
                self.files.insert(*id, File { durable: bytes.clone(), writes: Vec::new() });
            }
            Op::Create(_, id) => {
                self.files.insert(*id, File::default());
                self.pending.push(op.clone());
            }
            Op::Write(id, offset, bytes) => {
                self.files.get_mut(id).unwrap().writes.push((*offset, bytes.clone()));
            }
            Op::SetLen(..) => panic!("the log does not cut files"),
            Op::Sync(id) => {
                let file = self.files.get_mut(id).unwrap();
                for (offset, bytes) in file.writes.drain(..) {
                    File::write(&mut file.durable, offset, &bytes);
                }
            }
            Op::Rename(..) | Op::Remove(_) => self.pending.push(op.clone()),
            // Renames between two folders: durable with either.
            Op::SyncDir(_) => {
                for op in std::mem::take(&mut self.pending) {
                    rename(&mut self.names, &op);
                }
            }
            Op::PresentDir(_) | Op::MakeDir(_) | Op::Note(_) => {}
        }
    }

    /// Puts one of the states that a crash may leave into `dir`.
    fn crash(&self, dir: &Path, random: &mut SmallRng) {
        let mut names = self.names.clone();
        let keep = [0.0, 0.5, 1.0][random.random_range(0..3)];
        for op in &self.pending {
            if random.random_bool(keep) {
                rename(&mut names, op);
            }
        }
        let keep = [0.0, 0.5, 1.0][random.random_range(0..3)];
        for (name, id) in names {
            let file = &self.files[&id];
            let mut bytes = file.durable.clone();
            for (offset, data) in &file.writes {
                // Sectors reach the disk in any order. Small ones here.
                for (number, sector) in data.chunks(64).enumerate() {
                    if random.random_bool(keep) {
                        File::write(&mut bytes, offset + number as u64 * 64, sector);
                    }
                }
            }
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}

fn rename(names: &mut BTreeMap<PathBuf, FileId>, op: &Op) {
    match op {
        Op::Create(name, id) => drop(names.insert(name.clone(), *id)),
        Op::Remove(name) => drop(names.remove(name)),
        Op::Rename(from, to) => {
            // Lost together with what made the name.
            if let Some(id) = names.remove(from) {
                names.insert(to.clone(), id);
            }
        }
        _ => {}
    }
}

/// Crashes after each operation of the journal, a few times each; `check` is
/// given the folder and the last note before.
fn crash_everywhere(ops: &[Op], seed: u64, mut check: impl FnMut(&TempDir, u64)) {
    let mut random = SmallRng::seed_from_u64(seed);
    let (mut disk, mut note) = (Disk::default(), 0);
    for op in ops {
        disk.play(op);
        if let Op::Note(what) = op {
            note = *what;
        }
        if matches!(op, Op::Present(..) | Op::PresentDir(_)) {
            continue;
        }
        for _ in 0..2 {
            let dir = tempfile::tempdir().unwrap();
            disk.crash(dir.path(), &mut random);
            check(&dir, note);
        }
    }
}

fn compacted_everywhere(keep: bool) {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes: 1024, keep };
    let faults = Faults::watch(dir.path());
    let (mut log, _) = LogFile::open(dir.path(), options, 0).unwrap();
    log.append(Some(HardState { term: 5, vote: Some(NodeId(1)) }), &[], 0).unwrap();
    log.sync().unwrap();
    faults.record();
    for index in 1..=40u64 {
        log.append(None, &[command(index, 5, &[index as u8; 100])], index).unwrap();
        if index % 9 == 0 {
            // Every fifth entry is in a durable checkpoint by then.
            log.compact(index - 4).unwrap();
            // Nothing is freed before the mark is durable, however long that takes.
            log.settle();
        }
        log.sync().unwrap();
        faults.note(index);
    }
    drop(log);
    let ops = faults.journal();
    drop(faults);
    let mut pooled = 0;
    crash_everywhere(&ops, u64::from(keep), |dir, synced| {
        let after = ((synced + 1) / 9 * 9).saturating_sub(5);
        let (mut log, recovered) = LogFile::open(dir.path(), options, after).unwrap();
        assert_eq!(recovered.hard_state.term, 5);
        let last = after + recovered.entries.len() as u64;
        assert!((synced..=synced + 1).contains(&last), "{synced} synced, {last} found");
        for (entry, index) in recovered.entries.iter().zip(after + 1..) {
            assert_eq!(*entry, command(index, 5, &[index as u8; 100]));
        }
        log.append(None, &[command(last + 1, 6, b"on it goes")], last).unwrap();
        log.finish().unwrap();
        drop(log);
        pooled += super::super::segment::list(dir.path()).unwrap().free.len();
        if keep {
            let archive = LogArchive::open(dir.path()).unwrap();
            assert_eq!(archive.range(), (1, last));
            assert_eq!(archive.entries(1..=last).map(Result::unwrap).count() as u64, last);
        }
        let (_, recovered) = LogFile::open(dir.path(), options, last).unwrap();
        assert_eq!(recovered.entries, [command(last + 1, 6, b"on it goes")]);
    });
    assert_eq!(keep, pooled == 0);
}

#[test]
fn compaction_and_recycling_survive_a_crash_anywhere() {
    compacted_everywhere(false);
}

#[test]
fn archiving_survives_a_crash_anywhere() {
    compacted_everywhere(true);
}

#[test]
fn repair_survives_a_crash_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes: 1024, keep: false };
    let entries: Vec<_> = (1..=30).map(|index| command(index, 2, &[index as u8; 100])).collect();
    let (mut log, _) = LogFile::open(dir.path(), options, 0).unwrap();
    let hard_state = HardState { term: 2, vote: Some(NodeId(3)) };
    log.append(Some(hard_state), &[], 0).unwrap();
    for entry in &entries {
        log.append(None, std::slice::from_ref(entry), entry.index - 1).unwrap();
        log.sync().unwrap();
    }
    drop(log);
    let path = super::super::segment::path_of(dir.path(), 2);
    let mut bytes = fs::read(&path).unwrap();
    bytes[500..600].fill(1);
    fs::write(&path, &bytes).unwrap();
    let faults = Faults::watch(dir.path());
    faults.record();
    let (damaged, opener) = LogFile::scan(dir.path(), 3).unwrap();
    assert_eq!((damaged.damage.len(), damaged.end), (1, Position { index: 30, term: 2 }));
    let kept = damaged.stretches[0].entries.clone();
    let mut restored = Restored {
        hard_state,
        snapshot: SnapshotMeta { index: 3, term: 2, ..SnapshotMeta::default() },
        runs: damaged.stretches[0].runs.clone(),
        memberships: Vec::new(),
        entries: kept.clone(),
        commit: 29,
        floor: Some(damaged.end),
    };
    let cut = LogRepair::Cut { first: 1, last: kept.last().unwrap().index };
    let mut log = opener.repair(options, cut, &mut restored).unwrap();
    log.sync().unwrap();
    faults.note(1);
    drop(log);
    let ops = faults.journal();
    drop(faults);
    let mut seen = [0, 0];
    crash_everywhere(&ops, 7, |dir, done| {
        let (found, opener) = LogFile::scan(dir.path(), 3).unwrap();
        assert_eq!((found.hard_state, found.hard_state_certain), (hard_state, true));
        assert_eq!(found.stretches[0].entries, kept);
        let repaired = found.damage.is_empty();
        assert!(repaired || done == 0);
        if repaired {
            assert_eq!((found.floor, found.stretches.len()), (Some(damaged.end), 1));
            drop(opener.open(options).unwrap());
        } else {
            assert_eq!(found, damaged_in(dir, &damaged));
            drop(opener.repair(options, cut, &mut restored.clone()).unwrap());
        }
        seen[usize::from(repaired)] += 1;
        let (_, recovered) = LogFile::open(dir.path(), options, 3).unwrap();
        assert_eq!((recovered.floor, recovered.entries), (Some(damaged.end), kept.clone()));
    });
    assert!(seen[0] > 5 && seen[1] > 5, "{seen:?}");
}

/// The same report, of another folder.
fn damaged_in(
    dir: &TempDir,
    report: &crate::recovery::LogScan<Payload>,
) -> crate::recovery::LogScan<Payload> {
    let mut report = report.clone();
    for damage in &mut report.damage {
        damage.file = dir.path().join(damage.file.file_name().unwrap());
    }
    report
}
