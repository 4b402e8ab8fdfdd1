//! The keystore against a plain map.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::command::RequestId;
use crate::keystore_file::{self, CheckpointMeta};

type Twin = BTreeMap<Vec<u8>, (u32, u64, u64, Vec<u8>)>;

/// The same semantics, written down as plainly as possible.
#[derive(Default)]
struct Model {
    items: Twin,
    cas: u64,
}

impl Model {
    fn apply(&mut self, operation: &Operation<'_>) -> Reply {
        let reply = self.change(operation);
        if matches!(reply, Reply::Stored | Reply::Number(_)) {
            self.cas += 1;
            let (Operation::Store { key, .. } | Operation::Arithmetic { key, .. }) = operation
            else {
                panic!("{operation:?} stores nothing")
            };
            self.items.get_mut(*key).unwrap().1 = self.cas;
        }
        reply
    }

    fn change(&mut self, operation: &Operation<'_>) -> Reply {
        match *operation {
            Operation::Store { verb, key, flags, deadline_ms, value } => {
                let old = self.items.get(key).cloned();
                let (flags, deadline_ms, value) = match (verb, old) {
                    (StoreVerb::Add, Some(_)) => return Reply::NotStored,
                    (StoreVerb::Replace | StoreVerb::Append | StoreVerb::Prepend, None) => {
                        return Reply::NotStored;
                    }
                    (StoreVerb::Cas(_), None) => return Reply::NotFound,
                    (StoreVerb::Cas(token), Some(old)) if old.1 != token => return Reply::Exists,
                    (StoreVerb::Append, Some(old)) => (old.0, old.2, [&old.3, value].concat()),
                    (StoreVerb::Prepend, Some(old)) => (old.0, old.2, [value, &old.3].concat()),
                    _ => (flags, deadline_ms, value.to_vec()),
                };
                self.items.insert(key.to_vec(), (flags, 0, deadline_ms, value));
                Reply::Stored
            }
            Operation::OpenSession { .. } => Reply::Ok,
            Operation::Delete { key } => match self.items.remove(key) {
                Some(_) => Reply::Deleted,
                None => Reply::NotFound,
            },
            Operation::Arithmetic { operation, key, delta } => {
                let Some(item) = self.items.get_mut(key) else { return Reply::NotFound };
                let text = String::from_utf8_lossy(&item.3).into_owned();
                let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && text.len() <= 20;
                let Some(number) = text.parse::<u64>().ok().filter(|_| digits) else {
                    return Reply::Error(NON_NUMERIC);
                };
                let number = match operation {
                    Arithmetic::Incr => number.wrapping_add(delta),
                    Arithmetic::Decr => number.saturating_sub(delta),
                };
                item.3 = number.to_string().into_bytes();
                Reply::Number(number)
            }
            Operation::Check { .. } | Operation::Verdict { .. } => Reply::Ok,
        }
    }

    /// The hash of the contents, from the items as they are.
    fn contents(&self) -> u64 {
        let hash =
            |(key, (flags, cas, deadline_ms, value)): (&Vec<u8>, &(u32, u64, u64, Vec<u8>))| {
                let head =
                    [&cas.to_le_bytes()[..], &deadline_ms.to_le_bytes(), &flags.to_le_bytes()];
                let item = [&head.concat(), &[key.len() as u8][..], key, value].concat();
                xxhash_rust::xxh3::xxh3_64(&item)
            };
        self.items.iter().map(hash).fold(0, u64::wrapping_add)
    }

    fn memory_bytes(&self) -> u64 {
        let size = |(key, item): (&Vec<u8>, &(u32, u64, u64, Vec<u8>))| key.len() + item.3.len();
        self.items.len() as u64 * ITEM_OVERHEAD_BYTES
            + self.items.iter().map(size).sum::<usize>() as u64
    }
}

fn contents(frozen: &Frozen) -> Twin {
    let items = frozen.items();
    items.map(|i| (i.key.to_vec(), (i.flags, i.cas, i.deadline_ms, i.value.to_vec()))).collect()
}

/// Through a checkpoint.
fn there_and_back(frozen: &Frozen) -> Keystore {
    let membership = raft::Membership::default();
    let meta = CheckpointMeta { index: frozen.applied(), term: 1, membership };
    let (bytes, _) = keystore_file::write_to(Vec::new(), frozen, &meta).unwrap();
    let path = Path::new("in memory");
    keystore_file::read_from(path, bytes.as_slice(), bytes.len() as u64).unwrap().0
}

#[derive(Clone, Debug)]
enum Step {
    Store(u8, u64, u8, u32, Vec<u8>),
    Delete(u8),
    Arithmetic(bool, u8, u64),
    Freeze,
    Thaw,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = prop_oneof![
        "[0-9]{0,21}".prop_map(String::into_bytes),
        any::<u64>().prop_map(|number| number.to_string().into_bytes()),
        proptest::collection::vec(any::<u8>(), 0..40),
    ];
    let delta = prop_oneof![0..20u64, any::<u64>()];
    let step = prop_oneof![
        8 => (0..6u8, 0..40u64, 0..12u8, any::<u32>(), value)
            .prop_map(|(verb, cas, key, flags, value)| Step::Store(verb, cas, key, flags, value)),
        2 => (0..12u8).prop_map(Step::Delete),
        4 => (any::<bool>(), 0..12u8, delta).prop_map(|(up, key, by)| Step::Arithmetic(up, key, by)),
        1 => Just(Step::Freeze),
        1 => Just(Step::Thaw),
    ];
    proptest::collection::vec(step, 0..120)
}

fn key_of(number: u8) -> Vec<u8> {
    vec![b'a' + number; usize::from(number) * 22 + 1]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn it_does_what_a_plain_map_does(steps in steps()) {
        let mut keystore = Keystore::new(KeystoreLimits::default());
        let mut model = Model::default();
        let mut frozen: Vec<(Frozen, Twin)> = Vec::new();
        for (step, index) in steps.iter().zip(1..) {
            let key;
            let operation = match step {
                Step::Freeze => {
                    frozen.push((keystore.freeze(), model.items.clone()));
                    keystore.advance(index);
                    continue;
                }
                Step::Thaw => {
                    frozen.pop();
                    keystore.advance(index);
                    continue;
                }
                Step::Store(verb, cas, number, flags, value) => {
                    key = key_of(*number);
                    let verb = match verb {
                        0 => StoreVerb::Set,
                        1 => StoreVerb::Add,
                        2 => StoreVerb::Replace,
                        3 => StoreVerb::Append,
                        4 => StoreVerb::Prepend,
                        // Often the token that it has.
                        _ if cas % 2 == 0 => {
                            StoreVerb::Cas(keystore.get(&key).map_or(*cas, |item| item.cas))
                        }
                        _ => StoreVerb::Cas(*cas),
                    };
                    let deadline_ms = u64::from(flags % 3);
                    Operation::Store { verb, key: &key, flags: *flags, deadline_ms, value }
                }
                Step::Delete(number) => {
                    key = key_of(*number);
                    Operation::Delete { key: &key }
                }
                Step::Arithmetic(up, number, delta) => {
                    key = key_of(*number);
                    let operation = if *up { Arithmetic::Incr } else { Arithmetic::Decr };
                    Operation::Arithmetic { operation, key: &key, delta: *delta }
                }
            };
            let reply = keystore.apply(index, &Command { clock_ms: 1000 - index, id: None, operation });
            prop_assert_eq!(reply, model.apply(&operation));
            prop_assert_eq!(keystore.applied(), index);
            prop_assert_eq!(keystore.cas_counter(), model.cas);
            prop_assert_eq!(keystore.len(), model.items.len() as u64);
            prop_assert_eq!(keystore.memory_bytes(), model.memory_bytes());
            prop_assert_eq!(keystore.position().contents, model.contents());
            for number in 0..12 {
                let key = key_of(number);
                let item = keystore.get(&key)
                    .map(|i| (i.flags, i.cas, i.deadline_ms, i.value.to_vec()));
                prop_assert_eq!(item.as_ref(), model.items.get(&key));
            }
        }
        prop_assert_eq!(&contents(&keystore.freeze()), &model.items);
        let restored = there_and_back(&keystore.freeze());
        prop_assert_eq!(restored.position(), keystore.position());
        prop_assert_eq!(restored.digest(), keystore.digest());
        prop_assert_eq!(&contents(&restored.freeze()), &model.items);
        for (frozen, then) in &frozen {
            prop_assert_eq!(&contents(frozen), then);
            prop_assert_eq!(frozen.len(), then.len() as u64);
            prop_assert_eq!(&contents(&there_and_back(frozen).freeze()), then);
        }
    }
}

fn set(keystore: &mut Keystore, key: &[u8], value: &[u8]) -> Reply {
    let operation = Operation::Store { verb: StoreVerb::Set, key, flags: 0, deadline_ms: 0, value };
    let index = keystore.applied() + 1;
    keystore.apply(index, &Command { clock_ms: 5, id: None, operation })
}

#[test]
fn a_frozen_keystore_stays_while_another_thread_reads_it() {
    let mut keystore = Keystore::new(KeystoreLimits::default());
    for number in 0..5000u32 {
        set(&mut keystore, &number.to_le_bytes(), b"old value");
    }
    let frozen = keystore.freeze();
    let reader = std::thread::spawn(move || {
        assert_eq!(frozen.applied(), 5000);
        (0..5).all(|_| {
            frozen.items().count() == 5000 && frozen.items().all(|item| item.value == b"old value")
        })
    });
    for number in 0..6000u32 {
        set(&mut keystore, &number.to_le_bytes(), b"new value");
    }
    assert!(reader.join().unwrap());
    assert!(keystore.freeze().items().all(|item| item.value == b"new value"));
    assert_eq!(keystore.len(), 6000);
}

#[test]
fn append_and_prepend_have_a_limit_that_is_the_same_everywhere() {
    let mut keystore = Keystore::new(KeystoreLimits { memory_bytes: Some(1) });
    set(&mut keystore, b"k", &vec![b'x'; MAX_CONCATENATED_BYTES - 1]);
    for (verb, expected) in [
        (StoreVerb::Append, Reply::Stored),
        (StoreVerb::Append, Reply::Error(TOO_LARGE)),
        (StoreVerb::Prepend, Reply::Error(TOO_LARGE)),
    ] {
        let operation = Operation::Store { verb, key: b"k", flags: 9, deadline_ms: 0, value: b"y" };
        let index = keystore.applied() + 1;
        assert_eq!(keystore.apply(index, &Command { clock_ms: 0, id: None, operation }), expected);
    }
    assert_eq!(keystore.get(b"k").unwrap().value.len(), MAX_CONCATENATED_BYTES);
    assert_eq!(keystore.cas_counter(), 2);
    assert_eq!(keystore.clock_ms(), 5, "the clock never goes back");
}

#[test]
fn room_is_counted_for_what_a_set_would_add() {
    let cost = |value: u64| ITEM_OVERHEAD_BYTES + 1 + value;
    let mut keystore = Keystore::new(KeystoreLimits { memory_bytes: Some(cost(10) + cost(20)) });
    set(&mut keystore, b"a", &[0; 10]);
    assert!(keystore.has_room(b"b", 20) && !keystore.has_room(b"b", 21));
    set(&mut keystore, b"b", &[0; 20]);
    assert!(keystore.has_room(b"b", 20) && !keystore.has_room(b"b", 21));
    assert!(!keystore.has_room(b"c", 0));
    keystore.set_limits(KeystoreLimits::default());
    assert!(keystore.has_room(b"c", 1 << 40));
}

#[test]
fn numbers_are_exactly_those_of_memcached() {
    for (text, number) in [
        ("0", Some(0)),
        ("007", Some(7)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("00000000000000000001", Some(1)),
        ("000000000000000000001", None),
        ("", None),
        ("+1", None),
        ("-1", None),
        ("1 ", None),
        ("1x", None),
    ] {
        assert_eq!(parse_number(text.as_bytes()), number, "{text:?}");
    }
}

#[test]
fn replicas_with_other_seeds_and_another_past_have_the_same_digest() {
    let mut replicas = [(); 2].map(|()| Keystore::new(KeystoreLimits::default()));
    for number in 0..500u32 {
        let value = vec![number as u8; number as usize % 50];
        let frozen = replicas[1].freeze();
        for keystore in &mut replicas {
            set(keystore, &(number % 90).to_le_bytes(), &value);
        }
        assert_eq!(replicas[0].digest(), replicas[1].digest());
        drop(frozen);
        if number % 100 == 50 {
            replicas[0] = there_and_back(&replicas[0].freeze());
        }
    }
    let before = replicas[0].digest();
    replicas[0].advance(501);
    assert_ne!(replicas[0].digest(), before, "the index belongs to it");
    replicas[1].advance(501);
    let [sound, rotten] = &mut replicas;
    assert!(rotten.rot(&7u32.to_le_bytes()) && !rotten.rot(b"nobody"));
    assert_eq!(sound.digest(), rotten.digest(), "nobody has looked at what lies there");
    for keystore in [&mut *sound, &mut *rotten] {
        set(keystore, &7u32.to_le_bytes(), b"new");
    }
    assert_ne!(sound.digest(), rotten.digest(), "it was looked at when it went");
}

#[test]
fn sessions_and_their_replies_belong_to_the_digest() {
    let mut replicas = [(); 2].map(|()| Keystore::new(KeystoreLimits::default()));
    let mut apply = |which: &[usize], index, id, operation| {
        for replica in which {
            replicas[*replica].apply(index, &Command { clock_ms: 1000, id, operation });
        }
        replicas[0].digest() == replicas[1].digest()
    };
    let write = Operation::Delete { key: b"k" };
    let id = |sequence| Some(RequestId { session: 5, sequence, done_below: 0 });
    assert!(apply(&[0, 1], 1, None, Operation::OpenSession { session: 5 }));
    assert!(apply(&[0, 1], 2, id(1), write));
    assert!(!apply(&[0], 3, id(2), write), "only one has the reply to 2");
    assert!(!apply(&[1], 3, id(3), write), "they have the replies to different writes");
}

#[test]
fn the_session_that_opens_another_one_stays() {
    let mut keystore = Keystore::new(KeystoreLimits::default());
    keystore.limit_sessions(sessions::Limits { sessions: 2, ..sessions::Limits::default() });
    let mut open = |index, by: Option<u64>, session| {
        let id = by.map(|session| RequestId { session, sequence: 1, done_below: 1 });
        let operation = Operation::OpenSession { session };
        assert_eq!(keystore.apply(index, &Command { clock_ms: 1000, id, operation }), Reply::Ok);
        [5, 6, 7].map(|id| keystore.sessions().is_open(id, 1000))
    };
    open(1, None, 5);
    assert_eq!(open(2, None, 6), [true, true, false]);
    assert_eq!(open(3, Some(5), 7), [true, false, true], "though 6 was used later");
    assert_eq!(open(4, Some(5), 7), [true, false, true], "the answer is repeated");
}

#[test]
fn an_unknown_index_of_a_use_is_no_difference_until_a_session_goes() {
    let mut replicas = [(); 2].map(|()| Keystore::new(KeystoreLimits::default()));
    let limits = sessions::Limits { sessions: 2, ..sessions::Limits::default() };
    let command = |operation, id| Command { clock_ms: 1000, id, operation };
    let mut differ = Vec::new();
    for (index, session) in [(1, 5), (2, 6), (3, 5), (4, 7), (5, 7)] {
        for replica in &mut replicas {
            replica.limit_sessions(limits);
            replica.apply(index, &command(Operation::OpenSession { session }, None));
        }
        if index == 3 {
            // As an earlier version would give it back.
            let sessions = replicas[1].sessions().clone().without_uses();
            replicas[1].restore_sessions(sessions);
        }
        differ.push(replicas[0].digest() != replicas[1].digest());
    }
    assert_eq!(differ, [false, false, false, true, true], "they end different sessions");
}

#[test]
fn what_is_kept_for_a_frozen_keystore_is_counted_and_given_back_in_parts() {
    let mut keystore = Keystore::new(KeystoreLimits::default());
    for number in 0..2000u32 {
        set(&mut keystore, &number.to_le_bytes(), b"0123456789");
    }
    let frozen = keystore.freeze();
    let kept = frozen.kept();
    assert_eq!(kept.bytes(), 0);
    set(&mut keystore, &7u32.to_le_bytes(), b"9876543210");
    let item_bytes = 21 + 4 + 10;
    assert_eq!(kept.bytes(), item_bytes);
    set(&mut keystore, &7u32.to_le_bytes(), b"0000000000");
    assert_eq!(kept.bytes(), item_bytes, "the new one is nobody else's");
    let delete = Operation::Delete { key: &9u32.to_le_bytes() };
    keystore.apply(2003, &Command { clock_ms: 0, id: None, operation: delete });
    assert_eq!(kept.bytes(), 2 * item_bytes);
    let mut items = 0;
    for (_, group) in frozen.into_groups() {
        items += group.items().count();
        drop(group);
    }
    assert_eq!(items, 2000);
    for number in 100..200u32 {
        set(&mut keystore, &number.to_le_bytes(), b"9876543210");
    }
    assert_eq!(kept.bytes(), 2 * item_bytes, "all groups are the keystore's own again");
}
