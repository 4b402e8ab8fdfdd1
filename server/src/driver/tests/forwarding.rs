//! Batches with writes on a follower.

use bytes::Bytes;
use common::forward::{ForwardReply, WriteIds};
use common::front_end::Batch;
use common::limits::MAX_FORWARDED_REPLY_BYTES;
use raft::NodeId;

use super::*;
use crate::driver::{ForwardId, Forwarder};

#[test]
fn a_batch_with_a_write_goes_to_the_leader_as_a_whole() {
    let mut cluster = Cluster::led(3);
    let before = cluster.last_index(1);
    let batch = ["version\r\nget k\r\n", &set("k", "v"), "get k\r\nincr k 1 noreply\r\nbogus\r\n"];
    let version = common::front_end::VERSION_REPLY;
    cluster
        .play(3, &batch.concat())
        .expect(&[version, "\r\nEND\r\nSTORED\r\n", &hit("k", "v"), "ERROR\r\n"].concat());
    assert_eq!(cluster.last_index(1), before + 3, "one opens the session");
    assert_eq!(cluster.take_sent(3, Kind::Requests), 1);
    assert_eq!(cluster.take_sent(3, Kind::Open), 1);
    assert_eq!(cluster.take_sent(3, Kind::ReadIndex), 0);
}

#[test]
fn an_item_that_is_to_expire_is_refused_by_the_leader_in_its_place() {
    let mut cluster = Cluster::led(3);
    let refusal = "SERVER_ERROR expiry is not supported yet, not executed: use exptime 0\r\n";
    let batch = [&set("a", "1"), "set b 0 60 1\r\nx\r\n", "get a b\r\n"].concat();
    cluster.play(2, &batch).expect(&["STORED\r\n", refusal, &hit("a", "1")].concat());
}

#[test]
fn a_refused_batch_waits_for_the_next_leader_and_is_executed_once() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("n", "0")).expect("STORED\r\n");
    cluster.isolate(3);
    cluster.elect(2);
    cluster.heal();
    // It still takes server 1 for the leader.
    let answer = cluster.play(3, "incr n 1\r\nget n\r\n");
    assert_eq!(cluster.take_sent(1, Kind::Refusal), 1);
    answer.expect_none();
    assert_eq!(cluster.driver(3).parked.len(), 1);
    cluster.advance_ms(100);
    answer.expect(&["1\r\n", &hit("n", "1")].concat());
    cluster.play(3, "get n\r\n").expect(&hit("n", "1"));
}

#[test]
fn a_batch_that_was_forwarded_to_a_server_that_does_not_lead_is_refused() {
    let mut cluster = Cluster::led(3);
    let before = cluster.last_index(1);
    let dropped = Answer::default();
    let origin = Arc::new(dropped.clone());
    let batch = Batch::new(requests(&set("k", "v")), BytesMut::new(), 1, origin);
    let now = cluster.now();
    cluster.driver(3).forwarded(
        now,
        ForwardId { from: Forwarder::Peer(NodeId(2)), number: 7 },
        WriteIds::default(),
        batch,
    );
    cluster.run();
    assert_eq!(cluster.take_sent(3, Kind::Refusal), 1);
    assert_eq!(cluster.take_sent(3, Kind::Requests), 0, "it is not passed on");
    let finished = dropped.0.lock().unwrap();
    assert!(matches!(finished.as_slice(), [finished] if !finished.complete));
    assert_eq!(cluster.last_index(1), before);
}

#[test]
fn what_a_lost_link_owes_is_asked_again() {
    let mut cluster = Cluster::led(3);
    cluster.play(3, &set("n", "0"));
    cluster.hold(Kind::Reply);
    let answer = cluster.play(3, "incr n 1\r\nget n\r\n");
    cluster.break_link(3, 2);
    answer.expect_none();
    assert_eq!(cluster.take_sent(3, Kind::Requests), 2);
    cluster.break_link(3, 1);
    assert_eq!(cluster.take_sent(3, Kind::Requests), 1);
    cluster.release(1);
    answer.expect(&["1\r\n", &hit("n", "1")].concat());
}

#[test]
fn a_request_that_the_link_does_not_take_waits_for_the_link() {
    let mut cluster = Cluster::led(3);
    cluster.set_no_link(3, true);
    let answer = cluster.play(3, &set("k", "v"));
    answer.expect_none();
    assert_eq!(cluster.driver(3).parked.len(), 1);
    cluster.set_no_link(3, false);
    cluster.driver(3).link_up(NodeId(1));
    cluster.run();
    answer.expect("STORED\r\n");
}

#[test]
fn a_forwarded_batch_without_answer_is_unknown_at_its_deadline_and_stays_so() {
    let mut cluster = Cluster::led(3);
    cluster.play(3, &set("j", "v"));
    cluster.slow_disk(2);
    cluster.slow_disk(3);
    let answer = cluster.play(3, &set("k", "v"));
    cluster.advance_ms(1490);
    answer.expect_none();
    cluster.advance_ms(20);
    answer.expect(UNKNOWN);
    cluster.sync(2);
    answer.expect(UNKNOWN);
    cluster.play(1, "get k\r\n").expect(&hit("k", "v"));
}

#[test]
fn answers_with_a_number_that_nobody_waits_for_are_ignored() {
    let mut cluster = Cluster::led(3);
    cluster.play(3, &set("j", "v"));
    cluster.isolate(1);
    let answer = cluster.play(3, &set("k", "v"));
    let now = cluster.now();
    // Two numbers went to the session and to the first write.
    let number = (cluster.driver(3).facts.started_ms << 20) + 2;
    let driver = cluster.driver(3);
    for stale in [0, number, number + 2, u64::MAX] {
        driver.forward_reply(now, NodeId(1), stale, &ForwardReply::NotLeader);
        driver.forward_reply(now, NodeId(1), stale, &done("STORED\r\n"));
        driver.forward_failed(now, NodeId(1), stale);
    }
    // The right number from a peer that was not asked.
    driver.forward_reply(now, NodeId(2), number + 1, &done("DELETED\r\n"));
    driver.forward_reply(now, NodeId(2), number + 1, &ForwardReply::NotLeader);
    assert!(driver.parked.is_empty());
    answer.expect_none();
    driver.forward_reply(now, NodeId(1), number + 1, &done("STORED\r\n"));
    answer.expect("STORED\r\n");
    driver.forward_reply(now, NodeId(1), number + 1, &done("STORED\r\n"));
    answer.expect("STORED\r\n");
}

fn done(replies: &'static str) -> ForwardReply {
    ForwardReply::Done(Bytes::from_static(replies.as_bytes()))
}

#[test]
fn the_replies_of_a_forwarded_batch_fit_into_a_frame() {
    let mut cluster = Cluster::led(3);
    let value = "x".repeat(DEFAULT_MAX_VALUE_BYTES);
    cluster.play(1, &set("k", &value)).expect("STORED\r\n");
    let copies = MAX_FORWARDED_REPLY_BYTES / DEFAULT_MAX_VALUE_BYTES;
    let get = |copies| ["get", &" k".repeat(copies), "\r\n"].concat();
    let refusal = "SERVER_ERROR out of memory writing get response\r\n";
    let too_many = cluster.play(3, &[&set("j", "1"), &get(copies + 1), "get j\r\n"].concat());
    too_many.expect(&["STORED\r\n", refusal, &hit("j", "1")].concat());
    let most = cluster.play(3, &[get(copies - 1), set("j", "2")].concat()).text().unwrap();
    assert!(most.len() > (copies - 1) * DEFAULT_MAX_VALUE_BYTES);
    assert!(most.ends_with("\r\nEND\r\nSTORED\r\n"));
}

#[test]
fn a_leader_without_room_for_all_of_a_batch_is_asked_again_in_a_moment() {
    let mut cluster = Cluster::with(3, |config| config.max_uncommitted_bytes = 500);
    cluster.elect(1);
    cluster.play(3, &set("n", "0")).expect("STORED\r\n");
    cluster.hold(Kind::Reply);
    let answer = cluster.play(3, &"incr n 1\r\n".repeat(30));
    cluster.take_sent(3, Kind::Requests);
    // Its answer is lost, and it may have been executed: the leader can only
    // say that it has lost the end of it.
    cluster.release(0);
    cluster.break_link(3, 1);
    cluster.take_sent(1, Kind::Refusal);
    cluster.take_sent(3, Kind::Requests);
    let mut most = 0;
    for _ in 0..5 {
        cluster.advance_ms(100);
        most = most.max(cluster.take_sent(3, Kind::Requests));
        answer.expect_none();
    }
    assert!(cluster.take_sent(1, Kind::Refusal) > 0, "there is no room");
    assert!((1..=20).contains(&most), "{most} frames in 100 ms");
    cluster.advance_ms(PAST_THE_DEADLINE_MS);
    answer.expect(&UNKNOWN.repeat(30));
}
