//! Records: their bytes, and back. The layout is in the page of
//! [`log_file`](super).

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use raft::{Body, Entry, HardState, Index, Member, Membership, NodeId, Suffrage};

use crate::command::Payload;

/// crc, length, durable, kind.
pub(super) const RECORD_HEADER_BYTES: usize = 13;

const START: u8 = 1;
const HARD_STATE: u8 = 2;
const NOOP: u8 = 3;
const COMMAND: u8 = 4;
const MEMBERSHIP: u8 = 5;
const COMMIT: u8 = 6;
const RESET: u8 = 7;
const SEAL: u8 = 8;

/// What holds at the beginning of a segment, so that earlier ones can go.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Start {
    pub(super) last: Index,
    pub(super) hard_state: HardState,
    pub(super) commit: Index,
}

/// One record of the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Record {
    /// The first record of each segment that is in use.
    Start(Start),
    HardState(HardState),
    /// Replaces everything from its index on.
    Entry(Entry<Payload>),
    /// Everything up to here is committed.
    Commit(Index),
    /// The log is empty and goes on behind this index.
    Reset(Index),
    /// The segment ends here, the next one goes on.
    Seal,
}

/// Where in which segment a record goes; decides its checksum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Of the segment: differs each time a file is used.
    pub(super) seed: u32,
    /// Of the record, from the beginning of the file.
    pub(super) offset: u32,
    /// Everything before this offset is known to be durable.
    pub(super) durable: u32,
}

pub(super) const START_BYTES: usize = RECORD_HEADER_BYTES + 32;
pub(super) const HARD_STATE_BYTES: usize = RECORD_HEADER_BYTES + 16;
pub(super) const COMMIT_BYTES: usize = RECORD_HEADER_BYTES + 8;
pub(super) const SEAL_BYTES: usize = RECORD_HEADER_BYTES;

/// Bytes that an entry takes in the stream; exact for commands and no-ops.
pub(super) fn entry_bytes(entry: &Entry<Payload>) -> usize {
    RECORD_HEADER_BYTES
        + 16
        + match &entry.body {
            Body::Noop => 0,
            Body::Command(payload) => payload.0.len(),
            Body::Membership(membership) => membership_bytes(membership),
        }
}

/// Appends one record to `out`; `place` is that of `out[0]`.
pub(super) fn put(out: &mut Vec<u8>, place: Place, record: &Record) {
    match record {
        Record::Start(start) => frame(out, place, START, |out| {
            out.put_u64_le(start.last);
            put_hard_state(out, start.hard_state);
            out.put_u64_le(start.commit);
        }),
        Record::HardState(state) => put_hard(out, place, *state),
        Record::Entry(entry) => put_entry(out, place, entry),
        Record::Commit(index) => frame(out, place, COMMIT, |out| out.put_u64_le(*index)),
        Record::Reset(index) => frame(out, place, RESET, |out| out.put_u64_le(*index)),
        Record::Seal => frame(out, place, SEAL, |_| {}),
    }
}

pub(super) fn put_hard(out: &mut Vec<u8>, place: Place, state: HardState) {
    frame(out, place, HARD_STATE, |out| put_hard_state(out, state));
}

pub(super) fn put_entry(out: &mut Vec<u8>, place: Place, entry: &Entry<Payload>) {
    let kind = match entry.body {
        Body::Noop => NOOP,
        Body::Command(_) => COMMAND,
        Body::Membership(_) => MEMBERSHIP,
    };
    frame(out, place, kind, |out| {
        out.put_u64_le(entry.index);
        out.put_u64_le(entry.term);
        match &entry.body {
            Body::Noop => {}
            Body::Command(payload) => out.put_slice(&payload.0),
            Body::Membership(membership) => put_membership(out, membership),
        }
    });
}

fn frame(out: &mut Vec<u8>, place: Place, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.put_slice(&[0; 8]);
    out.put_u32_le(place.durable);
    out.put_u8(kind);
    body(out);
    let length = (out.len() - at - RECORD_HEADER_BYTES) as u32;
    out[at + 4..at + 8].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(place.seed, place.offset + at as u32, &out[at + 4..]);
    out[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// For bytes of one length, different starting values always give different
/// checksums: a record of another use of the file, or one that was copied
/// to another offset, cannot be valid.
fn checksum(seed: u32, offset: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(seed ^ offset, bytes)
}

/// The frame of a record, not yet looked into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) durable: u32,
    /// Of the body.
    pub(super) length: usize,
}

impl Frame {
    /// Where the next record begins, relative to this one.
    pub(super) fn total(&self) -> usize {
        RECORD_HEADER_BYTES + self.length
    }
}

/// Reads the header of a record, without judging it.
pub(super) fn peek(bytes: &[u8]) -> Option<Frame> {
    let mut header = bytes.get(4..RECORD_HEADER_BYTES)?;
    let length = header.get_u32_le() as usize;
    let durable = header.get_u32_le();
    Some(Frame { kind: header.get_u8(), durable, length })
}

/// The frame at the beginning of `bytes`, which lie at `offset` of a segment:
/// complete, and its checksum holds.
pub(super) fn check(bytes: &[u8], seed: u32, offset: u32) -> Result<Frame, &'static str> {
    let frame = peek(bytes).ok_or("the file ends in the middle of a record")?;
    if !(START..=SEAL).contains(&frame.kind) || frame.durable > offset {
        return Err("no record begins here");
    }
    let end = RECORD_HEADER_BYTES.saturating_add(frame.length);
    let covered = bytes.get(4..end).ok_or("the file ends in the middle of a record")?;
    let mut crc = bytes;
    if crc.get_u32_le() != checksum(seed, offset, covered) {
        return Err("the checksum of the record does not match");
    }
    Ok(frame)
}

/// Looks into a record whose frame was checked; `body` are the bytes behind
/// its header. `None`: no such record, although the checksum holds.
pub(super) fn decode(frame: Frame, mut body: Bytes) -> Option<Record> {
    let record = match frame.kind {
        START => Record::Start(Start {
            last: take_u64(&mut body)?,
            hard_state: take_hard_state(&mut body)?,
            commit: take_u64(&mut body)?,
        }),
        HARD_STATE => Record::HardState(take_hard_state(&mut body)?),
        NOOP | COMMAND | MEMBERSHIP => {
            let index = take_u64(&mut body)?;
            let term = take_u64(&mut body)?;
            let body = match frame.kind {
                COMMAND => Body::Command(Payload(std::mem::take(&mut body))),
                MEMBERSHIP => Body::Membership(take_membership(&mut body)?),
                _ => Body::Noop,
            };
            Record::Entry(Entry { index, term, body })
        }
        COMMIT => Record::Commit(take_u64(&mut body)?),
        RESET => Record::Reset(take_u64(&mut body)?),
        SEAL => Record::Seal,
        _ => return None,
    };
    // An entry took the rest of the body with it.
    (body.is_empty() || matches!(frame.kind, NOOP | COMMAND | MEMBERSHIP)).then_some(record)
}

fn put_hard_state(out: &mut Vec<u8>, state: HardState) {
    out.put_u64_le(state.term);
    out.put_u64_le(state.vote.map_or(0, |id| id.0));
}

fn take_hard_state(bytes: &mut Bytes) -> Option<HardState> {
    let term = take_u64(bytes)?;
    let vote = take_u64(bytes)?;
    Some(HardState { term, vote: (vote != 0).then_some(NodeId(vote)) })
}

fn take_u64(bytes: &mut Bytes) -> Option<u64> {
    bytes.try_get_u64_le().ok()
}

fn membership_bytes(membership: &Membership) -> usize {
    12 + membership.members.values().map(|member| 13 + member.info.len()).sum::<usize>()
}

/// Appends a membership: `next_id:u64 count:u32`, and for each member
/// `id:u64 suffrage:u8 length:u32 info`. Suffrage is 1 for voters, 0 for
/// learners.
pub(crate) fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    out.put_u64_le(membership.next_id);
    out.put_u32_le(membership.members.len() as u32);
    for (id, member) in &membership.members {
        out.put_u64_le(id.0);
        out.put_u8(u8::from(member.suffrage == Suffrage::Voter));
        out.put_u32_le(member.info.len() as u32);
        out.put_slice(&member.info);
    }
}

/// Reads what [`put_membership`] wrote; `None`: it is something else.
pub(crate) fn take_membership(bytes: &mut Bytes) -> Option<Membership> {
    let next_id = take_u64(bytes)?;
    let count = bytes.try_get_u32_le().ok()?;
    let mut members = BTreeMap::new();
    for _ in 0..count {
        let id = NodeId(take_u64(bytes)?);
        let suffrage = match bytes.try_get_u8().ok()? {
            0 => Suffrage::Learner,
            1 => Suffrage::Voter,
            _ => return None,
        };
        let length = bytes.try_get_u32_le().ok()? as usize;
        if length > bytes.len() {
            return None;
        }
        members.insert(id, Member { suffrage, info: bytes.split_to(length).as_ref().into() });
    }
    Some(Membership { members, next_id })
}
