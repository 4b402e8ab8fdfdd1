//! Amnesia: the folder no longer says what the server has voted and
//! acknowledged, so it must not come back as who it was.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::runs::FIXED_WAY_ON;

use super::restore::beside;
use crate::config::ServerConfig;
use crate::files;

/// Moves everything that made up the server into the folder `damaged-1` below
/// its own, where whoever wants to can look at it; what an earlier one left
/// there goes, so that damage does not fill the disk. Gives that folder.
///
/// # Errors
/// In a cluster without load balancers, where nobody could admit the server as
/// a new one; and those of the file system.
pub(super) fn set_aside(config: &ServerConfig, why: &str) -> anyhow::Result<PathBuf> {
    anyhow::ensure!(config.fixed.is_none() && !config.lbs.is_empty(), "{why}. {FIXED_WAY_ON}");
    let aside = config.dir.join("damaged-1");
    files::create_dir_all(&aside)?;
    let keystore = &config.keystore_file;
    let mut paths = vec![config.log_file.clone(), keystore.clone()];
    paths.extend([".members", ".incoming", ".damaged", ".tmp"].map(|part| beside(keystore, part)));
    // Last: with them goes the name of the server that was.
    paths.extend(["identity", "identity.copy"].map(|name| config.dir.join(name)));
    for path in &paths {
        move_into(&aside, path).with_context(|| {
            format!("{why}. Cannot move {} to {}", path.display(), aside.display())
        })?;
    }
    files::sync_dir(&aside)?;
    files::sync_dir(&config.dir)?;
    Ok(aside)
}

fn move_into(aside: &Path, path: &Path) -> io::Result<()> {
    let Some(name) = path.file_name() else { return Ok(()) };
    let to = aside.join(name);
    files::remove_all(&to)?;
    match files::rename(path, &to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
