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
//! [`MAX_ALL_REPLIES`] together. Where that takes the end of a session, it is
//! that of the one whose last use is furthest back *in the log*: each keeps the
//! index of the entry that used it last, which no clock can move.
//!
//! Clients push out none that was used lately. What that means is not for the
//! replicas to decide but for the leader, before it proposes, by its own
//! monotonic clock (`server/src/driver/uses.rs`).
//!
//! # A clock that is wrong
//!
//! The replicated clock never goes back. A leader whose wall clock was far ahead
//! leaves it there, and it stands still until real time has caught up.
//!
//! - What holds whatever the clocks say: a write is applied once, and gets the same
//!   reply each time; all replicas have the same table; who is pushed out, and
//!   who is spared.
//! - When it jumps ahead by more than a session lives, all sessions end at once,
//!   those in use, too. A write that is sent again then is answered as one whose
//!   outcome is unknown, and is not applied; one that was sent only once gets
//!   another session. It happens once for each jump.
//! - While it stands still no session expires, because every use has the same
//!   stamp. A session then lives until its place is needed: what is known of a
//!   write is kept for longer, not for less long. A write that was under way
//!   for longer than sessions live and was never applied may then still be
//!   applied, once, like one that was under way for a moment.
//! - The stamps of entries go up along the log, so that an entry is found to be
//!   too old only if it was stamped by a leader that broke that rule.
//!
//! # Older versions
//!
//! A file of an earlier version holds no index: 0 stands for one that is not
//! known, and among those the time of last use decides, as it did then. Replicas
//! that began from such files at different entries know the index of different
//! sessions until those are used again. That is why the digest of the table
//! leaves it out: they would be taken for damaged. Should one end another session than
//! the others meanwhile, which takes a full table, the digest shows that. The same goes
//! for a server of an earlier version among those of this one: it goes by the
//! clock.

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

/// Clients push out no session that was used within so many microseconds: that
/// is longer than anybody asks for the outcome of a write.
pub const SPARED_US: u64 = 10_000_000;

/// How much the table holds. The same on all replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Sessions, at the most.
    pub sessions: usize,
    /// Replies of all of them together, at the most.
    pub replies: usize,
    /// Clients push out no session that was used within so many microseconds.
    pub spared_us: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { sessions: MAX_SESSIONS, replies: MAX_ALL_REPLIES, spared_us: SPARED_US }
    }
}

/// The last use of a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Use {
    /// Index of the entry; 0: in an earlier version of this program, which did
    /// not keep it.
    pub index: u64,
    /// The replicated clock then, about.
    pub clock_ms: u64,
}

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
    table: BTreeMap<u64, Slot>,
    /// Replies in it.
    replies: usize,
    limits: Limits,
}

/// A session in the table. What moves with every use is beside what is shared with
/// frozen tables, so that nothing is copied for it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Slot {
    used_index: u64,
    session: Arc<Session>,
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
    /// Opens `session`, or finds it open, by the entry at `index`. `stamp_ms` is
    /// the entry's own time, `clock_ms` the replicated clock. False: the entry is
    /// too old.
    pub fn open(&mut self, session: u64, stamp_ms: u64, clock_ms: u64, index: u64) -> bool {
        if is_stale(stamp_ms, clock_ms) || session == 0 {
            return false;
        }
        if !self.is_open(session, clock_ms) {
            self.table.retain(|_, slot| !is_stale(slot.session.used_ms, clock_ms));
            self.replies = self.table.values().map(|slot| slot.session.replies.len()).sum();
            if self.table.len() >= self.limits.sessions {
                self.remove_oldest_but(session);
            }
            self.table.insert(session, Slot::default());
        }
        self.touch(session, clock_ms, index);
        true
    }

    /// The entry at `index` uses `session`, if that is there.
    pub(super) fn touch(&mut self, session: u64, clock_ms: u64, index: u64) {
        let Some(slot) = self.table.get_mut(&session) else { return };
        slot.used_index = index;
        if slot.session.is_used_later(clock_ms) {
            Arc::make_mut(&mut slot.session).used_ms = clock_ms;
        }
    }

    /// Whether `session` is open.
    pub fn is_open(&self, session: u64, clock_ms: u64) -> bool {
        self.find(session, clock_ms).is_some()
    }

    /// So many more have a place of their own.
    pub fn free(&self) -> usize {
        self.limits.sessions.saturating_sub(self.table.len())
    }

    /// So many can be opened at `clock_ms` without an end to one that
    /// `is_spared`, by its last use. Looks at all of them.
    pub fn room(&self, clock_ms: u64, is_spared: impl Fn(Use) -> bool) -> usize {
        let may_go =
            |slot: &&Slot| is_stale(slot.session.used_ms, clock_ms) || !is_spared(slot.last_use());
        self.free() + self.table.values().filter(may_go).count()
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

    /// Keeps the reply of a write that was applied just now, by the entry at
    /// `index`.
    pub fn record(&mut self, id: RequestId, reply: &Reply, clock_ms: u64, index: u64) {
        let Some(slot) = self.table.get_mut(&id.session) else { return };
        slot.used_index = index;
        let session = Arc::make_mut(&mut slot.session);
        if session.is_used_later(clock_ms) {
            session.used_ms = clock_ms;
        }
        let before = session.replies.len();
        session.insert(id.sequence, Stored::of(reply));
        // Not beyond the write itself: its own reply may have to be repeated.
        session.forget_below(id.done_below.min(id.sequence));
        if session.replies.len() > MAX_REPLIES {
            let (lowest, _) = session.replies[session.replies.len() - MAX_REPLIES];
            session.forget_below(lowest);
        }
        self.replies = self.replies - before + session.replies.len();
        while self.replies > self.limits.replies && self.table.len() > 1 {
            self.remove_oldest_but(id.session);
        }
    }

    fn remove_oldest_but(&mut self, spared: u64) {
        let others = self.table.iter().filter(|(id, _)| **id != spared);
        if let Some((&oldest, _)) = others.min_by_key(|(id, slot)| (slot.last_use(), **id)) {
            let gone = self.table.remove(&oldest);
            self.replies -= gone.map_or(0, |slot| slot.session.replies.len());
        }
    }

    /// The last use of each session.
    pub fn uses(&self) -> impl Iterator<Item = (u64, Use)> {
        self.table.iter().map(|(id, slot)| (*id, slot.last_use()))
    }

    /// How much the table holds.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// As if the table held less. To be the same on all replicas.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// As a file of an earlier version would bring it back.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub(crate) fn without_uses(mut self) -> Self {
        self.table.values_mut().for_each(|slot| slot.used_index = 0);
        self
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
        let session = &*self.table.get(&session)?.session;
        (!is_stale(session.used_ms, clock_ms)).then_some(session)
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
        for (id, slot) in &self.table {
            slot.session.encode(*id, out);
        }
    }

    /// Appends what [`Sessions::encode`] leaves out, so that earlier versions
    /// read the rest: the index of the last use of each session, in the same order.
    ///
    /// ```text
    /// uses     count:u32 index:u64*
    /// ```
    pub fn encode_uses(&self, out: &mut impl BufMut) {
        out.put_u32_le(self.table.len() as u32);
        self.table.values().for_each(|slot| out.put_u64_le(slot.used_index));
    }

    /// One number for the whole table: from 0 on, for each session, XXH3-64 of
    /// its bytes as [`Sessions::encode`] has them, with the number so far as
    /// seed. Takes time in proportion to the replies that are kept. The indexes of
    /// the uses are not in it: see the module's page.
    pub(super) fn digest(&self) -> u64 {
        let mut bytes = Vec::new();
        self.table.iter().fold(0, |before, (id, slot)| {
            bytes.clear();
            slot.session.encode(*id, &mut bytes);
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
            sessions.table.insert(id, Slot { used_index: 0, session: Arc::new(session) });
        }
        bytes.is_empty().then_some(sessions)
    }

    /// Puts back what [`Sessions::encode_uses`] wrote; `None`: that is not of
    /// these sessions.
    pub fn decode_uses(&mut self, mut bytes: &[u8]) -> Option<()> {
        let count = bytes.try_get_u32_le().ok()? as usize;
        if count != self.table.len() || bytes.len() != count * size_of::<u64>() {
            return None;
        }
        for slot in self.table.values_mut() {
            slot.used_index = bytes.try_get_u64_le().ok()?;
        }
        Some(())
    }
}

impl Slot {
    fn last_use(&self) -> Use {
        Use { index: self.used_index, clock_ms: self.session.used_ms }
    }
}

impl Session {
    /// Whether the time of its last use moves.
    fn is_used_later(&self, clock_ms: u64) -> bool {
        clock_ms >= self.used_ms.saturating_add(USE_STEP_MS)
    }

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
