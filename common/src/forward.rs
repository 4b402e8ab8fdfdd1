//! Frames on [`Lane::Request`](crate::udp::Lane::Request): batches of requests
//! that one process forwards to another, and what comes back.
//!
//! A *forwarder* (a load balancer, or a server that does not lead) numbers
//! what it sends; the answer carries the same number. The number names one
//! sending, not the batch: a batch that is sent again gets another one, and
//! the late answer to the first sending is recognised and dropped.
//!
//! ```text
//! requests         1  number u64  session u64  first_sequence u64  done_below u64  requests
//! open session     2  number u64  session u64
//! done             3  number u64  replies
//! not leader       4  number u64
//! session unknown  5  number u64
//! digest           6  index u64  digest u64
//! requests again   7  as 1
//! lost             8  number u64
//! ```
//!
//! Numbers are little-endian; `requests` is what
//! [`encode_requests`](crate::memcached::encode_requests) writes; `replies`
//! are the bytes for the client, in order.
//!
//! A digest is what a server noted at the integrity check at that index of the
//! log, for its leader; it is not answered.
//!
//! # Sessions
//!
//! What names a *write* over all its sendings is its [`WriteIds`]. A forwarder
//! draws a random id that is not 0, opens a session under it, and numbers the
//! requests that it sends under it: those of a batch have consecutive
//! sequences from `first_sequence` on, in their order, reads too. Sent again
//! with the same ids, a write takes effect once. A receiver that does not know
//! the session says so and has executed nothing. Session 0 is none: that is
//! for batches that only read.
//!
//! A sending whose outcome nobody told may have taken effect. What comes after
//! it is *requests again*: whoever has no room for these may not say that they
//! are not executed, but only that this sending of them was not.

mod session;

use bytes::{Buf, BufMut, Bytes};

pub use session::Session;

/// Names the writes of a batch; see the module's page.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct WriteIds {
    /// The forwarder's session; 0: none.
    pub session: u64,
    /// Sequence of the batch's first request.
    pub first_sequence: u64,
    /// Every sequence below was answered to its client: its reply need not be
    /// kept any longer.
    pub done_below: u64,
    /// An earlier sending may have taken effect.
    pub again: bool,
}

/// A frame of the request lane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ForwardFrame {
    /// Please execute these requests.
    Requests {
        /// The sender's number.
        number: u64,
        /// Names the writes among them.
        ids: WriteIds,
        /// `common::memcached::encode_requests`.
        requests: Bytes,
    },
    /// Please open this session.
    OpenSession {
        /// The sender's number.
        number: u64,
        /// Its id, not 0.
        session: u64,
    },
    /// The answer to the receiver's own number.
    Reply {
        /// The receiver's number.
        number: u64,
        /// What became of it.
        reply: ForwardReply,
    },
    /// What the sender noted at an integrity check.
    Digest {
        /// Index of the check's entry.
        index: u64,
        /// The digest of the sender's data at that entry.
        digest: u64,
    },
}

/// What came back for a forwarded batch, or for a session to be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ForwardReply {
    /// Executed: the reply bytes. Opened: none.
    Done(Bytes),
    /// Certainly not executed by this sending: the peer does not lead, or has
    /// no room for it.
    NotLeader,
    /// Certainly not executed by this sending: the session was never opened,
    /// or has expired. In answer to an open: it came too late.
    SessionUnknown,
    /// Perhaps executed, perhaps in part: the peer lost the leadership on the
    /// way. To be sent again with the same ids.
    Lost,
}

/// Why bytes are no frame of the request lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ForwardError {
    /// It ends early.
    #[error("a frame of the request lane is cut short")]
    Short,
    /// A kind that this version does not know.
    #[error("a frame of the request lane has the unknown kind {0}; is the peer a newer version?")]
    UnknownKind(u8),
    /// Session 0 is no session.
    #[error("a session with the id 0 was to be opened")]
    NoSession,
    /// Bytes behind a frame that has none.
    #[error("{0} bytes follow a frame of the request lane")]
    Trailing(usize),
}

const REQUESTS: u8 = 1;
const OPEN_SESSION: u8 = 2;
const DONE: u8 = 3;
const NOT_LEADER: u8 = 4;
const SESSION_UNKNOWN: u8 = 5;
const DIGEST: u8 = 6;
const REQUESTS_AGAIN: u8 = 7;
const LOST: u8 = 8;

/// Bytes in front of the requests of [`ForwardFrame::Requests`], the longest
/// head of all frames.
pub const HEAD_BYTES: usize = 1 + 4 * 8;

/// Begins a [`ForwardFrame::Requests`]; the encoded requests are to follow.
pub fn encode_requests_head(number: u64, ids: &WriteIds, out: &mut impl BufMut) {
    put_head(if ids.again { REQUESTS_AGAIN } else { REQUESTS }, number, out);
    out.put_u64_le(ids.session);
    out.put_u64_le(ids.first_sequence);
    out.put_u64_le(ids.done_below);
}

/// Encodes [`ForwardFrame::OpenSession`].
pub fn encode_open_session(number: u64, session: u64, out: &mut impl BufMut) {
    put_head(OPEN_SESSION, number, out);
    out.put_u64_le(session);
}

/// Encodes [`ForwardReply::Done`].
pub fn encode_done(number: u64, replies: &[u8], out: &mut impl BufMut) {
    put_head(DONE, number, out);
    out.put_slice(replies);
}

/// Encodes [`ForwardReply::NotLeader`].
pub fn encode_not_leader(number: u64, out: &mut impl BufMut) {
    put_head(NOT_LEADER, number, out);
}

/// Encodes [`ForwardReply::SessionUnknown`].
pub fn encode_session_unknown(number: u64, out: &mut impl BufMut) {
    put_head(SESSION_UNKNOWN, number, out);
}

/// Encodes [`ForwardReply::Lost`].
pub fn encode_lost(number: u64, out: &mut impl BufMut) {
    put_head(LOST, number, out);
}

/// Encodes [`ForwardFrame::Digest`].
pub fn encode_digest(index: u64, digest: u64, out: &mut impl BufMut) {
    put_head(DIGEST, index, out);
    out.put_u64_le(digest);
}

fn put_head(kind: u8, number: u64, out: &mut impl BufMut) {
    out.put_u8(kind);
    out.put_u64_le(number);
}

/// Reads a frame; requests and replies are slices of it.
///
/// # Errors
/// When it is none.
pub fn decode_forward(frame: &Bytes) -> Result<ForwardFrame, ForwardError> {
    let mut input = frame.clone();
    let kind = input.try_get_u8().map_err(|_| ForwardError::Short)?;
    let number = u64(&mut input)?;
    let decoded = match kind {
        REQUESTS | REQUESTS_AGAIN => {
            let ids = WriteIds {
                session: u64(&mut input)?,
                first_sequence: u64(&mut input)?,
                done_below: u64(&mut input)?,
                again: kind == REQUESTS_AGAIN,
            };
            ForwardFrame::Requests { number, ids, requests: std::mem::take(&mut input) }
        }
        OPEN_SESSION => match u64(&mut input)? {
            0 => return Err(ForwardError::NoSession),
            session => ForwardFrame::OpenSession { number, session },
        },
        DONE => {
            let reply = ForwardReply::Done(std::mem::take(&mut input));
            ForwardFrame::Reply { number, reply }
        }
        NOT_LEADER => ForwardFrame::Reply { number, reply: ForwardReply::NotLeader },
        SESSION_UNKNOWN => ForwardFrame::Reply { number, reply: ForwardReply::SessionUnknown },
        LOST => ForwardFrame::Reply { number, reply: ForwardReply::Lost },
        DIGEST => ForwardFrame::Digest { index: number, digest: u64(&mut input)? },
        other => return Err(ForwardError::UnknownKind(other)),
    };
    match input.len() {
        0 => Ok(decoded),
        more => Err(ForwardError::Trailing(more)),
    }
}

fn u64(input: &mut Bytes) -> Result<u64, ForwardError> {
    input.try_get_u64_le().map_err(|_| ForwardError::Short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memcached::{Request, decode_requests, encode_requests};

    fn frame(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let mut frame = Vec::new();
        write(&mut frame);
        frame.into()
    }

    #[test]
    fn every_frame_survives() {
        for again in [false, true] {
            let ids = WriteIds { session: 3, first_sequence: u64::MAX, done_below: 5, again };
            let requests = [Request::Version, Request::Quit];
            let encoded = frame(|out| {
                encode_requests_head(7, &ids, out);
                assert_eq!(out.len(), HEAD_BYTES);
                encode_requests(&requests, out);
            });
            match decode_forward(&encoded) {
                Ok(ForwardFrame::Requests { number: 7, ids: decoded, requests: bytes }) => {
                    assert_eq!(decoded, ids);
                    assert_eq!(decode_requests(bytes).unwrap(), requests);
                }
                other => panic!("{other:?}"),
            }
        }

        let open = frame(|out| encode_open_session(8, 9, out));
        assert_eq!(decode_forward(&open), Ok(ForwardFrame::OpenSession { number: 8, session: 9 }));
        let replies = [
            (frame(|out| encode_done(1, b"STORED\r\n", out)), {
                ForwardReply::Done(Bytes::from_static(b"STORED\r\n"))
            }),
            (frame(|out| encode_done(1, b"", out)), ForwardReply::Done(Bytes::new())),
            (frame(|out| encode_not_leader(1, out)), ForwardReply::NotLeader),
            (frame(|out| encode_session_unknown(1, out)), ForwardReply::SessionUnknown),
            (frame(|out| encode_lost(1, out)), ForwardReply::Lost),
        ];
        let digest = frame(|out| encode_digest(4, u64::MAX, out));
        let expected = ForwardFrame::Digest { index: 4, digest: u64::MAX };
        assert_eq!(decode_forward(&digest), Ok(expected));
        for (encoded, reply) in replies {
            assert_eq!(decode_forward(&encoded), Ok(ForwardFrame::Reply { number: 1, reply }));
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let requests = frame(|out| encode_requests_head(7, &WriteIds::default(), out));
        for length in 0..requests.len() {
            assert_eq!(decode_forward(&requests.slice(..length)), Err(ForwardError::Short));
        }
        let refusal = frame(|out| {
            encode_not_leader(1, out);
            out.push(0);
        });
        assert_eq!(decode_forward(&refusal), Err(ForwardError::Trailing(1)));
        let nobody = frame(|out| encode_open_session(1, 0, out));
        assert_eq!(decode_forward(&nobody), Err(ForwardError::NoSession));
        let unknown = frame(|out| put_head(9, 1, out));
        assert_eq!(decode_forward(&unknown), Err(ForwardError::UnknownKind(9)));
    }
}
