//! Lines of text, as the [module](super) describes them.

use std::io::{self, Write};

use common::memcached::{Arithmetic, StoreVerb};
use raft::{Body, Entry, Index, Suffrage};

use super::{PrintError, hex};
use crate::command::{Operation, Payload};
use crate::keystore::ItemView;
use crate::offline::command;

/// One line for an entry; nothing for one that stores nothing, unless `all`.
pub(super) fn log_line(
    out: &mut Vec<u8>,
    entry: &Entry<Payload>,
    all: bool,
) -> Result<(), PrintError> {
    let index = entry.index;
    match &entry.body {
        Body::Noop if all => writeln!(out, "{index} (noop)")?,
        Body::Membership(membership) if all => {
            let voters = membership.voters().count();
            let learners =
                membership.members.values().filter(|m| m.suffrage == Suffrage::Learner).count();
            let dismissed = match membership.dismissed.len() {
                0 => String::new(),
                count => format!(", {count} dismissed"),
            };
            writeln!(out, "{index} (membership {voters} voters, {learners} learners{dismissed})")?;
        }
        Body::Noop | Body::Membership(_) => {}
        Body::Command(payload) => match command(index, payload)?.operation {
            Operation::Check { .. } if all => writeln!(out, "{index} (integrity check)")?,
            Operation::Verdict { index: check, digest } if all => {
                writeln!(out, "{index} (integrity verdict {digest:016x} at {check})")?;
            }
            Operation::OpenSession { session } if all => {
                writeln!(out, "{index} (session {session:016x})")?;
            }
            Operation::Check { .. } | Operation::Verdict { .. } | Operation::OpenSession { .. } => {
            }
            operation => command_line(out, index, operation)?,
        },
    }
    Ok(())
}

fn command_line(out: &mut Vec<u8>, index: Index, operation: Operation<'_>) -> io::Result<()> {
    let (Operation::Store { key, .. }
    | Operation::Delete { key }
    | Operation::Arithmetic { key, .. }) = operation
    else {
        return Ok(());
    };
    write!(out, "{index} ")?;
    put_key(out, key);
    out.push(b' ');
    match operation {
        Operation::Store { verb, value, .. } => match verb {
            StoreVerb::Append => put_parenthesised(out, "append", value)?,
            StoreVerb::Prepend => put_parenthesised(out, "prepend", value)?,
            StoreVerb::Set | StoreVerb::Add | StoreVerb::Replace | StoreVerb::Cas(_) => {
                put_value(out, value);
            }
        },
        Operation::Delete { .. } => write!(out, "(delete)")?,
        Operation::Arithmetic { operation: Arithmetic::Incr, delta, .. } => {
            write!(out, "(incr {delta})")?;
        }
        Operation::Arithmetic { operation: Arithmetic::Decr, delta, .. } => {
            write!(out, "(decr {delta})")?;
        }
        Operation::Check { .. } | Operation::Verdict { .. } | Operation::OpenSession { .. } => {}
    }
    out.push(b'\n');
    Ok(())
}

/// One line for an item.
pub(super) fn item_line(out: &mut Vec<u8>, item: ItemView<'_>) {
    put_key(out, item.key);
    out.push(b' ');
    put_value(out, item.value);
    out.push(b'\n');
}

fn put_parenthesised(out: &mut Vec<u8>, what: &str, value: &[u8]) -> io::Result<()> {
    write!(out, "({what} ")?;
    put_quoted(out, value);
    out.push(b')');
    Ok(())
}

pub(super) fn put_key(out: &mut Vec<u8>, key: &[u8]) {
    if is_plain(key) && !key.contains(&b' ') {
        out.extend_from_slice(key);
    } else {
        put_quoted(out, key);
    }
}

pub(super) fn put_value(out: &mut Vec<u8>, value: &[u8]) {
    if is_plain(value) {
        out.extend_from_slice(value);
    } else {
        put_quoted(out, value);
    }
}

fn is_plain(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    !text.is_empty()
        && text.trim() == text
        && !text.starts_with(['"', '('])
        && !text.chars().any(breaks_lines)
}

/// Control characters, and what some programs take for the end of a line.
fn breaks_lines(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

fn put_quoted(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            let mut encoded = [0; 4];
            let encoded = character.encode_utf8(&mut encoded).as_bytes();
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                _ if breaks_lines(character) => put_hex(out, encoded),
                _ => out.extend_from_slice(encoded),
            }
        }
        put_hex(out, chunk.invalid());
    }
    out.push(b'"');
}

fn put_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        let [high, low] = hex(*byte);
        out.extend_from_slice(&[b'\\', b'x', high, low]);
    }
}
