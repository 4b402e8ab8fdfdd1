//! What the clients asked, and what they were told.

use bytes::Bytes;
use common::memcached::{Arithmetic, Reply, StoreVerb};
use raft::Index;

use crate::queue::Micros;

/// Position of an event in the order of the whole run; no two are equal.
pub(crate) type Moment = u64;

/// Number of a key; its name is `k` and the number.
pub(crate) type Key = u16;

/// Number of an operation. Every write carries it: a store in its flags,
/// incr and decr in their delta. So an entry of the log names its origin.
pub(crate) type OpId = u32;

/// One request of a client, and its outcome.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) client: usize,
    /// Requests of one batch have the same number and follow each other.
    pub(crate) batch: u64,
    pub(crate) at: Micros,
    pub(crate) call: Moment,
    /// `None`: it may take effect at any time after the call, or never.
    pub(crate) ret: Option<Moment>,
    /// Entries that anybody had applied when the answer came.
    pub(crate) applied_at_ret: Index,
    pub(crate) action: Action,
    pub(crate) outcome: Outcome,
}

/// What was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// `get` or `gets`, one snapshot of all keys.
    Get { keys: Vec<Key>, with_cas: bool },
    /// A write.
    Write { key: Key, write: Write },
}

/// What a write does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Write {
    Store {
        verb: StoreVerb,
        value: Bytes,
        /// For cas: the value that came with the token.
        expected: Option<Bytes>,
    },
    Delete,
    Arithmetic {
        operation: Arithmetic,
    },
}

/// How it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// Nothing is known.
    Unknown,
    /// Certainly not executed.
    NotExecuted,
    /// A write's reply.
    Replied(Reply),
    /// A get's items, in the order of its keys.
    Values(Vec<Option<Seen>>),
}

/// An item as a get showed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) value: Bytes,
    pub(crate) flags: u32,
    pub(crate) cas: Option<u64>,
}

/// All operations of a run.
#[derive(Clone, Default, Debug)]
pub(crate) struct History {
    pub(crate) ops: Vec<Op>,
}

/// incr and decr carry their operation's number so. Never 0.
pub(crate) fn delta_of(op: OpId) -> u64 {
    u64::from(op) + 1
}

/// The key's name.
pub(crate) fn key_name(key: Key) -> Bytes {
    Bytes::from(format!("k{key}"))
}

/// The key of a name.
pub(crate) fn key_of(name: &[u8]) -> Option<Key> {
    std::str::from_utf8(name.strip_prefix(b"k")?).ok()?.parse().ok()
}
