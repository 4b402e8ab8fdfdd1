//! The memory limit of this server, and the room for sessions. Only a leader
//! looks at them, before it proposes: what is in the log is applied everywhere,
//! whatever the limits.

use common::memcached::{OUT_OF_MEMORY, Request, StoreVerb, TOO_MANY_SESSIONS};

use super::job::{Job, Need, need};
use super::{Driver, Now};
use crate::keystore::ITEM_OVERHEAD_BYTES;

impl Driver {
    /// Puts a refusal in the place of every session that a client wants to
    /// open while there is room for none, but in the place of one in use: a
    /// crowd of clients must not end the sessions of writes that are under way.
    pub(super) fn refuse_sessions(&self, now: Now, job: &mut Job) {
        // The keystore's clock stands still while nothing is written.
        let clock_ms = self.clock_ms.max(now.wall_ms);
        for request in &mut job.batch.requests[job.cursor..] {
            if matches!(request, Request::OpenSession { .. })
                && !job.exposed
                && !self.keystore.sessions().has_room(clock_ms)
            {
                let reply = TOO_MANY_SESSIONS;
                *request = Request::Invalid { reply, silent: false, close: false };
            }
        }
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
