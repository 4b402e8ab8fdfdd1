//! What a turn has produced so far, and the rule what may leave when.

use alloc::vec::Vec;

use crate::message::{Envelope, Message};
use crate::output::{Event, Fetch, ReadReady, SnapshotTask};
use crate::types::{HardState, NodeId, Term};

/// Messages kept back at the most while the disk is stuck. They are answers,
/// and those who wait for them ask again.
const MAX_HELD: usize = 64;

/// Term and vote: in memory, given to the disk, known to be on it.
#[derive(Clone, Debug)]
pub(crate) struct Ballot {
    pub(crate) current: HardState,
    pub(crate) persisted: HardState,
    pub(crate) durable: HardState,
}

impl Ballot {
    pub(crate) fn new(restored: HardState) -> Self {
        Ballot { current: restored, persisted: restored, durable: restored }
    }

    pub(crate) fn term(&self) -> Term {
        self.current.term
    }

    /// Term and vote only ever move on, so that equal values are the same
    /// state.
    pub(crate) fn is_durable(&self) -> bool {
        self.durable == self.current
    }
}

/// Everything that waits for `take_output`, except the log.
#[derive(Clone, Debug)]
pub(crate) struct Outbox<P> {
    pub(crate) id: NodeId,
    pub(crate) send: Vec<Envelope<P>>,
    /// Said under a term or a vote that is not durable yet.
    held: Vec<Envelope<P>>,
    pub(crate) reads: Vec<ReadReady>,
    pub(crate) reads_failed: Vec<u64>,
    pub(crate) fetch: Vec<Fetch>,
    pub(crate) snapshots: Vec<SnapshotTask>,
    pub(crate) events: Vec<Event>,
    pub(crate) rejected: u64,
}

impl<P> Outbox<P> {
    pub(crate) fn new(id: NodeId) -> Self {
        Outbox {
            id,
            send: Vec::new(),
            held: Vec::new(),
            reads: Vec::new(),
            reads_failed: Vec::new(),
            fetch: Vec::new(),
            snapshots: Vec::new(),
            events: Vec::new(),
            rejected: 0,
        }
    }

    /// Says something in the current term. It leaves only once term and vote
    /// are durable: nothing that was said can be forgotten by a crash (paper,
    /// figure 2, "updated on stable storage before responding to RPCs"). That
    /// holds for requests for votes, too: a candidate that forgot its term
    /// could campaign in it again with a shorter log, and count votes that
    /// were given to the longer one.
    pub(crate) fn say(&mut self, ballot: &Ballot, to: NodeId, message: Message<P>) {
        let envelope = Envelope { from: self.id, to, term: ballot.term(), message };
        if ballot.is_durable() {
            self.send.push(envelope);
        } else if self.held.len() < MAX_HELD {
            self.held.push(envelope);
        }
    }

    /// Says something that changes no state and promises nothing: pre-votes.
    pub(crate) fn say_freely(&mut self, to: NodeId, term: Term, message: Message<P>) {
        self.send.push(Envelope { from: self.id, to, term, message });
    }

    /// Term and vote are durable now.
    pub(crate) fn release(&mut self) {
        self.send.append(&mut self.held);
    }

    /// The term moved on: what was held back is of no use to anybody now.
    pub(crate) fn drop_held(&mut self) {
        self.held.clear();
    }

    /// Refuses a message at the boundary.
    pub(crate) fn reject(&mut self, from: NodeId, why: &'static str) {
        self.rejected += 1;
        // One event in a turn says enough; the counter tells how many.
        if !self.events.iter().any(|event| matches!(event, Event::Rejected { .. })) {
            self.events.push(Event::Rejected { from, why });
        }
    }

    pub(crate) fn is_empty_beside_snapshots(&self) -> bool {
        self.send.is_empty()
            && self.reads.is_empty()
            && self.reads_failed.is_empty()
            && self.fetch.is_empty()
            && self.events.is_empty()
    }
}
