//! The leader's process ends, and others see it.

use raft::RoleKind;
use store_raft as raft;

use crate::support::{World, id, role};

const HEARTBEAT_US: u64 = 50_000;
const TIMEOUT_MAX_US: u64 = 400_000;

/// Of 1 in `voters`, with an entry that all have.
fn led(seed: u64, voters: u64) -> World {
    let mut world = World::new(seed, voters, |_| {});
    world.campaign(1);
    world.settle_leader();
    world.propose(1, 5).unwrap();
    world.run_for(2 * HEARTBEAT_US);
    world
}

/// How long it takes until somebody else leads, which must be at the first try.
fn gap_us(world: &mut World) -> u64 {
    let (from, term) = (world.now, world.node(2).term());
    assert!(world.run_until(TIMEOUT_MAX_US, |world| world.leader().is_some()));
    assert_eq!(world.node(world.leader().unwrap()).term(), term + 1);
    world.now - from
}

#[test]
fn those_who_see_it_elect_at_once() {
    for seed in 0..20 {
        for voters in [3, 5, 7] {
            let mut world = led(seed, voters);
            world.crash(id(1));
            for node in 2..=voters {
                assert!(world.sees_end_of(node, 1));
                world.run_for(150);
            }
            // Two round trips of 200 us and two syncs; for those who had not
            // noticed in time, one repetition.
            let gap = gap_us(&mut world);
            assert!(gap < 1_500 + HEARTBEAT_US / 16, "{gap} us with {voters} voters");
            assert_eq!(world.leader(), Some(2));
        }
    }
}

#[test]
fn whose_log_is_longer_has_its_turn_soon() {
    let mut world = led(1, 3);
    world.cut_off(2);
    world.propose(1, 6).unwrap();
    world.run_for(1_000);
    world.crash(id(1));
    world.heal();
    assert!(world.sees_end_of(2, 1));
    assert!(world.sees_end_of(3, 1));
    let gap = gap_us(&mut world);
    assert!(gap < HEARTBEAT_US / 2, "{gap} us");
    assert_eq!(world.leader(), Some(3));
}

#[test]
fn the_first_in_line_may_be_gone_too() {
    let mut world = led(1, 5);
    world.crash(id(1));
    world.crash(id(2));
    for node in 3..=5 {
        assert!(world.sees_end_of(node, 1));
    }
    let (from, term) = (world.now, world.node(3).term());
    assert!(world.run_until(TIMEOUT_MAX_US, |world| world.leader().is_some()));
    let gap = world.now - from;
    assert!(gap < HEARTBEAT_US / 2, "{gap} us");
    assert_eq!((world.leader(), world.node(3).term()), (Some(3), term + 1));
}

#[test]
fn one_who_sees_it_alone_waits_for_the_others_to_lose_patience() {
    let mut world = led(1, 3);
    world.crash(id(1));
    assert!(world.sees_end_of(3, 1));
    // The other one refuses as long as it must for the sake of a leader that
    // lives, and no longer.
    let gap = gap_us(&mut world);
    assert!(gap < TIMEOUT_MAX_US / 2 + HEARTBEAT_US / 4, "{gap} us");
}

#[test]
fn a_false_alarm_of_one_changes_nothing() {
    let mut world = led(1, 3);
    let term = world.node(1).term();
    for node in [2, 3] {
        assert!(world.sees_end_of(node, 1));
        assert_eq!(world.node(node).leader(), None);
        world.run_for(2 * HEARTBEAT_US);
        assert_eq!(world.node(node).leader(), Some(id(1)));
        assert_eq!(world.node(node).gone_leader(), None);
    }
    world.run_for(2 * TIMEOUT_MAX_US);
    assert_eq!((world.leader(), world.node(1).term()), (Some(1), term));
}

#[test]
fn a_false_alarm_of_all_costs_an_election() {
    let mut world = led(1, 3);
    let term = world.node(1).term();
    assert!(world.sees_end_of(2, 1));
    assert!(world.sees_end_of(3, 1));
    world.run_for(HEARTBEAT_US);
    assert_eq!((world.leader(), world.node(1).term()), (Some(2), term + 1));
    assert_eq!(role(&world, 1), RoleKind::Follower);
    world.run_for(2 * TIMEOUT_MAX_US);
    assert_eq!((world.leader(), world.node(1).term()), (Some(2), term + 1));
}

#[test]
fn only_the_end_of_the_leader_of_this_term_counts() {
    let mut world = led(1, 3);
    let term = world.node(2).term();
    assert!(!world.sees_end_of(2, 3), "does not lead");
    assert!(!world.sees_end_of(1, 1), "leads itself");
    assert!(!world.with(2, |node, now| node.leader_gone(now, id(1), term - 1)), "another term");
    assert!(!world.with(2, |node, now| node.leader_gone(now, id(1), term + 1)), "another term");
    assert_eq!(world.node(2).leader(), Some(id(1)));
}

#[test]
fn with_leases_nobody_hurries() {
    let mut world = World::new(1, 3, |config| config.lease_reads = true);
    let leader = world.settle_leader();
    world.run_for(HEARTBEAT_US);
    let follower = leader % 3 + 1;
    assert!(!world.sees_end_of(follower, leader));
    assert_eq!(world.node(follower).leader(), Some(id(leader)));
}

#[test]
fn where_messages_take_long_votes_are_not_divided() {
    // The second in line begins before it hears of the first one.
    for seed in 0..20 {
        let mut world = led(seed, 3);
        world.weather.delay_us = (14_000, 16_000);
        world.crash(id(1));
        assert!(world.sees_end_of(2, 1));
        assert!(world.sees_end_of(3, 1));
        let gap = gap_us(&mut world);
        assert!(gap < 4 * 16_000 + 1_000, "{gap} us for two round trips");
        assert_eq!(world.leader(), Some(2));
    }
}

#[test]
fn one_who_cannot_win_holds_nobody_up() {
    // Nothing comes back to 2.
    let mut world = led(1, 5);
    world.crash(id(1));
    world.cut.extend((3..=5).map(|node| (id(node), id(2))));
    for node in 2..=5 {
        assert!(world.sees_end_of(node, 1));
    }
    let from = world.now;
    assert!(world.run_until(2 * TIMEOUT_MAX_US, |world| world.leader().is_some()));
    assert!(world.now - from < TIMEOUT_MAX_US + HEARTBEAT_US, "{} us", world.now - from);
    assert_ne!(world.leader(), Some(2));
}

#[test]
fn without_a_majority_the_usual_pace_returns() {
    let mut world = led(1, 5);
    for node in [1, 2, 3] {
        world.crash(id(node));
    }
    for node in [4, 5] {
        assert!(world.sees_end_of(node, 1));
    }
    world.run_for(TIMEOUT_MAX_US);
    let before = world.messages;
    world.run_for(10 * TIMEOUT_MAX_US);
    // Two candidates that ask four others each heartbeat.
    let most = 2 * 4 * 2 * 10 * TIMEOUT_MAX_US / HEARTBEAT_US;
    assert!(world.messages - before < most, "{}", world.messages - before);
    assert_eq!(world.leader(), None);
}
