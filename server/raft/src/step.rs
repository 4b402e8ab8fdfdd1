//! A message arrived: what cannot be right is refused here, the term check is
//! made here, and only here.

use crate::follower::AppendHeader;
use crate::message::{Envelope, Message};
use crate::node::{Node, Role};
use crate::snapshot::ChunkHeader;
use crate::types::{Body, Entry, Index, NodeId, Payload, Position, Term, Time};

/// Terms and indexes from outside beyond this are refused: counting on from
/// them could overflow. At a million a second it takes 140,000 years.
pub(crate) const MAX_TERM: Term = u64::MAX / 4;

impl<P: Payload> Node<P> {
    /// A message arrived. Whatever it says, this neither panics nor breaks an
    /// invariant: what cannot be right is dropped, counted, and reported as
    /// [`Event::Rejected`](crate::Event::Rejected).
    pub fn step(&mut self, now: Time, envelope: Envelope<P>) {
        self.advance(now);
        if let Err(why) = self.check_envelope(&envelope) {
            self.out.reject(envelope.from, why);
            return;
        }
        let Envelope { from, term, message, .. } = envelope;
        // Pre-votes speak of a term that nobody has entered yet.
        match message {
            Message::PreVote { last_index, last_term } => {
                let last = Position { index: last_index, term: last_term };
                return self.on_pre_vote(from, term, last);
            }
            Message::PreVoteReply { granted: true } => {
                return self.on_pre_vote_reply(from, term, true);
            }
            _ => {}
        }
        if term < self.term() {
            self.answer_stale(from, &message);
            return;
        }
        if term > self.term() && !self.enter_term(from, term, &message) {
            return;
        }
        self.handle(from, message);
    }

    /// Whether somebody acknowledges who gets nothing from this leader.
    fn is_answer_of_a_stranger(&self, from: NodeId, message: &Message<P>) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        matches!(
            message,
            Message::AppendReply { .. }
                | Message::AppendReject { .. }
                | Message::HeartbeatReply { .. }
                | Message::SnapshotReply { .. }
        ) && leader.peers.iter().all(|peer| peer.id != from)
    }

    /// A message of the current term.
    fn handle(&mut self, from: NodeId, message: Message<P>) {
        if self.is_answer_of_a_stranger(from, &message) {
            return self.out.reject(from, "acknowledges, but is no member");
        }
        match message {
            Message::PreVote { .. } | Message::PreVoteReply { .. } => {}
            Message::Vote { last_index, last_term, .. } => {
                self.on_vote(from, Position { index: last_index, term: last_term });
            }
            Message::VoteReply { granted } => self.on_vote_reply(from, granted),
            Message::Append { prev_index, prev_term, commit, read_round, entries } => {
                let prev = Position { index: prev_index, term: prev_term };
                self.on_append(from, AppendHeader { prev, commit, read_round }, entries);
            }
            Message::AppendReply { match_index, read_round } => {
                self.on_append_reply(from, match_index, read_round);
            }
            Message::AppendReject { prev_index, hint_index, hint_term } => {
                self.on_append_reject(from, prev_index, hint_index, hint_term);
            }
            Message::Heartbeat { commit, read_round } => {
                self.on_heartbeat(from, commit, read_round);
            }
            Message::HeartbeatReply { read_round, last_index } => {
                self.on_heartbeat_reply(from, read_round, last_index);
            }
            Message::ReadIndex { request } => self.on_read_index(from, request),
            Message::ReadIndexReply { request, index } => {
                self.on_read_index_reply(from, request, index);
            }
            Message::TimeoutNow => self.on_timeout_now(from),
            Message::SnapshotChunk { meta, offset, data, done } => {
                self.on_snapshot_chunk(from, meta, ChunkHeader { offset, done }, data);
            }
            Message::SnapshotReply { index, next_offset, installed } => {
                self.on_snapshot_reply(from, index, next_offset, installed);
            }
        }
    }

    /// A message of a later term. Whether it counts: then this replica is a
    /// follower in that term (paper, figure 2, rules for all servers).
    fn enter_term(&mut self, from: NodeId, term: Term, message: &Message<P>) -> bool {
        match (message, &self.role) {
            (Message::Vote { transfer: true, .. }, _) => self.heard_at = None,
            // Who hears a leader has no reason to help to depose it
            // (dissertation, section 4.2.3): a candidate that was cut off or
            // removed does no harm.
            (Message::Vote { .. }, _) if self.is_sticky() => return false,
            // Nor do other messages of somebody who was removed. Those of a
            // later leader do count, whoever it is.
            (Message::Append { .. } | Message::Heartbeat { .. }, _)
            | (Message::SnapshotChunk { .. } | Message::Vote { .. }, _) => {}
            (_, Role::Leader(leader)) if leader.peers.iter().all(|peer| peer.id != from) => {
                return false;
            }
            _ => {}
        }
        self.become_follower(term);
        true
    }

    /// A message of an earlier term. Its sender learns the present one, if it
    /// waits for an answer or believes that it leads.
    fn answer_stale(&mut self, from: NodeId, message: &Message<P>) {
        let last_index = self.log.last().index;
        let answer = match *message {
            Message::Append { .. } | Message::Heartbeat { .. } | Message::SnapshotChunk { .. } => {
                Message::HeartbeatReply { read_round: 0, last_index }
            }
            Message::Vote { .. } => Message::VoteReply { granted: false },
            Message::ReadIndex { request } => Message::ReadIndexReply { request, index: None },
            _ => return,
        };
        self.out.say(&self.ballot, from, answer);
    }

    /// Whether a message can be right at all, whatever the state.
    fn check_envelope(&self, envelope: &Envelope<P>) -> Result<(), &'static str> {
        if envelope.to != self.config.id {
            return Err("addressed to another replica");
        }
        if envelope.from == self.config.id || envelope.from.0 == 0 {
            return Err("from an impossible sender");
        }
        if envelope.term > MAX_TERM {
            return Err("term out of range");
        }
        let term = envelope.term;
        match &envelope.message {
            Message::PreVote { last_index, last_term }
            | Message::Vote { last_index, last_term, .. }
                if *last_index > MAX_TERM || *last_term >= term =>
            {
                return Err("candidate's log is not of an earlier term");
            }
            Message::Append { prev_index, prev_term, entries, .. } => {
                check_append(term, Position { index: *prev_index, term: *prev_term }, entries)?;
            }
            Message::SnapshotChunk { meta, offset, data, .. } => {
                if meta.index == 0 || meta.index > MAX_TERM || meta.term > term || meta.term == 0 {
                    return Err("snapshot of an impossible position");
                }
                if *offset > u64::MAX / 2 || data.len() as u64 > u64::MAX / 4 {
                    return Err("snapshot chunk out of range");
                }
                if !meta.membership.is_sound() {
                    return Err("snapshot with an impossible membership");
                }
            }
            Message::SnapshotReply { next_offset, .. } if *next_offset > u64::MAX / 2 => {
                return Err("snapshot offset out of range");
            }
            _ => {}
        }
        Ok(())
    }
}

fn check_append<P>(term: Term, prev: Position, entries: &[Entry<P>]) -> Result<(), &'static str> {
    if prev.index > MAX_TERM - entries.len() as Index || prev.term > term {
        return Err("append behind an impossible position");
    }
    if (prev.index == 0) != (prev.term == 0) {
        return Err("append behind a position that cannot exist");
    }
    let mut before = prev;
    for entry in entries {
        if entry.index != before.index + 1 {
            return Err("append whose entries are not consecutive");
        }
        if entry.term < before.term || entry.term > term || entry.term == 0 {
            return Err("append whose terms go back, or beyond the leader's");
        }
        if let Body::Membership(membership) = &entry.body
            && !membership.is_sound()
        {
            return Err("append with an impossible membership");
        }
        before = Position { index: entry.index, term: entry.term };
    }
    Ok(())
}
