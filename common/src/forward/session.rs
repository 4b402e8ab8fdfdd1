//! The session under which a forwarder sends writes; pure.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{ForwardReply, WriteIds};
use crate::limits::{MAX_UNANSWERED_WRITES, SESSION_RENEWED_AFTER};

/// An open that shows no effect is followed by another one.
const REPEAT_AFTER: Duration = Duration::from_millis(500);

/// A forwarder's session, and the sequences that it has given out. `L` names
/// the link or the server that is asked to open one.
///
/// Every attempt to open one is for an id of its own. An open that is late
/// can therefore never open the session anew whose end was its writes' end:
/// nothing of it would be known, and they might be applied again.
#[derive(Debug)]
pub struct Session<L> {
    state: State<L>,
    /// The one that is open or was asked for last.
    id: u64,
    /// State of the generator of ids.
    random: u64,
    next_sequence: u64,
    /// First sequences of the batches that are not answered.
    unanswered: BTreeSet<u64>,
    used: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State<L> {
    Closed,
    /// `over` was asked for it at `at`, under `number`.
    Opening {
        over: L,
        number: u64,
        at: Duration,
    },
    Open,
}

impl<L: Copy + PartialEq> Session<L> {
    /// `seed` decides all ids: random, for two forwarders must never have the
    /// same ones, nor one in two of its lives.
    pub fn new(seed: u64) -> Self {
        Session {
            state: State::Closed,
            id: 0,
            random: seed,
            next_sequence: 1,
            unanswered: BTreeSet::new(),
            used: Duration::ZERO,
        }
    }

    /// Whether ids can be given out. One that was not used for long might end
    /// while a write waits for an answer: it is left alone, for a new one.
    pub fn is_open(&mut self, now: Duration) -> bool {
        if self.state == State::Open && now >= self.used + SESSION_RENEWED_AFTER {
            self.state = State::Closed;
        }
        self.state == State::Open
    }

    /// A new session to be opened now, if that is to be done. `over` is asked,
    /// under `number`.
    pub fn open(&mut self, now: Duration, over: L, number: u64) -> Option<u64> {
        let waits = match self.state {
            State::Closed => false,
            State::Opening { at, .. } => now < at + REPEAT_AFTER,
            State::Open => true,
        };
        if waits {
            return None;
        }
        self.id = draw(&mut self.random);
        self.next_sequence = 1;
        self.unanswered.clear();
        self.state = State::Opening { over, number, at: now };
        Some(self.id)
    }

    /// Whether this answers the open that was sent last.
    pub fn is_opening(&self, by: L, answer: u64) -> bool {
        matches!(self.state, State::Opening { over, number, .. } if (over, number) == (by, answer))
    }

    /// The answer to the open.
    pub fn opened(&mut self, now: Duration, reply: &ForwardReply) {
        self.state = match reply {
            ForwardReply::Done(error) if error.is_empty() => State::Open,
            _ => State::Closed,
        };
        self.used = now;
    }

    /// What was asked over `link` is not answered any more.
    pub fn link_lost(&mut self, link: L) {
        if matches!(self.state, State::Opening { over, .. } if over == link) {
            self.state = State::Closed;
        }
    }

    /// Another leader: it is to be asked, if there is no session yet.
    pub fn leader_changed(&mut self) {
        if self.state != State::Open {
            self.state = State::Closed;
        }
    }

    /// A server does not know `session`. Late answers about an earlier one
    /// change nothing.
    pub fn is_unknown(&mut self, session: u64) {
        if self.state == State::Open && self.id == session {
            self.state = State::Closed;
        }
    }

    /// Whether `ids` belong to the session that is open.
    pub fn gave(&self, ids: &WriteIds) -> bool {
        self.state == State::Open && ids.session == self.id
    }

    /// Ids for a batch of so many requests; `None`: too many are unanswered.
    pub fn assign(&mut self, now: Duration, requests: u64) -> Option<WriteIds> {
        if self.next_sequence + requests - self.done_below() > MAX_UNANSWERED_WRITES {
            return None;
        }
        self.used = now;
        let first_sequence = self.next_sequence;
        self.next_sequence += requests;
        self.unanswered.insert(first_sequence);
        Some(WriteIds { session: self.id, first_sequence, done_below: 0, again: false })
    }

    /// The ids of a batch as they are sent now.
    pub fn with_done_below(&self, ids: WriteIds) -> WriteIds {
        if ids.session == self.id { WriteIds { done_below: self.done_below(), ..ids } } else { ids }
    }

    /// The client has its answer.
    pub fn answered(&mut self, ids: WriteIds) {
        if ids.session == self.id {
            self.unanswered.remove(&ids.first_sequence);
        }
    }

    fn done_below(&self) -> u64 {
        self.unanswered.first().copied().unwrap_or(self.next_sequence)
    }
}

/// The next id, never 0 (SplitMix64).
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut id = *state;
    id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (id ^ (id >> 31)).max(1)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const OPENED: ForwardReply = ForwardReply::Done(Bytes::new());
    const SOON: Duration = Duration::from_secs(1);

    /// One that server 7 has opened, and its id.
    fn open() -> (Session<u64>, u64) {
        let mut session = Session::new(5);
        let id = session.open(SOON, 7, 1).unwrap();
        session.opened(SOON, &OPENED);
        assert!(session.is_open(SOON));
        (session, id)
    }

    #[test]
    fn every_attempt_to_open_has_an_id_of_its_own() {
        let mut session = Session::new(5);
        let first = session.open(SOON, 7, 1).unwrap();
        assert_eq!(session.open(SOON, 7, 2), None, "one at a time");
        let second = session.open(SOON + REPEAT_AFTER, 7, 3).unwrap();
        assert!(!session.is_opening(7, 1), "the first one's answer is late");
        session.link_lost(8);
        assert!(session.is_opening(7, 3));
        session.link_lost(7);
        let third = session.open(SOON, 8, 4).unwrap();
        session.leader_changed();
        let fourth = session.open(SOON, 9, 5).unwrap();
        session.opened(SOON, &ForwardReply::SessionUnknown);
        assert!(!session.is_open(SOON));
        let fifth = session.open(SOON, 9, 6).unwrap();
        session.opened(SOON, &OPENED);
        assert!(session.is_open(SOON));
        let ids = BTreeSet::from([first, second, third, fourth, fifth]);
        assert_eq!(ids.len(), 5);
        assert!(!ids.contains(&0));
        assert_eq!(session.assign(SOON, 1).unwrap().session, fifth);
    }

    #[test]
    fn what_is_below_the_first_unanswered_one_is_done() {
        let (mut session, id) = open();
        let [a, b, c] = [2, 3, 1].map(|count| session.assign(SOON, count).unwrap());
        assert_eq!([a, b, c].map(|ids| ids.first_sequence), [1, 3, 6]);
        let done_below = |session: &Session<u64>| session.with_done_below(c).done_below;
        assert_eq!(done_below(&session), 1);
        session.answered(b);
        assert_eq!(done_below(&session), 1);
        session.answered(a);
        assert_eq!(done_below(&session), 6);
        session.answered(c);
        assert_eq!(done_below(&session), 7);
        let other = WriteIds { session: id + 1, ..a };
        assert_eq!(session.with_done_below(other), other, "of another session");
    }

    #[test]
    fn the_end_of_a_session_is_not_that_of_the_next() {
        let (mut session, id) = open();
        let old = session.assign(SOON, 1).unwrap();
        session.is_unknown(id + 1);
        assert!(session.gave(&old));
        session.is_unknown(id);
        assert!(!session.gave(&old) && !session.is_open(SOON));
        session.open(SOON, 7, 2).unwrap();
        session.opened(SOON, &OPENED);
        let new = session.assign(SOON, 1).unwrap();
        session.is_unknown(id);
        session.answered(old);
        assert!(session.gave(&new));
        assert_eq!(session.with_done_below(new).done_below, 1, "the old one's answer is not its");
    }

    #[test]
    fn a_session_that_rested_for_long_is_left() {
        let (mut session, id) = open();
        session.assign(2 * SOON, 1).unwrap();
        assert!(session.is_open(SOON + SESSION_RENEWED_AFTER));
        let late = 2 * SOON + SESSION_RENEWED_AFTER;
        assert!(!session.is_open(late));
        assert_ne!(session.open(late, 7, 2).unwrap(), id);
    }

    #[test]
    fn the_unanswered_are_bounded() {
        let (mut session, _) = open();
        let first = session.assign(SOON, 1).unwrap();
        let most = session.assign(SOON, MAX_UNANSWERED_WRITES - 1).unwrap();
        assert_eq!(session.assign(SOON, 1), None);
        session.answered(most);
        assert_eq!(session.assign(SOON, 1), None, "the oldest counts");
        session.answered(first);
        assert!(session.assign(SOON, 1).is_some());
    }
}
