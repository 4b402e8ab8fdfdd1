//! The replica.

use alloc::vec::Vec;

use crate::config::{Config, Restored};
use crate::error::{ChangeError, ProposeError, TransferError};
use crate::message::Envelope;
use crate::output::{DurableMark, Output};
use crate::status::Status;
use crate::types::{Change, Entry, Index, Membership, NodeId, Payload, SnapshotMeta, Term, Time};

/// One replica of the log.
#[derive(Debug)]
pub struct Node<P: Payload> {
    config: Config,
    restored: Restored<P>,
}

#[expect(clippy::needless_pass_by_value, clippy::missing_errors_doc, reason = "signatures first")]
impl<P: Payload> Node<P> {
    /// A follower with the state that was found on disk.
    pub fn new(_now: Time, config: Config, restored: Restored<P>) -> Self {
        Node { config, restored }
    }
    /// To be called when `now >= next_deadline()`.
    pub fn tick(&mut self, _now: Time) {}
    /// When `tick` is to be called next.
    pub fn next_deadline(&self) -> Time {
        Time::MAX
    }
    /// A message arrived.
    pub fn step(&mut self, _now: Time, _envelope: Envelope<P>) {}
    /// Appends a command.
    pub fn propose(&mut self, _now: Time, _payload: P) -> Result<(Index, Term), ProposeError> {
        Err(ProposeError::NotLeader { leader: None })
    }
    /// Changes the membership.
    pub fn change(&mut self, _now: Time, _change: Change) -> Result<(Index, Term), ChangeError> {
        Err(ChangeError::NotLeader { leader: None })
    }
    /// Asks from which index on a read is linearizable.
    pub fn read(&mut self, _now: Time, _request: u64) {}
    /// A batch is durable.
    pub fn synced(&mut self, _now: Time, _mark: DurableMark) {}
    /// Campaigns at once.
    pub fn campaign(&mut self, _now: Time) {}
    /// Hands leadership over.
    pub fn transfer(&mut self, _now: Time, _to: Option<NodeId>) -> Result<(), TransferError> {
        Err(TransferError::NotLeader { leader: None })
    }
    /// Answers `Output.fetch`.
    pub fn fetched(&mut self, _now: Time, _peer: NodeId, _entries: Vec<Entry<P>>) {}
    /// Answers `SnapshotTask::Read`.
    pub fn snapshot_chunk(
        &mut self,
        _now: Time,
        _peer: NodeId,
        _meta: SnapshotMeta,
        _offset: u64,
        _data: Vec<u8>,
        _done: bool,
    ) {
    }
    /// Answers `SnapshotTask::Write`.
    pub fn snapshot_written(
        &mut self,
        _now: Time,
        _index: Index,
        _next_offset: u64,
        _installed: Option<SnapshotMeta>,
    ) {
    }
    /// A local checkpoint at this index is durable.
    pub fn checkpointed(&mut self, _index: Index) {}
    /// The log on disk now begins at this index.
    pub fn compact(&mut self, _first_kept: Index) {}
    /// Everything there is to do.
    pub fn take_output(&mut self, _now: Time, _out: &mut Output<P>) {}
    /// Whether `take_output` would produce anything.
    pub fn has_output(&self) -> bool {
        false
    }
    /// The replica's view of itself.
    pub fn status(&self) -> Status {
        Status {
            id: self.config.id,
            role: crate::output::RoleKind::Follower,
            term: 0,
            vote: None,
            leader: None,
            first_index: 1,
            last_index: 0,
            durable: 0,
            commit: 0,
            applied: 0,
            checkpoint: 0,
            membership: self.restored.snapshot.membership.clone(),
            membership_index: 0,
            peers: Vec::new(),
            uncommitted_bytes: 0,
            rejected: 0,
        }
    }
    /// The membership in force.
    pub fn membership(&self) -> &Membership {
        &self.restored.snapshot.membership
    }
    /// What a checkpoint at `index` must say about itself; `None` when that
    /// index was not handed out, or lies before the newest checkpoint.
    pub fn snapshot_meta(&self, _index: Index) -> Option<SnapshotMeta> {
        None
    }
    /// This replica.
    pub fn id(&self) -> NodeId {
        self.config.id
    }
    /// Whether it leads.
    pub fn is_leader(&self) -> bool {
        false
    }
    /// Whom it takes for the leader.
    pub fn leader(&self) -> Option<NodeId> {
        None
    }
    /// Its term.
    pub fn commit(&self) -> Index {
        0
    }

    pub fn term(&self) -> Term {
        0
    }
}
