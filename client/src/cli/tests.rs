use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::*;
use crate::testing::{Act, Fake, refusing_address, reply};

/// Runs `client` with these words and gives exit code, stdout and stderr.
fn client(words: &[&str], stdin: &[u8]) -> (u8, Vec<u8>, String) {
    let (mut stdin, mut stdout, mut stderr) = (stdin, Vec::new(), Vec::new());
    let mut console =
        Console { stdin: &mut stdin, stdout: &mut stdout, stderr: &mut stderr, interactive: false };
    let arguments = ["client"].iter().chain(words).map(OsString::from);
    let code = run(arguments, &mut console);
    (code, stdout, String::from_utf8(stderr).unwrap())
}

struct Store {
    store: Fake,
    server: String,
}

impl Store {
    fn new() -> Self {
        let store = Fake::store();
        let server = format!("--server={}", store.address);
        Store { store, server }
    }

    fn run(&self, words: &[&str]) -> (u8, String, String) {
        let words: Vec<&str> = [self.server.as_str()].iter().chain(words).copied().collect();
        let (code, stdout, stderr) = client(&words, b"");
        (code, String::from_utf8(stdout).unwrap(), stderr)
    }

    fn code(&self, words: &[&str]) -> u8 {
        self.run(words).0
    }

    fn out(&self, words: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(words);
        assert_eq!((code, stderr.as_str()), (DONE, ""), "{words:?}");
        stdout
    }
}

#[test]
fn the_forms_of_the_first_version() {
    let store = Fake::store();
    let lb = Fake::lb(&Arc::new(Mutex::new(vec![store.address])));
    let port = lb.address.port().to_string();
    let through = ["-lbip", "127.0.0.1", "-lbport", &port];
    let set = [&["set", "-key", "abc", "-value", "1"], &through[..]].concat();
    assert_eq!(client(&set, b""), (DONE, b"Success\n".to_vec(), String::new()));
    let get = [&["get", "-keys", "abc", "b"], &through[..]].concat();
    let (code, stdout, stderr) = client(&get, b"");
    assert_eq!((code, stdout.as_slice()), (SAID_NO, &b"abc 1\n"[..]));
    assert_eq!(stderr, "not found: b\n");
    let double = ["--lbip=127.0.0.1", "--lbport", &port, "get", "--keys", "abc"];
    assert_eq!(client(&double, b"").0, DONE);
    let lb = format!("{}", lb.address);
    assert_eq!(client(&["get", "abc", "--lb", &lb], b"").0, DONE);
    assert_eq!(store.log().len(), 4);
}

#[test]
fn every_command() {
    let store = Store::new();
    assert_eq!(store.out(&["set", "a", "hello world"]), "Success\n");
    assert_eq!(store.out(&["get", "a"]), "a hello world\n");
    assert_eq!(store.run(&["add", "a", "x"]).2, "not stored: `a` exists already\n");
    assert_eq!(store.code(&["replace", "b", "x"]), SAID_NO);
    assert_eq!(store.out(&["append", "a", "!"]), "Success\n");
    assert_eq!(store.out(&["prepend", "a", ">"]), "Success\n");
    assert_eq!(store.out(&["gets", "a"]), "a 3 >hello world!\n");
    assert_eq!(store.out(&["cas", "a", "5", "3"]), "Success\n");
    assert_eq!(store.code(&["cas", "a", "6", "3"]), SAID_NO);
    assert_eq!(store.out(&["incr", "a"]), "6\n");
    assert_eq!(store.out(&["incr", "a", "10"]), "16\n");
    assert_eq!(store.out(&["decr", "a", "100"]), "0\n");
    assert_eq!(store.code(&["incr", "none"]), SAID_NO);
    assert_eq!(store.out(&["delete", "a"]), "Deleted\n");
    assert_eq!(store.run(&["delete", "a"]), (SAID_NO, String::new(), "not found: a\n".into()));
    assert_eq!(store.out(&["version"]), "1.0.0\n");
    assert_eq!(store.out(&["stats"]), "pid 1\nversion 1.0.0\n");
    assert_eq!(store.out(&["set", "n", "-5", "--flags", "7"]), "Success\n");
    assert_eq!(store.store.log().last().unwrap(), "set n 7 0 2");
    assert_eq!(store.code(&["incr", "n"]), SAID_NO);
}

#[test]
fn values_are_bytes() {
    let store = Store::new();
    let value = b"\x00\xff\r\nEND\r\n";
    assert_eq!(client(&[&store.server, "set", "bin", "-"], value).0, DONE);
    assert_eq!(client(&[&store.server, "get", "bin", "--value-only"], b"").1, value);
    assert_eq!(store.out(&["get", "bin"]), "bin \\x00\\xff\\r\\nEND\\r\\n\n");
    let (_, raw, _) = client(&[&store.server, "get", "--raw", "bin"], b"");
    assert_eq!(raw, [b"bin ", &value[..], b"\n"].concat());
    assert_eq!(store.code(&["get", "a", "b", "--value-only"]), USAGE);
    store.out(&["set", "text", "größe"]);
    assert_eq!(store.out(&["get", "text"]), "text größe\n");
}

#[test]
fn usage() {
    for words in [
        &[][..],
        &["huh"],
        &["set"],
        &["set", "a"],
        &["set", "-key", "a"],
        &["get"],
        &["incr", "a", "x"],
        &["get", "a", "--timeout", "1parsec"],
        &["get", "a", "--lbport", "100001"],
        &["get", "a", "--lb", "nowhere"],
        &["get", "a", "--server", "127.0.0.1:99999"],
        &["set", "a b", "1"],
        &["bench", "--connections", "0"],
        &["bench", "--ratio", "2"],
        &["bench", "--requests", "0"],
    ] {
        let (code, stdout, stderr) = client(words, b"");
        assert_eq!(code, USAGE, "{words:?}: {stderr}");
        assert!(stdout.is_empty() && !stderr.is_empty(), "{words:?}");
    }
    for words in [&["--help"][..], &["set", "--help"], &["bench", "--help"], &["--version"]] {
        let (code, stdout, stderr) = client(words, b"");
        assert_eq!((code, stderr.as_str()), (DONE, ""));
        assert!(!stdout.is_empty());
    }
}

#[test]
fn unreachable_and_unknown() {
    let nobody: SocketAddr = refusing_address();
    let lb = format!("--lb={nobody}");
    let (code, stdout, stderr) = client(&["get", "a", &lb, "--timeout", "300ms"], b"");
    assert_eq!((code, stdout.len()), (UNREACHABLE, 0));
    assert!(stderr.contains(&nobody.to_string()) && stderr.contains("store up"), "{stderr}");
    let (code, _, stderr) = client(&["bench", &lb, "--timeout", "300ms"], b"");
    assert_eq!(code, UNREACHABLE, "{stderr}");

    let closes = Fake::start(|_, _| Act::Close);
    let server = format!("--server={}", closes.address);
    let (code, _, stderr) = client(&[&server, "incr", "a"], b"");
    assert_eq!(code, UNREACHABLE);
    assert!(stderr.contains("may or may not"), "{stderr}");

    let full = Fake::start(|_, _| reply("SERVER_ERROR out of memory storing object\r\n"));
    let server = format!("--server={}", full.address);
    let (code, _, stderr) = client(&[&server, "set", "a", "1"], b"");
    assert_eq!(code, SAID_NO);
    assert!(stderr.contains("out of memory"), "{stderr}");
}

#[test]
fn the_shell_runs_lines() {
    let store = Store::new();
    let script = b"set a hello world\n\nget a\nincr n\nset n 1\nincr n 4\ndecr n\ngets n\n\
        cas 3 n 9\nadd a x\ndelete a\nhuh\nset x\nversion\nstats\nhelp\nquit\nget never\n";
    let (code, stdout, stderr) = client(&[&store.server, "shell"], script);
    let stdout = String::from_utf8(stdout).unwrap();
    assert_eq!(code, USAGE);
    assert!(stdout.starts_with("Success\na hello world\nSuccess\n5\n4\nn 4 4\n"), "{stdout}");
    assert!(!stdout.contains("store>") && !stdout.contains("never"));
    assert!(stderr.contains("no such command: huh"), "{stderr}");
    assert!(!store.store.log().iter().any(|line| line.contains("never")));
    let (code, _, _) = client(&[&store.server, "shell"], b"set a 1\nget a");
    assert_eq!(code, DONE);
}

#[test]
fn bench_writes_json() {
    let store = Store::new();
    let words = ["bench", "--op", "mix", "--requests", "300", "-c", "3", "--keys", "50"];
    let (code, stdout, stderr) = store.run(&[&words[..], &["--json", "-"]].concat());
    assert_eq!(code, DONE, "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["ops"], 300);
    assert_eq!(report["hit_rate"], 1.0);
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let text = store.out(&[&words[..], &["--json", path]].concat());
    assert!(text.contains("client CPU"), "{text}");
    assert!(std::fs::read_to_string(path).unwrap().contains("\"p999\""));
}
