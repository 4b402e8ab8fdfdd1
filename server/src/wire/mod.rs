//! Frames between servers: Raft messages, to bytes and back. What comes in was
//! authenticated, but is validated all the same. Forwarded requests:
//! `common::forward`.
//!
//! ```text
//! raft      kind:u8 from:u64 to:u64 term:u64, then the fields of the message
//! entries   count:u32, then for each: term:u64 body:u8 length:u32 bytes
//! ```
//! Integers are little-endian. Indexes of entries follow from `prev_index`.

use bytes::{Buf, BufMut, Bytes};
use raft::{Body, Entry, Envelope, Membership, Message, NodeId, SnapshotMeta, Suffrage};

use crate::command::Payload;
use crate::log_file::{DISMISSED, put_membership};

#[cfg(test)]
mod tests;

/// Why a frame is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// It ends in the middle.
    #[error("the frame is cut short")]
    Short,
    /// More bytes than the message has.
    #[error("the frame has bytes left over")]
    Long,
    /// An unknown code.
    #[error("unknown {0} code {1}: from a newer version?")]
    Unknown(&'static str, u8),
}

type Result<T> = std::result::Result<T, WireError>;

/// Which lane a message takes: appends are bulk, so that nothing urgent waits
/// behind them, and nothing at all waits behind a snapshot.
pub fn lane_of(message: &Message<Payload>) -> common::udp::Lane {
    match message {
        Message::Append { .. } => common::udp::Lane::Bulk,
        Message::SnapshotChunk { .. } => common::udp::Lane::Snapshot,
        _ => common::udp::Lane::Urgent,
    }
}

/// About how many bytes [`encode`] will write.
pub fn size_hint(message: &Message<Payload>) -> usize {
    match message {
        Message::Append { entries, .. } => {
            80 + entries.iter().map(|e| 16 + body_size(&e.body)).sum::<usize>()
        }
        Message::SnapshotChunk { data, .. } => 512 + data.len(),
        _ => 64,
    }
}

fn body_size(body: &Body<Payload>) -> usize {
    match body {
        Body::Command(payload) => payload.0.len(),
        Body::Noop => 0,
        Body::Membership(_) => 1024,
    }
}

/// Appends the encoded message.
pub fn encode(envelope: &Envelope<Payload>, out: &mut impl BufMut) {
    out.put_u8(kind_of(&envelope.message));
    out.put_u64_le(envelope.from.0);
    out.put_u64_le(envelope.to.0);
    out.put_u64_le(envelope.term);
    match &envelope.message {
        Message::PreVote { last_index, last_term } => {
            out.put_u64_le(*last_index);
            out.put_u64_le(*last_term);
        }
        Message::Vote { last_index, last_term, transfer } => {
            out.put_u64_le(*last_index);
            out.put_u64_le(*last_term);
            out.put_u8(u8::from(*transfer));
        }
        Message::PreVoteReply { granted } | Message::VoteReply { granted } => {
            out.put_u8(u8::from(*granted));
        }
        Message::Append { prev_index, prev_term, commit, read_round, entries } => {
            out.put_u64_le(*prev_index);
            out.put_u64_le(*prev_term);
            out.put_u64_le(*commit);
            out.put_u64_le(*read_round);
            encode_entries(entries, out);
        }
        Message::AppendReply { match_index, read_round } => {
            out.put_u64_le(*match_index);
            out.put_u64_le(*read_round);
        }
        Message::AppendReject { prev_index, hint_index, hint_term } => {
            out.put_u64_le(*prev_index);
            out.put_u64_le(*hint_index);
            out.put_u64_le(*hint_term);
        }
        Message::Heartbeat { commit, read_round } => {
            out.put_u64_le(*commit);
            out.put_u64_le(*read_round);
        }
        Message::HeartbeatReply { read_round, last_index } => {
            out.put_u64_le(*read_round);
            out.put_u64_le(*last_index);
        }
        Message::ReadIndex { request } => out.put_u64_le(*request),
        Message::ReadIndexReply { request, index } => {
            out.put_u64_le(*request);
            out.put_u8(u8::from(index.is_some()));
            out.put_u64_le(index.unwrap_or(0));
        }
        Message::TimeoutNow => {}
        Message::SnapshotChunk { meta, offset, data, done } => {
            encode_meta(meta, out);
            out.put_u64_le(*offset);
            out.put_u8(u8::from(*done));
            out.put_u32_le(data.len() as u32);
            out.put_slice(data);
        }
        Message::SnapshotReply { index, next_offset, installed } => {
            out.put_u64_le(*index);
            out.put_u64_le(*next_offset);
            out.put_u8(u8::from(*installed));
        }
    }
}

fn kind_of(message: &Message<Payload>) -> u8 {
    match message {
        Message::PreVote { .. } => 1,
        Message::PreVoteReply { .. } => 2,
        Message::Vote { .. } => 3,
        Message::VoteReply { .. } => 4,
        Message::Append { .. } => 5,
        Message::AppendReply { .. } => 6,
        Message::AppendReject { .. } => 7,
        Message::Heartbeat { .. } => 8,
        Message::HeartbeatReply { .. } => 9,
        Message::ReadIndex { .. } => 10,
        Message::ReadIndexReply { .. } => 11,
        Message::TimeoutNow => 12,
        Message::SnapshotChunk { .. } => 13,
        Message::SnapshotReply { .. } => 14,
    }
}

/// Reads a message back.
///
/// # Errors
/// When the bytes are not exactly one message.
pub fn decode(frame: &[u8]) -> Result<Envelope<Payload>> {
    let mut input = Input(frame);
    let kind = input.u8()?;
    let from = NodeId(input.u64()?);
    let to = NodeId(input.u64()?);
    let term = input.u64()?;
    let message = decode_message(kind, &mut input)?;
    if !input.0.is_empty() {
        return Err(WireError::Long);
    }
    Ok(Envelope { from, to, term, message })
}

fn decode_message(kind: u8, input: &mut Input<'_>) -> Result<Message<Payload>> {
    Ok(match kind {
        1 => Message::PreVote { last_index: input.u64()?, last_term: input.u64()? },
        2 => Message::PreVoteReply { granted: input.bool()? },
        3 => Message::Vote {
            last_index: input.u64()?,
            last_term: input.u64()?,
            transfer: input.bool()?,
        },
        4 => Message::VoteReply { granted: input.bool()? },
        5 => {
            let (prev_index, prev_term) = (input.u64()?, input.u64()?);
            let (commit, read_round) = (input.u64()?, input.u64()?);
            let entries = decode_entries(prev_index, input)?;
            Message::Append { prev_index, prev_term, commit, read_round, entries }
        }
        6 => Message::AppendReply { match_index: input.u64()?, read_round: input.u64()? },
        7 => Message::AppendReject {
            prev_index: input.u64()?,
            hint_index: input.u64()?,
            hint_term: input.u64()?,
        },
        8 => Message::Heartbeat { commit: input.u64()?, read_round: input.u64()? },
        9 => Message::HeartbeatReply { read_round: input.u64()?, last_index: input.u64()? },
        10 => Message::ReadIndex { request: input.u64()? },
        11 => {
            let (request, some, index) = (input.u64()?, input.bool()?, input.u64()?);
            Message::ReadIndexReply { request, index: some.then_some(index) }
        }
        12 => Message::TimeoutNow,
        13 => {
            let meta = decode_meta(input)?;
            let (offset, done) = (input.u64()?, input.bool()?);
            let length = input.u32()? as usize;
            Message::SnapshotChunk { meta, offset, data: input.take(length)?.to_vec(), done }
        }
        14 => Message::SnapshotReply {
            index: input.u64()?,
            next_offset: input.u64()?,
            installed: input.bool()?,
        },
        other => return Err(WireError::Unknown("message", other)),
    })
}

fn encode_entries(entries: &[Entry<Payload>], out: &mut impl BufMut) {
    out.put_u32_le(entries.len() as u32);
    for entry in entries {
        out.put_u64_le(entry.term);
        match &entry.body {
            Body::Noop => {
                out.put_u8(0);
                out.put_u32_le(0);
            }
            Body::Command(payload) => {
                out.put_u8(1);
                out.put_u32_le(payload.0.len() as u32);
                out.put_slice(&payload.0);
            }
            Body::Membership(membership) => {
                out.put_u8(2);
                let mut bytes = Vec::new();
                encode_membership(membership, &mut bytes);
                out.put_u32_le(bytes.len() as u32);
                out.put_slice(&bytes);
            }
        }
    }
}

/// The payloads become slices of one copy: slices of the frame itself would
/// keep whole network buffers alive for as long as an entry is cached.
fn decode_entries(prev_index: u64, input: &mut Input<'_>) -> Result<Vec<Entry<Payload>>> {
    const SMALLEST_ENTRY_BYTES: usize = 13;
    let count = input.u32()? as usize;
    if count > input.0.len() / SMALLEST_ENTRY_BYTES {
        return Err(WireError::Short);
    }
    let region = Bytes::copy_from_slice(input.0);
    let mut entries = Vec::with_capacity(count);
    for position in 0..count {
        let term = input.u64()?;
        let body = input.u8()?;
        let length = input.u32()? as usize;
        let start = region.len() - input.0.len();
        let bytes = input.take(length)?;
        let body = match body {
            0 => Body::Noop,
            1 => Body::Command(Payload(region.slice(start..start + length))),
            2 => Body::Membership(decode_membership(&mut Input(bytes))?),
            other => return Err(WireError::Unknown("entry", other)),
        };
        let index = prev_index.checked_add(position as u64 + 1).ok_or(WireError::Long)?;
        entries.push(Entry { index, term, body });
    }
    Ok(entries)
}

fn encode_meta(meta: &SnapshotMeta, out: &mut impl BufMut) {
    out.put_u64_le(meta.index);
    out.put_u64_le(meta.term);
    encode_membership(&meta.membership, out);
}

fn decode_meta(input: &mut Input<'_>) -> Result<SnapshotMeta> {
    let (index, term) = (input.u64()?, input.u64()?);
    Ok(SnapshotMeta { index, term, membership: decode_membership(input)? })
}

/// Appends a membership, as it is in the log-file.
pub fn encode_membership(membership: &Membership, out: &mut impl BufMut) {
    put_membership(out, membership);
}

fn decode_membership(input: &mut Input<'_>) -> Result<Membership> {
    let mut membership = Membership { next_id: input.u64()?, ..Membership::default() };
    for _ in 0..input.u32()? {
        let id = NodeId(input.u64()?);
        let suffrage = match input.u8()? {
            0 => Some(Suffrage::Learner),
            1 => Some(Suffrage::Voter),
            DISMISSED => None,
            other => return Err(WireError::Unknown("suffrage", other)),
        };
        let length = input.u32()? as usize;
        let info = input.take(length)?.into();
        match suffrage {
            Some(suffrage) => drop(membership.members.insert(id, raft::Member { suffrage, info })),
            None => drop(membership.dismissed.insert(id, info)),
        }
    }
    Ok(membership)
}

/// Bytes that are still to be read.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(WireError::Short)?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn bool(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(WireError::Unknown("flag", other)),
        }
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(self.take(4)?.get_u32_le())
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(self.take(8)?.get_u64_le())
    }
}
