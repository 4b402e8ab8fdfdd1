//! Habits that a compiler does not check: short files and functions, no
//! leftovers, no calls that break a room's promise, no file without a room.

use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, in lines.
const FILE_LINES: usize = 500;

/// Longest function, in lines.
const FUNCTION_LINES: usize = 90;

/// What must not be left behind, and where it is allowed. Written in pieces,
/// so that this file does not find itself.
const LEFTOVERS: &[&[&str]] = &[
    &["to", "do!("],
    &["unimple", "mented!("],
    &["db", "g!("],
    &["#[ig", "nore"],
    &["FIX", "ME"],
    &["TO", "DO"],
    &["XX", "X"],
];

/// Calls that a room promises to do without, and why.
const BANNED: &[Ban] = &[
    Ban {
        room: "server/raft/src/",
        calls: &["std::", "tokio", "Instant::now", "SystemTime", "HashMap", "println!"],
        why: "the core is pure: inputs in, outputs out, the same on every run",
    },
    Ban {
        room: "server/src/keystore/",
        calls: &["SystemTime", "Instant::now", "std::fs", "std::net", "tokio::"],
        why: "applying an entry must give the same on every server: time is the entry's",
    },
    Ban {
        room: "server/src/driver/",
        calls: &["SystemTime", "Instant::now", "std::fs", "TcpStream", "UdpSocket", "tokio::net"],
        why: "the driver stays free of IO, so that every layout of threads remains possible",
    },
    Ban {
        room: "server/src/membership",
        calls: &["SystemTime", "Instant::now", "std::fs", "std::net", "tokio::", "rand::"],
        why: "what is decided about members is pure: the simulator runs it, too",
    },
    Ban {
        room: "common/src/memcached/",
        calls: &["std::fs", "std::net", "tokio::", "Instant::now", "SystemTime"],
        why: "the codec is pure: bytes in, requests out",
    },
    Ban {
        room: "lb/src/balancer",
        calls: &["std::fs", "tokio::", "Instant::now", "SystemTime", "rand::"],
        why: "what the load balancer decides is a state machine without IO",
    },
    Ban {
        room: "server/src/",
        calls: &["mmap", "io_uring", "rustix", "tokio::fs"],
        why: "all file access goes through std::fs, so that every write and sync can be seen",
    },
    Ban {
        room: "server/src/",
        calls: &["std::fs", "std::os::unix::fs", "fs::File", "OpenOptions"],
        why: "files are reached through server/src/files, where tests put faults and a journal",
    },
];

/// Rooms that a ban does not concern: where, and how the ban's reason begins.
const FREE: &[(&str, &str)] = &[
    // It is what the others go through.
    ("server/src/files/", "files are reached through server/src/files"),
];

struct Ban {
    room: &'static str,
    calls: &'static [&'static str],
    why: &'static str,
}

/// Where files may lie; see docs/architecture.md.
const ROOMS: &[&str] = &[
    "src/bin/client.rs",
    "src/bin/store/",
    "common/",
    "server/",
    "lb/",
    "client/",
    "tests/",
    "benches/",
    "docs/",
    ".ci/",
    ".cargo/",
    "README.md",
    "LICENSE",
    "Cargo.toml",
    "Cargo.lock",
    "rustfmt.toml",
    ".gitignore",
];

/// What a build or a run leaves in the tree.
const NOT_OURS: &[&str] = &["target", "tests/raft_bench/target", ".git", "store-data"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the repository, relative to its root.
fn files() -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            if NOT_OURS.contains(&name.as_str()) {
                continue;
            }
            match path.is_dir() {
                true => folders.push(path),
                false => files.push((name, path)),
            }
        }
    }
    files.sort();
    files
}

/// Rust files with their lines.
fn sources() -> Vec<(String, Vec<String>)> {
    let rust = files().into_iter().filter(|(name, _)| name.ends_with(".rs"));
    rust.map(|(name, path)| (name, lines(&path))).collect()
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn files_are_short() {
    let long: Vec<_> = sources()
        .iter()
        .filter(|(_, lines)| lines.len() > FILE_LINES)
        .map(|(name, lines)| format!("{name}: {} lines", lines.len()))
        .collect();
    assert_none(&format!("files of more than {FILE_LINES} lines"), &long);
}

/// Whether a line begins a function, at whatever depth.
fn begins_function(line: &str) -> bool {
    let words = line.trim_start();
    let words = words.strip_prefix("pub").unwrap_or(words);
    let words = match words.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((_, rest)) => rest,
        None => words,
    };
    let mut words = words.split_whitespace();
    loop {
        match words.next() {
            Some("fn") => return true,
            Some("async" | "const" | "unsafe") => {}
            _ => return false,
        }
    }
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for (name, lines) in sources() {
        for (start, line) in lines.iter().enumerate() {
            if !begins_function(line) || line.ends_with(';') || line.ends_with('}') {
                continue;
            }
            // rustfmt has run: a function ends with a brace in its own column.
            let indent = line.len() - line.trim_start().len();
            let end = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|line| *line == end).map_or(0, |n| n + 1);
            if length > FUNCTION_LINES {
                long.push(format!("{name}:{}: {length} lines", start + 1));
            }
        }
    }
    assert_none(&format!("functions of more than {FUNCTION_LINES} lines"), &long);
}

#[test]
fn nothing_is_left_over() {
    let mut found = Vec::new();
    for (name, lines) in sources() {
        for (number, line) in lines.iter().enumerate() {
            for leftover in LEFTOVERS {
                let leftover = leftover.concat();
                if line.contains(&leftover) {
                    found.push(format!("{name}:{}: {leftover}", number + 1));
                }
            }
        }
    }
    assert_none("leftovers", &found);
}

/// The lines of a file up to its tests: those may do what they like.
fn product(lines: &[String]) -> impl Iterator<Item = (usize, &str)> {
    let end = lines.iter().position(|line| line == "mod tests {").unwrap_or(lines.len());
    lines[..end].iter().map(String::as_str).enumerate()
}

fn is_free(name: &str, ban: &Ban) -> bool {
    FREE.iter().any(|(room, why)| name.starts_with(room) && ban.why.starts_with(why))
}

#[test]
fn rooms_keep_their_promises() {
    let mut found = Vec::new();
    for (name, lines) in sources() {
        let is_test = name.ends_with("tests.rs") || name.contains("/tests/");
        let applies = |ban: &&Ban| name.starts_with(ban.room) && !is_test;
        for ban in BANNED.iter().filter(applies).filter(|ban| !is_free(&name, ban)) {
            for (number, line) in product(&lines) {
                let code = line.split("//").next().unwrap_or("");
                for call in ban.calls.iter().filter(|call| code.contains(**call)) {
                    found.push(format!("{name}:{}: `{call}`: {}", number + 1, ban.why));
                }
            }
        }
    }
    assert_none("calls that are banned there", &found);
}

#[test]
fn every_file_has_a_room() {
    let homeless: Vec<_> = files()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| !ROOMS.iter().any(|room| name.starts_with(room)))
        .collect();
    assert_none("files in no room of docs/architecture.md", &homeless);
}
