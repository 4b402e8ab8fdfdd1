//! Exactly-once: which writes were applied that may be sent again, and with
//! what reply.
//!
//! A server that forwards writes, a load balancer, and a client that names its
//! own ([`common::memcached::write_token`]), opens one *session* and numbers
//! its writes. The table is part of the replicated state: it is
//! changed by entries of the log alone, expires by the clock that they carry,
//! and travels in checkpoints and snapshots, so that every replica decides
//! alike whether a write is a repetition (dissertation, section 6.3).
//!
//! - A session exists only once an entry has opened it. A write under an
//!   unknown or expired session is not applied: whoever sent it only once
//!   knows by that answer that it was not executed.
//! - A number that was answered before gets the same answer again.
//! - `done_below` comes with each write: the sender has the answers of all
//!   numbers below it, so that their replies may go.
//! - An entry that was stamped longer ago than sessions live is refused: one
//!   that was delayed for so long cannot bring a dead session back.
//!
//! The table is bounded: [`MAX_SESSIONS`], [`MAX_REPLIES`] in each and
//! [`MAX_ALL_REPLIES`] together; the session unused for longest goes first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Buf, BufMut};
use common::memcached::{NON_NUMERIC, Reply, TOO_LARGE};

use super::hash;
use crate::command::RequestId;

/// A session that was not used for so long has expired, in milliseconds of
/// the replicated clock.
pub const SESSION_TTL_MS: u64 = common::limits::SESSION_TTL.as_millis() as u64;

/// Sessions in the table, at the most.
pub const MAX_SESSIONS: usize = 4096;

/// Replies that a session keeps. A sender leaves fewer writes unanswered.
pub const MAX_REPLIES: usize = common::limits::MAX_UNANSWERED_WRITES as usize;

/// Replies of all sessions together, at the most.
pub const MAX_ALL_REPLIES: usize = 1 << 20;

/// The time of last use moves in steps of this, in milliseconds, so that a
/// busy session does not change it with every write.
const USE_STEP_MS: u64 = 1000;

/// Clients push out no session that was used within so many milliseconds: that
/// is longer than anybody asks for the outcome of a write.
pub const SPARED_MS: u64 = 10_000;

/// What is known of a write before it is applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Known {
    /// Not applied yet: to be applied now, its reply to be
    /// [recorded](Sessions::record).
    New,
    /// Applied before, with this reply.
    Applied(Reply),
    /// There is no such session (any more): not to be applied.
    NoSession,
    /// Answered, and the answer forgotten, as the sender asked: not to be
    /// applied.
    Forgotten,
}

/// The table. Cloning it shares the sessions, until one changes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Sessions {
    table: BTreeMap<u64, Arc<Session>>,
    /// Replies in it.
    replies: usize,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Session {
    used_ms: u64,
    done_below: u64,
    /// By number, ascending.
    replies: VecDeque<(u64, Stored)>,
}

/// A reply in few bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stored {
    Text(u8),
    Number(u64),
}

/// The replies that applying a command can give, but for numbers. The
/// position is the code on disk: add at the end, never move.
const TEXTS: [Reply; 8] = [
    Reply::Stored,
    Reply::NotStored,
    Reply::Exists,
    Reply::NotFound,
    Reply::Deleted,
    Reply::Ok,
    Reply::Error(NON_NUMERIC),
    Reply::Error(TOO_LARGE),
];

/// The code of numbers on disk.
const NUMBER: u8 = u8::MAX;

impl Sessions {
    /// Opens `session`, or finds it open. `stamp_ms` is the entry's own time,
    /// `clock_ms` the replicated clock. False: the entry is too old.
    pub fn open(&mut self, session: u64, stamp_ms: u64, clock_ms: u64) -> bool {
        if is_stale(stamp_ms, clock_ms) || session == 0 {
            return false;
        }
        if self.find(session, clock_ms).is_none() {
            self.table.retain(|_, session| !is_stale(session.used_ms, clock_ms));
            self.replies = self.table.values().map(|session| session.replies.len()).sum();
            if self.table.len() >= MAX_SESSIONS {
                self.remove_oldest_but(session);
            }
            self.table.insert(session, Arc::default());
        }
        self.touch(session, clock_ms);
        true
    }

    /// Whether another one can be opened without an end to one that was used
    /// within [`SPARED_MS`].
    pub fn has_room(&self, clock_ms: u64) -> bool {
        let is_spared = |session: &Session| session.used_ms.saturating_add(SPARED_MS) >= clock_ms;
        self.table.len() < MAX_SESSIONS || !self.table.values().all(|session| is_spared(session))
    }

    /// What is to become of the write `id`.
    pub fn look(&self, id: RequestId, stamp_ms: u64, clock_ms: u64) -> Known {
        if is_stale(stamp_ms, clock_ms) {
            return Known::NoSession;
        }
        let Some(session) = self.find(id.session, clock_ms) else { return Known::NoSession };
        if id.sequence < session.done_below {
            return Known::Forgotten;
        }
        match session.replies.binary_search_by_key(&id.sequence, |(sequence, _)| *sequence) {
            Ok(position) => Known::Applied(session.replies[position].1.reply()),
            Err(_) => Known::New,
        }
    }

    /// Keeps the reply of a write that was applied just now.
    pub fn record(&mut self, id: RequestId, reply: &Reply, clock_ms: u64) {
        let Some(session) = self.table.get_mut(&id.session).map(Arc::make_mut) else { return };
        let before = session.replies.len();
        session.insert(id.sequence, Stored::of(reply));
        // Not beyond the write itself: its own reply may have to be repeated.
        session.forget_below(id.done_below.min(id.sequence));
        if session.replies.len() > MAX_REPLIES {
            let (lowest, _) = session.replies[session.replies.len() - MAX_REPLIES];
            session.forget_below(lowest);
        }
        self.replies = self.replies - before + session.replies.len();
        self.touch(id.session, clock_ms);
        while self.replies > MAX_ALL_REPLIES && self.table.len() > 1 {
            self.remove_oldest_but(id.session);
        }
    }

    fn remove_oldest_but(&mut self, spared: u64) {
        let others = self.table.iter().filter(|(id, _)| **id != spared);
        if let Some((&oldest, _)) = others.min_by_key(|(id, session)| (session.used_ms, **id)) {
            let gone = self.table.remove(&oldest);
            self.replies -= gone.map_or(0, |session| session.replies.len());
        }
    }

    /// Number of sessions, expired ones included until their place is needed.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Replies that are kept, of all sessions.
    pub fn replies(&self) -> usize {
        self.replies
    }

    fn find(&self, session: u64, clock_ms: u64) -> Option<&Session> {
        self.table.get(&session).map(AsRef::as_ref).filter(|s| !is_stale(s.used_ms, clock_ms))
    }

    fn touch(&mut self, session: u64, clock_ms: u64) {
        if let Some(session) = self.table.get_mut(&session)
            && clock_ms >= session.used_ms.saturating_add(USE_STEP_MS)
        {
            Arc::make_mut(session).used_ms = clock_ms;
        }
    }

    /// Appends the table, by session, ascending:
    ///
    /// ```text
    /// table    count:u32 session*
    /// session  id:u64 used_ms:u64 done_below:u64 count:u32 reply*
    /// reply    sequence:u64 code:u8 [number:u64 when code = 255]
    /// ```
    /// Integers are little-endian.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u32_le(self.table.len() as u32);
        for (id, session) in &self.table {
            session.encode(*id, out);
        }
    }

    /// One number for the whole table: from 0 on, for each session, XXH3-64 of
    /// its bytes as [`Sessions::encode`] has them, with the number so far as
    /// seed. Takes time in proportion to the replies that are kept.
    pub(super) fn digest(&self) -> u64 {
        let mut bytes = Vec::new();
        self.table.iter().fold(0, |before, (id, session)| {
            bytes.clear();
            session.encode(*id, &mut bytes);
            hash::chained(&bytes, before)
        })
    }

    /// Reads back what [`Sessions::encode`] wrote; `None`: it is something
    /// else.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut sessions = Sessions::default();
        for _ in 0..bytes.try_get_u32_le().ok()? {
            let id = bytes.try_get_u64_le().ok()?;
            let session = Session::decode(&mut bytes)?;
            let ascends = sessions.table.last_key_value().is_none_or(|(before, _)| *before < id);
            if !ascends || id == 0 {
                return None;
            }
            sessions.replies += session.replies.len();
            sessions.table.insert(id, Arc::new(session));
        }
        bytes.is_empty().then_some(sessions)
    }
}

impl Session {
    fn encode(&self, id: u64, out: &mut impl BufMut) {
        out.put_u64_le(id);
        out.put_u64_le(self.used_ms);
        out.put_u64_le(self.done_below);
        out.put_u32_le(self.replies.len() as u32);
        for (sequence, reply) in &self.replies {
            out.put_u64_le(*sequence);
            match reply {
                Stored::Text(code) => out.put_u8(*code),
                Stored::Number(number) => {
                    out.put_u8(NUMBER);
                    out.put_u64_le(*number);
                }
            }
        }
    }

    fn insert(&mut self, sequence: u64, reply: Stored) {
        // Nearly always the highest so far.
        let at = self.replies.partition_point(|(before, _)| *before < sequence);
        self.replies.insert(at, (sequence, reply));
    }

    fn forget_below(&mut self, sequence: u64) {
        if sequence <= self.done_below {
            return;
        }
        self.done_below = sequence;
        while self.replies.front().is_some_and(|(lowest, _)| *lowest < sequence) {
            self.replies.pop_front();
        }
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let used_ms = bytes.try_get_u64_le().ok()?;
        let done_below = bytes.try_get_u64_le().ok()?;
        let count = bytes.try_get_u32_le().ok()? as usize;
        let mut session = Session { used_ms, done_below, replies: VecDeque::new() };
        for _ in 0..count {
            let sequence = bytes.try_get_u64_le().ok()?;
            let reply = match bytes.try_get_u8().ok()? {
                NUMBER => Stored::Number(bytes.try_get_u64_le().ok()?),
                code if usize::from(code) < TEXTS.len() => Stored::Text(code),
                _ => return None,
            };
            let ascends = session.replies.back().is_none_or(|(before, _)| *before < sequence);
            if !ascends || sequence < done_below {
                return None;
            }
            session.replies.push_back((sequence, reply));
        }
        Some(session)
    }
}

impl Stored {
    fn of(reply: &Reply) -> Self {
        match reply {
            Reply::Number(number) => Stored::Number(*number),
            reply => {
                let code = TEXTS.iter().position(|text| text == reply);
                debug_assert!(code.is_some(), "{reply:?} needs a code");
                // Without one it is told as what it is: not certain.
                Stored::Text(code.unwrap_or(usize::from(NUMBER - 1)) as u8)
            }
        }
    }

    fn reply(self) -> Reply {
        match self {
            Stored::Number(number) => Reply::Number(number),
            Stored::Text(code) => TEXTS
                .get(usize::from(code))
                .cloned()
                .unwrap_or(Reply::Error(common::memcached::UNKNOWN)),
        }
    }
}

/// Whether something of `then_ms` has outlived a session's time.
fn is_stale(then_ms: u64, clock_ms: u64) -> bool {
    then_ms.saturating_add(SESSION_TTL_MS) < clock_ms
}

#[cfg(test)]
mod tests;
