use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::{ClusterKey, Warnings};
use crate::udp::KeyError;

#[test]
fn a_key_file_is_made_once_and_kept_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new-folder/cluster.key");
    assert!(matches!(ClusterKey::load(&path), Err(KeyError::Missing { .. })));
    let key = ClusterKey::load_or_create(&path).unwrap();
    assert_eq!(ClusterKey::load(&path).unwrap(), key);
    assert_eq!(ClusterKey::load_or_create(&path).unwrap(), key);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let files = fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(files, 1, "no copy of the secret lies about");
}

#[test]
fn processes_that_race_end_up_with_one_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.key");
    let keys: Vec<_> = std::thread::scope(|scope| {
        let racers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| ClusterKey::load_or_create(&path).unwrap())).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert!(keys.iter().all(|key| *key == keys[0]));
}

#[test]
fn a_bad_key_file_is_named_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.key");
    let secret = "11".repeat(31);
    let wide = format!("{}é", "1".repeat(62));
    for text in ["", "\n", "abc", &secret, &format!("{secret}zz"), &format!("{secret}-1"), &wide] {
        fs::write(&path, text).unwrap();
        let error = ClusterKey::load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("cluster.key") && error.contains("copy"), "{error}");
        assert!(!error.contains("1111"), "an error never shows the key: {error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "a file is never overwritten");
    }
    let error = ClusterKey::load(dir.path()).unwrap_err();
    assert!(matches!(error, KeyError::Read { .. }), "{error}");
    let error = ClusterKey::load_or_create(&path.join("below-a-file")).unwrap_err();
    assert!(matches!(error, KeyError::Read { .. } | KeyError::Write { .. }), "{error}");
}

#[test]
fn a_key_file_that_others_can_read_is_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.key");
    ClusterKey::load_or_create(&path).unwrap();
    let warnings = Warnings::default();
    let _guard = warnings.collect();
    ClusterKey::load(&path).unwrap();
    assert!(warnings.take().is_empty());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    ClusterKey::load(&path).unwrap();
    let said = warnings.take();
    assert!(said[0].contains("chmod 600") && said[0].contains("644"), "{said:?}");
}

#[test]
fn a_key_never_prints_itself() {
    let key = ClusterKey::from_bytes([0xab; 32]);
    let shown = format!("{key:?}");
    assert_eq!(shown, format!("ClusterKey({})", key.fingerprint()));
    assert!(!shown.contains("abab"));
    assert_eq!(key.fingerprint().len(), 8);
    assert_ne!(key.fingerprint(), ClusterKey::generate().fingerprint());
}
