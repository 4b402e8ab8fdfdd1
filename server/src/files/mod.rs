//! The only way of this crate to the file system: a thin layer over `std::fs`.
//!
//! A product build has nothing in between: every function here is one call of
//! `std::fs`, inlined, so a preloaded library still sees each write and sync.
//! Under `cfg(test)` the same calls can be put under watch per folder (see
//! `faults`): they are written to a journal, made slow, or refused as a disk
//! that is full, read-only or broken would refuse them. This is no feature of
//! the crate on purpose: features are unified over everything that one build
//! compiles, so one test that enabled it would put it into the product's
//! binaries of that build too.
//!
//! `tests/tidy.rs` keeps other modules from going around this one.

#[cfg(test)]
pub(crate) mod faults;
#[cfg(not(test))]
mod plain;

use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

#[cfg(test)]
use faults::Watch;
#[cfg(not(test))]
use plain::Watch;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Must be there; is only read.
    Read,
    /// Must be there.
    Write,
    /// Begins empty, whether it was there or not.
    Create,
    /// Must not be there.
    CreateNew,
}

/// An open file. As with `std::fs::File`, everything works through a shared
/// reference.
#[derive(Debug)]
pub(crate) struct File {
    inner: fs::File,
    watch: Watch,
}

impl File {
    /// For reading only.
    #[inline]
    pub(crate) fn open(path: &Path) -> io::Result<File> {
        Self::open_as(path, Mode::Read)
    }

    /// For reading and writing; must be there.
    #[inline]
    pub(crate) fn open_rw(path: &Path) -> io::Result<File> {
        Self::open_as(path, Mode::Write)
    }

    /// For reading and writing; begins empty, whether it was there or not.
    #[inline]
    pub(crate) fn create(path: &Path) -> io::Result<File> {
        Self::open_as(path, Mode::Create)
    }

    /// Opens `path` as `mode` says.
    #[inline]
    pub(crate) fn open_as(path: &Path, mode: Mode) -> io::Result<File> {
        let (inner, watch) = Watch::open(path, mode, || {
            let mut options = fs::OpenOptions::new();
            options.read(true).write(mode != Mode::Read);
            options.create(mode == Mode::Create).truncate(mode == Mode::Create);
            options.create_new(mode == Mode::CreateNew).open(path)
        })?;
        Ok(File { inner, watch })
    }

    /// Its length in bytes.
    #[inline]
    pub(crate) fn len(&self) -> io::Result<u64> {
        Ok(self.inner.metadata()?.len())
    }

    /// Fills `bytes` from `offset` on.
    #[inline]
    pub(crate) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.watch.read(|| self.inner.read_exact_at(bytes, offset))
    }

    /// Writes all `bytes` at `offset`.
    #[inline]
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.watch.write(bytes, || Ok(offset), |bytes| self.inner.write_all_at(bytes, offset))
    }

    /// Cuts it, or fills it up with zeros, to this length.
    #[inline]
    pub(crate) fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.watch.set_len(bytes, || self.inner.set_len(bytes))
    }

    /// Makes its bytes, and what is needed to find them, durable.
    #[inline]
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        self.watch.sync(|| self.inner.sync_data())
    }

    /// Makes its bytes and all that is known about it durable.
    #[inline]
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        self.watch.sync(|| self.inner.sync_all())
    }
}

impl Read for File {
    #[inline]
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.watch.read(|| self.inner.read(bytes))
    }
}

impl Write for File {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let offset = || (&self.inner).stream_position();
        self.watch.write(bytes, offset, |bytes| (&self.inner).write_all(bytes))
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for File {
    #[inline]
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// The whole file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::with_capacity(file.len()? as usize + 1);
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What lies in the folder `dir`, in order of the names.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let items = fs::read_dir(dir)?.map(|item| item.map(|item| item.path()));
    let mut paths = items.collect::<io::Result<Vec<_>>>()?;
    paths.sort_unstable();
    Ok(paths)
}

/// Makes the folder `dir` and those above it, unless they are there.
#[inline]
pub(crate) fn create_dir_all(dir: &Path) -> io::Result<()> {
    Watch::make_dirs(dir, || fs::create_dir_all(dir))
}

/// Gives `from` the name `to`; what had that name is gone.
#[inline]
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    Watch::rename(from, to, || fs::rename(from, to))
}

/// Removes a file.
#[inline]
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    Watch::remove(path, || fs::remove_file(path))
}

/// Removes a file, or a folder with everything in it, if it is there. Nothing
/// that anybody still needs may be in it: it goes piece by piece.
pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    let removed = Watch::remove(path, || match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Makes the names in `dir` durable.
#[inline]
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    Watch::sync_dir(dir, || fs::File::open(dir)?.sync_all())
}
