//! Snapshots: sent in chunks to a peer whose entries are gone, one chunk at a
//! time, and received into a side file that the driver keeps.

use alloc::vec::Vec;

use crate::leader::Leader;
use crate::membership::Memberships;
use crate::message::Message;
use crate::node::{Node, Role};
use crate::output::SnapshotTask;
use crate::planted::PlantedBug;
use crate::progress::{Supply, Wait};
use crate::types::{Index, NodeId, Payload, Position, SnapshotMeta, Time};

/// A snapshot that is being received.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    from: NodeId,
    meta: SnapshotMeta,
    /// First byte that is missing.
    next_offset: u64,
    /// The end of the chunk that is being written.
    writing: Option<u64>,
    /// That chunk is the last: the state machine is being replaced.
    installing: bool,
}

/// The header of a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkHeader {
    pub(crate) offset: u64,
    pub(crate) done: bool,
}

impl<P: Payload> Node<P> {
    /// The state machine and the log file are being replaced. Until that is
    /// over no append is accepted and nothing is handed out: an entry that
    /// was acknowledged meanwhile would be dropped with the old log.
    pub(crate) fn is_installing(&self) -> bool {
        self.incoming.as_ref().is_some_and(|incoming| incoming.installing)
    }

    /// A chunk of the leader's snapshot arrived.
    pub(crate) fn on_snapshot_chunk(
        &mut self,
        from: NodeId,
        meta: SnapshotMeta,
        header: ChunkHeader,
        data: Vec<u8>,
    ) {
        if !self.hear_leader(from) || self.is_installing() {
            return;
        }
        if self.has_snapshot(from, &meta) {
            return;
        }
        let incoming = match &mut self.incoming {
            Some(before) if before.from == from && before.meta.index > meta.index => return,
            // A snapshot of the same index by another server may have other
            // bytes: only the same sender's can be resumed. A transfer that
            // does not begin at 0 is one of before this replica restarted:
            // the driver says what is left of it.
            Some(same) if same.from == from && same.meta == meta => same,
            before => {
                let next_offset = if before.is_some() { 0 } else { header.offset };
                self.incoming.insert(Incoming {
                    from,
                    meta,
                    next_offset,
                    writing: None,
                    installing: false,
                })
            }
        };
        if incoming.writing.is_some() {
            return;
        }
        let ChunkHeader { offset, done } = header;
        if offset == incoming.next_offset {
            incoming.writing = Some(offset + data.len() as u64);
            incoming.installing = done;
            let meta = incoming.meta.clone();
            self.out.snapshots.push(SnapshotTask::Write { meta, offset, data, done });
        } else {
            self.reply_snapshot(from);
        }
    }

    /// Whether the log contains what the snapshot stands for, so that there
    /// is nothing to install; then says so, once it is durable.
    fn has_snapshot(&mut self, from: NodeId, meta: &SnapshotMeta) -> bool {
        let index = meta.index;
        if index > self.commit && self.log.term_at(index) != Some(meta.term) {
            return false;
        }
        if self.config.has(PlantedBug::StaleSnapshot) {
            return false;
        }
        self.commit_to(index);
        self.incoming = None;
        if self.log.durable() >= index {
            self.matched_by_snapshot(index);
            let reply = Message::SnapshotReply { index, next_offset: 0, installed: true };
            self.out.say(&self.ballot, from, reply);
        }
        true
    }

    fn reply_snapshot(&mut self, to: NodeId) {
        let Some(incoming) = &self.incoming else { return };
        let (index, next_offset) = (incoming.meta.index, incoming.next_offset);
        let reply = Message::SnapshotReply { index, next_offset, installed: false };
        self.out.say(&self.ballot, to, reply);
    }

    /// The chunk of [`SnapshotTask::Write`] is in the side file, whose length
    /// is now `next_offset`; less than the end of the chunk when what is before
    /// it is not there (any more), and 0 when all had to be given up. With the last
    /// chunk `installed` says that the state machine and the log file have
    /// been replaced, durably.
    pub fn snapshot_written(
        &mut self,
        now: Time,
        index: Index,
        next_offset: u64,
        installed: Option<SnapshotMeta>,
    ) {
        self.advance(now);
        if let Some(meta) = installed {
            self.install(meta);
            return;
        }
        let Some(incoming) = &mut self.incoming else { return };
        // An answer about another transfer of the same snapshot is an old one.
        let expected = incoming.writing.is_some_and(|end| next_offset <= end);
        if incoming.meta.index != index || !expected {
            return;
        }
        incoming.next_offset = next_offset;
        incoming.writing = None;
        incoming.installing = false;
        let from = incoming.from;
        if self.leader == Some(from) {
            self.reply_snapshot(from);
        }
    }

    fn install(&mut self, meta: SnapshotMeta) {
        self.incoming = None;
        if meta.index <= self.applied && !self.config.has(PlantedBug::StaleSnapshot) {
            return;
        }
        // A replica that installs does not campaign; this is for a driver
        // that installed what it was not asked to.
        self.become_follower(self.term());
        let position = Position { index: meta.index, term: meta.term };
        let index = meta.index;
        self.log.reset(position);
        self.commit = index;
        self.applied = index;
        self.checkpoint = position;
        self.memberships = Memberships::new(index, meta.membership);
        self.note_membership();
        self.note_floor();
        self.matched_by_snapshot(index);
        if let Some(leader) = self.leader {
            let reply = Message::SnapshotReply { index, next_offset: 0, installed: true };
            self.out.say(&self.ballot, leader, reply);
        }
    }

    /// A chunk that [`SnapshotTask::Read`] asked for. If the snapshot that
    /// was asked for is gone, the first chunk of a newer one serves as well;
    /// no bytes and not `done`: none can be had now.
    pub fn snapshot_chunk(
        &mut self,
        now: Time,
        peer: NodeId,
        meta: SnapshotMeta,
        offset: u64,
        data: Vec<u8>,
        done: bool,
    ) {
        self.advance(now);
        let base = self.log.base().index;
        let usable = meta.index >= base && meta.index > 0 && meta.index <= self.commit;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peer(peer) else { return };
        let Supply::Snapshot(sending) = &mut peer.supply else { return };
        if sending.wait != Wait::Read {
            return;
        }
        if !usable || (data.is_empty() && !done) {
            // Asked again after the pause, for the newest.
            sending.reset(Wait::Read, now);
            return;
        }
        if (sending.index, sending.term) != (meta.index, meta.term) {
            let wait = if offset == 0 { Wait::Read } else { Wait::Nothing };
            sending.reset(wait, now);
            if offset != 0 {
                return;
            }
            sending.index = meta.index;
            sending.term = meta.term;
        } else if offset != sending.offset {
            return;
        }
        sending.wait = Wait::Reply;
        sending.since = now;
        let chunk = Message::SnapshotChunk { meta, offset, data, done };
        self.out.say(&self.ballot, peer.id, chunk);
    }

    /// How far the peer is with the snapshot.
    pub(crate) fn on_snapshot_reply(
        &mut self,
        from: NodeId,
        index: Index,
        next_offset: u64,
        installed: bool,
    ) {
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else { return };
        let Leader { peers, .. } = &mut **leader;
        let Some(peer) = peers.iter_mut().find(|peer| peer.id == from) else { return };
        peer.last_contact = now;
        let Supply::Snapshot(sending) = &mut peer.supply else { return };
        if sending.index != index || index == 0 {
            return;
        }
        if installed {
            peer.acknowledged(index, now);
            peer.probe_from(index + 1, false);
        } else if next_offset != sending.offset {
            sending.go_on_from(next_offset, now);
        }
    }
}
