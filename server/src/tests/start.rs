//! Opening a folder as a server does at its start.

use std::path::Path;

use raft::{Body, Entry, HardState, Index, NodeId, Position, SnapshotMeta, Term};

use super::workload::OPTIONS;
use crate::command::{Command, Payload};
use crate::identity::{Folder, Identity};
use crate::keystore::{Keystore, KeystoreLimits};
use crate::keystore_file::{self, KeystoreFileError};
use crate::log_file::LogFile;
use crate::recovery::{Damage, Decision, Found, FoundCheckpoint, FoundLog, decide};

/// What a start came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It belongs to no cluster yet. What lies in the folder counts for
    /// nothing, it is adopted anew.
    Fresh,
    /// A member of its cluster.
    Member(Box<Started>),
    /// It must not come back under its id; why.
    Amnesia(String),
    /// An error; what it says.
    Refused(String),
}

/// A server that has started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) identity: Identity,
    pub(super) log: LogFile,
    /// Index and term of the checkpoint; 0 if it was lost.
    pub(super) checkpoint: (Index, Term),
    /// As the checkpoint has it.
    pub(super) keystore: Keystore,
    pub(super) hard_state: HardState,
    pub(super) entries: Vec<Entry<Payload>>,
    pub(super) commit: Index,
    pub(super) floor: Option<Position>,
    _folder: Folder,
}

impl Started {
    /// Where the log ends.
    pub(super) fn last(&self) -> Position {
        let (index, term) = self.checkpoint;
        let behind = Position { index, term };
        self.entries
            .last()
            .map_or(behind, |entry| Position { index: entry.index, term: entry.term })
    }
}

/// Opens the folder `dir`.
pub(super) fn start(dir: &Path) -> Outcome {
    open(dir).unwrap_or_else(Outcome::Refused)
}

fn open(dir: &Path) -> Result<Outcome, String> {
    let folder = Folder::open(dir).map_err(|error| error.to_string())?;
    let Some(identity) = folder.identity().filter(|identity| identity.cluster.is_some()) else {
        return Ok(Outcome::Fresh);
    };
    let identity = identity.clone();
    let (keystore, checkpoint) = read_checkpoint(&dir.join("keystore-file"))?;
    let after = match &checkpoint {
        FoundCheckpoint::Whole(meta) => meta.index,
        _ => 0,
    };
    let log_dir = dir.join("log-file");
    let (scan, opener) = LogFile::scan(&log_dir, after).map_err(|error| error.to_string())?;
    let log = match opener.is_fresh() {
        true => FoundLog::Missing(log_dir),
        false => FoundLog::Read(scan),
    };
    let id = NodeId(identity.server.ok_or("no server id")?.0);
    let recovery = match decide(Found { id, checkpoint, log }) {
        Decision::Start(recovery) => *recovery,
        Decision::Amnesia(why) => return Ok(Outcome::Amnesia(why)),
        Decision::Refuse(why) => return Ok(Outcome::Refused(why)),
    };
    let mut restored = recovery.restored;
    let log = opener
        .repair(OPTIONS, recovery.repair, &mut restored)
        .map_err(|error| error.to_string())?;
    let SnapshotMeta { index, term, .. } = restored.snapshot;
    Ok(Outcome::Member(Box::new(Started {
        identity,
        log,
        checkpoint: (index, term),
        keystore,
        hard_state: restored.hard_state,
        entries: restored.entries,
        commit: restored.commit,
        floor: restored.floor,
        _folder: folder,
    })))
}

fn read_checkpoint(path: &Path) -> Result<(Keystore, FoundCheckpoint), String> {
    let empty = Keystore::new(KeystoreLimits::default());
    let damaged = |file: &Path, offset, what: String| {
        FoundCheckpoint::Damaged(Damage { file: file.to_owned(), offset, bytes: 0, what })
    };
    match keystore_file::read(path) {
        Ok(Some((keystore, meta))) => Ok((keystore, FoundCheckpoint::Whole(meta))),
        Ok(None) => Ok((empty, FoundCheckpoint::Missing(path.to_owned()))),
        Err(KeystoreFileError::Damaged { file, offset, what, .. }) => {
            Ok((empty, damaged(&file, offset, what.to_string())))
        }
        Err(KeystoreFileError::Truncated { file, offset, .. }) => {
            Ok((empty, damaged(&file, offset, "its end is missing".to_owned())))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// A keystore with the entries applied, which begin at index 1.
pub(super) fn replay<'a>(entries: impl Iterator<Item = &'a Entry<Payload>>) -> Keystore {
    let mut keystore = Keystore::new(KeystoreLimits::default());
    for entry in entries {
        match &entry.body {
            Body::Command(payload) => {
                keystore.apply(entry.index, &Command::decode(&payload.0).unwrap());
            }
            _ => keystore.advance(entry.index),
        }
    }
    keystore
}

/// Whether both hold the same items and have come to the same position. Keys
/// are those that [`super::workload`] uses.
pub(super) fn same(one: &Keystore, other: &Keystore) -> bool {
    let keys = (0..super::workload::KEYS).map(super::workload::key);
    one.freeze().position() == other.freeze().position()
        && keys.into_iter().all(|key| one.get(key.as_bytes()) == other.get(key.as_bytes()))
}
