//! Looking at every byte of a server's files, without changing any.
//!
//! Nothing takes a lock, so the server may be running: what it writes at that
//! moment is left out, and damage is believed only once it was seen twice.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::backup::{self, BackupError, Opened};
use crate::files::File;
use crate::identity::{Folder, FolderError, Identity};
use crate::keystore_file::{self, KeystoreFileError};
use crate::log_file::{self, LogArchive, LogError};
use crate::offline::{self, OfflineError};
use crate::recovery::Damage;

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

/// Looks at a server's identity, log-file and keystore-file; `running`: its
/// process may be writing them.
pub fn server(dir: &Path, log_file: &Path, keystore_file: &Path, running: bool) -> Vec<Finding> {
    let mut findings = identities(dir);
    // The log first: a checkpoint that is made meanwhile is only further on.
    let (found, range) = log(log_file, running);
    findings.extend(found);
    findings.extend(checkpoint(keystore_file, range.as_ref()));
    findings.extend(members(&beside(keystore_file, ".members")));
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

/// First and last index of a log.
struct Range {
    first: u64,
    last: u64,
}

/// Looks twice if `running`: a file is not read in one instant, and its owner
/// may have gone on meanwhile. Real damage stays where it is.
fn log(path: &Path, running: bool) -> (Vec<Finding>, Option<Range>) {
    if !path.exists() {
        return (vec![Finding::new(path, Health::Missing, "it is not there")], None);
    }
    let (mut findings, range) = log_once(path);
    if running && findings.iter().any(|finding| finding.health != Health::Well) {
        let (again, range) = log_once(path);
        findings.retain(|finding| again.contains(finding));
        if findings.is_empty() {
            let what = "it was written while it was read";
            findings.push(Finding::new(path, Health::Well, what));
        }
        return (findings, range);
    }
    (findings, range)
}

fn log_once(path: &Path) -> (Vec<Finding>, Option<Range>) {
    let (scan, torn) = match log_file::verify(path) {
        Ok(found) => found,
        Err(error) => return (vec![log_finding(path, &error)], None),
    };
    let mut findings: Vec<_> = scan.damage.iter().map(damage_finding).collect();
    let pairs = scan.stretches.iter().zip(scan.stretches.iter().skip(1));
    let gaps = pairs.filter(|(before, behind)| behind.first > before.last + 1);
    let gaps: Vec<_> = gaps.map(|(before, behind)| (before.last + 1, behind.first - 1)).collect();
    let hidden = scan.end.index.saturating_sub(scan.stretches.last().map_or(0, |s| s.last));
    if let ([finding], [gap]) = (findings.as_mut_slice(), gaps.as_slice()) {
        finding.entries = Some(*gap);
    } else if let (Some(finding), true) = (findings.last_mut(), hidden > 0) {
        finding.entries = Some((scan.end.index - hidden + 1, scan.end.index));
    }
    let Some(first) = scan.stretches.first().map(|stretch| stretch.first) else {
        if findings.is_empty() {
            findings.push(Finding::new(path, Health::Well, "it holds no entry"));
        }
        return (findings, None);
    };
    let last = scan.stretches.last().map_or(0, |stretch| stretch.last);
    let commit = scan.stretches.iter().map(|stretch| stretch.commit).max().unwrap_or(0);
    if findings.is_empty() {
        findings.push(readable(path, first, last, commit, torn.is_some()));
        findings.extend(archive(path));
    } else if !gaps.is_empty() || hidden > 0 {
        let mut what = format!("entries {first} to {last} are there");
        for (from, to) in &gaps {
            what.push_str(&format!(", but for {from} to {to}"));
        }
        if hidden > 0 {
            what.push_str(&format!("; there may have been more, up to {}", scan.end.index));
        }
        findings.push(Finding::new(path, Health::Damaged, what));
    }
    (findings, Some(Range { first, last }))
}

/// A log whose checksums all hold: whether it also says something.
fn readable(path: &Path, first: u64, last: u64, commit: u64, torn: bool) -> Finding {
    if first > last {
        return Finding::new(path, Health::Well, format!("no entries behind {last}"));
    }
    let mut commands = 0u64;
    let read = log_file::look(path).map_err(OfflineError::from).and_then(|(reader, _)| {
        // It may have gone on meanwhile, at either end.
        let (begin, end) = reader.range();
        let (from, to) = (first.max(begin), last.min(end));
        offline::each(&reader, from, to, |entry| -> Result<(), OfflineError> {
            if let raft::Body::Command(payload) = &entry.body {
                offline::command(entry.index, payload)?;
                commands += 1;
            }
            Ok(())
        })
    });
    match read {
        Ok(()) => {
            let torn = if torn { "; behind them a write that never finished" } else { "" };
            let what = format!(
                "entries {first} to {last} ({commands} commands), committed up to {commit}{torn}"
            );
            Finding::new(path, Health::Well, what)
        }
        Err(OfflineError::Log(error)) => log_finding(path, &error),
        Err(OfflineError::Command { index, source }) => Finding {
            entries: Some((index, index)),
            ..Finding::new(path, Health::Damaged, format!("entry {index}: {source}"))
        },
        Err(error) => Finding::new(path, Health::Damaged, error.to_string()),
    }
}

/// Segments that were kept, if there are any.
fn archive(log_file: &Path) -> Vec<Finding> {
    let path = log_file.join("archive");
    if !path.exists() {
        return Vec::new();
    }
    let archive = match LogArchive::open(log_file) {
        Ok(archive) => archive,
        Err(error) => return vec![log_finding(&path, &error)],
    };
    let mut findings: Vec<_> = archive.damage().iter().map(damage_finding).collect();
    let (first, last) = archive.range();
    let error = archive.entries(first..=last).find_map(Result::err);
    findings.extend(error.map(|error| log_finding(&path, &error)));
    if findings.is_empty() {
        let what = format!("together with the log, entries {first} to {last}");
        findings.push(Finding::new(&path, Health::Well, what));
    }
    findings
}

fn damage_finding(damage: &Damage) -> Finding {
    let what = match damage.bytes {
        0 => damage.what.clone(),
        bytes => format!("{} ({bytes} bytes)", damage.what),
    };
    let finding = Finding::new(&damage.file, Health::Damaged, what);
    Finding { offset: Some(damage.offset), ..finding }
}

fn log_finding(path: &Path, error: &LogError) -> Finding {
    match error {
        LogError::Damaged { file, offset, what, .. } => {
            let finding = Finding::new(file, Health::Damaged, what.as_str());
            Finding { offset: Some(*offset), ..finding }
        }
        LogError::MissingSegment { file, what, .. } => {
            Finding::new(file, Health::Missing, what.as_str())
        }
        LogError::Foreign { file, what } => Finding::new(file, Health::Foreign, what.as_str()),
        LogError::NewerVersion { file, version, .. } => {
            Finding::new(file, Health::Newer, format!("format version {version}"))
        }
        LogError::Io { path, source, .. } | LogError::NoRoom { path, source } => {
            Finding::new(path, Health::Unreadable, source.to_string())
        }
        _ => Finding::new(path, Health::Damaged, error.to_string()),
    }
}

fn checkpoint(path: &Path, range: Option<&Range>) -> Vec<Finding> {
    let file = match File::open(path).and_then(|file| Ok((file.len()?, file))) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return vec![Finding::new(path, Health::Missing, "it is not there")];
        }
        Err(error) => return vec![Finding::new(path, Health::Unreadable, error.to_string())],
    };
    let checked = keystore_file::examine(path, file.1, file.0);
    let (Some(meta), true) = (checked.meta, checked.flaws.is_empty()) else {
        return checked.flaws.iter().map(|flaw| keystore_finding(path, flaw)).collect();
    };
    let items = checked.items;
    let what = format!("{items} items as of entry {} of term {}", meta.index, meta.term);
    vec![match range {
        Some(range) if range.first > meta.index + 1 => {
            let gap = (meta.index + 1, range.first - 1);
            let what = format!("{what}; entries {} to {} are in neither file", gap.0, gap.1);
            Finding { entries: Some(gap), ..Finding::new(path, Health::Damaged, what) }
        }
        Some(range) if range.last < meta.index => {
            let what = format!("{what}; the log ends before, at {}", range.last);
            Finding::new(path, Health::Well, what)
        }
        _ => Finding::new(path, Health::Well, what),
    }]
}

/// Who the members are, for a server that lost its checkpoint: a copy only.
fn members(path: &Path) -> Vec<Finding> {
    match path.exists() {
        true => checkpoint(path, None),
        false => Vec::new(),
    }
}

fn keystore_finding(path: &Path, error: &KeystoreFileError) -> Finding {
    let (health, offset, what) = match error {
        KeystoreFileError::Io { source, .. } => (Health::Unreadable, None, source.to_string()),
        KeystoreFileError::Damaged { offset, what, .. } => {
            (Health::Damaged, Some(*offset), (*what).to_owned())
        }
        KeystoreFileError::Truncated { offset, .. } => {
            (Health::Damaged, Some(*offset), "it ends before its footer".to_owned())
        }
        KeystoreFileError::Foreign { .. } => {
            (Health::Foreign, None, "it is no keystore-file".to_owned())
        }
        KeystoreFileError::NewerBlock { offset, kind, .. } => {
            (Health::Newer, Some(*offset), format!("a block of kind {kind}"))
        }
        KeystoreFileError::NewerVersion { version, .. } => {
            (Health::Newer, None, format!("format version {version}"))
        }
    };
    Finding { offset, ..Finding::new(path, health, what) }
}

/// Looks at a backup.
pub fn backup_file(path: &Path) -> Vec<Finding> {
    let opened = match Opened::open(path) {
        Ok(opened) => opened,
        Err(error) => return vec![backup_finding(path, &error)],
    };
    let Opened { about, rest, head_bytes, size } = opened;
    let checked = keystore_file::examine(path, rest, size - head_bytes);
    let flaws = checked.flaws.into_iter().map(|flaw| backup::shifted(flaw, head_bytes));
    let mut findings: Vec<_> = flaws.map(|flaw| backup_finding(path, &flaw)).collect();
    let described = checked.meta.is_some_and(|meta| {
        (meta.index, meta.term, checked.items) == (about.index, about.term, about.items)
    });
    if findings.is_empty() && !described {
        let what = "its head describes other contents";
        findings.push(Finding { offset: Some(0), ..Finding::new(path, Health::Damaged, what) });
    } else if findings.is_empty() {
        let cluster = about.cluster.map_or("an unknown cluster".to_owned(), |c| c.to_string());
        let (items, index, term) = (about.items, about.index, about.term);
        let what = format!(
            "backup of cluster {cluster}: {items} items as of entry {index} of term {term}"
        );
        findings.push(Finding::new(path, Health::Well, what));
    }
    findings
}

fn backup_finding(path: &Path, error: &BackupError) -> Finding {
    let (health, offset, what) = match error {
        BackupError::Io { source, .. } => (Health::Unreadable, None, source.to_string()),
        BackupError::Damaged { offset, what, .. } => (Health::Damaged, Some(*offset), what.clone()),
        BackupError::Truncated { offset, .. } => {
            (Health::Damaged, Some(*offset), "it ends before it is complete".to_owned())
        }
        BackupError::Foreign { .. } => {
            (Health::Foreign, None, "it is no backup: `store backup` did not write it".to_owned())
        }
        BackupError::NewerBlock { offset, kind, .. } => {
            (Health::Newer, Some(*offset), format!("a part of kind {kind}"))
        }
        BackupError::NewerVersion { version, .. } => {
            (Health::Newer, None, format!("format version {version}"))
        }
    };
    Finding { offset, ..Finding::new(path, health, what) }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests;
