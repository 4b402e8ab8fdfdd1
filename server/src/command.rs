//! What an entry of the log does to the keystore, and its bytes.
//!
//! ```text
//! command    [once] op:u8 clock_ms:u64 body
//! once       17 session:u64 sequence:u64 behind:u32
//!            names a write that may be sent again: its session, its number there, and how
//!            far behind it the lowest number is that was not answered yet
//! store      op = 1 set, 2 add, 3 replace, 4 append, 5 prepend, 6 cas
//!            [cas:u64 when op = 6] flags:u32 deadline_ms:u64 klen:u8 key value
//! delete     op = 7   klen:u8 key
//! arithmetic op = 8 incr, 9 decr   delta:u64 klen:u8 key
//! check      op = 10  algorithm:u8
//! verdict    op = 11  index:u64 digest:u64
//! open       op = 16  session:u64
//! ```
//! Integers are little-endian; `value` is the rest.

use bytes::{Buf, BufMut, Bytes};
use common::memcached::{Arithmetic, StoreVerb};

/// One decoded command; borrows from the entry's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command<'a> {
    /// The leader's replicated clock, in unix milliseconds; never goes back
    /// along the log.
    pub clock_ms: u64,
    /// Names a write that may be sent again; it is applied once.
    pub id: Option<RequestId>,
    /// What to do.
    pub operation: Operation<'a>,
}

/// Names a write: the session, its number in it, and below which number the
/// sender has all answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestId {
    /// The session; never 0.
    pub session: u64,
    /// The number of the write in it.
    pub sequence: u64,
    /// Every number below this one has been answered.
    pub done_below: u64,
}

/// What a command does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation<'a> {
    /// A storage command.
    Store {
        /// Which.
        verb: StoreVerb,
        /// Under which key.
        key: &'a [u8],
        /// Opaque flags.
        flags: u32,
        /// Unix milliseconds; 0: never expires.
        deadline_ms: u64,
        /// The value.
        value: &'a [u8],
    },
    /// Removes a key.
    Delete {
        /// Which.
        key: &'a [u8],
    },
    /// Adds to or subtracts from a number.
    Arithmetic {
        /// Which way.
        operation: Arithmetic,
        /// Which key.
        key: &'a [u8],
        /// By how much.
        delta: u64,
    },
    /// Opens a session for writes that may be sent again.
    OpenSession {
        /// Its id; never 0.
        session: u64,
    },
    /// Changes nothing: every replica notes the digest of its keystore here.
    Check {
        /// How the digest is computed; whoever does not know it takes no part.
        algorithm: u8,
    },
    /// Changes nothing: what most replicas noted at an earlier check.
    Verdict {
        /// Index of the check's entry.
        index: u64,
        /// The digest that a majority of the voters agreed on.
        digest: u64,
    },
}

/// The code in front of a command that has an id.
const ONCE: u8 = 17;

const OPEN_SESSION: u8 = 16;

/// The bytes that an id takes in front of its command.
pub const REQUEST_ID_BYTES: usize = 1 + 8 + 8 + 4;

/// The payload of a Raft entry: an encoded [`Command`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Payload(pub Bytes);

impl raft::Payload for Payload {
    fn size(&self) -> usize {
        self.0.len()
    }
}

/// Why bytes are no command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommandError {
    /// They end in the middle.
    #[error("the command is cut short")]
    Short,
    /// The first byte is unknown.
    #[error("unknown command code {0}: written by a newer version?")]
    Unknown(u8),
    /// A key of 0 or more than 250 bytes.
    #[error("a key of {0} bytes")]
    KeyLength(usize),
    /// Session 0 is no session.
    #[error("a session with the id 0")]
    NoSession,
    /// There is no number so far behind that of the write.
    #[error("the write {0} of a session says that it is {1} behind")]
    Behind(u64, u64),
    /// Bytes follow a command that has no value.
    #[error("{0} bytes follow the command: written by a newer version?")]
    Long(usize),
}

impl Command<'_> {
    /// Appends the encoded command.
    pub fn encode(&self, out: &mut impl BufMut) {
        if let Some(id) = self.id {
            out.put_u8(ONCE);
            out.put_u64_le(id.session);
            out.put_u64_le(id.sequence);
            let behind = id.sequence.saturating_sub(id.done_below);
            out.put_u32_le(u32::try_from(behind).unwrap_or(u32::MAX));
        }
        match self.operation {
            Operation::Store { verb, key, flags, deadline_ms, value } => {
                let (op, cas) = match verb {
                    StoreVerb::Set => (1, None),
                    StoreVerb::Add => (2, None),
                    StoreVerb::Replace => (3, None),
                    StoreVerb::Append => (4, None),
                    StoreVerb::Prepend => (5, None),
                    StoreVerb::Cas(token) => (6, Some(token)),
                };
                out.put_u8(op);
                out.put_u64_le(self.clock_ms);
                if let Some(token) = cas {
                    out.put_u64_le(token);
                }
                out.put_u32_le(flags);
                out.put_u64_le(deadline_ms);
                put_key(out, key);
                out.put_slice(value);
            }
            Operation::Delete { key } => {
                out.put_u8(7);
                out.put_u64_le(self.clock_ms);
                put_key(out, key);
            }
            Operation::Arithmetic { operation, key, delta } => {
                out.put_u8(match operation {
                    Arithmetic::Incr => 8,
                    Arithmetic::Decr => 9,
                });
                out.put_u64_le(self.clock_ms);
                out.put_u64_le(delta);
                put_key(out, key);
            }
            Operation::OpenSession { session } => {
                out.put_u8(OPEN_SESSION);
                out.put_u64_le(self.clock_ms);
                out.put_u64_le(session);
            }
            Operation::Check { algorithm } => {
                out.put_u8(10);
                out.put_u64_le(self.clock_ms);
                out.put_u8(algorithm);
            }
            Operation::Verdict { index, digest } => {
                out.put_u8(11);
                out.put_u64_le(self.clock_ms);
                out.put_u64_le(index);
                out.put_u64_le(digest);
            }
        }
    }
}

impl<'a> Command<'a> {
    /// The clock alone, of bytes that may be a command of a newer version.
    ///
    /// # Errors
    /// When they are too few.
    pub fn clock_of(mut bytes: &[u8]) -> Result<u64, CommandError> {
        Ok(take_head(&mut bytes)?.2)
    }

    /// Reads a command back.
    ///
    /// # Errors
    /// When the bytes are not exactly one command.
    pub fn decode(mut bytes: &'a [u8]) -> Result<Self, CommandError> {
        let (id, op, clock_ms) = take_head(&mut bytes)?;
        let operation = match op {
            1..=6 => {
                let verb = match op {
                    1 => StoreVerb::Set,
                    2 => StoreVerb::Add,
                    3 => StoreVerb::Replace,
                    4 => StoreVerb::Append,
                    5 => StoreVerb::Prepend,
                    _ => StoreVerb::Cas(take_u64(&mut bytes)?),
                };
                let flags = take(&mut bytes, 4)?.get_u32_le();
                let deadline_ms = take_u64(&mut bytes)?;
                let key = take_key(&mut bytes)?;
                Operation::Store {
                    verb,
                    key,
                    flags,
                    deadline_ms,
                    value: std::mem::take(&mut bytes),
                }
            }
            7 => Operation::Delete { key: take_key(&mut bytes)? },
            8 | 9 => {
                let operation = if op == 8 { Arithmetic::Incr } else { Arithmetic::Decr };
                let delta = take_u64(&mut bytes)?;
                Operation::Arithmetic { operation, key: take_key(&mut bytes)?, delta }
            }
            OPEN_SESSION => {
                let session = take_u64(&mut bytes)?;
                if session == 0 {
                    return Err(CommandError::NoSession);
                }
                Operation::OpenSession { session }
            }
            10 => Operation::Check { algorithm: take(&mut bytes, 1)?[0] },
            11 => {
                let index = take_u64(&mut bytes)?;
                Operation::Verdict { index, digest: take_u64(&mut bytes)? }
            }
            other => return Err(CommandError::Unknown(other)),
        };
        if bytes.is_empty() {
            Ok(Command { clock_ms, id, operation })
        } else {
            Err(CommandError::Long(bytes.len()))
        }
    }
}

fn put_key(out: &mut impl BufMut, key: &[u8]) {
    debug_assert!(!key.is_empty() && key.len() <= common::limits::MAX_KEY_BYTES);
    out.put_u8(key.len() as u8);
    out.put_slice(key);
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], CommandError> {
    let (head, tail) = bytes.split_at_checked(count).ok_or(CommandError::Short)?;
    *bytes = tail;
    Ok(head)
}

fn take_u64(bytes: &mut &[u8]) -> Result<u64, CommandError> {
    Ok(take(bytes, 8)?.get_u64_le())
}

/// What all commands begin with.
fn take_head(bytes: &mut &[u8]) -> Result<(Option<RequestId>, u8, u64), CommandError> {
    let mut op = take(bytes, 1)?[0];
    let mut id = None;
    if op == ONCE {
        id = Some(take_id(bytes)?);
        op = take(bytes, 1)?[0];
    }
    Ok((id, op, take_u64(bytes)?))
}

fn take_id(bytes: &mut &[u8]) -> Result<RequestId, CommandError> {
    let session = take_u64(bytes)?;
    let sequence = take_u64(bytes)?;
    let behind = u64::from(take(bytes, 4)?.get_u32_le());
    if session == 0 {
        return Err(CommandError::NoSession);
    }
    let done_below = sequence.checked_sub(behind).ok_or(CommandError::Behind(sequence, behind))?;
    Ok(RequestId { session, sequence, done_below })
}

fn take_key<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], CommandError> {
    let length = usize::from(take(bytes, 1)?[0]);
    if length == 0 || length > common::limits::MAX_KEY_BYTES {
        return Err(CommandError::KeyLength(length));
    }
    take(bytes, length)
}
