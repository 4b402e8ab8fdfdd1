//! One command line to one request.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

use crate::forward::WriteIds;
use crate::memcached::ids;
use crate::memcached::reply::TOO_LARGE;
use crate::memcached::request::{Arithmetic, Request, StoreVerb};
use crate::memcached::texts::{
    BAD_CHUNK, BAD_DELTA, BAD_FORMAT, BAD_WRITE_ID, DELETE_USAGE, ERROR,
};
use crate::memcached::words::{Arguments, Words, is_valid_key, signed, unsigned};

/// A storage command whose line was valid. Positions are from its first byte.
#[derive(Debug)]
pub(super) struct Header {
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
    pub(super) fn request_bytes(&self) -> usize {
        self.line_bytes + self.value_bytes + 2
    }

    /// Takes the request, all of which is at the front of `input`.
    pub(super) fn take(&self, input: &mut BytesMut) -> Request {
        let value = self.line_bytes..self.line_bytes + self.value_bytes;
        let end = self.request_bytes();
        if &input[value.end..end] != b"\r\n" {
            // Exactly these bytes are gone, as in memcached: what follows is
            // taken for the next command.
            input.advance(end);
            return invalid(BAD_CHUNK, self.noreply);
        }
        let whole = input.split_to(end).freeze();
        Request::Store {
            verb: self.verb,
            key: whole.slice(self.key.clone()),
            flags: self.flags,
            exptime: self.exptime,
            value: keep(whole, value),
            noreply: self.noreply,
        }
    }
}

/// Which storage command, before its cas token is known.
#[derive(Clone, Copy)]
enum Storage {
    Plain(StoreVerb),
    Cas,
}

/// What a line turned out to be.
pub(super) enum Line {
    /// All of one.
    Request(Request),
    /// Its data block comes first; the line is still in the input.
    Block(Header),
    /// Invalid, and a data block follows that belongs to it.
    Refused {
        /// What to answer.
        request: Request,
        /// How much to swallow, CRLF included.
        block_bytes: u64,
    },
}

/// Handles the line in the first `line_bytes` of `input` and takes it off,
/// unless its data block is waited for. `ids` takes what names it.
pub(super) fn parse_line(
    line_bytes: usize,
    max_value_bytes: usize,
    input: &mut BytesMut,
    ids: &mut Option<WriteIds>,
) -> Line {
    use StoreVerb::{Add, Append, Prepend, Replace, Set};

    let line = line_of(input, line_bytes);
    let command = Words::new(line, 0).next().unwrap_or(0..0);
    let mut rest = Rest { at: command.end, line_bytes, input, ids };
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
        b"session" => return Line::Request(rest.session()),
        b"verbosity" => return Line::Request(rest.verbosity()),
        b"stats" => return Line::Request(rest.stats()),
        b"config" => return Line::Request(rest.config()),
        b"version" => return Line::Request(rest.done(Request::Version)),
        b"quit" => return Line::Request(rest.done(Request::Quit)),
        b"get-servers" => return Line::Request(rest.get_servers()),
        _ => return Line::Request(rest.refuse(ERROR, false)),
    };
    rest.storage(storage, max_value_bytes)
}

/// A line at the front of the input whose command is known.
struct Rest<'a> {
    /// Where the command ended.
    at: usize,
    line_bytes: usize,
    input: &'a mut BytesMut,
    ids: &'a mut Option<WriteIds>,
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

    /// Takes note of the last word if it names the write, that is if it begins
    /// so and stands behind the `wanted` words that the command needs; false:
    /// it begins so and is malformed.
    fn note_ids<const N: usize>(&mut self, arguments: &Arguments<N>, wanted: usize) -> bool {
        let word = &self.line()[arguments.last.clone()];
        if arguments.count <= wanted || word[0] != b'@' {
            return true;
        }
        let ids = ids::token(word);
        *self.ids = ids;
        ids.is_some()
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

    /// `delete <key> [0] [noreply]`, `delete <key> <token>`. The zero is what old PHP clients send.
    fn delete(&mut self) -> Request {
        let arguments: Arguments<2> = self.arguments();
        if !(1..=3).contains(&arguments.count) {
            return self.refuse(ERROR, false);
        }
        let key = arguments.word(0);
        let zero = &self.line()[arguments.word(1)] == b"0";
        let noreply = arguments.noreply && arguments.count > 1;
        if arguments.count == 2 && !self.note_ids(&arguments, 1) {
            return self.refuse(BAD_WRITE_ID, false);
        }
        let understood = match arguments.count {
            1 => true,
            2 => zero || noreply || self.ids.is_some(),
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

    /// `incr|decr <key> <delta> [noreply|token]`
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
        if !self.note_ids(&arguments, 2) {
            return self.refuse(BAD_WRITE_ID, false);
        }
        Request::Arithmetic { operation, key: self.keep(key), delta, noreply }
    }

    /// `session <id>`
    fn session(&mut self) -> Request {
        let arguments: Arguments<1> = self.arguments();
        if arguments.count != 1 {
            return self.refuse(ERROR, false);
        }
        match ids::session_id(&self.line()[arguments.word(0)]) {
            Some(session) => self.done(Request::OpenSession { session }),
            None => self.refuse(BAD_FORMAT, false),
        }
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

    /// `<command> <key> <flags> <exptime> <bytes> [<cas>] [noreply|token]`
    ///
    /// A line that is refused takes its data block with it whenever the block's
    /// length can be read, as recent versions of memcached do; otherwise the
    /// block would be taken for commands.
    fn storage(&mut self, storage: Storage, max_value_bytes: usize) -> Line {
        let line = self.line();
        let arguments: Arguments<5> = self.arguments();
        let is_cas = matches!(storage, Storage::Cas);
        let wanted = if is_cas { 5 } else { 4 };
        let noreply = arguments.noreply;

        let length = unsigned(&line[arguments.word(3)]).and_then(|n| u32::try_from(n).ok());
        let key = arguments.word(0);
        let flags = unsigned(&line[arguments.word(1)]).and_then(|n| u32::try_from(n).ok());
        let exptime = signed(&line[arguments.word(2)]);
        let verb = match storage {
            Storage::Plain(verb) => Some(verb),
            Storage::Cas => unsigned(&line[arguments.word(4)]).map(StoreVerb::Cas),
        };
        let refusal = if !(wanted..=wanted + 1).contains(&arguments.count) {
            Some(invalid(ERROR, false))
        } else if !is_valid_key(&line[key.clone()]) {
            Some(invalid(BAD_FORMAT, noreply))
        } else if length.is_some_and(|length| length as usize > max_value_bytes) {
            Some(invalid(TOO_LARGE, noreply))
        } else if !self.note_ids(&arguments, wanted) {
            Some(invalid(BAD_WRITE_ID, false))
        } else {
            None
        };
        let fields = (verb, flags, exptime, length);
        if let (None, (Some(verb), Some(flags), Some(exptime), Some(length))) = (&refusal, fields) {
            return Line::Block(Header {
                verb,
                key,
                flags,
                exptime,
                noreply,
                line_bytes: self.line_bytes,
                value_bytes: length as usize,
            });
        }
        let refusal = refusal.unwrap_or_else(|| invalid(BAD_FORMAT, noreply));
        let request = self.done(refusal);
        match length {
            Some(length) => Line::Refused { request, block_bytes: u64::from(length) + 2 },
            None => Line::Request(request),
        }
    }
}

/// The line at the front of `input` without its end.
fn line_of(input: &[u8], line_bytes: usize) -> &[u8] {
    let line = &input[..line_bytes - 1];
    line.strip_suffix(b"\r").unwrap_or(line)
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
