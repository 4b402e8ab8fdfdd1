//! What was done to the files of a folder, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::files::Mode;

/// A file, whatever its name is at the moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct FileId(pub(crate) u64);

/// One operation, done. Paths are relative to the watched folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// A file that was there when the journal began, or that somebody else
    /// put there: on disk already, with its name.
    Present(PathBuf, FileId, Vec<u8>),
    /// A folder that was there already.
    PresentDir(PathBuf),
    /// A new, empty file under a name.
    Create(PathBuf, FileId),
    /// Bytes at an offset of a file.
    Write(FileId, u64, Vec<u8>),
    /// A file has this length now; what it gained is zeros.
    SetLen(FileId, u64),
    /// Everything written to a file before is on disk.
    Sync(FileId),
    /// A file's name changes from the first to the second.
    Rename(PathBuf, PathBuf),
    /// A name goes away.
    Remove(PathBuf),
    /// A new folder.
    MakeDir(PathBuf),
    /// All changes of names in a folder before are on disk.
    SyncDir(PathBuf),
    /// What the test wanted noted.
    Note(u64),
}

/// What is done to names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change<'a> {
    /// A folder and those above it come into being.
    MakeDirs(&'a Path),
    /// A file or folder gets another name; what had it before is gone.
    Rename(&'a Path, &'a Path),
    /// A name of a file goes away.
    Remove(&'a Path),
    /// The names in a folder become durable.
    SyncDir(&'a Path),
}

/// Names and lengths are always kept; operations only while it records.
#[derive(Debug, Default)]
pub(super) struct Journal {
    dir: PathBuf,
    names: BTreeMap<PathBuf, FileId>,
    lens: BTreeMap<FileId, u64>,
    next: u64,
    recording: bool,
    ops: Vec<Op>,
}

impl Journal {
    pub(super) fn begin(dir: &Path) -> Journal {
        let mut journal = Journal { dir: dir.to_owned(), ..Journal::default() };
        journal.look_around(dir);
        journal
    }

    /// Notes all files that are there; with their bytes, if it records.
    fn look_around(&mut self, dir: &Path) {
        for item in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = item.path();
            if path.is_dir() {
                self.push(Op::PresentDir(self.relative(&path)));
                self.look_around(&path);
            } else {
                self.found(&path);
            }
        }
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.dir).unwrap_or(path).to_owned()
    }

    fn found(&mut self, path: &Path) -> FileId {
        let name = self.relative(path);
        let bytes = fs::read(path).unwrap_or_default();
        let id = *self.names.entry(name.clone()).or_insert_with(|| {
            self.next += 1;
            FileId(self.next)
        });
        self.lens.insert(id, bytes.len() as u64);
        self.push(Op::Present(name, id, bytes));
        id
    }

    pub(super) fn record(&mut self, dir: &Path) {
        self.recording = true;
        self.ops.clear();
        self.look_around(dir);
    }

    pub(super) fn end(&mut self) -> Vec<Op> {
        self.recording = false;
        std::mem::take(&mut self.ops)
    }

    pub(super) fn push(&mut self, op: Op) {
        if self.recording {
            self.ops.push(op);
        }
    }

    /// Bytes that the files with names hold.
    pub(super) fn used(&self) -> u64 {
        self.names.values().map(|id| self.len(*id)).sum()
    }

    pub(super) fn len(&self, id: FileId) -> u64 {
        self.lens.get(&id).copied().unwrap_or(0)
    }

    pub(super) fn opened(&mut self, path: &Path, mode: Mode) -> FileId {
        let name = self.relative(path);
        match (self.names.get(&name), mode) {
            (Some(&id), Mode::Create) => {
                self.set_len(id, 0);
                id
            }
            (Some(&id), _) => id,
            (None, Mode::Read | Mode::Write) => self.found(path),
            (None, Mode::Create | Mode::CreateNew) => {
                self.next += 1;
                let id = FileId(self.next);
                self.names.insert(name.clone(), id);
                self.lens.insert(id, 0);
                self.push(Op::Create(name, id));
                id
            }
        }
    }

    pub(super) fn wrote(&mut self, id: FileId, offset: u64, bytes: &[u8]) {
        if !bytes.is_empty() {
            let len = self.lens.entry(id).or_default();
            *len = (*len).max(offset + bytes.len() as u64);
            self.push_with(|| Op::Write(id, offset, bytes.to_vec()));
        }
    }

    fn push_with(&mut self, op: impl FnOnce() -> Op) {
        if self.recording {
            self.ops.push(op());
        }
    }

    pub(super) fn set_len(&mut self, id: FileId, len: u64) {
        if self.lens.insert(id, len) != Some(len) {
            self.push(Op::SetLen(id, len));
        }
    }

    /// What must be known before a change is done: the folders that are new.
    pub(super) fn before(&self, change: Change<'_>, root: &Path) -> Vec<PathBuf> {
        let Change::MakeDirs(dir) = change else {
            return Vec::new();
        };
        let within = dir.ancestors().take_while(|dir| dir.starts_with(root));
        let mut new: Vec<_> = within.filter(|dir| !dir.exists()).map(Path::to_owned).collect();
        new.reverse();
        new
    }

    pub(super) fn changed(&mut self, change: Change<'_>, new_dirs: Vec<PathBuf>) {
        match change {
            Change::MakeDirs(_) => {
                for dir in new_dirs {
                    self.push(Op::MakeDir(self.relative(&dir)));
                }
            }
            Change::Rename(from, to) => {
                let (from, to) = (self.relative(from), self.relative(to));
                self.move_names(&from, &to);
                self.push(Op::Rename(from, to));
            }
            Change::Remove(path) => {
                let name = self.relative(path);
                self.names.remove(&name);
                self.push(Op::Remove(name));
            }
            Change::SyncDir(dir) => self.push(Op::SyncDir(self.relative(dir))),
        }
    }

    /// A folder takes what is in it along.
    fn move_names(&mut self, from: &Path, to: &Path) {
        let inside: BTreeSet<_> =
            self.names.keys().filter(|name| name.starts_with(from)).cloned().collect();
        for name in inside {
            if let (Some(id), Ok(rest)) = (self.names.remove(&name), name.strip_prefix(from)) {
                let to = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
                self.names.insert(to, id);
            }
        }
    }
}
