//! Opening a folder as a server does at its start.

use std::path::Path;
use std::time::Duration;

use raft::{Body, Entry, HardState, Index, Position, SnapshotMeta, Term};

use crate::command::{Command, Payload};
use crate::config::ServerConfig;
use crate::identity::{Folder, Identity};
use crate::keystore::{Keystore, KeystoreLimits};
use crate::log_file::{LogFile, LogOptions};
use crate::shell::restore::{self, Read};

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
pub(super) fn start(dir: &Path, options: LogOptions) -> Outcome {
    open(dir, options).unwrap_or_else(Outcome::Refused)
}

fn open(dir: &Path, options: LogOptions) -> Result<Outcome, String> {
    let folder = Folder::open(dir).map_err(|error| error.to_string())?;
    let Some(identity) = folder.identity().filter(|identity| identity.cluster.is_some()) else {
        return Ok(Outcome::Fresh);
    };
    let identity = identity.clone();
    let id = identity.server.ok_or("no server id")?;
    let read = restore::read(&config(dir), id, options, &|_| {});
    let start = match read.map_err(|error| format!("{error:#}"))? {
        Read::Start(start) => *start,
        Read::Amnesia(why) => return Ok(Outcome::Amnesia(why)),
    };
    let SnapshotMeta { index, term, .. } = start.restored.snapshot;
    Ok(Outcome::Member(Box::new(Started {
        identity,
        log: start.log,
        checkpoint: (index, term),
        keystore: start.keystore,
        hard_state: start.restored.hard_state,
        entries: start.restored.entries,
        commit: start.restored.commit,
        floor: start.restored.floor,
        _folder: folder,
    })))
}

/// Of it, only the paths matter here.
fn config(dir: &Path) -> ServerConfig {
    ServerConfig {
        name: "srv-1".to_owned(),
        dir: dir.to_owned(),
        keep_log: false,
        dead_after: Duration::ZERO,
        log_file: dir.join("log-file"),
        keystore_file: dir.join("keystore-file"),
        key_file: dir.join("cluster.key"),
        lbs: Vec::new(),
        fixed: None,
        heartbeat: Duration::from_millis(50),
        election_timeout: (Duration::from_millis(200), Duration::from_millis(400)),
        max_value_bytes: 1 << 20,
        checkpoint_after_bytes: 1 << 20,
        memory_bytes: None,
        max_connections: 1,
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
