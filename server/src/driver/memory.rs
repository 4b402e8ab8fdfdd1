//! The memory limit of this server, and the room for sessions. Only a leader
//! looks at them, before it proposes: what is in the log is applied everywhere,
//! whatever the limits.

use common::memcached::{OUT_OF_MEMORY, Request, StoreVerb, TOO_MANY_SESSIONS};

use super::job::{Job, Need, need};
use super::{Driver, Now};
use crate::keystore::sessions::Use;
use crate::keystore::{ITEM_OVERHEAD_BYTES, PlantedBug};

impl Driver {
    /// Puts a refusal in the place of every session that a client wants to
    /// open while there is room for none, but in the place of one that was used
    /// lately: a crowd of clients must not end the sessions of writes that are
    /// under way. How many sessions the batch opens; those that are proposed and
    /// not applied yet count as there already.
    pub(super) fn refuse_sessions(&mut self, now: Now, job: &mut Job) -> usize {
        let mut opens = usize::from(job.opens.is_some());
        let opens_one = |request: &Request| matches!(request, Request::OpenSession { .. });
        if !job.batch.requests[job.cursor..].iter().any(opens_one) {
            return opens;
        }
        let lately_behind = self.used_lately_behind(now);
        // The keystore's clock stands still while nothing is written.
        let clock_ms = self.clock_ms.max(now.wall_ms);
        let by_clock = self.keystore.has(PlantedBug::JudgedByClock);
        let spared_ms = self.keystore.sessions().limits().spared_us / 1_000;
        let is_spared = |last: Use| match by_clock {
            true => last.clock_ms.saturating_add(spared_ms) >= clock_ms,
            false => lately_behind.is_none_or(|behind| last.index > behind),
        };
        let under_way: usize = self.proposed.iter().map(|batch| batch.opens).sum();
        let sessions = self.keystore.sessions();
        // Looked at once, and not while there are free places.
        let mut room = None;
        let mut has_room_for = |count: usize| {
            let look = || sessions.room(clock_ms, is_spared);
            count <= sessions.free() || count <= *room.get_or_insert_with(look)
        };
        for request in &mut job.batch.requests[job.cursor..] {
            let Request::OpenSession { session } = *request else { continue };
            if sessions.is_open(session, clock_ms) {
                continue;
            }
            if job.exposed || has_room_for(under_way + opens + 1) {
                opens += 1;
            } else {
                let reply = TOO_MANY_SESSIONS;
                *request = Request::Invalid { reply, silent: false, close: false };
            }
        }
        opens
    }

    /// Puts a refusal in the place of every store for which there is no room;
    /// the bytes by which the others may make the keystore grow. What is
    /// proposed and not applied yet counts as there already.
    pub(super) fn refuse_beyond_memory(&self, job: &mut Job) -> u64 {
        let under_way: u64 = self.proposed.iter().map(|batch| batch.growth).sum();
        let mut growth = 0;
        for request in &mut job.batch.requests[job.cursor..] {
            if need(request) != Need::Log {
                continue;
            }
            let Request::Store { verb, key, value, noreply, .. } = request else { continue };
            let old = self.keystore.get(key).map(|item| item.value.len());
            let bytes = match verb {
                StoreVerb::Append | StoreVerb::Prepend => old.unwrap_or(0) + value.len(),
                StoreVerb::Set | StoreVerb::Add | StoreVerb::Replace | StoreVerb::Cas(_) => {
                    value.len()
                }
            };
            let more = match old {
                Some(old) => bytes.saturating_sub(old) as u64,
                None => ITEM_OVERHEAD_BYTES + (key.len() + bytes) as u64,
            };
            if more == 0 || self.keystore.has_room(key, bytes + (under_way + growth) as usize) {
                growth += more;
            } else {
                let silent = *noreply;
                *request = Request::Invalid { reply: OUT_OF_MEMORY, silent, close: false };
            }
        }
        growth
    }
}
