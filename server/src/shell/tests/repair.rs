//! Servers whose files are damaged while they are down, or under way.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Trio, eventually};

const SMALL: u64 = 256 * 1024;

fn value(number: usize) -> String {
    format!("{number:06}").repeat(1024)
}

/// Three servers with some values, and one of them that follows.
fn filled(checkpoint_after_bytes: u64, values: usize) -> (Trio, u64) {
    let mut trio = Trio::stopped(|_, _| {});
    trio.checkpoint_after_bytes = checkpoint_after_bytes;
    for id in 1..=3 {
        trio.run(id);
    }
    let leader = trio.leader();
    write(&trio, leader, 0..values);
    trio.wait_until_level();
    (trio, if leader == 1 { 2 } else { 1 })
}

fn write(trio: &Trio, id: u64, numbers: std::ops::Range<usize>) {
    let mut client = trio.connect(id);
    for number in numbers {
        assert_eq!(client.set(&format!("key-{number}"), &value(number)), "STORED");
    }
}

/// Waits until the server has all values, and is well.
fn is_whole(trio: &Trio, id: u64, values: usize) {
    trio.wait_until_level();
    let mut client = trio.connect(id);
    for number in 0..values {
        assert!(client.get(&format!("key-{number}")) == value(number), "key-{number}");
    }
    assert_eq!(trio.stat(id, "trouble"), "-");
    assert_eq!(trio.stat(id, "curr_items"), values.to_string());
}

fn said(trio: &Trio, what: &str) {
    let repairs = trio.repairs();
    assert!(repairs.iter().any(|repair| repair.contains(what)), "{repairs:?}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap().flatten() {
        let to = to.join(item.file_name());
        match item.file_type().unwrap().is_dir() {
            true => copy(&item.path(), &to),
            false => drop(fs::copy(item.path(), to).unwrap()),
        }
    }
}

/// Stops a server so that its folder is as if its process had been killed.
fn kill(trio: &mut Trio, id: u64) {
    let (home, kept) = (trio.home(id), trio.dir.path().join("kept"));
    copy(&home, &kept);
    trio.stop(id);
    fs::remove_dir_all(&home).unwrap();
    fs::rename(&kept, &home).unwrap();
}

fn flip(file: &Path, offset: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[offset] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

fn segments(trio: &Trio, id: u64) -> Vec<PathBuf> {
    let items = fs::read_dir(trio.home(id).join("log-file")).unwrap();
    let mut paths: Vec<_> = items.map(|item| item.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "segment"));
    paths.sort();
    paths
}

#[test]
fn lost_entries_are_fetched_from_the_others() {
    let (mut trio, id) = filled(1 << 40, 100);
    kill(&mut trio, id);
    flip(&segments(&trio, id)[0], 200 * 1024);
    trio.run(id);
    is_whole(&trio, id, 100);
    said(&trio, "are to be fetched from the others");
}

#[test]
fn a_damaged_checkpoint_is_made_anew_from_the_log() {
    let (mut trio, id) = filled(1 << 40, 20);
    trio.stop(id);
    let checkpoint = trio.home(id).join("keystore-file");
    let size = fs::metadata(&checkpoint).unwrap().len();
    flip(&checkpoint, size as usize / 2);
    trio.run(id);
    is_whole(&trio, id, 20);
    said(&trio, "keystore-file is lost");
    assert!(trio.home(id).join("keystore-file.damaged").exists());
    eventually("there is a new one", || checkpoint.exists());
}

#[test]
fn a_lost_checkpoint_is_sent_again_when_the_log_is_too_short() {
    let (mut trio, id) = filled(SMALL, 1000);
    trio.stop(id);
    let first = segments(&trio, id)[0].clone();
    assert!(!first.ends_with("0000000001.segment"), "the log is compacted: {first:?}");
    fs::remove_file(trio.home(id).join("keystore-file")).unwrap();
    trio.run(id);
    is_whole(&trio, id, 1000);
    said(&trio, "are to be fetched from the others");
    // It is a whole member again, over another start too.
    trio.stop(id);
    trio.run(id);
    is_whole(&trio, id, 1000);
}

#[test]
fn a_checkpoint_that_turns_out_damaged_is_not_sent() {
    let (mut trio, id) = filled(SMALL, 20);
    let leader = trio.leader();
    trio.stop(id);
    write(&trio, leader, 20..300);
    let checkpoint = trio.home(leader).join("keystore-file");
    eventually("the log is compacted", || {
        write(&trio, leader, 0..10);
        fs::metadata(&checkpoint).is_ok_and(|file| file.len() > 1 << 20)
    });
    flip(&checkpoint, 100_000);
    trio.run(id);
    is_whole(&trio, id, 300);
}

#[test]
fn a_damaged_old_entry_is_replaced_by_a_snapshot() {
    let (mut trio, id) = filled(1 << 40, 5);
    let leader = trio.leader();
    trio.stop(id);
    write(&trio, leader, 5..200);
    // So that nothing of it is in memory any more.
    trio.stop(leader);
    trio.run(leader);
    trio.leader();
    let other = 6 - leader - id;
    eventually("the one that was up all the time leads not", || {
        let leads = trio.leader();
        leads == leader || {
            trio.stop(other);
            trio.run(other);
            false
        }
    });
    let first = &segments(&trio, leader)[0];
    flip(first, 400 * 1024);
    trio.run(id);
    is_whole(&trio, id, 200);
    assert!(trio.home(leader).join("keystore-file").exists());
}

#[test]
fn data_that_differ_are_fetched_anew() {
    let (mut trio, id) = filled(SMALL, 200);
    trio.stop(id);
    super::super::refetch::want(&trio.home(id), "a test").unwrap();
    trio.run(id);
    is_whole(&trio, id, 200);
    said(&trio, "a test: everything is fetched anew");
    assert!(!trio.home(id).join("refetch").exists());
}

#[test]
fn a_server_without_its_log_ends_and_names_the_way_out() {
    let (mut trio, id) = filled(1 << 40, 5);
    trio.stop(id);
    fs::remove_dir_all(trio.home(id).join("log-file")).unwrap();
    trio.run(id);
    let error = trio.end(id).unwrap_err().to_string();
    assert!(error.contains("log-file is missing"), "{error}");
    assert!(error.contains("`store backup`"), "{error}");
    assert!(trio.home(id).join("identity").exists(), "nothing was changed");
}
