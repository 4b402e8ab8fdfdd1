//! Messages that nobody sent, for `send`: what scripts write after it reads
//! as messages are printed.

use std::sync::Arc;

use raft::{Body, Entry, Envelope, Membership, Message, NodeId, SnapshotMeta};

use super::command::link;
use super::machine::Cmd;

/// Words of a message, taken from the front.
struct Words<'a>(std::slice::Iter<'a, &'a str>);

impl<'a> Words<'a> {
    fn word(&mut self) -> &'a str {
        self.0.next().expect("a word more")
    }

    fn number(&mut self) -> u64 {
        parse_number(self.word())
    }

    /// The number after a word, or 0 if that word does not come next.
    fn after(&mut self, word: &str) -> u64 {
        if self.0.as_slice().first() == Some(&word) {
            self.word();
            self.number()
        } else {
            0
        }
    }

    fn flag(&mut self, word: &str) -> bool {
        let there = self.0.as_slice().first() == Some(&word);
        if there {
            self.word();
        }
        there
    }

    /// `3@2`
    fn position(&mut self) -> (u64, u64) {
        let (index, term) = self.word().split_once('@').expect("index@term");
        (parse_number(index), parse_number(term))
    }

    fn last(&mut self) -> (u64, u64) {
        assert_eq!(self.word(), "last");
        self.position()
    }

    /// `4@2=a 5@2`, up to the end.
    fn entries(&mut self) -> Vec<Entry<Cmd>> {
        self.0.by_ref().map(|word| entry(word)).collect()
    }
}

/// Digits, or `max` for the largest number there is.
fn parse_number(text: &str) -> u64 {
    if text == "max" {
        return u64::MAX;
    }
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

/// `(1,2,3)`
fn members(text: &str) -> Membership {
    let inner = text.trim_start_matches('(').trim_end_matches(')');
    let ids = inner.split(',').filter(|id| !id.is_empty()).map(parse_number);
    Membership::of_voters(ids.map(|id| (NodeId(id), Arc::from(&b""[..]))))
}

fn entry(word: &str) -> Entry<Cmd> {
    let (at, what) = word.split_once('=').unwrap_or((word, ""));
    let (index, term) = at.split_once('@').expect("index@term");
    let body = match what {
        "" => Body::Noop,
        what if what.starts_with('(') => Body::Membership(members(what)),
        what => Body::Command(Cmd::parse(what)),
    };
    Entry { index: parse_number(index), term: parse_number(term), body }
}

/// `2->1 t5 vote last 3@2`; `to 9` after the link is another address on the
/// envelope.
pub(super) fn parse(words: &[&str]) -> Envelope<Cmd> {
    let (from, to) = link(words[0]).expect("a link");
    let mut words = Words(words[1..].iter());
    let addressed = words.after("to");
    let to = if addressed > 0 { addressed } else { to.expect("a server") };
    let term = words.word().strip_prefix('t').map(parse_number).expect("a term");
    let kind = words.word();
    Envelope {
        from: NodeId(from.expect("a server")),
        to: NodeId(to),
        term,
        message: message(kind, &mut words),
    }
}

fn message(kind: &str, words: &mut Words<'_>) -> Message<Cmd> {
    match kind {
        "prevote" => {
            let (last_index, last_term) = words.last();
            Message::PreVote { last_index, last_term }
        }
        "vote" => {
            let (last_index, last_term) = words.last();
            Message::Vote { last_index, last_term, transfer: words.flag("override") }
        }
        "prevote-reply" => Message::PreVoteReply { granted: words.word() == "yes" },
        "vote-reply" => Message::VoteReply { granted: words.word() == "yes" },
        "append" => {
            assert_eq!(words.word(), "behind");
            let (prev_index, prev_term) = words.position();
            let commit = words.after("commit");
            let read_round = words.after("round");
            let entries = words.entries();
            Message::Append { prev_index, prev_term, commit, read_round, entries }
        }
        "ack" => {
            Message::AppendReply { match_index: words.number(), read_round: words.after("round") }
        }
        "reject" => {
            let prev_index = words.number();
            let (hint_index, hint_term) = words.position();
            Message::AppendReject { prev_index, hint_index, hint_term }
        }
        "heartbeat" => {
            Message::Heartbeat { commit: words.after("commit"), read_round: words.after("round") }
        }
        "heartbeat-reply" => {
            let last_index = words.after("last");
            Message::HeartbeatReply { read_round: words.after("round"), last_index }
        }
        "read-index" => Message::ReadIndex { request: words.number() },
        "read-index-reply" => {
            Message::ReadIndexReply { request: words.number(), index: Some(words.number()) }
        }
        "timeout-now" => Message::TimeoutNow,
        "chunk" => {
            let (index, term) = words.position();
            let membership = members(words.word());
            let offset = words.after("from");
            let data = words.word().as_bytes().to_vec();
            let meta = SnapshotMeta { index, term, membership };
            Message::SnapshotChunk { meta, offset, data, done: words.flag("end") }
        }
        "chunk-reply" => {
            let index = words.number();
            let next_offset = words.after("next");
            Message::SnapshotReply { index, next_offset, installed: words.flag("installed") }
        }
        other => panic!("there is no message {other}"),
    }
}
