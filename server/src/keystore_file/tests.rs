//! Checkpoints: there and back, and every way to be broken.

use std::collections::BTreeMap;
use std::fs;

use common::memcached::StoreVerb;
use raft::{Membership, NodeId};

use super::*;
use crate::command::{Command, Operation};
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
