//! A replica's thread: the sole owner of its Raft node and state machine.
//!
//! One turn, in the order that the core's contract asks for: everything that
//! has arrived, then the timer; what may leave at once leaves; the batch goes
//! to the disk, and what depends on it leaves after [`Done::Synced`]; what is
//! committed is applied; then snapshots, which must not overtake the batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft::{Body, Entry, Event, Index, NodeId, Output, RoleKind, SnapshotMeta, SnapshotTask, Time};
use tokio::sync::{broadcast, watch};

use super::config::{Observer, State, Status};
use super::disk::{Disk, Done};
use super::error::{Failure, ProposeError};
use super::inbox::{Inbox, Input, ReplyTo};
use super::network::{Frame, Port};
use super::waiting::{Proposals, Reads, untag};
use super::{Applied, Snapshot, StateMachine};
use crate::command::Payload;

/// Bytes of a snapshot in one message.
const CHUNK_BYTES: usize = 256 * 1024;

/// What the thread shares with the replica's handle.
pub(super) struct Shared {
    pub(super) status: watch::Sender<Status>,
    pub(super) applied: broadcast::Sender<Applied>,
    pub(super) applied_index: AtomicU64,
}

pub(super) struct Engine<M: StateMachine> {
    pub(super) node: raft::Node<Payload>,
    pub(super) machine: M,
    pub(super) port: Port,
    pub(super) disk: Disk,
    pub(super) inbox: Arc<Inbox<M>>,
    pub(super) shared: Arc<Shared>,
    pub(super) observer: Option<Observer>,
    pub(super) snapshot_entries: u64,
    /// Of reads.
    pub(super) deadline_us: Time,
    pub(super) output: Output<Payload>,
    pub(super) applied: Index,
    pub(super) proposals: Proposals<M::Reply>,
    pub(super) reads: Reads<M>,
    /// The newest snapshot of this replica; its state is empty at index 0.
    pub(super) snapshot: Snapshot,
    pub(super) saving: bool,
    /// A leader's snapshot that is arriving.
    pub(super) incoming: Option<(SnapshotMeta, Vec<u8>)>,
    pub(super) started: Instant,
}

impl<M: StateMachine> Engine<M> {
    /// Plays turns until asked to stop.
    pub(super) fn run(&mut self) -> Result<(), Failure> {
        let mut inputs = Vec::new();
        self.turn(self.now())?;
        loop {
            let timeout = self.node.next_deadline().saturating_sub(self.now());
            self.inbox.wait(Duration::from_micros(timeout), &mut inputs);
            let now = self.now();
            if self.node.leader().is_some() {
                for number in self.reads.ask_again() {
                    self.node.read(now, number);
                }
            }
            for input in inputs.drain(..) {
                if let Input::Stop = input {
                    return Ok(());
                }
                self.input(now, input)?;
            }
            if now >= self.node.next_deadline() {
                self.node.tick(now);
            }
            self.turn(now)?;
        }
    }

    fn now(&self) -> Time {
        self.started.elapsed().as_micros() as Time
    }

    fn input(&mut self, now: Time, input: Input<M>) -> Result<(), Failure> {
        match input {
            Input::Frame(Frame::Raft(envelope)) => self.node.step(now, envelope),
            Input::Frame(Frame::Forward { from, number, payload }) => {
                if self.node.propose(now, payload).is_err() {
                    self.port.send(from, Frame::Refused { number });
                }
            }
            Input::Frame(Frame::Refused { number }) => self.proposals.refused(number),
            Input::Propose { command, forward, reply } => {
                self.propose(now, &command, forward, reply);
            }
            Input::Read { linearizable: false, query } => query(Ok(&self.machine)),
            Input::Read { linearizable: true, query } => {
                let number = self.reads.ask(now + self.deadline_us, query);
                self.node.read(now, number);
            }
            Input::Disk(done) => self.disk_done(now, done)?,
            Input::Stop => {}
        }
        Ok(())
    }

    fn propose(&mut self, now: Time, command: &Bytes, forward: bool, reply: ReplyTo<M::Reply>) {
        let (number, payload) = self.proposals.tag(command);
        let leader = self.node.leader().filter(|_| forward && !self.node.is_leader());
        if let Some(leader) = leader {
            self.proposals.wait(number, None, reply);
            let from = self.node.id();
            self.port.send(leader, Frame::Forward { from, number, payload });
            return;
        }
        let error = match self.node.propose(now, payload) {
            Ok(place) => return self.proposals.wait(number, Some(place), reply),
            Err(raft::ProposeError::NotLeader { leader }) => ProposeError::NotLeader { leader },
            Err(raft::ProposeError::Transferring) => ProposeError::NotLeader { leader: None },
            Err(raft::ProposeError::Full) => ProposeError::Busy,
        };
        let _ = reply.send(Err(error));
    }

    fn disk_done(&mut self, now: Time, done: Done) -> Result<(), Failure> {
        match done {
            Done::Synced(mark) => {
                self.disk.written();
                self.node.synced(now, mark);
            }
            Done::Failed(error) => return Err(Failure::Disk(error)),
            Done::Fetched { peer, entries } => self.node.fetched(now, peer, entries),
            Done::Saved { snapshot, result } => {
                self.saving = false;
                match result {
                    Ok(()) => self.saved(snapshot),
                    // The log has everything; the next one may succeed.
                    Err(error) => tracing::error!(error, "no snapshot was saved"),
                }
            }
        }
        Ok(())
    }

    fn turn(&mut self, now: Time) -> Result<(), Failure> {
        loop {
            self.flush(now);
            self.apply();
            for ready in std::mem::take(&mut self.output.reads) {
                self.reads.ready(ready);
            }
            for request in std::mem::take(&mut self.output.reads_failed) {
                self.reads.failed(now, request);
            }
            self.reads.serve(now, self.applied, &self.machine);
            for fetch in self.output.fetch.drain(..) {
                self.disk.fetch(fetch);
            }
            let free = self.output.persist.is_none() && !self.disk.is_busy();
            if !free || self.output.snapshots.is_empty() {
                return Ok(());
            }
            for task in std::mem::take(&mut self.output.snapshots) {
                self.snapshot_task(now, task)?;
            }
        }
    }

    /// Sends, and hands the batch to the disk, again while the disk (which in
    /// memory is instant) makes more possible.
    fn flush(&mut self, now: Time) {
        loop {
            self.node.take_output(now, &mut self.output);
            for envelope in self.output.send.drain(..) {
                self.port.send(envelope.to, Frame::Raft(envelope));
            }
            self.note_events();
            let commit = self.node.commit();
            match self.disk.write(&mut self.output.persist, commit) {
                Some(mark) => self.node.synced(now, mark),
                None => return,
            }
        }
    }

    fn note_events(&mut self) {
        for event in self.output.events.drain(..) {
            match event {
                Event::Role { role, term, leader } => {
                    let state = match role {
                        RoleKind::Follower => State::Follower,
                        RoleKind::Candidate => State::Candidate,
                        RoleKind::Leader => State::Leader,
                    };
                    let status = Status { state, term, leader };
                    self.shared.status.send_replace(status);
                    if let Some(observer) = &self.observer {
                        observer(self.node.id(), status);
                    }
                }
                Event::Rejected { from, why } => {
                    tracing::warn!(from = from.0, why, "message of a replica refused");
                }
                Event::Membership { .. } | Event::Truncated { .. } | Event::FloorReached { .. } => {
                }
            }
        }
    }

    fn apply(&mut self) {
        for entry in std::mem::take(&mut self.output.committed) {
            self.apply_entry(&entry);
        }
        self.shared.applied_index.store(self.applied, Ordering::Release);
        if self.applied - self.snapshot.meta.index >= self.snapshot_entries && !self.saving {
            self.take_snapshot();
        }
    }

    fn apply_entry(&mut self, entry: &Entry<Payload>) {
        let (index, term) = (entry.index, entry.term);
        self.applied = index;
        let Body::Command(payload) = &entry.body else {
            self.proposals.applied(index, term, None);
            return;
        };
        let (tag, command) = untag(payload);
        let waiting = self.proposals.applied(index, term, tag);
        let reply = self.machine.apply(index, &command);
        // Before the reply, so that who has it finds the command in the
        // stream. Nobody may be listening.
        let _ = self.shared.applied.send(Applied { index, term, command });
        if let Some(waiting) = waiting {
            let _ = waiting.send(Ok(reply));
        }
    }

    fn take_snapshot(&mut self) {
        let Some(meta) = self.node.snapshot_meta(self.applied) else { return };
        let snapshot = Snapshot { meta, state: self.machine.snapshot().into() };
        match self.disk.save(snapshot) {
            Some(snapshot) => self.saved(snapshot),
            None => self.saving = true,
        }
    }

    fn saved(&mut self, snapshot: Snapshot) {
        let index = snapshot.meta.index;
        if index <= self.snapshot.meta.index {
            return;
        }
        self.node.checkpointed(index);
        self.snapshot = snapshot;
        if !self.disk.is_durable() {
            self.node.compact((index + 1).saturating_sub(self.snapshot_entries));
        }
    }

    fn snapshot_task(&mut self, now: Time, task: SnapshotTask) -> Result<(), Failure> {
        match task {
            SnapshotTask::Read { peer, index, offset } => self.read_chunk(now, peer, index, offset),
            SnapshotTask::Write { meta, offset, data, done } => {
                self.write_chunk(now, meta, offset, &data, done)?;
            }
        }
        Ok(())
    }

    fn read_chunk(&mut self, now: Time, peer: NodeId, index: Index, offset: u64) {
        let Snapshot { meta, state } = &self.snapshot;
        // Of another snapshot than the one asked for the first chunk serves.
        let offset = if meta.index == index { offset } else { 0 };
        let begin = usize::try_from(offset).unwrap_or(usize::MAX).min(state.len());
        let end = state.len().min(begin.saturating_add(CHUNK_BYTES));
        let done = end == state.len() && meta.index > 0;
        let data = state[begin..end].to_vec();
        self.node.snapshot_chunk(now, peer, meta.clone(), offset, data, done);
    }

    fn write_chunk(
        &mut self,
        now: Time,
        meta: SnapshotMeta,
        offset: u64,
        data: &[u8],
        done: bool,
    ) -> Result<(), Failure> {
        let index = meta.index;
        let mut state = match self.incoming.take() {
            Some((of, state)) if of == meta && offset > 0 => state,
            _ => Vec::new(),
        };
        if state.len() as u64 != offset {
            self.node.snapshot_written(now, index, 0, None);
            return Ok(());
        }
        state.extend_from_slice(data);
        let length = state.len() as u64;
        if !done {
            self.incoming = Some((meta, state));
            self.node.snapshot_written(now, index, length, None);
            return Ok(());
        }
        self.machine.restore(&state).map_err(|error| Failure::Restore(error.to_string()))?;
        let snapshot = Snapshot { meta: meta.clone(), state: state.into() };
        self.disk.install(&snapshot)?;
        self.snapshot = snapshot;
        self.applied = index;
        self.shared.applied_index.store(index, Ordering::Release);
        self.proposals.skipped(index);
        self.node.snapshot_written(now, index, length, Some(meta));
        Ok(())
    }
}
