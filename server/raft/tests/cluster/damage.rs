//! Servers that lost what had been durable, and know where their log ended.

use raft::{Entry, Event, HardState, Message, Node, NodeId, Position, Restored, RoleKind};
use store_raft as raft;

use crate::support::{Cmd, Dice, Weather, World, alone, append, command, id, message, output};

/// Replica 1 of three with two entries of term 1, in term 4, below a floor.
fn below(floor: Position) -> Node<Cmd> {
    let entries = || vec![command(1, 1, 1), command(2, 1, 2)];
    let hard_state = HardState { term: 4, vote: None };
    let mut whole = alone(3, 1, hard_state, entries());
    let restored = Restored {
        hard_state,
        snapshot: whole.snapshot_meta(0).expect("the first membership"),
        runs: vec![(1, 1)],
        memberships: Vec::new(),
        entries: entries(),
        commit: 0,
        floor: Some(floor),
    };
    output(&mut whole);
    Node::new(0, raft::Config::new(id(1), 1), restored)
}

/// The answers to a request for a vote that leave once the disk has them.
fn asked(node: &mut Node<Cmd>, term: u64, last: (u64, u64)) -> bool {
    let vote = Message::Vote { last_index: last.0, last_term: last.1, transfer: false };
    node.step(0, message(2, term, vote));
    let mut out = output(node);
    if let Some(persist) = out.persist.take() {
        node.synced(0, persist.mark);
        out.send.extend(output(node).send);
    }
    out.send.iter().any(|sent| matches!(sent.message, Message::VoteReply { granted: true }))
}

#[test]
fn votes_go_to_those_who_reach_the_floor() {
    let floor = Position { index: 7, term: 3 };
    for (last, granted) in
        [((2, 1), false), ((9, 2), false), ((6, 3), false), ((7, 3), true), ((3, 4), true)]
    {
        assert_eq!(asked(&mut below(floor), 5, last), granted, "a log that ends at {last:?}");
    }
}

#[test]
fn a_floor_that_the_log_reaches_is_none() {
    let mut node = below(Position { index: 2, term: 1 });
    assert_eq!((node.floor(), node.status().floor), (None, None));
    assert!(asked(&mut node, 5, (2, 1)));
    node.campaign(0);
    assert_eq!(node.role(), RoleKind::Candidate);
}

#[test]
fn below_the_floor_nobody_campaigns() {
    let mut node = below(Position { index: 7, term: 3 });
    node.campaign(0);
    assert_eq!((node.role(), node.term()), (RoleKind::Follower, 4));
    for _ in 0..5 {
        node.tick(node.next_deadline());
    }
    let now = node.next_deadline();
    assert_eq!((node.role(), node.term()), (RoleKind::Follower, 4));
    // The leader that it follows cannot make it either.
    node.step(now, message(2, 4, append(4, (2, 1), Vec::new())));
    node.step(now, message(2, 4, Message::TimeoutNow));
    assert_eq!((node.role(), node.leader()), (RoleKind::Follower, Some(id(2))));
}

#[test]
fn the_term_of_the_floor_is_known() {
    let node = below(Position { index: 7, term: 6 });
    assert_eq!(node.term(), 6);
}

#[test]
fn the_log_outgrows_the_floor_by_index_or_by_term() {
    let in_term = |term, count: u64| (3..3 + count).map(move |at| command(at, term, at));
    let reached = |entries: Vec<Entry<Cmd>>| {
        let mut node = below(Position { index: 7, term: 3 });
        node.step(0, message(2, 4, append(4, (2, 1), entries)));
        let told = output(&mut node).events;
        let told = told.iter().any(|event| matches!(event, Event::FloorReached { .. }));
        assert_eq!(told, node.floor().is_none());
        told
    };
    assert!(!reached(in_term(2, 9).collect()));
    assert!(!reached(in_term(3, 4).collect()));
    assert!(reached(in_term(3, 5).collect()));
    assert!(reached(in_term(4, 1).collect()));
}

#[test]
fn a_leader_supplies_again_what_a_peer_lost() {
    for (count, all) in [(1, false), (5, false), (100, false), (0, true)] {
        let mut world = World::new(1, 3, |_| {});
        world.campaign(1);
        world.settle_leader();
        for number in 0..20 {
            world.propose(1, number);
        }
        world.run_for(500_000);
        world.checkpoint(1, 3);
        world.damage(id(3), count, all);
        world.restart(id(3));
        let term = world.node(1).term();
        assert!(world.node(3).floor().is_some());
        assert!(world.run_until(2_000_000, World::has_converged), "after {count} entries");
        assert_eq!((world.node(3).floor(), world.node(1).term()), (None, term));
    }
}

/// A cluster whose voters lose data, a minority at a time; it always heals.
fn live(seed: u64) {
    let mut dice = Dice::new(seed);
    let voters = *[3, 3, 4, 5].get(dice.below(4) as usize).expect("one of four");
    let mut world = World::new(seed, voters, |config| config.max_append_bytes = 500);
    world.weather = Weather {
        loss_permille: dice.below(100),
        duplicate_permille: dice.below(100),
        delay_us: (50, dice.between(60, 20_000)),
        sync_us: (50, dice.between(60, 30_000)),
        batches: dice.between(1, 3) as usize,
    };
    for number in 0..120 {
        world.run_for(dice.between(100, 30_000));
        let node = dice.between(1, voters);
        let up = world.is_up(id(node));
        match dice.below(12) {
            0..6 => {
                if let Some(leader) = world.leader() {
                    world.propose(leader, number);
                }
            }
            6 if up => world.crash(id(node)),
            6..9 if !up => world.restart(id(node)),
            9 if up => world.checkpoint(node, dice.below(10)),
            10 => world.cut_off(node),
            11 => world.heal(),
            // What a majority has stays with a majority.
            _ if up && world.below_floor() < (voters as usize - 1) / 2 => {
                world.damage(id(node), dice.between(1, 20), dice.chance(200));
            }
            _ => {}
        }
    }
    world.heal();
    world.weather = Weather::calm();
    for node in (1..=voters).map(NodeId).filter(|node| !world.is_up(*node)).collect::<Vec<_>>() {
        world.restart(node);
    }
    if !world.run_until(10_000_000, |world| world.leader().is_some()) {
        world.dump();
        panic!("nobody leads");
    }
    world.run_for(1_000_000);
    let leader = world.leader().expect("a leader stays");
    world.propose(leader, 9).expect("the leader accepts");
    if !world.run_until(5_000_000, World::has_converged) {
        world.dump();
        panic!("no convergence");
    }
    assert!((1..=voters).all(|node| world.node(node).floor().is_none()));
}

#[test]
fn a_minority_may_lose_entries_at_any_time() {
    for seed in 0..300 {
        let outcome = std::panic::catch_unwind(|| live(seed));
        assert!(outcome.is_ok(), "seed {seed} failed: see above");
    }
}
