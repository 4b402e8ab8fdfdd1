//! When a checkpoint is written, and by whom.

use std::path::PathBuf;
use std::sync::Arc;

use raft::Index;

use super::inbox::{Inbox, Input};
use super::log_writer::LogWriter;
use crate::driver::Driver;
use crate::keystore_file::{self, CheckpointMeta};

/// A checkpoint is due once so many bytes went to the log-file, or as many as
/// the data takes, whichever is more: then writing checkpoints costs at most
/// about as much as writing the log, and a start replays a bounded tail.
const DUE_AFTER_BYTES: u64 = 64 * 1024 * 1024;

pub(super) struct Checkpoints {
    path: PathBuf,
    newest: Index,
    writing: bool,
}

impl Checkpoints {
    pub(super) fn new(path: PathBuf, newest: Index) -> Self {
        Checkpoints { path, newest, writing: false }
    }

    /// Starts a checkpoint when one is due. The keystore is frozen here, in
    /// microseconds; a thread writes it while the store goes on.
    pub(super) fn consider(&mut self, driver: &Driver, log: &mut LogWriter, inbox: &Arc<Inbox>) {
        let due = DUE_AFTER_BYTES.max(driver.keystore().memory_bytes());
        if self.writing || log.bytes() < due || driver.keystore().applied() <= self.newest {
            return;
        }
        let Some(meta) = meta(driver) else { return };
        self.writing = true;
        log.reset_bytes();
        let frozen = driver.keystore().freeze();
        let path = self.path.clone();
        let inbox = Arc::clone(inbox);
        tokio::task::spawn_blocking(move || {
            let result = keystore_file::write(&path, &frozen, &meta);
            inbox.push(Input::Checkpointed(
                result.map(|_| meta.index).map_err(|error| error.to_string()),
            ));
        });
    }

    pub(super) fn done(&mut self, result: Result<Index, String>, driver: &mut Driver) {
        self.writing = false;
        match result {
            Ok(index) => {
                self.newest = index;
                tracing::info!(index, "checkpoint written");
                driver.checkpointed(index);
            }
            Err(error) => {
                tracing::error!(error, "no checkpoint was written; the log-file keeps everything");
            }
        }
    }

    /// The checkpoint of a server that stops.
    pub(super) fn finish(self, driver: &Driver) -> Result<(), String> {
        if driver.keystore().applied() <= self.newest || self.writing {
            return Ok(());
        }
        let Some(meta) = meta(driver) else { return Ok(()) };
        keystore_file::write(&self.path, &driver.keystore().freeze(), &meta)
            .map(|_| ())
            .map_err(|error| error.to_string())
    }
}

/// What a checkpoint of the keystore as it is now stands for.
fn meta(driver: &Driver) -> Option<CheckpointMeta> {
    let index = driver.keystore().applied();
    // A leader applies what a majority has, perhaps before its own disk does.
    // A checkpoint ahead of its log would leave a hole between the two.
    if driver.node().status().durable < index {
        return None;
    }
    let snapshot = driver.node().snapshot_meta(index)?;
    Some(CheckpointMeta { index, term: snapshot.term, membership: snapshot.membership })
}
