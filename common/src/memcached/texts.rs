//! The error lines that a request can earn before anybody looks at its key.
//!
//! Source: memcached 1.6 `proto_text.c`, compared with a running memcached.

/// No such command, or too few or too many words.
pub const ERROR: &str = "ERROR";
/// A word that is no number, a bad key, a negative length.
pub const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";
/// A data block that does not end where its length says.
pub const BAD_CHUNK: &str = "CLIENT_ERROR bad data chunk";
/// incr or decr by something that is no unsigned 64-bit number.
pub const BAD_DELTA: &str = "CLIENT_ERROR invalid numeric delta argument";
/// delete with words that it does not know. Two blanks, as memcached writes it.
pub const DELETE_USAGE: &str =
    "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]";
/// A last word that begins as a write id does and is none.
pub const BAD_WRITE_ID: &str = "CLIENT_ERROR bad write id";
/// No line end within the bound. memcached closes without a word; saying why
/// costs nothing and saves somebody an hour.
pub const LINE_TOO_LONG: &str = "CLIENT_ERROR line too long";

/// Written to a connection above the limit before it is closed.
pub const TOO_MANY_CONNECTIONS: &str = "ERROR Too many open connections";

/// Every text of [`super::Request::Invalid`], so that one that was sent over a
/// link becomes a `&'static str` again.
pub(super) const INVALID_TEXTS: [&str; 11] = [
    ERROR,
    BAD_FORMAT,
    BAD_CHUNK,
    BAD_DELTA,
    DELETE_USAGE,
    BAD_WRITE_ID,
    LINE_TOO_LONG,
    super::reply::TOO_LARGE,
    super::reply::OUT_OF_MEMORY,
    super::reply::DISK_FULL,
    super::reply::TOO_MANY_SESSIONS,
];
