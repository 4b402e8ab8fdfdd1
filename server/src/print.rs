//! `store log` and `store keystore`: the files of a server as text.
//!
//! Both only read: they take no lock, change nothing, and may look at a server
//! that is running; a write that is under way at that moment simply ends the
//! output. Only what the log says is committed is shown: an entry that is
//! not may still be replaced.
//!
//! # Lines
//!
//! [`print_log`]: `<index> <key> <value>` for entries that store a value.
//! Other commands put what they do in parentheses in the value's place:
//!
//! ```text
//! 7 greeting hello
//! 8 greeting (append " world")
//! 9 greeting (prepend "> ")
//! 10 count (incr 5)
//! 11 count (decr 2)
//! 12 greeting (delete)
//! 13 (noop)                     only with `all`
//! 14 (membership 3 voters, 0 learners)   only with `all`
//! ```
//! `add`, `replace` and `cas` print the value that they would store; whether
//! they did is known to [`print_keystore`]: `<key> <value>`, sorted by key, the
//! checkpoint and the committed entries behind it.
//!
//! # Values
//!
//! A value that is plain text is printed as it is. One that is empty, not
//! UTF-8, begins or ends with a blank, begins with `"` or `(`, or holds control
//! characters is printed in double quotes, with `\"`, `\\`, `\n`, `\r`, `\t`
//! and `\xNN` for each other byte that is no printable text. Keys are treated
//! alike, and also when they hold a blank. So each item is one line.

use std::io::{self, Write};
use std::path::Path;

use raft::{Body, Entry, Index, Suffrage};

use crate::command::{Command, CommandError, Operation, Payload};
use crate::keystore::{Keystore, KeystoreLimits};
use crate::keystore_file::{self, KeystoreFileError};
use crate::log_file::{LogError, LogReader, look};
use common::memcached::{Arithmetic, StoreVerb};

/// Bytes of log that are read at a time.
const READ_BYTES: usize = 1024 * 1024;

/// Which entries to print.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PrintOptions {
    /// First index; `None`: from the beginning.
    pub from: Option<Index>,
    /// Last index; `None`: to the last that is committed.
    pub to: Option<Index>,
    /// No-ops and memberships too.
    pub all: bool,
}

/// Why the files cannot be printed.
#[derive(Debug, thiserror::Error)]
pub enum PrintError {
    /// The log-file.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The keystore-file.
    #[error(transparent)]
    Keystore(#[from] KeystoreFileError),
    /// An entry holds something that is no command.
    #[error("entry {index}: {source}")]
    Command {
        /// Which.
        index: Index,
        /// What is wrong.
        source: CommandError,
    },
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Prints the committed entries of the server in the folder `dir`.
///
/// # Errors
/// When the log is damaged or missing, or `out` fails.
pub fn print_log(dir: &Path, out: &mut dyn Write, options: PrintOptions) -> Result<(), PrintError> {
    print_log_file(&dir.join("log-file"), out, options)
}

/// [`print_log`] for a log that lies elsewhere.
///
/// # Errors
/// As [`print_log`].
pub fn print_log_file(
    log_file: &Path,
    out: &mut dyn Write,
    options: PrintOptions,
) -> Result<(), PrintError> {
    let (reader, commit) = look(log_file)?;
    let from = options.from.unwrap_or(0).max(reader.range().0);
    let to = options.to.unwrap_or(Index::MAX).min(commit);
    let mut line = Vec::new();
    each(&reader, from, to, |entry| {
        line.clear();
        log_line(&mut line, entry, options.all)?;
        Ok(out.write_all(&line)?)
    })?;
    Ok(out.flush()?)
}

/// Prints the items of the server in the folder `dir`.
///
/// # Errors
/// As [`print_log`], and when the keystore-file is damaged.
pub fn print_keystore(dir: &Path, out: &mut dyn Write) -> Result<(), PrintError> {
    print_keystore_file(&dir.join("keystore-file"), &dir.join("log-file"), out)
}

/// [`print_keystore`] for files that lie elsewhere.
///
/// # Errors
/// As [`print_keystore`].
pub fn print_keystore_file(
    keystore_file: &Path,
    log_file: &Path,
    out: &mut dyn Write,
) -> Result<(), PrintError> {
    // The log first: a checkpoint that is made meanwhile is only further on.
    let (reader, commit) = look(log_file)?;
    let mut keystore = match keystore_file::load(keystore_file)? {
        Some((keystore, _)) => keystore,
        None => Keystore::new(KeystoreLimits::default()),
    };
    each(&reader, keystore.applied() + 1, commit, |entry| {
        match &entry.body {
            Body::Command(payload) => {
                keystore.apply(entry.index, &command(entry.index, payload)?);
            }
            Body::Noop | Body::Membership(_) => keystore.advance(entry.index),
        }
        Ok(())
    })?;
    let frozen = keystore.freeze();
    let mut items: Vec<_> = frozen.items().collect();
    items.sort_unstable_by_key(|item| item.key);
    let mut line = Vec::new();
    for item in items {
        line.clear();
        put_key(&mut line, item.key);
        line.push(b' ');
        put_value(&mut line, item.value);
        line.push(b'\n');
        out.write_all(&line)?;
    }
    Ok(out.flush()?)
}

fn each(
    reader: &LogReader,
    from: Index,
    to: Index,
    mut visit: impl FnMut(&Entry<Payload>) -> Result<(), PrintError>,
) -> Result<(), PrintError> {
    let mut next = from;
    while next <= to {
        let entries = reader.read(next, to, READ_BYTES)?;
        for entry in &entries {
            visit(entry)?;
        }
        next += entries.len() as u64;
    }
    Ok(())
}

fn command(index: Index, payload: &Payload) -> Result<Command<'_>, PrintError> {
    Command::decode(&payload.0).map_err(|source| PrintError::Command { index, source })
}

fn log_line(out: &mut Vec<u8>, entry: &Entry<Payload>, all: bool) -> Result<(), PrintError> {
    let index = entry.index;
    match &entry.body {
        Body::Noop if all => writeln!(out, "{index} (noop)")?,
        Body::Membership(membership) if all => {
            let voters = membership.voters().count();
            let learners =
                membership.members.values().filter(|m| m.suffrage == Suffrage::Learner).count();
            writeln!(out, "{index} (membership {voters} voters, {learners} learners)")?;
        }
        Body::Noop | Body::Membership(_) => {}
        Body::Command(payload) => command_line(out, index, command(index, payload)?.operation)?,
    }
    Ok(())
}

fn command_line(out: &mut Vec<u8>, index: Index, operation: Operation<'_>) -> io::Result<()> {
    let key = match operation {
        Operation::Store { key, .. }
        | Operation::Delete { key }
        | Operation::Arithmetic { key, .. } => key,
        // Concerns no key, like a no-op.
        Operation::OpenSession { .. } => return Ok(()),
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
        Operation::OpenSession { .. } => {}
    }
    out.push(b'\n');
    Ok(())
}

fn put_parenthesised(out: &mut Vec<u8>, what: &str, value: &[u8]) -> io::Result<()> {
    write!(out, "({what} ")?;
    put_quoted(out, value);
    out.push(b')');
    Ok(())
}

fn put_key(out: &mut Vec<u8>, key: &[u8]) {
    if is_plain(key) && !key.contains(&b' ') {
        out.extend_from_slice(key);
    } else {
        put_quoted(out, key);
    }
}

fn put_value(out: &mut Vec<u8>, value: &[u8]) {
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
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
        out.extend_from_slice(&[b'\\', b'x', DIGITS[high], DIGITS[low]]);
    }
}

#[cfg(test)]
mod tests;
