//! Write ids: what lets a client send a write again, over any connection to
//! any server or load balancer, and have it take effect once.
//!
//! This is an extension of the protocol, for clients that ask for it; clients
//! that know nothing of it never see it.
//!
//! # The session
//!
//! ```text
//! session <id>
//! ```
//!
//! opens a session in the replicated state. The id has 1 to 16 hexadecimal
//! digits, is not 0, and is drawn at random. It is sent once: an attempt that
//! was not answered `OK` is followed by one with another id. An open that is
//! late can then never open the session anew whose end was its writes' end.
//!
//! | answer | means |
//! | --- | --- |
//! | `OK` | it is open, for all connections to all servers |
//! | `ERROR` | this is another memcached: no ids are to be sent |
//! | `SERVER_ERROR ...` | it may or may not be open: leave it |
//!
//! A session that was not used for 5 minutes is over
//! ([`SESSION_TTL`](crate::limits::SESSION_TTL)); a client opens another one
//! when it has not used its own for 4. The number of sessions is bounded, and
//! the one that was unused for longest goes first.
//!
//! # The token
//!
//! A write is named by a last word in the place of `noreply`, without which it
//! comes:
//!
//! ```text
//! set k 0 0 5 @9f3c00000000a1b2.17.15
//! incr n 1 @9f3c00000000a1b2.18.15!
//!          @<session>.<sequence>.<done_below>[!]
//! ```
//!
//! - `sequence`, from 1 on, numbers the writes of the session. A write that is
//!   sent again keeps its number; no two writes have the same.
//! - `done_below`: the client has the answers of all numbers below this one,
//!   or does not want them any more. At most the sequence, and less than
//!   [`MAX_UNANSWERED_WRITES`] below it.
//! - `!`: an earlier sending of this write may have taken effect, or may yet.
//!   Whoever has no room for it must not say that it is not executed.
//!
//! The token is whole: it needs no state of the connection, and the session
//! need not have been opened over it. Writes of a pipeline whose numbers follow
//! each other travel as one batch; others cost a batch each.
//!
//! memcached (1.6.18) ignores the token behind `set`, `add`, `replace`, `append`,
//! `prepend`, `cas`, `incr` and `decr`, but not behind `delete`.
//!
//! # Answers
//!
//! | answer | means |
//! | --- | --- |
//! | of the write | it took effect once, now or earlier |
//! | `SERVER_ERROR session unknown, not executed` | to be sent under another session |
//! | `SERVER_ERROR session unknown, outcome unknown` | to a token with `!`, or from one who has forwarded the write more than once: nobody can tell any more |
//! | `SERVER_ERROR ..., not executed` | this sending was not executed, and will not be: to be sent again |
//! | `SERVER_ERROR ..., outcome unknown`, or none | to be sent again, with `!` |
//! | `CLIENT_ERROR bad write id` | the token is none; nothing was executed |

use bytes::BufMut;

use crate::forward::WriteIds;
use crate::limits::MAX_UNANSWERED_WRITES;

/// Sequences are below this, so that those of a batch can be counted on from
/// its first one.
const SEQUENCE_END: u64 = 1 << 63;

/// Writes the token, without a blank in front of it.
pub fn write_token(ids: &WriteIds, out: &mut impl BufMut) {
    out.put_u8(b'@');
    put_session(ids.session, out);
    let mut number = itoa::Buffer::new();
    for part in [ids.first_sequence, ids.done_below] {
        out.put_u8(b'.');
        out.put_slice(number.format(part).as_bytes());
    }
    if ids.again {
        out.put_u8(b'!');
    }
}

/// Writes the line that opens a session.
pub fn write_open_session(session: u64, out: &mut impl BufMut) {
    out.put_slice(b"session ");
    put_session(session, out);
    out.put_slice(b"\r\n");
}

fn put_session(session: u64, out: &mut impl BufMut) {
    let digits = (16 - session.leading_zeros() / 4).max(1);
    for digit in (0..digits).rev() {
        out.put_u8(b"0123456789abcdef"[(session >> (4 * digit) & 0xf) as usize]);
    }
}

/// Reads a token that begins with `@`.
pub(super) fn token(word: &[u8]) -> Option<WriteIds> {
    let word = word.strip_prefix(b"@")?;
    let (word, again) = match word.strip_suffix(b"!") {
        Some(word) => (word, true),
        None => (word, false),
    };
    let mut parts = word.split(|byte| *byte == b'.');
    let session = session_id(parts.next()?)?;
    let first_sequence = number(parts.next()?, 10)?;
    let done_below = number(parts.next()?, 10)?;
    let is_valid = parts.next().is_none()
        && (1..SEQUENCE_END).contains(&first_sequence)
        && first_sequence
            .checked_sub(done_below)
            .is_some_and(|behind| behind < MAX_UNANSWERED_WRITES);
    is_valid.then_some(WriteIds { session, first_sequence, done_below, again })
}

/// Reads the id of a session, which is not 0.
pub(super) fn session_id(word: &[u8]) -> Option<u64> {
    number(word, 16).filter(|id| *id != 0)
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = char::from(*byte).to_digit(radix)?;
        number.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(ids: &WriteIds) -> String {
        let mut out = Vec::new();
        write_token(ids, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let sessions = [1, 0xf, 0x10, 0xdead_beef, u64::MAX];
        for (session, again) in sessions.into_iter().flat_map(|id| [(id, false), (id, true)]) {
            for (first_sequence, done_below) in [(1, 0), (1, 1), (70_000, 5_000)] {
                let ids = WriteIds { session, first_sequence, done_below, again };
                assert_eq!(token(written(&ids).as_bytes()), Some(ids));
            }
            let mut line = Vec::new();
            write_open_session(session, &mut line);
            assert_eq!(line, format!("session {session:x}\r\n").into_bytes());
        }
        let ids = WriteIds { session: 0xa1, first_sequence: 17, done_below: 15, again: true };
        assert_eq!(written(&ids), "@a1.17.15!");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let words = [
            "@",
            "@!",
            "@.",
            "@..",
            "@1",
            "@1.2",
            "@1.2.",
            "@1..2",
            "@.2.2",
            "@0.2.2",
            "@g.2.2",
            "@1.0.0",
            "@1.2.3",
            "@1.a.1",
            "@1.2.2!!",
            "@1.2.2.2",
            "@+1.2.2",
            "@1.+2.2",
            "@1.2.2 ",
            "@10000000000000000.2.2",
            "@1.18446744073709551616.2",
            "@1.70000.1",
            "@1.9223372036854775808.9223372036854775808",
        ];
        for word in words {
            assert_eq!(token(word.as_bytes()), None, "{word}");
        }
    }
}
