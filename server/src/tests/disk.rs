//! What a disk may hold after a crash, given the journal up to it.
//!
//! What was synced is there. Of what was not, the worst is assumed: each write
//! may be there or not, whatever became of others; one that spans sectors may
//! be there in part, later sectors without earlier ones too. Changes of names
//! that no sync of their folder followed are there up to any one of them, in
//! order, as the file system's own journal keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::files::faults::{FileId, Op};

/// A disk writes a sector whole or not at all.
const SECTOR: u64 = 512;

/// A write of more sectors is torn at so many places only.
const TEARS: u64 = 8;

/// The folder on disk, as the journal up to some point leaves it.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    files: BTreeMap<FileId, Inode>,
    names: BTreeMap<PathBuf, FileId>,
    dirs: BTreeSet<PathBuf>,
    /// Changes of names that are not on disk for certain.
    pending: Vec<Name>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    durable: Vec<u8>,
    pending: Vec<Content>,
}

#[derive(Clone, Debug)]
enum Content {
    Write(u64, Vec<u8>),
    Len(u64),
}

#[derive(Clone, Debug)]
enum Name {
    Create(PathBuf, FileId),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    MakeDir(PathBuf),
}

/// Which sectors of a write are there, counted from its first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    All,
    Nothing,
    /// The first so many.
    First(u64),
    /// All but the first so many.
    Behind(u64),
    /// Every second one, beginning with this one.
    Every(u64),
    /// All but this one.
    Without(u64),
}

/// One possible outcome of a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    /// How many of the pending changes of names are there.
    names: usize,
    /// What became of the pending writes.
    writes: Part,
    /// One that fared otherwise.
    except: Option<(usize, Part)>,
}

/// A folder, ready to be written somewhere.
#[derive(Debug, Default, Hash)]
pub(super) struct Image {
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Disk {
    /// The next operation of the journal was done.
    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Present(name, id, bytes) => {
                self.names.insert(name.clone(), *id);
                self.files.insert(*id, Inode { durable: bytes.clone(), pending: Vec::new() });
            }
            Op::PresentDir(dir) => {
                self.dirs.insert(dir.clone());
            }
            Op::Create(name, id) => {
                self.files.insert(*id, Inode::default());
                self.pending.push(Name::Create(name.clone(), *id));
            }
            Op::Write(id, offset, bytes) => {
                self.content(*id, Content::Write(*offset, bytes.clone()));
            }
            Op::SetLen(id, len) => self.content(*id, Content::Len(*len)),
            Op::Sync(id) => {
                let inode = self.files.entry(*id).or_default();
                for content in std::mem::take(&mut inode.pending) {
                    content.apply(&mut inode.durable, Part::All);
                }
            }
            Op::Rename(from, to) => self.pending.push(Name::Rename(from.clone(), to.clone())),
            Op::Remove(name) => self.pending.push(Name::Remove(name.clone())),
            Op::MakeDir(dir) => self.pending.push(Name::MakeDir(dir.clone())),
            Op::SyncDir(dir) => {
                for change in std::mem::take(&mut self.pending) {
                    match change.concerns(dir) {
                        true => change.apply(&mut self.names, &mut self.dirs),
                        false => self.pending.push(change),
                    }
                }
            }
            Op::Note(_) => {}
        }
    }

    fn content(&mut self, id: FileId, content: Content) {
        self.files.entry(id).or_default().pending.push(content);
    }

    /// Every outcome that is looked at; the first is that nothing was lost.
    pub(super) fn choices(&self) -> Vec<Choice> {
        let writes: Vec<_> =
            self.files.values().flat_map(|inode| &inode.pending).map(Content::sectors).collect();
        let mut choices = Vec::new();
        for names in (0..=self.pending.len()).rev() {
            for default in [Part::All, Part::Nothing] {
                let choice = Choice { names, writes: default, except: None };
                choices.push(choice);
                // Both ends of the names with everything that writes may do;
                // what lies in between with whole writes only.
                let ends = names == 0 || names == self.pending.len();
                for (number, &sectors) in writes.iter().enumerate() {
                    let whole = if default == Part::All { Part::Nothing } else { Part::All };
                    choices.push(Choice { except: Some((number, whole)), ..choice });
                    let tears = if ends { tears(sectors) } else { Vec::new() };
                    choices.extend(
                        tears.iter().map(|&part| Choice { except: Some((number, part)), ..choice }),
                    );
                }
            }
        }
        choices
    }

    /// The folder after a crash with this outcome.
    pub(super) fn image(&self, choice: Choice) -> Image {
        let (mut names, mut dirs) = (self.names.clone(), self.dirs.clone());
        for change in &self.pending[..choice.names] {
            change.apply(&mut names, &mut dirs);
        }
        // A file without a name is not looked at, but its writes count.
        let mut number = 0;
        let mut contents = BTreeMap::new();
        for (id, inode) in &self.files {
            let mut bytes = inode.durable.clone();
            for content in &inode.pending {
                let part = match choice.except {
                    Some((except, part)) if except == number => part,
                    _ => choice.writes,
                };
                content.apply(&mut bytes, part);
                number += 1;
            }
            contents.insert(*id, bytes);
        }
        let there = |path: &Path| {
            path.ancestors().skip(1).all(|dir| dir.as_os_str().is_empty() || dirs.contains(dir))
        };
        let files = names
            .into_iter()
            .filter(|(name, _)| there(name))
            .map(|(name, id)| (name, contents.get(&id).cloned().unwrap_or_default()))
            .collect();
        let dirs = dirs.iter().filter(|dir| there(dir)).cloned().collect();
        Image { dirs, files }
    }
}

impl Choice {
    /// All that was not synced is there, or nothing of it.
    pub(super) fn is_plain(&self) -> bool {
        self.except.is_none()
    }
}

impl Image {
    /// Puts it into the empty folder `dir`.
    pub(super) fn write(&self, dir: &Path) {
        // Ordered: a folder comes before what is in it.
        for name in &self.dirs {
            fs::create_dir(dir.join(name)).unwrap();
        }
        for (name, bytes) in &self.files {
            fs::write(dir.join(name), bytes).unwrap();
        }
    }

    /// The same for the same folder.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// How a write over so many sectors is torn.
fn tears(sectors: u64) -> Vec<Part> {
    if sectors < 2 {
        return Vec::new();
    }
    let step = sectors.div_ceil(TEARS) as usize;
    let mut parts = vec![Part::Every(0), Part::Every(1)];
    for at in (1..sectors).step_by(step) {
        parts.extend([Part::First(at), Part::Behind(at), Part::Without(at)]);
    }
    parts
}

impl Part {
    fn holds(self, sector: u64) -> bool {
        match self {
            Part::All => true,
            Part::Nothing => false,
            Part::First(count) => sector < count,
            Part::Behind(count) => sector >= count,
            Part::Every(first) => sector % 2 == first,
            Part::Without(one) => sector != one,
        }
    }
}

impl Content {
    fn sectors(&self) -> u64 {
        match self {
            Content::Write(offset, bytes) => {
                (offset + bytes.len() as u64).div_ceil(SECTOR) - offset / SECTOR
            }
            Content::Len(_) => 1,
        }
    }

    fn apply(&self, file: &mut Vec<u8>, part: Part) {
        match self {
            Content::Write(offset, bytes) => {
                let (mut at, end) = (*offset, offset + bytes.len() as u64);
                while at < end {
                    let next = ((at / SECTOR + 1) * SECTOR).min(end);
                    if part.holds(at / SECTOR - offset / SECTOR) {
                        if file.len() < next as usize {
                            file.resize(next as usize, 0);
                        }
                        let from = (at - offset) as usize..(next - offset) as usize;
                        file[at as usize..next as usize].copy_from_slice(&bytes[from]);
                    }
                    at = next;
                }
            }
            Content::Len(len) if part.holds(0) => file.resize(*len as usize, 0),
            Content::Len(_) => {}
        }
    }
}

impl Name {
    /// Whether syncing `dir` makes it durable.
    fn concerns(&self, dir: &Path) -> bool {
        match self {
            Name::Create(path, _) | Name::Remove(path) | Name::MakeDir(path) => {
                path.parent() == Some(dir)
            }
            Name::Rename(from, to) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, FileId>, dirs: &mut BTreeSet<PathBuf>) {
        match self {
            Name::Create(name, id) => {
                names.insert(name.clone(), *id);
            }
            Name::Remove(name) => {
                names.remove(name);
            }
            Name::MakeDir(dir) => {
                dirs.insert(dir.clone());
            }
            Name::Rename(from, to) => rename(from, to, names, dirs),
        }
    }
}

/// A folder takes along what is in it.
fn rename(
    from: &Path,
    to: &Path,
    names: &mut BTreeMap<PathBuf, FileId>,
    dirs: &mut BTreeSet<PathBuf>,
) {
    let moved = |path: &Path| match path.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => Some(to.to_owned()),
        Ok(rest) => Some(to.join(rest)),
        Err(_) => None,
    };
    let files: Vec<_> =
        names.keys().filter_map(|name| Some((name.clone(), moved(name)?))).collect();
    for (name, to) in files {
        if let Some(id) = names.remove(&name) {
            names.insert(to, id);
        }
    }
    let folders: Vec<_> = dirs.iter().filter_map(|dir| Some((dir.clone(), moved(dir)?))).collect();
    for (dir, to) in folders {
        dirs.remove(&dir);
        dirs.insert(to);
    }
}
