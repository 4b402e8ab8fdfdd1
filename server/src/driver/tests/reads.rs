//! Batches that only read.

use super::*;

#[test]
fn reads_of_one_turn_share_one_round_on_the_leader() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("k", "v")).expect("STORED\r\n");
    cluster.take_sent(1, Kind::Heartbeat);
    let answers = ["get k\r\n", "get nobody\r\n", "get k\r\n"].map(|get| cluster.ask(1, get));
    cluster.run();
    answers[0].expect(&hit("k", "v"));
    answers[1].expect("END\r\n");
    answers[2].expect(&hit("k", "v"));
    assert_eq!(cluster.take_sent(1, Kind::Heartbeat), 2, "one to each of the others");
}

#[test]
fn reads_of_one_turn_share_one_read_index_on_a_follower() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("k", "v")).expect("STORED\r\n");
    let answers = ["get k\r\n", "get k\r\n"].map(|get| cluster.ask(2, get));
    cluster.run();
    answers.iter().for_each(|answer| answer.expect(&hit("k", "v")));
    assert_eq!(cluster.take_sent(2, Kind::ReadIndex), 1);
    assert_eq!(cluster.take_sent(2, Kind::Requests), 0, "a read is not forwarded");
}

#[test]
fn reads_write_no_entry() {
    let mut cluster = Cluster::led(3);
    let before = cluster.last_index(1);
    cluster.play(1, "get k\r\ngets k\r\n").expect("END\r\nEND\r\n");
    cluster.play(2, "get k\r\n").expect("END\r\n");
    assert_eq!(cluster.last_index(1), before);
}

#[test]
fn a_read_is_not_answered_before_its_index_is_applied() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disk(2);
    cluster.play(1, &set("k", "new")).expect("STORED\r\n");
    let read = cluster.play(2, "get k\r\n");
    read.expect_none();
    cluster.advance_ms(100);
    read.expect_none();
    cluster.sync(2);
    read.expect(&hit("k", "new"));
}

#[test]
fn what_needs_neither_entry_nor_index_waits_for_nobody() {
    let mut cluster = Cluster::new(3);
    let version = common::front_end::VERSION_REPLY;
    let answer = cluster.ask(1, "version\r\nbogus\r\n");
    answer.expect(&format!("{version}\r\nERROR\r\n"));
}

#[test]
fn a_deposed_leader_that_does_not_know_it_answers_no_read() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("k", "old")).expect("STORED\r\n");
    cluster.isolate(1);
    cluster.elect(2);
    cluster.play(2, &set("k", "new")).expect("STORED\r\n");
    assert!(cluster.driver(1).is_leader());
    let read = cluster.play(1, "get k\r\n");
    read.expect_none();
    cluster.heal();
    cluster.advance_ms(100);
    read.expect(&hit("k", "new"));
}

#[test]
fn a_read_without_leader_waits_for_one() {
    let mut cluster = Cluster::new(3);
    let read = cluster.play(3, "get k\r\n");
    read.expect_none();
    cluster.elect(1);
    read.expect("END\r\n");
}

#[test]
fn a_read_that_a_lost_leader_was_asked_for_is_asked_again_of_the_next() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("k", "v")).expect("STORED\r\n");
    cluster.isolate(1);
    let read = cluster.play(3, "get k\r\n");
    read.expect_none();
    cluster.elect(2);
    read.expect(&hit("k", "v"));
}

#[test]
fn reads_that_the_core_gives_up_are_parked_and_asked_again() {
    let mut cluster = Cluster::led(3);
    cluster.isolate(1);
    let read = cluster.play(1, "get k\r\n");
    // Without a majority it does not remain leader.
    cluster.advance_ms(500);
    assert!(!cluster.driver(1).is_leader());
    assert_eq!(cluster.driver(1).parked.len(), 1);
    read.expect_none();
    cluster.heal();
    cluster.advance_ms(800);
    read.expect("END\r\n");
}

#[test]
fn a_read_that_finds_no_leader_in_time_is_an_error_and_never_a_miss() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("k", "v")).expect("STORED\r\n");
    for id in [1, 2, 3] {
        cluster.isolate(id);
    }
    let on_leader = cluster.play(1, "get k\r\nversion\r\nget j\r\n");
    let on_follower = cluster.play(2, "get k\r\n");
    cluster.advance_ms(1490);
    on_leader.expect_none();
    on_follower.expect_none();
    cluster.advance_ms(20);
    let version = common::front_end::VERSION_REPLY;
    on_leader.expect(&[NO_LEADER, version, "\r\n", NO_LEADER].concat());
    on_follower.expect(NO_LEADER);
    cluster.heal();
    cluster.advance_ms(1000);
    cluster.play(2, "get k\r\n").expect(&hit("k", "v"));
}
