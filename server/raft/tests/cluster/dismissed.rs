//! Who was dismissed is kept in mind by every replica.

use raft::{Change, ChangeError, MAX_DISMISSED, Membership, NodeId};
use store_raft as raft;

use crate::support::{World, id, info, voters};

const HEARTBEAT_US: u64 = 50_000;

fn led(count: u64) -> World {
    let mut world = World::new(1, count, |config| config.auto_promote = false);
    world.campaign(1);
    world.settle_leader();
    world
}

fn change(world: &mut World, leader: u64, change: Change) -> Result<u64, ChangeError> {
    world.with(leader, |node, now| node.change(now, change)).map(|at| at.0)
}

fn dismissed(membership: &Membership) -> Vec<u64> {
    membership.dismissed.keys().map(|id| id.0).collect()
}

fn dismiss(node: u64) -> Change {
    Change::Dismiss { id: id(node), info: info("its run") }
}

#[test]
fn every_replica_keeps_the_dismissed_in_mind_and_the_removed_are_forgotten() {
    let mut world = led(5);
    change(&mut world, 1, dismiss(4)).unwrap();
    world.run_for(HEARTBEAT_US);
    change(&mut world, 1, Change::Remove(id(5))).unwrap();
    world.run_for(HEARTBEAT_US);
    for node in 1..=3 {
        let membership = world.node(node).membership();
        assert_eq!(voters(world.node(node)), [1, 2, 3]);
        assert_eq!(dismissed(membership), [4]);
        assert_eq!(membership.dismissed[&id(4)], info("its run"));
    }
    // It is no member: it cannot be dismissed once more.
    assert_eq!(change(&mut world, 1, dismiss(4)), Err(ChangeError::Unknown(id(4))));
}

#[test]
fn a_dismissal_outlives_later_changes_and_leaders() {
    let mut world = led(4);
    change(&mut world, 1, dismiss(4)).unwrap();
    world.run_for(HEARTBEAT_US);
    world.crash(id(1));
    assert!(world.run_until(5_000_000, |world| world.leader().is_some_and(|l| l != 1)));
    let leader = world.settle_leader();
    world.run_for(HEARTBEAT_US);
    change(&mut world, leader, Change::AddLearner { info: info("new") }).unwrap();
    world.run_for(HEARTBEAT_US);
    let membership = world.node(leader).membership();
    assert_eq!(dismissed(membership), [4]);
    assert!(membership.members.contains_key(&id(5)), "ids are not used again");
}

#[test]
fn a_snapshot_brings_the_dismissed() {
    let mut world = led(4);
    world.run_for(HEARTBEAT_US);
    world.cut_off(3);
    change(&mut world, 1, dismiss(4)).unwrap();
    world.run_for(HEARTBEAT_US);
    for number in 0..100 {
        world.propose(1, number);
    }
    world.run_for(2 * HEARTBEAT_US);
    world.checkpoint(1, 5);
    world.checkpoint(2, 5);
    world.heal();
    assert!(world.run_until(2_000_000, |world| world.node(3).status().checkpoint > 0));
    assert_eq!(dismissed(world.node(3).membership()), [4]);
}

#[test]
fn an_uncommitted_dismissal_is_rolled_back_with_its_tombstone() {
    let mut world = led(3);
    world.cut_off(1);
    change(&mut world, 1, dismiss(3)).unwrap();
    assert_eq!(dismissed(world.node(1).membership()), [3]);
    assert!(world.run_until(5_000_000, |world| world.leader().is_some_and(|l| l != 1)));
    world.settle_leader();
    world.heal();
    world.run_for(500_000);
    assert_eq!(voters(world.node(1)), [1, 2, 3]);
    assert_eq!(dismissed(world.node(1).membership()), [0; 0]);
}

#[test]
fn of_too_many_the_oldest_are_forgotten() {
    let mut world = led(1);
    let many = MAX_DISMISSED as u64 + 5;
    for _ in 0..many {
        change(&mut world, 1, Change::AddLearner { info: info("new") }).unwrap();
        world.run_for(1_000);
        let new = NodeId(world.node(1).membership().next_id - 1);
        change(&mut world, 1, dismiss(new.0)).unwrap();
        world.run_for(1_000);
    }
    let kept = dismissed(world.node(1).membership());
    assert_eq!(kept, (2 + many - MAX_DISMISSED as u64..2 + many).collect::<Vec<_>>());
}
