//! Every decoder against bytes that nobody should send or store: it answers
//! with an error, never with a panic, and takes no more memory than the input
//! justifies. A fixed corpus and fixed seeds, so that each run is the same;
//! `FUZZ_ROUNDS=100 cargo test --test fuzz` tries more of them.

mod fuzzing;

use std::fs;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use common::config::ClusterFile;
use common::control::{Hello, MemberInfo, ToLb, ToServer};
use common::forward::{ForwardFrame, decode_forward};
use common::memcached::{Parsed, Parser, decode_requests, encode_requests};
use common::udp::ClusterKey;
use fuzzing::{Dice, corpus, fuzz, mutate};
use server::command::Command;
use server::identity::{Folder, Identity};
use server::keystore::{Keystore, KeystoreLimits};
use server::keystore_file::{self, CheckpointMeta};
use server::log_file::{LogFile, LogOptions, look};

/// What is not proportional to the input: error texts, hash tables.
const FIXED_BYTES: usize = 64 * 1024;

#[test]
fn messages_between_servers() {
    fuzz("wire::decode", &corpus::envelopes(), 100_000, FIXED_BYTES, |input| {
        if let Ok(envelope) = server::wire::decode(input) {
            let mut again = Vec::new();
            server::wire::encode(&envelope, &mut again);
            assert_eq!(server::wire::decode(&again), Ok(envelope), "reads what it writes");
        }
    });
}

#[test]
fn forwarded_requests() {
    let frames: Vec<_> = corpus::forwards().iter().map(|frame| frame.to_vec()).collect();
    fuzz("decode_forward", &frames, 50_000, FIXED_BYTES, |input| {
        let frame = Bytes::copy_from_slice(input);
        if let Ok(ForwardFrame::Requests { requests, .. }) = decode_forward(&frame) {
            let _ = decode_requests(requests);
        }
    });
    fuzz("decode_requests", &corpus::batches(), 100_000, FIXED_BYTES, |input| {
        if let Ok(requests) = decode_requests(Bytes::copy_from_slice(input)) {
            let mut again = Vec::new();
            encode_requests(&requests, &mut again);
            assert_eq!(decode_requests(again.into()), Ok(requests), "reads what it writes");
        }
    });
}

/// The parser makes room for a value as soon as it is announced, but for none
/// that is too large.
#[test]
fn what_clients_send() {
    const MAX_VALUE_BYTES: usize = 100_000;
    let fixed = FIXED_BYTES + 2 * MAX_VALUE_BYTES;
    fuzz("memcached::Parser", &corpus::streams(), 50_000, fixed, |input| {
        let mut parser = Parser::new(MAX_VALUE_BYTES);
        let mut buffer = BytesMut::new();
        let mut requests = 0;
        for chunk in input.chunks(1 + input.len() / 3) {
            buffer.extend_from_slice(chunk);
            loop {
                match parser.next(&mut buffer) {
                    Parsed::Request(_) => requests += 1,
                    Parsed::Incomplete => break,
                    Parsed::Binary => return,
                }
                assert!(requests <= input.len() + 1, "the parser makes requests of nothing");
            }
        }
    });
}

/// Whatever decodes can also be applied.
#[test]
fn commands() {
    // The keystore's table is there before anything counts.
    let mut keystore = Keystore::new(KeystoreLimits::default());
    let mut index = 0;
    fuzz("Command::decode", &corpus::commands(), 100_000, 4 * 1024 * 1024, |input| {
        if let Ok(command) = Command::decode(input) {
            let mut again = Vec::new();
            command.encode(&mut again);
            assert_eq!(again, input, "there is one encoding");
            index += 1;
            keystore.apply(index, &command);
        }
    });
    assert!(index > 0);
}

#[test]
fn discovery_and_control() {
    fuzz("parse_get_servers", &corpus::answers(), 50_000, FIXED_BYTES, |input| {
        let _ = common::discovery::parse_get_servers(input);
    });
    fuzz("control messages", &corpus::controls(), 20_000, FIXED_BYTES, |input| {
        let _ = serde_json::from_slice::<Hello>(input);
        let _ = serde_json::from_slice::<ToLb>(input);
        let _ = serde_json::from_slice::<ToServer>(input);
        let _ = serde_json::from_slice::<MemberInfo>(input);
    });
}

#[test]
fn configuration() {
    fuzz("ClusterFile::parse", &corpus::configs(), 20_000, FIXED_BYTES, |input| {
        let text = String::from_utf8_lossy(input);
        if let Ok(file) = ClusterFile::parse(Path::new("config.json"), &text) {
            let _ = file.server(1);
        }
    });
}

/// Makes a file anew: one that is emptied and written again is flushed to the
/// disk by some file systems, which takes its time.
fn put(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).expect("writable");
}

/// The small files of a folder.
#[test]
fn small_files() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("cluster.key");
    let keys = [b"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n".to_vec()];
    fuzz("ClusterKey::load", &keys, 2_000, FIXED_BYTES, |input| {
        put(&path, input);
        let _ = ClusterKey::load(&path);
    });
    let address = "127.0.0.1:6001".parse().expect("an address");
    let identity = Identity::new("srv-1", address, address, vec![address]);
    let identities = [serde_json::to_vec(&identity).expect("is JSON")];
    fuzz("identity", &identities, 2_000, FIXED_BYTES, |input| {
        put(&dir.path().join("identity"), input);
        let _ = Folder::look(dir.path());
    });
}

/// A checkpoint is read back as it was written, or not at all.
#[test]
fn checkpoints() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("keystore-file");
    let mut keystore = Keystore::new(KeystoreLimits::default());
    for index in 1..=20 {
        let key = format!("key-{index}");
        let operation = server::command::Operation::Store {
            verb: common::memcached::StoreVerb::Set,
            key: key.as_bytes(),
            flags: 0,
            deadline_ms: 0,
            value: b"value",
        };
        keystore.apply(index, &Command { clock_ms: 7, id: None, operation });
    }
    let meta = CheckpointMeta { index: 20, term: 3, membership: corpus::membership() };
    keystore_file::write(&path, &keystore.freeze(), &meta).expect("writable");
    let whole = [fs::read(&path).expect("readable")];
    // A keystore alone takes some hundred kilobytes.
    fuzz("keystore_file::load", &whole, 1_000, 1024 * 1024, |input| {
        put(&path, input);
        if let Ok(Some((loaded, found))) = keystore_file::load(&path) {
            assert_eq!((loaded.len(), found), (20, meta.clone()), "damage went unnoticed");
            assert_eq!(input, whole[0], "damage went unnoticed");
        }
    });
}

/// A log whose segments were changed gives back a part of what was written, or
/// says what is wrong; it invents nothing.
#[test]
fn log_segments() {
    let source = tempfile::tempdir().expect("a folder");
    let options = LogOptions { segment_bytes: 1024, ..LogOptions::default() };
    let part = corpus::entries(1).len() as u64;
    let written: Vec<_> = (0..6).flat_map(|at| corpus::entries(1 + at * part)).collect();
    let (mut log, _) = LogFile::open(source.path(), options, 0).expect("a new log");
    for batch in written.chunks(5) {
        log.append(None, batch, batch[0].index - 1).expect("writable");
        log.sync().expect("writable");
    }
    drop(log);
    let files: Vec<_> = fs::read_dir(source.path())
        .expect("readable")
        .map(|file| file.expect("a file").path())
        .map(|path| (path.file_name().expect("a name").to_owned(), fs::read(path).expect("bytes")))
        .collect();
    let mut recovered_parts = 0;
    let which = [files.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<u8>>()];
    // The input only seeds what happens to the files.
    fuzz("log-file", &which, 150, 64 * 1024 * 1024, |input| {
        let mut dice =
            Dice::new(input.iter().fold(7, |sum, &byte| sum * 31 % 1_000_003 + u64::from(byte)));
        let dir = tempfile::tempdir().expect("a folder");
        let victim = dice.below(files.len());
        for (at, (name, bytes)) in files.iter().enumerate() {
            let mut bytes = bytes.clone();
            if at == victim {
                mutate(&mut dice, &mut bytes, &files[0].1);
            }
            fs::write(dir.path().join(name), bytes).expect("writable");
        }
        let _ = look(dir.path());
        if let Ok((_, recovered)) = LogFile::open(dir.path(), options, 0) {
            recovered_parts += 1;
            let same = recovered.entries.iter().zip(&written).all(|(found, entry)| found == entry);
            assert!(same && recovered.entries.len() <= written.len(), "it invents entries");
        }
    });
    assert!(recovered_parts > 0, "some changes only cut the tail");
}
