//! Lines of JSON, as the [module](super) describes them.

use std::io;

use common::memcached::{Arithmetic, StoreVerb};
use raft::{Body, Entry, Membership, Suffrage};
use serde::Serialize;
use serde_json::Value;

use super::{PrintError, hex};
use crate::command::{Command, Operation, Payload};
use crate::keystore::ItemView;
use crate::offline::command;

/// What a line shows; fields that an entry does not have are left out.
#[derive(Serialize, Default)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    term: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    op: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cas: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    algorithm: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<Vec<Member>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dismissed: Vec<Dismissed>,
}

#[derive(Serialize)]
struct Member {
    id: u64,
    voter: bool,
    /// How it is found.
    info: Value,
}

/// A server that an operator has removed.
#[derive(Serialize)]
struct Dismissed {
    id: u64,
    info: Value,
}

impl<'a> Line<'a> {
    fn key(mut self, key: &'a [u8]) -> Self {
        (self.key, self.key_hex) = text_or_hex(key);
        self
    }

    fn value(mut self, value: &'a [u8]) -> Self {
        (self.value, self.value_hex) = text_or_hex(value);
        self
    }

    fn put(&self, out: &mut Vec<u8>) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        out.push(b'\n');
        Ok(())
    }
}

fn text_or_hex(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(bytes.iter().flat_map(|byte| hex(*byte)).map(char::from).collect())),
    }
}

/// One line for an entry; nothing for one that stores nothing, unless `all`.
pub(super) fn log_line(
    out: &mut Vec<u8>,
    entry: &Entry<Payload>,
    all: bool,
) -> Result<(), PrintError> {
    let line = match &entry.body {
        Body::Noop if all => Line { op: Some("noop"), ..Line::default() },
        Body::Membership(membership) if all => {
            let members = Some(members(membership));
            let dismissed = dismissed(membership);
            Line { op: Some("membership"), members, dismissed, ..Line::default() }
        }
        Body::Noop | Body::Membership(_) => return Ok(()),
        Body::Command(payload) => {
            let command = command(entry.index, payload)?;
            let inner = matches!(
                command.operation,
                Operation::Check { .. } | Operation::Verdict { .. } | Operation::OpenSession { .. }
            );
            if inner && !all {
                return Ok(());
            }
            command_line(command)
        }
    };
    let line = Line { index: Some(entry.index), term: Some(entry.term), ..line };
    Ok(line.put(out)?)
}

fn command_line(command: Command<'_>) -> Line<'_> {
    let line = Line {
        clock_ms: Some(command.clock_ms),
        session: command.id.map(|id| format!("{:016x}", id.session)),
        sequence: command.id.map(|id| id.sequence),
        ..Line::default()
    };
    match command.operation {
        Operation::Store { verb, key, flags, deadline_ms, value } => {
            let (op, cas) = match verb {
                StoreVerb::Set => ("set", None),
                StoreVerb::Add => ("add", None),
                StoreVerb::Replace => ("replace", None),
                StoreVerb::Append => ("append", None),
                StoreVerb::Prepend => ("prepend", None),
                StoreVerb::Cas(token) => ("cas", Some(token)),
            };
            let (flags, deadline_ms) = (Some(flags), Some(deadline_ms));
            Line { op: Some(op), cas, flags, deadline_ms, ..line }.key(key).value(value)
        }
        Operation::Delete { key } => Line { op: Some("delete"), ..line }.key(key),
        Operation::Arithmetic { operation, key, delta } => {
            let op = match operation {
                Arithmetic::Incr => "incr",
                Arithmetic::Decr => "decr",
            };
            Line { op: Some(op), delta: Some(delta), ..line }.key(key)
        }
        Operation::Check { algorithm } => {
            Line { op: Some("check"), algorithm: Some(algorithm), ..line }
        }
        Operation::OpenSession { session } => {
            Line { op: Some("session"), session: Some(format!("{session:016x}")), ..line }
        }
        Operation::Verdict { index, digest } => {
            let digest = Some(format!("{digest:016x}"));
            Line { op: Some("verdict"), at: Some(index), digest, ..line }
        }
    }
}

fn members(membership: &Membership) -> Vec<Member> {
    let members = membership.members.iter();
    members
        .map(|(id, member)| Member {
            id: id.0,
            voter: member.suffrage == Suffrage::Voter,
            info: serde_json::from_slice(&member.info).unwrap_or_default(),
        })
        .collect()
}

fn dismissed(membership: &Membership) -> Vec<Dismissed> {
    let dismissed = membership.dismissed.iter();
    dismissed
        .map(|(id, info)| Dismissed {
            id: id.0,
            info: serde_json::from_slice(info).unwrap_or_default(),
        })
        .collect()
}

/// One line for an item.
pub(super) fn item_line(out: &mut Vec<u8>, item: ItemView<'_>) -> io::Result<()> {
    let line = Line {
        flags: Some(item.flags),
        cas: Some(item.cas),
        deadline_ms: Some(item.deadline_ms),
        ..Line::default()
    };
    line.key(item.key).value(item.value).put(out)
}
