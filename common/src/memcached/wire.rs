//! A batch of requests on the way from one server to another.
//!
//! A follower or a load balancer has parsed the text already; the leader gets
//! the fields, not the text again. All numbers are big-endian:
//!
//! ```text
//! batch       count u32, requests
//! request     kind u8 (the highest bit: noreply or silent), fields
//! get, gets   count u32, keys
//! store       key, flags u32, exptime i64, [cas u64], value
//! delete      key
//! arithmetic  key, delta u64
//! stats       what as a value
//! session     id u64, not 0
//! invalid     close u8, reply as a value
//! key         length u8, bytes
//! value       length u32, bytes
//! ```
//!
//! The others have no fields. Decoding takes slices of the frame and trusts
//! nothing: lengths stay within the frame and keys are checked as the parser
//! checks them. A limit on values is the caller's, who knows it.

use bytes::{Buf, BufMut, Bytes};

use super::request::{Arithmetic, Request, StoreVerb};
use super::texts::{ERROR, INVALID_TEXTS};
use super::words::is_valid_key;
use crate::limits::MAX_BATCH_REQUESTS;

#[cfg(test)]
mod tests;

/// noreply of a request that has it, silent of an invalid one.
const QUIET: u8 = 0x80;

const GET: u8 = 1;
const GETS: u8 = 2;
const SET: u8 = 3;
const ADD: u8 = 4;
const REPLACE: u8 = 5;
const APPEND: u8 = 6;
const PREPEND: u8 = 7;
const CAS: u8 = 8;
const DELETE: u8 = 9;
const INCR: u8 = 10;
const DECR: u8 = 11;
const VERSION: u8 = 12;
const STATS: u8 = 13;
const VERBOSITY: u8 = 14;
const GET_SERVERS: u8 = 15;
const CONFIG_GET_CLUSTER: u8 = 16;
const QUIT: u8 = 17;
const INVALID: u8 = 18;
const OPEN_SESSION: u8 = 19;

/// Why a frame is no batch of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// It ends within a request.
    #[error("a batch of requests ends early: request {0} is cut off")]
    Short(
        /// Which request, from 0.
        u32,
    ),
    /// A kind that this version does not know.
    #[error("request {0} of a batch has the unknown kind {1}; is the peer a newer version?")]
    UnknownKind(
        /// Which request, from 0.
        u32,
        /// Its kind without the quiet bit.
        u8,
    ),
    /// A key that no parser lets through, or a get without keys.
    #[error("request {0} of a batch has an invalid key or none")]
    BadKey(
        /// Which request, from 0.
        u32,
    ),
    /// Session 0 is no session.
    #[error("request {0} of a batch opens a session with the id 0")]
    NoSession(
        /// Which request, from 0.
        u32,
    ),
    /// Bytes behind the last request.
    #[error("{0} bytes follow the last request of a batch")]
    Trailing(
        /// How many.
        usize,
    ),
}

/// Writes a whole batch. Values must be shorter than 4 GiB, as the parser
/// makes sure.
pub fn encode_requests(requests: &[Request], out: &mut impl BufMut) {
    out.put_u32(requests.len() as u32);
    for request in requests {
        encode(request, out);
    }
}

fn encode(request: &Request, out: &mut impl BufMut) {
    let quiet = if request.noreply() { QUIET } else { 0 };
    match request {
        Request::Get { keys, with_cas } => {
            out.put_u8(if *with_cas { GETS } else { GET });
            out.put_u32(keys.len() as u32);
            for key in keys {
                put_key(key, out);
            }
        }
        Request::Store { verb, key, flags, exptime, value, .. } => {
            let (kind, cas) = match verb {
                StoreVerb::Set => (SET, None),
                StoreVerb::Add => (ADD, None),
                StoreVerb::Replace => (REPLACE, None),
                StoreVerb::Append => (APPEND, None),
                StoreVerb::Prepend => (PREPEND, None),
                StoreVerb::Cas(cas) => (CAS, Some(*cas)),
            };
            out.put_u8(kind | quiet);
            put_key(key, out);
            out.put_u32(*flags);
            out.put_i64(*exptime);
            if let Some(cas) = cas {
                out.put_u64(cas);
            }
            put_value(value, out);
        }
        Request::Delete { key, .. } => {
            out.put_u8(DELETE | quiet);
            put_key(key, out);
        }
        Request::Arithmetic { operation, key, delta, .. } => {
            let kind = match operation {
                Arithmetic::Incr => INCR,
                Arithmetic::Decr => DECR,
            };
            out.put_u8(kind | quiet);
            put_key(key, out);
            out.put_u64(*delta);
        }
        Request::OpenSession { session } => {
            out.put_u8(OPEN_SESSION);
            out.put_u64(*session);
        }
        Request::Version => out.put_u8(VERSION),
        Request::Stats { what } => {
            out.put_u8(STATS);
            put_value(what, out);
        }
        Request::Verbosity { .. } => out.put_u8(VERBOSITY | quiet),
        Request::Discover { elasticache: false } => out.put_u8(GET_SERVERS),
        Request::Discover { elasticache: true } => out.put_u8(CONFIG_GET_CLUSTER),
        Request::Quit => out.put_u8(QUIT),
        Request::Invalid { reply, close, .. } => {
            out.put_u8(INVALID | quiet);
            out.put_u8(u8::from(*close));
            put_value(reply.as_bytes(), out);
        }
    }
}

fn put_key(key: &[u8], out: &mut impl BufMut) {
    debug_assert!(is_valid_key(key));
    out.put_u8(key.len() as u8);
    out.put_slice(key);
}

fn put_value(value: &[u8], out: &mut impl BufMut) {
    out.put_u32(value.len() as u32);
    out.put_slice(value);
}

/// Reads what [`encode_requests`] wrote; keys and values are slices of `frame`.
pub fn decode_requests(mut frame: Bytes) -> Result<Vec<Request>, DecodeError> {
    let count = frame.try_get_u32().map_err(|_| DecodeError::Short(0))?;
    // A lie about the count must not reserve memory for what was never sent.
    let mut requests = Vec::with_capacity((count as usize).min(MAX_BATCH_REQUESTS));
    for index in 0..count {
        requests.push(Decoder { frame: &mut frame, index }.request()?);
    }
    if frame.has_remaining() {
        return Err(DecodeError::Trailing(frame.len()));
    }
    Ok(requests)
}

struct Decoder<'a> {
    frame: &'a mut Bytes,
    index: u32,
}

impl Decoder<'_> {
    fn request(mut self) -> Result<Request, DecodeError> {
        let first = self.u8()?;
        let noreply = first & QUIET != 0;
        Ok(match first & !QUIET {
            kind @ (GET | GETS) => Request::Get { keys: self.keys()?, with_cas: kind == GETS },
            kind @ SET..=CAS => self.store(kind, noreply)?,
            DELETE => Request::Delete { key: self.key()?, noreply },
            kind @ (INCR | DECR) => Request::Arithmetic {
                operation: if kind == INCR { Arithmetic::Incr } else { Arithmetic::Decr },
                key: self.key()?,
                delta: self.u64()?,
                noreply,
            },
            OPEN_SESSION => match self.u64()? {
                0 => return Err(DecodeError::NoSession(self.index)),
                session => Request::OpenSession { session },
            },
            VERSION => Request::Version,
            STATS => Request::Stats { what: self.value()? },
            VERBOSITY => Request::Verbosity { noreply },
            GET_SERVERS => Request::Discover { elasticache: false },
            CONFIG_GET_CLUSTER => Request::Discover { elasticache: true },
            QUIT => Request::Quit,
            INVALID => {
                let close = self.u8()? != 0;
                let text = self.value()?;
                // A text of another version is still an error.
                let known = INVALID_TEXTS.iter().find(|known| known.as_bytes() == text);
                Request::Invalid { reply: known.unwrap_or(&ERROR), silent: noreply, close }
            }
            kind => return Err(DecodeError::UnknownKind(self.index, kind)),
        })
    }

    fn store(&mut self, kind: u8, noreply: bool) -> Result<Request, DecodeError> {
        let key = self.key()?;
        let flags = self.u32()?;
        let exptime = self.u64()?.cast_signed();
        let verb = match kind {
            SET => StoreVerb::Set,
            ADD => StoreVerb::Add,
            REPLACE => StoreVerb::Replace,
            APPEND => StoreVerb::Append,
            PREPEND => StoreVerb::Prepend,
            _ => StoreVerb::Cas(self.u64()?),
        };
        Ok(Request::Store { verb, key, flags, exptime, value: self.value()?, noreply })
    }

    fn keys(&mut self) -> Result<Vec<Bytes>, DecodeError> {
        let count = self.u32()? as usize;
        if count == 0 {
            return Err(DecodeError::BadKey(self.index));
        }
        let mut keys = Vec::with_capacity(count.min(MAX_BATCH_REQUESTS));
        for _ in 0..count {
            keys.push(self.key()?);
        }
        Ok(keys)
    }

    fn key(&mut self) -> Result<Bytes, DecodeError> {
        let length = usize::from(self.u8()?);
        let key = self.take(length)?;
        if is_valid_key(&key) { Ok(key) } else { Err(DecodeError::BadKey(self.index)) }
    }

    fn value(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if self.frame.len() < length {
            return Err(DecodeError::Short(self.index));
        }
        Ok(self.frame.split_to(length))
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.frame.try_get_u8().map_err(|_| DecodeError::Short(self.index))
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.frame.try_get_u32().map_err(|_| DecodeError::Short(self.index))
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.frame.try_get_u64().map_err(|_| DecodeError::Short(self.index))
    }
}
