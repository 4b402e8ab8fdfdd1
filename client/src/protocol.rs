//! The client's half of the memcached text protocol: requests to bytes, reply
//! lines to meaning. Pure.
//!
//! Source: memcached `doc/protocol.txt` (1.6). Whatever a peer sends that is
//! not in there becomes [`Line::Garbage`], never a panic.

use common::limits::{MAX_GET_LINE_BYTES, MAX_KEY_BYTES};
use common::memcached::{Arithmetic, StoreVerb};

use crate::error::Error;
use crate::names::TOKEN_BYTES;

/// Longest reply line that is waited for, without a data block. Longest in
/// practice: a `STAT` line or an error text.
pub(crate) const MAX_REPLY_LINE_BYTES: usize = 4096;

/// One line of a reply, without its line end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Line<'a> {
    Stored,
    NotStored,
    Exists,
    NotFound,
    Deleted,
    Ok,
    End,
    /// The new value of incr or decr.
    Number(u64),
    /// A data block of `bytes` bytes and a line end follow.
    Value {
        key: &'a [u8],
        flags: u32,
        bytes: usize,
        cas: Option<u64>,
    },
    Stat {
        name: &'a [u8],
        value: &'a [u8],
    },
    Version(&'a [u8]),
    /// `ERROR`, with the text that some servers put behind it.
    Error(&'a [u8]),
    ClientError(&'a [u8]),
    ServerError(&'a [u8]),
    /// Nothing that the protocol knows.
    Garbage,
}

impl<'a> Line<'a> {
    pub(crate) fn parse(line: &'a [u8]) -> Line<'a> {
        let (word, rest) = split_word(line);
        match (word, rest.is_empty()) {
            (b"STORED", true) => Line::Stored,
            (b"NOT_STORED", true) => Line::NotStored,
            (b"EXISTS", true) => Line::Exists,
            (b"NOT_FOUND", true) => Line::NotFound,
            (b"DELETED", true) => Line::Deleted,
            (b"OK", true) => Line::Ok,
            (b"END", true) => Line::End,
            (b"VALUE", false) => parse_value(rest).unwrap_or(Line::Garbage),
            (b"STAT", false) => {
                let (name, value) = split_word(rest);
                Line::Stat { name, value }
            }
            (b"VERSION", _) => Line::Version(rest),
            (b"ERROR", _) => Line::Error(rest),
            (b"CLIENT_ERROR", _) => Line::ClientError(rest),
            (b"SERVER_ERROR", _) => Line::ServerError(rest),
            (digits, true) => parse_number(digits).map_or(Line::Garbage, Line::Number),
            _ => Line::Garbage,
        }
    }
}

/// The refusals that promise that nothing was executed.
/// All of them end alike: `common::memcached::{NO_LEADER, SHUTTING_DOWN, BUSY}`.
pub(crate) fn is_not_executed(server_error: &[u8]) -> bool {
    server_error.ends_with(b"not executed")
}

/// `common::memcached::UNKNOWN`.
pub(crate) fn is_outcome_unknown(server_error: &[u8]) -> bool {
    server_error.ends_with(b"outcome unknown")
}

/// `common::memcached::{SESSION_UNKNOWN, SESSION_OVER}`.
pub(crate) fn is_session_unknown(server_error: &[u8]) -> bool {
    server_error.starts_with(b"session unknown")
}

/// `common::memcached::TOO_MANY_SESSIONS`.
pub(crate) fn is_too_many_sessions(server_error: &[u8]) -> bool {
    server_error.starts_with(b"too many sessions")
}

/// `common::memcached::TOO_LARGE`.
pub(crate) fn is_too_large(server_error: &[u8]) -> bool {
    server_error.starts_with(b"object too large")
}

fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b' ', line) {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &[]),
    }
}

fn parse_value(rest: &[u8]) -> Option<Line<'_>> {
    let (key, rest) = split_word(rest);
    let (flags, rest) = split_word(rest);
    let (bytes, cas) = split_word(rest);
    let cas = if cas.is_empty() { None } else { Some(parse_number(cas)?) };
    let flags = u32::try_from(parse_number(flags)?).ok()?;
    let bytes = usize::try_from(parse_number(bytes)?).ok()?;
    (!key.is_empty()).then_some(Line::Value { key, flags, bytes, cas })
}

pub(crate) fn parse_number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0u64, |number, byte| {
        if !byte.is_ascii_digit() {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })
}

/// Refuses a key that would break the line it is sent in.
pub(crate) fn check_key(key: &[u8]) -> Result<(), Error> {
    let why = if key.is_empty() {
        "it is empty"
    } else if key.len() > MAX_KEY_BYTES {
        "it is longer than 250 bytes"
    } else if key.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        "it contains a blank or a control character"
    } else {
        return Ok(());
    };
    let cut = &key[..key.len().min(60)];
    Err(Error::InvalidKey { key: cut.escape_ascii().to_string(), why })
}

/// `get` or `gets` with all keys in one line: the store answers it as one snapshot.
pub(crate) fn encode_get(verb: &str, keys: &[impl AsRef<[u8]>]) -> Result<Vec<u8>, Error> {
    let mut line = Vec::with_capacity(64);
    line.extend_from_slice(verb.as_bytes());
    for key in keys {
        check_key(key.as_ref())?;
        line.push(b' ');
        line.extend_from_slice(key.as_ref());
    }
    if line.len() > MAX_GET_LINE_BYTES {
        let text = format!(
            "the keys of one get fill {} bytes, the limit is {MAX_GET_LINE_BYTES}; ask for fewer keys at once",
            line.len()
        );
        return Err(Error::ClientError(text));
    }
    line.extend_from_slice(b"\r\n");
    Ok(line)
}

pub(crate) fn encode_store(
    verb: StoreVerb,
    key: &[u8],
    flags: u32,
    exptime: i64,
    value: &[u8],
) -> Result<Vec<u8>, Error> {
    check_key(key)?;
    let word = match verb {
        StoreVerb::Set => "set",
        StoreVerb::Add => "add",
        StoreVerb::Replace => "replace",
        StoreVerb::Append => "append",
        StoreVerb::Prepend => "prepend",
        StoreVerb::Cas(_) => "cas",
    };
    let mut number = itoa::Buffer::new();
    let mut out = Vec::with_capacity(key.len() + value.len() + 80 + TOKEN_BYTES);
    out.extend_from_slice(word.as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b' ');
    out.extend_from_slice(number.format(flags).as_bytes());
    out.push(b' ');
    out.extend_from_slice(number.format(exptime).as_bytes());
    out.push(b' ');
    out.extend_from_slice(number.format(value.len()).as_bytes());
    if let StoreVerb::Cas(token) = verb {
        out.push(b' ');
        out.extend_from_slice(number.format(token).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
    Ok(out)
}

pub(crate) fn encode_delete(key: &[u8]) -> Result<Vec<u8>, Error> {
    check_key(key)?;
    Ok([b"delete ", key, b"\r\n"].concat())
}

pub(crate) fn encode_arithmetic(
    operation: Arithmetic,
    key: &[u8],
    delta: u64,
) -> Result<Vec<u8>, Error> {
    check_key(key)?;
    let word: &[u8] = match operation {
        Arithmetic::Incr => b"incr ",
        Arithmetic::Decr => b"decr ",
    };
    Ok([word, key, b" ", itoa::Buffer::new().format(delta).as_bytes(), b"\r\n"].concat())
}

pub(crate) fn encode_stats(what: &str) -> Result<Vec<u8>, Error> {
    if what.bytes().any(|byte| byte.is_ascii_control()) || what.len() > MAX_KEY_BYTES {
        return Err(Error::ClientError("stats: the words contain control characters".into()));
    }
    let gap = if what.is_empty() { "" } else { " " };
    Ok(format!("stats{gap}{what}\r\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_mean_what_the_protocol_says() {
        assert_eq!(Line::parse(b"STORED"), Line::Stored);
        assert_eq!(Line::parse(b"NOT_STORED"), Line::NotStored);
        assert_eq!(Line::parse(b"18446744073709551615"), Line::Number(u64::MAX));
        assert_eq!(
            Line::parse(b"VALUE a 7 3 9"),
            Line::Value { key: b"a", flags: 7, bytes: 3, cas: Some(9) }
        );
        assert_eq!(
            Line::parse(b"VALUE a 7 3"),
            Line::Value { key: b"a", flags: 7, bytes: 3, cas: None }
        );
        assert_eq!(Line::parse(b"STAT pid 7 8"), Line::Stat { name: b"pid", value: b"7 8" });
        assert_eq!(Line::parse(b"ERROR"), Line::Error(b""));
        assert_eq!(Line::parse(b"SERVER_ERROR a b"), Line::ServerError(b"a b"));
    }

    #[test]
    fn garbage_is_garbage() {
        let lines: [&[u8]; 14] = [
            b"",
            b" ",
            b"STORED x",
            b"END x",
            b"stored",
            b"VALUE",
            b"VALUE a",
            b"VALUE a 1",
            b"VALUE a 1 -5",
            b"VALUE a 4294967296 5",
            b"VALUE a 1 99999999999999999999999",
            b"VALUE a 1 5 x",
            b"18446744073709551616",
            b"\xff\x00\x80",
        ];
        for line in lines {
            assert_eq!(Line::parse(line), Line::Garbage, "{:?}", line.escape_ascii().to_string());
        }
    }

    #[test]
    fn keys_are_checked() {
        assert!(check_key(b"a").is_ok());
        assert!(check_key(&[b'x'; 250]).is_ok());
        assert!(check_key("größe".as_bytes()).is_ok());
        for key in [&b""[..], &[b'x'; 251], b"a b", b"a\r\nset", b"a\0", b"\x7f"] {
            assert!(matches!(check_key(key), Err(Error::InvalidKey { .. })));
        }
    }

    #[test]
    fn requests_are_exact() {
        let set = encode_store(StoreVerb::Cas(9), b"k", 7, -1, b"a\r\nb").unwrap();
        assert_eq!(set, b"cas k 7 -1 4 9\r\na\r\nb\r\n");
        assert_eq!(encode_get("gets", &["a", "b"]).unwrap(), b"gets a b\r\n");
        assert_eq!(encode_arithmetic(Arithmetic::Decr, b"n", 3).unwrap(), b"decr n 3\r\n");
        assert_eq!(encode_stats("").unwrap(), b"stats\r\n");
        assert!(encode_stats("a\r\nflush_all").is_err());
        let many = vec!["k".repeat(250); 300];
        assert!(matches!(encode_get("get", &many), Err(Error::ClientError(_))));
    }
}
