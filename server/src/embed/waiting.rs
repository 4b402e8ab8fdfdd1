//! Commands that wait for their outcome, and reads that wait for their index.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft::{Index, ReadReady, Term, Time};

use super::StateMachine;
use super::error::{ProposeError, ReadError};
use super::inbox::{Query, ReplyTo};
use crate::command::Payload;

/// Before the command in an entry: who proposed it, and its number there. So
/// the proposer knows its command again, whichever replica put it into the log.
const TAG_BYTES: usize = 16;

/// A look at who still waits is worth it once so many do.
const MANY: usize = 1024;

/// The commands that were proposed here.
pub(super) struct Proposals<R> {
    /// Random, a new one for each start.
    origin: u64,
    last_number: u64,
    waiting: BTreeMap<u64, ReplyTo<R>>,
    /// Where those are that this replica put into the log itself; ascending.
    placed: VecDeque<(Index, Term, u64)>,
    look_at: usize,
}

impl<R> Proposals<R> {
    pub(super) fn new() -> Self {
        Proposals {
            origin: rand::random(),
            last_number: 0,
            waiting: BTreeMap::new(),
            placed: VecDeque::new(),
            look_at: MANY,
        }
    }

    /// The command with its tag, and its number.
    pub(super) fn tag(&mut self, command: &[u8]) -> (u64, Payload) {
        self.last_number += 1;
        let mut bytes = BytesMut::with_capacity(TAG_BYTES + command.len());
        bytes.put_u64_le(self.origin);
        bytes.put_u64_le(self.last_number);
        bytes.put_slice(command);
        (self.last_number, Payload(bytes.freeze()))
    }

    /// `reply` waits for the command `number`, which this replica has put
    /// into the log at `place`, or forwarded.
    pub(super) fn wait(&mut self, number: u64, place: Option<(Index, Term)>, reply: ReplyTo<R>) {
        if self.waiting.len() >= self.look_at {
            self.waiting.retain(|_, reply| !reply.is_closed());
            self.look_at = MANY.max(2 * self.waiting.len());
        }
        self.waiting.insert(number, reply);
        if let Some((index, term)) = place {
            self.placed.push_back((index, term, number));
        }
    }

    /// The entry at `index` is being applied: who waits for it, if it was
    /// proposed here. Whose command was replaced by it is told.
    pub(super) fn applied(
        &mut self,
        index: Index,
        term: Term,
        tag: Option<Tag>,
    ) -> Option<ReplyTo<R>> {
        while let Some(&(at, of, number)) = self.placed.front().filter(|(at, ..)| *at <= index) {
            self.placed.pop_front();
            if (at, of) != (index, term)
                && let Some(reply) = self.waiting.remove(&number)
            {
                let _ = reply.send(Err(ProposeError::NotExecuted));
            }
        }
        let tag = tag.filter(|tag| tag.origin == self.origin)?;
        self.waiting.remove(&tag.number)
    }

    /// The forwarded command `number` was refused.
    pub(super) fn refused(&mut self, number: u64) {
        if let Some(reply) = self.waiting.remove(&number) {
            let _ = reply.send(Err(ProposeError::NotLeader { leader: None }));
        }
    }

    /// A snapshot took the place of the entries up to `index`.
    pub(super) fn skipped(&mut self, index: Index) {
        while let Some(&(_, _, number)) = self.placed.front().filter(|(at, ..)| *at <= index) {
            self.placed.pop_front();
            if let Some(reply) = self.waiting.remove(&number) {
                let _ = reply.send(Err(ProposeError::OutcomeUnknown));
            }
        }
    }
}

/// Who proposed a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tag {
    origin: u64,
    number: u64,
}

/// Takes the tag off a payload; without one it is empty.
pub(super) fn untag(payload: &Payload) -> (Option<Tag>, Bytes) {
    let mut bytes = payload.0.clone();
    if bytes.len() < TAG_BYTES {
        return (None, Bytes::new());
    }
    let tag = Tag { origin: bytes.get_u64_le(), number: bytes.get_u64_le() };
    (Some(tag), bytes)
}

/// The reads that were asked here.
pub(super) struct Reads<M: StateMachine> {
    last_number: u64,
    /// The core was asked.
    asked: BTreeMap<u64, Waiting<M>>,
    /// To be served once the index is applied.
    ready: Vec<(Index, Query<M>)>,
    /// The core found no leader: to be asked again once there is one.
    parked: Vec<Waiting<M>>,
}

struct Waiting<M: StateMachine> {
    deadline: Time,
    query: Query<M>,
}

impl<M: StateMachine> Reads<M> {
    pub(super) fn new() -> Self {
        Reads { last_number: 0, asked: BTreeMap::new(), ready: Vec::new(), parked: Vec::new() }
    }

    /// The number to ask the core under.
    pub(super) fn ask(&mut self, deadline: Time, query: Query<M>) -> u64 {
        self.last_number += 1;
        self.asked.insert(self.last_number, Waiting { deadline, query });
        self.last_number
    }

    /// The numbers to ask the core again under.
    pub(super) fn ask_again(&mut self) -> Vec<u64> {
        let parked = std::mem::take(&mut self.parked);
        parked.into_iter().map(|waiting| self.ask(waiting.deadline, waiting.query)).collect()
    }

    pub(super) fn ready(&mut self, ready: ReadReady) {
        if let Some(waiting) = self.asked.remove(&ready.request) {
            self.ready.push((ready.index, waiting.query));
        }
    }

    pub(super) fn failed(&mut self, now: Time, request: u64) {
        match self.asked.remove(&request) {
            Some(waiting) if now < waiting.deadline => self.parked.push(waiting),
            Some(waiting) => (waiting.query)(Err(ReadError::NoLeader)),
            None => {}
        }
    }

    /// Answers what may be answered.
    pub(super) fn serve(&mut self, now: Time, applied: Index, machine: &M) {
        for (_, query) in self.ready.extract_if(.., |(index, _)| *index <= applied) {
            query(Ok(machine));
        }
        for waiting in self.parked.extract_if(.., |waiting| waiting.deadline <= now) {
            (waiting.query)(Err(ReadError::NoLeader));
        }
    }
}
