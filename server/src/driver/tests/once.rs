//! Writes through a server that does not lead take effect once, whatever
//! happens to the leader, to links and to sessions on the way.

use raft::NodeId;

use super::*;
use crate::keystore::{ITEM_OVERHEAD_BYTES, KeystoreLimits};

const INCR: &str = "incr n 1\r\n";

/// Far longer than a session lives.
const AN_HOUR_MS: u64 = 3_600_000;

/// The first of three servers leads, the third has a session, and `n` is 0.
fn counting() -> Cluster {
    let mut cluster = Cluster::led(3);
    cluster.play(3, &set("n", "0")).expect("STORED\r\n");
    cluster.take_sent(3, Kind::Open);
    cluster.take_sent(3, Kind::Requests);
    cluster
}

/// The leader is gone for server 3, with its answers, and server 2 leads.
fn fail_over(cluster: &mut Cluster) {
    cluster.isolate(1);
    cluster.release(0);
    cluster.break_link(3, 1);
    cluster.elect(2);
}

fn expect_count(cluster: &mut Cluster, count: u64) {
    cluster.advance_ms(100);
    cluster.play(2, "get n\r\n").expect(&hit("n", &count.to_string()));
}

/// An hour passes on every clock on the wall, as the log knows.
fn pass_an_hour(cluster: &mut Cluster, leader: u64) {
    let wall_ms = cluster.now().wall_ms + AN_HOUR_MS;
    cluster.set_wall_clock(wall_ms);
    cluster.play(leader, &set("hour", "1")).expect("STORED\r\n");
}

#[test]
fn the_leader_dies_between_commit_and_answer() {
    let mut cluster = counting();
    cluster.hold(Kind::Reply);
    let answer = cluster.play(3, &["incr n 1 noreply\r\n", INCR].concat());
    assert_eq!(cluster.driver(1).keystore.get(b"n").unwrap().value, b"2");
    answer.expect_none();
    fail_over(&mut cluster);
    answer.expect("2\r\n");
    expect_count(&mut cluster, 2);
}

#[test]
fn reads_do_not_see_the_writes_behind_them() {
    let mut cluster = counting();
    cluster.hold(Kind::Reply);
    let batch = ["get n\r\nversion\r\n", INCR, "get n\r\n", INCR, "get n\r\n"].concat();
    let answer = cluster.play(3, &batch);
    fail_over(&mut cluster);
    let version = [common::front_end::VERSION_REPLY, "\r\n"].concat();
    // What the first two should have seen is past.
    answer.expect(&[NO_LEADER, &version, "1\r\n", NO_LEADER, "2\r\n", &hit("n", "2")].concat());

    let answer = cluster.play(3, "get n\r\nincr n 1\r\n");
    answer.expect(&[&hit("n", "2"), "3\r\n"].concat());
}

#[test]
fn the_leader_dies_before_it_commits() {
    let mut cluster = counting();
    cluster.cut(1, 2);
    cluster.cut(1, 3);
    let answer = cluster.play(3, INCR);
    answer.expect_none();
    cluster.elect(2);
    answer.expect("1\r\n");
    cluster.heal();
    cluster.advance_ms(200);
    expect_count(&mut cluster, 1);
    let last = cluster.last_index(2);
    assert_eq!(cluster.last_index(1), last, "the entry of the deposed leader is gone");
}

#[test]
fn the_next_leader_has_the_entry_and_has_not_applied_it() {
    let mut cluster = counting();
    cluster.cut(2, 1);
    cluster.cut(3, 1);
    cluster.set_no_link(3, false);
    // The request itself must arrive.
    cluster.heal();
    cluster.slow_disk(2);
    cluster.slow_disk(3);
    let answer = cluster.play(3, INCR);
    cluster.sync(2);
    answer.expect("1\r\n");
    cluster.sync(3);
    // Now nobody tells that the next one is committed.
    cluster.hold(Kind::OtherRaft);
    let answer = cluster.play(3, INCR);
    cluster.isolate(1);
    cluster.release(1);
    cluster.sync(2);
    let now = cluster.now();
    cluster.driver(2).campaign(now);
    cluster.run();
    for _ in 0..20 {
        cluster.play_slowly(2);
        cluster.play_slowly(3);
    }
    answer.expect("2\r\n");
    cluster.play(2, "get n\r\n").expect(&hit("n", "2"));
}

#[test]
fn the_forwarding_server_leads_itself() {
    let mut cluster = counting();
    cluster.hold(Kind::Reply);
    let executed = cluster.play(3, INCR);
    cluster.isolate(1);
    let lost = cluster.play(3, INCR);
    cluster.elect(3);
    cluster.release(0);
    executed.expect("1\r\n");
    lost.expect("2\r\n");
    expect_count(&mut cluster, 2);
    assert!(cluster.driver(3).forwards.is_empty());
}

#[test]
fn from_server_to_server_and_back() {
    let mut cluster = counting();
    // Executed by the first leader, proposed by server 3 itself and dropped
    // there, sent to the first one again.
    cluster.hold(Kind::Reply);
    let answer = cluster.play(3, INCR);
    cluster.isolate(1);
    cluster.elect(3);
    answer.expect("1\r\n");
    let second = cluster.play(3, INCR);
    second.expect("2\r\n");
    cluster.heal();
    cluster.advance_ms(100);
    cluster.release(0);
    cluster.cut(3, 1);
    cluster.cut(3, 2);
    let third = cluster.play(3, INCR);
    third.expect_none();
    cluster.elect(1);
    cluster.heal();
    cluster.advance_ms(300);
    third.expect("3\r\n");
    expect_count(&mut cluster, 3);
}

#[test]
fn a_deposed_leader_that_is_elected_again() {
    let mut cluster = counting();
    cluster.hold(Kind::Reply);
    let answers = [cluster.play(3, INCR), cluster.play(3, INCR)];
    fail_over(&mut cluster);
    cluster.heal();
    cluster.advance_ms(100);
    cluster.hold(Kind::Reply);
    let last = cluster.play(3, INCR);
    cluster.release(0);
    cluster.break_link(3, 2);
    cluster.elect(1);
    cluster.advance_ms(100);
    for (answer, count) in answers.iter().chain([&last]).zip(1..) {
        answer.expect(&format!("{count}\r\n"));
    }
    expect_count(&mut cluster, 3);
}

#[test]
fn a_leader_that_is_isolated_and_comes_back() {
    let mut cluster = counting();
    cluster.cut(1, 2);
    cluster.cut(2, 1);
    cluster.cut(1, 3);
    let answer = cluster.play(3, INCR);
    cluster.isolate(1);
    cluster.elect(2);
    answer.expect("1\r\n");
    let next = cluster.play(3, INCR);
    next.expect("2\r\n");
    cluster.heal();
    cluster.advance_ms(500);
    expect_count(&mut cluster, 2);
}

#[test]
fn a_session_that_ended_in_between_leaves_the_outcome_unknown() {
    let mut cluster = counting();
    cluster.hold(Kind::Reply);
    let answer = cluster.play(3, INCR);
    pass_an_hour(&mut cluster, 1);
    fail_over(&mut cluster);
    answer.expect(UNKNOWN);
    cluster.play(3, INCR).expect("2\r\n");
    expect_count(&mut cluster, 2);
}

#[test]
fn a_write_that_only_meets_the_end_of_its_session_gets_another_one() {
    let mut cluster = counting();
    pass_an_hour(&mut cluster, 1);
    cluster
        .play(3, "get n\r\nincr n 1\r\nget n\r\n")
        .expect(&[&hit("n", "0"), "1\r\n", &hit("n", "1")].concat());
    assert_eq!(cluster.take_sent(3, Kind::Open), 1);
    assert_eq!(cluster.take_sent(3, Kind::Requests), 2);
    expect_count(&mut cluster, 1);
}

#[test]
fn an_open_that_is_lost_is_followed_by_another_one() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("n", "0"));
    cluster.hold(Kind::Open);
    let answer = cluster.play(3, INCR);
    cluster.advance_ms(300);
    cluster.release(0);
    answer.expect_none();
    cluster.advance_ms(300);
    answer.expect("1\r\n");
}

#[test]
fn an_open_whose_answer_is_lost_is_followed_by_another_one() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("n", "0"));
    cluster.hold(Kind::Reply);
    let answer = cluster.play(3, INCR);
    cluster.break_link(3, 1);
    cluster.advance_ms(50);
    cluster.release(1);
    answer.expect("1\r\n");
    assert_eq!(cluster.take_sent(3, Kind::Open), 2);
}

#[test]
fn opens_that_come_again_and_late_bring_nothing_back() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("n", "0"));
    cluster.hold(Kind::Open);
    let answer = cluster.play(3, INCR);
    // Each of them arrives twice, in front of the writes.
    cluster.release(2);
    answer.expect("1\r\n");
    assert_eq!(cluster.driver(1).keystore.sessions().len(), 1);
    pass_an_hour(&mut cluster, 1);

    cluster.hold(Kind::Open);
    let answer = cluster.play(3, INCR);
    let stale = cluster.held.clone();
    cluster.advance_ms(200);
    cluster.release(0);
    cluster.advance_ms(400);
    answer.expect("2\r\n");
    cluster.hold(Kind::Reply);
    let executed = cluster.play(3, INCR);
    pass_an_hour(&mut cluster, 1);
    cluster.isolate(1);
    cluster.held = stale;
    cluster.heal();
    cluster.release(1);
    cluster.hold(Kind::Reply);
    cluster.break_link(3, 1);
    cluster.release(1);
    executed.expect(UNKNOWN);
    expect_count(&mut cluster, 3);
}

#[test]
fn a_server_that_starts_again_has_another_session() {
    let mut cluster = counting();
    cluster.play(3, INCR).expect("1\r\n");
    cluster.driver(3).sender = super::super::sending::Sender::new(33);
    cluster.play(3, INCR).expect("2\r\n");
    assert_eq!(cluster.driver(1).keystore.sessions().len(), 2);
}

#[test]
fn what_is_unanswered_is_bounded() {
    let mut cluster = counting();
    cluster.isolate(1);
    cluster.isolate(2);
    let batch = INCR.repeat(256);
    let waiting: Vec<_> = (0..256).map(|_| cluster.ask(3, &batch)).collect();
    let one_too_many = cluster.play(3, INCR);
    one_too_many.expect(BUSY);
    waiting.iter().for_each(|answer| answer.expect_none());
    cluster.advance_ms(PAST_THE_DEADLINE_MS);
    waiting.iter().for_each(|answer| answer.expect(&UNKNOWN.repeat(256)));
    cluster.heal();
    cluster.elect(2);
    cluster.play(3, "incr n 1\r\n").text().expect("all of them are answered");
}

#[test]
fn replies_go_once_they_are_with_their_clients() {
    let mut cluster = counting();
    for count in 1..100 {
        cluster.play(3, INCR).expect(&format!("{count}\r\n"));
    }
    // Some end in other ways.
    cluster.isolate(1);
    cluster.isolate(2);
    let late = cluster.play(3, INCR);
    cluster.advance_ms(PAST_THE_DEADLINE_MS);
    late.expect(UNKNOWN);
    cluster.heal();
    cluster.elect(2);
    cluster.advance_ms(100);
    cluster.play(3, INCR).expect("100\r\n");
    for id in 1..=3 {
        assert_eq!(cluster.driver(id).keystore.sessions().replies(), 1, "server {id}");
    }
}

#[test]
fn a_write_that_was_executed_is_not_refused_for_want_of_room() {
    let mut cluster = counting();
    cluster.hold(Kind::Reply);
    let answer = cluster.play(3, &set("k", "0123456789"));
    let used = cluster.driver(1).keystore.memory_bytes();
    for id in 1..=3 {
        let limits = KeystoreLimits { memory_bytes: Some(used) };
        cluster.driver(id).keystore.set_limits(limits);
    }
    cluster.play(1, &set("j", "1")).expect("SERVER_ERROR out of memory storing object\r\n");
    cluster.driver(1).keystore.set_limits(KeystoreLimits { memory_bytes: Some(used / 2) });
    cluster.break_link(3, 1);
    cluster.release(1);
    answer.expect("STORED\r\n");
    assert!(used > 2 * ITEM_OVERHEAD_BYTES);
    cluster.play(3, &set("i", "1")).expect("SERVER_ERROR out of memory storing object\r\n");
}

#[test]
fn a_write_that_was_executed_is_not_refused_by_a_busy_leader() {
    let mut cluster = Cluster::with(3, |config| config.max_uncommitted_bytes = 2_000);
    cluster.elect(1);
    cluster.play(3, &set("n", "0"));
    cluster.hold(Kind::Reply);
    let answer = cluster.play(3, INCR);
    // The queue is full when the same request comes again.
    cluster.slow_disk(2);
    cluster.slow_disk(3);
    let full = cluster.play(1, &set("k", &"x".repeat(3_000)));
    cluster.play(1, INCR).expect(BUSY);
    cluster.break_link(3, 1);
    cluster.release(0);
    answer.expect_none();
    for _ in 0..20 {
        cluster.play_slowly(2);
        cluster.play_slowly(3);
    }
    full.expect("STORED\r\n");
    answer.expect("1\r\n");
}

#[test]
fn a_link_that_comes_back_is_used_for_the_same_write() {
    let mut cluster = counting();
    cluster.hold(Kind::Requests);
    let answer = cluster.play(3, INCR);
    cluster.set_no_link(3, true);
    cluster.break_link(3, 1);
    cluster.advance_ms(100);
    answer.expect_none();
    cluster.release(0);
    cluster.set_no_link(3, false);
    cluster.driver(3).link_up(NodeId(1));
    cluster.run();
    answer.expect("1\r\n");
    expect_count(&mut cluster, 1);
}
