//! What the printers show.

use bytes::Bytes;
use common::memcached::{Arithmetic, StoreVerb};
use raft::{Body, Entry, Membership, NodeId};

use super::text::{put_key, put_value};
use super::*;
use crate::command::{Command, Operation, Payload};
use crate::keystore::{Keystore, KeystoreLimits};
use crate::keystore_file::{self, CheckpointMeta};
use crate::log_file::{LogFile, LogOptions};
use crate::offline::command;

fn store(verb: StoreVerb, key: &'static [u8], value: &'static [u8]) -> Operation<'static> {
    Operation::Store { verb, key, flags: 0, deadline_ms: 0, value }
}

fn entry(index: Index, operation: Operation<'_>) -> Entry<Payload> {
    let mut bytes = Vec::new();
    Command { clock_ms: 1, id: None, operation }.encode(&mut bytes);
    Entry { index, term: 1, body: Body::Command(Payload(Bytes::from(bytes))) }
}

fn entries() -> Vec<Entry<Payload>> {
    let arithmetic = |operation, delta| Operation::Arithmetic { operation, key: b"n", delta };
    vec![
        Entry { index: 1, term: 1, body: Body::Noop },
        Entry {
            index: 2,
            term: 1,
            body: Body::Membership(Membership::of_voters([(NodeId(1), b"".as_slice().into())])),
        },
        entry(3, store(StoreVerb::Set, b"greeting", b"hello world")),
        entry(4, store(StoreVerb::Append, b"greeting", b"!\r\n")),
        entry(5, store(StoreVerb::Prepend, b"greeting", b"\"")),
        entry(6, store(StoreVerb::Set, b"n", b"10")),
        entry(7, arithmetic(Arithmetic::Incr, 5)),
        entry(8, arithmetic(Arithmetic::Decr, 1)),
        entry(9, store(StoreVerb::Add, b"gone", b"(x)")),
        entry(10, Operation::Delete { key: b"gone" }),
        entry(11, store(StoreVerb::Set, "schl\u{fc}ssel".as_bytes(), "gr\u{fc}n".as_bytes())),
        entry(12, store(StoreVerb::Set, b"later", b"not committed")),
    ]
}

const LOG: &str = "\
3 greeting hello world
4 greeting (append \"!\\r\\n\")
5 greeting (prepend \"\\\"\")
6 n 10
7 n (incr 5)
8 n (decr 1)
9 gone \"(x)\"
10 gone (delete)
11 schl\u{fc}ssel gr\u{fc}n
";

const KEYSTORE: &str = "\
greeting \"\\\"hello world!\\r\\n\"
n 14
schl\u{fc}ssel gr\u{fc}n
";

fn log_text(dir: &Path, options: PrintOptions) -> String {
    let mut out = Vec::new();
    print_log(dir, &mut out, options).unwrap();
    String::from_utf8(out).unwrap()
}

fn keystore_text(dir: &Path) -> String {
    let mut out = Vec::new();
    print_keystore(dir, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn committed_entries_and_items_are_printed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (mut log, _) = LogFile::open(&dir.join("log-file"), LogOptions::default(), 0).unwrap();
    log.append(None, &entries(), 11).unwrap();
    // Once while its owner has it open, once after.
    assert_eq!(log_text(dir, PrintOptions::default()), LOG);
    assert_eq!(keystore_text(dir), KEYSTORE);
    drop(log);
    assert_eq!(log_text(dir, PrintOptions::default()), LOG);
    let some = PrintOptions { from: Some(6), to: Some(7), ..PrintOptions::default() };
    assert_eq!(log_text(dir, some), "6 n 10\n7 n (incr 5)\n");
    let all = PrintOptions { to: Some(3), all: true, ..PrintOptions::default() };
    let expected = "1 (noop)\n2 (membership 1 voters, 0 learners)\n3 greeting hello world\n";
    assert_eq!(log_text(dir, all), expected);
    let beyond = PrintOptions { from: Some(50), ..PrintOptions::default() };
    assert_eq!(log_text(dir, beyond), "");
}

#[test]
fn the_keystore_is_the_checkpoint_and_the_log_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (mut log, _) = LogFile::open(&dir.join("log-file"), LogOptions::default(), 0).unwrap();
    log.append(None, &entries(), 11).unwrap();
    let mut keystore = Keystore::new(KeystoreLimits::default());
    for entry in &entries()[..7] {
        match &entry.body {
            Body::Command(payload) => {
                keystore.apply(entry.index, &command(entry.index, payload).unwrap());
            }
            _ => keystore.advance(entry.index),
        }
    }
    let meta = CheckpointMeta { index: 7, term: 1, membership: Membership::default() };
    keystore_file::write(&dir.join("keystore-file"), &keystore.freeze(), &meta).unwrap();
    assert_eq!(keystore_text(dir), KEYSTORE);
}

#[test]
fn nothing_there_is_an_error_that_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let error = print_log(dir.path(), &mut Vec::new(), PrintOptions::default()).unwrap_err();
    assert!(error.to_string().contains("log-file"), "{error}");
}

#[test]
fn every_value_is_one_line() {
    let value = |bytes: &[u8]| {
        let mut out = Vec::new();
        put_value(&mut out, bytes);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(value(b"plain text (really) \\ \"so\""), "plain text (really) \\ \"so\"");
    assert_eq!(value(b""), "\"\"");
    assert_eq!(value(b" x"), "\" x\"");
    assert_eq!(value(b"x "), "\"x \"");
    assert_eq!(value(b"(x"), "\"(x\"");
    assert_eq!(value(b"\"x\\"), "\"\\\"x\\\\\"");
    assert_eq!(value(b"a\xff\x00\tb"), "\"a\\xff\\x00\\tb\"");
    assert_eq!(value("a\u{85}b\u{2028}".as_bytes()), "\"a\\xc2\\x85b\\xe2\\x80\\xa8\"");
    let mut key = Vec::new();
    put_key(&mut key, b"a b");
    assert_eq!(key, b"\"a b\"");
}
