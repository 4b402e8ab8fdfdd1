//! Replicas compare their data.

use super::*;
use raft::NodeId;

use crate::driver::{Actions, IntegrityOptions};

const INTERVAL_MS: u64 = 10_000;

/// A cluster that holds some keys, on which all have agreed once.
fn agreed(count: u64) -> Cluster {
    let mut cluster = Cluster::led(count);
    for key in ["a", "b", "c"] {
        cluster.play(1, &set(key, "value")).expect("STORED\r\n");
    }
    cluster.advance_ms(INTERVAL_MS);
    for id in 1..=count {
        assert!(agreed_index(&mut cluster, id) > 0, "server {id} has heard the verdict");
    }
    cluster
}

fn stat(cluster: &mut Cluster, id: u64, name: &str) -> u64 {
    let stats = cluster.play(id, "stats raft\r\n").text().unwrap();
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
    line.unwrap().parse().unwrap()
}

fn agreed_index(cluster: &mut Cluster, id: u64) -> u64 {
    stat(cluster, id, "integrity_agreed_index")
}

/// A bit of the item under `key` flips in the memory of one server, and it is
/// written again: from then on the server is not like the others.
fn rot(cluster: &mut Cluster, id: u64, key: &str) {
    assert!(cluster.driver(id).rot(key.as_bytes()));
    cluster.play(1, &set(key, "again")).expect("STORED\r\n");
}

#[test]
fn replicas_that_agree_say_so_and_nothing_is_checked_without_traffic() {
    let mut cluster = agreed(3);
    let (first, last) = (agreed_index(&mut cluster, 1), cluster.last_index(1));
    cluster.advance_ms(5 * INTERVAL_MS);
    assert_eq!(cluster.last_index(1), last, "an idle cluster writes nothing");
    cluster.play(1, &set("d", "1")).expect("STORED\r\n");
    cluster.advance_ms(INTERVAL_MS);
    assert_eq!(cluster.last_index(1), last + 3, "a set, a check, a verdict");
    for id in 1..=3 {
        assert!(agreed_index(&mut cluster, id) > first);
        assert!(cluster.take_failures(id).is_empty());
    }
}

#[test]
fn commands_bring_a_check_forward() {
    let mut cluster = agreed(3);
    let options = IntegrityOptions { commands: 5, ..IntegrityOptions::default() };
    cluster.driver(1).set_integrity(options);
    let before = agreed_index(&mut cluster, 2);
    for _ in 0..5 {
        cluster.play(1, &set("k", "1")).expect("STORED\r\n");
    }
    cluster.advance_ms(1500);
    assert!(agreed_index(&mut cluster, 2) > before);
}

#[test]
fn whoever_differs_learns_it_from_the_verdict() {
    for culprit in [2, 3] {
        let mut cluster = agreed(3);
        rot(&mut cluster, culprit, "a");
        cluster.advance_ms(INTERVAL_MS);
        for id in 1..=3 {
            let failures = cluster.take_failures(id);
            assert_eq!(failures.len(), usize::from(id == culprit), "server {id}");
            assert!(failures.iter().all(|failure| failure.own != failure.agreed));
        }
        assert_eq!(stat(&mut cluster, culprit, "integrity_failures"), 1);
        assert!(cluster.driver(1).is_leader());
    }
}

#[test]
fn a_leader_that_differs_hands_over() {
    let mut cluster = agreed(3);
    rot(&mut cluster, 1, "b");
    cluster.advance_ms(INTERVAL_MS + 1000);
    assert!(!cluster.driver(1).is_leader());
    assert_eq!(cluster.take_failures(1).len(), 1);
    assert!(cluster.driver(2).is_leader() || cluster.driver(3).is_leader());
}

#[test]
fn a_server_that_is_away_does_not_keep_the_others_from_a_verdict() {
    let mut cluster = agreed(3);
    cluster.isolate(3);
    rot(&mut cluster, 2, "c");
    cluster.play(1, &set("d", "1")).expect("STORED\r\n");
    let before = agreed_index(&mut cluster, 1);
    cluster.advance_ms(INTERVAL_MS);
    assert_eq!(agreed_index(&mut cluster, 1), before, "one against one: nobody knows");
    assert!(cluster.take_failures(2).is_empty());
    cluster.heal();
    // It applies the check late, and its report decides.
    cluster.advance_ms(INTERVAL_MS);
    assert!(agreed_index(&mut cluster, 1) > before);
    assert!(!cluster.take_failures(2).is_empty());
    assert!(cluster.take_failures(3).is_empty());
}

#[test]
fn without_a_majority_nobody_is_taken_out_and_it_is_counted() {
    let mut cluster = agreed(3);
    rot(&mut cluster, 1, "a");
    assert!(cluster.driver(2).rot(b"b"));
    cluster.play(1, &set("b", "again")).expect("STORED\r\n");
    cluster.advance_ms(INTERVAL_MS);
    for id in 1..=3 {
        assert!(cluster.take_failures(id).is_empty(), "server {id}");
    }
    assert_eq!(stat(&mut cluster, 1, "integrity_disagreements"), 1);
    assert!(cluster.driver(1).is_leader());
}

#[test]
fn a_server_alone_has_nobody_to_compare_with() {
    let mut cluster = Cluster::led(1);
    cluster.play(1, &set("a", "1")).expect("STORED\r\n");
    let last = cluster.last_index(1);
    cluster.advance_ms(3 * INTERVAL_MS);
    assert_eq!(cluster.last_index(1), last);
}

#[test]
fn a_leader_whose_log_contradicts_what_is_committed_is_told_apart_once_a_turn() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("a", "value")).expect("STORED\r\n");
    let now = cluster.now();
    let driver = cluster.driver(2);
    let mut append = |term: u64, index: u64| {
        let entries = vec![raft::Entry { index, term, body: raft::Body::Noop }];
        let (prev_index, prev_term, commit, read_round) = (index - 1, 0, 0, 0);
        let message = raft::Message::Append { prev_index, prev_term, commit, read_round, entries };
        let (from, to) = (NodeId(3), NodeId(2));
        driver.message(now, raft::Envelope { from, to, term: 90, message });
        let mut actions = Actions::default();
        driver.flush(now, &mut actions);
        actions.contradicted_by
    };
    assert_eq!(append(1, 1), None, "the entry that is committed");
    assert_eq!(append(90, 1), Some(NodeId(3)), "another one");
}
