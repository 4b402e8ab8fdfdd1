//! A folder of each released format opens for ever: the commands print exactly
//! what is stored beside it, and a server starts from it.
//!
//! `UPDATE_GOLDEN=1 cargo test --test golden_folders` makes the folder of the
//! newest format if it is not there, and writes what the commands print.

mod golden_maker;
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::background::Background;
use support::copy_folder;
use support::ports::free_port;
use support::process::{STORE, run};

/// Commands, and the files that hold what they print.
const PRINTED: &[(&str, &str)] = &[
    ("log srv-1", "log.txt"),
    ("log srv-1 --all", "log-all.txt"),
    ("log srv-1 --all --json", "log.json"),
    ("keystore srv-1", "keystore.txt"),
    ("keystore srv-1 --json", "keystore.json"),
    ("verify srv-1 backup", "verify.txt"),
];

/// The folder of the formats that this program writes.
const NEWEST: &str = "v2";

fn golden() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden_folders");
    if updates() && !dir.join(NEWEST).exists() {
        golden_maker::make(&dir.join(NEWEST)).unwrap();
    }
    let mut versions: Vec<_> =
        fs::read_dir(dir).unwrap().map(|item| item.unwrap().path()).collect();
    versions.sort();
    assert!(!versions.is_empty());
    versions
}

fn updates() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

#[test]
fn every_released_folder_opens() {
    for version in golden() {
        the_commands_print_what_is_stored_beside(&version);
        servers_start_from(&version);
    }
}

fn the_commands_print_what_is_stored_beside(version: &Path) {
    let home = Background::new();
    let dir = home.cwd().join("version");
    copy_folder(version, &dir);
    for (line, file) in PRINTED {
        let args: Vec<_> = line.split(' ').collect();
        let finished = run(STORE, &dir, &args).expect(0);
        if updates() {
            fs::write(version.join(file), &finished.out).unwrap();
        }
        let stored = fs::read_to_string(version.join(file)).unwrap();
        assert!(finished.out == stored, "`{line}` does not print {file}:\n{}", finished.out);
    }
}

fn servers_start_from(version: &Path) {
    let home = Background::new();
    let ports = || format!("--cport {} --sport {}", free_port(), free_port());
    let items = fs::read_to_string(version.join("keystore.txt")).unwrap();
    copy_folder(&version.join("srv-1"), &home.home().join("srv-1"));
    home.store(&format!("addlb {} --expect 1", ports())).expect(0);
    let settings = fs::read_to_string(home.home().join("lb-1/settings.json")).unwrap();
    let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
    let lb = settings["server"].as_str().unwrap();
    home.store(&format!("addsrv --name srv-1 --lb {lb} {}", ports())).expect(0).says("leader");
    home.store("down").expect(0);
    assert_eq!(home.store("keystore store-data/srv-1").expect(0).out, items);
    home.store("verify store-data").expect(0);

    fs::copy(version.join("backup"), home.cwd().join("a.backup")).unwrap();
    home.store(&format!("restore a.backup --dir new {}", ports())).expect(0);
    assert_eq!(home.store("keystore new/srv-1").expect(0).out, items);
    // The archive reaches back to the beginning.
    copy_folder(&version.join("srv-1"), &home.cwd().join("golden"));
    let until = "--until 2026-03-01T12:00:04Z";
    home.store(&format!("restore --log golden {until} --dir early {}", ports()))
        .expect(0)
        .says("5 entries");
    let early = home.store("keystore early/srv-1").expect(0).out;
    assert_eq!(early, "key-1 x\nkey-2 xx\nkey-3 xxx\nkey-4 xxxx\n");
}
