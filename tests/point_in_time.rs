//! Back to a point in time: the log that servers keep, replayed onto a backup.

mod support;

use std::path::Path;

use serde_json::Value;
use support::background::Background;
use support::cluster::{PATIENCE, TestCluster};
use support::eventually;
use support::ports::free_port;

/// The items of a server's folder that a test stored.
fn items(home: &Background, dir: &str) -> String {
    let items = home.store(&format!("keystore {dir}")).expect(0).out;
    items.lines().filter(|l| !l.starts_with("store-up")).map(|l| format!("{l}\n")).collect()
}

#[test]
fn a_restore_goes_back_to_an_index_or_a_time() {
    let home = Background::new();
    let port = home.up(1);
    home.client(port, "set a 1").expect(0);
    home.store("backup early.backup").expect(0);
    for value in 2..=4 {
        home.client(port, &format!("set a {value}")).expect(0);
        home.client(port, &format!("set only-{value} x")).expect(0);
    }
    home.store("down").expect(0);
    let log = home.store("log store-data/srv-1 --json").expect(0).out;
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |key: &str, value: &str| {
        let entry = entries.iter().find(|e| e["key"] == key && e["value"] == value).unwrap();
        (entry["index"].as_u64().unwrap(), entry["clock_ms"].as_u64().unwrap())
    };
    let (third, third_ms) = find("a", "3");
    let fraction = third_ms % 1000;
    let cases = [
        (format!("--until {third}"), "a 3\nonly-2 x\n"),
        (format!("--until {}", third - 1), "a 2\nonly-2 x\n"),
        (format!("--until @{}.{fraction:03}", third_ms / 1000), "a 3\nonly-2 x\n"),
        (String::new(), "a 4\nonly-2 x\nonly-3 x\nonly-4 x\n"),
    ];
    for (position, (until, expected)) in cases.iter().enumerate() {
        for file in ["early.backup", ""] {
            let dir = format!("new-{position}{file}");
            home.store(&format!("restore {file} --dir {dir} --log store-data/srv-1 {until}"))
                .expect(0);
            assert_eq!(items(&home, &format!("{dir}/srv-1")), *expected, "{until} {file}");
            home.store(&format!("verify {dir}")).expect(0);
        }
    }
    let before = find("a", "1").0 - 1;
    let line = format!("restore early.backup --dir no --log store-data/srv-1 --until {before}");
    home.store(&line).expect(1).complains("already holds");
    let line = "restore early.backup --dir no --log store-data/srv-1 --until 999999";
    home.store(line).expect(1).complains("999999").complains("@");
    let line = "restore early.backup --dir no --log store-data/srv-1 --until 2001-01-01T00:00:00Z";
    home.store(line).expect(1).complains("already holds");
    home.store("restore early.backup --dir no --log nowhere").expect(2).complains("nowhere");
    home.store("restore --dir no --until 5").expect(2).complains("--log");
    assert!(!home.cwd().join("no").exists());
}

#[test]
fn a_log_that_is_kept_reaches_back_to_the_beginning() {
    let mut cluster = TestCluster::empty(1);
    cluster.start_lb();
    let ports = format!("--cport {} --sport {}", free_port(), free_port());
    cluster.start_server_with("srv-1", &format!("{ports} --checkpoint-after 64k --keep-log"));
    cluster.wait_for_servers(1);
    let dir = cluster.home().join("srv-1");
    let archived =
        |dir: &Path| std::fs::read_dir(dir.join("log-file/archive")).map_or(0, Iterator::count);
    let mut server = cluster.connect("srv-1");
    let big = "x".repeat(100_000);
    let mut rounds = 0;
    eventually("segments are archived", PATIENCE, || {
        for _ in 0..10 {
            rounds += 1;
            server.set("big", &big).unwrap();
            server.set("round", &rounds.to_string()).unwrap();
        }
        match archived(&dir) {
            count if count > 1 => Ok(()),
            count => Err(format!("{count} after {rounds} rounds")),
        }
    });
    // Follows, reads and prints what is left while the log moves on.
    let live = cluster.store(&format!("log {} --from {}", dir.display(), 3 * rounds)).expect(0);
    assert!(live.out.lines().all(|line| !line.is_empty()));
    cluster.stop("srv-1");
    cluster.store(&format!("verify {}", dir.display())).expect(0).says("log-file/archive");
    // It is remembered without being asked for again.
    cluster.start_server("srv-1");
    cluster.stop("srv-1");
    let settings = std::fs::read_to_string(dir.join("settings.json")).unwrap();
    assert!(settings.contains("\"keep_log\": true"), "{settings}");

    // Entry 1 is the leader's own; round n comes after 2 n others.
    let first = cluster.store(&format!("log {}", dir.display())).expect(0).out;
    let first: u64 = first.split(' ').next().unwrap().parse().unwrap();
    assert!(first > 10, "the log itself begins later: {first}");
    let line = format!("restore --log {} --until 7 --dir new", dir.display());
    cluster.store(&line).expect(0).says("7 entries");
    let restored = cluster.store("keystore new/srv-1").expect(0).out;
    let round = restored.lines().find_map(|line| line.strip_prefix("round ")).unwrap();
    assert!(["1", "2", "3"].contains(&round), "{round}");
    // Without the archive there is a gap, and it is named.
    std::fs::rename(dir.join("log-file/archive"), dir.join("aside")).unwrap();
    cluster.store(&line.replace("new", "newer")).expect(1).complains("--keep-log");
}
