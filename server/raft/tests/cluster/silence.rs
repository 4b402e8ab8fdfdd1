//! How much is said while nothing gets any further. Messages take no time
//! here, so that replicas which answer each other without end are caught: the
//! clock would stand still.

use std::cell::Cell;
use std::rc::Rc;

use raft::{Envelope, Message};
use store_raft as raft;

use crate::support::{Cmd, World, id};

const HEARTBEAT_US: u64 = 50_000;

/// What three replicas may say between two heartbeats when nothing happens:
/// a heartbeat and an append or a nudge to each, and the answers, twice over.
const MESSAGES_IN_A_HEARTBEAT: u64 = 16;

/// Three replicas on a network without latency, led by 1.
fn instant() -> World {
    let mut world = World::new(1, 3, |_| {});
    world.weather.delay_us = (0, 0);
    world.campaign(1);
    world.settle_leader();
    world.run_for(HEARTBEAT_US);
    world
}

/// Counts the messages for which `counts` holds from now on.
fn count(world: &mut World, counts: impl Fn(&Envelope<Cmd>) -> bool + 'static) -> Rc<Cell<u64>> {
    let counted = Rc::new(Cell::new(0));
    let counter = Rc::clone(&counted);
    world.filter = Some(Box::new(move |envelope| {
        counter.set(counter.get() + u64::from(counts(envelope)));
        true
    }));
    counted
}

#[test]
fn a_deposed_leader_with_a_slow_disk_that_campaigns_makes_no_storm() {
    let mut world = instant();
    world.cut_off(1);
    for number in 0..6 {
        world.propose(1, number);
    }
    world.campaign(2);
    world.run_for(1_000);
    let last = world.node(2).status().last_index;
    assert!(world.node(2).is_leader() && world.node(1).status().last_index > last);
    world.heal();
    world.weather.sync_us = (20_000, 20_000);
    let caught_up = move |world: &World| world.node(1).status().last_index == last;
    assert!(world.run_until(10 * HEARTBEAT_US, caught_up));
    world.stuck_disks.insert(id(1));
    world.campaign(1);
    for number in 0..20 {
        let before = world.messages;
        world.run_for(HEARTBEAT_US);
        let said = world.messages - before;
        assert!(said <= MESSAGES_IN_A_HEARTBEAT, "{said} messages, heartbeat {number}");
    }
    world.heal();
    world.run_for(10 * HEARTBEAT_US);
    let leader = world.settle_leader();
    world.propose(leader, 7).unwrap();
    assert!(world.run_until(1_000_000, World::has_converged));
}

#[test]
fn a_leader_whose_own_disk_is_stuck_says_no_more_than_heartbeats() {
    let mut world = instant();
    world.stuck_disks.insert(id(1));
    for number in 0..6 {
        world.propose(1, number);
    }
    world.run_for(HEARTBEAT_US);
    let before = world.messages;
    world.run_for(10 * HEARTBEAT_US);
    assert!(world.messages - before <= 10 * MESSAGES_IN_A_HEARTBEAT);
}

#[test]
fn reads_do_not_hurry_a_slow_disk() {
    let mut world = instant();
    world.stuck_disks.insert(id(3));
    world.propose(1, 1).unwrap();
    world.run_for(2 * HEARTBEAT_US);
    let to_3 = |envelope: &Envelope<Cmd>| {
        envelope.to == id(3) && matches!(envelope.message, Message::Append { .. })
    };
    let appends = count(&mut world, to_3);
    for _ in 0..1_000 {
        let read = world.read(1);
        world.run_for(100);
        assert!(world.is_answered(read));
    }
    assert!(appends.get() <= 4, "{} appends in two heartbeats", appends.get());
}

#[test]
fn a_snapshot_that_cannot_be_finished_is_not_sent_at_full_speed() {
    let mut world = instant();
    world.cut_off(3);
    for number in 0..100 {
        world.propose(1, number);
    }
    world.run_for(2 * HEARTBEAT_US);
    world.checkpoint(1, 5);
    world.checkpoint(2, 5);
    world.heal();
    world.full_disks.insert(id(3));
    let begins = |envelope: &Envelope<Cmd>| {
        matches!(envelope.message, Message::SnapshotChunk { offset: 0, .. })
    };
    let begun = count(&mut world, begins);
    world.run_for(20 * HEARTBEAT_US);
    assert!((2..=12).contains(&begun.get()), "began {} times in a second", begun.get());
    world.heal();
    assert!(world.run_until(1_000_000, World::has_converged));
}
