use super::*;

const NOW: u64 = 10_000_000;

fn id(sequence: u64, done_below: u64) -> RequestId {
    RequestId { session: 7, sequence, done_below }
}

fn open() -> Sessions {
    let mut sessions = Sessions::default();
    assert!(sessions.open(7, NOW, NOW));
    sessions
}

#[test]
fn a_write_is_new_once_and_then_repeats_its_reply() {
    let mut sessions = open();
    assert_eq!(sessions.look(id(1, 1), NOW, NOW), Known::New);
    sessions.record(id(1, 1), &Reply::Number(42), NOW);
    assert_eq!(sessions.look(id(1, 1), NOW, NOW), Known::Applied(Reply::Number(42)));
    assert_eq!(sessions.look(id(2, 1), NOW, NOW), Known::New);
}

#[test]
fn every_reply_of_the_keystore_comes_back() {
    let mut sessions = open();
    for (sequence, reply) in (1..).zip(&TEXTS) {
        sessions.record(id(sequence, 1), reply, NOW);
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
    sessions.record(id(1, 1), &Reply::Stored, later);
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
    assert!(!sessions.open(7, NOW, dead), "the delayed duplicate of the entry that opened it");
    assert!(sessions.open(7, dead, dead), "an entry of today");
    assert_eq!(sessions.look(id(1, 1), NOW, dead), Known::NoSession, "a write of long ago");
}

#[test]
fn opening_again_keeps_the_replies() {
    let mut sessions = open();
    sessions.record(id(1, 1), &Reply::Stored, NOW);
    assert!(sessions.open(7, NOW, NOW));
    assert_eq!(sessions.look(id(1, 1), NOW, NOW), Known::Applied(Reply::Stored));
}

#[test]
fn answered_replies_go_and_are_not_applied_again() {
    let mut sessions = open();
    for sequence in 1..=5 {
        sessions.record(id(sequence, 1), &Reply::Stored, NOW);
    }
    sessions.record(id(6, 4), &Reply::Stored, NOW);
    assert_eq!(sessions.replies(), 3);
    assert_eq!(sessions.look(id(3, 4), NOW, NOW), Known::Forgotten);
    assert_eq!(sessions.look(id(4, 4), NOW, NOW), Known::Applied(Reply::Stored));
    // A sender that claims to have the answer of the very write it sends.
    sessions.record(id(7, 100), &Reply::Deleted, NOW);
    assert_eq!(sessions.look(id(7, 100), NOW, NOW), Known::Applied(Reply::Deleted));
}

#[test]
fn numbers_may_come_in_any_order() {
    let mut sessions = open();
    for sequence in [5, 2, 9, 3] {
        assert_eq!(sessions.look(id(sequence, 1), NOW, NOW), Known::New);
        sessions.record(id(sequence, 1), &Reply::Number(sequence), NOW);
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
        assert!(sessions.open(session, NOW + session * 2000, NOW + session * 2));
    }
    assert_eq!(sessions.len(), MAX_SESSIONS);
    let at = |session| RequestId { session, ..id(1, 1) };
    assert_eq!(sessions.look(at(1), NOW, NOW), Known::NoSession, "the oldest made room");
    assert_eq!(sessions.look(at(2), NOW, NOW), Known::New);

    let mut sessions = open();
    for sequence in 1..=MAX_REPLIES as u64 + 10 {
        sessions.record(id(sequence, 1), &Reply::Stored, NOW);
    }
    assert_eq!(sessions.replies(), MAX_REPLIES);
    assert_eq!(sessions.look(id(10, 1), NOW, NOW), Known::Forgotten);
    assert_eq!(sessions.look(id(11, 1), NOW, NOW), Known::Applied(Reply::Stored));
}

#[test]
fn there_is_room_while_one_session_is_not_in_use() {
    let mut sessions = Sessions::default();
    for session in 1..MAX_SESSIONS as u64 {
        sessions.open(session, NOW, NOW);
    }
    assert!(sessions.has_room(NOW));
    sessions.open(MAX_SESSIONS as u64, NOW, NOW + 5_000);
    assert!(!sessions.has_room(NOW + SPARED_MS));
    assert!(sessions.has_room(NOW + SPARED_MS + 1));
}

#[test]
fn replies_of_all_sessions_are_bounded_together() {
    let mut sessions = Sessions::default();
    let full = MAX_ALL_REPLIES / MAX_REPLIES;
    for session in 1..=full as u64 + 1 {
        let clock = NOW + session * USE_STEP_MS;
        assert!(sessions.open(session, clock, clock));
        for sequence in 1..=MAX_REPLIES as u64 {
            let id = RequestId { session, sequence, done_below: 1 };
            sessions.record(id, &Reply::Stored, clock);
        }
        assert!(sessions.replies() <= MAX_ALL_REPLIES);
    }
    assert_eq!(sessions.len(), full, "the oldest made room");
    let oldest = RequestId { session: 1, sequence: 1, done_below: 1 };
    assert_eq!(sessions.look(oldest, NOW, NOW), Known::NoSession);
}

#[test]
fn a_copy_is_one_instant() {
    let mut sessions = open();
    sessions.record(id(1, 1), &Reply::Stored, NOW);
    let frozen = sessions.clone();
    sessions.record(id(2, 1), &Reply::Stored, NOW);
    assert_eq!(frozen.look(id(2, 1), NOW, NOW), Known::New);
    assert_eq!(frozen.replies(), 1);
}

#[test]
fn the_table_survives_its_bytes_and_nothing_else_does() {
    let mut sessions = open();
    assert!(sessions.open(9, NOW, NOW));
    for (sequence, reply) in (1..).zip(TEXTS.iter().chain([&Reply::Number(u64::MAX)])) {
        sessions.record(id(sequence, 2), reply, NOW);
    }
    let mut bytes = Vec::new();
    sessions.encode(&mut bytes);
    assert_eq!(Sessions::decode(&bytes), Some(sessions));
    for length in 0..bytes.len() {
        assert_eq!(Sessions::decode(&bytes[..length]), None, "cut to {length}");
    }
    bytes.push(0);
    assert_eq!(Sessions::decode(&bytes), None, "a byte too many");
}
