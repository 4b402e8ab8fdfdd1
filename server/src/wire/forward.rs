//! Requests that a server forwards to the leader, what comes back, and what it
//! reports to the leader.

use bytes::{BufMut, Bytes};

use super::{Input, WireError};
use crate::driver::{DigestReport, ForwardReply};

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
    /// What the sender noted at an integrity check.
    Digest(DigestReport),
}

const REQUESTS: u8 = 1;
const DONE: u8 = 2;
const NOT_LEADER: u8 = 3;
const DIGEST: u8 = 4;

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

/// Encodes [`ForwardFrame::Digest`].
pub fn encode_digest(report: DigestReport, out: &mut impl BufMut) {
    put(DIGEST, report.index, &report.digest.to_le_bytes(), out);
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
        DIGEST => match <[u8; 8]>::try_from(&rest[..]) {
            Ok(digest) => {
                let digest = u64::from_le_bytes(digest);
                Ok(ForwardFrame::Digest(DigestReport { index: number, digest }))
            }
            Err(_) if rest.len() < 8 => Err(WireError::Short),
            Err(_) => Err(WireError::Long),
        },
        other => Err(WireError::Unknown("forward", other)),
    }
}
