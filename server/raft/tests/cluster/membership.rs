//! Servers come and go.

use raft::{Change, ChangeError, Membership, RoleKind};
use store_raft as raft;

use crate::support::{World, id, info, is_learner, role, voters};

const HEARTBEAT_US: u64 = 50_000;
const TIMEOUT_MAX_US: u64 = 400_000;

fn led(count: u64, promote: bool) -> World {
    let mut world = World::new(1, count, move |config| config.auto_promote = promote);
    world.campaign(1);
    world.settle_leader();
    world
}

fn change(world: &mut World, change: Change) -> Result<u64, ChangeError> {
    world.with(1, |node, now| node.change(now, change)).map(|at| at.0)
}

/// Admits a server, and starts it.
fn admit(world: &mut World) -> u64 {
    let next = world.node(1).membership().next_id;
    change(world, Change::AddLearner { info: info("new") }).unwrap();
    world.add(id(next), Membership::default());
    next
}

#[test]
fn a_learner_catches_up_and_is_promoted() {
    let mut world = led(3, true);
    for number in 0..500 {
        world.propose(1, number);
    }
    let new = admit(&mut world);
    world.run_for(5_000);
    assert!(is_learner(world.node(1), new));
    world.run_for(TIMEOUT_MAX_US + 3 * HEARTBEAT_US);
    assert_eq!(voters(world.node(1)), [1, 2, 3, 4]);
    assert_eq!(voters(world.node(new)), [1, 2, 3, 4]);
    assert!(world.has_converged());
}

#[test]
fn a_learner_counts_for_nothing() {
    let mut world = led(2, false);
    let new = admit(&mut world);
    world.run_for(2 * HEARTBEAT_US);
    world.crash(id(2));
    let index = world.propose(1, 5).unwrap();
    world.run_for(5_000);
    assert_eq!(world.node(new).status().last_index, index, "it has the entry");
    assert!(world.node(1).commit() < index, "which is not committed for that");
    world.run_for(3 * TIMEOUT_MAX_US);
    assert_eq!(role(&world, new), RoleKind::Follower, "it does not campaign");
    assert_ne!(role(&world, 1), RoleKind::Leader, "nor does its contact count");
    // Nor may it be told to.
    world.campaign(new);
    assert_eq!(role(&world, new), RoleKind::Follower);
}

#[test]
fn one_change_at_a_time() {
    let mut world = led(3, false);
    world.cut_off(1);
    change(&mut world, Change::Remove(id(3))).unwrap();
    let second = change(&mut world, Change::AddLearner { info: info("") });
    assert_eq!(second, Err(ChangeError::InFlight));
}

#[test]
fn no_change_before_an_entry_of_the_term_is_committed() {
    let mut world = World::new(1, 3, |_| {});
    world.campaign(1);
    world.filter =
        Some(Box::new(|envelope| !matches!(envelope.message, raft::Message::AppendReply { .. })));
    world.run_for(5_000);
    assert_eq!(world.leader(), Some(1));
    let early = change(&mut world, Change::Remove(id(3)));
    assert_eq!(early, Err(ChangeError::NoCurrentTermCommit));
}

#[test]
fn senseless_changes_are_refused() {
    let mut world = led(1, false);
    assert_eq!(change(&mut world, Change::Remove(id(1))), Err(ChangeError::LastVoter(id(1))));
    assert_eq!(change(&mut world, Change::Promote(id(1))), Err(ChangeError::AlreadyVoter(id(1))));
    assert_eq!(change(&mut world, Change::Remove(id(7))), Err(ChangeError::Unknown(id(7))));
    let new = admit(&mut world);
    world.cut_off(new);
    world.run_for(5_000);
    for number in 0..2_000 {
        world.propose(1, number);
    }
    world.run_for(5_000);
    assert_eq!(change(&mut world, Change::Promote(id(new))), Err(ChangeError::Lagging(id(new))));
}

#[test]
fn ids_are_not_used_again() {
    let mut world = led(3, false);
    let first = admit(&mut world);
    world.run_for(5_000);
    change(&mut world, Change::Remove(id(first))).unwrap();
    world.run_for(5_000);
    let second = admit(&mut world);
    assert_eq!((first, second), (4, 5));
}

#[test]
fn an_uncommitted_change_is_rolled_back() {
    let mut world = led(3, false);
    world.cut_off(1);
    change(&mut world, Change::Remove(id(3))).unwrap();
    assert_eq!(voters(world.node(1)), [1, 2], "in force as soon as it is appended");
    assert!(world.run_until(5_000_000, |world| world.leader().is_some_and(|l| l != 1)));
    world.settle_leader();
    world.heal();
    world.run_for(500_000);
    assert_eq!(voters(world.node(1)), [1, 2, 3]);
    assert!(world.has_converged());
}

#[test]
fn a_leader_removes_itself_and_somebody_takes_over_at_once() {
    let mut world = led(3, false);
    world.propose(1, 5).unwrap();
    change(&mut world, Change::Remove(id(1))).unwrap();
    world.run_for(10_000);
    assert_ne!(role(&world, 1), RoleKind::Leader);
    let leader = world.leader().expect("no timeout was needed");
    assert_eq!(voters(world.node(leader)), [2, 3]);
    let term = world.node(leader).term();
    world.run_for(5 * TIMEOUT_MAX_US);
    assert_eq!(role(&world, 1), RoleKind::Follower, "it does not campaign any more");
    assert_eq!((world.leader(), world.node(leader).term()), (Some(leader), term));
}

#[test]
fn of_two_one_can_leave() {
    let mut world = led(2, false);
    change(&mut world, Change::Remove(id(1))).unwrap();
    world.run_for(10_000);
    assert_eq!(world.leader(), Some(2));
    let index = world.propose(2, 5).unwrap();
    world.run_for(5_000);
    assert_eq!(world.acknowledged, index);
}

#[test]
fn who_is_being_removed_may_still_be_needed() {
    // Figure 4.6 of the dissertation: only 1 has the change, and only 1 has a
    // log that can win; by its latest membership it is no member.
    let mut world = led(2, false);
    world.cut_off(1);
    world.propose(1, 5).unwrap();
    change(&mut world, Change::Remove(id(1))).unwrap();
    world.run_for(3 * TIMEOUT_MAX_US);
    assert_eq!(world.leader(), None);
    world.heal();
    assert!(world.run_until(10 * TIMEOUT_MAX_US, |world| world.leader() == Some(2)));
    world.run_for(HEARTBEAT_US);
    assert_eq!(voters(world.node(2)), [2]);
}

#[test]
fn who_was_removed_learns_of_it() {
    let mut world = led(4, false);
    change(&mut world, Change::Remove(id(4))).unwrap();
    world.run_for(2 * HEARTBEAT_US);
    assert_eq!(voters(world.node(4)), [1, 2, 3]);
    assert_eq!(world.node(4).commit(), world.node(1).commit());
    let peers = world.node(1).status().peers;
    assert!(peers.iter().all(|peer| peer.id != id(4)), "and is let go: {peers:?}");
}

#[test]
fn who_was_removed_while_away_does_not_disturb() {
    let mut world = led(4, false);
    world.cut_off(4);
    change(&mut world, Change::Remove(id(4))).unwrap();
    world.run_for(4 * TIMEOUT_MAX_US);
    let term = world.node(1).term();
    world.heal();
    world.run_for(5 * TIMEOUT_MAX_US);
    assert_eq!(role(&world, 4), RoleKind::Candidate, "it still tries");
    assert_eq!((world.leader(), world.node(1).term()), (Some(1), term));
    // Not even a real election of it, at a later term.
    world.campaign(4);
    world.run_for(2 * TIMEOUT_MAX_US);
    let leader = world.settle_leader();
    assert_ne!(leader, 4);
    let index = world.propose(leader, 5).unwrap();
    world.run_for(HEARTBEAT_US);
    assert_eq!(world.acknowledged, index);
}

#[test]
fn a_learner_that_was_promoted_without_knowing_still_votes() {
    // The promotion of 3 is committed by 1 and 2 alone; then 1 dies. 2 can
    // only win with the vote of 3, which takes itself for a learner.
    let mut world = led(2, false);
    let new = admit(&mut world);
    world.run_for(2 * HEARTBEAT_US);
    world.cut_off(new);
    change(&mut world, Change::Promote(id(new))).unwrap();
    world.run_for(HEARTBEAT_US);
    assert_eq!(world.node(2).commit(), world.node(1).status().last_index);
    assert!(is_learner(world.node(new), new));
    world.heal();
    world.crash(id(1));
    assert!(world.run_until(5 * TIMEOUT_MAX_US, |world| world.leader() == Some(2)));
    world.run_for(HEARTBEAT_US);
    assert_eq!(voters(world.node(new)), [1, 2, 3]);
}

#[test]
fn an_address_can_be_changed() {
    let mut world = led(3, false);
    change(&mut world, Change::Update { id: id(2), info: info("moved") }).unwrap();
    world.run_for(2 * HEARTBEAT_US);
    let member = world.node(3).membership().members[&id(2)].clone();
    assert_eq!(member.info, info("moved"));
}
