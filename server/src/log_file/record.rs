//! Records: their bodies as bytes, and back. The layout is in the page of
//! [`log_file`](super).

use bytes::{Buf, BufMut, Bytes};
use raft::{Body, Entry, HardState, Index, Member, Membership, NodeId, Position, Suffrage};

use super::frame::{self, FRAME_BYTES, Head, Place};
use crate::command::Payload;

pub(super) const START: u8 = 1;
const HARD_STATE: u8 = 2;
const NOOP: u8 = 3;
const COMMAND: u8 = 4;
const MEMBERSHIP: u8 = 5;
const COMMIT: u8 = 6;
const RESET: u8 = 7;
pub(super) const SEAL: u8 = 8;
const COMPACTED: u8 = 9;
const STOP: u8 = 10;

/// What holds at the beginning of a segment, so that earlier ones can go.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Start {
    /// Where the log ends.
    pub(super) last: Position,
    pub(super) promise: Promise,
    pub(super) commit: Index,
    /// Number of the first segment that is still needed.
    pub(super) first_segment: u64,
    /// How often entries were replaced or dropped so far: segments between two
    /// starts that say the same hold nothing but entries that follow each other.
    pub(super) turns: u64,
}

/// What a server must never forget.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Promise {
    pub(super) hard_state: HardState,
    /// Where its log ended before it lost a part of it; zeros: nothing is lost.
    pub(super) floor: Position,
}

impl Promise {
    /// The log got to `last`: has it made up for what was lost?
    pub(super) fn reached(&mut self, last: Position) {
        if self.floor != Position::default() && last.covers(self.floor) {
            self.floor = Position::default();
        }
    }
}

/// One record of the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Record {
    /// The first record of each segment that is in use.
    Start(Start),
    Promise(Promise),
    /// Replaces everything from its index on.
    Entry(Entry<Payload>),
    /// Everything up to here is committed.
    Commit(Index),
    /// The log is empty and goes on behind this position.
    Reset(Position),
    /// The segment ends here, the next one goes on.
    Seal,
    /// The log begins behind `base` now; segments before `segment` are not
    /// needed.
    Compacted {
        segment: u64,
        base: Position,
    },
    /// The process stopped in good order: everything before is durable.
    Stop,
}

pub(super) const START_BYTES: usize = FRAME_BYTES + 72;
pub(super) const PROMISE_BYTES: usize = FRAME_BYTES + 32;
pub(super) const COMMIT_BYTES: usize = FRAME_BYTES + 8;
pub(super) const RESET_BYTES: usize = FRAME_BYTES + 16;
pub(super) const SEAL_BYTES: usize = FRAME_BYTES;
pub(super) const COMPACTED_BYTES: usize = FRAME_BYTES + 24;
pub(super) const STOP_BYTES: usize = FRAME_BYTES;
/// The smallest record that changes the log.
pub(super) const CHANGE_BYTES: usize = FRAME_BYTES + 16;
const _: () = assert!(CHANGE_BYTES <= RESET_BYTES);

/// Whether records of this kind tell nothing that a later start, or the
/// counters in the heads, would not tell again.
pub(super) fn is_harmless(kind: u8) -> bool {
    matches!(kind, COMMIT | SEAL | COMPACTED | STOP)
}

/// Whether records of this kind are entries.
pub(super) fn is_entry(kind: u8) -> bool {
    matches!(kind, NOOP | COMMAND | MEMBERSHIP)
}

/// Bytes that an entry takes in the stream; exact for commands and no-ops.
pub(super) fn entry_bytes(entry: &Entry<Payload>) -> usize {
    CHANGE_BYTES
        + match &entry.body {
            Body::Noop => 0,
            Body::Command(payload) => payload.0.len(),
            Body::Membership(membership) => membership_bytes(membership),
        }
}

/// Appends one record to `out`; `place` is that of `out[0]`.
pub(super) fn put(out: &mut Vec<u8>, place: Place, record: &Record) {
    match record {
        Record::Start(start) => frame::put(out, place, START, |out| {
            put_position(out, start.last);
            put_promise_body(out, start.promise);
            out.put_u64_le(start.commit);
            out.put_u64_le(start.first_segment);
            out.put_u64_le(start.turns);
        }),
        Record::Promise(promise) => {
            frame::put(out, place, HARD_STATE, |out| put_promise_body(out, *promise));
        }
        Record::Entry(entry) => put_entry(out, place, entry),
        Record::Commit(index) => frame::put(out, place, COMMIT, |out| out.put_u64_le(*index)),
        Record::Reset(base) => frame::put(out, place, RESET, |out| put_position(out, *base)),
        Record::Seal => frame::put(out, place, SEAL, |_| {}),
        Record::Compacted { segment, base } => frame::put(out, place, COMPACTED, |out| {
            out.put_u64_le(*segment);
            put_position(out, *base);
        }),
        Record::Stop => frame::put(out, place, STOP, |_| {}),
    }
}

pub(super) fn put_entry(out: &mut Vec<u8>, place: Place, entry: &Entry<Payload>) {
    let kind = match entry.body {
        Body::Noop => NOOP,
        Body::Command(_) => COMMAND,
        Body::Membership(_) => MEMBERSHIP,
    };
    frame::put(out, place, kind, |out| {
        put_position(out, Position { index: entry.index, term: entry.term });
        match &entry.body {
            Body::Noop => {}
            Body::Command(payload) => out.put_slice(&payload.0),
            Body::Membership(membership) => put_membership(out, membership),
        }
    });
}

/// Index and term of an entry, without taking it apart; `body` is what lies
/// behind its head.
pub(super) fn entry_position(mut body: &[u8]) -> Option<Position> {
    let index = body.try_get_u64_le().ok()?;
    Some(Position { index, term: body.try_get_u64_le().ok()? })
}

/// Looks into a record whose checksums hold; `body` are the bytes behind its
/// head. `None`: no such record, although the checksums hold.
pub(super) fn decode(head: Head, mut body: Bytes) -> Option<Record> {
    let record = match head.kind {
        START => Record::Start(Start {
            last: take_position(&mut body)?,
            promise: take_promise(&mut body)?,
            commit: take_u64(&mut body)?,
            first_segment: take_u64(&mut body)?,
            turns: take_u64(&mut body)?,
        }),
        HARD_STATE => Record::Promise(take_promise(&mut body)?),
        NOOP | COMMAND | MEMBERSHIP => {
            let Position { index, term } = take_position(&mut body)?;
            let body = match head.kind {
                COMMAND => Body::Command(Payload(std::mem::take(&mut body))),
                MEMBERSHIP => Body::Membership(take_membership(&mut body)?),
                _ => Body::Noop,
            };
            return Some(Record::Entry(Entry { index, term, body }));
        }
        COMMIT => Record::Commit(take_u64(&mut body)?),
        RESET => Record::Reset(take_position(&mut body)?),
        SEAL => Record::Seal,
        COMPACTED => {
            let segment = take_u64(&mut body)?;
            Record::Compacted { segment, base: take_position(&mut body)? }
        }
        STOP => Record::Stop,
        _ => return None,
    };
    body.is_empty().then_some(record)
}

fn put_position(out: &mut Vec<u8>, position: Position) {
    out.put_u64_le(position.index);
    out.put_u64_le(position.term);
}

fn take_position(bytes: &mut Bytes) -> Option<Position> {
    let index = take_u64(bytes)?;
    Some(Position { index, term: take_u64(bytes)? })
}

fn put_promise_body(out: &mut Vec<u8>, promise: Promise) {
    out.put_u64_le(promise.hard_state.term);
    out.put_u64_le(promise.hard_state.vote.map_or(0, |id| id.0));
    put_position(out, promise.floor);
}

fn take_promise(bytes: &mut Bytes) -> Option<Promise> {
    let term = take_u64(bytes)?;
    let vote = take_u64(bytes)?;
    let hard_state = HardState { term, vote: (vote != 0).then_some(NodeId(vote)) };
    Some(Promise { hard_state, floor: take_position(bytes)? })
}

fn take_u64(bytes: &mut Bytes) -> Option<u64> {
    bytes.try_get_u64_le().ok()
}

fn membership_bytes(membership: &Membership) -> usize {
    let members = membership.members.values().map(|member| &member.info);
    12 + members.chain(membership.dismissed.values()).map(|info| 13 + info.len()).sum::<usize>()
}

/// What stands in the place of the suffrage of a member that was dismissed.
pub(crate) const DISMISSED: u8 = 2;

/// Appends a membership: `next_id:u64 count:u32`, and for each member, and
/// then for each that was dismissed, `id:u64 suffrage:u8 length:u32 info`.
/// Suffrage is 1 for voters, 0 for learners, 2 for the dismissed.
pub(crate) fn put_membership(out: &mut impl BufMut, membership: &Membership) {
    let Membership { members, next_id, dismissed } = membership;
    out.put_u64_le(*next_id);
    out.put_u32_le((members.len() + dismissed.len()) as u32);
    let suffrage = |member: &Member| u8::from(member.suffrage == Suffrage::Voter);
    let members = members.iter().map(|(id, member)| (id, suffrage(member), &member.info));
    let dismissed = dismissed.iter().map(|(id, info)| (id, DISMISSED, info));
    for (id, suffrage, info) in members.chain(dismissed) {
        out.put_u64_le(id.0);
        out.put_u8(suffrage);
        out.put_u32_le(info.len() as u32);
        out.put_slice(info);
    }
}

/// Reads what [`put_membership`] wrote; `None`: it is something else.
pub(crate) fn take_membership(bytes: &mut Bytes) -> Option<Membership> {
    let next_id = take_u64(bytes)?;
    let count = bytes.try_get_u32_le().ok()?;
    let mut membership = Membership { next_id, ..Membership::default() };
    for _ in 0..count {
        let id = NodeId(take_u64(bytes)?);
        let suffrage = match bytes.try_get_u8().ok()? {
            0 => Some(Suffrage::Learner),
            1 => Some(Suffrage::Voter),
            DISMISSED => None,
            _ => return None,
        };
        let length = bytes.try_get_u32_le().ok()? as usize;
        if length > bytes.len() {
            return None;
        }
        let info = bytes.split_to(length).as_ref().into();
        match suffrage {
            Some(suffrage) => drop(membership.members.insert(id, Member { suffrage, info })),
            None => drop(membership.dismissed.insert(id, info)),
        }
    }
    Some(membership)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `next_id`, `count`, then 2 (votes, "ab") and 3 (a learner).
    const BEFORE: &[u8] = b"\x05\0\0\0\0\0\0\0\x02\0\0\0\
        \x02\0\0\0\0\0\0\0\x01\x02\0\0\0ab\x03\0\0\0\0\0\0\0\0\0\0\0\0";

    fn membership() -> Membership {
        let mut membership = Membership::of_voters([(NodeId(2), b"ab".as_slice().into())]);
        let learner = Member { suffrage: Suffrage::Learner, info: b"".as_slice().into() };
        membership.members.insert(NodeId(3), learner);
        membership.next_id = 5;
        membership
    }

    fn written(membership: &Membership) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_membership(&mut bytes, membership);
        assert_eq!(bytes.len(), membership_bytes(membership));
        bytes
    }

    #[test]
    fn without_dismissed_it_is_as_it_always_was() {
        assert_eq!(written(&membership()), BEFORE);
        assert_eq!(take_membership(&mut Bytes::from_static(BEFORE)), Some(membership()));
    }

    #[test]
    fn the_dismissed_stand_behind_the_members() {
        let mut with = membership();
        with.dismissed.insert(NodeId(1), b"xyz".as_slice().into());
        let mut expected = BEFORE.to_vec();
        expected[8] = 3;
        expected.extend_from_slice(b"\x01\0\0\0\0\0\0\0\x02\x03\0\0\0xyz");
        assert_eq!(written(&with), expected);
        let mut bytes = Bytes::from(expected);
        bytes = [&bytes[..], b"behind"].concat().into();
        assert_eq!(take_membership(&mut bytes), Some(with));
        assert_eq!(bytes, b"behind"[..]);
    }
}
