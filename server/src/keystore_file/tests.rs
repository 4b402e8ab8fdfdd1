//! Checkpoints: there and back, and every way to be broken.

use std::collections::BTreeMap;
use std::fs;

use common::memcached::{Arithmetic, Reply, StoreVerb};
use raft::{Membership, NodeId};

use super::*;
use crate::command::{Command, Operation, RequestId};
use crate::keystore::{Keystore, KeystoreLimits};

fn keystore(items: u64, value_bytes: usize) -> Keystore {
    let mut keystore = Keystore::new(KeystoreLimits::default());
    for index in 1..=items {
        let key = format!("key-{index}");
        let value = vec![index as u8; value_bytes];
        let operation = Operation::Store {
            verb: StoreVerb::Set,
            key: key.as_bytes(),
            flags: index as u32,
            deadline_ms: index * 3,
            value: &value,
        };
        keystore.apply(index, &Command { clock_ms: 77 + index, id: None, operation });
    }
    keystore.advance(items + 1);
    keystore
}

fn meta(keystore: &Keystore) -> CheckpointMeta {
    let membership = Membership::of_voters([(NodeId(4), b"there".as_slice().into())]);
    CheckpointMeta { index: keystore.applied(), term: 9, membership }
}

type Contents = BTreeMap<Vec<u8>, (u32, u64, u64, Vec<u8>)>;

fn contents(keystore: &Keystore) -> (Contents, [u64; 5]) {
    let frozen = keystore.freeze();
    let items = frozen.items();
    let items = items.map(|i| (i.key.to_vec(), (i.flags, i.cas, i.deadline_ms, i.value.to_vec())));
    let counters = [
        keystore.applied(),
        keystore.cas_counter(),
        keystore.clock_ms(),
        keystore.len(),
        keystore.memory_bytes(),
    ];
    (items.collect(), counters)
}

#[test]
fn sessions_are_read_back_and_still_know_what_was_applied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keystore-file");
    let mut keystore = keystore(10, 10);
    let (session, clock_ms) = (42, 1_000);
    let mut apply = |index, sequence: Option<u64>, operation| {
        let id = sequence.map(|sequence| RequestId { session, sequence, done_below: 1 });
        keystore.apply(index, &Command { clock_ms, id, operation })
    };
    let incr = Operation::Arithmetic { operation: Arithmetic::Incr, key: b"n", delta: 5 };
    let set =
        Operation::Store { verb: StoreVerb::Set, key: b"n", flags: 0, deadline_ms: 0, value: b"1" };
    assert_eq!(apply(12, None, Operation::OpenSession { session }), Reply::Ok);
    assert_eq!(apply(13, Some(1), set), Reply::Stored);
    assert_eq!(apply(14, Some(2), incr), Reply::Number(6));
    write(&path, &keystore.freeze(), &meta(&keystore)).unwrap();

    let (mut found, _) = read(&path).unwrap().unwrap();
    assert_eq!(found.sessions(), keystore.sessions());
    assert_ne!(*found.sessions(), keystore.sessions().clone().without_uses());
    let again = RequestId { session, sequence: 2, done_below: 1 };
    let again = Command { clock_ms, id: Some(again), operation: incr };
    assert_eq!(found.apply(15, &again), Reply::Number(6));
    assert_eq!(found.get(b"n").unwrap().value, b"6");
    // Half a checkpoint is gone on with behind its sessions.
    let bytes = fs::read(&path).unwrap();
    let side = dir.path().join("side");
    fs::write(&side, &bytes[..bytes.len() - 1]).unwrap();
    let (_, whole) = verified_prefix(&side).unwrap();
    assert!(whole > bytes.len() as u64 / 2, "{whole} of {}", bytes.len());
}

#[test]
fn a_growing_file_tells_how_much_of_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keystore-file");
    let keystore = keystore(3000, 300);
    let written = write(&path, &keystore.freeze(), &meta(&keystore)).unwrap();
    let mut growth = Growth::default();
    assert_eq!(growth.look(&path, 10), 0);
    for part in 1..=10 {
        let permille = growth.look(&path, written.bytes * part / 10);
        assert!(permille.abs_diff(part as u16 * 100) < 50, "{permille} at {part} tenths");
    }
    let other = dir.path().join("other");
    fs::write(&other, [0xff; 1000]).unwrap();
    assert_eq!(Growth::default().look(&other, 1000), 0, "what is no such file has no size");
}

#[test]
fn what_was_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keystore-file");
    assert!(read(&path).unwrap().is_none());
    // One block, several blocks, items larger than a block.
    for (items, value_bytes) in [(0, 0), (5, 100), (3000, 300), (3, 1 << 20)] {
        let keystore = keystore(items, value_bytes);
        let meta = meta(&keystore);
        let written = write(&path, &keystore.freeze(), &meta).unwrap();
        assert_eq!(written.items, items);
        assert_eq!(written.bytes, fs::metadata(&path).unwrap().len());
        let (restored, restored_meta) = read(&path).unwrap().unwrap();
        assert_eq!(restored_meta, meta);
        assert_eq!(contents(&restored), contents(&keystore));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn no_flipped_bit_and_no_lost_end_goes_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keystore-file");
    let keystore = keystore(4, 20);
    write(&path, &keystore.freeze(), &meta(&keystore)).unwrap();
    let whole = fs::read(&path).unwrap();
    let other = dir.path().join("other");
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&other, &flipped).unwrap();
        let error = load(&other).unwrap_err();
        assert!(error.to_string().contains("other"), "{error}");
        fs::remove_file(&other).unwrap();
    }
    for end in 0..whole.len() {
        fs::write(&other, &whole[..end]).unwrap();
        let error = load(&other).unwrap_err();
        assert!(matches!(error, KeystoreFileError::Truncated { .. }), "{error}");
        fs::remove_file(&other).unwrap();
    }
    fs::write(&other, [&whole[..], b"x"].concat()).unwrap();
    let error = load(&other).unwrap_err();
    assert!(matches!(error, KeystoreFileError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("move this server's folder away"), "{error}");
}

#[test]
fn foreign_and_newer_files_are_told_apart_from_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keystore-file");
    let keystore = keystore(1, 1);
    write(&path, &keystore.freeze(), &meta(&keystore)).unwrap();
    let mut newer = fs::read(&path).unwrap();
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..12]);
    newer[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &newer).unwrap();
    assert!(matches!(load(&path), Err(KeystoreFileError::NewerVersion { version: 2, .. })));
    fs::write(&path, b"something else, long enough").unwrap();
    assert!(matches!(load(&path), Err(KeystoreFileError::Foreign { .. })));
}

#[test]
fn a_write_that_fails_or_never_ends_leaves_the_old_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keystore-file");
    let old = keystore(3, 10);
    write(&path, &old.freeze(), &meta(&old)).unwrap();
    let new = keystore(9, 10);
    let wrong = CheckpointMeta { index: 1, ..meta(&new) };
    assert!(write(&path, &new.freeze(), &wrong).is_err());
    let side = side_path(&path);
    fs::create_dir(&side).unwrap();
    assert!(write(&path, &new.freeze(), &meta(&new)).is_err(), "its side file cannot be made");
    fs::remove_dir(&side).unwrap();
    fs::write(&side, b"half a checkpoint").unwrap();
    let (restored, _) = load(&path).unwrap().unwrap();
    assert!(side.exists(), "who only looks changes nothing");
    assert_eq!(contents(&restored), contents(&old));
    read(&path).unwrap().unwrap();
    assert!(!side.exists());
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keystore-file");
    std::os::unix::fs::symlink("/dev/full", side_path(&path)).unwrap();
    let keystore = keystore(3, 10);
    let error = write(&path, &keystore.freeze(), &meta(&keystore)).unwrap_err();
    let full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
    assert!(matches!(&error, WriteError::Io(error) if full(error)), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// The blocks of a checkpoint: where each begins, and its kind.
fn blocks_of(bytes: &[u8]) -> Vec<(usize, u32)> {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (mut at, mut blocks) = (HEADER_BYTES, Vec::new());
    while at < bytes.len() {
        blocks.push((at, number(at + 4)));
        at += BLOCK_HEADER_BYTES + number(at + 8) as usize;
    }
    blocks
}

/// Large enough for several threads.
fn large() -> (Vec<u8>, Keystore) {
    let keystore = keystore(3000, 700);
    let (bytes, _) = write_to(Vec::new(), &keystore.freeze(), &meta(&keystore)).unwrap();
    assert!(bytes.len() > 2 << 20);
    (bytes, keystore)
}

fn read_bytes(bytes: &[u8]) -> Result<(Keystore, CheckpointMeta), KeystoreFileError> {
    read_from(Path::new("here"), bytes, bytes.len() as u64)
}

fn check_bytes(bytes: &[u8]) -> Result<CheckpointMeta, KeystoreFileError> {
    verify(Path::new("here"), bytes, bytes.len() as u64)
}

#[test]
fn damage_in_any_block_is_named_by_its_offset_however_many_threads_read() {
    let (whole, keystore) = large();
    let (restored, _) = read_bytes(&whole).unwrap();
    assert_eq!(contents(&restored), contents(&keystore));
    assert_eq!(check_bytes(&whole).unwrap(), meta(&keystore));
    for (at, kind) in blocks_of(&whole).into_iter().step_by(37) {
        // In the body: the length in the head would hide where it ends.
        let mut damaged = whole.clone();
        damaged[at + BLOCK_HEADER_BYTES + 4] ^= 4;
        for error in [read_bytes(&damaged).unwrap_err(), check_bytes(&damaged).unwrap_err()] {
            let KeystoreFileError::Damaged { offset, .. } = error else {
                panic!("a block of kind {kind}: {error}")
            };
            assert_eq!(offset, at as u64);
        }
        // Two bad places: the first one counts.
        let later = whole.len() - 10;
        damaged[later] ^= 1;
        let error = read_bytes(&damaged).unwrap_err();
        let first =
            matches!(error, KeystoreFileError::Damaged { offset, .. } if offset == at as u64);
        assert!(first, "{error}");
    }
}

#[test]
fn blocks_that_are_missing_or_change_places_are_damage() {
    let (whole, _) = large();
    let blocks = blocks_of(&whole);
    let block = |number: usize| &whole[blocks[number].0..blocks[number + 1].0];
    let (front, back) = (&whole[..blocks[5].0], &whole[blocks[7].0..]);
    for middle in
        [[block(6), block(5)].concat(), block(5).to_vec(), [block(5), block(6), block(6)].concat()]
    {
        let changed = [front, &middle, back].concat();
        assert!(matches!(read_bytes(&changed), Err(KeystoreFileError::Damaged { .. })));
        assert!(matches!(check_bytes(&changed), Err(KeystoreFileError::Damaged { .. })));
    }
}

#[test]
fn files_of_earlier_versions_have_sessions_without_their_uses() {
    let mut keystore = keystore(10, 10);
    for (index, session) in [(12, 42), (13, 7)] {
        let operation = Operation::OpenSession { session };
        keystore.apply(index, &Command { clock_ms: 1_000, id: None, operation });
    }
    let (whole, _) = write_to(Vec::new(), &keystore.freeze(), &meta(&keystore)).unwrap();
    let uses = blocks_of(&whole).iter().position(|(_, kind)| *kind == USES).unwrap();
    let (older, _) =
        read_bytes(&changed(&whole, |number, body| (number != uses).then(|| body.to_vec())))
            .unwrap();
    assert_eq!(*older.sessions(), keystore.sessions().clone().without_uses());
    assert_eq!(older.digest(), keystore.digest());
    let short = changed(&whole, |number, body| {
        Some(if number == uses { body[..12].to_vec() } else { body.to_vec() })
    });
    let at = blocks_of(&short)[uses].0 as u64;
    for error in [read_bytes(&short).unwrap_err(), check_bytes(&short).unwrap_err()] {
        assert!(matches!(error, KeystoreFileError::Damaged { offset, .. } if offset == at));
    }
}

/// The file with other bodies of its blocks, or without some; whole again.
fn changed(whole: &[u8], body_of: impl Fn(usize, &[u8]) -> Option<Vec<u8>>) -> Vec<u8> {
    let blocks = blocks_of(whole);
    let mut bytes = whole[..HEADER_BYTES].to_vec();
    let (mut count, mut digest) = (0u32, 0u64);
    for (number, (at, kind)) in blocks.iter().enumerate() {
        let end = blocks.get(number + 1).map_or(whole.len(), |(next, _)| *next);
        let Some(mut body) = body_of(number, &whole[at + BLOCK_HEADER_BYTES..end]) else {
            continue;
        };
        if *kind == FOOTER {
            body[..8].copy_from_slice(&u64::from(count).to_le_bytes());
            body[24..32].copy_from_slice(&digest.to_le_bytes());
        }
        let begin = bytes.len();
        put_block(&mut bytes, count, *kind, &body);
        digest = digest_of(&bytes[begin..begin + BLOCK_HEADER_BYTES], digest);
        count += 1;
    }
    bytes
}

fn put_block(bytes: &mut Vec<u8>, number: u32, kind: u32, body: &[u8]) {
    let rest = [&kind.to_le_bytes()[..], &(body.len() as u32).to_le_bytes(), body].concat();
    let crc = crc32c::crc32c_append(number, &rest);
    bytes.extend_from_slice(&[&crc.to_le_bytes(), &rest[..]].concat());
}

/// Puts a valid block of `kind` before the footer.
fn with_block(whole: &[u8], kind: u32) -> Vec<u8> {
    let blocks = blocks_of(whole);
    let (footer, _) = blocks[blocks.len() - 1];
    let mut bytes = whole[..footer].to_vec();
    put_block(&mut bytes, blocks.len() as u32 - 1, kind, b"from the future");
    let mut digest = 0;
    for (at, _) in blocks_of(&bytes) {
        digest = digest_of(&bytes[at..at + BLOCK_HEADER_BYTES], digest);
    }
    let mut body = whole[footer + BLOCK_HEADER_BYTES..].to_vec();
    body[..8].copy_from_slice(&(blocks.len() as u64).to_le_bytes());
    body[24..32].copy_from_slice(&digest.to_le_bytes());
    put_block(&mut bytes, blocks.len() as u32, FOOTER, &body);
    bytes
}

#[test]
fn blocks_of_later_versions_are_refused_or_passed_over_as_they_say() {
    let keystore = keystore(50, 10);
    let (whole, _) = write_to(Vec::new(), &keystore.freeze(), &meta(&keystore)).unwrap();
    let needed = with_block(&whole, 5);
    for error in [read_bytes(&needed).unwrap_err(), check_bytes(&needed).unwrap_err()] {
        assert!(matches!(error, KeystoreFileError::NewerBlock { kind: 5, .. }), "{error}");
        assert!(error.to_string().contains("newer program"), "{error}");
    }
    let optional = with_block(&whole, OPTIONAL | 5);
    let (restored, _) = read_bytes(&optional).unwrap();
    assert_eq!(contents(&restored), contents(&keystore));
    assert_eq!(check_bytes(&optional).unwrap(), meta(&keystore));
    // A kind that came about by damage is no newer version.
    let mut damaged = whole.clone();
    damaged[blocks_of(&whole)[3].0 + 4] ^= 8;
    assert!(matches!(read_bytes(&damaged), Err(KeystoreFileError::Damaged { .. })));
}

#[test]
fn the_whole_beginning_of_what_has_arrived_can_be_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keystore-file.new");
    assert!(verified_prefix(&path).is_none());
    let keystore = keystore(300, 100);
    let (whole, _) = write_to(Vec::new(), &keystore.freeze(), &meta(&keystore)).unwrap();
    let blocks = blocks_of(&whole);
    let (footer, _) = blocks[blocks.len() - 1];
    for end in (0..whole.len()).step_by(131).chain([footer, whole.len()]) {
        fs::write(&path, &whole[..end]).unwrap();
        let expected = blocks[1..].iter().map(|(at, _)| *at).rfind(|at| *at <= end);
        let expected = expected.map(|at| (meta(&keystore), at as u64));
        assert_eq!(verified_prefix(&path), expected, "{end} bytes");
    }
}

#[test]
fn memory_that_has_changed_makes_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keystore-file");
    let mut keystore = keystore(100, 10);
    write(&path, &keystore.freeze(), &meta(&keystore)).unwrap();
    let good = fs::read(&path).unwrap();
    assert!(keystore.rot(b"key-55"));
    let error = write(&path, &keystore.freeze(), &meta(&keystore)).unwrap_err();
    assert!(matches!(error, WriteError::Contents { index: 101, .. }), "{error}");
    assert!(error.to_string().contains("check this machine's memory"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), good, "the old one is untouched");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_checkpoint_goes_at_the_pace_that_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keystore-file");
    let mut keystore = keystore(20_000, 500);
    let (mut asked, mut last) = (0, 0);
    let frozen = keystore.freeze();
    let meta = meta(&keystore);
    let written = write_paced(&path, frozen, &meta, &mut |progress| {
        // Half of the data is written anew while the checkpoint is under way.
        for number in (1..=10_000).filter(|_| asked == 0) {
            let key = format!("key-{number}");
            let operation = Operation::Store {
                verb: StoreVerb::Set,
                key: key.as_bytes(),
                flags: 0,
                deadline_ms: 0,
                value: &[7; 500],
            };
            let index = keystore.applied() + 1;
            keystore.apply(index, &Command { clock_ms: 0, id: None, operation });
        }
        asked += 1;
        assert!(progress.bytes > last && progress.bytes - last < 5 << 20, "{progress:?}");
        assert_eq!(progress.hurries(), asked > 1, "{progress:?}");
        last = progress.bytes;
        Ok(())
    });
    assert!(asked >= 2 && written.unwrap().items == 20_000);
    let stopped = write_paced(
        &path,
        keystore.freeze(),
        &CheckpointMeta { index: keystore.applied(), ..meta },
        &mut |_| Err(io::Error::other("the server stops")),
    );
    assert!(stopped.unwrap_err().to_string().contains("the server stops"));
    assert_eq!(load(&path).unwrap().unwrap().0.applied(), 20_001);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
