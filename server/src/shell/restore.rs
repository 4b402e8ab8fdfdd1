//! From the folder to a driver: adoption by a cluster, and start-up.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use common::control::MemberRecord;
use common::ids::{ClusterId, ServerId};
use raft::{Membership, NodeId, Position, Restored, SnapshotMeta};

use super::log_writer::entry_bytes;
use super::{Shell, hello_of, refetch};
use crate::command::Payload;
use crate::config::{Progress, ServerConfig};
use crate::files;
use crate::keystore::{Keystore, KeystoreLimits};
use crate::keystore_file::{self, CheckpointMeta, KeystoreFileError, WriteError};
use crate::log_file::{LogFile, LogOptions};
use crate::membership::info_bytes;
use crate::recovery::{
    self, Damage, Decision, Found, FoundCheckpoint, FoundLog, LogRepair, Recovery,
};

/// Writes down that this folder belongs to `cluster` as server `id`.
///
/// The first membership is the checkpoint at index 0. It and an empty log are
/// durable before the identity names the cluster, so that a crash in between
/// leaves a fresh server, which will be adopted again.
pub(super) fn adopt(
    shell: &mut Shell,
    cluster: ClusterId,
    id: ServerId,
    voters: &[MemberRecord],
) -> anyhow::Result<()> {
    let membership = Membership::of_voters(
        voters.iter().map(|voter| (NodeId(voter.id.0), info_bytes(&voter.info))),
    );
    let meta = CheckpointMeta { index: 0, term: 0, membership };
    let empty = Keystore::new(KeystoreLimits::default());
    keystore_file::write(&shell.config.keystore_file, &empty.freeze(), &meta)?;
    write_members(&shell.config.keystore_file, &meta.membership)?;
    // Made now, so that a log-file that is missing later is known to be lost:
    // a server without its log must not vote.
    LogFile::open(&shell.config.log_file, shell.config.log_options(), 0)?;
    shell.folder.adopt(cluster, id)?;
    shell.endpoint.set_hello(hello_of(&shell.folder, &shell.info));
    Ok(())
}

/// Beside the keystore-file lies who the members are, so that a server that
/// lost its checkpoint knows whom to talk to: an empty checkpoint at index 0.
const MEMBERS: &str = ".members";

/// Writes down who the members are, if that has changed.
pub(crate) fn write_members(path: &Path, membership: &Membership) -> Result<(), WriteError> {
    let members = beside(path, MEMBERS);
    if let Ok(Some((_, meta))) = keystore_file::load(&members)
        && meta.membership == *membership
    {
        return Ok(());
    }
    let meta = CheckpointMeta { index: 0, term: 0, membership: membership.clone() };
    let empty = Keystore::new(KeystoreLimits::default());
    keystore_file::write(&members, &empty.freeze(), &meta).map(|_| ())
}

/// What start-up found on the disk.
pub(super) struct Disk {
    pub(super) node: raft::Node<Payload>,
    pub(super) keystore: Keystore,
    pub(super) log: LogFile,
    pub(super) replayed: u64,
    /// What they take in the log.
    pub(super) replayed_bytes: u64,
    pub(super) checkpoint: raft::Index,
    /// There is no whole checkpoint of this state on the disk.
    pub(super) checkpoint_lost: bool,
}

/// How a start goes on.
pub(super) enum Opened {
    Disk(Box<Disk>),
    /// The server must not come back under its id; why.
    Amnesia(String),
}

/// What a folder gives to start from.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) restored: Restored<Payload>,
    pub(crate) keystore: Keystore,
    pub(crate) log: LogFile,
    /// There is no whole checkpoint of this state on the disk.
    pub(crate) checkpoint_lost: bool,
}

/// What became of reading a folder.
#[derive(Debug)]
pub(crate) enum Read {
    Start(Box<Start>),
    /// The server must not come back under its id; why.
    Amnesia(String),
}

/// Reads the disk and makes a node of it.
pub(super) fn open(shell: &Shell, id: ServerId) -> anyhow::Result<Opened> {
    let options = shell.config.log_options();
    let start = match read(&shell.config, id, options, &*shell.progress)? {
        Read::Start(start) => *start,
        Read::Amnesia(why) => return Ok(Opened::Amnesia(why)),
    };
    let Start { restored, keystore, log, checkpoint_lost } = start;
    let checkpoint = restored.snapshot.index;
    let replayed = restored.entries.len() as u64;
    let replayed_bytes = restored.entries.iter().map(entry_bytes).sum();
    tracing::info!(
        checkpoint,
        keys = keystore.len(),
        replayed,
        commit = restored.commit,
        term = restored.hard_state.term,
        "disk read"
    );
    let node = raft::Node::new(shell.now().mono_us, raft_config(shell, id), restored);
    let disk = Disk { node, keystore, log, replayed, replayed_bytes, checkpoint, checkpoint_lost };
    Ok(Opened::Disk(Box::new(disk)))
}

/// Reads the checkpoint and the log behind it, and repairs what is damaged as
/// far as that is safe (see [`recovery`]).
pub(crate) fn read(
    config: &ServerConfig,
    id: ServerId,
    options: LogOptions,
    say: &dyn Fn(Progress),
) -> anyhow::Result<Read> {
    let (keystore, checkpoint) = read_checkpoint(config)?;
    let lost = keystore.is_none();
    let after = match &checkpoint {
        FoundCheckpoint::Whole(meta) => meta.index,
        FoundCheckpoint::Missing(_) | FoundCheckpoint::Damaged(_) => 0,
    };
    let log_file = &config.log_file;
    let (scan, opener) = LogFile::scan(log_file, after)?;
    let log = match opener.is_fresh() {
        true => FoundLog::Missing(log_file.clone()),
        false => FoundLog::Read(scan),
    };
    if let Some(torn) = opener.torn() {
        tracing::warn!(
            file = %torn.file.display(),
            offset = torn.offset,
            bytes = torn.bytes,
            "a torn write at the end of the log was cut; nothing of it was acknowledged"
        );
    }
    let mut found = match recovery::decide(Found { id: NodeId(id.0), checkpoint, log }) {
        Decision::Start(found) => found,
        Decision::Amnesia(why) => return Ok(Read::Amnesia(why)),
        Decision::Refuse(why) => anyhow::bail!(
            "{why}: put the damaged files back from a copy, or begin anew from a backup"
        ),
    };
    if lost {
        found.notes.push(format!(
            "{} is lost: its state is made anew from the log and the other servers",
            config.keystore_file.display()
        ));
    }
    if let Some(why) = refetch::wanted(&config.dir)? {
        found.notes.push(format!("{why}: everything is fetched anew from the other servers"));
        forget_state(config, &mut found)?;
    }
    if !found.notes.is_empty() || found.restored.floor.is_some() {
        for note in &found.notes {
            tracing::warn!("the disk is repaired: {note}");
        }
        say(Progress::Repairing { what: found.notes.join("; ") });
    }
    let Recovery { mut restored, repair, .. } = *found;
    let log = opener.repair(options, repair, &mut restored)?;
    refetch::done(&config.dir)?;
    let checkpoint = restored.snapshot.index;
    let mut keystore = match keystore {
        Some(keystore) if keystore.applied() == checkpoint => keystore,
        _ => Keystore::new(KeystoreLimits::default()),
    };
    keystore.set_limits(KeystoreLimits { memory_bytes: config.memory_bytes });
    Ok(Read::Start(Box::new(Start { restored, keystore, log, checkpoint_lost: lost })))
}

/// The checkpoint, and what to make of it; no keystore: it is lost. One that is
/// damaged is moved out of the way.
fn read_checkpoint(config: &ServerConfig) -> anyhow::Result<(Option<Keystore>, FoundCheckpoint)> {
    let path = &config.keystore_file;
    let damage = match keystore_file::read(path) {
        Ok(Some((keystore, meta))) => return Ok((Some(keystore), FoundCheckpoint::Whole(meta))),
        Ok(None) => None,
        Err(KeystoreFileError::Damaged { offset, what, .. }) => Some((offset, what)),
        Err(KeystoreFileError::Truncated { offset, .. }) => Some((offset, "its end is missing")),
        Err(error) => return Err(error.into()),
    };
    let mut found = match damage {
        None => FoundCheckpoint::Missing(path.clone()),
        Some((offset, what)) => {
            let aside = beside(path, ".damaged");
            tracing::warn!(file = %path.display(), offset, what, kept = %aside.display(), "damaged");
            files::rename(path, &aside)
                .with_context(|| format!("cannot move {} out of the way", path.display()))?;
            let (file, what) = (path.clone(), what.to_owned());
            FoundCheckpoint::Damaged(Damage { file, offset, bytes: 0, what })
        }
    };
    // The first membership stands in no entry.
    if let Ok(Some((_, meta))) = keystore_file::load(&beside(path, MEMBERS)) {
        found = FoundCheckpoint::Whole(meta);
    }
    Ok((None, found))
}

/// Nothing of the state counts any more; what the server has promised does.
fn forget_state(config: &ServerConfig, found: &mut Recovery<Payload>) -> anyhow::Result<()> {
    let path = &config.keystore_file;
    write_members(path, &found.restored.snapshot.membership)?;
    match files::rename(path, &beside(path, ".damaged")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context(format!("cannot move {} out of the way", path.display()));
        }
        _ => {}
    }
    let restored = &mut found.restored;
    let last = restored.entries.last();
    let last = last.map_or(
        Position { index: restored.snapshot.index, term: restored.snapshot.term },
        |entry| Position { index: entry.index, term: entry.term },
    );
    restored.floor = Some(restored.floor.unwrap_or_default().furthest(last));
    let membership = std::mem::take(&mut restored.snapshot.membership);
    restored.snapshot = SnapshotMeta { index: 0, term: 0, membership };
    restored.entries.clear();
    restored.memberships.clear();
    restored.runs.clear();
    restored.commit = 0;
    found.repair = LogRepair::Restart(0);
    Ok(())
}

/// The name of a file beside `path`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn raft_config(shell: &Shell, id: ServerId) -> raft::Config {
    let micros = |duration: Duration| duration.as_micros() as u64;
    raft::Config {
        election_timeout_min_us: micros(shell.config.election_timeout.0),
        election_timeout_max_us: micros(shell.config.election_timeout.1),
        heartbeat_us: micros(shell.config.heartbeat),
        ..raft::Config::new(NodeId(id.0), rand::random())
    }
}
