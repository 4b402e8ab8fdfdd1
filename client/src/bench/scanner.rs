//! Replies, counted and checked without being kept.

use super::workload::{Kind, key_text};
use crate::protocol::{Line, MAX_REPLY_LINE_BYTES};

/// What a request came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reply<'a> {
    Stored,
    Hit,
    Miss,
    /// The server's line, an error or a refusal.
    Refused(&'a [u8]),
}

/// What the front of the input holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step<'a> {
    /// The end of the reply that was waited for.
    Reply(Reply<'a>),
    /// All that could be used is used; the rest waits for more bytes.
    More,
    /// Not an answer to this request.
    Garbage,
}

/// Position within the reply to one get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Within {
    Line,
    Value(usize),
    ValueEnd,
}

/// Reads the replies of one connection.
#[derive(Debug)]
pub(crate) struct Scanner {
    within: Within,
    hit: bool,
}

impl Scanner {
    pub(crate) fn new() -> Self {
        Scanner { within: Within::Line, hit: false }
    }

    /// Looks for the end of the reply to a request of `kind` for `key` in
    /// `input` from `*at` on, and moves `*at` behind what is used.
    pub(crate) fn next<'a>(
        &mut self,
        kind: Kind,
        key: u32,
        input: &'a [u8],
        at: &mut usize,
    ) -> Step<'a> {
        if kind == Kind::Set && input[*at..].starts_with(b"STORED\r\n") {
            *at += b"STORED\r\n".len();
            return Step::Reply(Reply::Stored);
        }
        loop {
            let rest = &input[*at..];
            match self.within {
                Within::Value(left) => {
                    let used = left.min(rest.len());
                    *at += used;
                    if used < left {
                        self.within = Within::Value(left - used);
                        return Step::More;
                    }
                    self.within = Within::ValueEnd;
                }
                Within::ValueEnd if rest.len() < 2 => return Step::More,
                Within::ValueEnd => {
                    if !rest.starts_with(b"\r\n") {
                        return Step::Garbage;
                    }
                    *at += 2;
                    self.within = Within::Line;
                }
                Within::Line => {
                    let Some(end) = memchr::memchr(b'\n', rest) else {
                        return if rest.len() > MAX_REPLY_LINE_BYTES {
                            Step::Garbage
                        } else {
                            Step::More
                        };
                    };
                    let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
                    *at += end + 1;
                    if let Some(step) = self.line(kind, key, line) {
                        return step;
                    }
                }
            }
        }
    }

    /// The end of the reply, or nothing if a value follows.
    fn line<'a>(&mut self, kind: Kind, key: u32, line: &'a [u8]) -> Option<Step<'a>> {
        let reply = match (kind, Line::parse(line)) {
            (Kind::Get, Line::Value { key: found, bytes, .. }) => {
                if self.hit || found != key_text(key) {
                    return Some(Step::Garbage);
                }
                self.hit = true;
                self.within = Within::Value(bytes);
                return None;
            }
            (Kind::Get, Line::End) if self.hit => Reply::Hit,
            (Kind::Get, Line::End) => Reply::Miss,
            (Kind::Set, Line::Stored) => Reply::Stored,
            (Kind::Set, Line::NotStored)
            | (_, Line::Error(_) | Line::ClientError(_) | Line::ServerError(_)) => {
                Reply::Refused(line)
            }
            _ => return Some(Step::Garbage),
        };
        self.hit = false;
        Some(Step::Reply(reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` in pieces of `piece` bytes, as reads would.
    fn scan(kinds: &[(Kind, u32)], input: &[u8], piece: usize) -> Vec<String> {
        let mut scanner = Scanner::new();
        let (mut kept, mut found, mut expected) = (Vec::new(), Vec::new(), kinds.iter().copied());
        let mut current = expected.next();
        for part in input.chunks(piece) {
            kept.extend_from_slice(part);
            let mut at = 0;
            while let Some((kind, key)) = current {
                match scanner.next(kind, key, &kept, &mut at) {
                    Step::Reply(reply) => {
                        found.push(format!("{reply:?}"));
                        current = expected.next();
                    }
                    Step::More => break,
                    Step::Garbage => {
                        found.push("garbage".into());
                        return found;
                    }
                }
            }
            kept.drain(..at);
        }
        found
    }

    #[test]
    fn whole_and_split_replies_are_the_same() {
        let kinds = [(Kind::Set, 1), (Kind::Get, 2), (Kind::Get, 3), (Kind::Set, 4)];
        let input = b"STORED\r\nVALUE key-00000002 0 5\r\nEND\r\n\r\nEND\r\nEND\r\nSTORED\r\n";
        for piece in 1..=input.len() {
            assert_eq!(scan(&kinds, input, piece), ["Stored", "Hit", "Miss", "Stored"], "{piece}");
        }
    }

    #[test]
    fn refusals_are_replies() {
        let input = b"SERVER_ERROR busy, not executed\r\nSTORED\r\n";
        let found = scan(&[(Kind::Set, 1), (Kind::Set, 1)], input, 7);
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("Refused"));
    }

    #[test]
    fn garbage_is_found() {
        let long = vec![b'x'; MAX_REPLY_LINE_BYTES + 2];
        let inputs: [&[u8]; 6] = [
            b"VALUE key-00000009 0 1\r\na\r\nEND\r\n",
            b"VALUE key-00000001 0 1\r\nabc\r\nEND\r\n",
            b"VALUE key-00000001 0 0\r\n\r\nVALUE key-00000001 0 0\r\n\r\nEND\r\n",
            b"STORED\r\n",
            b"\r\n",
            &long,
        ];
        for input in inputs {
            assert_eq!(scan(&[(Kind::Get, 1)], input, 4096), ["garbage"]);
        }
        assert_eq!(scan(&[(Kind::Set, 1)], b"END\r\n", 99), ["garbage"]);
    }
}
