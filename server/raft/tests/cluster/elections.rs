//! Who leads, and when nobody may.

use raft::{Message, ProposeError, RoleKind, TransferError};
use store_raft as raft;

use crate::support::{World, id, role};

const HEARTBEAT_US: u64 = 50_000;
const TIMEOUT_MAX_US: u64 = 400_000;

/// Three voters, of which 1 leads.
fn led() -> World {
    let mut world = World::new(1, 3, |_| {});
    world.campaign(1);
    assert_eq!(world.settle_leader(), 1);
    world
}

#[test]
fn a_hint_elects_at_once() {
    let mut world = World::new(1, 3, |_| {});
    world.campaign(2);
    world.run_for(2_000);
    assert_eq!(world.leader(), Some(2));
    assert_eq!(world.node(1).leader(), Some(id(2)));
    assert_eq!(world.node(3).leader(), Some(id(2)));
}

#[test]
fn without_a_hint_timeouts_elect() {
    for seed in 0..20 {
        let mut world = World::new(seed, 5, |_| {});
        assert!(world.run_until(5 * TIMEOUT_MAX_US, |world| world.leader().is_some()));
    }
}

#[test]
fn one_voter_elects_itself_and_commits() {
    let mut world = World::new(1, 1, |_| {});
    world.run_for(2 * TIMEOUT_MAX_US);
    assert_eq!(world.leader(), Some(1));
    let index = world.propose(1, 5).unwrap();
    world.run_for(1_000);
    assert_eq!(world.acknowledged, index);
}

#[test]
fn seven_voters_outlive_three() {
    let mut world = World::new(1, 7, |_| {});
    world.campaign(1);
    world.settle_leader();
    for node in [1, 2, 3] {
        world.crash(id(node));
    }
    let leader = world.settle_leader();
    let index = world.propose(leader, 5).unwrap();
    world.run_for(HEARTBEAT_US);
    assert_eq!(world.acknowledged, index);
}

#[test]
fn a_vote_is_not_told_before_it_is_durable() {
    let mut world = World::new(1, 3, |_| {});
    world.stuck_disks.extend([id(2), id(3)]);
    world.campaign(1);
    // The checker fails if a vote leaves too early; here: it does not count.
    world.run_for(100_000);
    assert_eq!(role(&world, 1), RoleKind::Candidate);
    assert_eq!(world.node(2).status().vote, Some(id(1)));
    world.heal();
    world.run_for(HEARTBEAT_US);
    assert_eq!(world.leader(), Some(1));
}

#[test]
fn a_candidate_asks_only_once_its_own_vote_is_durable() {
    let mut world = World::new(1, 3, |_| {});
    world.stuck_disks.insert(id(1));
    world.campaign(1);
    world.run_for(150_000);
    assert_eq!(world.node(2).term(), 0, "nobody was asked");
    world.heal();
    world.run_for(20_000);
    assert_eq!(world.leader(), Some(1));
}

#[test]
fn who_was_cut_off_does_not_depose_the_leader() {
    let mut world = led();
    let term = world.node(1).term();
    world.cut_off(3);
    world.run_for(5 * TIMEOUT_MAX_US);
    assert_eq!(role(&world, 3), RoleKind::Candidate);
    assert_eq!(world.node(3).term(), term, "a pre-vote changes no term");
    world.heal();
    world.run_for(3 * TIMEOUT_MAX_US);
    assert_eq!((world.leader(), world.node(1).term()), (Some(1), term));
    assert_eq!(world.node(3).leader(), Some(id(1)));
}

#[test]
fn who_hears_the_leader_refuses_others() {
    let mut world = led();
    let term = world.node(1).term();
    world.cut.extend([(id(1), id(3)), (id(3), id(1))]);
    world.run_for(5 * TIMEOUT_MAX_US);
    assert_eq!((world.leader(), world.node(1).term()), (Some(1), term));
}

#[test]
fn a_sticky_voter_does_not_even_take_the_term() {
    let mut world = led();
    let (term, last) = (world.node(1).term(), world.node(1).status().last_index);
    let vote = Message::Vote { last_index: last + 5, last_term: term, transfer: false };
    let from_removed = raft::Envelope { from: id(9), to: id(2), term: term + 7, message: vote };
    world.with(2, |node, now| node.step(now, from_removed));
    assert_eq!(world.node(2).term(), term);
    assert_eq!(world.node(2).status().vote, Some(id(1)));
}

#[test]
fn a_leader_without_a_majority_steps_down() {
    let mut world = led();
    world.cut_off(1);
    world.run_for(TIMEOUT_MAX_US + 2 * HEARTBEAT_US);
    assert_ne!(role(&world, 1), RoleKind::Leader);
    world.run_for(3 * TIMEOUT_MAX_US);
    assert!(world.leader().is_some_and(|leader| leader != 1));
}

#[test]
fn a_shorter_log_cannot_win() {
    let mut world = led();
    world.cut_off(3);
    world.propose(1, 5).unwrap();
    world.run_for(HEARTBEAT_US);
    world.heal();
    world.crash(id(1));
    // The hint overrides stickiness, not the comparison of logs.
    world.campaign(3);
    world.run_for(5_000);
    assert_ne!(role(&world, 3), RoleKind::Leader);
    world.run_for(4 * TIMEOUT_MAX_US);
    assert_eq!(world.leader(), Some(2));
}

#[test]
fn lost_votes_are_asked_for_again() {
    let mut world = World::new(1, 3, |_| {});
    let mut lost = 0;
    world.filter = Some(Box::new(move |envelope| {
        lost += u64::from(matches!(envelope.message, Message::Vote { .. }));
        lost == 0 || lost > 2
    }));
    world.campaign(1);
    world.run_for(HEARTBEAT_US + 5_000);
    assert_eq!(world.leader(), Some(1));
}

#[test]
fn leadership_is_handed_over() {
    let mut world = led();
    world.propose(1, 5).unwrap();
    world.with(1, |node, now| node.transfer(now, Some(id(3)))).unwrap();
    let refused = world.with(1, |node, now| node.propose(now, crate::support::Cmd(6, 1)));
    assert_eq!(refused, Err(ProposeError::Transferring));
    let again = world.with(1, |node, now| node.transfer(now, Some(id(2))));
    assert_eq!(again, Err(TransferError::InProgress { to: id(3) }));
    world.run_for(10_000);
    assert_eq!(world.leader(), Some(3));
}

#[test]
fn a_transfer_picks_the_best_and_survives_a_lost_message() {
    let mut world = led();
    world.cut_off(2);
    world.propose(1, 5).unwrap();
    world.run_for(HEARTBEAT_US);
    world.heal();
    let mut lost = false;
    world.filter = Some(Box::new(move |envelope| {
        let told = matches!(envelope.message, Message::TimeoutNow);
        !told || core::mem::replace(&mut lost, true)
    }));
    world.with(1, |node, now| node.transfer(now, None)).unwrap();
    world.run_for(HEARTBEAT_US + 10_000);
    assert_eq!(world.leader(), Some(3));
}

#[test]
fn a_transfer_that_fails_ends_by_its_deadline() {
    let mut world = led();
    world.cut_off(3);
    world.with(1, |node, now| node.transfer(now, Some(id(3)))).unwrap();
    world.run_for(TIMEOUT_MAX_US - 10_000);
    assert!(world.propose(1, 5).is_none());
    world.run_for(20_000);
    assert!(world.propose(1, 5).is_some());
}
