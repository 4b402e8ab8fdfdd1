//! Which entries of writes that may be sent again take effect: a dumb twin of the
//! keystore's table of sessions, which keeps every number for ever.

use std::collections::{BTreeMap, BTreeSet};

use server::command::{Command, Operation, RequestId};
use server::keystore::sessions::SESSION_TTL_MS;

/// The time of last use moves in steps of this, in milliseconds.
const USE_STEP_MS: u64 = 1000;

#[derive(Default)]
pub(super) struct Sessions {
    clock_ms: u64,
    open: BTreeMap<u64, Session>,
}

#[derive(Default)]
struct Session {
    used_ms: u64,
    done_below: u64,
    applied: BTreeSet<u64>,
}

impl Sessions {
    /// Whether the entry changes the keystore. Entries are given in the order
    /// of the log.
    pub(super) fn admits(&mut self, command: &Command<'_>) -> bool {
        self.clock_ms = self.clock_ms.max(command.clock_ms);
        let clock_ms = self.clock_ms;
        let is_over = |then: u64| then + SESSION_TTL_MS < clock_ms;
        let stale = is_over(command.clock_ms);
        self.open.retain(|_, session| !is_over(session.used_ms));
        let is_first = command.id.is_none_or(|id| self.is_first(id, stale));
        if let Operation::OpenSession { session } = command.operation {
            if is_first && !stale {
                self.open.entry(session).or_default().touch(clock_ms);
            }
            return false;
        }
        is_first
    }

    /// Whether the write with this name has no effect yet, and can have one.
    fn is_first(&mut self, id: RequestId, stale: bool) -> bool {
        let clock_ms = self.clock_ms;
        let Some(session) = self.open.get_mut(&id.session).filter(|_| !stale) else { return false };
        if id.sequence < session.done_below || !session.applied.insert(id.sequence) {
            return false;
        }
        session.done_below = session.done_below.max(id.done_below.min(id.sequence));
        session.touch(clock_ms);
        true
    }
}

impl Session {
    fn touch(&mut self, clock_ms: u64) {
        if clock_ms >= self.used_ms + USE_STEP_MS {
            self.used_ms = clock_ms;
        }
    }
}
