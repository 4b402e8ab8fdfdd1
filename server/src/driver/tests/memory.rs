//! A server's memory limit.

use super::*;
use crate::keystore::{ITEM_OVERHEAD_BYTES, KeystoreLimits};

const FULL: &str = "SERVER_ERROR out of memory storing object\r\n";

/// One server that leads, with room for `items` items of a key of one byte
/// and a value of ten.
fn with_room_for(items: u64) -> Cluster {
    let mut cluster = Cluster::led(1);
    limit(&mut cluster, 1, Some(items * (ITEM_OVERHEAD_BYTES + 11)));
    cluster
}

fn limit(cluster: &mut Cluster, id: u64, memory_bytes: Option<u64>) {
    cluster.driver(id).keystore.set_limits(KeystoreLimits { memory_bytes });
}

fn ten(key: &str) -> String {
    set(key, "0123456789")
}

#[test]
fn a_store_beyond_the_limit_is_refused_and_not_proposed() {
    let mut cluster = with_room_for(2);
    cluster.play(1, &[ten("a"), ten("b")].concat()).expect("STORED\r\nSTORED\r\n");
    let before = cluster.last_index(1);
    cluster.play(1, &ten("c")).expect(FULL);
    cluster.play(1, "set c 0 0 1 noreply\r\nx\r\nget c\r\n").expect("END\r\n");
    assert_eq!(cluster.last_index(1), before);
}

#[test]
fn what_does_not_grow_goes_on_while_memory_is_full() {
    let mut cluster = with_room_for(2);
    cluster.play(1, &[ten("a"), ten("b")].concat());
    let batch =
        [&set("a", "987654321"), "get a\r\n", "incr a 1\r\n", &ten("c"), "append b 0 0 1\r\nx\r\n"];
    let replies = ["STORED\r\n", &hit("a", "987654321"), "987654322\r\n", FULL, FULL];
    cluster.play(1, &batch.concat()).expect(&replies.concat());
    cluster.play(1, "delete a\r\n").expect("DELETED\r\n");
    cluster.play(1, &ten("c")).expect("STORED\r\n");
}

#[test]
fn what_is_proposed_and_not_applied_yet_takes_room_too() {
    let mut cluster = with_room_for(3);
    cluster.slow_disk(1);
    let answer = cluster.play(1, &ten("a"));
    let same = cluster.play(1, &[ten("b"), ten("c"), ten("d")].concat());
    cluster.play(1, &ten("e")).expect(FULL);
    cluster.sync(1);
    cluster.sync(1);
    answer.expect("STORED\r\n");
    same.expect(&["STORED\r\nSTORED\r\n", FULL].concat());
}

#[test]
fn room_that_a_lost_batch_had_taken_comes_back() {
    let mut cluster = Cluster::led(3);
    limit(&mut cluster, 1, Some(ITEM_OVERHEAD_BYTES + 11));
    cluster.isolate(1);
    let lost = cluster.play(1, &ten("a"));
    cluster.play(1, &ten("b")).expect(FULL);
    cluster.elect(2);
    cluster.advance_ms(PAST_THE_DEADLINE_MS);
    lost.expect(UNKNOWN);
    cluster.heal();
    cluster.advance_ms(200);
    cluster.elect(1);
    cluster.play(1, &ten("b")).expect("STORED\r\n");
}

#[test]
fn a_follower_stores_whatever_the_leader_has_room_for() {
    let mut cluster = Cluster::led(3);
    limit(&mut cluster, 2, Some(1));
    cluster.play(2, &ten("a")).expect("STORED\r\n");
    cluster.play(2, "get a\r\n").expect(&hit("a", "0123456789"));
    limit(&mut cluster, 1, Some(1));
    cluster.play(3, &ten("b")).expect(FULL);
}
