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
//! 15 (integrity check)          only with `all`
//! 16 (integrity verdict 00c0ffee00c0ffee at 15)   only with `all`
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
//!
//! # JSON
//!
//! One object for each line. Of an entry: `index`, `term`, `op` (`set`, `add`,
//! `replace`, `append`, `prepend`, `cas`, `delete`, `incr`, `decr`, and with
//! `all` `noop`, `membership`, `check` and `verdict`), and what belongs to it:
//! `clock_ms`, `key`, `value`, `flags`, `deadline_ms`, `cas`, `delta`, `members`,
//! `algorithm`, `at`, `digest`. Of an item: `key`,
//! `value`, `flags`, `cas`, `deadline_ms`. Bytes that are not UTF-8 are in
//! `key_hex` and `value_hex` instead.

mod json;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use raft::Index;

use crate::keystore_file::KeystoreFileError;
use crate::log_file::{LogError, LogReader, look};
use crate::offline::{OfflineError, State, each};

/// Between two looks at a log that is followed.
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// Which entries to print, and how.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PrintOptions {
    /// First index; `None`: from the beginning.
    pub from: Option<Index>,
    /// Last index; `None`: to the last that is committed.
    pub to: Option<Index>,
    /// No-ops, memberships and integrity checks too.
    pub all: bool,
    /// As JSON.
    pub json: bool,
}

/// Which items to print, and how.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ItemOptions {
    /// First key; `None`: from the beginning.
    pub from: Option<Vec<u8>>,
    /// Last key; `None`: to the end.
    pub to: Option<Vec<u8>>,
    /// As JSON.
    pub json: bool,
}

/// Why the files cannot be printed.
#[derive(Debug, thiserror::Error)]
pub enum PrintError {
    /// The files give no state.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl From<LogError> for PrintError {
    fn from(error: LogError) -> Self {
        PrintError::Offline(error.into())
    }
}

impl From<KeystoreFileError> for PrintError {
    fn from(error: KeystoreFileError) -> Self {
        PrintError::Offline(error.into())
    }
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
    let mut next = options.from.unwrap_or(0);
    print_committed(log_file, &mut next, out, options)
}

/// Prints committed entries, and further ones as they are committed, until
/// `goes_on` says no or the last one asked for is printed.
///
/// # Errors
/// As [`print_log`].
pub fn follow_log_file(
    log_file: &Path,
    out: &mut dyn Write,
    options: PrintOptions,
    mut goes_on: impl FnMut() -> bool,
) -> Result<(), PrintError> {
    let mut next = options.from.unwrap_or(0);
    loop {
        // Asked before looking, so that what was written last is not missed.
        let last_look = !goes_on();
        print_committed(log_file, &mut next, out, options)?;
        if last_look || options.to.is_some_and(|to| next > to) {
            return Ok(());
        }
        std::thread::sleep(FOLLOW_PAUSE);
    }
}

/// Prints from `next` on, and moves it behind what was printed. A running
/// server may free a segment that is being read: entries are read again then,
/// from where they are now, and damage is believed when it is seen twice.
fn print_committed(
    log_file: &Path,
    next: &mut Index,
    out: &mut dyn Write,
    options: PrintOptions,
) -> Result<(), PrintError> {
    let mut failed_at = None;
    loop {
        let (reader, commit) = look(log_file)?;
        *next = (*next).max(reader.range().0);
        match print_entries(&reader, next, commit, out, options) {
            Err(PrintError::Offline(OfflineError::Log(_))) if failed_at != Some(*next) => {
                failed_at = Some(*next);
            }
            result => return result,
        }
    }
}

fn print_entries(
    reader: &LogReader,
    next: &mut Index,
    commit: Index,
    out: &mut dyn Write,
    options: PrintOptions,
) -> Result<(), PrintError> {
    let to = options.to.unwrap_or(Index::MAX).min(commit);
    let mut line = Vec::new();
    each(reader, *next, to, |entry| -> Result<(), PrintError> {
        *next = entry.index + 1;
        line.clear();
        match options.json {
            true => json::log_line(&mut line, entry, options.all)?,
            false => text::log_line(&mut line, entry, options.all)?,
        }
        Ok(out.write_all(&line)?)
    })?;
    Ok(out.flush()?)
}

/// Prints the items of the server in the folder `dir`.
///
/// # Errors
/// As [`print_log`], and when the keystore-file is damaged.
pub fn print_keystore(dir: &Path, out: &mut dyn Write) -> Result<(), PrintError> {
    let (keystore_file, log_file) = (dir.join("keystore-file"), dir.join("log-file"));
    print_keystore_file(&keystore_file, &log_file, out, &ItemOptions::default())
}

/// [`print_keystore`] for files that lie elsewhere.
///
/// # Errors
/// As [`print_keystore`].
pub fn print_keystore_file(
    keystore_file: &Path,
    log_file: &Path,
    out: &mut dyn Write,
    options: &ItemOptions,
) -> Result<(), PrintError> {
    let state = State::of_files(keystore_file, log_file)?;
    let frozen = state.keystore.freeze();
    let wanted = |key: &[u8]| {
        options.from.as_deref().is_none_or(|from| key >= from)
            && options.to.as_deref().is_none_or(|to| key <= to)
    };
    let mut items: Vec<_> = frozen.items().filter(|item| wanted(item.key)).collect();
    items.sort_unstable_by_key(|item| item.key);
    let mut line = Vec::new();
    for item in items {
        line.clear();
        match options.json {
            true => json::item_line(&mut line, item)?,
            false => text::item_line(&mut line, item),
        }
        out.write_all(&line)?;
    }
    Ok(out.flush()?)
}

/// A byte as two digits.
fn hex(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}
