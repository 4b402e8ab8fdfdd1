//! Batches with writes on the leader.

use super::*;

#[test]
fn writes_of_a_batch_become_consecutive_entries_answered_in_order() {
    let mut cluster = Cluster::led(1);
    let before = cluster.last_index(1);
    let batch = [&set("a", "1"), "delete nobody\r\n", "incr a 4\r\n", "decr a 2\r\n"].concat();
    cluster.play(1, &batch).expect("STORED\r\nNOT_FOUND\r\n5\r\n3\r\n");
    assert_eq!(cluster.last_index(1), before + 4);
}

#[test]
fn batches_of_one_turn_keep_their_own_replies() {
    let mut cluster = Cluster::led(3);
    let first = cluster.ask(1, &[&set("n", "1"), "incr n 1\r\n"].concat());
    let second = cluster.ask(1, "incr n 1\r\nget n\r\n");
    cluster.run();
    first.expect("STORED\r\n2\r\n");
    second.expect(&["3\r\n", &hit("n", "3")].concat());
}

#[test]
fn a_write_is_not_answered_before_a_majority_has_it() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disk(2);
    cluster.slow_disk(3);
    let answer = cluster.play(1, &set("k", "v"));
    answer.expect_none();
    cluster.sync(3);
    answer.expect("STORED\r\n");
}

#[test]
fn reads_between_writes_see_exactly_the_writes_before_them() {
    let mut cluster = Cluster::led(1);
    let batch = ["get k\r\n", &set("k", "1"), "get k\r\n", &set("k", "2"), "get k\r\n"].concat();
    let replies = ["END\r\n", "STORED\r\n", &hit("k", "1"), "STORED\r\n", &hit("k", "2")].concat();
    cluster.play(1, &batch).expect(&replies);
}

#[test]
fn writes_without_reply_leave_no_bytes() {
    let mut cluster = Cluster::led(1);
    let quiet = "set k 0 0 1 noreply\r\n1\r\nincr k 1 noreply\r\ndelete nobody noreply\r\n";
    cluster.play(1, quiet).expect("");
    cluster.play(1, &[quiet, "get k\r\n"].concat()).expect(&hit("k", "2"));
}

#[test]
fn what_needs_no_entry_is_answered_in_its_place() {
    let mut cluster = Cluster::led(1);
    let before = cluster.last_index(1);
    let batch = [
        "version\r\n",
        &set("k", "v"),
        "bogus\r\nverbosity 1\r\n",
        "delete k\r\n",
        "stats reset\r\n",
    ];
    let version = common::front_end::VERSION_REPLY;
    cluster
        .play(1, &batch.concat())
        .expect(&format!("{version}\r\nSTORED\r\nERROR\r\nOK\r\nDELETED\r\nRESET\r\n"));
    assert_eq!(cluster.last_index(1), before + 2);
}

#[test]
fn an_item_that_is_to_expire_is_refused_and_the_others_are_executed() {
    let mut cluster = Cluster::led(1);
    let before = cluster.last_index(1);
    let refusal = "SERVER_ERROR expiry is not supported yet, not executed: use exptime 0\r\n";
    let expiring = "set k 0 60 1\r\nx\r\n";
    let batch = [&set("k", "1"), expiring, "get k\r\n", expiring, &set("j", "2")].concat();
    cluster
        .play(1, &batch)
        .expect(&["STORED\r\n", refusal, &hit("k", "1"), refusal, "STORED\r\n"].concat());
    assert_eq!(cluster.last_index(1), before + 2, "what is refused is not proposed");
}

#[test]
fn an_item_that_is_to_expire_needs_no_leader_to_be_refused() {
    let mut cluster = Cluster::new(1);
    let refusal = "SERVER_ERROR expiry is not supported yet, not executed: use exptime 0\r\n";
    cluster.play(1, "set k 0 -1 1\r\nx\r\nset k 0 9 1 noreply\r\nx\r\n").expect(refusal);
}

#[test]
fn a_batch_that_the_core_takes_in_part_is_answered_for_both_parts() {
    let mut cluster = Cluster::with(1, |config| config.max_uncommitted_bytes = 150);
    cluster.elect(1);
    let large = "x".repeat(60);
    let batch =
        [&set("a", &large), &set("b", &large), &set("c", &large), "get a b c\r\n", &set("d", "1")];
    let value = |key: &str| format!("VALUE {key} 0 60\r\n{large}\r\n");
    cluster.play(1, &batch.concat()).expect(&["STORED\r\nSTORED\r\n", BUSY, BUSY, BUSY].concat());
    cluster.play(1, "get a b c d\r\n").expect(&[&value("a"), &value("b"), "END\r\n"].concat());
}

#[test]
fn a_batch_that_the_core_does_not_take_is_busy_and_not_executed() {
    let mut cluster = Cluster::with(1, |config| config.max_uncommitted_bytes = 10);
    cluster.elect(1);
    cluster.slow_disk(1);
    let first = cluster.play(1, &set("a", "1"));
    cluster.play(1, &[&set("b", "1"), "get a\r\n"].concat()).expect(&[BUSY, BUSY].concat());
    cluster.sync(1);
    first.expect("STORED\r\n");
    cluster.play(1, "get b\r\n").expect("END\r\n");
}

#[test]
fn stamps_do_not_follow_a_clock_that_goes_back() {
    let mut cluster = Cluster::led(1);
    cluster.play(1, &set("k", "1")).expect("STORED\r\n");
    let stamp = cluster.driver(1).keystore().clock_ms();
    assert_eq!(stamp, cluster.now().wall_ms);
    cluster.set_wall_clock(stamp - 1_000_000);
    cluster.play(1, &set("k", "2")).expect("STORED\r\n");
    assert_eq!(cluster.driver(1).keystore().clock_ms(), stamp);
}
