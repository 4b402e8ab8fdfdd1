//! Whatever peers say, a replica does not panic and stays sound.

use raft::invariants::check_node;
use raft::{
    Body, Config, Entry, Envelope, HardState, Member, Membership, Message, Node, Output, Restored,
    SnapshotMeta, SnapshotTask, Suffrage,
};
use store_raft as raft;

use crate::support::{Cmd, Dice, id, info};

/// Mostly plausible, sometimes absurd.
fn number(dice: &mut Dice, around: u64) -> u64 {
    match dice.below(12) {
        0 => dice.roll(),
        1 => u64::MAX - dice.below(3),
        2 => 0,
        _ => around.saturating_add(dice.below(5)).saturating_sub(2),
    }
}

fn membership(dice: &mut Dice) -> Membership {
    let mut membership = Membership { next_id: number(dice, 5), ..Membership::default() };
    for _ in 0..dice.below(5) {
        let suffrage = if dice.chance(700) { Suffrage::Voter } else { Suffrage::Learner };
        let member = Member { suffrage, info: info("x") };
        membership.members.insert(id(dice.below(6)), member);
    }
    if dice.chance(300) {
        membership.dismissed.insert(id(dice.below(6)), info("y"));
    }
    membership
}

fn entries(dice: &mut Dice, first: u64, term: u64) -> Vec<Entry<Cmd>> {
    let mut entries = Vec::new();
    for offset in 0..dice.below(5) {
        let index = if dice.chance(20) { number(dice, first) } else { first.wrapping_add(offset) };
        let term = if dice.chance(800) { term } else { number(dice, term) };
        let body = match dice.below(10) {
            0 => Body::Membership(membership(dice)),
            1 => Body::Noop,
            _ => Body::Command(Cmd(dice.roll(), 10)),
        };
        entries.push(Entry { index, term, body });
    }
    entries
}

fn message(dice: &mut Dice, node: &Node<Cmd>) -> Message<Cmd> {
    let status = node.status();
    let last = status.last_index;
    let at = dice.below(last + 2);
    let term = status.term;
    let index = number(dice, at);
    match dice.below(14) {
        0 => Message::PreVote { last_index: index, last_term: number(dice, term) },
        1 => Message::PreVoteReply { granted: dice.chance(500) },
        2 => Message::Vote {
            last_index: index,
            last_term: number(dice, term),
            transfer: dice.chance(300),
        },
        3 => Message::VoteReply { granted: dice.chance(800) },
        4 | 5 => Message::Append {
            prev_index: index,
            prev_term: number(dice, term),
            commit: number(dice, last),
            read_round: number(dice, 1),
            entries: entries(dice, index.wrapping_add(1), term),
        },
        6 => Message::AppendReply { match_index: index, read_round: number(dice, 1) },
        7 => Message::AppendReject {
            prev_index: index,
            hint_index: number(dice, at),
            hint_term: number(dice, term),
        },
        8 => Message::Heartbeat { commit: index, read_round: number(dice, 1) },
        9 => Message::HeartbeatReply { read_round: number(dice, 1), last_index: index },
        10 => Message::ReadIndex { request: dice.roll() },
        11 => Message::ReadIndexReply { request: dice.roll(), index: Some(index) },
        12 => Message::SnapshotChunk {
            meta: SnapshotMeta { index, term: number(dice, term), membership: membership(dice) },
            offset: number(dice, 0),
            data: vec![0; dice.below(4) as usize],
            done: dice.chance(500),
        },
        _ => match dice.below(2) {
            0 => Message::TimeoutNow,
            _ => Message::SnapshotReply {
                index,
                next_offset: number(dice, 4),
                installed: dice.chance(300),
            },
        },
    }
}

/// Does what a driver would, most of the time.
fn drive(dice: &mut Dice, node: &mut Node<Cmd>, now: u64) {
    let mut out = Output::default();
    node.take_output(now, &mut out);
    check_node(node).unwrap();
    if let Some(persist) = out.persist
        && dice.chance(900)
    {
        node.synced(now, persist.mark);
    }
    for fetch in out.fetch {
        let term = node.term();
        let answer = entries(dice, fetch.from, term);
        node.fetched(now, fetch.peer, answer);
    }
    for task in out.snapshots {
        match task {
            SnapshotTask::Read { peer, offset, .. } => {
                let meta = node.snapshot_meta(node.status().applied);
                let meta = meta.unwrap_or_default();
                node.snapshot_chunk(now, peer, meta, offset, vec![1; 3], dice.chance(500));
            }
            SnapshotTask::Write { meta, offset, data, done } => {
                let next = offset + data.len() as u64;
                let installed = (done && dice.chance(700)).then(|| meta.clone());
                node.snapshot_written(now, meta.index, next, installed);
            }
        }
    }
    check_node(node).unwrap();
}

#[test]
fn nonsense_is_survived() {
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let voters = Membership::of_voters((1..=3).map(|n| (id(n), info(""))));
        let restored = Restored {
            hard_state: HardState::default(),
            snapshot: SnapshotMeta { index: 0, term: 0, membership: voters },
            runs: Vec::new(),
            memberships: Vec::new(),
            entries: Vec::new(),
            commit: 0,
            floor: None,
        };
        let mut config = Config::new(id(1), seed);
        config.cache_bytes = 500;
        let mut node = Node::new(0, config, restored);
        let mut now = 0;
        for _ in 0..400 {
            now += dice.below(30_000);
            match dice.below(20) {
                0 if dice.chance(500) => node.campaign(now),
                0 => {
                    let leader = node.leader().unwrap_or(id(2));
                    node.leader_gone(now, leader, node.term());
                }
                1 => drop(node.propose(now, Cmd(1, 10))),
                2 => node.read(now, dice.roll()),
                3 => drop(node.transfer(now, None)),
                4 => {
                    node.checkpointed(number(&mut dice, 5));
                    node.compact(number(&mut dice, 5));
                }
                5 if now >= node.next_deadline() => node.tick(now),
                _ => {
                    let term = number(&mut dice, node.term());
                    let from = id(dice.below(6));
                    let message = message(&mut dice, &node);
                    node.step(now, Envelope { from, to: id(1), term, message });
                }
            }
            drive(&mut dice, &mut node, now);
        }
    }
}

#[test]
fn a_refused_message_is_counted_and_reported() {
    let mut world = crate::support::World::new(1, 3, |_| {});
    world.campaign(1);
    world.settle_leader();
    let term = world.node(1).term();
    let message = Message::AppendReply { match_index: 1_000, read_round: 0 };
    let lie = Envelope { from: id(2), to: id(1), term, message };
    world.with(1, |node, now| node.step(now, lie));
    assert_eq!(world.node(1).status().rejected, 1);
    assert!(world.events.iter().any(|(at, event)| {
        *at == id(1) && matches!(event, raft::Event::Rejected { from, .. } if *from == id(2))
    }));
}
