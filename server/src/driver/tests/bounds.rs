//! What waits and what is answered stays within bounds.

use common::limits::{
    DEFAULT_MAX_VALUE_BYTES, MAX_PARKED_BATCHES, MAX_PARKED_BYTES, MAX_REPLY_BYTES,
};

use super::*;

#[test]
fn batches_beyond_the_bound_do_not_wait_for_a_leader() {
    let mut cluster = Cluster::new(1);
    let write = set("k", "v");
    let parked: Vec<_> = (0..MAX_PARKED_BATCHES).map(|_| cluster.ask(1, &write)).collect();
    cluster.ask(1, &[&write, "get k\r\n"].concat()).expect(&[BUSY, BUSY].concat());
    parked[0].expect_none();
    cluster.elect(1);
    assert!(parked.iter().all(|answer| answer.text().as_deref() == Some("STORED\r\n")));
}

#[test]
fn bytes_beyond_the_bound_do_not_wait_for_a_leader() {
    let mut cluster = Cluster::new(1);
    let parked = cluster.ask_sized(1, &set("k", "v"), MAX_PARKED_BYTES - 10);
    cluster.ask_sized(1, &set("k", "v"), 11).expect(BUSY);
    let small = cluster.ask_sized(1, &set("k", "v"), 10);
    parked.expect_none();
    small.expect_none();
    cluster.elect(1);
    parked.expect("STORED\r\n");
    small.expect("STORED\r\n");
}

#[test]
fn room_among_the_parked_comes_back_with_a_deadline_and_with_a_leader() {
    let mut cluster = Cluster::new(3);
    for id in [1, 2, 3] {
        cluster.isolate(id);
    }
    let first = cluster.ask_sized(1, &set("k", "v"), MAX_PARKED_BYTES);
    cluster.advance_ms(PAST_THE_DEADLINE_MS);
    first.expect(NO_LEADER);
    let second = cluster.ask_sized(1, &set("k", "v"), MAX_PARKED_BYTES);
    cluster.ask_sized(1, &set("k", "v"), 1).expect(BUSY);
    cluster.heal();
    cluster.advance_ms(1000);
    second.expect("STORED\r\n");
    assert_eq!(cluster.driver(1).parked_bytes, 0);
}

#[test]
fn reads_that_come_back_to_be_parked_are_bounded_too() {
    let mut cluster = Cluster::new(1);
    let parked = cluster.ask_sized(1, &set("k", "v"), MAX_PARKED_BYTES);
    let read = cluster.play(1, "get k\r\n");
    read.expect(BUSY);
    parked.expect_none();
}

#[test]
fn a_get_beyond_the_bound_of_an_answer_is_one_error_line() {
    let mut cluster = Cluster::led(1);
    let value = "x".repeat(DEFAULT_MAX_VALUE_BYTES);
    cluster.play(1, &set("k", &value)).expect("STORED\r\n");
    cluster.play(1, &set("s", "1")).expect("STORED\r\n");
    let copies = MAX_REPLY_BYTES / DEFAULT_MAX_VALUE_BYTES;
    let too_many = ["get s", &" k".repeat(copies + 1), "\r\n"].concat();
    let refusal = "SERVER_ERROR out of memory writing get response\r\n";
    let answer = cluster.play(1, &[&too_many, "get s\r\n"].concat());
    answer.expect(&[refusal, &hit("s", "1")].concat());
}

#[test]
fn the_gets_of_a_batch_share_the_bound_of_its_answer() {
    let mut cluster = Cluster::led(1);
    let value = "x".repeat(DEFAULT_MAX_VALUE_BYTES);
    cluster.play(1, &set("k", &value)).expect("STORED\r\n");
    let copies = MAX_REPLY_BYTES / DEFAULT_MAX_VALUE_BYTES;
    let most = ["get", &" k".repeat(copies - 1), "\r\n"].concat();
    let replies = cluster.play(1, &[&most, "get k\r\nget nobody\r\n"].concat()).text().unwrap();
    assert!(replies.len() < MAX_REPLY_BYTES);
    let refusal = "SERVER_ERROR out of memory writing get response\r\n";
    assert!(replies.ends_with(&["\r\nEND\r\n", refusal, "END\r\n"].concat()));
}
