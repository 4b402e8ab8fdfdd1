//! Torn tails, damage, foreign files: what is cut, what is repaired and what is
//! refused.

use std::path::Path;

use raft::{Restored, SnapshotMeta};

use super::super::segment::{list, path_of};
use super::*;
use crate::recovery::{Decision, Found, FoundCheckpoint, FoundLog, LogRepair, Recovery, decide};

const TINY: LogOptions = LogOptions { segment_bytes: 900, keep: false };

/// A log of several segments whose batches are known.
struct Written {
    dir: TempDir,
    model: Model,
    /// The state after all batches but the last.
    before_last: Model,
    files: Vec<(PathBuf, Vec<u8>)>,
}

fn written() -> Written {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = LogFile::open(dir.path(), TINY, 0).unwrap();
    let mut model = Model::default();
    let mut before_last = model.clone();
    for index in 1..=12 {
        before_last = model.clone();
        let state = HardState { term: index / 4 + 1, vote: Some(NodeId(index)) };
        let state = (index % 4 == 0).then_some(state);
        let term = index / 4 + 1;
        let mut entries = vec![command(index, term, format!("value {index}").as_bytes())];
        if index == 12 {
            entries.push(Entry { index: 13, term, body: Body::Membership(voters()) });
            entries.push(command(14, term, b"the last one"));
        }
        log.append(state, &entries, index - 1).unwrap();
        log.sync().unwrap();
        model.append(state, &entries, index - 1);
    }
    log.spare.wait().unwrap();
    drop(log);
    let files = snapshot(dir.path());
    assert!(files.len() >= 3, "several segments, the last one unused");
    Written { dir, model, before_last, files }
}

fn voters() -> Membership {
    Membership::of_voters((1..=3).map(|id| (NodeId(id), b"somewhere".as_slice().into())))
}

fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let segments = list(dir).unwrap().segments;
    segments.into_iter().map(|(_, path)| (path.clone(), fs::read(path).unwrap())).collect()
}

fn restore(written: &Written) {
    for file in fs::read_dir(written.dir.path()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    for (path, bytes) in &written.files {
        fs::write(path, bytes).unwrap();
    }
}

/// What a start of server 1 decides, with a checkpoint that ends at `after`.
fn decision(written: &Written, after: Index) -> (Decision<Payload>, LogOpener) {
    let (scan, opener) = LogFile::scan(written.dir.path(), after).unwrap();
    let term = written.model.entries[..after as usize].last().map_or(0, |entry| entry.term);
    let checkpoint =
        FoundCheckpoint::Whole(SnapshotMeta { index: after, term, membership: voters() });
    let log = FoundLog::Read(scan);
    (decide(Found { id: NodeId(1), checkpoint, log }), opener)
}

fn recovery(written: &Written, after: Index) -> (Recovery<Payload>, LogOpener) {
    match decision(written, after) {
        (Decision::Start(recovery), opener) => (*recovery, opener),
        (other, _) => panic!("{other:?}"),
    }
}

/// A log for the server to start with: a part of what was written, and if it
/// is not all of it, a floor that reaches the rest.
fn check(written: &Written, restored: &Restored<Payload>) {
    let model = &written.model;
    assert_eq!(restored.hard_state, model.hard_state);
    let from = restored.snapshot.index as usize;
    assert_eq!(restored.entries[..], model.entries[from..from + restored.entries.len()]);
    let end = model.entries.last().map(|last| Position { index: last.index, term: last.term });
    if from + restored.entries.len() < model.entries.len() {
        assert!(restored.floor.unwrap().covers(end.unwrap()));
    } else {
        assert_eq!(restored.floor, None);
    }
}

#[test]
fn every_flipped_bit_is_repaired_or_known_to_be_beyond_repair() {
    let written = written();
    let (mut amnesia, mut repaired, mut irrelevant) = (0, 0, 0);
    for (path, bytes) in &written.files {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let byte = bit / 8;
            let after = [0, 6][bit % 2];
            file.write_all_at(&[bytes[byte] ^ (1 << (bit % 8))], byte as u64).unwrap();
            match decision(&written, after).0 {
                Decision::Start(recovery) => {
                    check(&written, &recovery.restored);
                    match recovery.repair {
                        LogRepair::Keep => irrelevant += 1,
                        _ => repaired += 1,
                    }
                }
                Decision::Amnesia(why) => {
                    let name = path.file_name().unwrap().to_str().unwrap();
                    assert!(why.contains(name), "{why}");
                    amnesia += 1;
                }
                Decision::Refuse(why) => panic!("{why}"),
            }
            file.write_all_at(&bytes[byte..=byte], byte as u64).unwrap();
        }
    }
    // Only the newest record of term and vote has nothing behind it to tell.
    assert_eq!(amnesia, PROMISE_BYTES * 8);
    assert!(repaired > 0 && irrelevant > 0);
}
