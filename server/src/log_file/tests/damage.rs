//! Torn tails, damage, foreign files: what is cut, what is repaired and what is
//! refused.

use std::path::Path;

use raft::{Restored, SnapshotMeta};

use super::super::segment::{list, path_of};
use super::*;
use crate::files::faults::{Errno, Faults, Kind};
use crate::recovery::{Decision, Found, FoundCheckpoint, FoundLog, LogRepair, Recovery, decide};

const TINY: LogOptions = LogOptions { segment_bytes: 640, keep: false };

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
    assert!(files.len() >= 4, "several segments, the last one unused");
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

/// The state is that of a beginning of the stream, no shorter than everything
/// but the last batch.
fn check_only_last_batch_cut(written: &Written, restored: &Restored<Payload>) {
    let entries = &restored.entries;
    assert_eq!(entries[..], written.model.entries[..entries.len()]);
    assert!(entries.len() >= written.before_last.entries.len());
    assert!(restored.commit >= written.before_last.commit);
    assert!(
        restored.hard_state == written.model.hard_state
            || restored.hard_state == written.before_last.hard_state
    );
    assert_eq!(restored.floor, None);
}

/// The last segment in use, with its bytes, and where they end.
fn last_used(written: &Written) -> (&PathBuf, &[u8], usize) {
    let (path, bytes) = &written.files[written.files.len() - 2];
    (path, bytes, bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1)
}

/// Where the last batch begins: term and vote, three entries, a mark.
fn last_batch(written: &Written, end: usize) -> usize {
    let first = written.before_last.entries.len();
    let size: usize = written.model.entries[first..].iter().map(entry_bytes).sum();
    end - size - COMMIT_BYTES - PROMISE_BYTES
}

#[test]
fn every_beginning_of_the_stream_recovers() {
    let written = written();
    let (path, bytes) = &written.files[0];
    let mut seen = std::collections::BTreeSet::new();
    // The later segments do not exist yet at that point.
    for (later, _) in &written.files[1..] {
        fs::remove_file(later).unwrap();
    }
    let seal = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1 - SEAL_BYTES;
    for end in HEADER_BYTES..=seal {
        for zeros in [false, true] {
            let mut torn = bytes[..end].to_vec();
            torn.resize(if zeros { bytes.len() } else { end }, 0);
            fs::write(path, torn).unwrap();
            let (recovery, _) = recovery(&written, 0);
            let entries = &recovery.restored.entries;
            assert_eq!(entries[..], written.model.entries[..entries.len()]);
            assert_eq!((recovery.repair, recovery.restored.floor), (LogRepair::Keep, None));
            seen.insert(entries.len());
        }
    }
    let most = *seen.last().unwrap();
    assert!(most > 2 && seen.into_iter().eq(0..=most));
    for end in 0..HEADER_BYTES {
        fs::write(path, &bytes[..end]).unwrap();
        assert!(matches!(decision(&written, 0).0, Decision::Amnesia(_)));
    }
}

#[test]
fn any_pages_of_the_last_batch_may_be_missing() {
    let written = written();
    let (path, bytes, end) = last_used(&written);
    let begin = last_batch(&written, end);
    let mut cut = 0;
    for page in [7, 16, 40, 100] {
        for lost in 1u32..16 {
            let mut torn = bytes.to_vec();
            for (number, page) in torn[begin..end].chunks_mut(page).enumerate() {
                if lost >> (number % 4) & 1 == 1 {
                    page.fill(0);
                }
            }
            fs::write(path, &torn).unwrap();
            let (recovery, opener) = recovery(&written, 0);
            check_only_last_batch_cut(&written, &recovery.restored);
            assert_eq!(recovery.repair, LogRepair::Keep);
            cut += u64::from(opener.torn().is_some());
        }
    }
    assert!(cut > 20);
}

#[test]
fn a_cut_tail_never_comes_back() {
    let written = written();
    let dir = written.dir.path();
    let (path, bytes, end) = last_used(&written);
    let begin = last_batch(&written, end);
    // Its first page is lost, the later ones are there: their records are
    // valid, but were promised to nobody.
    let mut torn = bytes.to_vec();
    torn[begin..begin + PROMISE_BYTES + 8].fill(0);
    fs::write(path, &torn).unwrap();
    let (mut log, recovered) = LogFile::open(dir, TINY, 0).unwrap();
    let tail = recovered.torn.clone().unwrap();
    assert_eq!((&tail.file, tail.offset), (path, begin as u64));
    written.before_last.check(&recovered, 0);
    // A record of the same size goes there; what was behind it stays dead.
    let state = HardState { term: 9, vote: None };
    log.append(Some(state), &[], 0).unwrap();
    drop(log);
    let (_log, recovered) = LogFile::open(dir, TINY, 0).unwrap();
    assert_eq!(recovered.torn, None);
    assert_eq!(recovered.entries, written.before_last.entries);
    assert_eq!(recovered.hard_state, state);
}

#[test]
fn a_repaired_log_goes_on_below_a_floor_until_it_is_reached() {
    let written = written();
    let dir = written.dir.path();
    let (path, bytes) = &written.files[0];
    let mut damaged = bytes.clone();
    damaged[HEADER_BYTES + START_BYTES + 150..][..60].fill(7);
    fs::write(path, damaged).unwrap();
    let error = LogFile::open(dir, TINY, 0).unwrap_err();
    let LogError::Damaged { file, .. } = &error else { panic!("{error}") };
    assert_eq!(file, path);
    let (mut recovery, opener) = recovery(&written, 0);
    check(&written, &recovery.restored);
    let floor = recovery.restored.floor;
    let kept = recovery.restored.entries.clone();
    assert!((1..6).contains(&kept.len()) && floor.is_some());
    let repair = recovery.repair;
    let mut log = opener.repair(TINY, repair, &mut recovery.restored).unwrap();
    assert_eq!(log.reader().range(), (1, kept.len() as u64));
    assert_eq!(recovery.restored.runs.first().map(|(first, _)| *first), Some(1));
    for entry in &written.model.entries[kept.len()..] {
        drop(log);
        let (opened, recovered) = LogFile::open(dir, TINY, 0).unwrap();
        assert_eq!((recovered.floor, recovered.hard_state), (floor, written.model.hard_state));
        log = opened;
        log.append(None, std::slice::from_ref(entry), 0).unwrap();
        log.sync().unwrap();
    }
    drop(log);
    let (log, recovered) = LogFile::open(dir, TINY, 0).unwrap();
    assert_eq!((recovered.floor, recovered.entries), (None, written.model.entries.clone()));
    // What was damaged is not part of the log any more.
    drop(log);
    assert!(verify(dir).unwrap().0.damage.is_empty() && !path.exists());
}

#[test]
fn damage_that_the_checkpoint_contains_costs_nothing() {
    let written = written();
    let (path, bytes) = &written.files[0];
    let mut damaged = bytes.clone();
    damaged[HEADER_BYTES + START_BYTES + 20] ^= 3;
    fs::write(path, damaged).unwrap();
    let (mut recovery, opener) = recovery(&written, 12);
    check(&written, &recovery.restored);
    assert_eq!(recovery.restored.entries, written.model.entries[12..]);
    let repair = recovery.repair;
    let log = opener.repair(TINY, repair, &mut recovery.restored).unwrap();
    assert_eq!(log.reader().read(13, 14, usize::MAX).unwrap(), written.model.entries[12..]);
}

#[test]
fn the_disk_refusing_to_read_is_damage() {
    let written = written();
    for (path, _) in &written.files[..written.files.len() - 1] {
        let faults = Faults::watch(written.dir.path());
        let head = fs::read(path).unwrap().len().min(HEADER_BYTES + START_BYTES);
        assert!(head > HEADER_BYTES);
        // The heads are read, then nothing of the first segment.
        faults.fail(Kind::Read, written.files.len() as u64, 2, Errno::Io);
        match decision(&written, 0).0 {
            Decision::Start(recovery) => check(&written, &recovery.restored),
            Decision::Amnesia(why) => assert!(why.contains("cannot be read"), "{why}"),
            Decision::Refuse(why) => panic!("{why}"),
        }
    }
}

#[test]
fn one_flipped_bit_in_the_very_last_record_is_no_torn_write() {
    let mut written = written();
    let (mut log, _) = LogFile::open(written.dir.path(), TINY, 0).unwrap();
    let entry = command(15, 4, b"nothing is behind this");
    log.append(None, std::slice::from_ref(&entry), 0).unwrap();
    log.sync().unwrap();
    let (path, end) = (log.active.path.to_path_buf(), log.end);
    drop(log);
    written.model.append(None, std::slice::from_ref(&entry), 0);
    let bytes = fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for bit in (end - entry_bytes(&entry)) * 8..end * 8 {
        let byte = bit / 8;
        file.write_all_at(&[bytes[byte] ^ (1 << (bit % 8))], byte as u64).unwrap();
        let (recovery, opener) = recovery(&written, 0);
        check(&written, &recovery.restored);
        assert!(recovery.restored.floor.is_some() && opener.torn().is_none());
        file.write_all_at(&bytes[byte..=byte], byte as u64).unwrap();
    }
}

#[test]
fn a_stop_mark_proves_the_last_batch() {
    let written = written();
    let (mut log, _) = LogFile::open(written.dir.path(), TINY, 0).unwrap();
    log.finish().unwrap();
    drop(log);
    let (path, _, end) = last_used(&written);
    let mut damaged = fs::read(path).unwrap();
    let at = end - COMMIT_BYTES - entry_bytes(&written.model.entries[13]);
    damaged[at + 10..at + 30].fill(9);
    fs::write(path, damaged).unwrap();
    let (recovery, opener) = recovery(&written, 0);
    assert_eq!(opener.torn(), None);
    assert_eq!(recovery.restored.entries, written.model.entries[..13]);
    check(&written, &recovery.restored);
}

#[test]
fn records_of_another_use_of_a_file_are_invalid() {
    let written = written();
    let (_, bytes) = &written.files[0];
    let other = tempfile::tempdir().unwrap();
    let (log, _) = open(&other, 0);
    drop(log);
    let fresh = path_of(other.path(), 1);
    let mut recycled = bytes.clone();
    recycled[..HEADER_BYTES].copy_from_slice(&fs::read(&fresh).unwrap()[..HEADER_BYTES]);
    for (path, _) in snapshot(other.path()) {
        fs::remove_file(path).unwrap();
    }
    fs::write(&fresh, &recycled).unwrap();
    let (mut log, recovered) = open(&other, 0);
    Model::default().check(&recovered, 0);
    log.append(None, &[command(1, 1, b"new")], 1).unwrap();
    drop(log);
    assert_eq!(open(&other, 0).1.entries, [command(1, 1, b"new")]);
}

#[test]
fn missing_segments_are_told_apart_by_what_they_held() {
    let written = written();
    let dir = written.dir.path();
    let [first, second, ..] = &written.files[..] else { panic!() };
    // One in the middle, or the first one: its entries are lost, no more.
    for lost in [first, second] {
        fs::remove_file(&lost.0).unwrap();
        let error = LogFile::open(dir, TINY, 0).unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
        check(&written, &recovery(&written, 0).0.restored);
        check(&written, &recovery(&written, 12).0.restored);
        restore(&written);
    }
    // The one that was written last: nobody knows what was in it.
    fs::remove_file(last_used(&written).0).unwrap();
    let Decision::Amnesia(why) = decision(&written, 0).0 else { panic!() };
    assert!(why.contains("segment"), "{why}");
    restore(&written);
    for (path, _) in &written.files {
        fs::remove_file(path).unwrap();
    }
    let error = LogFile::open(dir, TINY, 5).unwrap_err();
    assert!(matches!(error, LogError::MissingSegment { .. }), "{error}");
    assert!(LogFile::scan(dir, 5).unwrap().1.is_fresh());
}

#[test]
fn foreign_files_and_newer_versions_are_refused() {
    let written = written();
    let dir = written.dir.path();
    let refused = || LogFile::scan(dir, 0).unwrap_err();
    let [first, second, ..] = &written.files[..] else { panic!() };
    fs::write(&second.0, b"something else that is long enough to hold a header, but is none; no")
        .unwrap();
    assert!(matches!(refused(), LogError::Foreign { file, .. } if file == second.0));
    fs::write(&second.0, &first.1).unwrap();
    assert!(matches!(refused(), LogError::Foreign { file, .. } if file == second.0));
    restore(&written);
    let note = dir.join("note.txt");
    fs::write(&note, b"").unwrap();
    assert!(matches!(refused(), LogError::Foreign { file, .. } if file == note));
    fs::remove_file(&note).unwrap();

    let other = self::written();
    fs::write(&second.0, &other.files[1].1).unwrap();
    let error = refused();
    assert!(error.to_string().contains("another"), "{error}");

    restore(&written);
    let mut newer = second.1.clone();
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..HEADER_BYTES - 4]);
    newer[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    fs::write(&second.0, newer).unwrap();
    assert!(matches!(refused(), LogError::NewerVersion { version: 2, .. }));
    restore(&written);
    check(&written, &recovery(&written, 0).0.restored);
}

#[test]
fn a_segment_that_was_being_made_is_forgotten() {
    let written = written();
    let side = written.dir.path().join("0000000009.segment.tmp");
    fs::write(&side, b"unfinished").unwrap();
    let (_log, recovered) = LogFile::open(written.dir.path(), TINY, 0).unwrap();
    written.model.check(&recovered, 0);
    assert!(!side.exists());
}
