//! Messages that no honest peer sends, thrown at replicas in every role of a
//! running cluster.
//!
//! Two kinds have to be told apart. A *malformed* message cannot be right
//! whatever the state is: it is refused at the boundary, counted, and changes
//! nothing, so that all invariants of the cluster hold. A *lie* is well-formed:
//! a peer that acknowledges what it does not have can lose what was committed,
//! in Raft as in any algorithm that trusts its members. Then each replica must
//! still stand: it does not panic, and what it holds by itself stays sound.

mod golden;

use std::sync::Arc;

use golden::{Cluster, Cmd};
use raft::{Body, Entry, Envelope, Membership, Message, NodeId, SnapshotMeta};

/// A small generator (xorshift64*).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }

    /// Beyond everything that counts.
    fn huge(&mut self) -> u64 {
        [u64::MAX, u64::MAX - 1, u64::MAX / 2 + 1][self.below(3) as usize]
    }

    /// Near `about`, now and then far away.
    fn number(&mut self, about: u64) -> u64 {
        match self.below(12) {
            0 => self.huge(),
            1 => self.below(1_000_000),
            _ => (about + self.below(4)).saturating_sub(2),
        }
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }
}

fn members(ids: &[u64]) -> Membership {
    Membership::of_voters(ids.iter().map(|&id| (NodeId(id), Arc::from(&b""[..]))))
}

fn entry(index: u64, term: u64) -> Entry<Cmd> {
    Entry { index, term, body: Body::Command(Cmd { name: "lie".to_owned(), size: 1 }) }
}

fn append(prev: (u64, u64), entries: Vec<Entry<Cmd>>) -> Message<Cmd> {
    Message::Append { prev_index: prev.0, prev_term: prev.1, commit: 0, read_round: 0, entries }
}

fn chunk(index: u64, term: u64, membership: Membership, offset: u64) -> Message<Cmd> {
    let meta = SnapshotMeta { index, term, membership };
    Message::SnapshotChunk { meta, offset, data: vec![1], done: true }
}

/// A message that cannot be right, to server `to` that is in `term`.
fn malformed(dice: &mut Dice, to: u64, term: u64) -> Envelope<Cmd> {
    let from = 1 + to % 3;
    let honest =
        Envelope { from: NodeId(from), to: NodeId(to), term, message: Message::TimeoutNow };
    let later = term + 1 + dice.below(5);
    let impossible = |message| Envelope { term: later, message, ..honest.clone() };
    match dice.below(16) {
        0 => Envelope { to: NodeId(to + 1 + dice.below(9)), ..honest },
        1 => Envelope { from: NodeId(to), ..honest },
        2 => Envelope { from: NodeId(0), ..honest },
        3 => Envelope { term: dice.huge(), ..honest },
        4 => impossible(Message::Vote { last_index: 3, last_term: later, transfer: dice.flag() }),
        5 => impossible(Message::PreVote { last_index: 3, last_term: later + dice.below(3) }),
        6 => impossible(Message::Vote { last_index: dice.huge(), last_term: 0, transfer: true }),
        7 => impossible(append((1, 1), vec![entry(3, 1)])),
        8 => impossible(append((1, 1), vec![entry(2, later + 1)])),
        9 => impossible(append((1, 2), vec![entry(2, 1)])),
        10 => impossible(append((dice.huge(), 1), Vec::new())),
        11 => impossible(append((0, 1), Vec::new())),
        12 => {
            let body = Body::Membership(members(&[]));
            impossible(append((1, 1), vec![Entry { index: 2, term: 1, body }]))
        }
        13 => impossible(chunk(0, 1, members(&[1]), 0)),
        14 => impossible(chunk(9, 1, members(&[0, 1]), 0)),
        _ => impossible(chunk(9, 1, members(&[1]), dice.huge())),
    }
}

/// A message that could be right, from anybody, about anything.
fn lie(dice: &mut Dice, to: u64, term: u64, last: u64) -> Envelope<Cmd> {
    let index = dice.number(last);
    let message = match dice.below(15) {
        0 => Message::PreVote { last_index: index, last_term: dice.number(term) },
        1 => Message::PreVoteReply { granted: dice.flag() },
        2 => {
            Message::Vote { last_index: index, last_term: dice.number(term), transfer: dice.flag() }
        }
        3 => Message::VoteReply { granted: true },
        4..6 => {
            let entries = (1..1 + dice.below(4)).map(|at| {
                let mut entry = entry(index.wrapping_add(at), term);
                if dice.below(5) == 0 {
                    let ids: Vec<u64> = (1..2 + dice.below(5)).collect();
                    entry.body = Body::Membership(members(&ids));
                }
                entry
            });
            let entries = entries.collect();
            let (prev_term, commit) = (dice.number(term), dice.number(last));
            let read_round = dice.number(1);
            Message::Append { prev_index: index, prev_term, commit, read_round, entries }
        }
        6 => Message::AppendReply { match_index: index, read_round: dice.number(1) },
        7 => {
            let (hint_index, hint_term) = (dice.number(last), dice.number(term));
            Message::AppendReject { prev_index: index, hint_index, hint_term }
        }
        8 => Message::Heartbeat { commit: index, read_round: dice.number(1) },
        9 => Message::HeartbeatReply { read_round: dice.number(1), last_index: index },
        10 => Message::ReadIndex { request: dice.number(3) },
        11 => Message::ReadIndexReply { request: dice.number(3), index: Some(index) },
        12 => Message::TimeoutNow,
        13 => chunk(index, dice.number(term), members(&[1, 2, 3]), 0),
        _ => {
            let (next_offset, installed) = (dice.number(8), dice.flag());
            Message::SnapshotReply { index, next_offset, installed }
        }
    };
    let term = dice.number(term);
    Envelope { from: NodeId(1 + dice.below(9)), to: NodeId(to), term, message }
}

/// Something ordinary happens.
fn act(cluster: &mut Cluster, dice: &mut Dice, number: u64) {
    let node = 1 + dice.below(4);
    match dice.below(10) {
        0 if node < 4 => cluster.command(&format!("quiet campaign {node}")),
        1 => cluster.command(&format!("quiet read {node} {number}")),
        2 => cluster.command(&format!("quiet checkpoint {node}")),
        3 => cluster.command(&format!("quiet partition {node} | 1 2 3 4")),
        4 => cluster.command("quiet heal"),
        5 => cluster.command(&format!("quiet timeout {node}")),
        6 => {
            cluster.command(&format!("quiet crash {node}"));
            cluster.command(&format!("quiet restart {node}"));
        }
        7 => cluster.command("quiet deliver first"),
        8 => cluster.command(&format!("quiet tick {node} 60ms")),
        _ => {
            for server in 1..=3 {
                cluster.command(&format!("quiet propose {server} x{number}"));
            }
        }
    }
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.command("quiet cluster 3 +1 no-promote");
    cluster.command("quiet elect 1");
    cluster.lines.clear();
    cluster
}

#[test]
fn what_is_malformed_is_refused_counted_and_changes_nothing() {
    for seed in 0..200 {
        let (mut dice, mut cluster) = (Dice::new(seed), cluster());
        for number in 0..60 {
            act(&mut cluster, &mut dice, number);
            for to in 1..=4 {
                let before = cluster.machine(to).core().status();
                let wire = cluster.wire.len();
                let envelope = malformed(&mut dice, to, before.term);
                let told = format!("seed {seed}: {envelope:?}");
                cluster.with(to, |core, now| core.step(now, envelope));
                let mut after = cluster.machine(to).core().status();
                assert_eq!(after.rejected, before.rejected + 1, "is not refused: {told}");
                after.rejected = before.rejected;
                assert_eq!(after, before, "changes something: {told}");
                assert_eq!(cluster.wire.len(), wire, "is answered: {told}");
            }
            if dice.below(3) == 0 {
                cluster.command("quiet deliver");
            }
        }
        cluster.command("quiet heal");
        cluster.command("quiet run 3s");
        let applied: Vec<_> = (1..=4).map(|n| cluster.machine(n).core().status().applied).collect();
        assert!(applied.iter().all(|&at| at == applied[0]), "seed {seed}: {applied:?}");
    }
}

#[test]
fn a_replica_stands_whatever_its_peers_say() {
    let mut refused = 0;
    for seed in 0..500 {
        let (mut dice, mut cluster) = (Dice::new(seed), cluster());
        cluster.has_liars = true;
        for number in 0..80 {
            act(&mut cluster, &mut dice, number);
            for _ in 0..4 {
                let to = 1 + dice.below(4);
                let status = cluster.machine(to).core().status();
                let envelope = lie(&mut dice, to, status.term, status.last_index);
                cluster.with(to, |core, now| core.step(now, envelope));
            }
            // The others believe some of it, and answer.
            for _ in 0..dice.below(4) {
                cluster.command("quiet deliver first");
            }
        }
        refused += (1..=4).map(|n| cluster.machine(n).core().status().rejected).sum::<u64>();
    }
    assert!(refused > 0);
}
