use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::limits::MAX_KEY_BYTES;
use crate::memcached::words::{signed, unsigned};

const MAX_VALUE_BYTES: usize = 1024;

/// A request in one line: `! text` for an invalid one, then what is special.
fn show(request: &Request) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).escape_debug().to_string();
    let quiet = if request.noreply() { " noreply" } else { "" };
    match request {
        Request::Get { keys, with_cas } => {
            let keys: Vec<String> = keys.iter().map(text).collect();
            format!("{} {}", if *with_cas { "gets" } else { "get" }, keys.join(" "))
        }
        Request::Store { verb, key, flags, exptime, value, .. } => {
            format!("{verb:?} {} {flags} {exptime} [{}]{quiet}", text(key), text(value))
        }
        Request::Delete { key, .. } => format!("delete {}{quiet}", text(key)),
        Request::Arithmetic { operation, key, delta, .. } => {
            format!("{operation:?} {} {delta}{quiet}", text(key))
        }
        Request::OpenSession { session } => format!("session {session:x}"),
        Request::Version => "version".to_owned(),
        Request::Stats { what } => format!("stats [{}]", text(what)),
        Request::Verbosity { .. } => format!("verbosity{quiet}"),
        Request::Discover { elasticache } => format!("discover {elasticache}"),
        Request::Quit => "quit".to_owned(),
        Request::Invalid { reply, close, .. } => {
            format!("! {reply}{quiet}{}", if *close { " close" } else { "" })
        }
    }
}

/// What comes out when the bytes arrive in these pieces, up to a close.
fn run<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Request> {
    let mut parser = Parser::new(MAX_VALUE_BYTES);
    let mut input = BytesMut::new();
    let mut requests = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match parser.next(&mut input) {
                Parsed::Incomplete => break,
                Parsed::Binary => return requests,
                Parsed::Request(request) => {
                    let last =
                        matches!(request, Request::Quit | Request::Invalid { close: true, .. });
                    requests.push(request);
                    if last {
                        return requests;
                    }
                }
            }
        }
        assert!(input.len() <= MAX_GET_LINE_BYTES, "keeps {} bytes", input.len());
    }
    requests
}

fn shown(input: &[u8]) -> Vec<String> {
    let whole: Vec<String> = run([input]).iter().map(show).collect();
    let bytewise: Vec<String> = run(input.chunks(1)).iter().map(show).collect();
    assert_eq!(whole, bytewise, "whole and byte by byte");
    whole
}

/// Each line alone, followed by a version to show that nothing shifted. All
/// of it was compared with the answers of memcached 1.6.18, but for the
/// differences that are named.
#[test]
fn lines_and_their_requests() {
    let table: &[(&str, &[&str])] = &[
        ("get a", &["get a"]),
        ("  gets  a   b ", &["gets a b"]),
        ("get", &["! ERROR"]),
        ("gets ", &["! ERROR"]),
        ("GET a", &["! ERROR"]),
        ("", &["! ERROR"]),
        (" ", &["! ERROR"]),
        ("a", &["! ERROR"]),
        ("foo bar noreply", &["! ERROR"]),
        ("get noreply", &["get noreply"]),
        // memcached takes control characters in keys; here they are refused.
        ("get a\tb", &["! CLIENT_ERROR bad command line format"]),
        ("get a \0", &["! CLIENT_ERROR bad command line format"]),
        ("get \u{e9}", &["get \u{e9}"]),
        ("delete k", &["delete k"]),
        ("delete k noreply", &["delete k noreply"]),
        ("delete k 0", &["delete k"]),
        ("delete k 0 noreply", &["delete k noreply"]),
        ("delete noreply", &["delete noreply"]),
        ("delete", &["! ERROR"]),
        ("delete k 0 noreply x", &["! ERROR"]),
        ("delete k 1", &["! CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]"]),
        (
            "delete k 00",
            &["! CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]"],
        ),
        (
            "delete k 0 x",
            &["! CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]"],
        ),
        (
            "delete k noreply 0",
            &["! CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]"],
        ),
        (
            "delete k 1 noreply",
            &["! CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply] noreply"],
        ),
        ("incr n 1", &["Incr n 1"]),
        ("decr n +18446744073709551615 noreply", &["Decr n 18446744073709551615 noreply"]),
        ("incr n 1 x", &["Incr n 1"]),
        ("incr", &["! ERROR"]),
        ("incr n", &["! ERROR"]),
        ("incr n 1 x y", &["! ERROR"]),
        ("incr n x", &["! CLIENT_ERROR invalid numeric delta argument"]),
        ("incr n 1x", &["! CLIENT_ERROR invalid numeric delta argument"]),
        ("incr n -1", &["! CLIENT_ERROR invalid numeric delta argument"]),
        ("incr n 18446744073709551616", &["! CLIENT_ERROR invalid numeric delta argument"]),
        ("decr n x noreply", &["! CLIENT_ERROR invalid numeric delta argument noreply"]),
        ("incr n noreply", &["! CLIENT_ERROR invalid numeric delta argument noreply"]),
        ("version", &["version"]),
        ("version x", &["version"]),
        ("versionx", &["! ERROR"]),
        ("verbosity 1", &["verbosity"]),
        ("verbosity 1 2 noreply", &["verbosity noreply"]),
        ("verbosity", &["! ERROR"]),
        ("verbosity 0 1 2 3", &["! ERROR"]),
        ("verbosity x", &["! CLIENT_ERROR bad command line format"]),
        ("verbosity noreply", &["! CLIENT_ERROR bad command line format noreply"]),
        ("stats", &["stats []"]),
        ("stats  raft x  ", &["stats [raft x]"]),
        ("get-servers", &["discover false"]),
        ("get-servers x", &["! ERROR"]),
        ("config get cluster", &["discover true"]),
        ("config get", &["! ERROR"]),
        ("config get cluster x", &["! ERROR"]),
        ("config set cluster", &["! ERROR"]),
    ];
    check(table);
}

/// The same, for the words by which clients name their writes.
#[test]
fn sessions_and_write_ids() {
    check(&[
        // Write ids are words that memcached ignores, but for a delete's.
        ("incr n 1 @5.2.1", &["Incr n 1"]),
        ("decr n 1 @5.2.1!", &["Decr n 1"]),
        ("delete k @5.2.1", &["delete k"]),
        ("delete @k", &["delete @k"]),
        ("delete k @5.2", &["! CLIENT_ERROR bad write id"]),
        ("incr n 1 @", &["! CLIENT_ERROR bad write id"]),
        ("incr n @5.2.1", &["! CLIENT_ERROR invalid numeric delta argument"]),
        ("incr n 1 @5.2.1 noreply", &["! ERROR"]),
        ("incr n 1 noreply @5.2.1", &["! ERROR"]),
        (
            "delete k 0 @5.2.1",
            &["! CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]"],
        ),
        ("get k @5.2.1", &["get k @5.2.1"]),
        ("session 1f", &["session 1f"]),
        ("session ffffffffffffffff", &["session ffffffffffffffff"]),
        ("session", &["! ERROR"]),
        ("session 1 noreply", &["! ERROR"]),
        ("session 0", &["! CLIENT_ERROR bad command line format"]),
        ("session 1g", &["! CLIENT_ERROR bad command line format"]),
    ]);
}

fn check(table: &[(&str, &[&str])]) {
    for (line, expected) in table {
        for end in ["\n", "\r\n"] {
            let input = format!("{line}{end}version{end}");
            let mut expected = expected.to_vec();
            expected.push("version");
            if line.starts_with("get-servers ") {
                // Byte by byte the bare word is answered before the rest is known.
                let whole: Vec<String> = run([input.as_bytes()]).iter().map(show).collect();
                assert_eq!(whole, expected, "{line}");
                continue;
            }
            assert_eq!(shown(input.as_bytes()), expected, "{line}");
        }
    }
}

#[test]
fn storage_lines_and_their_blocks() {
    const BAD: &str = "! CLIENT_ERROR bad command line format";
    let table: &[(&str, &[&str])] = &[
        ("set k 1 2 5\r\nabcde\r\n", &["Set k 1 2 [abcde]"]),
        ("set k 1 2 5\nabcde\r\n", &["Set k 1 2 [abcde]"]),
        ("set k 0 0 0\r\n\r\n", &["Set k 0 0 []"]),
        ("set k 0 0 4\r\n\r\n\r\n\r\n", &["Set k 0 0 [\\r\\n\\r\\n]"]),
        ("add k 4294967295 -1 +1 noreply\r\na\r\n", &["Add k 4294967295 -1 [a] noreply"]),
        ("replace k 0 99999999999 1 x\r\na\r\n", &["Replace k 0 99999999999 [a]"]),
        ("append k 010 0 01 NOREPLY\r\na\r\n", &["Append k 10 0 [a]"]),
        ("prepend k 0 0 1\r\na\r\n", &["Prepend k 0 0 [a]"]),
        ("cas k 0 0 1 18446744073709551615\r\na\r\n", &["Cas(18446744073709551615) k 0 0 [a]"]),
        ("cas k 0 0 1 7 noreply\r\na\r\n", &["Cas(7) k 0 0 [a] noreply"]),
        ("set k 0 0 1 @5.2.1\r\na\r\n", &["Set k 0 0 [a]"]),
        ("set @k 0 0 1\r\na\r\n", &["Set @k 0 0 [a]"]),
        ("cas k 0 0 1 7 @5.2.1\r\na\r\n", &["Cas(7) k 0 0 [a]"]),
        ("set k 0 0 1 @5\r\na\r\n", &["! CLIENT_ERROR bad write id"]),
        ("cas k 0 0 1 @5.2.1\r\na\r\n", &[BAD]),
        ("set k 0 0 1 noreply @5.2.1\r\na\r\n", &["! ERROR"]),
        // Without a length there is no telling what to swallow.
        ("set\r\n", &["! ERROR"]),
        ("set k\r\n", &["! ERROR"]),
        ("set k 0 0\r\n", &["! ERROR"]),
        ("set k 0 0 -1\r\n", &[BAD]),
        ("set k 0 0 x\r\n", &[BAD]),
        ("set k 0 0 5x\r\n", &[BAD]),
        ("set k 0 0 4294967296\r\n", &[BAD]),
        ("set k 0 0 noreply\r\n", &["! CLIENT_ERROR bad command line format noreply"]),
        // With one, a refused line takes its block with it.
        ("set k x 0 5\r\nabcde\r\n", &[BAD]),
        ("set k -1 0 5\r\nabcde\r\n", &[BAD]),
        ("set k 4294967296 0 5\r\nabcde\r\n", &[BAD]),
        ("set k 0x10 0 5\r\nabcde\r\n", &[BAD]),
        ("set k 0 x 5\r\nabcde\r\n", &[BAD]),
        ("set k 0 -+1 5\r\nabcde\r\n", &[BAD]),
        ("set k\t 0 0 5\r\nabcde\r\n", &[BAD]),
        ("set k x 0 5 noreply\r\nabcde\r\n", &["! CLIENT_ERROR bad command line format noreply"]),
        ("set k 0 0 5 x y\r\nabcde\r\n", &["! ERROR"]),
        ("set k 0 0 5 noreply x\r\nabcde\r\n", &["! ERROR"]),
        ("cas k 0 0 5\r\nabcde\r\n", &["! ERROR"]),
        ("cas k 0 0 5 1 x y\r\nabcde\r\n", &["! ERROR"]),
        ("cas k 0 0 5 x\r\nabcde\r\n", &[BAD]),
        ("cas k 0 0 5 -1\r\nabcde\r\n", &[BAD]),
        ("cas k 0 0 5 noreply\r\nabcde\r\n", &["! CLIENT_ERROR bad command line format noreply"]),
        // A block that does not end where it should: exactly its bytes are gone.
        ("set k 0 0 5\r\nabcdeXY", &["! CLIENT_ERROR bad data chunk"]),
        ("set k 0 0 5\r\nabcdefgh\r\n", &["! CLIENT_ERROR bad data chunk", "! ERROR"]),
        (
            "set k 0 0 5 noreply\r\nabcdefgh\r\n",
            &["! CLIENT_ERROR bad data chunk noreply", "! ERROR"],
        ),
        ("set k 0 0 0\r\n\n\n", &["! CLIENT_ERROR bad data chunk"]),
    ];
    for (input, expected) in table {
        let mut expected = expected.to_vec();
        expected.push("version");
        assert_eq!(shown(format!("{input}version\r\n").as_bytes()), expected, "{input}");
    }
    // Too short a block takes the start of the next command with it.
    assert_eq!(
        shown(b"set k 0 0 5\r\nabc\r\nversion\r\n"),
        ["! CLIENT_ERROR bad data chunk", "! ERROR"]
    );
}

#[test]
fn keys_up_to_250_bytes() {
    let longest = "k".repeat(MAX_KEY_BYTES);
    let longer = "k".repeat(MAX_KEY_BYTES + 1);
    assert_eq!(shown(format!("get {longest}\r\n").as_bytes()), [format!("get {longest}")]);
    for line in [
        format!("get {longer}"),
        format!("get a {longer} b"),
        format!("delete {longer}"),
        format!("incr {longer} 1"),
        format!("set {longer} 0 0 5\r\nabcde"),
    ] {
        assert_eq!(
            shown(format!("{line}\r\nversion\r\n").as_bytes()),
            ["! CLIENT_ERROR bad command line format", "version"],
            "{line}"
        );
    }
}

#[test]
fn writes_are_named_by_their_own_token() {
    let text = b"incr n 1 @5.2.1\r\nget k\r\nset k 0 0 1 @5.3.1!\r\na\r\nset k 0 0 1\r\na\r\n\
        delete k @5.4.4\r\nset k 0 0 5 @5.5.4\r\nabcdeXYincr n 1 x\r\n";
    for size in [1, 7, text.len()] {
        let mut parser = Parser::new(MAX_VALUE_BYTES);
        let mut input = BytesMut::new();
        let mut found = Vec::new();
        for piece in text.chunks(size) {
            input.extend_from_slice(piece);
            while let Parsed::Request(_) = parser.next(&mut input) {
                found.push(parser.ids().map(|ids| (ids.first_sequence, ids.done_below, ids.again)));
            }
        }
        let named = |sequence, done_below, again| Some((sequence, done_below, again));
        let (first, last) = (named(2, 1, false), named(4, 4, false));
        // The block that was cut is refused in its place in the run.
        let expected = [first, None, named(3, 1, true), None, last, named(5, 4, false), None];
        assert_eq!(found, expected);
    }
}

#[test]
fn values_above_the_limit_are_swallowed() {
    let at_limit =
        format!("set k 0 0 {0}\r\n{1}\r\n", MAX_VALUE_BYTES, "v".repeat(MAX_VALUE_BYTES));
    assert_eq!(shown(at_limit.as_bytes()).len(), 1);
    for (option, quiet) in [("", ""), (" noreply", " noreply")] {
        let value = "v\n".repeat(100_000);
        let input = format!("set k 0 0 200000{option}\r\n{value}\r\nversion\r\n");
        assert_eq!(
            shown(input.as_bytes()),
            [format!("! SERVER_ERROR object too large for cache{quiet}"), "version".to_owned()]
        );
    }
}

#[test]
fn the_longest_value_is_swallowed_in_bounded_memory() {
    let mut parser = Parser::new(MAX_VALUE_BYTES);
    let mut input = BytesMut::from(format!("set k 0 0 {}\r\n", u32::MAX).as_bytes());
    let Parsed::Request(request) = parser.next(&mut input) else { panic!("refused at once") };
    assert_eq!(show(&request), "! SERVER_ERROR object too large for cache");
    let piece = vec![b'x'; 1 << 20];
    let mut left = u64::from(u32::MAX) + 2;
    while left > 0 {
        let now = left.min(piece.len() as u64);
        input.extend_from_slice(&piece[..now as usize]);
        left -= now;
        assert!(matches!(parser.next(&mut input), Parsed::Incomplete));
        assert!(input.is_empty() && input.capacity() <= 4 * piece.len());
    }
    input.extend_from_slice(b"version\r\n");
    assert!(matches!(parser.next(&mut input), Parsed::Request(Request::Version)));
}

#[test]
fn lines_have_a_bound() {
    let line = "x".repeat(MAX_LINE_BYTES);
    assert_eq!(shown(format!("{line}\nversion\n").as_bytes()), ["! ERROR", "version"]);
    assert_eq!(shown(format!("{line}x").as_bytes()), ["! CLIENT_ERROR line too long close"]);
    assert_eq!(
        shown(format!("{line}x\nversion\n").as_bytes()),
        ["! CLIENT_ERROR line too long close"]
    );
    let ten_megabytes = vec![b'x'; 10_000_000];
    let requests = run(ten_megabytes.chunks(1460));
    assert_eq!(requests.len(), 1);

    // Only gets of many keys may be longer.
    for command in ["get", "  gets"] {
        let keys = " xyz".repeat((MAX_GET_LINE_BYTES - command.len()) / 4);
        assert!(shown(format!("{command}{keys}\nversion\n").as_bytes()).len() == 2);
        let input = format!("{command}{keys} xyz xyz\nversion\n");
        assert_eq!(shown(input.as_bytes()), ["! CLIENT_ERROR line too long close"]);
    }
}

#[test]
fn get_servers_needs_no_line_end() {
    assert_eq!(shown(b"get-servers"), ["discover false"]);
    for end in ["\n", "\r\n", " \r\n"] {
        let late = [b"get-servers".as_slice(), end.as_bytes(), b"version\r\n"];
        let requests: Vec<String> = run(late).iter().map(show).collect();
        assert_eq!(requests, ["discover false", "version"]);
    }
    assert_eq!(shown(b"get-servers\r\nget-servers\n"), ["discover false", "discover false"]);
}

#[test]
fn binary_protocol_is_told_apart_by_the_first_byte() {
    let mut parser = Parser::new(MAX_VALUE_BYTES);
    assert!(matches!(parser.next(&mut BytesMut::from(&b"\x80\x00"[..])), Parsed::Binary));
    assert_eq!(shown(b"version\r\n\x80\r\n"), ["version", "! ERROR"]);
    assert_eq!(shown(b"quit\r\nversion\r\n"), ["quit"]);
}

#[test]
fn a_value_arrives_in_linear_time_and_place() {
    const VALUE_BYTES: usize = 1 << 20;
    let mut whole = format!("set k 0 0 {VALUE_BYTES}\r\n").into_bytes();
    whole.resize(whole.len() + VALUE_BYTES, b'v');
    whole.extend_from_slice(b"\r\n");
    let mut parser = Parser::new(VALUE_BYTES);
    let mut input = BytesMut::new();
    let mut place = std::ptr::null();
    let pieces = whole.chunks(1460);
    let last = pieces.len() - 1;
    for (index, piece) in pieces.enumerate() {
        input.extend_from_slice(piece);
        match index {
            // The room was made at once: the bytes never move again.
            1 => place = input.as_ptr(),
            2.. => assert_eq!(place, input.as_ptr()),
            _ => {}
        }
        let parsed = parser.next(&mut input);
        assert_eq!(matches!(parsed, Parsed::Request(_)), index == last);
        assert_eq!(parser.missing_bytes(&input) == 0, index == last);
    }
}

#[test]
fn requests_are_slices_of_the_input() {
    let mut input = BytesMut::from(&b"set key 0 0 5\r\nvalue\r\n"[..]);
    let place = input.as_ptr() as usize;
    let Parsed::Request(Request::Store { key, value, .. }) =
        Parser::new(MAX_VALUE_BYTES).next(&mut input)
    else {
        panic!("a set")
    };
    assert_eq!((key.as_ptr() as usize, value.as_ptr() as usize), (place + 4, place + 15));
}

/// Valid and broken commands, with bytes that matter to the parser.
fn command() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just("noreply".to_owned()),
        Just("@5.2.1".to_owned()),
        Just("0".to_owned()),
        "[a-z]{1,6}",
        "-?[0-9]{1,11}",
        Just("k".repeat(251)),
    ];
    let name = prop_oneof![
        Just("get"),
        Just("gets"),
        Just("set"),
        Just("cas"),
        Just("append"),
        Just("delete"),
        Just("incr"),
        Just("session"),
        Just("stats"),
        Just("verbosity"),
        Just("config"),
        Just("foo"),
    ];
    let end = prop_oneof![4 => Just("\r\n"), 1 => Just("\n"), 1 => Just("")];
    let line = (name, prop::collection::vec(word, 0..7), end.clone())
        .prop_map(|(name, words, end)| format!("{name} {}{end}", words.join(" ")).into_bytes());
    let set = ("[a-z]{1,5}", 0..1200_usize, -1..2_isize, any::<bool>(), end).prop_map(
        |(key, length, off, noreply, end)| {
            let noreply = if noreply { " noreply" } else { "" };
            let mut bytes = format!("set {key} 0 0 {length}{noreply}\r\n").into_bytes();
            bytes.extend(std::iter::repeat_n(b'v', length.saturating_add_signed(off)));
            bytes.extend_from_slice(end.as_bytes());
            bytes
        },
    );
    let noise = prop::collection::vec(
        prop_oneof![3 => any::<u8>(), 1 => Just(b'\n'), 1 => Just(b' ')],
        0..80,
    );
    prop_oneof![4 => line, 4 => set, 1 => noise]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn chunks_do_not_matter(
        commands in prop::collection::vec(command(), 1..12),
        sizes in prop::collection::vec(1..600_usize, 1..40),
    ) {
        let bytes = commands.concat();
        let whole = run([&bytes[..]]);
        prop_assert_eq!(&whole, &run(bytes.chunks(1)));
        let mut rest = &bytes[..];
        let mut pieces = Vec::new();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, tail) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece);
            rest = tail;
        }
        prop_assert_eq!(&whole, &run(pieces));
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        for request in run([&bytes[..]]) {
            // What the parser lets through may be sent to another server.
            let mut frame = BytesMut::new();
            crate::memcached::encode_requests(std::slice::from_ref(&request), &mut frame);
            prop_assert_eq!(crate::memcached::decode_requests(frame.freeze()), Ok(vec![request]));
        }
    }

    #[test]
    fn numbers_agree_with_the_standard_library(text in "[+-]?[0-9]{0,21}") {
        prop_assert_eq!(signed(text.as_bytes()), text.parse::<i64>().ok());
        let expected = if text.starts_with('-') { None } else { text.parse::<u64>().ok() };
        prop_assert_eq!(unsigned(text.as_bytes()), expected);
    }
}
