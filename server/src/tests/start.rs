//! Opening a folder as a server does at its start.

use std::path::Path;

use raft::{Entry, HardState, Index, Restored, Term};

use super::workload::OPTIONS;
use crate::command::Payload;
use crate::identity::{Folder, Identity};
use crate::keystore::{Frozen, Keystore};
use crate::keystore_file;
use crate::log_file::LogFile;

/// An item: key, value, flags, cas, deadline.
pub(super) type Item = (Vec<u8>, Vec<u8>, u32, u64, u64);

/// What a start found.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) identity: Identity,
    pub(super) log: LogFile,
    /// Index and term of the checkpoint.
    pub(super) checkpoint: (Index, Term),
    pub(super) items: Vec<Item>,
    pub(super) hard_state: HardState,
    pub(super) entries: Vec<Entry<Payload>>,
    pub(super) commit: Index,
    _folder: Folder,
}

/// `None`: a folder that belongs to no cluster yet. What lies in it counts for
/// nothing, it is adopted anew.
pub(super) fn start(dir: &Path) -> Result<Option<Started>, String> {
    let folder = Folder::open(dir).map_err(|error| error.to_string())?;
    let Some(identity) = folder.identity().filter(|identity| identity.cluster.is_some()) else {
        return Ok(None);
    };
    let identity = identity.clone();
    let path = dir.join("keystore-file");
    let (keystore, meta) = keystore_file::read(&path)
        .map_err(|error| error.to_string())?
        .ok_or("keystore-file is missing")?;
    let (mut log, found) = LogFile::open(&dir.join("log-file"), OPTIONS, meta.index)
        .map_err(|error| error.to_string())?;
    if found.fresh {
        return Err("log-file is missing".to_owned());
    }
    let checkpoint = (meta.index, meta.term);
    let mut restored = Restored {
        hard_state: found.hard_state,
        snapshot: meta,
        runs: found.runs,
        memberships: found.memberships,
        entries: found.entries,
        floor: None,
        commit: found.commit,
    };
    if restored.discard_unconnected() {
        log.reset(checkpoint.0).map_err(|error| error.to_string())?;
        log.sync().map_err(|error| error.to_string())?;
    }
    Ok(Some(Started {
        identity,
        log,
        checkpoint,
        items: items(&keystore.freeze()),
        hard_state: restored.hard_state,
        entries: restored.entries,
        commit: restored.commit,
        _folder: folder,
    }))
}

/// All items in order.
pub(super) fn items(frozen: &Frozen) -> Vec<Item> {
    let mut items: Vec<_> = frozen
        .items()
        .map(|item| {
            (item.key.to_vec(), item.value.to_vec(), item.flags, item.cas, item.deadline_ms)
        })
        .collect();
    items.sort_unstable();
    items
}

/// A keystore with the entries applied, which begin at index 1.
pub(super) fn replay<'a>(entries: impl Iterator<Item = &'a Entry<Payload>>) -> Keystore {
    let mut keystore = Keystore::new(crate::keystore::KeystoreLimits::default());
    for entry in entries {
        match &entry.body {
            raft::Body::Command(payload) => {
                keystore.apply(entry.index, &crate::command::Command::decode(&payload.0).unwrap());
            }
            _ => keystore.advance(entry.index),
        }
    }
    keystore
}
