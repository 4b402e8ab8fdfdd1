//! Linearizable reads. The world itself checks that no read is served below
//! what was acknowledged before it began.

use raft::{Change, HardState, Message};
use store_raft as raft;

use crate::support::{World, alone, append, id, info, message, output};

const HEARTBEAT_US: u64 = 50_000;
const TIMEOUT_MAX_US: u64 = 400_000;

fn led(lease: bool) -> World {
    let mut world = World::new(1, 3, move |config| config.lease_reads = lease);
    world.campaign(1);
    world.settle_leader();
    world.run_for(HEARTBEAT_US + 5_000);
    world
}

#[test]
fn reads_of_one_turn_share_one_round() {
    let mut world = led(false);
    let before = world.messages;
    world.with(1, |node, now| (0..100).for_each(|request| node.read(now, 1_000 + request)));
    world.run_for(1_000);
    assert_eq!(world.reads_served, 100);
    assert_eq!(world.messages - before, 4, "a heartbeat and its answer for each peer");
}

#[test]
fn reads_that_come_during_a_round_wait_for_the_next() {
    let mut world = led(false);
    let first = world.read(1);
    world.run_for(100);
    let second = world.read(1);
    world.run_for(150);
    assert!(world.is_answered(first) && !world.is_answered(second));
    world.run_for(200);
    assert!(world.is_answered(second));
}

#[test]
fn a_new_leader_reads_only_after_its_first_commit() {
    let mut world = led(false);
    world.propose(1, 5).unwrap();
    world.run_for(1_000);
    world.crash(id(1));
    world.filter =
        Some(Box::new(|envelope| !matches!(envelope.message, Message::AppendReply { .. })));
    world.campaign(2);
    world.run_for(5_000);
    assert_eq!(world.leader(), Some(2));
    let read = world.read(2);
    world.run_for(2 * HEARTBEAT_US);
    assert!(!world.is_answered(read), "it may not know of the last commit");
    world.heal();
    world.run_for(2 * HEARTBEAT_US);
    assert!(world.is_answered(read) && world.reads_served == 1);
}

#[test]
fn a_deposed_leader_serves_nothing() {
    for lease in [false, true] {
        let mut world = led(lease);
        world.cut_off(1);
        // Past the lease, and before it steps down by itself.
        world.run_for(250_000);
        let read = world.read(1);
        world.run_for(2 * TIMEOUT_MAX_US);
        assert!(world.is_answered(read));
        assert_eq!((world.reads_served, world.reads_failed), (0, 1), "lease: {lease}");
    }
}

#[test]
fn a_lease_serves_without_messages() {
    let mut world = led(true);
    let before = world.messages;
    world.read(1);
    assert_eq!((world.reads_served, world.messages), (1, before));
}

#[test]
fn a_transfer_ends_the_lease() {
    let mut world = led(true);
    world.filter = Some(Box::new(|envelope| {
        !matches!(envelope.message, Message::TimeoutNow | Message::HeartbeatReply { .. })
    }));
    world.with(1, |node, now| node.transfer(now, Some(id(2)))).unwrap();
    let read = world.read(1);
    world.run_for(10_000);
    assert!(!world.is_answered(read), "somebody may be leading already");
}

#[test]
fn with_leases_a_hint_is_ignored_while_the_leader_lives() {
    let mut world = led(true);
    let term = world.node(1).term();
    world.campaign(2);
    world.run_for(TIMEOUT_MAX_US);
    assert_eq!((world.leader(), world.node(1).term()), (Some(1), term));
}

#[test]
fn with_leases_a_restarted_voter_keeps_its_promise() {
    let mut world = led(true);
    world.cut_off(1);
    for voter in [2, 3] {
        world.crash(id(voter));
        world.restart(id(voter));
    }
    world.campaign(2);
    world.run_for(150_000);
    assert_eq!(world.leader(), Some(1), "the lease of 1 may still hold");
}

#[test]
fn followers_and_learners_read_through_the_leader() {
    let mut world = led(false);
    let next = world.node(1).membership().next_id;
    world.with(1, |node, now| node.change(now, Change::AddLearner { info: info("l") })).unwrap();
    world.add(id(next), raft::Membership::default());
    world.run_for(2 * HEARTBEAT_US);
    world.propose(1, 5).unwrap();
    world.run_for(1_000);
    let reads = [world.read(2), world.read(3), world.read(next)];
    world.run_for(1_000);
    assert!(reads.iter().all(|&read| world.is_answered(read)));
    assert_eq!(world.reads_served, 3);
    let status = world.node(2).status();
    assert_eq!(status.applied, world.node(1).commit(), "the answer also says what is committed");
}

#[test]
fn a_lost_answer_is_asked_for_again() {
    let mut world = led(false);
    let mut lost = false;
    world.filter = Some(Box::new(move |envelope| {
        let answer = matches!(envelope.message, Message::ReadIndexReply { .. });
        !answer || core::mem::replace(&mut lost, true)
    }));
    let read = world.read(2);
    world.run_for(2 * HEARTBEAT_US + 5_000);
    assert!(world.is_answered(read) && world.reads_served == 1);
}

#[test]
fn a_read_survives_a_change_of_leader_or_fails() {
    let mut world = led(false);
    world.crash(id(1));
    let read = world.read(2);
    world.campaign(3);
    world.run_for(10_000);
    assert_eq!(world.leader(), Some(3));
    world.run_for(HEARTBEAT_US);
    assert!(world.is_answered(read) && world.reads_served == 1);
}

#[test]
fn without_a_leader_reads_fail() {
    let mut world = led(false);
    world.cut_off(2);
    let read = world.read(2);
    world.run_for(2 * TIMEOUT_MAX_US);
    assert!(world.is_answered(read));
    world.read(2);
    assert_eq!((world.reads_served, world.reads_failed), (0, 2));
}

#[test]
fn an_answer_to_a_former_life_is_not_taken_for_ones_own() {
    let requests: std::collections::BTreeSet<u64> = (0..100)
        .map(|seed| {
            let mut node = alone(3, seed, HardState::default(), Vec::new());
            node.step(0, message(2, 1, append(1, (0, 0), Vec::new())));
            let mark = output(&mut node).persist.unwrap().mark;
            node.synced(0, mark);
            node.read(0, 7);
            let asked =
                output(&mut node).send.into_iter().find_map(|envelope| match envelope.message {
                    Message::ReadIndex { request } => Some(request),
                    _ => None,
                });
            asked.unwrap()
        })
        .collect();
    assert_eq!(requests.len(), 100);
}
