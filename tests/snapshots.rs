//! Servers for whom the log is too short are sent the checkpoint: new ones,
//! those that were away for long, and those whose transfer broke off.

mod support;

use support::cluster::{PATIENCE, TestCluster};
use support::eventually;
use support::memcached::Connection;

/// Small, so that a few megabytes do what many gigabytes do elsewhere.
const OPTIONS: &str = "--checkpoint-after 256k";

const MEGABYTE: usize = 1 << 20;

/// Three servers whose log is compacted soon.
fn cluster() -> TestCluster {
    let mut cluster = TestCluster::empty(3);
    cluster.start_lb();
    for number in 1..=3 {
        start(&mut cluster, &format!("srv-{number}"));
    }
    cluster.wait_for_servers(3);
    cluster
}

fn start(cluster: &mut TestCluster, name: &str) {
    let (client, peer) = (support::ports::free_port(), support::ports::free_port());
    let known = cluster.home().join(name).join("settings.json").exists();
    let ports = if known { String::new() } else { format!("--cport {client} --sport {peer}") };
    cluster.start_server_with(name, &format!("{ports} {OPTIONS}"));
}

/// Writes `count` values of `bytes` bytes, and waits until each of `names` has
/// compacted its log behind a checkpoint of most of them.
fn fill(cluster: &mut TestCluster, count: usize, bytes: usize) {
    let leader = cluster.wait_for_leader(PATIENCE);
    let mut connection = cluster.connect(&leader);
    for number in 0..count {
        let value = format!("{number:08}").repeat(bytes / 8);
        assert_eq!(connection.set(&format!("key-{number}"), &value).unwrap(), "STORED");
    }
    compact(cluster, &mut connection);
}

/// Overwrites one value until all running servers have a checkpoint of now.
fn compact(cluster: &mut TestCluster, connection: &mut Connection) {
    let stats = connection.stats().unwrap();
    let applied: u64 = stats["raft_applied"].parse().unwrap();
    eventually("every server has compacted its log", PATIENCE, || {
        for _ in 0..8 {
            connection.set("overwritten", &"x".repeat(MEGABYTE / 8)).map_err(|e| e.to_string())?;
        }
        for name in cluster.running() {
            let log_from = last_number(&cluster.server(&name).log_text(), "log_from=");
            if log_from.is_none_or(|first| first <= applied) {
                return Err(format!("{name} keeps its log from {log_from:?}, wanted {applied}"));
            }
        }
        Ok(())
    });
}

/// The number behind the last `field` of a server's log.
fn last_number(log: &str, field: &str) -> Option<u64> {
    let rest = log.rsplit_once(field)?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Asserts that all running servers end with the same data, of which `name`
/// got most in a snapshot.
fn level(cluster: &mut TestCluster, name: &str) {
    cluster.wait_until_level();
    let log = cluster.server(name).log_text();
    assert!(log.contains("going on with the snapshot"), "{log}");
    let names = cluster.running();
    for name in &names {
        cluster.stop(name);
    }
    let print = |name: &String| {
        let dir = cluster.home().join(name);
        cluster.store(&format!("keystore {}", dir.display())).expect(0).out
    };
    let first = print(&names[0]);
    for other in &names[1..] {
        assert!(print(other) == first, "the keystores of {} and {other} differ", names[0]);
    }
}

fn follower(cluster: &TestCluster, leader: &str) -> String {
    cluster.running().into_iter().find(|name| name != leader).unwrap()
}

/// Waits until so many bytes of a snapshot have arrived at `name`.
fn wait_for_bytes(cluster: &TestCluster, name: &str, bytes: u64) {
    let side = cluster.home().join(name).join("keystore-file.incoming");
    eventually("a snapshot is half there", PATIENCE, || {
        let length = std::fs::metadata(&side).map_or(0, |file| file.len());
        if length >= bytes { Ok(()) } else { Err(format!("{length} bytes")) }
    });
}

/// The leader, and a follower that was killed before all that it has since.
fn leave_one_behind(cluster: &mut TestCluster, sets: usize, bytes: usize) -> (String, String) {
    let leader = cluster.wait_for_leader(PATIENCE);
    let behind = follower(cluster, &leader);
    cluster.kill9(&behind);
    fill(cluster, sets, bytes);
    start(cluster, &behind);
    (leader, behind)
}

#[test]
fn a_new_server_is_sent_the_checkpoint() {
    let mut cluster = cluster();
    fill(&mut cluster, 40, MEGABYTE / 8);
    start(&mut cluster, "srv-4");
    cluster.wait_for_servers(4);
    eventually("it votes", PATIENCE, || {
        let stats = cluster.connect("srv-4").stats().map_err(|error| error.to_string())?;
        match stats["raft_role"].as_str() {
            "follower" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    level(&mut cluster, "srv-4");
}

#[test]
fn one_that_was_away_for_long_is_sent_the_checkpoint() {
    let mut cluster = cluster();
    let (_, behind) = leave_one_behind(&mut cluster, 40, MEGABYTE / 8);
    level(&mut cluster, &behind);
}

#[test]
fn a_transfer_goes_on_where_it_broke_off() {
    let mut cluster = cluster();
    let (_, behind) = leave_one_behind(&mut cluster, 48, MEGABYTE - 64);
    wait_for_bytes(&cluster, &behind, 12 << 20);
    cluster.kill9(&behind);
    start(&mut cluster, &behind);
    level(&mut cluster, &behind);
    let log = std::fs::read_to_string(cluster.home().join(&behind).join("server.log")).unwrap();
    let resumed = log.split("a snapshot goes on arriving").nth(1).expect("it goes on");
    let bytes = last_number(resumed.lines().next().unwrap(), "bytes=").unwrap();
    assert!(bytes >= 8 << 20, "most of what was there is used: {bytes}");
}

#[test]
fn another_server_goes_on_when_the_sender_dies() {
    let mut cluster = cluster();
    let (leader, behind) = leave_one_behind(&mut cluster, 48, MEGABYTE - 64);
    wait_for_bytes(&cluster, &behind, 12 << 20);
    cluster.kill9(&leader);
    let next = cluster.wait_for_leader(PATIENCE);
    assert_ne!(next, leader);
    level(&mut cluster, &behind);
}
