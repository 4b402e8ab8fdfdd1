//! What a client asks.

use bytes::Bytes;

/// One request of a client. Keys and values are slices of the bytes that came
/// from the socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// `get` and `gets`.
    Get {
        /// At least one key.
        keys: Vec<Bytes>,
        /// `gets`: each value with its cas token.
        with_cas: bool,
    },
    /// `set`, `add`, `replace`, `append`, `prepend`, `cas`.
    Store {
        /// Which.
        verb: StoreVerb,
        /// Under which key.
        key: Bytes,
        /// Opaque to the store, given back by get.
        flags: u32,
        /// As on the wire: 0 never, up to 30 days relative seconds, above
        /// that a unix time, negative: already expired.
        exptime: i64,
        /// The data block.
        value: Bytes,
        /// No reply wanted.
        noreply: bool,
    },
    /// `delete`.
    Delete {
        /// Which key.
        key: Bytes,
        /// No reply wanted.
        noreply: bool,
    },
    /// `incr` and `decr`.
    Arithmetic {
        /// Which.
        operation: Arithmetic,
        /// Which key.
        key: Bytes,
        /// By how much.
        delta: u64,
        /// No reply wanted.
        noreply: bool,
    },
    /// `session`: opens a session for write ids.
    OpenSession {
        /// Its id, not 0.
        session: u64,
    },
    /// `version`.
    Version,
    /// `stats [what]`.
    Stats {
        /// The words behind `stats`; may be empty.
        what: Bytes,
    },
    /// `verbosity N`: accepted, without effect.
    Verbosity {
        /// No reply wanted.
        noreply: bool,
    },
    /// `get-servers` and `config get cluster`: who serves, leader first.
    Discover {
        /// ElastiCache's form of the question and the answer.
        elasticache: bool,
    },
    /// `quit`: close the connection.
    Quit,
    /// A line that is answered by an error text alone; the parser has already
    /// swallowed whatever belonged to it. `CLIENT_ERROR bad data chunk`, ...
    Invalid {
        /// The whole reply line without CRLF.
        reply: &'static str,
        /// The line said noreply and the error is one that memcached keeps to itself then.
        silent: bool,
        /// Close the connection once the reply is written.
        close: bool,
    },
}

/// The storage commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreVerb {
    /// Store it.
    Set,
    /// Store it if the key is absent.
    Add,
    /// Store it if the key is present.
    Replace,
    /// Add to the end of the present value; flags and exptime are ignored.
    Append,
    /// Add to the front of the present value; flags and exptime are ignored.
    Prepend,
    /// Store it if nobody has changed it since.
    Cas(
        /// The token from `gets`.
        u64,
    ),
}

/// `incr` or `decr`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arithmetic {
    /// Adds, wraps at 2^64.
    Incr,
    /// Subtracts, stops at 0.
    Decr,
}

impl Request {
    /// Whether it must go through the log.
    pub fn is_write(&self) -> bool {
        matches!(
            self,
            Request::Store { .. }
                | Request::Delete { .. }
                | Request::Arithmetic { .. }
                | Request::OpenSession { .. }
        )
    }

    /// Whether it reads keys.
    pub fn is_read(&self) -> bool {
        matches!(self, Request::Get { .. })
    }

    /// Whether the client waits for no answer.
    pub fn noreply(&self) -> bool {
        match self {
            Request::Store { noreply, .. }
            | Request::Delete { noreply, .. }
            | Request::Arithmetic { noreply, .. }
            | Request::Verbosity { noreply } => *noreply,
            Request::Invalid { silent, .. } => *silent,
            _ => false,
        }
    }
}
