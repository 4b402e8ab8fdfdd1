use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::memcached::{BAD_CHUNK, TOO_LARGE};

fn encoded(requests: &[Request]) -> Bytes {
    let mut frame = BytesMut::new();
    encode_requests(requests, &mut frame);
    frame.freeze()
}

fn key() -> impl Strategy<Value = Bytes> {
    "[!-~]{1,250}".prop_map(Bytes::from)
}

fn request() -> impl Strategy<Value = Request> {
    let value = prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    let verb = prop_oneof![
        Just(StoreVerb::Set),
        Just(StoreVerb::Add),
        Just(StoreVerb::Replace),
        Just(StoreVerb::Append),
        Just(StoreVerb::Prepend),
        any::<u64>().prop_map(StoreVerb::Cas),
    ];
    let store = (verb, key(), any::<u32>(), any::<i64>(), value.clone(), any::<bool>()).prop_map(
        |(verb, key, flags, exptime, value, noreply)| Request::Store {
            verb,
            key,
            flags,
            exptime,
            value,
            noreply,
        },
    );
    let operation = prop_oneof![Just(Arithmetic::Incr), Just(Arithmetic::Decr)];
    prop_oneof![
        4 => store,
        4 => (prop::collection::vec(key(), 1..20), any::<bool>())
            .prop_map(|(keys, with_cas)| Request::Get { keys, with_cas }),
        1 => (key(), any::<bool>()).prop_map(|(key, noreply)| Request::Delete { key, noreply }),
        1 => (operation, key(), any::<u64>(), any::<bool>()).prop_map(
            |(operation, key, delta, noreply)| Request::Arithmetic { operation, key, delta, noreply }
        ),
        1 => (1..=u64::MAX).prop_map(|session| Request::OpenSession { session }),
        1 => Just(Request::Version),
        1 => Just(Request::Quit),
        1 => value.prop_map(|what| Request::Stats { what }),
        1 => any::<bool>().prop_map(|noreply| Request::Verbosity { noreply }),
        1 => any::<bool>().prop_map(|elasticache| Request::Discover { elasticache }),
        1 => (prop::sample::select(&INVALID_TEXTS[..]), any::<bool>(), any::<bool>())
            .prop_map(|(reply, silent, close)| Request::Invalid { reply, silent, close }),
    ]
}

#[test]
fn a_set_costs_23_bytes_besides_key_and_value() {
    let set = Request::Store {
        verb: StoreVerb::Set,
        key: Bytes::from_static(b"key"),
        flags: 0,
        exptime: 0,
        value: Bytes::from_static(b"value"),
        noreply: false,
    };
    assert_eq!(encoded(&[set]).len(), 3 + 5 + 18 + 4);
}

#[test]
fn damaged_frames_are_refused() {
    let decode = |bytes: &'static [u8]| decode_requests(Bytes::from_static(bytes));
    assert_eq!(decode(b""), Err(DecodeError::Short(0)));
    assert_eq!(decode(b"\0\0\0\0"), Ok(vec![]));
    assert_eq!(decode(b"\0\0\0\0xy"), Err(DecodeError::Trailing(2)));
    assert_eq!(decode(b"\0\0\0\x02\x0c"), Err(DecodeError::Short(1)));
    assert_eq!(decode(b"\0\0\0\x01\x7f"), Err(DecodeError::UnknownKind(0, 0x7f)));
    assert_eq!(decode(b"\xff\xff\xff\xff\x01\xff\xff\xff\xff\x01k"), Err(DecodeError::Short(0)));
    assert_eq!(decode(b"\0\0\0\x01\x01\0\0\0\0"), Err(DecodeError::BadKey(0)), "no keys");
    assert_eq!(decode(b"\0\0\0\x01\x09\x00"), Err(DecodeError::BadKey(0)), "empty key");
    assert_eq!(decode(b"\0\0\0\x01\x09\x03a b"), Err(DecodeError::BadKey(0)), "blank in key");
}

#[test]
fn error_texts_become_static_again_and_unknown_ones_stay_errors() {
    for reply in [BAD_CHUNK, TOO_LARGE] {
        let request = Request::Invalid { reply, silent: false, close: false };
        assert_eq!(decode_requests(encoded(std::slice::from_ref(&request))), Ok(vec![request]));
    }
    let newer = Request::Invalid { reply: "CLIENT_ERROR new", silent: true, close: true };
    assert_eq!(
        decode_requests(encoded(&[newer])),
        Ok(vec![Request::Invalid { reply: ERROR, silent: true, close: true }])
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn batches_survive_the_way(requests in prop::collection::vec(request(), 0..20)) {
        let frame = encoded(&requests);
        prop_assert_eq!(decode_requests(frame.clone()), Ok(requests.clone()));
        if !requests.is_empty() {
            let cut = frame.slice(..frame.len() - 1);
            prop_assert!(decode_requests(cut).is_err());
        }
    }

    #[test]
    fn any_bytes_are_survived(
        count in 0..4_u8,
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0..20_u8], 0..200),
    ) {
        let mut frame = vec![0, 0, 0, count];
        frame.extend(bytes);
        let _ = decode_requests(Bytes::from(frame));
    }
}
