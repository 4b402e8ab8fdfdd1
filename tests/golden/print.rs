//! How events, messages and states read in a script. An entry is
//! `index@term`, followed by `=` and what it carries.

use raft::{
    Body, Entry, Envelope, Event, Membership, Message, Output, PeerState, Persist, RoleKind,
    Status, Suffrage,
};

use super::machine::Cmd;

pub(crate) fn entry(entry: &Entry<Cmd>) -> String {
    let at = format!("{}@{}", entry.index, entry.term);
    match &entry.body {
        Body::Noop => at,
        Body::Command(cmd) => format!("{at}={}", cmd.name),
        Body::Membership(membership) => format!("{at}={}", members(membership)),
    }
}

fn entries(all: &[Entry<Cmd>]) -> String {
    all.iter().map(entry).collect::<Vec<_>>().join(" ")
}

/// Voters, and learners with a `+`.
pub(crate) fn members(membership: &Membership) -> String {
    let all = membership.members.iter().map(|(id, member)| match member.suffrage {
        Suffrage::Voter => id.0.to_string(),
        Suffrage::Learner => format!("+{}", id.0),
    });
    format!("({})", all.collect::<Vec<_>>().join(" "))
}

/// The word by which scripts select a message.
pub(crate) fn kind(message: &Message<Cmd>) -> &'static str {
    match message {
        Message::PreVote { .. } => "prevote",
        Message::PreVoteReply { .. } => "prevote-reply",
        Message::Vote { .. } => "vote",
        Message::VoteReply { .. } => "vote-reply",
        Message::Append { .. } => "append",
        Message::AppendReply { .. } => "ack",
        Message::AppendReject { .. } => "reject",
        Message::Heartbeat { .. } => "heartbeat",
        Message::HeartbeatReply { .. } => "heartbeat-reply",
        Message::ReadIndex { .. } => "read-index",
        Message::ReadIndexReply { .. } => "read-index-reply",
        Message::TimeoutNow => "timeout-now",
        Message::SnapshotChunk { .. } => "chunk",
        Message::SnapshotReply { .. } => "chunk-reply",
    }
}

fn round(number: u64) -> String {
    if number == 0 { String::new() } else { format!(" round {number}") }
}

pub(crate) fn message(envelope: &Envelope<Cmd>) -> String {
    let Envelope { from, to, term, message } = envelope;
    let said = match message {
        Message::PreVote { last_index, last_term } => format!(" last {last_index}@{last_term}"),
        Message::Vote { last_index, last_term, transfer } => {
            let transfer = if *transfer { " override" } else { "" };
            format!(" last {last_index}@{last_term}{transfer}")
        }
        Message::PreVoteReply { granted } | Message::VoteReply { granted } => {
            if *granted { " yes" } else { " no" }.to_owned()
        }
        Message::Append { prev_index, prev_term, commit, read_round, entries: all } => format!(
            " behind {prev_index}@{prev_term} [{}] commit {commit}{}",
            entries(all),
            round(*read_round)
        ),
        Message::AppendReply { match_index, read_round } => {
            format!(" {match_index}{}", round(*read_round))
        }
        Message::AppendReject { prev_index, hint_index, hint_term } => {
            format!(" {prev_index}, perhaps {hint_index}@{hint_term}")
        }
        Message::Heartbeat { commit, read_round } => {
            format!(" commit {commit}{}", round(*read_round))
        }
        Message::HeartbeatReply { read_round, last_index } => {
            format!(" last {last_index}{}", round(*read_round))
        }
        Message::ReadIndex { .. } | Message::TimeoutNow => String::new(),
        Message::ReadIndexReply { index: Some(index), .. } => format!(" {index}"),
        Message::ReadIndexReply { index: None, .. } => " unknown".to_owned(),
        Message::SnapshotChunk { meta, offset, data, done } => {
            let end = if *done { " end" } else { "" };
            let members = members(&meta.membership);
            let data = data.escape_ascii();
            format!(" {}@{} {members} from {offset} \"{data}\"{end}", meta.index, meta.term)
        }
        Message::SnapshotReply { index, installed: true, .. } => format!(" {index} installed"),
        Message::SnapshotReply { index, next_offset, .. } => {
            format!(" {index} next {next_offset}")
        }
    };
    format!("{}->{} t{term} {}{said}", from.0, to.0, kind(message))
}

pub(crate) fn batch(node: u64, batch: &Persist<Cmd>) -> String {
    let mut line = format!("{node} writes");
    if let Some(hard) = &batch.hard_state {
        line += &format!(" t{}", hard.term);
        if let Some(vote) = hard.vote {
            line += &format!(" vote {}", vote.0);
        }
    }
    if !batch.entries.is_empty() {
        line += &format!(" {}", entries(&batch.entries));
    }
    line
}

fn role(role: RoleKind) -> &'static str {
    match role {
        RoleKind::Follower => "follower",
        RoleKind::Candidate => "candidate",
        RoleKind::Leader => "leader",
    }
}

fn event(node: u64, event: &Event) -> String {
    match event {
        Event::Role { role: kind, term, leader } => {
            let whom = match leader {
                Some(leader) if leader.0 != node => format!(" of {}", leader.0),
                _ => String::new(),
            };
            format!("{node} {}{whom} t{term}", role(*kind))
        }
        Event::Membership { index, membership } => {
            format!("{node} members {} at {index}", members(membership))
        }
        Event::Truncated { from } => format!("{node} truncates from {from}"),
        Event::FloorReached { last } => {
            format!("{node} reaches its floor with {}@{}", last.index, last.term)
        }
        Event::Rejected { from, why } => format!("{node} refuses {}: {why}", from.0),
    }
}

/// What a turn brought, beside messages and what was written.
pub(crate) fn outcome(node: u64, out: &Output<Cmd>) -> Vec<String> {
    let mut lines: Vec<_> = out.events.iter().map(|told| event(node, told)).collect();
    if !out.committed.is_empty() {
        lines.push(format!("{node} applies {}", entries(&out.committed)));
    }
    for ready in &out.reads {
        lines.push(format!("{node} reads {} at {}", ready.request, ready.index));
    }
    for request in &out.reads_failed {
        lines.push(format!("{node} cannot read {request}"));
    }
    lines
}

pub(crate) fn status(status: &Status) -> String {
    let mut line = format!("{} {} t{}", status.id.0, role(status.role), status.term);
    if let Some(vote) = status.vote {
        line += &format!(" vote {}", vote.0);
    }
    if let Some(leader) = status.leader.filter(|leader| *leader != status.id) {
        line += &format!(" of {}", leader.0);
    }
    line += &format!(
        " log {}..{} durable {} commit {} applied {}",
        status.first_index, status.last_index, status.durable, status.commit, status.applied
    );
    if let Some(floor) = status.floor {
        line += &format!(" floor {}@{}", floor.index, floor.term);
    }
    if status.checkpoint > 0 {
        line += &format!(" checkpoint {}", status.checkpoint);
    }
    if status.rejected > 0 {
        line += &format!(" refused {}", status.rejected);
    }
    line
}

pub(crate) fn peers(status: &Status) -> Vec<String> {
    let peers = status.peers.iter().map(|peer| {
        let state = match peer.state {
            PeerState::Probe => "probe".to_owned(),
            PeerState::Replicate => "replicate".to_owned(),
            PeerState::Snapshot { index, offset } => format!("snapshot {index} from {offset}"),
        };
        let (id, matched, next) = (peer.id.0, peer.matched, peer.next);
        let bytes = peer.inflight_bytes;
        format!("{id} {state} matched {matched} next {next} on the way {bytes}")
    });
    peers.collect()
}
