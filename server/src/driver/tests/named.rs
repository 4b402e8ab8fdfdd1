//! Writes that a client has named itself take effect once, wherever it sends
//! them, and it is told exactly what is certain.

use super::*;
use crate::keystore::sessions::MAX_SESSIONS;

const SESSION_UNKNOWN: &str = "SERVER_ERROR session unknown, not executed\r\n";
const SESSION_OVER: &str = "SERVER_ERROR session unknown, outcome unknown\r\n";

/// The first of three servers leads, session 5 is open, and `n` is 0.
fn counting() -> Cluster {
    let mut cluster = Cluster::led(3);
    cluster.play(1, "session 5\r\nset n 0 0 1\r\n0\r\n").expect("OK\r\nSTORED\r\n");
    cluster
}

fn incr(sequence: u64) -> String {
    format!("incr n 1 @5.{sequence}.{sequence}\r\n")
}

fn incr_again(sequence: u64) -> String {
    format!("incr n 1 @5.{sequence}.{sequence}!\r\n")
}

fn expect_count(cluster: &mut Cluster, count: u64) {
    cluster.advance_ms(100);
    cluster.play(2, "get n\r\n").expect(&hit("n", &count.to_string()));
}

/// An hour passes on every clock on the wall, as the log knows.
fn pass_an_hour(cluster: &mut Cluster, leader: u64) {
    let wall_ms = cluster.now().wall_ms + 3_600_000;
    cluster.set_wall_clock(wall_ms);
    cluster.play(leader, &set("hour", "1")).expect("STORED\r\n");
}

#[test]
fn a_write_is_sent_to_every_server_and_takes_effect_once() {
    let mut cluster = counting();
    cluster.play(1, &incr(1)).expect("1\r\n");
    for server in [1, 2, 3, 1] {
        cluster.play(server, &incr_again(1)).expect("1\r\n");
        cluster.play(server, &incr(1)).expect("1\r\n");
    }
    cluster.play(3, &incr(2)).expect("2\r\n");
    cluster.play(1, &incr_again(2)).expect("2\r\n");
    expect_count(&mut cluster, 2);
    for server in [2, 3] {
        assert_eq!(cluster.take_sent(server, Kind::Open), 0, "the client's session is enough");
    }
    assert_eq!(cluster.driver(1).keystore.sessions().len(), 1);
}

#[test]
fn a_pipeline_is_one_run() {
    let mut cluster = counting();
    let run = "set a 0 0 1 @5.1.1\r\nx\r\nincr n 2 @5.2.1\r\ndelete a @5.3.1\r\n";
    let again = run.replace(".1\r\n", ".1!\r\n");
    cluster.play(3, run).expect("STORED\r\n2\r\nDELETED\r\n");
    cluster.play(1, &again).expect("STORED\r\n2\r\nDELETED\r\n");
    cluster.play(2, &again).expect("STORED\r\n2\r\nDELETED\r\n");
    cluster.play(1, "incr n 1 @5.3.1!\r\n").expect("DELETED\r\n");
    expect_count(&mut cluster, 2);
}

#[test]
fn the_leader_dies_after_the_commit() {
    let mut cluster = counting();
    cluster.play(1, &incr(1)).expect("1\r\n");
    cluster.isolate(1);
    cluster.elect(2);
    cluster.play(2, &incr_again(1)).expect("1\r\n");
    cluster.play(3, &incr_again(1)).expect("1\r\n");
    expect_count(&mut cluster, 1);
}

#[test]
fn the_leader_is_deposed_before_the_commit() {
    let mut cluster = counting();
    cluster.cut(1, 2);
    cluster.cut(1, 3);
    let first = cluster.play(1, &incr(1));
    cluster.elect(2);
    cluster.play(3, &incr_again(1)).expect("1\r\n");
    first.expect_none();
    // What was committed instead proves that it was not executed there; sent on
    // with the same ids it gets the same answer.
    cluster.heal();
    cluster.advance_ms(300);
    first.expect("1\r\n");
    expect_count(&mut cluster, 1);
}

#[test]
fn the_next_leader_has_the_entry_and_the_write_comes_again() {
    let mut cluster = counting();
    // It reaches the others, and their acknowledgements do not come back.
    cluster.cut(2, 1);
    cluster.cut(3, 1);
    let first = cluster.play(1, &incr(1));
    first.expect_none();
    cluster.isolate(1);
    cluster.elect(3);
    cluster.play(3, &incr_again(1)).expect("1\r\n");
    expect_count(&mut cluster, 1);
    cluster.heal();
    cluster.advance_ms(300);
    first.expect("1\r\n");
}

#[test]
fn a_session_that_is_not_open_is_told_as_it_is() {
    let mut cluster = counting();
    for server in [1, 3] {
        cluster.play(server, "incr n 1 @6.1.1\r\n").expect(SESSION_UNKNOWN);
        cluster.play(server, "incr n 1 @6.1.1!\r\n").expect(SESSION_OVER);
        let run = "incr n 1 @6.1.1\r\nset a 0 0 1 @6.2.1\r\nx\r\n";
        cluster.play(server, run).expect(&SESSION_UNKNOWN.repeat(2));
    }
    assert_eq!(cluster.take_sent(3, Kind::Open), 0, "nobody else's session will do");
    cluster.play(1, &incr(1)).expect("1\r\n");
    pass_an_hour(&mut cluster, 1);
    for server in [1, 2] {
        cluster.play(server, &incr_again(1)).expect(SESSION_OVER);
        cluster.play(server, &incr(2)).expect(SESSION_UNKNOWN);
    }
    expect_count(&mut cluster, 1);
}

#[test]
fn only_what_was_never_sent_before_is_said_not_to_be_executed() {
    let mut cluster = counting();
    cluster.isolate(1);
    cluster.isolate(2);
    cluster.isolate(3);
    cluster.advance_ms(3_000);
    let (first, again) = (cluster.play(3, &incr(1)), cluster.play(3, &incr_again(1)));
    cluster.advance_ms(PAST_THE_DEADLINE_MS);
    first.expect(NO_LEADER);
    again.expect(UNKNOWN);
    let now = cluster.now();
    cluster.driver(3).begin_stop(now);
    cluster.play(3, &incr(1)).expect(SHUTTING_DOWN);
    cluster.play(3, &incr_again(1)).expect(UNKNOWN);
}

#[test]
fn a_follower_sends_it_to_the_next_leader() {
    let mut cluster = counting();
    cluster.hold(Kind::Reply);
    let answer = cluster.play(3, &incr(1));
    cluster.isolate(1);
    cluster.release(0);
    cluster.break_link(3, 1);
    cluster.elect(2);
    answer.expect("1\r\n");
    expect_count(&mut cluster, 1);

    // Its session ended in between.
    cluster.heal();
    cluster.advance_ms(100);
    cluster.hold(Kind::Reply);
    let answer = cluster.play(3, &incr(2));
    pass_an_hour(&mut cluster, 2);
    cluster.release(0);
    cluster.break_link(3, 2);
    cluster.advance_ms(50);
    answer.expect(SESSION_OVER);
    expect_count(&mut cluster, 2);
}

#[test]
fn a_session_is_opened_once_through_any_server() {
    let mut cluster = counting();
    cluster.hold(Kind::Reply);
    let answer = cluster.play(3, "session 7\r\n");
    // The follower's own session, which makes it take effect once.
    cluster.release(1);
    answer.expect("OK\r\n");
    cluster.hold(Kind::Reply);
    let answer = cluster.play(3, "session 8\r\n");
    cluster.play(1, "incr n 1 @8.1.1\r\n").expect("1\r\n");
    assert_eq!(cluster.driver(1).keystore.sessions().len(), 4);
    // Sessions end; the follower asks again what it got no answer to.
    pass_an_hour(&mut cluster, 1);
    cluster.release(0);
    cluster.break_link(3, 1);
    cluster.advance_ms(50);
    answer.expect(UNKNOWN);
    cluster.play(1, "incr n 1 @8.1.1!\r\n").expect(SESSION_OVER);
    expect_count(&mut cluster, 1);
}

#[test]
fn a_crowd_of_clients_ends_no_session_in_use() {
    let mut cluster = counting();
    cluster.play(1, &incr(1)).expect("1\r\n");
    let opens: Vec<String> =
        (0..MAX_SESSIONS as u64 - 1).map(|id| format!("session {:x}\r\n", 100 + id)).collect();
    for batch in opens.chunks(256) {
        cluster.play(1, &batch.concat()).expect(&"OK\r\n".repeat(batch.len()));
    }
    cluster.advance_ms(2_000);
    cluster.play(1, &incr(2)).expect("2\r\n");
    let refusal = "SERVER_ERROR too many sessions, not executed\r\n";
    cluster.play(1, "session f00d\r\n").expect(refusal);
    // A server that forwards goes first: one that was unused for longer ends.
    let batch = ["session f00d\r\n", &set("k", "v")].concat();
    cluster.play(3, &batch).expect(&[refusal, "STORED\r\n"].concat());
    cluster.play(1, &incr_again(2)).expect("2\r\n");
    // Nothing is written, and yet time passes.
    cluster.advance_ms(9_000);
    cluster.play(1, "session f00d\r\n").expect("OK\r\n");
    cluster.play(1, &incr(3)).expect("3\r\n");
}
