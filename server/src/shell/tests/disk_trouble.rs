//! Disks that are full, slow or broken, under servers that run.

use std::time::{Duration, Instant};

use super::{Trio, eventually};
use crate::BeginAgain;
use crate::files::faults::{Errno, Faults, Kind};

const FULL: &str = "SERVER_ERROR disk full, not executed";

/// Three servers and their disks.
fn trio() -> (Trio, Vec<Faults>) {
    let mut disks = Vec::new();
    let trio = Trio::start(|_, home| disks.push(Faults::watch(home)));
    (trio, disks)
}

fn others(id: u64) -> Vec<u64> {
    (1..=3).filter(|other| *other != id).collect()
}

fn large(number: usize) -> String {
    format!("{number:08}").repeat(32 * 1024)
}

#[test]
fn leadership_goes_to_a_server_that_has_room() {
    let (trio, disks) = trio();
    let leader = trio.leader();
    let disk = &disks[leader as usize - 1];
    assert_eq!(trio.connect(leader).set("before", "1"), "STORED");
    disk.quota(Some(disk.used()));
    let mut refused = 0;
    let mut client = trio.connect(others(leader)[0]);
    eventually("somebody else leads and stores", || {
        let answer = client.set("large", &large(1));
        refused += usize::from(answer == FULL);
        answer == "STORED" && trio.leader() != leader
    });
    assert_eq!(trio.stat(leader, "trouble"), "disk-full");
    // Reads go on there.
    eventually("it reads", || trio.connect(leader).get("before") == "1");
    assert_eq!(trio.connect(leader).set("after", "2"), "STORED");
    disk.quota(None);
    eventually("it heals", || trio.stat(leader, "trouble") == "-");
    trio.wait_until_level();
    assert_eq!(trio.connect(leader).get("after"), "2");
}

#[test]
fn without_room_anywhere_writes_are_refused_and_reads_go_on() {
    let (trio, disks) = trio();
    let leader = trio.leader();
    let mut client = trio.connect(leader);
    assert_eq!(client.set("key", "value"), "STORED");
    for disk in &disks {
        disk.quota(Some(disk.used()));
    }
    eventually("writes are refused", || client.set("large", &large(1)) == FULL);
    for _ in 0..20 {
        assert_eq!(client.set("large", &large(1)), FULL);
        assert_eq!(client.get("key"), "value");
    }
    for disk in &disks {
        disk.quota(None);
    }
    eventually("writes go on", || client.set("key", "new") == "STORED");
    eventually("all are well", || (1..=3).all(|id| trio.stat(id, "trouble") == "-"));
    trio.wait_until_level();
    assert_eq!(client.get("key"), "new");
}

#[test]
fn on_read_only_disks_writes_are_refused_and_reads_go_on() {
    let (trio, disks) = trio();
    let leader = trio.leader();
    let mut client = trio.connect(leader);
    assert_eq!(client.set("key", "value"), "STORED");
    for disk in &disks {
        disk.read_only(true);
    }
    eventually("writes are refused", || client.set("key", "no") == FULL);
    for _ in 0..20 {
        assert_eq!(client.set("key", "no"), FULL);
        assert_eq!(client.get("key"), "value");
    }
    for disk in &disks {
        disk.read_only(false);
    }
    eventually("writes go on", || client.set("key", "new") == "STORED");
    eventually("all are well", || (1..=3).all(|id| trio.stat(id, "trouble") == "-"));
    trio.wait_until_level();
    assert_eq!(client.get("key"), "new");
}

/// The slowest of some sets, with one disk slow by `by`.
fn slowest(slow: impl Fn(u64) -> u64, by: Duration) -> Duration {
    let (trio, disks) = trio();
    let leader = trio.leader();
    let mut client = trio.connect(leader);
    client.set("key", "value");
    let term = trio.stat(leader, "raft_term");
    disks[slow(leader) as usize - 1].slow_sync(by);
    let mut slowest = Duration::ZERO;
    for number in 0..40 {
        let began = Instant::now();
        assert_eq!(client.set("key", &number.to_string()), "STORED");
        slowest = slowest.max(began.elapsed());
    }
    assert_eq!(trio.stat(leader, "raft_term"), term, "no election because of a slow disk");
    for disk in &disks {
        disk.heal();
    }
    trio.wait_until_level();
    slowest
}

#[test]
fn a_leader_whose_disk_is_slow_commits_by_its_followers() {
    let by = Duration::from_millis(400);
    let slowest = slowest(|leader| leader, by);
    assert!(slowest < by / 2, "{slowest:?}");
}

#[test]
fn a_follower_whose_disk_is_slow_is_not_waited_for() {
    let by = Duration::from_millis(400);
    let slowest = slowest(|leader| others(leader)[0], by);
    assert!(slowest < by / 2, "{slowest:?}");
}

#[test]
fn a_failed_sync_ends_the_server_and_a_start_recovers() {
    let (mut trio, disks) = trio();
    let leader = trio.leader();
    for broken in [others(leader)[0], leader] {
        trio.wait_until_level();
        disks[broken as usize - 1].fail(Kind::Sync, 0, 1, Errno::Io);
        let mut client = trio.connect(others(broken)[0]);
        eventually("a set goes on", || client.set("key", &broken.to_string()) == "STORED");
        let error = trio.end(broken).unwrap_err();
        assert!(error.downcast_ref::<BeginAgain>().is_some(), "{error}");
        trio.run(broken);
        eventually("it is back", || trio.connect(broken).get("key") == broken.to_string());
    }
    trio.wait_until_level();
}
