//! Plays `tests/scripts/*.txt`: short stories of a cluster, one behaviour in
//! each, with what must happen.
//!
//! A script begins with its intent, as `#` lines. Then come blocks: commands
//! (see `golden/command.rs`), a line `---`, and what they print, up to an
//! empty line. `ok` stands for nothing. The invariants of `raft::invariants`
//! are checked all along. `UPDATE_SCRIPTS=1` writes what is printed now into
//! the files; then read the difference.

mod golden;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use golden::Cluster;

/// The scripts, by name.
fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let files = std::fs::read_dir(folder).expect("tests/scripts is there");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths
}

/// The script as it would read if what is printed now were right.
fn play(script: &str) -> String {
    let mut cluster = Cluster::new();
    let mut played = String::new();
    let mut lines = script.lines().peekable();
    while let Some(line) = lines.next() {
        let _ = writeln!(played, "{line}");
        if line == "---" {
            while lines.peek().is_some_and(|expected| !expected.is_empty()) {
                lines.next();
            }
            if cluster.lines.is_empty() {
                cluster.lines.push("ok".to_owned());
            }
            for printed in cluster.lines.drain(..) {
                let _ = writeln!(played, "{printed}");
            }
        } else if !line.is_empty() && !line.starts_with('#') {
            cluster.command(line);
        }
    }
    let rest = &cluster.lines;
    assert!(rest.is_empty(), "the script ends without --- behind its last commands: {rest:?}");
    played
}

/// The lines that differ, with what surrounds them.
fn difference(expected: &str, printed: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), printed.lines().collect());
    let same = |(a, b): &(&&str, &&str)| a == b;
    let head = old.iter().zip(&new).take_while(same).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(same).count();
    let mut text = String::new();
    for line in &old[head.saturating_sub(3)..head] {
        let _ = writeln!(text, "  {line}");
    }
    for line in &old[head..old.len() - tail] {
        let _ = writeln!(text, "- {line}");
    }
    for line in &new[head..new.len() - tail] {
        let _ = writeln!(text, "+ {line}");
    }
    text
}

#[test]
fn scripts_play_as_written() {
    let update = std::env::var_os("UPDATE_SCRIPTS").is_some();
    let mut failures = String::new();
    let mut intents = BTreeSet::new();
    let paths = scripts();
    for path in &paths {
        let name = path.file_name().expect("a name").to_string_lossy();
        let script = std::fs::read_to_string(path).expect("a script is text");
        let intent: Vec<_> = script.lines().take_while(|line| line.starts_with("# ")).collect();
        assert!(!intent.is_empty(), "{name} does not begin with its intent");
        assert!(intents.insert(intent.join(" ")), "{name} repeats the intent of another one");
        match catch_unwind(AssertUnwindSafe(|| play(&script))) {
            Ok(played) if played == script => {}
            Ok(played) if update => std::fs::write(path, played).expect("scripts are writable"),
            Ok(played) => {
                let _ = writeln!(failures, "{name}:\n{}", difference(&script, &played));
            }
            Err(_) => {
                let _ = writeln!(failures, "{name}: failed, see above\n");
            }
        }
    }
    assert!(failures.is_empty(), "{failures}UPDATE_SCRIPTS=1 accepts what is printed now");
    assert!(paths.len() >= 60, "only {} scripts: each behaviour has one", paths.len());
}
