//! Requests that a server forwards to the leader, and what comes back.

use bytes::{BufMut, Bytes};

use super::{Input, WireError};
use crate::driver::ForwardReply;

/// A frame on the request lane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ForwardFrame {
    /// Please execute these requests.
    Requests {
        /// The sender's number.
        number: u64,
        /// `common::memcached::encode_requests`.
        requests: Bytes,
    },
    /// The answer to the receiver's own number.
    Reply {
        /// The receiver's number.
        number: u64,
        /// What became of them.
        reply: ForwardReply,
    },
}

const REQUESTS: u8 = 1;
const DONE: u8 = 2;
const NOT_LEADER: u8 = 3;

/// Encodes [`ForwardFrame::Requests`].
pub fn encode_forward(number: u64, requests: &[u8], out: &mut impl BufMut) {
    put(REQUESTS, number, requests, out);
}

/// Encodes the reply bytes of executed requests.
pub fn encode_forward_reply(number: u64, replies: &[u8], out: &mut impl BufMut) {
    put(DONE, number, replies, out);
}

/// Encodes [`ForwardReply::NotLeader`].
pub fn encode_refusal(number: u64, out: &mut impl BufMut) {
    put(NOT_LEADER, number, &[], out);
}

fn put(kind: u8, number: u64, bytes: &[u8], out: &mut impl BufMut) {
    out.put_u8(kind);
    out.put_u64_le(number);
    out.put_slice(bytes);
}

/// Reads a frame of the request lane.
///
/// # Errors
/// When it is cut short or of an unknown kind.
pub fn decode_forward(frame: &Bytes) -> Result<ForwardFrame, WireError> {
    let mut input = Input(frame);
    let kind = input.u8()?;
    let number = input.u64()?;
    let rest = frame.slice(frame.len() - input.0.len()..);
    match kind {
        REQUESTS => Ok(ForwardFrame::Requests { number, requests: rest }),
        DONE => Ok(ForwardFrame::Reply { number, reply: ForwardReply::Done(rest) }),
        NOT_LEADER => Ok(ForwardFrame::Reply { number, reply: ForwardReply::NotLeader }),
        other => Err(WireError::Unknown("forward", other)),
    }
}
