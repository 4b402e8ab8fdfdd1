//! Folders and identities.

use std::fs;

use super::*;

fn identity() -> Identity {
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Identity::new("srv-1", address(6001), address(7001), vec![address(5001)])
}

#[test]
fn a_folder_remembers_who_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("data").join("srv-1");
    let mut folder = Folder::open(&dir).unwrap();
    assert_eq!(folder.identity(), None);
    assert!(folder.adopt(ClusterId(1), ServerId(1)).is_err());
    let mut expected = identity();
    folder.save(expected.clone()).unwrap();
    folder.adopt(ClusterId(7), ServerId(3)).unwrap();
    (expected.cluster, expected.server) = (Some(ClusterId(7)), Some(ServerId(3)));
    assert_eq!(folder.identity(), Some(&expected));
    assert_eq!(Folder::look(&dir).unwrap().as_ref(), Some(&expected));
    drop(folder);
    assert_eq!(Folder::open(&dir).unwrap().identity(), Some(&expected));
    assert_ne!(identity().folder, expected.folder, "each folder has an id of its own");
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    assert_eq!(Folder::read_pid(dir.path()), Some(std::process::id()));
    let error = Folder::open(dir.path()).unwrap_err();
    assert!(matches!(error, FolderError::Lock(FolderLockError::Held { .. })), "{error}");
    drop(folder);
    assert_eq!(Folder::read_pid(dir.path()), None);
    Folder::open(dir.path()).unwrap();
}

#[test]
fn a_damaged_identity_is_refused_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("identity");
    Folder::open(dir.path()).unwrap().save(identity()).unwrap();
    let saved = Folder::look(dir.path()).unwrap();
    let whole = fs::read(&file).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let parsed = parse(&file, &flipped);
        // White space may change, nothing else.
        assert!(parsed.is_err() || parsed.ok() == saved);
    }
    for end in 0..whole.len() - 1 {
        assert!(parse(&file, &whole[..end]).is_err());
    }
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    fs::write(dir.path().join("identity.copy"), b"{}").unwrap();
    let error = Folder::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("identity is damaged") && error.contains("move this"), "{error}");
}

#[test]
fn either_copy_is_enough_and_both_are_there_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("identity"), dir.path().join("identity.copy"));
    Folder::open(dir.path()).unwrap().save(identity()).unwrap();
    let saved = Folder::look(dir.path()).unwrap();
    let whole = fs::read(&first).unwrap();
    assert!(saved.is_some());
    for lost in [&first, &second] {
        for damage in [None, Some(&whole[..whole.len() / 2]), Some(b"")] {
            match damage {
                None => fs::remove_file(lost).unwrap(),
                Some(bytes) => fs::write(lost, bytes).unwrap(),
            }
            assert_eq!(Folder::look(dir.path()).unwrap(), saved);
            assert_eq!(Folder::open(dir.path()).unwrap().identity(), saved.as_ref());
            assert_eq!(fs::read(&first).unwrap(), whole);
            assert_eq!(fs::read(&second).unwrap(), whole);
        }
    }
    // A crash between the two: the first one counts.
    let newer = Identity { name: "srv-2".to_owned(), ..saved.unwrap() };
    let other = tempfile::tempdir().unwrap();
    Folder::open(other.path()).unwrap().save(newer.clone()).unwrap();
    fs::copy(other.path().join("identity"), &first).unwrap();
    assert_eq!(Folder::open(dir.path()).unwrap().identity(), Some(&newer));
    assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
}

#[test]
fn data_without_an_identity_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("log-file")).unwrap();
    let error = Folder::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("identity") && error.contains("missing"), "{error}");
}

#[test]
fn a_newer_identity_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let newer = Identity { format: 3, ..identity() };
    Folder::open(dir.path()).unwrap().save(newer).unwrap();
    let error = Folder::open(dir.path()).unwrap_err();
    assert!(matches!(error, FolderError::NewerVersion { version: 3, .. }), "{error}");
}

#[test]
fn an_identity_of_version_1_has_no_runs_and_gets_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = serde_json::to_value(identity()).unwrap();
    old.as_object_mut().unwrap().remove("runs");
    old["format"] = 1.into();
    let outer = serde_json::json!({ "crc32c": checksum(&old), "identity": old });
    fs::write(dir.path().join("identity"), outer.to_string()).unwrap();
    let mut folder = Folder::open(dir.path()).unwrap();
    let mut identity = folder.identity().unwrap().clone();
    assert_eq!(identity.runs, Runs::default());
    let run = identity.runs.begin(5);
    folder.save(identity).unwrap();
    assert_eq!(run.count, 1);
    drop(folder);
    assert_eq!(Folder::look(dir.path()).unwrap().unwrap().runs.last(), Some(run));
}

#[test]
fn the_run_of_one_that_was_dismissed_is_confirmed_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut folder = Folder::open(dir.path()).unwrap();
    let mut identity = identity();
    for nonce in 1..=40 {
        identity.runs.begin(nonce);
    }
    let dismissed = identity.runs.last().unwrap();
    folder.save(identity).unwrap();
    folder.confirm_last();
    drop(folder);
    let mut found = Folder::look(dir.path()).unwrap().unwrap();
    assert_eq!(found.runs.last(), Some(dismissed));
    assert_eq!(found.runs.begin(50).count, dismissed.count + 1);
}

#[test]
fn a_confirmed_run_is_written_beside() {
    let dir = tempfile::tempdir().unwrap();
    let mut folder = Folder::open(dir.path()).unwrap();
    let mut identity = identity();
    let first = identity.runs.begin(1);
    let second = identity.runs.begin(2);
    folder.save(identity.clone()).unwrap();
    folder.confirm(second);
    // Whatever is written next is written after it.
    folder.adopt(ClusterId(7), ServerId(3)).unwrap();
    folder.confirm(first);
    drop(folder);
    identity.runs.confirm(second);
    let found = Folder::look(dir.path()).unwrap().unwrap();
    assert_eq!((found.runs, found.server), (identity.runs, Some(ServerId(3))));
}
