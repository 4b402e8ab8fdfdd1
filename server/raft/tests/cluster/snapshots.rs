//! Those for whom the log is too short get the state itself.

use raft::{Envelope, Message};
use store_raft as raft;

use crate::support::{Cmd, World, id};

const HEARTBEAT_US: u64 = 50_000;

/// 3 was away while 1 compacted what it needs.
fn one_behind() -> World {
    let mut world = World::new(1, 3, |_| {});
    world.campaign(1);
    world.settle_leader();
    world.run_for(HEARTBEAT_US);
    world.cut_off(3);
    for number in 0..100 {
        world.propose(1, number);
    }
    world.run_for(2 * HEARTBEAT_US);
    world.checkpoint(1, 5);
    world.checkpoint(2, 5);
    world.propose(1, 100).unwrap();
    world.run_for(1_000);
    world
}

fn is_chunk(envelope: &Envelope<Cmd>) -> bool {
    matches!(envelope.message, Message::SnapshotChunk { .. })
}

/// Runs until a snapshot is half on its way to 3.
fn reach_the_middle(world: &mut World) {
    world.heal();
    let installing = |world: &World| {
        let peers = world.node(1).status().peers;
        peers.iter().any(
            |peer| matches!(peer.state, raft::PeerState::Snapshot { offset, .. } if offset >= 16),
        )
    };
    assert!(world.run_until(1_000_000, installing));
}

#[test]
fn a_snapshot_brings_who_is_far_behind_up_to_date() {
    let mut world = one_behind();
    world.heal();
    assert!(world.run_until(1_000_000, World::has_converged));
    let status = world.node(3).status();
    assert_eq!((status.checkpoint, status.membership), (101, world.node(1).membership().clone()));
}

#[test]
fn proposals_go_on_meanwhile() {
    let mut world = one_behind();
    reach_the_middle(&mut world);
    for number in 0..50 {
        world.propose(1, number);
        world.run_for(100);
    }
    assert!(world.run_until(1_000_000, World::has_converged));
}

#[test]
fn lost_chunks_are_sent_again() {
    let mut world = one_behind();
    world.heal();
    let mut turn = 0;
    world.filter = Some(Box::new(move |envelope| {
        turn += u64::from(is_chunk(envelope));
        !is_chunk(envelope) || turn % 2 == 0
    }));
    assert!(world.run_until(3_000_000, World::has_converged));
}

#[test]
fn a_newer_snapshot_takes_over_in_the_middle() {
    let mut world = one_behind();
    reach_the_middle(&mut world);
    for number in 0..50 {
        world.propose(1, number);
    }
    world.run_for(400);
    world.checkpoint(1, 0);
    assert!(world.run_until(1_000_000, World::has_converged));
    assert!(world.node(3).status().checkpoint > 101);
}

#[test]
fn the_receiver_crashes_in_the_middle() {
    let mut world = one_behind();
    reach_the_middle(&mut world);
    world.crash(id(3));
    world.run_for(HEARTBEAT_US);
    world.restart(id(3));
    assert!(world.run_until(3_000_000, World::has_converged));
}

#[test]
fn the_sender_crashes_in_the_middle() {
    let mut world = one_behind();
    reach_the_middle(&mut world);
    world.crash(id(1));
    world.campaign(2);
    world.run_for(500_000);
    world.restart(id(1));
    assert!(world.run_until(3_000_000, World::has_converged));
    assert_eq!(world.leader(), Some(2));
}

#[test]
fn a_snapshot_of_what_is_in_the_log_changes_nothing() {
    let mut world = one_behind();
    let meta = world.node(1).snapshot_meta(101).unwrap();
    world.heal();
    assert!(world.run_until(1_000_000, World::has_converged));
    let before = world.node(2).status();
    let message = Message::SnapshotChunk { meta, offset: 0, data: vec![1], done: true };
    let term = world.node(1).term();
    let stale = Envelope { from: id(1), to: id(2), term, message };
    world.with(2, |node, now| node.step(now, stale));
    world.run_for(5_000);
    let after = world.node(2).status();
    assert_eq!((before.last_index, before.applied), (after.last_index, after.applied));
    assert!(world.has_converged());
}

#[test]
fn compaction_keeps_what_no_checkpoint_has() {
    let mut world = one_behind();
    world.propose(1, 7).unwrap();
    world.run_for(1_000);
    let machine = world.machines.get_mut(&id(1)).unwrap();
    machine.node.as_mut().unwrap().compact(u64::MAX);
    assert_eq!(world.node(1).status().first_index, 102);
}
