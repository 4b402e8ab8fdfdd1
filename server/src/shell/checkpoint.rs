//! When a checkpoint is written, and by whom; and what of the log it makes
//! superfluous.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft::Index;

use super::inbox::{Inbox, Input};
use super::log_writer::LogWriter;
use super::restore::write_members;
use crate::driver::Driver;
use crate::keystore_file::{self, CHECKPOINT_BYTES_PER_SECOND, CheckpointMeta, WriteError};

/// A checkpoint that could not be written is tried again after so long.
const RETRY_AFTER: Duration = Duration::from_secs(10);

pub(super) struct Checkpoints {
    path: PathBuf,
    newest: Index,
    writing: bool,
    /// Write one even though nothing is new: the newest is damaged, or the log
    /// before it is.
    renew: bool,
    /// Nothing of the log before the next one stays.
    no_tail: bool,
    /// A checkpoint is due once so many bytes went to the log-file, or as many
    /// as the last one took, whichever is more: then writing checkpoints costs
    /// at most about as much as writing the log, and a start replays a bounded
    /// tail. As many bytes of log stay for servers that lag.
    after_bytes: u64,
    /// Of the data in the newest one.
    data_bytes: u64,
    /// The last attempt failed, then.
    failed: Option<Instant>,
}

impl Checkpoints {
    pub(super) fn new(path: PathBuf, newest: Index, data_bytes: u64, after_bytes: u64) -> Self {
        Checkpoints {
            path,
            newest,
            writing: false,
            renew: false,
            no_tail: false,
            after_bytes,
            data_bytes,
            failed: None,
        }
    }

    /// Starts a checkpoint when one is due. The keystore is frozen here, in
    /// microseconds; a thread writes it while the store goes on.
    pub(super) fn consider(&mut self, driver: &Driver, log: &mut LogWriter, inbox: &Arc<Inbox>) {
        let keystore = driver.keystore();
        let due = log.bytes() >= self.after_bytes.max(self.data_bytes)
            && keystore.applied() > self.newest;
        let paused = self.failed.is_some_and(|at| at.elapsed() < RETRY_AFTER);
        if self.writing || paused || !(due || self.renew || self.failed.is_some()) {
            return;
        }
        if keystore.applied() == 0 {
            return;
        }
        let Some(meta) = meta(driver) else { return };
        self.writing = true;
        self.renew = false;
        log.reset_bytes();
        self.data_bytes = keystore.memory_bytes();
        let frozen = keystore.freeze();
        let path = self.path.clone();
        let inbox = Arc::clone(inbox);
        tokio::task::spawn_blocking(move || {
            let mut pace = keystore_file::at_rate(CHECKPOINT_BYTES_PER_SECOND);
            let result = keystore_file::write_paced(&path, frozen, &meta, &mut pace)
                .and_then(|_| write_members(&path, &meta.membership));
            inbox.push(Input::Checkpointed(result.map(|()| meta.index)));
        });
    }

    /// Whether the last one could not be written.
    pub(super) fn failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Whether one is being written.
    pub(super) fn is_writing(&self) -> bool {
        self.writing
    }

    /// The newest one turned out to be damaged.
    pub(super) fn renew(&mut self) {
        self.renew = true;
    }

    /// An old entry of the log is damaged: whoever needs it gets a snapshot, and
    /// the log goes up to a new checkpoint.
    pub(super) fn replace_log(&mut self) {
        self.renew = true;
        self.no_tail = true;
    }

    /// A snapshot took the place of the newest one.
    pub(super) fn installed(&mut self, index: Index, data_bytes: u64) {
        self.newest = index;
        self.data_bytes = data_bytes;
    }

    /// The attempt is over. The log stays from `needed` on, if that is given,
    /// and for servers that lag little.
    pub(super) fn done(
        &mut self,
        result: Result<Index, WriteError>,
        needed: Option<Index>,
        log: &LogWriter,
        driver: &mut Driver,
    ) {
        self.writing = false;
        match result {
            Ok(index) => {
                self.newest = index;
                self.failed = None;
                driver.checkpointed(index);
                let mut kept = log.first_of_last(self.after_bytes).min(needed.unwrap_or(index) + 1);
                if std::mem::take(&mut self.no_tail) {
                    kept = index + 1;
                }
                driver.compact(kept);
                log.compact(driver.node().status().first_index);
                tracing::info!(index, log_from = kept.min(index + 1), "checkpoint written");
            }
            Err(error) => {
                // Said once, not every time.
                if self.failed.is_none() {
                    tracing::error!(
                        %error,
                        "no checkpoint was written: the log-file keeps everything, and it is \
                         tried again every {} seconds",
                        RETRY_AFTER.as_secs()
                    );
                }
                self.failed = Some(Instant::now());
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

/// Where the last bytes of the log begin, about.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Bytes written, ever.
    bytes: u64,
    /// `(last index of the log, bytes by then)`, ascending.
    marks: VecDeque<(Index, u64)>,
}

/// A mark is set so often.
const MARK_EVERY_BYTES: u64 = 256 * 1024;

/// And no more of them are kept.
const MAX_MARKS: usize = 4096;

impl Tail {
    /// The log is known from behind `last` on.
    pub(super) fn restart(&mut self, last: Index) {
        self.marks.clear();
        self.marks.push_back((last, self.bytes));
    }

    /// So many bytes were written, and the log ends at `last` now.
    pub(super) fn written(&mut self, last: Index, bytes: u64) {
        self.bytes += bytes;
        while self.marks.back().is_some_and(|&(index, _)| index > last) {
            self.marks.pop_back();
        }
        if self.marks.back().is_none_or(|&(_, at)| self.bytes >= at + MARK_EVERY_BYTES) {
            self.marks.push_back((last, self.bytes));
        }
        if self.marks.len() > MAX_MARKS {
            self.marks.pop_front();
        }
    }

    /// The first index of the last `bytes` bytes; what came before is at least
    /// as long ago.
    pub(super) fn first_of_last(&self, bytes: u64) -> Index {
        let old = self.marks.iter().rev().find(|&&(_, at)| self.bytes - at >= bytes);
        old.map_or(0, |&(index, _)| index + 1)
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
    // A server that lost its checkpoint may not know the members yet.
    snapshot.membership.voters().next()?;
    Some(CheckpointMeta { index, term: snapshot.term, membership: snapshot.membership })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_follows_the_log() {
        let mut tail = Tail::default();
        tail.restart(10);
        assert_eq!(tail.first_of_last(1), 0, "nothing is known of what was there before");
        for index in 11..=20 {
            tail.written(index, MARK_EVERY_BYTES);
        }
        assert_eq!(tail.first_of_last(0), 21);
        assert_eq!(tail.first_of_last(3 * MARK_EVERY_BYTES), 18);
        assert_eq!(tail.first_of_last(10 * MARK_EVERY_BYTES), 11);
        assert_eq!(tail.first_of_last(11 * MARK_EVERY_BYTES), 0);
        // The suffix from 15 on is replaced.
        tail.written(15, MARK_EVERY_BYTES);
        assert_eq!(tail.first_of_last(0), 16);
        tail.restart(99);
        assert_eq!(tail.first_of_last(0), 100);
    }
}
