//! What can go wrong, and what to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use common::folder::FolderLockError;
use raft::NodeId;

use crate::log_file::LogError;

/// Why a replica cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The id is not one of the cluster's.
    #[error("{0} is not a member of the network: give one of the ids that it was made with")]
    NotAMember(NodeId),
    /// A replica with this id runs in this process.
    #[error("{0} is running already: stop it, and wait until it has stopped")]
    Running(NodeId),
    /// The replica was in memory, and has forgotten whom it voted for.
    #[error(
        "{0} was in memory and has forgotten its votes: it cannot come back; \
         give replicas that are to be restarted a folder"
    )]
    Forgotten(NodeId),
    /// The election timeout does not leave room for a heartbeat.
    #[error(
        "the election timeout must be a range that begins above the heartbeat: \
         make it several heartbeats long"
    )]
    Timings,
    /// UDP needs a tokio runtime.
    #[error("a replica that uses UDP must be started within a tokio runtime")]
    NoRuntime,
    /// The socket cannot be had.
    #[error("cannot use UDP address {address}: {source}; is it taken, or not of this host?")]
    Socket {
        /// Which.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// Another process uses the folder.
    #[error(transparent)]
    Folder(#[from] FolderLockError),
    /// The folder or its snapshot cannot be read or written.
    #[error("cannot use {}: {source}; check the disk and who owns the file", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The snapshot cannot be used.
    #[error(
        "{}: {what}; if the other replicas are well, remove the folder and add the replica anew \
         under a new id", path.display()
    )]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The folder belongs to a cluster of others.
    #[error(
        "{} was written by a cluster of other members: start the replica with the network that it \
         belongs to, or give it another folder", .0.display()
    )]
    OtherMembers(PathBuf),
}

/// Why a command has no reply.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was done: this replica does not lead.
    #[error("{}", not_leader(.leader))]
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<NodeId>,
    },
    /// Nothing was done: too much waits to be committed.
    #[error("too many bytes wait to be committed: try again later")]
    Busy,
    /// Nothing was done: another leader took over, and has committed
    /// something else in the command's place.
    #[error("the leader was deposed before it could commit the command: propose it again")]
    NotExecuted,
    /// The command may or may not be executed, now or later.
    #[error(
        "the outcome is unknown: the deadline passed, or the replica skipped ahead by a snapshot; \
         look whether the command took effect before it is proposed again"
    )]
    OutcomeUnknown,
    /// The replica has stopped. If the command was given to it before, the
    /// outcome is unknown.
    #[error("the replica has stopped, the outcome is unknown: ask another one")]
    Stopped,
}

/// Why a read has no answer. Reads change nothing: try again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// No leader could be asked.
    #[error("no leader answered: try again in a moment")]
    NoLeader,
    /// The replica has stopped.
    #[error("the replica has stopped: ask another one")]
    Stopped,
}

/// Why a replica ended by itself. It can be started again from its folder.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// The disk failed; what it wrote last cannot be known.
    #[error("{0}; the replica has stopped: check the disk, then start it again")]
    Disk(String),
    /// The state machine refused a snapshot of the leader.
    #[error(
        "the state machine cannot take the leader's snapshot: {0}; \
         do all replicas run the same version?"
    )]
    Restore(String),
    /// The state machine panicked.
    #[error("the replica's thread panicked, most likely in its state machine: see its message")]
    Panicked,
}

fn not_leader(leader: &Option<NodeId>) -> String {
    match leader {
        Some(leader) => format!("not executed: this replica does not lead, ask {leader}"),
        None => "not executed: no leader is known, try again in a moment".to_owned(),
    }
}
