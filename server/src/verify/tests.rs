//! Every damaged place is named, and nothing else.

use std::fs;

use common::memcached::StoreVerb;
use raft::{Membership, NodeId};

use super::*;
use crate::backup::About;
use crate::command::{Command, Operation};
use crate::keystore::{Keystore, KeystoreLimits};
use crate::keystore_file::CheckpointMeta;

fn keystore(items: u64) -> (Keystore, CheckpointMeta) {
    let mut keystore = Keystore::new(KeystoreLimits::default());
    for index in 1..=items {
        let key = format!("key-{index}");
        let (verb, key, value) = (StoreVerb::Set, key.as_bytes(), b"value".as_slice());
        let operation = Operation::Store { verb, key, flags: 0, deadline_ms: 0, value };
        keystore.apply(index, &Command { clock_ms: index, id: None, operation });
    }
    let membership = Membership::of_voters([(NodeId(1), b"there".as_slice().into())]);
    let meta = CheckpointMeta { index: items, term: 3, membership };
    (keystore, meta)
}

/// Offsets of the findings, all of which must be damage.
fn offsets(findings: &[Finding]) -> Vec<u64> {
    let damaged = |finding: &Finding| {
        assert_eq!(finding.health, Health::Damaged, "{finding:?}");
        finding.offset.unwrap()
    };
    findings.iter().map(damaged).collect()
}

fn flip(path: &Path, places: &[usize]) {
    let mut bytes = fs::read(path).unwrap();
    for place in places {
        bytes[*place] ^= 0x10;
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn each_bad_block_of_a_checkpoint_and_of_a_backup_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (keystore, meta) = keystore(2000);
    let checkpoint_file = dir.path().join("keystore-file");
    keystore_file::write(&checkpoint_file, &keystore.freeze(), &meta).unwrap();
    let backup = dir.path().join("backup");
    let about = About::new(&keystore.freeze(), &meta, 5);
    let bytes = backup::write_to(Vec::new(), &keystore.freeze(), &meta, &about).unwrap();
    fs::write(&backup, bytes).unwrap();
    let size = fs::metadata(&checkpoint_file).unwrap().len();
    let head = fs::metadata(&backup).unwrap().len() - size;

    let well = checkpoint(&checkpoint_file, None);
    assert!(well[0].what.contains("2000 items as of entry 2000 of term 3"), "{well:?}");
    assert_eq!(backup_file(&backup)[0].health, Health::Well);

    // Inside of items: what is wrong with a block's length hides what follows.
    let bytes = fs::read(&checkpoint_file).unwrap();
    let places = [10_000, 20_000, 60_000]
        .map(|from| from + bytes[from..].windows(5).position(|bytes| bytes == b"value").unwrap());
    flip(&checkpoint_file, &places);
    flip(&backup, &places.map(|place| place + head as usize));
    let bad = offsets(&checkpoint(&checkpoint_file, None));
    assert_eq!(bad.len(), 3, "{bad:?}");
    // A block holds a group, a few items each.
    for (offset, place) in bad.iter().zip(places) {
        assert!((place as u64 - 1000..=place as u64).contains(offset), "{offset} for {place}");
    }
    let shifted: Vec<_> = bad.iter().map(|offset| offset + head).collect();
    assert_eq!(offsets(&backup_file(&backup)), shifted);
}

#[test]
fn the_first_block_the_footer_and_a_lost_end_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (keystore, meta) = keystore(50);
    let path = dir.path().join("keystore-file");
    let written = keystore_file::write(&path, &keystore.freeze(), &meta).unwrap();
    let whole = fs::read(&path).unwrap();
    for place in [12, 30, written.bytes as usize - 1] {
        fs::write(&path, &whole).unwrap();
        flip(&path, &[place]);
        assert_eq!(offsets(&checkpoint(&path, None)).len(), 1, "{place}");
    }
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(offsets(&checkpoint(&path, None)), [written.bytes - 1]);
    fs::remove_file(&path).unwrap();
    assert_eq!(checkpoint(&path, None)[0].health, Health::Missing);
    fs::write(&path, b"something else").unwrap();
    assert_ne!(checkpoint(&path, None)[0].health, Health::Well);
}
