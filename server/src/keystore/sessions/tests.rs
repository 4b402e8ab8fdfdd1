use super::*;

const NOW: u64 = 10_000_000;

fn id(sequence: u64, done_below: u64) -> RequestId {
    RequestId { session: 7, sequence, done_below }
}

fn open() -> Sessions {
    let mut sessions = Sessions::default();
    assert!(sessions.open(7, NOW, NOW, 1));
    sessions
}

#[test]
fn a_write_is_new_once_and_then_repeats_its_reply() {
    let mut sessions = open();
    assert_eq!(sessions.look(id(1, 1), NOW, NOW), Known::New);
    sessions.record(id(1, 1), &Reply::Number(42), NOW, 2);
    assert_eq!(sessions.look(id(1, 1), NOW, NOW), Known::Applied(Reply::Number(42)));
    assert_eq!(sessions.look(id(2, 1), NOW, NOW), Known::New);
}

#[test]
fn every_reply_of_the_keystore_comes_back() {
    let mut sessions = open();
    for (sequence, reply) in (1..).zip(&TEXTS) {
        sessions.record(id(sequence, 1), reply, NOW, 2);
        assert_eq!(sessions.look(id(sequence, 1), NOW, NOW), Known::Applied(reply.clone()));
    }
}

#[test]
fn an_unknown_session_applies_nothing() {
    let other = RequestId { session: 8, ..id(1, 1) };
    assert_eq!(open().look(other, NOW, NOW), Known::NoSession);
}

#[test]
fn a_session_expires_by_the_clock_and_lives_by_use() {
    let mut sessions = open();
    let later = NOW + SESSION_TTL_MS;
    assert_eq!(sessions.look(id(1, 1), later, later), Known::New);
    sessions.record(id(1, 1), &Reply::Stored, later, 2);
    let even_later = later + SESSION_TTL_MS;
    assert_eq!(sessions.look(id(1, 1), even_later, even_later), Known::Applied(Reply::Stored));
    let dead = even_later + 1;
    assert_eq!(sessions.look(id(1, 1), dead, dead), Known::NoSession);
    assert_eq!(sessions.look(id(2, 1), dead, dead), Known::NoSession);
}

#[test]
fn an_old_entry_brings_no_session_back() {
    let mut sessions = open();
    let dead = NOW + SESSION_TTL_MS + 1;
    assert!(!sessions.open(7, NOW, dead, 1), "the delayed duplicate of the entry that opened it");
    assert!(sessions.open(7, dead, dead, 1), "an entry of today");
    assert_eq!(sessions.look(id(1, 1), NOW, dead), Known::NoSession, "a write of long ago");
}

#[test]
fn opening_again_keeps_the_replies() {
    let mut sessions = open();
    sessions.record(id(1, 1), &Reply::Stored, NOW, 2);
    assert!(sessions.open(7, NOW, NOW, 1));
    assert_eq!(sessions.look(id(1, 1), NOW, NOW), Known::Applied(Reply::Stored));
}

#[test]
fn answered_replies_go_and_are_not_applied_again() {
    let mut sessions = open();
    for sequence in 1..=5 {
        sessions.record(id(sequence, 1), &Reply::Stored, NOW, 2);
    }
    sessions.record(id(6, 4), &Reply::Stored, NOW, 2);
    assert_eq!(sessions.replies(), 3);
    assert_eq!(sessions.look(id(3, 4), NOW, NOW), Known::Forgotten);
    assert_eq!(sessions.look(id(4, 4), NOW, NOW), Known::Applied(Reply::Stored));
    // A sender that claims to have the answer of the very write it sends.
    sessions.record(id(7, 100), &Reply::Deleted, NOW, 2);
    assert_eq!(sessions.look(id(7, 100), NOW, NOW), Known::Applied(Reply::Deleted));
}

#[test]
fn numbers_may_come_in_any_order() {
    let mut sessions = open();
    for sequence in [5, 2, 9, 3] {
        assert_eq!(sessions.look(id(sequence, 1), NOW, NOW), Known::New);
        sessions.record(id(sequence, 1), &Reply::Number(sequence), NOW, 2);
    }
    for sequence in [2, 3, 5, 9] {
        let known = Known::Applied(Reply::Number(sequence));
        assert_eq!(sessions.look(id(sequence, 1), NOW, NOW), known);
    }
    assert_eq!(sessions.look(id(4, 1), NOW, NOW), Known::New);
}

#[test]
fn the_table_is_bounded() {
    let mut sessions = Sessions::default();
    for session in 1..=MAX_SESSIONS as u64 + 1 {
        assert!(sessions.open(session, NOW, NOW, session));
    }
    assert_eq!(sessions.len(), MAX_SESSIONS);
    let at = |session| RequestId { session, ..id(1, 1) };
    assert_eq!(sessions.look(at(1), NOW, NOW), Known::NoSession, "the oldest made room");
    assert_eq!(sessions.look(at(2), NOW, NOW), Known::New);

    let mut sessions = open();
    for sequence in 1..=MAX_REPLIES as u64 + 10 {
        sessions.record(id(sequence, 1), &Reply::Stored, NOW, 1 + sequence);
    }
    assert_eq!(sessions.replies(), MAX_REPLIES);
    assert_eq!(sessions.look(id(10, 1), NOW, NOW), Known::Forgotten);
    assert_eq!(sessions.look(id(11, 1), NOW, NOW), Known::Applied(Reply::Stored));
}

/// A table for so many sessions and replies.
fn table(sessions: usize, replies: usize) -> Sessions {
    let mut table = Sessions::default();
    table.set_limits(Limits { sessions, replies, ..Limits::default() });
    table
}

/// The sessions of a table.
fn ids(sessions: &Sessions) -> Vec<u64> {
    sessions.table.keys().copied().collect()
}

#[test]
fn the_session_unused_for_longest_goes_though_the_clock_stands_still() {
    let mut sessions = table(3, 100);
    for (index, session) in [(1, 2), (2, 1), (3, 3)] {
        assert!(sessions.open(session, NOW, NOW, index));
    }
    let write = RequestId { session: 2, ..id(1, 1) };
    sessions.record(write, &Reply::Stored, NOW, 4);
    assert!(sessions.open(9, NOW, NOW, 5));
    assert_eq!(ids(&sessions), [2, 3, 9], "1 was used before them");
    // To open it again is a use.
    assert!(sessions.open(3, NOW, NOW, 6));
    assert!(sessions.open(1, NOW, NOW, 7));
    assert_eq!(ids(&sessions), [1, 3, 9]);
}

#[test]
fn the_session_unused_for_longest_goes_though_it_is_of_a_later_time() {
    let mut sessions = table(2, 100);
    let jumped = NOW + SESSION_TTL_MS - 1;
    // The first use moves the time, the next ones do not.
    assert!(sessions.open(1, NOW, NOW, 1));
    assert!(sessions.open(2, NOW + 999, NOW + 999, 2));
    let write = RequestId { session: 1, ..id(1, 1) };
    sessions.record(write, &Reply::Stored, NOW + 999, 3);
    assert!(sessions.open(3, jumped, jumped, 4));
    assert_eq!(ids(&sessions), [1, 3]);
}

#[test]
fn sessions_of_an_earlier_version_go_first_by_their_time() {
    let mut sessions = table(3, 100);
    assert!(sessions.open(1, NOW, NOW, 1));
    assert!(sessions.open(2, NOW - 5_000, NOW - 5_000, 2));
    assert!(sessions.open(3, NOW, NOW, 3));
    let mut sessions = sessions.without_uses();
    assert!(sessions.open(2, NOW - 5_000, NOW - 5_000, 4));
    assert!(sessions.open(4, NOW, NOW, 5));
    assert_eq!(ids(&sessions), [2, 3, 4], "of the same time the smaller one goes");
    assert!(sessions.open(5, NOW, NOW, 6));
    assert_eq!(ids(&sessions), [2, 4, 5]);
    assert!(sessions.open(6, NOW, NOW, 7));
    assert_eq!(ids(&sessions), [4, 5, 6]);
}

#[test]
fn there_is_room_for_as_many_as_are_not_spared() {
    let mut sessions = table(4, 100);
    for session in 1..=3 {
        assert!(sessions.open(session, NOW, NOW, 10 * session));
    }
    let behind = |index: u64| move |last: Use| last.index > index;
    for (index, count) in [(9, 1), (10, 2), (29, 3), (30, 4)] {
        assert_eq!(sessions.room(NOW, behind(index)), count, "behind {index}");
    }
    let late = NOW + SESSION_TTL_MS + 1;
    assert_eq!(sessions.room(late, behind(9)), 4, "those that have expired");
    assert_eq!(sessions.room(NOW, |last| last.clock_ms == NOW), 1);
    assert_eq!(sessions.free(), 1);
}

#[test]
fn replies_of_all_sessions_are_bounded_together() {
    let mut sessions = Sessions::default();
    let full = MAX_ALL_REPLIES / MAX_REPLIES;
    let mut index = 0;
    for session in (1..=full as u64 + 1).rev() {
        index += 1;
        assert!(sessions.open(session, NOW, NOW, index));
        for sequence in 1..=MAX_REPLIES as u64 {
            let id = RequestId { session, sequence, done_below: 1 };
            index += 1;
            sessions.record(id, &Reply::Stored, NOW, index);
        }
        assert!(sessions.replies() <= MAX_ALL_REPLIES);
    }
    assert_eq!(sessions.len(), full, "the oldest made room");
    let oldest = RequestId { session: full as u64 + 1, sequence: 1, done_below: 1 };
    assert_eq!(sessions.look(oldest, NOW, NOW), Known::NoSession);
}

#[test]
fn a_use_copies_nothing_that_is_frozen() {
    let mut sessions = open();
    let frozen = sessions.clone();
    assert!(sessions.open(7, NOW, NOW, 2));
    assert!(Arc::ptr_eq(&sessions.table[&7].session, &frozen.table[&7].session));
    assert_eq!((sessions.table[&7].used_index, frozen.table[&7].used_index), (2, 1));
}

#[test]
fn a_copy_is_one_instant() {
    let mut sessions = open();
    sessions.record(id(1, 1), &Reply::Stored, NOW, 2);
    let frozen = sessions.clone();
    sessions.record(id(2, 1), &Reply::Stored, NOW, 2);
    assert_eq!(frozen.look(id(2, 1), NOW, NOW), Known::New);
    assert_eq!(frozen.replies(), 1);
}

#[test]
fn the_table_survives_its_bytes_and_nothing_else_does() {
    let mut sessions = open();
    assert!(sessions.open(9, NOW, NOW, 1));
    for (sequence, reply) in (1..).zip(TEXTS.iter().chain([&Reply::Number(u64::MAX)])) {
        sessions.record(id(sequence, 2), reply, NOW, 2);
    }
    let (mut bytes, mut uses) = (Vec::new(), Vec::new());
    sessions.encode(&mut bytes);
    sessions.encode_uses(&mut uses);
    let decoded = Sessions::decode(&bytes).unwrap();
    assert_eq!(decoded, sessions.clone().without_uses());
    let with_uses = |uses: &[u8]| {
        let mut decoded = decoded.clone();
        decoded.decode_uses(uses).map(|()| decoded)
    };
    assert_eq!(with_uses(&uses), Some(sessions));
    for length in 0..bytes.len() {
        assert_eq!(Sessions::decode(&bytes[..length]), None, "cut to {length}");
    }
    for length in 0..uses.len() {
        assert_eq!(with_uses(&uses[..length]), None, "cut to {length}");
    }
    bytes.push(0);
    assert_eq!(Sessions::decode(&bytes), None, "a byte too many");
    uses.extend([0; 8]);
    assert_eq!(with_uses(&uses), None, "those of another table");
}
