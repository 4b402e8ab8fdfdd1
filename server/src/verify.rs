//! Looking at every byte of a server's files, without changing any.
//!
//! Nothing takes a lock, so the server may be running: what it writes at that
//! moment is left out, and damage is believed only once it was seen twice.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::backup::{self, BackupError};
use crate::identity::{Folder, FolderError, Identity};
use crate::keystore_file::{self, KeystoreFileError};
use crate::log_file::{self, LogError};
use crate::offline;

/// How a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Every checksum holds.
    Well,
    /// Bytes have changed or are gone.
    Damaged,
    /// It is not there, but should be.
    Missing,
    /// It is something else.
    Foreign,
    /// A later version of this program wrote it.
    Newer,
    /// The operating system refused.
    Unreadable,
}

/// What was found out about one file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// The file or folder.
    pub file: PathBuf,
    /// How it is.
    pub health: Health,
    /// Where the first bad byte may be, of a damaged file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Indexes of the log's entries that are concerned: first and last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<(u64, u64)>,
    /// What it holds, or what is wrong and what to do.
    pub what: String,
}

impl Finding {
    fn new(file: &Path, health: Health, what: impl Into<String>) -> Finding {
        Finding { file: file.to_owned(), health, offset: None, entries: None, what: what.into() }
    }
}

/// Looks at a server's identity, log-file and keystore-file.
pub fn server(dir: &Path, log_file: &Path, keystore_file: &Path) -> Vec<Finding> {
    let mut findings = identities(dir);
    // The log first: a checkpoint that is made meanwhile is only further on.
    let (found, range) = log(log_file);
    findings.extend(found);
    findings.push(checkpoint(keystore_file, range));
    findings
}

fn identities(dir: &Path) -> Vec<Finding> {
    let copies = Folder::look_at_copies(dir);
    let known = copies.iter().find_map(|(_, found)| found.as_ref().ok()?.clone());
    copies.into_iter().map(|(file, found)| identity(&file, found, known.as_ref())).collect()
}

fn identity(
    file: &Path,
    found: Result<Option<Identity>, FolderError>,
    first: Option<&Identity>,
) -> Finding {
    let error = match found {
        Ok(Some(identity)) if first != Some(&identity) => {
            let what = "it differs from the first copy, which counts; the next start repairs it";
            return Finding::new(file, Health::Damaged, what);
        }
        Ok(Some(identity)) => {
            let what = match (identity.cluster, identity.server) {
                (Some(cluster), Some(id)) => {
                    format!("{}, server {id} of cluster {cluster}", identity.name)
                }
                _ => format!("{}, in no cluster yet", identity.name),
            };
            return Finding::new(file, Health::Well, what);
        }
        Ok(None) => {
            let what = match first {
                Some(_) => "it is not there; the other copy is, the next start repairs it",
                None => "it is not there",
            };
            return Finding::new(file, Health::Missing, what);
        }
        Err(error) => error,
    };
    let health = match &error {
        FolderError::Damaged { .. } => Health::Damaged,
        FolderError::NewerVersion { .. } => Health::Newer,
        FolderError::Lock(_) | FolderError::Io { .. } => Health::Unreadable,
    };
    let repair = match (health, first) {
        (Health::Damaged, Some(_)) => "; the other copy is well, the next start repairs this one",
        _ => "",
    };
    Finding::new(file, health, format!("{error}{repair}"))
}

/// First and last index of a log, and the highest that is committed.
struct Range {
    first: u64,
    last: u64,
    commit: u64,
}

fn log(path: &Path) -> (Vec<Finding>, Option<Range>) {
    if !path.exists() {
        return (vec![Finding::new(path, Health::Missing, "it is not there")], None);
    }
    let (reader, commit) = match log_file::look(path) {
        Ok(found) => found,
        Err(error) => return (vec![log_finding(path, &error)], None),
    };
    let (first, last) = reader.range();
    let range = Range { first, last, commit };
    let mut commands = 0u64;
    let read = offline::each(&reader, first, last, |entry| -> Result<(), offline::OfflineError> {
        if let raft::Body::Command(payload) = &entry.body {
            offline::command(entry.index, payload)?;
            commands += 1;
        }
        Ok(())
    });
    let finding = match read {
        Ok(()) if first > last => {
            Finding::new(path, Health::Well, format!("no entries behind {last}"))
        }
        Ok(()) => Finding::new(
            path,
            Health::Well,
            format!(
                "entries {first} to {last}, {commands} of them commands, committed to {commit}"
            ),
        ),
        Err(offline::OfflineError::Log(error)) => log_finding(path, &error),
        Err(offline::OfflineError::Command { index, source }) => Finding {
            entries: Some((index, index)),
            ..Finding::new(path, Health::Damaged, format!("entry {index}: {source}"))
        },
        Err(error) => Finding::new(path, Health::Damaged, error.to_string()),
    };
    (vec![finding], Some(range))
}

fn log_finding(path: &Path, error: &LogError) -> Finding {
    let what = error.to_string();
    match error {
        LogError::Damaged { file, offset, .. } => {
            Finding { offset: Some(*offset), ..Finding::new(file, Health::Damaged, what) }
        }
        LogError::MissingSegment { file, .. } => Finding::new(file, Health::Missing, what),
        LogError::Foreign { file, .. } => Finding::new(file, Health::Foreign, what),
        LogError::NewerVersion { file, .. } => Finding::new(file, Health::Newer, what),
        LogError::Io { path, .. } | LogError::NoRoom { path, .. } => {
            Finding::new(path, Health::Unreadable, what)
        }
        _ => Finding::new(path, Health::Damaged, what),
    }
}

fn checkpoint(path: &Path, range: Option<Range>) -> Finding {
    match keystore_file::load(path) {
        Ok(Some((keystore, meta))) => {
            let items = keystore.len();
            let what = format!("{items} items as of entry {} of term {}", meta.index, meta.term);
            match range {
                Some(range) if range.first > meta.index + 1 => {
                    let gap = (meta.index + 1, range.first - 1);
                    let what =
                        format!("{what}; entries {} to {} are in neither file", gap.0, gap.1);
                    Finding { entries: Some(gap), ..Finding::new(path, Health::Damaged, what) }
                }
                Some(range) if range.commit.max(range.last) < meta.index => {
                    let what = format!("{what}; the log ends before, at {}", range.last);
                    Finding::new(path, Health::Well, what)
                }
                _ => Finding::new(path, Health::Well, what),
            }
        }
        Ok(None) => Finding::new(path, Health::Missing, "it is not there"),
        Err(error) => keystore_finding(path, &error),
    }
}

fn keystore_finding(path: &Path, error: &KeystoreFileError) -> Finding {
    let (health, offset) = match error {
        KeystoreFileError::Io { .. } => (Health::Unreadable, None),
        KeystoreFileError::Damaged { offset, .. } | KeystoreFileError::Truncated { offset, .. } => {
            (Health::Damaged, Some(*offset))
        }
        KeystoreFileError::Foreign { .. } => (Health::Foreign, None),
        KeystoreFileError::NewerBlock { offset, .. } => (Health::Newer, Some(*offset)),
        KeystoreFileError::NewerVersion { .. } => (Health::Newer, None),
    };
    Finding { offset, ..Finding::new(path, health, error.to_string()) }
}

/// Looks at a backup.
pub fn backup_file(path: &Path) -> Finding {
    match backup::read(path) {
        Ok(backup) => {
            let about = backup.about;
            let cluster = about.cluster.map_or("an unknown cluster".to_owned(), |c| c.to_string());
            let what = format!(
                "backup of cluster {cluster}: {} items as of entry {} of term {}",
                about.items, about.index, about.term
            );
            Finding::new(path, Health::Well, what)
        }
        Err(error) => {
            let (health, offset) = match &error {
                BackupError::Io { .. } => (Health::Unreadable, None),
                BackupError::Damaged { offset, .. } | BackupError::Truncated { offset, .. } => {
                    (Health::Damaged, Some(*offset))
                }
                BackupError::Foreign { .. } => (Health::Foreign, None),
                BackupError::NewerBlock { offset, .. } => (Health::Newer, Some(*offset)),
                BackupError::NewerVersion { .. } => (Health::Newer, None),
            };
            Finding { offset, ..Finding::new(path, health, error.to_string()) }
        }
    }
}
