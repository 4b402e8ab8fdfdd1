//! A note in the folder that its data are not to be used: they differ from
//! those of the other servers, and are fetched from them at the next start.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::files::{self, File};

fn note(dir: &Path) -> PathBuf {
    dir.join("refetch")
}

/// Notes durably that everything is to be fetched anew, and why.
pub(super) fn want(dir: &Path, why: &str) -> io::Result<()> {
    let side = dir.join("refetch.tmp");
    let mut file = File::create(&side)?;
    file.write_all(why.as_bytes())?;
    file.sync_all()?;
    files::rename(&side, &note(dir))?;
    files::sync_dir(dir)
}

/// Why everything is to be fetched anew, if it is.
pub(super) fn wanted(dir: &Path) -> anyhow::Result<Option<String>> {
    match files::read(&note(dir)) {
        Ok(why) => Ok(Some(String::from_utf8_lossy(&why).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", note(dir).display())),
    }
}

/// What the log says now is enough: the note goes.
pub(super) fn done(dir: &Path) -> anyhow::Result<()> {
    let removed = files::remove_file(&note(dir)).and_then(|()| files::sync_dir(dir));
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", note(dir).display()))
        }
        _ => Ok(()),
    }
}
