//! What a client is answered.

use bytes::BufMut;

/// The outcome of one request other than a get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// `STORED`
    Stored,
    /// `NOT_STORED`
    NotStored,
    /// `EXISTS`: cas, somebody changed it.
    Exists,
    /// `NOT_FOUND`
    NotFound,
    /// `DELETED`
    Deleted,
    /// The new value of incr or decr.
    Number(u64),
    /// `OK`
    Ok,
    /// A whole error line without CRLF, e.g. `SERVER_ERROR out of memory storing object`.
    Error(&'static str),
}

/// incr or decr on a value that is no number.
pub const NON_NUMERIC: &str = "CLIENT_ERROR cannot increment or decrement non-numeric value";
/// The value is over the limit.
pub const TOO_LARGE: &str = "SERVER_ERROR object too large for cache";
/// A store for which a server has no room.
pub const OUT_OF_MEMORY: &str = "SERVER_ERROR out of memory storing object";
/// A write for which the leader's disk has no room.
pub const DISK_FULL: &str = "SERVER_ERROR disk full, not executed";
/// A request to a server whose data are not those of the others.
pub const DATA_DIFFER: &str = "SERVER_ERROR this server repairs its data, not executed";
/// Certainly not executed, safe to retry.
pub const NO_LEADER: &str = "SERVER_ERROR no leader, not executed";
/// May or may not have taken effect.
pub const UNKNOWN: &str = "SERVER_ERROR timeout, outcome unknown";
/// The server stops.
pub const SHUTTING_DOWN: &str = "SERVER_ERROR shutting down, not executed";
/// The values asked for are more than one answer may hold.
pub const REPLY_TOO_LARGE: &str = "SERVER_ERROR out of memory writing get response";
/// Too much waits already.
pub const BUSY: &str = "SERVER_ERROR busy, not executed";

/// A write under a session that is not open: to be sent under another one.
pub const SESSION_UNKNOWN: &str = "SERVER_ERROR session unknown, not executed";
/// The same of a write that may have taken effect before.
pub const SESSION_OVER: &str = "SERVER_ERROR session unknown, outcome unknown";
/// All sessions that there is room for are in use.
pub const TOO_MANY_SESSIONS: &str = "SERVER_ERROR too many sessions, not executed";

impl Reply {
    /// Writes the reply line.
    pub fn write(&self, out: &mut impl BufMut) {
        let text: &[u8] = match self {
            Reply::Stored => b"STORED",
            Reply::NotStored => b"NOT_STORED",
            Reply::Exists => b"EXISTS",
            Reply::NotFound => b"NOT_FOUND",
            Reply::Deleted => b"DELETED",
            Reply::Ok => b"OK",
            Reply::Error(line) => line.as_bytes(),
            Reply::Number(number) => {
                out.put_slice(itoa::Buffer::new().format(*number).as_bytes());
                b""
            }
        };
        out.put_slice(text);
        out.put_slice(b"\r\n");
    }
}

/// Writes one `VALUE` line with its data block.
pub fn write_value(out: &mut impl BufMut, key: &[u8], flags: u32, cas: Option<u64>, value: &[u8]) {
    let mut number = itoa::Buffer::new();
    out.put_slice(b"VALUE ");
    out.put_slice(key);
    out.put_u8(b' ');
    out.put_slice(number.format(flags).as_bytes());
    out.put_u8(b' ');
    out.put_slice(number.format(value.len()).as_bytes());
    if let Some(cas) = cas {
        out.put_u8(b' ');
        out.put_slice(number.format(cas).as_bytes());
    }
    out.put_slice(b"\r\n");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// Writes the line that ends a get.
pub fn write_end(out: &mut impl BufMut) {
    out.put_slice(b"END\r\n");
}
