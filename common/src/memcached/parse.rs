//! Bytes to requests.
//!
//! Keys and values are slices of the bytes as they came from the socket: one
//! split of the read buffer for each request, no copy. Whoever keeps a key or
//! a value for long should copy it, since a slice keeps its whole buffer alive.
//!
//! However the bytes arrive, whole or one by one, the requests are the same,
//! and every byte is looked at a bounded number of times.

mod line;

#[cfg(test)]
mod tests;

use bytes::{Buf, BytesMut};

use self::line::{Header, Line, parse_line};
use super::request::Request;
use super::texts::LINE_TOO_LONG;
use crate::forward::WriteIds;
use crate::limits::{MAX_GET_LINE_BYTES, MAX_LINE_BYTES};

/// Room behind a data block.
const READ_SLACK_BYTES: usize = 256;

/// What a step of the parser found.
#[derive(Debug)]
pub enum Parsed {
    /// A whole request.
    Request(Request),
    /// More bytes are needed.
    Incomplete,
    /// The connection speaks the binary protocol, which has no place here:
    /// close it.
    Binary,
}

/// Turns a stream of bytes into requests. One for each connection.
#[derive(Debug)]
pub struct Parser {
    max_value_bytes: usize,
    state: State,
    /// Nothing has been parsed yet: the first byte tells the protocol.
    fresh: bool,
    /// What names the write whose line was parsed last.
    ids: Option<WriteIds>,
    /// A `get-servers` without line end was answered; should one still come,
    /// it is no request of its own.
    answered_early: bool,
}

#[derive(Debug)]
enum State {
    /// At the start of a line whose first `scanned` bytes hold no line end.
    Line { scanned: usize },
    /// The line of a storage command is at the front of the input, and its
    /// data block is not complete.
    Block(Header),
    /// The next bytes are a data block that was refused already.
    Swallow { left: u64 },
}

impl Parser {
    /// A parser that refuses values above `max_value_bytes`.
    pub fn new(max_value_bytes: usize) -> Self {
        Parser {
            // Lengths above are out of the protocol anyway.
            max_value_bytes: max_value_bytes.min(u32::MAX as usize),
            state: State::Line { scanned: 0 },
            fresh: true,
            ids: None,
            answered_early: false,
        }
    }

    /// Takes the next request off the front of `input`.
    ///
    /// The same `input` must be given each time, with more bytes behind those
    /// that were left. It never has to hold more than one request: a line of
    /// at most [`MAX_GET_LINE_BYTES`], or [`MAX_LINE_BYTES`] and a value.
    /// After a request that closes the connection there is nothing more to ask.
    pub fn next(&mut self, input: &mut BytesMut) -> Parsed {
        if self.fresh {
            match input.first() {
                None => return Parsed::Incomplete,
                Some(0x80) => return Parsed::Binary,
                Some(_) => self.fresh = false,
            }
        }
        loop {
            match &mut self.state {
                State::Swallow { left } => {
                    let now = (*left).min(input.len() as u64);
                    input.advance(now as usize);
                    *left -= now;
                    if *left > 0 {
                        return Parsed::Incomplete;
                    }
                    self.state = State::Line { scanned: 0 };
                }
                State::Block(header) => {
                    if input.len() < header.request_bytes() {
                        return Parsed::Incomplete;
                    }
                    let request = header.take(input);
                    self.state = State::Line { scanned: 0 };
                    return Parsed::Request(request);
                }
                State::Line { scanned } => {
                    let Some(found) = memchr::memchr(b'\n', &input[*scanned..]) else {
                        *scanned = input.len();
                        return self.without_line_end(input);
                    };
                    let line_bytes = *scanned + found + 1;
                    *scanned = 0;
                    if is_too_long(&input[..line_bytes - 1]) {
                        return line_too_long(input);
                    }
                    if std::mem::take(&mut self.answered_early)
                        && input[..line_bytes].iter().all(|byte| b" \r\n".contains(byte))
                    {
                        input.advance(line_bytes);
                        continue;
                    }
                    self.ids = None;
                    match parse_line(line_bytes, self.max_value_bytes, input, &mut self.ids) {
                        Line::Request(request) => return Parsed::Request(request),
                        Line::Refused { request, block_bytes } => {
                            self.state = State::Swallow { left: block_bytes };
                            return Parsed::Request(request);
                        }
                        Line::Block(header) => {
                            let missing = header.request_bytes().saturating_sub(input.len());
                            if missing > 0 {
                                // Once, so that a large value is not moved again
                                // and again; and some more, so that the read
                                // which completes it comes back short and shows
                                // that the socket is empty.
                                input.reserve(missing + READ_SLACK_BYTES);
                            }
                            self.state = State::Block(header);
                        }
                    }
                }
            }
        }
    }

    /// What names the request that [`Parser::next`] gave last, if it is a write
    /// with a token: see [`write_token`](super::write_token).
    pub fn ids(&self) -> Option<WriteIds> {
        self.ids
    }

    /// How many bytes the data block that is waited for still misses; `input`
    /// has room for them already.
    pub fn missing_bytes(&self, input: &BytesMut) -> usize {
        match &self.state {
            State::Block(header) => header.request_bytes().saturating_sub(input.len()),
            State::Line { .. } | State::Swallow { .. } => 0,
        }
    }

    /// There is no line end in all of `input`.
    fn without_line_end(&mut self, input: &mut BytesMut) -> Parsed {
        // The first load balancers of this kind answered the bare word, and
        // there are clients that send no line end.
        if &input[..] == b"get-servers" {
            input.advance(input.len());
            self.state = State::Line { scanned: 0 };
            self.answered_early = true;
            return Parsed::Request(Request::Discover { elasticache: false });
        }
        if is_too_long(input) {
            self.state = State::Line { scanned: 0 };
            return line_too_long(input);
        }
        Parsed::Incomplete
    }
}

/// Whether this start of a line is longer than any line may be.
fn is_too_long(line: &[u8]) -> bool {
    if line.len() <= MAX_LINE_BYTES {
        return false;
    }
    // A get of many keys may be longer. memcached looks past 100 blanks.
    let blanks = line.iter().take_while(|&&byte| byte == b' ').count();
    let is_get = line[blanks..].starts_with(b"get ") || line[blanks..].starts_with(b"gets ");
    !(is_get && blanks <= 100 && line.len() <= MAX_GET_LINE_BYTES)
}

fn line_too_long(input: &mut BytesMut) -> Parsed {
    input.clear();
    Parsed::Request(Request::Invalid { reply: LINE_TOO_LONG, silent: false, close: true })
}
