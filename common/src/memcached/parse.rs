//! Bytes to requests.
//!
//! Keys and values are slices of the bytes as they came from the socket: one
//! split of the read buffer for each request, no copy. Whoever keeps a key or
//! a value for long should copy it, since a slice keeps its whole buffer alive.
//!
//! However the bytes arrive, whole or one by one, the requests are the same,
//! and every byte is looked at a bounded number of times.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

use super::reply::TOO_LARGE;
use super::request::{Arithmetic, Request, StoreVerb};
use super::texts::{BAD_CHUNK, BAD_DELTA, BAD_FORMAT, DELETE_USAGE, ERROR, LINE_TOO_LONG};
use super::words::{Arguments, Words, is_valid_key, signed, unsigned};
use crate::limits::{MAX_GET_LINE_BYTES, MAX_LINE_BYTES};

#[cfg(test)]
mod tests;

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

/// A storage command whose line was valid. Positions are from its first byte.
#[derive(Debug)]
struct Header {
    verb: StoreVerb,
    key: Range<usize>,
    flags: u32,
    exptime: i64,
    noreply: bool,
    line_bytes: usize,
    value_bytes: usize,
}

impl Header {
    /// Line, value and CRLF.
    fn request_bytes(&self) -> usize {
        self.line_bytes + self.value_bytes + 2
    }
}

/// Which storage command, before its cas token is known.
#[derive(Clone, Copy)]
enum Storage {
    Plain(StoreVerb),
    Cas,
}

/// What a line turned out to be.
enum Line {
    Request(Request),
    /// Its data block comes first.
    Block(Header),
}

impl Parser {
    /// A parser that refuses values above `max_value_bytes`.
    pub fn new(max_value_bytes: usize) -> Self {
        Parser {
            // Lengths above are out of the protocol anyway.
            max_value_bytes: max_value_bytes.min(u32::MAX as usize),
            state: State::Line { scanned: 0 },
            fresh: true,
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
                    let request = take_block(header, input);
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
                    match self.line(line_bytes, input) {
                        Line::Request(request) => return Parsed::Request(request),
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

    /// Handles the line in the first `line_bytes` of `input` and takes it off,
    /// unless its data block is waited for.
    fn line(&mut self, line_bytes: usize, input: &mut BytesMut) -> Line {
        use StoreVerb::{Add, Append, Prepend, Replace, Set};

        let line = line_of(input, line_bytes);
        let command = Words::new(line, 0).next().unwrap_or(0..0);
        let mut rest = Rest { at: command.end, line_bytes, input };
        let storage = match &rest.input[command] {
            b"get" => return Line::Request(rest.get(false)),
            b"gets" => return Line::Request(rest.get(true)),
            b"set" => Storage::Plain(Set),
            b"cas" => Storage::Cas,
            b"add" => Storage::Plain(Add),
            b"replace" => Storage::Plain(Replace),
            b"append" => Storage::Plain(Append),
            b"prepend" => Storage::Plain(Prepend),
            b"delete" => return Line::Request(rest.delete()),
            b"incr" => return Line::Request(rest.arithmetic(Arithmetic::Incr)),
            b"decr" => return Line::Request(rest.arithmetic(Arithmetic::Decr)),
            b"verbosity" => return Line::Request(rest.verbosity()),
            b"stats" => return Line::Request(rest.stats()),
            b"config" => return Line::Request(rest.config()),
            b"version" => return Line::Request(rest.done(Request::Version)),
            b"quit" => return Line::Request(rest.done(Request::Quit)),
            b"get-servers" => return Line::Request(rest.get_servers()),
            _ => return Line::Request(rest.refuse(ERROR, false)),
        };
        let (result, swallow) = rest.storage(storage, self.max_value_bytes);
        if let Some(left) = swallow {
            self.state = State::Swallow { left };
        }
        result
    }
}

/// A line at the front of the input whose command is known.
struct Rest<'a> {
    /// Where the command ended.
    at: usize,
    line_bytes: usize,
    input: &'a mut BytesMut,
}

impl Rest<'_> {
    fn line(&self) -> &[u8] {
        line_of(self.input, self.line_bytes)
    }

    fn arguments<const N: usize>(&self) -> Arguments<N> {
        Arguments::collect(self.line(), self.at)
    }

    /// Takes the line off.
    fn done(&mut self, request: Request) -> Request {
        self.input.advance(self.line_bytes);
        request
    }

    /// Takes the line off and refuses it.
    fn refuse(&mut self, reply: &'static str, silent: bool) -> Request {
        self.done(invalid(reply, silent))
    }

    /// Takes the line off and keeps `range` of it.
    fn keep(&mut self, range: Range<usize>) -> Bytes {
        keep(self.input.split_to(self.line_bytes).freeze(), range)
    }

    /// `get <key>+`
    fn get(&mut self, with_cas: bool) -> Request {
        let line = self.line();
        let mut count = 0;
        let mut only = 0..0;
        for word in Words::new(line, self.at) {
            // One bad key and the whole line is refused.
            if !is_valid_key(&line[word.clone()]) {
                return self.refuse(BAD_FORMAT, false);
            }
            count += 1;
            only = word;
        }
        if count == 0 {
            return self.refuse(ERROR, false);
        }
        let mut keys = Vec::with_capacity(count);
        if count == 1 {
            keys.push(self.keep(only));
        } else {
            let whole = self.input.split_to(self.line_bytes).freeze();
            let line = line_of(&whole, self.line_bytes);
            keys.extend(Words::new(line, self.at).map(|word| whole.slice(word)));
        }
        Request::Get { keys, with_cas }
    }

    /// `delete <key> [0] [noreply]`. The zero is what old PHP clients send.
    fn delete(&mut self) -> Request {
        let arguments: Arguments<2> = self.arguments();
        if !(1..=3).contains(&arguments.count) {
            return self.refuse(ERROR, false);
        }
        let key = arguments.word(0);
        let zero = &self.line()[arguments.word(1)] == b"0";
        let noreply = arguments.noreply && arguments.count > 1;
        let understood = match arguments.count {
            1 => true,
            2 => zero || noreply,
            _ => zero && noreply,
        };
        if !understood {
            return self.refuse(DELETE_USAGE, noreply);
        }
        if !is_valid_key(&self.line()[key.clone()]) {
            return self.refuse(BAD_FORMAT, noreply);
        }
        Request::Delete { key: self.keep(key), noreply }
    }

    /// `incr|decr <key> <delta> [noreply]`
    fn arithmetic(&mut self, operation: Arithmetic) -> Request {
        let arguments: Arguments<2> = self.arguments();
        if !(2..=3).contains(&arguments.count) {
            return self.refuse(ERROR, false);
        }
        let noreply = arguments.noreply;
        let key = arguments.word(0);
        if !is_valid_key(&self.line()[key.clone()]) {
            return self.refuse(BAD_FORMAT, noreply);
        }
        let Some(delta) = unsigned(&self.line()[arguments.word(1)]) else {
            return self.refuse(BAD_DELTA, noreply);
        };
        Request::Arithmetic { operation, key: self.keep(key), delta, noreply }
    }

    /// `verbosity <level> [noreply]`
    fn verbosity(&mut self) -> Request {
        let arguments: Arguments<1> = self.arguments();
        if !(1..=3).contains(&arguments.count) {
            return self.refuse(ERROR, false);
        }
        let noreply = arguments.noreply;
        if unsigned(&self.line()[arguments.word(0)]).is_none() {
            return self.refuse(BAD_FORMAT, noreply);
        }
        self.done(Request::Verbosity { noreply })
    }

    /// `stats [what]`
    fn stats(&mut self) -> Request {
        let mut what = self.at..self.at;
        let mut words = Words::new(self.line(), self.at);
        if let Some(first) = words.next() {
            what = first.start..words.last().unwrap_or(first).end;
        }
        Request::Stats { what: self.keep(what) }
    }

    /// `config get cluster`
    fn config(&mut self) -> Request {
        let arguments: Arguments<2> = self.arguments();
        let line = self.line();
        let words = (&line[arguments.word(0)], &line[arguments.word(1)]);
        if arguments.count != 2 || words != (b"get", b"cluster") {
            return self.refuse(ERROR, false);
        }
        self.done(Request::Discover { elasticache: true })
    }

    /// `get-servers`
    fn get_servers(&mut self) -> Request {
        if Words::new(self.line(), self.at).next().is_some() {
            return self.refuse(ERROR, false);
        }
        self.done(Request::Discover { elasticache: false })
    }

    /// `<command> <key> <flags> <exptime> <bytes> [<cas>] [noreply]`
    ///
    /// A line that is refused takes its data block with it whenever the block's
    /// length can be read, as memcached does since 1.6.24; otherwise the block
    /// would be taken for commands.
    ///
    /// Returns what to swallow, too.
    fn storage(&mut self, storage: Storage, max_value_bytes: usize) -> (Line, Option<u64>) {
        let line = self.line();
        let arguments: Arguments<5> = self.arguments();
        let is_cas = matches!(storage, Storage::Cas);
        let wanted = if is_cas { 5..=6 } else { 4..=5 };
        let noreply = arguments.noreply;

        let length = unsigned(&line[arguments.word(3)]).and_then(|n| u32::try_from(n).ok());
        let key = arguments.word(0);
        let flags = unsigned(&line[arguments.word(1)]).and_then(|n| u32::try_from(n).ok());
        let exptime = signed(&line[arguments.word(2)]);
        let verb = match storage {
            Storage::Plain(verb) => Some(verb),
            Storage::Cas => unsigned(&line[arguments.word(4)]).map(StoreVerb::Cas),
        };
        let refusal = if !wanted.contains(&arguments.count) {
            Some(invalid(ERROR, false))
        } else if !is_valid_key(&line[key.clone()]) {
            Some(invalid(BAD_FORMAT, noreply))
        } else if length.is_some_and(|length| length as usize > max_value_bytes) {
            Some(invalid(TOO_LARGE, noreply))
        } else {
            None
        };
        let fields = (verb, flags, exptime, length);
        if let (None, (Some(verb), Some(flags), Some(exptime), Some(length))) = (&refusal, fields) {
            let header = Header {
                verb,
                key,
                flags,
                exptime,
                noreply,
                line_bytes: self.line_bytes,
                value_bytes: length as usize,
            };
            return (Line::Block(header), None);
        }
        let refusal = refusal.unwrap_or_else(|| invalid(BAD_FORMAT, noreply));
        (Line::Request(self.done(refusal)), length.map(|length| u64::from(length) + 2))
    }
}

/// The line at the front of `input` without its end.
fn line_of(input: &[u8], line_bytes: usize) -> &[u8] {
    let line = &input[..line_bytes - 1];
    line.strip_suffix(b"\r").unwrap_or(line)
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

fn invalid(reply: &'static str, silent: bool) -> Request {
    Request::Invalid { reply, silent, close: false }
}

/// Keeps `range` of `bytes`, without a second reference to them.
fn keep(mut bytes: Bytes, range: Range<usize>) -> Bytes {
    bytes.truncate(range.end);
    bytes.advance(range.start);
    bytes
}

/// The whole request of `header` is at the front of `input`.
fn take_block(header: &Header, input: &mut BytesMut) -> Request {
    let value = header.line_bytes..header.line_bytes + header.value_bytes;
    let end = header.request_bytes();
    if &input[value.end..end] != b"\r\n" {
        // Exactly these bytes are gone, as in memcached: what follows is
        // taken for the next command.
        input.advance(end);
        return invalid(BAD_CHUNK, header.noreply);
    }
    let whole = input.split_to(end).freeze();
    Request::Store {
        verb: header.verb,
        key: whole.slice(header.key.clone()),
        flags: header.flags,
        exptime: header.exptime,
        value: keep(whole, value),
        noreply: header.noreply,
    }
}
