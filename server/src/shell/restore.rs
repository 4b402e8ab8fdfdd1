//! From the folder to a driver: adoption by a cluster, and start-up.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use common::control::MemberRecord;
use common::ids::{ClusterId, ServerId};
use raft::{Membership, NodeId, Position, Restored, SnapshotMeta};

use super::{Shell, hello_of};
use crate::command::Payload;
use crate::keystore::{Keystore, KeystoreLimits};
use crate::keystore_file::{self, CheckpointMeta};
use crate::log_file::{LogFile, LogOptions};

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
    if let Some(voter) = voters.iter().find(|voter| voter.id == id) {
        anyhow::ensure!(
            shell.config.fixed.is_some() || voter.info.folder == shell.info.folder,
            "a load balancer takes this server for folder {}, but it is {}: nothing was changed",
            voter.info.folder,
            shell.info.folder
        );
    }
    let membership = Membership::of_voters(
        voters.iter().map(|voter| (NodeId(voter.id.0), info_bytes(&voter.info))),
    );
    let meta = CheckpointMeta { index: 0, term: 0, membership };
    let empty = Keystore::new(KeystoreLimits::default());
    keystore_file::write(&shell.config.keystore_file, &empty.freeze(), &meta)?;
    // Made now, so that a log-file that is missing later is known to be lost:
    // a server without its log must not vote.
    LogFile::open(&shell.config.log_file, LogOptions::default(), 0)?;
    shell.folder.adopt(cluster, id)?;
    shell.endpoint.set_hello(hello_of(&shell.folder, &shell.info));
    Ok(())
}

/// The `info` of a Raft member.
pub(super) fn info_bytes(info: &common::control::MemberInfo) -> Arc<[u8]> {
    serde_json::to_vec(info).unwrap_or_default().into()
}

/// What start-up found on the disk.
pub(super) struct Disk {
    pub(super) node: raft::Node<Payload>,
    pub(super) keystore: Keystore,
    pub(super) log: LogFile,
    pub(super) replayed: u64,
    pub(super) checkpoint: raft::Index,
}

/// Reads the checkpoint and the log behind it.
pub(super) fn open(shell: &Shell, id: ServerId) -> anyhow::Result<Disk> {
    let path = &shell.config.keystore_file;
    let (keystore, meta) = keystore_file::read(path)?.with_context(|| {
        format!(
            "{} is missing, but the folder belongs to a cluster: bring the file back, or remove \
             the folder and add the server anew",
            path.display()
        )
    })?;
    let (mut log, recovered) =
        LogFile::open(&shell.config.log_file, LogOptions::default(), meta.index)?;
    anyhow::ensure!(
        !recovered.fresh,
        "{} is missing, but the folder belongs to a cluster: bring it back, or remove the folder \
         and add the server anew, it fetches everything from the others",
        shell.config.log_file.display()
    );
    if let Some(torn) = &recovered.torn {
        tracing::warn!(
            file = %torn.file.display(),
            offset = torn.offset,
            bytes = torn.bytes,
            "a torn write at the end of the log was cut; nothing of it was acknowledged"
        );
    }
    let checkpoint = meta.index;
    let replayed = recovered.entries.len() as u64;
    tracing::info!(
        checkpoint = meta.index,
        keys = keystore.len(),
        replayed,
        commit = recovered.commit,
        term = recovered.hard_state.term,
        "disk read"
    );
    let mut restored = Restored {
        hard_state: recovered.hard_state,
        snapshot: SnapshotMeta { index: meta.index, term: meta.term, membership: meta.membership },
        runs: recovered.runs,
        memberships: recovered.memberships,
        entries: recovered.entries,
        commit: recovered.commit,
        floor: recovered.floor,
    };
    if restored.discard_unconnected() {
        tracing::warn!(checkpoint, "the log-file does not reach the checkpoint: begun anew");
        log.reset(Position { index: checkpoint, term: restored.snapshot.term })?;
        log.sync()?;
    }
    let node = raft::Node::new(shell.now().mono_us, raft_config(shell, id), restored);
    Ok(Disk { node, keystore, log, replayed, checkpoint })
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
