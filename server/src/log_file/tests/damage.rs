//! Torn tails, damage, foreign files: what is cut and what is refused.

use std::path::Path;

use super::super::segment::{list, path_of};
use super::*;

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
    let (mut log, _) = LogFile::open(dir.path(), LogOptions { segment_bytes: 640 }, 0).unwrap();
    let mut model = Model::default();
    let mut before_last = model.clone();
    for index in 1..=12 {
        before_last = model.clone();
        let state = HardState { term: index / 4 + 1, vote: Some(NodeId(index)) };
        let state = (index % 4 == 0).then_some(state);
        let term = index / 4 + 1;
        let mut entries = vec![command(index, term, format!("value {index}").as_bytes())];
        if index == 12 {
            entries.push(Entry { index: 13, term, body: Body::Membership(membership(1)) });
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

fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    list(dir)
        .unwrap()
        .into_iter()
        .map(|(_, path)| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

fn restore(written: &Written) {
    for (_, path) in list(written.dir.path()).unwrap() {
        fs::remove_file(path).unwrap();
    }
    for (path, bytes) in &written.files {
        fs::write(path, bytes).unwrap();
    }
}

fn read_only(dir: &Path) -> Result<Recovered, LogError> {
    scan(dir, Some(0), false).map(|scan| scan.recovered)
}

/// The recovered state is that of a beginning of the stream, no shorter than
/// everything but the last batch.
fn check_only_last_batch_cut(written: &Written, recovered: &Recovered) {
    let entries = &recovered.entries;
    assert_eq!(entries[..], written.model.entries[..entries.len()]);
    assert!(entries.len() >= written.before_last.entries.len());
    assert!(recovered.commit >= written.before_last.commit);
    assert!(
        recovered.hard_state == written.model.hard_state
            || recovered.hard_state == written.before_last.hard_state
    );
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    let written = written();
    let (mut refused, mut cut, mut irrelevant) = (0, 0, 0);
    for (path, bytes) in &written.files {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let byte = bit / 8;
            file.write_all_at(&[bytes[byte] ^ (1 << (bit % 8))], byte as u64).unwrap();
            match read_only(written.dir.path()) {
                Err(error) => {
                    assert!(
                        error.to_string().contains(path.file_name().unwrap().to_str().unwrap())
                    );
                    refused += 1;
                }
                Ok(recovered) if recovered.torn.is_some() => {
                    check_only_last_batch_cut(&written, &recovered);
                    cut += 1;
                }
                Ok(recovered) => {
                    written.model.check(&recovered, 0);
                    irrelevant += 1;
                }
            }
            file.write_all_at(&bytes[byte..=byte], byte as u64).unwrap();
        }
    }
    assert!(refused > 0 && cut > 0 && irrelevant > 0, "{refused} {cut} {irrelevant}");
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
            let recovered = read_only(written.dir.path()).unwrap();
            let entries = &recovered.entries;
            assert_eq!(entries[..], written.model.entries[..entries.len()]);
            seen.insert(entries.len());
        }
    }
    let most = *seen.last().unwrap();
    assert!(most > 2 && seen.into_iter().eq(0..=most));
    for end in 0..HEADER_BYTES {
        fs::write(path, &bytes[..end]).unwrap();
        assert!(matches!(read_only(written.dir.path()), Err(LogError::Damaged { .. })));
    }
}

#[test]
fn a_cut_tail_never_comes_back() {
    let written = written();
    let dir = written.dir.path();
    let used = written.files.len() - 2;
    let (path, bytes) = &written.files[used];
    let first = written.before_last.entries.len() as u64 + 1;
    // The last batch has three entries. Its first page is lost, the later
    // ones are there: their records are valid, but were promised to nobody.
    let size: usize = written.model.entries[first as usize - 1..].iter().map(entry_bytes).sum();
    let state = HARD_STATE_BYTES;
    // The last record is a commit mark, whose body is a small number.
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 8;
    let begin = end - size - COMMIT_BYTES - state;
    let mut torn = bytes.clone();
    torn[begin..begin + state + 8].fill(0);
    fs::write(path, &torn).unwrap();
    let (mut log, recovered) = LogFile::open(dir, SMALL, 0).unwrap();
    let tail = recovered.torn.clone().unwrap();
    assert_eq!((&tail.file, tail.offset), (path, begin as u64));
    written.before_last.check(&recovered, 0);
    // A record of the same size goes there; what was behind it stays dead.
    let state = HardState { term: 9, vote: None };
    log.append(Some(state), &[], 0).unwrap();
    drop(log);
    let (log, recovered) = LogFile::open(dir, SMALL, 0).unwrap();
    assert_eq!(recovered.torn, None);
    assert_eq!(recovered.entries, written.before_last.entries);
    assert_eq!(recovered.hard_state, state);
    drop(log);
}

#[test]
fn one_damaged_record_among_durable_ones_is_no_torn_tail() {
    let written = written();
    let (path, bytes) = &written.files[0];
    let mut damaged = bytes.clone();
    damaged[HEADER_BYTES + START_BYTES + 20] ^= 1;
    fs::write(path, damaged).unwrap();
    let error = LogFile::open(written.dir.path(), SMALL, 0).unwrap_err();
    let LogError::Damaged { file, offset, .. } = &error else { panic!("{error}") };
    assert_eq!((file, *offset), (path, (HEADER_BYTES + START_BYTES) as u64));
    let text = error.to_string();
    assert!(text.contains("move this server's folder away"), "{text}");
    assert!(look(written.dir.path()).is_err());
    let damaged = fs::read(path).unwrap();
    restore(&written);
    assert_ne!(damaged, fs::read(path).unwrap(), "nothing was changed by the refusal");
}

#[test]
fn a_zeroed_page_in_the_middle_is_damage() {
    let written = written();
    let (path, bytes) = &written.files[0];
    let mut damaged = bytes.clone();
    damaged[200..].fill(0);
    fs::write(path, damaged).unwrap();
    let error = LogFile::open(written.dir.path(), SMALL, 0).unwrap_err();
    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
}

#[test]
fn records_of_another_use_of_a_file_are_invalid() {
    let written = written();
    let (path, bytes) = &written.files[0];
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
    assert!(path.exists());
}

#[test]
fn missing_foreign_and_newer_segments_are_told_apart() {
    let written = written();
    let dir = written.dir.path();
    let [first, second, ..] = &written.files[..] else { panic!() };

    fs::remove_file(&second.0).unwrap();
    assert!(
        matches!(read_only(dir), Err(LogError::MissingSegment { file, .. }) if file == second.0)
    );
    restore(&written);
    fs::remove_file(&first.0).unwrap();
    assert!(
        matches!(read_only(dir), Err(LogError::MissingSegment { file, .. }) if file == first.0)
    );
    for (path, _) in &written.files {
        let _ = fs::remove_file(path);
    }
    let error = LogFile::open(dir, SMALL, 5).unwrap_err();
    assert!(matches!(error, LogError::MissingSegment { .. }), "{error}");

    restore(&written);
    fs::write(&second.0, b"something else that is long enough to hold a header, but is none; no")
        .unwrap();
    assert!(matches!(read_only(dir), Err(LogError::Foreign { file, .. }) if file == second.0));
    fs::write(&second.0, &first.1).unwrap();
    assert!(matches!(read_only(dir), Err(LogError::Foreign { file, .. }) if file == second.0));
    restore(&written);
    let note = dir.join("note.txt");
    fs::write(&note, b"").unwrap();
    assert!(matches!(read_only(dir), Err(LogError::Foreign { file, .. }) if file == note));
    fs::remove_file(&note).unwrap();

    let other = self::written();
    fs::write(&second.0, &other.files[1].1).unwrap();
    let error = read_only(dir).unwrap_err();
    assert!(error.to_string().contains("another"), "{error}");

    restore(&written);
    let mut newer = second.1.clone();
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..HEADER_BYTES - 4]);
    newer[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    fs::write(&second.0, newer).unwrap();
    assert!(matches!(read_only(dir), Err(LogError::NewerVersion { version: 2, .. })));
    restore(&written);
    written.model.check(&read_only(dir).unwrap(), 0);
}

#[test]
fn a_segment_that_was_being_made_is_forgotten() {
    let written = written();
    let side = written.dir.path().join("0000000009.segment.tmp");
    fs::write(&side, b"unfinished").unwrap();
    let (_log, recovered) = LogFile::open(written.dir.path(), SMALL, 0).unwrap();
    written.model.check(&recovered, 0);
    assert!(!side.exists());
}
