//! Which entries of writes that may be sent again take effect: a dumb twin of the
//! keystore's table of sessions, which keeps every number for as long as it
//! keeps the session.

use std::collections::{BTreeMap, BTreeSet};

use raft::Index;
use server::command::{Command, Operation, RequestId};
use server::keystore::sessions::{Limits, SESSION_TTL_MS};

/// The time of last use moves in steps of this, in milliseconds.
const USE_STEP_MS: u64 = 1000;

pub(super) struct Sessions {
    limits: Limits,
    clock_ms: u64,
    open: BTreeMap<u64, Session>,
}

#[derive(Default)]
struct Session {
    used: Index,
    used_ms: u64,
    done_below: u64,
    applied: BTreeSet<u64>,
}

impl Sessions {
    pub(super) fn new(limits: Limits) -> Self {
        Sessions { limits, clock_ms: 0, open: BTreeMap::new() }
    }

    /// Whether the entry at `index` changes the keystore. Entries are given in
    /// the order of the log.
    pub(super) fn admits(&mut self, index: Index, command: &Command<'_>) -> bool {
        self.clock_ms = self.clock_ms.max(command.clock_ms);
        let stale = self.is_over(command.clock_ms);
        if command.id.is_some_and(|id| stale || !self.is_first(id)) {
            return false;
        }
        if let Some(id) = command.id {
            self.touch(id.session, index);
        }
        let opens = match command.operation {
            Operation::OpenSession { session } => Some(session),
            _ => None,
        };
        if let Some(session) = opens.filter(|_| !stale) {
            self.open(session, index);
        }
        if let Some(id) = command.id {
            self.record(id);
        }
        opens.is_none()
    }

    fn is_over(&self, then_ms: u64) -> bool {
        is_over(then_ms, self.clock_ms)
    }

    /// Whether the write with this name has no effect yet, and can have one.
    fn is_first(&self, id: RequestId) -> bool {
        self.open.get(&id.session).is_some_and(|session| {
            !self.is_over(session.used_ms)
                && id.sequence >= session.done_below
                && !session.applied.contains(&id.sequence)
        })
    }

    fn touch(&mut self, session: u64, index: Index) {
        let clock_ms = self.clock_ms;
        let session = self.open.entry(session).or_default();
        session.used = index;
        if clock_ms >= session.used_ms + USE_STEP_MS {
            session.used_ms = clock_ms;
        }
    }

    fn open(&mut self, session: u64, index: Index) {
        let is_open = self.open.get(&session).is_some_and(|open| !self.is_over(open.used_ms));
        if !is_open {
            let clock_ms = self.clock_ms;
            self.open.retain(|_, open| !is_over(open.used_ms, clock_ms));
            if self.open.len() >= self.limits.sessions {
                self.push_out(session);
            }
        }
        self.touch(session, index);
    }

    fn record(&mut self, id: RequestId) {
        let Some(session) = self.open.get_mut(&id.session) else { return };
        session.applied.insert(id.sequence);
        session.done_below = session.done_below.max(id.done_below.min(id.sequence));
        while self.replies() > self.limits.replies && self.open.len() > 1 {
            self.push_out(id.session);
        }
    }

    fn replies(&self) -> usize {
        self.open.values().map(|open| open.applied.range(open.done_below..).count()).sum()
    }

    /// The one that was used before all others goes, but not this one.
    fn push_out(&mut self, but: u64) {
        let others = self.open.iter().filter(|(id, _)| **id != but);
        let first = others.min_by_key(|(id, open)| (open.used, open.used_ms, **id));
        if let Some(id) = first.map(|(id, _)| *id) {
            self.open.remove(&id);
        }
    }
}

fn is_over(then_ms: u64, clock_ms: u64) -> bool {
    then_ms + SESSION_TTL_MS < clock_ms
}
