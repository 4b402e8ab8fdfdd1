//! Who writes the log-file: the driver's thread, or a thread beside it.
//!
//! A leader hands its batches to the log thread, so that it goes on serving
//! while the disk works. A follower writes inline: it has nothing else to do
//! before it can acknowledge, and the hand-over would cost more than it gains
//! (measured: 18 against 25 microseconds of CPU per set). A disk that
//! was slow lately gets the thread on followers too, or it would stall their
//! reads and heartbeats.
//!
//! One batch is out at a time; what is proposed meanwhile becomes the next
//! one. That is the group commit.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use raft::{DurableMark, Index, Persist};

use super::checkpoint::Tail;
use super::inbox::{Inbox, Input};
use crate::command::Payload;
use crate::keystore_file;
use crate::log_file::{LogError, LogFile};

/// Above this moving average a sync is too slow to wait for inline.
const SLOW_SYNC: Duration = Duration::from_millis(2);

/// Weight of the newest sync in the moving average is one in this many.
const AVERAGE_OF: u32 = 8;

enum Work {
    /// A batch.
    Write(Persist<Payload>, Index),
    /// Put a snapshot that arrived in the place of the keystore-file, and begin
    /// the log anew behind it.
    Place { side: PathBuf, path: PathBuf, index: Index },
}

pub(crate) struct LogWriter {
    log: Arc<Mutex<LogFile>>,
    work: mpsc::Sender<Work>,
    thread: Option<std::thread::JoinHandle<()>>,
    busy: bool,
    average: Duration,
    bytes: u64,
    tail: Tail,
    noted_commit: Index,
    /// Last index that is in the log-file.
    last: Index,
}

impl LogWriter {
    pub(crate) fn start(log: LogFile, inbox: Arc<Inbox>) -> std::io::Result<Self> {
        let last = log.last_index();
        let mut tail = Tail::default();
        tail.restart(last);
        let log = Arc::new(Mutex::new(log));
        let (work, queue) = mpsc::channel();
        let thread_log = Arc::clone(&log);
        let thread = std::thread::Builder::new()
            .name("log-file".to_owned())
            .spawn(move || run(&thread_log, &queue, &inbox))?;
        Ok(LogWriter {
            log,
            work,
            thread: Some(thread),
            busy: false,
            average: Duration::ZERO,
            bytes: 0,
            tail,
            noted_commit: 0,
            last,
        })
    }

    /// Whether a batch is out. Nothing may be written until it is back.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Whether a batch is better handed to the thread.
    pub(crate) fn prefers_thread(&self, is_leader: bool) -> bool {
        is_leader || self.average > SLOW_SYNC
    }

    /// Writes and syncs here and now.
    pub(crate) fn write_inline(
        &mut self,
        persist: &Persist<Payload>,
        commit: Index,
    ) -> Result<DurableMark, LogError> {
        debug_assert!(!self.busy);
        let commit = self.count(persist, commit);
        let started = Instant::now();
        write(&self.log, persist, commit)?;
        self.note_duration(started.elapsed());
        Ok(persist.mark)
    }

    /// Hands the batch to the thread; [`Input::Synced`] tells when it is done.
    pub(crate) fn write_in_thread(&mut self, persist: Persist<Payload>, commit: Index) {
        debug_assert!(!self.busy);
        self.busy = true;
        let commit = self.count(&persist, commit);
        // The thread only ends after the sender does.
        let _ = self.work.send(Work::Write(persist, commit));
    }

    /// Puts the snapshot up to `index`, which is whole and durable under the
    /// name `side`, in the place of the keystore-file at `path`;
    /// [`Input::Placed`] tells when it is done.
    pub(crate) fn place(&mut self, side: PathBuf, path: PathBuf, index: Index) {
        debug_assert!(!self.busy);
        self.busy = true;
        self.last = index;
        self.tail.restart(index);
        self.noted_commit = self.noted_commit.max(index);
        let _ = self.work.send(Work::Place { side, path, index });
    }

    /// The snapshot is in its place.
    pub(crate) fn placed(&mut self) {
        self.busy = false;
    }

    /// The thread's batch is back.
    pub(crate) fn done(&mut self, took: Duration) {
        self.busy = false;
        self.note_duration(took);
    }

    /// Tells the printers how far the log is committed, when there is nothing
    /// else to write. Not synced: it is only a hint.
    pub(crate) fn note_commit(&mut self, commit: Index) -> Result<(), LogError> {
        let commit = commit.min(self.last);
        if self.busy || commit <= self.noted_commit {
            return Ok(());
        }
        self.noted_commit = commit;
        self.log.lock().unwrap_or_else(PoisonError::into_inner).note_commit(commit)
    }

    /// Bytes written since the last call of [`LogWriter::reset_bytes`].
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn reset_bytes(&mut self) {
        self.bytes = 0;
    }

    /// The first index of the last `bytes` bytes of the log, about; 0 when it
    /// has not grown so much since the start.
    pub(crate) fn first_of_last(&self, bytes: u64) -> Index {
        self.tail.first_of_last(bytes)
    }

    /// Notes what is about to be written; the commit mark to write with it. A
    /// leader may know more to be committed than its own log-file holds yet,
    /// and a mark must not promise what is not there.
    fn count(&mut self, persist: &Persist<Payload>, commit: Index) -> Index {
        if !persist.entries.is_empty() {
            self.last = persist.mark.index;
        }
        self.noted_commit = self.noted_commit.max(commit.min(self.last));
        let bytes = persist.entries.iter().map(entry_bytes).sum::<u64>();
        self.bytes += bytes;
        self.tail.written(self.last, bytes);
        self.noted_commit
    }

    fn note_duration(&mut self, took: Duration) {
        self.average = (self.average * (AVERAGE_OF - 1) + took) / AVERAGE_OF;
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel();
        self.work = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = log.finish() {
            // As after a crash: everything that was acknowledged is there.
            tracing::warn!(%error, "the log-file does not end in good order");
        }
    }
}

fn entry_bytes(entry: &raft::Entry<Payload>) -> u64 {
    match &entry.body {
        raft::Body::Command(payload) => payload.0.len() as u64,
        raft::Body::Noop | raft::Body::Membership(_) => 0,
    }
}

fn write(log: &Mutex<LogFile>, persist: &Persist<Payload>, commit: Index) -> Result<(), LogError> {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    log.append(persist.hard_state, &persist.entries, commit)?;
    log.sync()
}

fn run(log: &Mutex<LogFile>, queue: &mpsc::Receiver<Work>, inbox: &Inbox) {
    while let Ok(work) = queue.recv() {
        let started = Instant::now();
        let done = match work {
            Work::Write(persist, commit) => match write(log, &persist, commit) {
                Ok(()) => Ok(Input::Synced { mark: persist.mark, took: started.elapsed() }),
                Err(error) => Err(error.to_string()),
            },
            Work::Place { side, path, index } => {
                place(log, &side, &path, index).map(|()| Input::Placed)
            }
        };
        match done {
            Ok(input) => inbox.push(input),
            Err(error) => return inbox.push(Input::LogFailed(error)),
        }
    }
}

/// A crash between the two leaves a log that does not connect to the
/// checkpoint; a start recognises that and begins the log anew.
fn place(log: &Mutex<LogFile>, side: &Path, path: &Path, index: Index) -> Result<(), String> {
    keystore_file::place(side, path).map_err(|error| {
        format!("cannot put a snapshot in place of {}: {error}", path.display())
    })?;
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    log.reset(raft::Position { index, term: 0 })
        .and_then(|()| log.sync())
        .map_err(|error| error.to_string())
}
