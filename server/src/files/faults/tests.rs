//! The layer itself.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Errno, Faults, FileId, Kind, Op};
use crate::files::{self, File};

fn errno(error: &std::io::Error) -> Option<i32> {
    error.raw_os_error()
}

#[test]
fn the_journal_holds_each_operation_in_order() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("old"), b"old").unwrap();
    let faults = Faults::watch(dir.path());
    faults.record();
    let sub = dir.path().join("sub");
    files::create_dir_all(&sub).unwrap();
    let mut file = File::create(&sub.join("a")).unwrap();
    file.write_all(b"one").unwrap();
    file.write_all(b"two").unwrap();
    file.write_all_at(b"x", 1).unwrap();
    file.sync_data().unwrap();
    faults.note(7);
    files::rename(&sub.join("a"), &sub.join("b")).unwrap();
    files::sync_dir(&sub).unwrap();
    files::remove_file(&dir.path().join("old")).unwrap();
    assert_eq!(files::read(&sub.join("b")).unwrap(), b"oxetwo");
    let (old, a) = (FileId(1), FileId(2));
    let name = |name: &str| Path::new(name).to_owned();
    let expected = [
        Op::Present(name("old"), old, b"old".to_vec()),
        Op::MakeDir(name("sub")),
        Op::Create(name("sub/a"), a),
        Op::Write(a, 0, b"one".to_vec()),
        Op::Write(a, 3, b"two".to_vec()),
        Op::Write(a, 1, b"x".to_vec()),
        Op::Sync(a),
        Op::Note(7),
        Op::Rename(name("sub/a"), name("sub/b")),
        Op::SyncDir(name("sub")),
        Op::Remove(name("old")),
    ];
    assert_eq!(faults.journal(), expected);
    assert_eq!(faults.used(), 6);
}

#[test]
fn the_call_that_was_chosen_fails_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let faults = Faults::watch(dir.path());
    let file = File::create(&dir.path().join("a")).unwrap();
    let other = File::create(&elsewhere.path().join("a")).unwrap();
    faults.fail(Kind::Write, 1, 1, Errno::Io);
    faults.fail(Kind::Sync, 0, 2, Errno::NoSpace);
    file.write_all_at(b"a", 0).unwrap();
    assert_eq!(errno(&file.write_all_at(b"b", 0).unwrap_err()), Some(5));
    file.write_all_at(b"c", 0).unwrap();
    assert_eq!(errno(&file.sync_data().unwrap_err()), Some(28));
    assert_eq!(errno(&files::sync_dir(dir.path()).unwrap_err()), Some(28));
    file.sync_all().unwrap();
    other.write_all_at(b"a", 0).unwrap();
    other.sync_all().unwrap();
    assert_eq!((faults.calls(Kind::Write), faults.calls(Kind::Sync)), (3, 3));
}

#[test]
fn a_full_disk_takes_what_fits_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::watch(dir.path());
    let file = File::create(&dir.path().join("a")).unwrap();
    faults.quota(Some(5));
    file.write_all_at(b"abc", 0).unwrap();
    assert_eq!(errno(&file.write_all_at(b"defg", 3).unwrap_err()), Some(28));
    assert_eq!(files::read(&dir.path().join("a")).unwrap(), b"abcde");
    // What is there already may be overwritten.
    file.write_all_at(b"xyz", 0).unwrap();
    faults.quota(Some(7));
    file.write_all_at(b"fg", 5).unwrap();
    assert!(file.write_all_at(b"h", 7).is_err());
    File::create(&dir.path().join("a")).unwrap();
    file.write_all_at(b"h", 6).unwrap();
}

#[test]
fn a_read_only_disk_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::watch(dir.path());
    let path = dir.path().join("a");
    let file = File::create(&path).unwrap();
    file.write_all_at(b"abc", 0).unwrap();
    faults.read_only(true);
    assert_eq!(errno(&file.write_all_at(b"d", 0).unwrap_err()), Some(30));
    assert_eq!(errno(&File::open_rw(&path).unwrap_err()), Some(30));
    assert_eq!(errno(&File::create(&dir.path().join("b")).unwrap_err()), Some(30));
    assert_eq!(errno(&files::remove_file(&path).unwrap_err()), Some(30));
    assert_eq!(files::read(&path).unwrap(), b"abc");
    faults.heal();
    files::remove_file(&path).unwrap();
}

#[test]
fn a_slow_disk_takes_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::watch(dir.path());
    let file = File::create(&dir.path().join("a")).unwrap();
    faults.slow_sync(Duration::from_millis(50));
    let start = Instant::now();
    file.sync_data().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(50));
}
