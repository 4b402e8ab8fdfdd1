//! What a replica keeps: nothing, or a log-file and a snapshot in a folder.
//!
//! A thread of its own writes the log, so that a slow disk holds up neither
//! heartbeats nor reads. One batch is out at a time; what comes meanwhile
//! becomes the next one. That is the group commit.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use common::folder::FolderLock;
use raft::{
    DurableMark, Entry, Fetch, HardState, Index, Membership, NodeId, Persist, Position, Restored,
};

use super::error::{Failure, StartError};
use super::{Snapshot, snapshot_file};
use crate::command::Payload;
use crate::log_file::{LogError, LogFile, LogOptions, LogReader};

/// The disk is done with something.
pub(super) enum Done {
    /// Everything up to the mark is durable.
    Synced(DurableMark),
    /// The log cannot be written any more.
    Failed(String),
    /// Entries for a slow replica; none: they cannot be read.
    Fetched { peer: NodeId, entries: Vec<Entry<Payload>> },
    /// The snapshot is durable, or could not be written.
    Saved { snapshot: Snapshot, result: Result<(), String> },
}

/// Hears about what is done, on the disk's threads.
pub(super) type Notify = Arc<dyn Fn(Done) + Send + Sync>;

pub(super) enum Disk {
    Memory,
    Durable(Durable),
}

pub(super) struct Durable {
    log: Arc<Mutex<LogFile>>,
    work: mpsc::Sender<Work>,
    thread: Option<std::thread::JoinHandle<()>>,
    saving: Option<std::thread::JoinHandle<()>>,
    busy: bool,
    snapshot: PathBuf,
    notify: Notify,
    _lock: FolderLock,
}

enum Work {
    Write(Persist<Payload>, Index),
    Fetch(Fetch),
}

/// What a replica starts from.
pub(super) struct Found {
    pub(super) disk: Disk,
    pub(super) restored: Restored<Payload>,
    /// Of the folder; index 0: none yet.
    pub(super) snapshot: Snapshot,
}

impl Disk {
    /// Opens the folder, or makes it; `first` is the membership of a new one.
    pub(super) fn open(
        dir: Option<&Path>,
        first: Membership,
        notify: Notify,
    ) -> Result<Found, StartError> {
        let mut restored = Restored {
            hard_state: HardState::default(),
            snapshot: raft::SnapshotMeta { membership: first, ..raft::SnapshotMeta::default() },
            runs: Vec::new(),
            memberships: Vec::new(),
            entries: Vec::new(),
            commit: 0,
            floor: None,
        };
        let Some(dir) = dir else {
            let snapshot = Snapshot { meta: restored.snapshot.clone(), ..Snapshot::default() };
            return Ok(Found { disk: Disk::Memory, restored, snapshot });
        };
        crate::files::create_dir_all(dir)
            .map_err(|source| StartError::Io { path: dir.to_owned(), source })?;
        let lock = FolderLock::acquire(dir)?;
        let path = snapshot_file::path_in(dir);
        let snapshot = snapshot_file::read(&path)?
            .unwrap_or_else(|| Snapshot { meta: restored.snapshot.clone(), ..Snapshot::default() });
        let same =
            snapshot.meta.membership.members.keys().eq(restored.snapshot.membership.members.keys());
        if !same {
            return Err(StartError::OtherMembers(dir.to_owned()));
        }
        let index = snapshot.meta.index;
        let (mut log, found) = LogFile::open(&dir.join("log-file"), LogOptions::default(), index)?;
        if found.fresh && index > 0 {
            let what = "the log beside it is gone, and the replica's votes with it".to_owned();
            return Err(StartError::Snapshot { path, what });
        }
        restored.hard_state = found.hard_state;
        restored.snapshot = snapshot.meta.clone();
        restored.runs = found.runs;
        restored.memberships = found.memberships;
        restored.entries = found.entries;
        restored.commit = found.commit;
        restored.floor = found.floor;
        if restored.discard_unconnected() {
            log.reset(Position { index, term: restored.snapshot.term })?;
            log.sync()?;
        }
        let disk = Durable::start(log, path, notify, lock)
            .map_err(|source| StartError::Io { path: dir.to_owned(), source })?;
        Ok(Found { disk: Disk::Durable(disk), restored, snapshot })
    }

    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Disk::Durable(disk) if disk.busy)
    }

    pub(super) fn is_durable(&self) -> bool {
        matches!(self, Disk::Durable(_))
    }

    /// Takes the batch, if the disk is free. What needs no disk is done at
    /// once; otherwise [`Done::Synced`] follows.
    pub(super) fn write(
        &mut self,
        batch: &mut Option<Persist<Payload>>,
        commit: Index,
    ) -> Option<DurableMark> {
        match self {
            Disk::Memory => batch.take().map(|batch| batch.mark),
            Disk::Durable(disk) => {
                if !disk.busy
                    && let Some(batch) = batch.take()
                {
                    disk.busy = true;
                    disk.order(Work::Write(batch, commit));
                }
                None
            }
        }
    }

    /// The batch is back.
    pub(super) fn written(&mut self) {
        if let Disk::Durable(disk) = self {
            disk.busy = false;
        }
    }

    /// Reads entries; [`Done::Fetched`] follows.
    pub(super) fn fetch(&self, fetch: Fetch) {
        if let Disk::Durable(disk) = self {
            disk.order(Work::Fetch(fetch));
        }
    }

    /// Saves a snapshot of this replica beside everything else;
    /// [`Done::Saved`] follows. In memory there is nothing to do: the
    /// snapshot comes back.
    pub(super) fn save(&mut self, snapshot: Snapshot) -> Option<Snapshot> {
        let Disk::Durable(disk) = self else { return Some(snapshot) };
        disk.finish_saving();
        let (path, notify) = (disk.snapshot.clone(), Arc::clone(&disk.notify));
        let save = move || {
            let result = snapshot_file::write(&path, &snapshot);
            let result =
                result.map_err(|error| format!("cannot write {}: {error}", path.display()));
            notify(Done::Saved { snapshot, result });
        };
        // Without a thread there is no snapshot, and the log keeps everything.
        disk.saving = std::thread::Builder::new().name("snapshot".to_owned()).spawn(save).ok();
        None
    }

    /// Replaces everything by the leader's snapshot, durably, here and now:
    /// the replica can do nothing else before. The disk is free.
    pub(super) fn install(&mut self, snapshot: &Snapshot) -> Result<(), Failure> {
        let Disk::Durable(disk) = self else { return Ok(()) };
        disk.finish_saving();
        snapshot_file::write(&disk.snapshot, snapshot).map_err(|error| {
            Failure::Disk(format!("cannot write {}: {error}", disk.snapshot.display()))
        })?;
        let mut log = locked(&disk.log);
        log.reset(Position { index: snapshot.meta.index, term: snapshot.meta.term })
            .and_then(|()| log.sync())
            .map_err(|error| Failure::Disk(error.to_string()))
    }
}

impl Durable {
    fn start(
        log: LogFile,
        snapshot: PathBuf,
        notify: Notify,
        lock: FolderLock,
    ) -> std::io::Result<Self> {
        let reader = log.reader();
        let log = Arc::new(Mutex::new(log));
        let (work, queue) = mpsc::channel();
        let (thread_log, thread_notify) = (Arc::clone(&log), Arc::clone(&notify));
        let thread = std::thread::Builder::new()
            .name("replica-log".to_owned())
            .spawn(move || run(&thread_log, &reader, &queue, &*thread_notify))?;
        let (thread, saving) = (Some(thread), None);
        Ok(Durable { log, work, thread, saving, busy: false, snapshot, notify, _lock: lock })
    }

    /// The thread only ends after the sender does, or has told its failure.
    fn order(&self, work: Work) {
        let _ = self.work.send(work);
    }

    fn finish_saving(&mut self) {
        if let Some(thread) = self.saving.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel();
        self.work = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.finish_saving();
    }
}

fn locked(log: &Mutex<LogFile>) -> MutexGuard<'_, LogFile> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(
    log: &Mutex<LogFile>,
    reader: &LogReader,
    queue: &mpsc::Receiver<Work>,
    notify: &(dyn Fn(Done) + Send + Sync),
) {
    while let Ok(work) = queue.recv() {
        match work {
            Work::Write(batch, commit) => match write(&mut locked(log), &batch, commit) {
                Ok(()) => notify(Done::Synced(batch.mark)),
                Err(error) => return notify(Done::Failed(error.to_string())),
            },
            Work::Fetch(fetch) => {
                let read = reader.read(fetch.from, fetch.to, fetch.max_bytes);
                let entries = read.unwrap_or_else(|error| {
                    tracing::warn!(from = fetch.from, %error, "entries cannot be read");
                    Vec::new()
                });
                notify(Done::Fetched { peer: fetch.peer, entries });
            }
        }
    }
}

fn write(log: &mut LogFile, batch: &Persist<Payload>, commit: Index) -> Result<(), LogError> {
    log.append(batch.hard_state, &batch.entries, commit)?;
    log.sync()
}
