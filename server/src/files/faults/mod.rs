//! Folders under watch, for tests: what is done to their files is refused,
//! delayed or written to a journal as the test wants.
//!
//! A test watches a folder of its own with [`Faults::watch`]; calls on files
//! elsewhere are not touched, so tests may run side by side. Files that were
//! opened before the folder was watched are not watched.

mod journal;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Mode;
use journal::{Change, Journal};
pub(crate) use journal::{FileId, Op};

/// Answers of the operating system, as `errno` numbers them on Linux, the
/// BSDs and macOS alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Errno {
    /// Input/output error: the disk is broken.
    Io = 5,
    /// No space left on device.
    NoSpace = 28,
    /// Read-only file system.
    ReadOnly = 30,
}

/// A kind of call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Reading from a file.
    Read,
    /// Writing to a file, cutting it or making it longer.
    Write,
    /// Syncing a file or a folder.
    Sync,
    /// Making, renaming and removing files and folders.
    Name,
}

/// Watches a folder until it is dropped.
#[derive(Debug)]
pub(crate) struct Faults {
    root: Arc<Root>,
}

/// What an open file knows about being watched.
#[derive(Debug)]
pub(super) struct Watch(Option<(Arc<Root>, FileId)>);

#[derive(Debug)]
struct Root {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    journal: Journal,
    failures: Vec<Failure>,
    read_only: bool,
    quota: Option<u64>,
    slow_sync: Duration,
    calls: [u64; 4],
}

/// `times` calls of a kind fail, after `skip` that do not.
#[derive(Debug)]
struct Failure {
    kind: Kind,
    skip: u64,
    times: u64,
    errno: Errno,
}

static ROOTS: Mutex<Vec<Arc<Root>>> = Mutex::new(Vec::new());

impl Faults {
    /// Watches everything that is done from now on in `dir`, which exists.
    pub(crate) fn watch(dir: &Path) -> Faults {
        let state = State { journal: Journal::begin(dir), ..State::default() };
        let root = Arc::new(Root { dir: dir.to_owned(), state: Mutex::new(state) });
        lock(&ROOTS).push(Arc::clone(&root));
        Faults { root }
    }

    /// Lets `skip` calls of this kind pass and fails the `times` that follow.
    pub(crate) fn fail(&self, kind: Kind, skip: u64, times: u64, errno: Errno) {
        lock(&self.root.state).failures.push(Failure { kind, skip, times, errno });
    }

    /// As a file system that was mounted read-only, or is no longer.
    pub(crate) fn read_only(&self, read_only: bool) {
        lock(&self.root.state).read_only = read_only;
    }

    /// All files together may hold so many bytes; beyond that the disk is
    /// full. `None`: no bound.
    pub(crate) fn quota(&self, bytes: Option<u64>) {
        lock(&self.root.state).quota = bytes;
    }

    /// Bytes that all files together hold.
    pub(crate) fn used(&self) -> u64 {
        lock(&self.root.state).journal.used()
    }

    /// Every sync takes so much longer.
    pub(crate) fn slow_sync(&self, by: Duration) {
        lock(&self.root.state).slow_sync = by;
    }

    /// No more failures, no quota, not slow, not read-only.
    pub(crate) fn heal(&self) {
        let mut state = lock(&self.root.state);
        let (journal, calls) = (std::mem::take(&mut state.journal), state.calls);
        *state = State { journal, calls, ..State::default() };
    }

    /// How many calls of this kind were made, failed ones included.
    pub(crate) fn calls(&self, kind: Kind) -> u64 {
        lock(&self.root.state).calls[kind as usize]
    }

    /// Begins a journal with the folder as it is now on disk.
    pub(crate) fn record(&self) {
        let mut state = lock(&self.root.state);
        state.journal.record(&self.root.dir);
    }

    /// Writes a note of the test's own to the journal, in order with the rest.
    pub(crate) fn note(&self, what: u64) {
        lock(&self.root.state).journal.push(Op::Note(what));
    }

    /// Ends the journal and hands it out.
    pub(crate) fn journal(&self) -> Vec<Op> {
        lock(&self.root.state).journal.end()
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        lock(&ROOTS).retain(|root| !Arc::ptr_eq(root, &self.root));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panics must not take others with it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn root_of(path: &Path) -> Option<Arc<Root>> {
    lock(&ROOTS).iter().find(|root| path.starts_with(&root.dir)).cloned()
}

fn refuse(errno: Errno) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(errno as i32))
}

impl State {
    /// Counts a call, and fails it if a test wants that.
    fn admit(&mut self, kind: Kind) -> io::Result<()> {
        self.calls[kind as usize] += 1;
        let mut answer = Ok(());
        for failure in self.failures.iter_mut().filter(|failure| failure.kind == kind) {
            match (failure.skip, failure.times) {
                (0, 0) => {}
                (0, _) => {
                    failure.times -= 1;
                    answer = refuse(failure.errno);
                }
                _ => failure.skip -= 1,
            }
        }
        if self.read_only && matches!(kind, Kind::Write | Kind::Name) {
            return refuse(Errno::ReadOnly);
        }
        answer
    }

    /// How much a file may grow now.
    fn room(&self) -> u64 {
        self.quota.map_or(u64::MAX, |quota| quota.saturating_sub(self.journal.used()))
    }
}

impl Root {
    /// A delay holds up only the one who syncs.
    fn sync_slowly(&self) {
        let slow_sync = lock(&self.state).slow_sync;
        if !slow_sync.is_zero() {
            std::thread::sleep(slow_sync);
        }
    }
}

impl Watch {
    pub(super) fn open(
        path: &Path,
        mode: Mode,
        act: impl FnOnce() -> io::Result<fs::File>,
    ) -> io::Result<(fs::File, Watch)> {
        let Some(root) = root_of(path) else {
            return Ok((act()?, Watch(None)));
        };
        let mut state = lock(&root.state);
        match mode {
            Mode::Read => {}
            Mode::Write if state.read_only => refuse(Errno::ReadOnly)?,
            Mode::Write => {}
            Mode::Create | Mode::CreateNew => state.admit(Kind::Name)?,
        }
        let file = act()?;
        let id = state.journal.opened(path, mode);
        drop(state);
        Ok((file, Watch(Some((root, id)))))
    }

    pub(super) fn make_dirs(dir: &Path, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        Self::change(Change::MakeDirs(dir), act)
    }

    pub(super) fn rename(
        from: &Path,
        to: &Path,
        act: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        Self::change(Change::Rename(from, to), act)
    }

    pub(super) fn remove(path: &Path, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        Self::change(Change::Remove(path), act)
    }

    pub(super) fn sync_dir(dir: &Path, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        Self::change(Change::SyncDir(dir), act)
    }

    fn change(change: Change<'_>, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let (kind, path) = match change {
            Change::MakeDirs(path) | Change::Rename(_, path) | Change::Remove(path) => {
                (Kind::Name, path)
            }
            Change::SyncDir(path) => (Kind::Sync, path),
        };
        let Some(root) = root_of(path) else {
            return act();
        };
        if kind == Kind::Sync {
            root.sync_slowly();
        }
        let mut state = lock(&root.state);
        state.admit(kind)?;
        let before = state.journal.before(change, &root.dir);
        act()?;
        state.journal.changed(change, before);
        Ok(())
    }

    pub(super) fn read<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if let Some((root, _)) = &self.0 {
            lock(&root.state).admit(Kind::Read)?;
        }
        act()
    }

    /// A disk that gets full takes the part that fits.
    pub(super) fn write(
        &self,
        bytes: &[u8],
        offset: impl FnOnce() -> io::Result<u64>,
        act: impl FnOnce(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some((root, id)) = &self.0 else {
            return act(bytes);
        };
        let offset = offset()?;
        let mut state = lock(&root.state);
        state.admit(Kind::Write)?;
        let bound = state.journal.len(*id).saturating_add(state.room());
        let fits = bound.saturating_sub(offset).min(bytes.len() as u64) as usize;
        act(&bytes[..fits])?;
        state.journal.wrote(*id, offset, &bytes[..fits]);
        if fits < bytes.len() { refuse(Errno::NoSpace) } else { Ok(()) }
    }

    pub(super) fn set_len(
        &self,
        bytes: u64,
        act: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let Some((root, id)) = &self.0 else {
            return act();
        };
        let mut state = lock(&root.state);
        state.admit(Kind::Write)?;
        act()?;
        state.journal.set_len(*id, bytes);
        Ok(())
    }

    pub(super) fn sync(&self, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let Some((root, id)) = &self.0 else {
            return act();
        };
        root.sync_slowly();
        let mut state = lock(&root.state);
        state.admit(Kind::Sync)?;
        act()?;
        state.journal.push(Op::Sync(*id));
        Ok(())
    }
}
