//! What a load balancer remembers over a restart: which cluster it belongs
//! to, and whom it named the first voters.
//!
//! It is a cache in the sense that the servers' own disks decide (DESIGN,
//! "Bootstrap"): losing it is safe as long as a member of the cluster reports
//! within [`BOOTSTRAP_WAIT`](crate::bootstrap::BOOTSTRAP_WAIT). It is written
//! before the first voter hears of its membership, so that a load balancer
//! which dies between two `Adopt`s finishes the same bootstrap afterwards,
//! with the same ids, instead of starting another one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use common::control::MemberRecord;
use common::ids::{ClusterId, FolderId};
use serde::{Deserialize, Serialize};

/// Version of the file's format; a newer one is refused, not guessed.
const FORMAT: u32 = 1;

/// Name of the file in the load balancer's folder.
pub const FILE_NAME: &str = "lb-memory";

/// What is remembered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// The cluster that this load balancer has formed or seen.
    pub cluster: Option<ClusterId>,
    /// The first voters, in the order of their registration, when this load
    /// balancer formed the cluster; empty when it has only seen it.
    pub voters: Vec<MemberRecord>,
}

impl Memory {
    /// The place of `folder` among the first voters.
    pub(crate) fn voter(&self, folder: FolderId) -> Option<&MemberRecord> {
        self.voters.iter().find(|voter| voter.info.folder == folder)
    }
}

/// The file's shape.
#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    cluster: Option<ClusterId>,
    voters: Vec<MemberRecord>,
}

/// Only the version: a newer format need not have the rest of our shape.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// Where the memory of the load balancer in `dir` is.
pub fn path(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}

/// Reads the memory; nothing remembered when there is no file.
///
/// # Errors
/// The file cannot be read, is damaged, or is of a newer format.
pub fn load(dir: &Path) -> anyhow::Result<Memory> {
    let path = path(dir);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Memory::default()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    let way_out = || {
        format!(
            "{} is damaged; with the servers of its cluster running it is safe to delete: \
             the load balancer learns its cluster from them",
            path.display()
        )
    };
    let version: Version = serde_json::from_slice(&text).with_context(way_out)?;
    if version.format > FORMAT {
        bail!(
            "{} has format {}, this program knows formats up to {FORMAT}: \
             start the version that wrote it",
            path.display(),
            version.format
        );
    }
    let document: Document = serde_json::from_slice(&text).with_context(way_out)?;
    Ok(Memory { cluster: document.cluster, voters: document.voters })
}

/// Writes the memory so that it is complete and durable, or not there at all:
/// beside, synced, renamed, folder synced.
///
/// # Errors
/// The disk refused, with the file's name.
pub fn save(dir: &Path, memory: &Memory) -> anyhow::Result<()> {
    let document =
        Document { format: FORMAT, cluster: memory.cluster, voters: memory.voters.clone() };
    let mut text = serde_json::to_vec_pretty(&document).context("cannot encode the memory")?;
    text.push(b'\n');

    let path = path(dir);
    let beside = dir.join(format!("{FILE_NAME}.new"));
    let write = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(dir)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::control::MemberInfo;
    use common::ids::ServerId;

    fn example() -> Memory {
        let info = MemberInfo {
            folder: FolderId(7),
            name: "srv-1".to_owned(),
            peer: "127.0.0.1:6001".parse().unwrap(),
            client: "127.0.0.1:7001".parse().unwrap(),
            run: None,
        };
        Memory {
            cluster: Some(ClusterId(9)),
            voters: vec![MemberRecord { id: ServerId(1), voter: true, info }],
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), Memory::default());
        save(dir.path(), &example()).unwrap();
        assert_eq!(load(dir.path()).unwrap(), example());
        let other = Memory { cluster: Some(ClusterId(10)), voters: Vec::new() };
        save(dir.path(), &other).unwrap();
        assert_eq!(load(dir.path()).unwrap(), other);
    }

    #[test]
    fn a_half_written_file_beside_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("lb-memory.new"), b"{\"form").unwrap();
        assert_eq!(load(dir.path()).unwrap(), Memory::default());
    }

    #[test]
    fn damage_and_newer_formats_are_refused_with_the_file_and_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(path(dir.path()), b"{\"format\": 1, \"clus").unwrap();
        let error = format!("{:#}", load(dir.path()).unwrap_err());
        assert!(error.contains("lb-memory") && error.contains("delete"), "{error}");
        fs::write(path(dir.path()), b"{\"format\": 2, \"other\": true}").unwrap();
        let error = format!("{:#}", load(dir.path()).unwrap_err());
        assert!(error.contains("format 2"), "{error}");
    }

    #[test]
    fn a_folder_that_is_gone_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let error = format!("{:#}", save(&gone, &example()).unwrap_err());
        assert!(error.contains("gone/lb-memory"), "{error}");
    }
}
