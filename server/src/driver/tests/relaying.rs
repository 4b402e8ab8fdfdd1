//! What a load balancer sends to a server that does not lead.

use bytes::Bytes;
use common::control::Trouble;
use common::forward::{ForwardFrame, ForwardReply, decode_forward};
use common::front_end::Batch;
use raft::NodeId;

use super::*;
use crate::driver::{ForwardId, Forwarder, Refusal};

const SESSION: u64 = 77;

fn named(first_sequence: u64, again: bool) -> WriteIds {
    WriteIds { session: SESSION, first_sequence, done_below: 1, again }
}

/// A load balancer sends `text` to server `id`.
fn send(cluster: &mut Cluster, id: u64, number: u64, ids: WriteIds, text: &str) -> Answer {
    let answer = Answer::default();
    let origin = Arc::new(answer.clone());
    let batch = Batch::new(requests(text), BytesMut::new(), text.len(), origin);
    let from = ForwardId { from: Forwarder::LoadBalancer(5), number };
    let now = cluster.now();
    cluster.driver(id).forwarded(now, from, ids, batch);
    cluster.run();
    answer
}

/// A load balancer opens its session by way of server `id`.
fn open(cluster: &mut Cluster, id: u64, number: u64) -> Answer {
    let answer = Answer::default();
    let batch = Batch::new(Vec::new(), BytesMut::new(), 0, Arc::new(answer.clone()));
    let from = ForwardId { from: Forwarder::LoadBalancer(5), number };
    let now = cluster.now();
    cluster.driver(id).open_session_for(now, from, SESSION, batch);
    cluster.run();
    answer
}

/// Three servers, the first of which leads, and a session that was opened by way of
/// the third.
fn opened() -> Cluster {
    let mut cluster = Cluster::led(3);
    open(&mut cluster, 3, 1).expect("");
    assert_eq!(cluster.take_sent(3, Kind::Open), 1);
    cluster
}

fn told(cluster: &mut Cluster) -> Vec<(u64, Refusal)> {
    std::mem::take(&mut cluster.told)
}

#[test]
fn it_goes_to_the_leader_under_its_own_ids_and_takes_effect_once() {
    let mut cluster = opened();
    let before = cluster.last_index(1);
    send(&mut cluster, 3, 2, named(4, false), "get n\r\nincr n 1\r\n")
        .expect("END\r\nNOT_FOUND\r\n");
    send(&mut cluster, 3, 3, named(6, false), &set("n", "0")).expect("STORED\r\n");
    assert_eq!(cluster.last_index(1), before + 2, "and no session of the server's own");
    for id in [3, 2, 1] {
        send(&mut cluster, id, 4, named(7, id != 3), "incr n 1\r\n").expect("1\r\n");
    }
    cluster.hold(Kind::Requests);
    let ids = WriteIds { done_below: 7, ..named(8, true) };
    let answer = send(&mut cluster, 2, 5, ids, "incr n 1\r\n");
    let frame: Bytes = cluster.held[0].bytes.clone();
    let Ok(ForwardFrame::Requests { ids: sent, .. }) = decode_forward(&frame) else { panic!() };
    assert_eq!(sent, ids);
    cluster.release(1);
    answer.expect("2\r\n");
    assert_eq!(told(&mut cluster), []);
}

#[test]
fn what_the_leader_refuses_goes_back_as_it_is() {
    let mut cluster = Cluster::led(3);
    send(&mut cluster, 3, 1, named(1, false), "incr n 1\r\n");
    assert_eq!(told(&mut cluster), [(1, Refusal::SessionUnknown)]);
    open(&mut cluster, 3, 2).expect("");

    // Server 3 still takes server 1 for the leader.
    cluster.isolate(3);
    cluster.elect(2);
    cluster.heal();
    cluster.take_sent(3, Kind::Requests);
    send(&mut cluster, 3, 3, named(1, false), "incr n 1\r\n");
    open(&mut cluster, 3, 4);
    assert_eq!(told(&mut cluster), [(3, Refusal::NotLeader), (4, Refusal::NotLeader)]);
    assert_eq!(cluster.take_sent(3, Kind::Requests), 1);
    assert_eq!(cluster.take_sent(1, Kind::Requests), 0, "it is not sent on");
    assert!(cluster.driver(3).parked.is_empty());
}

#[test]
fn without_a_leader_or_a_link_to_it_nothing_waits_there() {
    let mut cluster = opened();
    cluster.set_no_link(3, true);
    send(&mut cluster, 3, 2, named(1, false), "incr n 1\r\n");
    assert_eq!(told(&mut cluster), [(2, Refusal::NotLeader)]);
    cluster.set_no_link(3, false);
    cluster.isolate(3);
    cluster.advance_ms(2_000);
    send(&mut cluster, 3, 3, named(1, false), "incr n 1\r\n");
    open(&mut cluster, 3, 4);
    assert_eq!(told(&mut cluster), [(3, Refusal::NotLeader), (4, Refusal::NotLeader)]);
    assert!(cluster.driver(3).parked.is_empty());
    assert_eq!(cluster.take_sent(3, Kind::Requests), 0);
}

#[test]
fn what_nobody_answers_is_lost_and_not_asked_again_here() {
    let mut cluster = opened();
    send(&mut cluster, 3, 2, named(1, false), &set("n", "0")).expect("STORED\r\n");
    cluster.take_sent(3, Kind::Requests);
    cluster.hold(Kind::Reply);
    send(&mut cluster, 3, 3, named(2, false), "incr n 1\r\n");
    open(&mut cluster, 3, 4);
    cluster.break_link(3, 1);
    assert_eq!(told(&mut cluster), [(3, Refusal::Lost), (4, Refusal::Lost)]);
    send(&mut cluster, 3, 5, named(2, true), "incr n 1\r\n");
    cluster.advance_ms(PAST_THE_DEADLINE_MS);
    assert_eq!(told(&mut cluster), [(5, Refusal::Lost)], "at its deadline");
    assert_eq!(cluster.take_sent(3, Kind::Requests), 2);
    assert_eq!(cluster.take_sent(3, Kind::Open), 1);
    cluster.release(1);
    send(&mut cluster, 3, 6, named(2, true), "incr n 1\r\n").expect("1\r\n");
}

#[test]
fn what_was_under_way_to_the_old_leader_is_lost() {
    let mut cluster = opened();
    cluster.hold(Kind::Reply);
    send(&mut cluster, 3, 2, named(1, false), &set("n", "0"));
    cluster.elect(2);
    assert_eq!(told(&mut cluster), [(2, Refusal::Lost)]);
    cluster.release(1);
    send(&mut cluster, 3, 3, named(1, true), &set("n", "0")).expect("STORED\r\n");
}

#[test]
fn who_led_a_moment_ago_relays_nothing_yet() {
    let mut cluster = opened();
    cluster.elect(2);
    send(&mut cluster, 1, 2, named(1, false), &set("n", "0"));
    assert_eq!(told(&mut cluster), [(2, Refusal::NotLeader)]);
    cluster.advance_ms(1_100);
    send(&mut cluster, 1, 3, named(1, false), &set("n", "0")).expect("STORED\r\n");
}

#[test]
fn reads_of_a_server_whose_disk_is_full_are_relayed_for_load_balancers_only() {
    let mut cluster = opened();
    cluster.driver(3).set_trouble(Some(Trouble::DiskFull));
    send(&mut cluster, 3, 2, WriteIds::default(), "get n\r\n").expect("END\r\n");
    assert_eq!(cluster.take_sent(3, Kind::Requests), 1);
    let batch = Batch::new(requests("get n\r\n"), BytesMut::new(), 1, Arc::new(Answer::default()));
    let from = ForwardId { from: Forwarder::Peer(NodeId(2)), number: 7 };
    let now = cluster.now();
    cluster.driver(3).forwarded(now, from, WriteIds::default(), batch);
    cluster.run();
    assert_eq!(cluster.take_sent(3, Kind::Requests), 0);
    assert_eq!(cluster.take_sent(3, Kind::Refusal), 1);

    cluster.hold(Kind::Reply);
    send(&mut cluster, 3, 3, WriteIds::default(), "get n\r\n");
    cluster.break_link(3, 1);
    assert_eq!(told(&mut cluster), [(3, Refusal::NotLeader)], "a read has not been executed");
}

#[test]
fn a_server_that_begins_anew_says_what_it_leaves() {
    let mut cluster = opened();
    send(&mut cluster, 3, 2, named(1, false), &set("n", "0")).expect("STORED\r\n");
    cluster.hold(Kind::Reply);
    send(&mut cluster, 3, 3, named(2, false), "incr n 1\r\n");
    let now = cluster.now();
    let left = cluster.driver(3).abandon_forwarded(now);
    assert_eq!(left.iter().map(|left| left.why).collect::<Vec<_>>(), [Refusal::Lost]);

    cluster.isolate(1);
    send(&mut cluster, 1, 4, named(3, false), "incr n 1\r\n");
    send(&mut cluster, 1, 5, WriteIds::default(), "get n\r\n");
    let left = cluster.driver(1).abandon_forwarded(now);
    let left: Vec<_> = left.iter().map(|left| (left.id.number, left.why)).collect();
    assert_eq!(left, [(4, Refusal::Lost), (5, Refusal::NotLeader)]);
}

#[test]
fn what_the_leader_has_lost_is_told_as_lost() {
    let mut cluster = opened();
    cluster.hold(Kind::Requests);
    send(&mut cluster, 3, 2, named(1, false), "incr n 1\r\n");
    let Ok(ForwardFrame::Requests { number, .. }) = decode_forward(&cluster.held[0].bytes) else {
        panic!()
    };
    let now = cluster.now();
    cluster.driver(3).forward_reply(now, NodeId(1), number, &ForwardReply::Lost);
    cluster.run();
    assert_eq!(told(&mut cluster), [(2, Refusal::Lost)]);
    assert!(cluster.driver(3).parked.is_empty());
}
