//! How entries get everywhere, and when they count.

use raft::{Config, Envelope, HardState, Message, Output, PeerState, ProposeError};
use store_raft as raft;

use crate::support::{Cmd, World, alone, append, carries_entries, command, id, message, output};

const HEARTBEAT_US: u64 = 50_000;

fn led(tune: impl Fn(&mut Config) + 'static) -> World {
    let mut world = World::new(1, 3, tune);
    world.campaign(1);
    world.settle_leader();
    world.run_for(HEARTBEAT_US);
    world
}

#[test]
fn entries_of_earlier_terms_are_not_committed_by_counting() {
    // Figure 8 of the paper: entry 2 of term 2 reaches a majority in term 4.
    let hard = HardState { term: 3, vote: None };
    let mut node = alone(5, 1, hard, vec![command(1, 1, 1), command(2, 2, 2)]);
    node.campaign(0);
    let mark = output(&mut node).persist.unwrap().mark;
    node.synced(0, mark);
    for voter in [2, 3] {
        node.step(0, message(voter, 4, Message::VoteReply { granted: true }));
    }
    assert!(node.is_leader());
    let mark = output(&mut node).persist.unwrap().mark;
    node.synced(0, mark);
    for peer in [2, 3, 4] {
        let reply = Message::AppendReply { match_index: 2, read_round: 0 };
        node.step(0, message(peer, 4, reply));
    }
    assert_eq!(node.commit(), 0, "a majority has entry 2, and yet it may be lost");
    for peer in [2, 3] {
        let reply = Message::AppendReply { match_index: 3, read_round: 0 };
        node.step(0, message(peer, 4, reply));
    }
    assert_eq!(node.commit(), 3, "along with an entry of this term");
}

fn acknowledged(out: &Output<Cmd>) -> Option<u64> {
    let mut indexes = out.send.iter().filter_map(|envelope| match envelope.message {
        Message::AppendReply { match_index, .. } => Some(match_index),
        _ => None,
    });
    indexes.next_back()
}

#[test]
fn a_mark_of_a_replaced_entry_acknowledges_nothing() {
    let mut node = alone(3, 1, HardState::default(), Vec::new());
    let first = vec![command(1, 1, 1), command(2, 1, 2), command(3, 1, 3)];
    node.step(0, message(2, 1, append(1, (0, 0), first)));
    let old = output(&mut node).persist.unwrap().mark;
    let second = vec![command(2, 2, 4), command(3, 2, 5)];
    node.step(0, message(3, 2, append(2, (1, 1), second)));
    let new = output(&mut node).persist.unwrap().mark;
    assert_eq!((old.index, new.index), (3, 3));
    node.synced(0, old);
    // Term 2 is not durable yet, so that nothing can be said in it.
    assert_eq!(acknowledged(&output(&mut node)), None);
    assert_eq!(node.status().durable, 1, "what both batches have in common");
    node.synced(0, new);
    assert_eq!(acknowledged(&output(&mut node)), Some(3));
}

#[test]
fn an_entry_that_comes_back_counts_only_when_it_was_written_again() {
    let mut node = alone(3, 1, HardState::default(), Vec::new());
    let mut marks = Vec::new();
    for (leader, term, entry) in [(2, 1, 1), (3, 2, 2), (2, 3, 1)] {
        let entry = command(1, entry, entry);
        node.step(0, message(leader, term, append(term, (0, 0), vec![entry])));
        marks.push(output(&mut node).persist.unwrap().mark);
    }
    node.synced(0, marks[0]);
    // The same index and the same term: but another write comes in between.
    assert_eq!(node.status().durable, 0);
    node.synced(0, marks[2]);
    assert_eq!(acknowledged(&output(&mut node)), Some(1));
}

#[test]
fn a_committed_entry_is_never_truncated() {
    let mut node = alone(3, 1, HardState::default(), Vec::new());
    let commit = Message::Append {
        prev_index: 0,
        prev_term: 0,
        commit: 2,
        read_round: 0,
        entries: vec![command(1, 1, 1), command(2, 1, 2)],
    };
    node.step(0, message(2, 1, commit));
    node.step(0, message(3, 2, append(2, (1, 1), vec![command(2, 2, 9)])));
    assert_eq!((node.commit(), node.status().last_index), (2, 2));
    assert_eq!(node.status().rejected, 1);
}

#[test]
fn a_leader_cannot_rewrite_its_own_entries() {
    let mut node = alone(3, 1, HardState::default(), Vec::new());
    let first = vec![command(1, 1, 1), command(2, 1, 2)];
    node.step(0, message(2, 2, append(2, (0, 0), first)));
    node.step(0, message(2, 2, append(2, (1, 1), vec![command(2, 2, 9)])));
    assert_eq!((node.status().last_index, node.status().rejected), (2, 1));
}

/// How long a proposal takes while `lose` says which message is lost.
fn time_to_commit(lose: impl Fn(&Envelope<Cmd>) -> bool + 'static) -> u64 {
    let mut world = led(|_| {});
    let mut lost: std::collections::BTreeSet<_> = [].into();
    world.filter = Some(Box::new(move |envelope| {
        // The first such message of each link.
        !(lose(envelope) && lost.insert((envelope.from, envelope.to)))
    }));
    let begun = world.now;
    let index = world.propose(1, 5).unwrap();
    assert!(world.run_until(1_000_000, |world| world.node(1).commit() >= index));
    let took = world.now - begun;
    assert!(world.run_until(3 * HEARTBEAT_US, World::has_converged));
    took
}

#[test]
fn a_lost_append_costs_two_heartbeats_at_most() {
    assert!(time_to_commit(|_| false) < 1_000);
    assert!(time_to_commit(carries_entries) <= 2 * HEARTBEAT_US + 1_000);
}

#[test]
fn a_lost_acknowledgement_costs_two_heartbeats_at_most() {
    let lose = |envelope: &Envelope<Cmd>| matches!(envelope.message, Message::AppendReply { .. });
    assert!(time_to_commit(lose) <= 2 * HEARTBEAT_US + 1_000);
}

#[test]
fn losses_under_load_heal() {
    let mut world = led(|_| {});
    world.weather.loss_permille = 200;
    for number in 0..200 {
        world.propose(1, number);
        world.run_for(500);
    }
    world.weather.loss_permille = 0;
    assert!(world.run_until(2 * HEARTBEAT_US, |world| {
        world.node(1).commit() == world.node(1).status().last_index
    }));
}

#[test]
fn a_long_wrong_suffix_is_backed_over_in_few_steps() {
    let mut world = led(|_| {});
    world.cut_off(1);
    for number in 0..500 {
        world.propose(1, number);
    }
    assert!(world.run_until(2_000_000, |world| world.leader().is_some_and(|l| l != 1)));
    world.run_for(500_000);
    let leader = world.settle_leader();
    for number in 0..300 {
        world.propose(leader, number);
    }
    world.run_for(HEARTBEAT_US);
    let rejects = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = rejects.clone();
    world.heal();
    world.filter = Some(Box::new(move |envelope| {
        let reject = matches!(envelope.message, Message::AppendReject { .. });
        count.set(count.get() + u64::from(reject));
        true
    }));
    assert!(world.run_until(1_000_000, World::has_converged));
    assert!(rejects.get() <= 3, "{} rejects", rejects.get());
}

#[test]
fn a_leader_commits_what_others_have_and_may_then_crash() {
    let mut world = led(|_| {});
    world.stuck_disks.insert(id(1));
    let index = world.propose(1, 5).unwrap();
    world.run_for(5_000);
    assert_eq!(world.acknowledged, index, "two of three disks are enough");
    assert!(world.node(1).status().durable < index);
    world.checkpoint(1, 0);
    world.crash(id(1));
    world.heal();
    world.restart(id(1));
    world.settle_leader();
    assert!(world.run_until(1_000_000, World::has_converged));
}

#[test]
fn the_window_bounds_what_is_on_the_way() {
    let mut world = led(|config| {
        config.window_bytes = 10_000;
        config.max_append_bytes = 1_000;
        config.append_full_bytes = 500;
    });
    world.cut.insert((id(3), id(1)));
    for number in 0..1_000 {
        world.propose(1, number);
    }
    world.run_for(10_000);
    let peers = world.node(1).status().peers;
    assert!(peers.iter().all(|peer| peer.inflight_bytes <= 11_000), "{peers:?}");
    assert_eq!(peers[1].state, PeerState::Replicate);
    world.heal();
    assert!(world.run_until(1_000_000, World::has_converged));
}

#[test]
fn small_appends_travel_together() {
    let mut world = led(|config| config.append_gap_us = 10_000);
    world.weather.delay_us = (3_000, 3_000);
    let before = world.messages;
    for number in 0..50 {
        world.propose(1, number);
        world.run_for(50);
    }
    world.run_for(20_000);
    let sent = world.messages - before;
    assert_eq!(world.node(1).commit(), world.node(1).status().last_index);
    assert!(sent <= 20, "{sent} messages for 50 proposals");
}

#[test]
fn too_much_uncommitted_is_refused() {
    let mut world = led(|config| config.max_uncommitted_bytes = 1_000);
    world.cut_off(1);
    let accepted = (0..100).filter(|&number| world.propose(1, number).is_some()).count();
    assert!((7..=8).contains(&accepted), "{accepted}");
    let refused = world.with(1, |node, now| node.propose(now, Cmd(1, 1)));
    assert_eq!(refused, Err(ProposeError::Full));
}

#[test]
fn old_entries_come_from_the_disk() {
    let mut world = led(|config| {
        config.cache_bytes = 2_000;
        config.max_append_bytes = 2_000;
    });
    world.crash(id(3));
    for number in 0..300 {
        world.propose(1, number);
        world.run_for(1_000);
    }
    world.restart(id(3));
    assert!(world.run_until(3_000_000, World::has_converged));
    assert_eq!(world.node(3).status().checkpoint, 0, "no snapshot was needed");
}

#[test]
fn a_duplicated_and_reordered_stream_is_applied_once() {
    let mut world = led(|_| {});
    world.weather.duplicate_permille = 500;
    world.weather.delay_us = (50, 5_000);
    for number in 0..300 {
        world.propose(1, number);
        world.run_for(200);
    }
    assert!(world.run_until(1_000_000, World::has_converged));
}
