//! A replica on its own, and small helpers.

use std::sync::Arc;

use raft::{
    Body, Config, Entry, Envelope, HardState, Index, Membership, Message, Node, NodeId, Output,
    Restored, RoleKind, SnapshotMeta, Suffrage, Term,
};
use store_raft as raft;

use super::{Cmd, World};

pub(crate) fn id(number: u64) -> NodeId {
    NodeId(number)
}

pub(crate) fn info(text: &str) -> Arc<[u8]> {
    text.as_bytes().into()
}

/// Whether a message is an append with entries.
pub(crate) fn carries_entries(envelope: &Envelope<Cmd>) -> bool {
    matches!(&envelope.message, Message::Append { entries, .. } if !entries.is_empty())
}

/// Replica 1 on its own, of `voters`, with this log on its disk.
pub(crate) fn alone(
    voters: u64,
    seed: u64,
    hard_state: HardState,
    entries: Vec<Entry<Cmd>>,
) -> Node<Cmd> {
    let membership = Membership::of_voters((1..=voters).map(|n| (id(n), info(""))));
    let mut runs: Vec<(Index, Term)> = Vec::new();
    for entry in &entries {
        if runs.last().is_none_or(|run| run.1 != entry.term) {
            runs.push((entry.index, entry.term));
        }
    }
    let restored = Restored {
        hard_state,
        snapshot: SnapshotMeta { index: 0, term: 0, membership },
        runs,
        memberships: Vec::new(),
        entries,
        commit: 0,
        floor: None,
    };
    Node::new(0, Config::new(id(1), seed), restored)
}

/// What a replica has to do, at time 0.
pub(crate) fn output(node: &mut Node<Cmd>) -> Output<Cmd> {
    let mut out = Output::default();
    node.take_output(0, &mut out);
    out
}

/// A message to replica 1.
pub(crate) fn message(from: u64, term: Term, message: Message<Cmd>) -> Envelope<Cmd> {
    Envelope { from: id(from), to: id(1), term, message }
}

pub(crate) fn append(term: Term, prev: (Index, Term), entries: Vec<Entry<Cmd>>) -> Message<Cmd> {
    assert!(entries.iter().all(|entry| entry.term <= term));
    Message::Append { prev_index: prev.0, prev_term: prev.1, commit: 0, read_round: 0, entries }
}

pub(crate) fn voters(node: &Node<Cmd>) -> Vec<u64> {
    node.membership().voters().map(|id| id.0).collect()
}

pub(crate) fn is_learner(node: &Node<Cmd>, member: u64) -> bool {
    let member = node.membership().members.get(&id(member));
    member.is_some_and(|member| member.suffrage == Suffrage::Learner)
}

pub(crate) fn role(world: &World, node: u64) -> RoleKind {
    world.node(node).role()
}

pub(crate) fn command(index: Index, term: Term, number: u64) -> Entry<Cmd> {
    Entry { index, term, body: Body::Command(Cmd(number, 100)) }
}
