//! The state that the files of a server hold, for those who only look: the
//! checkpoint, and the committed entries behind it applied to it.
//!
//! Nothing here takes a lock or changes a file, so the server may be running.

use std::path::Path;

use raft::{Body, Entry, Index};

use crate::command::{Command, CommandError, Payload};
use crate::keystore::{Keystore, KeystoreLimits};
use crate::keystore_file::{self, CheckpointMeta, KeystoreFileError};
use crate::log_file::{LogError, LogReader, look};

/// Bytes of log that are read at a time.
const READ_BYTES: usize = 1024 * 1024;

/// Why the files do not give a state.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
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
}

/// A state that entries are applied to.
#[derive(Debug)]
pub struct State {
    /// The items and counters.
    pub keystore: Keystore,
    /// Index and term of the last entry, and the membership there.
    pub meta: CheckpointMeta,
}

impl State {
    /// The state before the first entry.
    pub fn empty() -> State {
        let keystore = Keystore::new(KeystoreLimits::default());
        State { keystore, meta: CheckpointMeta::default() }
    }

    /// The state as of the last entry that the files say is committed.
    ///
    /// # Errors
    /// [`OfflineError`]: a file is damaged or missing.
    pub fn of_files(keystore_file: &Path, log_file: &Path) -> Result<State, OfflineError> {
        // A running server may free a segment that is being read, once it has
        // a newer checkpoint. Real damage is there the second time, too.
        match Self::read_files(keystore_file, log_file) {
            Err(OfflineError::Log(_)) => Self::read_files(keystore_file, log_file),
            result => result,
        }
    }

    fn read_files(keystore_file: &Path, log_file: &Path) -> Result<State, OfflineError> {
        // The log first: a checkpoint that is made meanwhile is only further on.
        let (reader, commit) = look(log_file)?;
        let mut state = match keystore_file::load(keystore_file)? {
            Some((keystore, meta)) => State { keystore, meta },
            None => State::empty(),
        };
        let from = state.meta.index + 1;
        each(&reader, from, commit, |entry| state.apply(entry))?;
        Ok(state)
    }

    /// Applies the next entry.
    ///
    /// # Errors
    /// [`OfflineError::Command`] when it is no command.
    pub fn apply(&mut self, entry: &Entry<Payload>) -> Result<(), OfflineError> {
        match &entry.body {
            Body::Command(payload) => {
                self.keystore.apply(entry.index, &command(entry.index, payload)?);
            }
            Body::Noop => self.keystore.advance(entry.index),
            Body::Membership(membership) => {
                self.keystore.advance(entry.index);
                self.meta.membership = membership.clone();
            }
        }
        (self.meta.index, self.meta.term) = (entry.index, entry.term);
        Ok(())
    }
}

/// Visits the entries `from..=to`.
///
/// # Errors
/// When they cannot be read, and those of `visit`.
pub(crate) fn each<E: From<LogError>>(
    reader: &LogReader,
    from: Index,
    to: Index,
    mut visit: impl FnMut(&Entry<Payload>) -> Result<(), E>,
) -> Result<(), E> {
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

/// What the entry at `index` does.
///
/// # Errors
/// [`OfflineError::Command`] when it is no command.
pub(crate) fn command(index: Index, payload: &Payload) -> Result<Command<'_>, OfflineError> {
    Command::decode(&payload.0).map_err(|source| OfflineError::Command { index, source })
}
