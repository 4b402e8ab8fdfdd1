//! The folder of a server or a load balancer belongs to one process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The file that is locked; it holds the process id.
const LOCK: &str = "lock";

/// Somebody who only looks ([`holder`]) holds the lock for a moment: a new
/// owner tries for so long before it believes that the folder is taken.
const PATIENCE: Duration = Duration::from_millis(250);

/// Why a folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FolderLockError {
    /// Another process has it.
    #[error(
        "{dir} is in use by process {who}: stop that one first, or choose another folder",
        dir = dir.display(), who = pid.map_or("(unknown)".to_owned(), |pid| pid.to_string())
    )]
    Held {
        /// The folder.
        dir: PathBuf,
        /// Who has it.
        pid: Option<u32>,
    },
    /// The operating system refused.
    #[error("cannot lock {file}: {source}", file = file.display())]
    Io {
        /// The lock file.
        file: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

/// Exclusive use of a folder, until it is dropped or the process ends.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the folder `dir`, which must exist, and writes this process's id
    /// into its `lock` file.
    ///
    /// # Errors
    /// [`FolderLockError::Held`] when another process has it.
    pub fn acquire(dir: &Path) -> Result<FolderLock, FolderLockError> {
        let path = dir.join(LOCK);
        let failed = |source| FolderLockError::Io { file: path.clone(), source };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false);
        let mut file = file.open(&path).map_err(failed)?;
        let until = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => {
                    let pid = read_pid(&mut file);
                    return Err(FolderLockError::Held { dir: dir.to_owned(), pid });
                }
            }
        }
        write_pid(&mut file).map_err(failed)?;
        Ok(FolderLock { _file: file })
    }
}

/// The process that has the folder `dir`; `None`: nobody, or there is no such
/// folder.
pub fn holder(dir: &Path) -> Option<u32> {
    let mut file = File::open(dir.join(LOCK)).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => read_pid(&mut file),
        _ => None,
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(holder(dir.path()), None);
        let lock = FolderLock::acquire(dir.path()).unwrap();
        assert_eq!(holder(dir.path()), Some(std::process::id()));
        let error = FolderLock::acquire(dir.path()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&std::process::id().to_string()), "{text}");
        assert!(text.contains(&dir.path().display().to_string()), "{text}");
        drop(lock);
        assert_eq!(holder(dir.path()), None);
        FolderLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let error = FolderLock::acquire(&gone).unwrap_err().to_string();
        assert!(error.contains("gone"), "{error}");
    }
}
