//! Backups: there and back, every way to be broken, and over a link.

use std::fs;
use std::net::UdpSocket;
use std::sync::mpsc;

use common::control::{Hello, PROTOCOL_VERSION, Party};
use common::ids::FolderId;
use common::memcached::StoreVerb;
use common::udp::{ClusterKey, Endpoint};
use raft::{Membership, NodeId};

use super::*;
use crate::command::{Command, Operation};
use crate::keystore::KeystoreLimits;

fn keystore(items: u64, value_bytes: usize) -> Keystore {
    let mut keystore = Keystore::new(KeystoreLimits::default());
    for index in 1..=items {
        let (key, value) = (format!("key-{index}"), vec![index as u8; value_bytes]);
        let (verb, key, value) = (StoreVerb::Set, key.as_bytes(), value.as_slice());
        let operation = Operation::Store { verb, key, flags: 7, deadline_ms: 0, value };
        keystore.apply(index, &Command { clock_ms: 1000 + index, id: None, operation });
    }
    keystore
}

fn meta(keystore: &Keystore) -> CheckpointMeta {
    let membership = Membership::of_voters([(NodeId(4), b"there".as_slice().into())]);
    CheckpointMeta { index: keystore.applied(), term: 9, membership }
}

fn contents(keystore: &Keystore) -> Vec<(Vec<u8>, u32, u64, Vec<u8>)> {
    let frozen = keystore.freeze();
    let items = frozen.items();
    let mut items: Vec<_> =
        items.map(|i| (i.key.to_vec(), i.flags, i.cas, i.value.to_vec())).collect();
    items.sort();
    items
}

fn bytes(keystore: &Keystore) -> Vec<u8> {
    let (frozen, meta) = (keystore.freeze(), meta(keystore));
    let about = About { server: "srv-2".to_owned(), ..About::new(&frozen, &meta, 5) };
    write_to(Vec::new(), &frozen, &meta, &about).unwrap()
}

#[test]
fn what_was_backed_up_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup");
    for (items, value_bytes) in [(0, 0), (5, 100), (3000, 300)] {
        let keystore = keystore(items, value_bytes);
        fs::write(&path, bytes(&keystore)).unwrap();
        let read = read(&path).unwrap();
        assert_eq!((read.about.index, read.about.term, read.about.items), (items, 9, items));
        assert_eq!(read.about, about(&path).unwrap());
        assert_eq!(read.meta, meta(&keystore));
        assert_eq!(contents(&read.keystore), contents(&keystore));
        assert!(is_backup(&path));
    }
}

#[test]
fn no_flipped_bit_and_no_lost_end_goes_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup");
    let whole = bytes(&keystore(3, 20));
    // One bit of each byte: the checksums are the same for all of them.
    for bit in (0..whole.len()).map(|byte| byte * 8 + byte % 8) {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &flipped).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "bit {bit}: {error}");
        assert!(!error.contains("move this server"), "bit {bit}: {error}");
    }
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let error = read(&path).unwrap_err();
        assert!(
            matches!(error, BackupError::Truncated { .. } | BackupError::Foreign { .. }),
            "{length}: {error}"
        );
    }
    fs::write(&path, [whole.as_slice(), b"x"].concat()).unwrap();
    assert!(matches!(read(&path), Err(BackupError::Damaged { .. })));
    fs::write(&path, b"something else entirely").unwrap();
    assert!(matches!(read(&path), Err(BackupError::Foreign { .. })));
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup");
    let mut whole = bytes(&keystore(1, 1));
    whole[8] = 2;
    let end = HEAD_BYTES + u32::from_le_bytes(whole[12..16].try_into().unwrap()) as usize;
    let crc = crc32c::crc32c(&whole[..end]);
    whole[end..end + 4].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, whole).unwrap();
    assert!(matches!(read(&path), Err(BackupError::NewerVersion { version: 2, .. })));
}

/// A server that answers operators with `answer`, on a thread of its own.
fn served(
    key: ClusterKey,
    answer: impl Fn(serve::Asked) + Clone + Send + Sync + 'static,
) -> (std::net::SocketAddr, tokio_util::sync::CancellationToken) {
    let (sender, address) = mpsc::channel();
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            let peer = socket.local_addr().unwrap();
            let (cluster, id, folder) = (ClusterId(1), ServerId(1), FolderId(1));
            let from = Party::Member { cluster, id, folder, peer, runs: Vec::new(), disk: None };
            let hello = Hello { version: PROTOCOL_VERSION, from };
            let endpoint = Endpoint::new(socket, &key, hello).unwrap();
            sender.send(peer).unwrap();
            loop {
                tokio::select! {
                    Some((link, _)) = endpoint.accept() => serve::listen(&link, answer.clone()),
                    () = stopped.cancelled() => break,
                }
            }
        });
    });
    (address.recv().unwrap(), stop)
}

#[test]
fn a_backup_travels_over_a_link_with_back_pressure() {
    let keystore = keystore(20_000, 1000);
    let whole = bytes(&keystore).len() as u64;
    assert!(whole > 3 * link::WINDOW_BYTES as u64);
    let frozen = std::sync::Arc::new(std::sync::Mutex::new((3, Some(keystore.freeze()))));
    let meta_there = meta(&keystore);
    let key = ClusterKey::generate();
    let (peer, stop) = served(key.clone(), move |asked| {
        let mut state = frozen.lock().unwrap();
        // Refused at first, as without a leader.
        if state.0 > 0 {
            state.0 -= 1;
            return asked.refuse("no leader", true);
        }
        let Some(frozen) = state.1.take() else { return asked.refuse("there is none", false) };
        let about = About::new(&frozen, &meta_there, 5);
        tokio::spawn(asked.send(frozen, meta_there.clone(), about));
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup");
    let mut file = File::create(&path).unwrap();
    let mut most = 0;
    let fetched = fetch(peer, &key, &mut file, |_, bytes| most = bytes).unwrap();
    assert_eq!(most, fetched.bytes);
    assert_eq!(fetched.bytes, fs::metadata(&path).unwrap().len());
    assert_eq!(contents(&read(&path).unwrap().keystore), contents(&keystore));
    let refused = fetch(peer, &key, &mut Vec::new(), |_, _| ()).unwrap_err();
    assert!(matches!(refused, FetchError::Refused { .. }), "{refused}");
    stop.cancel();
}

#[test]
fn without_the_key_there_is_no_backup() {
    let (peer, stop) = served(ClusterKey::generate(), |asked| asked.refuse("no", false));
    let mut out = Vec::new();
    let error = fetch(peer, &ClusterKey::generate(), &mut out, |_, _| ()).unwrap_err();
    assert!(matches!(error, FetchError::Lost { .. }), "{error}");
    assert!(out.is_empty());
    stop.cancel();
}

#[test]
fn an_output_that_fails_ends_the_backup() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let keystore = keystore(10, 10);
    let meta_there = meta(&keystore);
    let key = ClusterKey::generate();
    let frozen = std::sync::Arc::new(std::sync::Mutex::new(Some(keystore.freeze())));
    let (peer, stop) = served(key.clone(), move |asked| {
        let frozen = frozen.lock().unwrap().take().unwrap();
        let about = About::new(&frozen, &meta_there, 5);
        tokio::spawn(asked.send(frozen, meta_there.clone(), about));
    });
    let error = fetch(peer, &key, &mut Full, |_, _| ()).unwrap_err();
    assert!(matches!(error, FetchError::Output(_)), "{error}");
    stop.cancel();
}
