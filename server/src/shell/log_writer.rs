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
//!
//! When the disk has no room for the next segment, nothing of a batch was
//! written: the thread tries again until there is room, and the driver goes on
//! with everything that needs no disk.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use raft::{DurableMark, Index, Membership, Persist, Position};

use super::checkpoint::Tail;
use super::inbox::{Inbox, Input};
use super::restore;
use crate::command::Payload;
use crate::keystore_file;
use crate::log_file::{LogError, LogFile};

/// Above this moving average a sync is too slow to wait for inline.
const SLOW_SYNC: Duration = Duration::from_millis(2);

/// A disk without room is tried again so often.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// Weight of the newest sync in the moving average is one in this many.
const AVERAGE_OF: u32 = 8;

enum Work {
    /// A batch.
    Write(Persist<Payload>, Index),
    /// Drop what stands before this entry.
    Compact(Index),
    /// Put a snapshot that arrived in the place of the keystore-file, and begin
    /// the log anew behind it.
    Place { side: PathBuf, path: PathBuf, end: Position, membership: Membership },
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
    /// `behind_checkpoint`: bytes of the log that no checkpoint contains yet.
    pub(crate) fn start(
        log: LogFile,
        behind_checkpoint: u64,
        inbox: Arc<Inbox>,
    ) -> std::io::Result<Self> {
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
            bytes: behind_checkpoint,
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

    /// Writes and syncs here and now. `None`: the disk has no room, and the
    /// thread goes on trying.
    pub(crate) fn write_inline(
        &mut self,
        persist: Persist<Payload>,
        commit: Index,
    ) -> Result<Option<DurableMark>, LogError> {
        debug_assert!(!self.busy);
        let commit = self.count(&persist, commit);
        let started = Instant::now();
        match write(&self.log, &persist, commit) {
            Ok(()) => {
                self.note_duration(started.elapsed());
                Ok(Some(persist.mark))
            }
            Err(LogError::NoRoom { .. }) => {
                self.busy = true;
                let _ = self.work.send(Work::Write(persist, commit));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Hands the batch to the thread; [`Input::Synced`] tells when it is done.
    pub(crate) fn write_in_thread(&mut self, persist: Persist<Payload>, commit: Index) {
        debug_assert!(!self.busy);
        self.busy = true;
        let commit = self.count(&persist, commit);
        // The thread only ends after the sender does.
        let _ = self.work.send(Work::Write(persist, commit));
    }

    /// Puts the snapshot up to `end`, which is whole and durable under the
    /// name `side`, in the place of the keystore-file at `path`;
    /// [`Input::Placed`] tells when it is done.
    pub(crate) fn place(
        &mut self,
        side: PathBuf,
        path: PathBuf,
        end: Position,
        membership: Membership,
    ) {
        debug_assert!(!self.busy);
        self.busy = true;
        self.last = end.index;
        self.tail.restart(end.index);
        self.noted_commit = self.noted_commit.max(end.index);
        let _ = self.work.send(Work::Place { side, path, end, membership });
    }

    /// Drops what stands before `first`, beside everything else.
    pub(crate) fn compact(&self, first: Index) {
        let _ = self.work.send(Work::Compact(first));
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
        match self.log.lock().unwrap_or_else(PoisonError::into_inner).note_commit(commit) {
            Err(LogError::NoRoom { .. }) => Ok(()),
            done => done,
        }
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
            tracing::debug!(%error, "the log ends without its mark");
        }
    }
}

/// What an entry counts.
pub(super) fn entry_bytes(entry: &raft::Entry<Payload>) -> u64 {
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
            Work::Write(persist, commit) => {
                until_there_is_room(queue, inbox, || write(log, &persist, commit))
                    .map(|()| Input::Synced { mark: persist.mark, took: started.elapsed() })
            }
            Work::Compact(first) => match compact(log, first) {
                Ok(()) => continue,
                Err(error) => Err(error),
            },
            Work::Place { side, path, end, membership } => place(&side, &path, &membership)
                .and_then(|()| {
                    until_there_is_room(queue, inbox, || restart(log, end)).map(|()| Input::Placed)
                }),
        };
        match done {
            Ok(input) => inbox.push(input),
            Err(error) => return inbox.push(Input::LogFailed(error.to_string())),
        }
    }
}

/// Repeats what finds no room on the disk, until it does or nobody waits for
/// it any more.
fn until_there_is_room(
    queue: &mpsc::Receiver<Work>,
    inbox: &Inbox,
    mut attempt: impl FnMut() -> Result<(), LogError>,
) -> Result<(), LogError> {
    let mut told = false;
    loop {
        match attempt() {
            Err(error @ LogError::NoRoom { .. }) => {
                if matches!(queue.try_recv(), Err(mpsc::TryRecvError::Disconnected)) {
                    return Err(error);
                }
                if !std::mem::replace(&mut told, true) {
                    inbox.push(Input::DiskFull(error.to_string()));
                }
                std::thread::sleep(RETRY_EVERY);
            }
            done => return done,
        }
    }
}

/// Without room for the note about it the segments stay until the next time.
fn compact(log: &Mutex<LogFile>, first: Index) -> Result<(), LogError> {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    match log.compact(first) {
        Ok(first) => {
            tracing::debug!(first, "the log begins here");
            log.sync()
        }
        Err(LogError::NoRoom { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn place(side: &Path, path: &Path, membership: &Membership) -> Result<(), LogError> {
    if let Err(error) = restore::write_members(path, membership) {
        tracing::warn!(%error, "who the members are is not noted");
    }
    keystore_file::place(side, path).map_err(|source| LogError::Io {
        what: "cannot put a snapshot in the place of",
        path: path.to_owned(),
        source,
    })
}

/// A crash before this leaves a log that does not connect to the checkpoint; a
/// start recognises that and begins the log anew.
fn restart(log: &Mutex<LogFile>, end: Position) -> Result<(), LogError> {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    log.reset(end)?;
    log.sync()
}
