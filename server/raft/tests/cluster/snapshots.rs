//! Those for whom the log is too short get the state itself.

use std::cell::Cell;
use std::rc::Rc;

use raft::{Envelope, HardState, Message, Node, SnapshotMeta, SnapshotTask};
use store_raft as raft;

use crate::support::{Cmd, World, alone, append, command, id, message, output};

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
fn what_is_left_of_the_side_file_is_gone_on_with() {
    let mut world = one_behind();
    reach_the_middle(&mut world);
    let kept = world.machines[&id(3)].side_file[..8].to_vec();
    world.crash(id(3));
    world.run_for(HEARTBEAT_US);
    world.machines.get_mut(&id(3)).unwrap().side_file = kept;
    let begun_anew = Rc::new(Cell::new(false));
    let seen = Rc::clone(&begun_anew);
    world.filter = Some(Box::new(move |envelope| {
        if let Message::SnapshotChunk { offset: 0, .. } = envelope.message {
            seen.set(true);
        }
        true
    }));
    world.restart(id(3));
    assert!(world.run_until(3_000_000, World::has_converged));
    assert!(!begun_anew.get());
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

/// The task that a chunk of a snapshot at index 5 leads to.
fn chunk(node: &mut Node<Cmd>, from: u64, term: u64, offset: u64, done: bool) -> Option<u64> {
    let membership = node.membership().clone();
    let meta = SnapshotMeta { index: 5, term: 1, membership };
    let data = vec![from as u8; 8];
    node.step(0, message(from, term, Message::SnapshotChunk { meta, offset, data, done }));
    let out = output(node);
    if let Some(persist) = out.persist {
        node.synced(0, persist.mark);
    }
    out.snapshots.first().map(|task| match task {
        SnapshotTask::Write { offset, .. } => *offset,
        SnapshotTask::Read { .. } => panic!("a follower sends no snapshots"),
    })
}

#[test]
fn chunks_of_two_senders_are_not_mixed() {
    let mut node = alone(3, 1, HardState::default(), Vec::new());
    assert_eq!(chunk(&mut node, 2, 1, 0, false), Some(0));
    node.snapshot_written(0, 5, 8, None);
    assert_eq!(chunk(&mut node, 2, 1, 8, false), Some(8));
    node.snapshot_written(0, 5, 16, None);
    assert_eq!(chunk(&mut node, 3, 2, 16, true), None, "3 has to begin from the start");
    assert_eq!(chunk(&mut node, 3, 2, 0, false), Some(0));
}

#[test]
fn an_old_answer_of_the_side_file_does_not_count_for_another_transfer() {
    let mut node = alone(3, 1, HardState::default(), Vec::new());
    chunk(&mut node, 2, 1, 0, false);
    node.snapshot_written(0, 5, 8, None);
    chunk(&mut node, 2, 1, 8, false);
    assert_eq!(chunk(&mut node, 3, 2, 0, false), Some(0));
    node.snapshot_written(0, 5, 16, None);
    assert_eq!(chunk(&mut node, 3, 2, 16, false), None);
}

#[test]
fn nothing_is_appended_while_the_log_is_being_replaced() {
    let mut node = alone(3, 1, HardState::default(), Vec::new());
    assert_eq!(chunk(&mut node, 2, 1, 0, true), Some(0));
    let log: Vec<_> = (1..=8).map(|index| command(index, 1, index)).collect();
    node.step(0, message(3, 2, append(2, (0, 0), log.clone())));
    assert_eq!(node.status().last_index, 0, "it would be dropped after it was acknowledged");
    let meta = SnapshotMeta { index: 5, term: 1, membership: node.membership().clone() };
    node.snapshot_written(0, 5, 8, Some(meta));
    node.step(0, message(3, 2, append(2, (5, 1), log[5..].to_vec())));
    assert_eq!((node.status().last_index, node.status().applied), (8, 5));
}

#[test]
fn installing_does_not_overtake_what_is_to_be_written_before() {
    let mut node = alone(3, 1, HardState::default(), Vec::new());
    node.step(0, message(2, 1, append(1, (0, 0), vec![command(1, 1, 1)])));
    // The driver's disk is busy: the batch of this turn stays in the output.
    let mut out = output(&mut node);
    let meta = SnapshotMeta { index: 5, term: 1, membership: node.membership().clone() };
    let last = Message::SnapshotChunk { meta, offset: 0, data: vec![1], done: true };
    node.step(0, message(2, 1, append(1, (1, 1), vec![command(2, 1, 2)])));
    node.step(0, message(2, 1, last));
    node.take_output(0, &mut out);
    assert!(out.snapshots.is_empty());
    out.persist = None;
    node.take_output(0, &mut out);
    let written = out.persist.unwrap().entries.len();
    assert_eq!((written, out.snapshots.len()), (1, 1));
}
