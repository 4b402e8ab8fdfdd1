//! A server that stops.

use super::*;

fn begin_stop(cluster: &mut Cluster, id: u64) {
    let now = cluster.now();
    cluster.driver(id).begin_stop(now);
}

#[test]
fn what_is_parked_when_a_stop_begins_is_certainly_not_executed() {
    let mut cluster = Cluster::new(3);
    let write = cluster.play(1, &set("k", "v"));
    let read = cluster.play(1, "get k\r\n");
    begin_stop(&mut cluster, 1);
    write.expect(SHUTTING_DOWN);
    read.expect(SHUTTING_DOWN);
    assert!(cluster.driver(1).is_idle());
    assert_eq!(cluster.driver(1).parked_bytes, 0);
}

#[test]
fn a_stopping_server_takes_nothing_that_needs_the_cluster() {
    let mut cluster = Cluster::led(3);
    let before = cluster.last_index(1);
    begin_stop(&mut cluster, 3);
    cluster
        .play(3, &[&set("k", "v"), "get k\r\n"].concat())
        .expect(&[SHUTTING_DOWN, SHUTTING_DOWN].concat());
    cluster.play(3, "get k\r\n").expect(SHUTTING_DOWN);
    let version = common::front_end::VERSION_REPLY;
    cluster.play(3, "version\r\n").expect(&format!("{version}\r\n"));
    assert_eq!(cluster.last_index(1), before);
}

#[test]
fn a_stopping_leader_answers_what_it_has_proposed() {
    let mut cluster = Cluster::led(1);
    cluster.slow_disk(1);
    let answer = cluster.play(1, &set("k", "v"));
    begin_stop(&mut cluster, 1);
    assert!(!cluster.driver(1).is_idle());
    cluster.sync(1);
    answer.expect("STORED\r\n");
    assert!(cluster.driver(1).is_idle());
}

#[test]
fn a_stopping_follower_waits_for_what_it_has_forwarded_and_asked() {
    let mut cluster = Cluster::led(3);
    cluster.play(3, &set("j", "v"));
    cluster.slow_disk(2);
    cluster.slow_disk(3);
    let write = cluster.play(3, &set("k", "v"));
    begin_stop(&mut cluster, 3);
    assert!(!cluster.driver(3).is_idle());
    cluster.sync(2);
    write.expect("STORED\r\n");
    assert!(cluster.driver(3).is_idle());
}

#[test]
fn a_stopping_follower_answers_reads_that_wait_for_their_index() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disk(3);
    cluster.play(1, &set("k", "v")).expect("STORED\r\n");
    let read = cluster.play(3, "get k\r\n");
    begin_stop(&mut cluster, 3);
    assert!(!cluster.driver(3).is_idle());
    cluster.sync(3);
    read.expect(&hit("k", "v"));
    assert!(cluster.driver(3).is_idle());
}

#[test]
fn a_stopping_leader_hands_over_before_it_is_idle() {
    let mut cluster = Cluster::led(3);
    begin_stop(&mut cluster, 1);
    assert!(!cluster.driver(1).is_idle());
    cluster.run();
    assert!(cluster.driver(1).is_idle());
    assert!(cluster.driver(2).is_leader() || cluster.driver(3).is_leader());
}

#[test]
fn a_batch_that_loses_on_a_stopping_server_is_not_routed_again() {
    let mut cluster = Cluster::led(3);
    cluster.isolate(1);
    let answer = cluster.play(1, &set("k", "v"));
    begin_stop(&mut cluster, 1);
    cluster.elect(2);
    cluster.heal();
    cluster.advance_ms(100);
    answer.expect(SHUTTING_DOWN);
    cluster.play(2, "get k\r\n").expect("END\r\n");
}

#[test]
fn a_stopping_server_does_not_wait_for_what_is_already_answered() {
    let mut cluster = Cluster::led(3);
    let answer = cluster.ask(1, &set("k", "v"));
    cluster.isolate(1);
    cluster.run();
    cluster.advance_ms(PAST_THE_DEADLINE_MS);
    answer.expect(UNKNOWN);
    assert!(!cluster.driver(1).is_leader());
    begin_stop(&mut cluster, 1);
    assert!(cluster.driver(1).is_idle());
}
