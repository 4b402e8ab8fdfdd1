//! The session under which a forwarder sends writes; pure.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{ForwardReply, WriteIds};
use crate::limits::MAX_UNANSWERED_WRITES;

/// An open that shows no effect is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(500);

/// How far a session is. `L` names the link or the server that was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionState<L> {
    /// To be opened.
    Closed,
    /// Asked for.
    Opening {
        /// Who was asked.
        over: L,
        /// Under this number.
        number: u64,
        /// When.
        at: Duration,
    },
    /// In use.
    Open {
        /// Its id.
        id: u64,
    },
    /// The leader keeps no sessions.
    Without,
}

/// A forwarder's session, and the sequences that it has given out.
#[derive(Debug)]
pub struct Session<L> {
    state: SessionState<L>,
    /// The one that is open or to be opened. To open it twice is to open it
    /// once; after its end another one is drawn.
    id: u64,
    /// State of the generator of ids.
    random: u64,
    next_sequence: u64,
    /// First sequences of the runs that are not answered.
    unanswered: BTreeSet<u64>,
}

impl<L: Copy + PartialEq> Session<L> {
    /// `seed` decides all ids: random, for two forwarders must never have the
    /// same ones, nor one in two of its lives.
    pub fn new(seed: u64) -> Self {
        let mut random = seed;
        Session {
            state: SessionState::Closed,
            id: draw(&mut random),
            random,
            next_sequence: 1,
            unanswered: BTreeSet::new(),
        }
    }

    /// How far it is.
    pub fn state(&self) -> SessionState<L> {
        self.state
    }

    /// The session that is to be opened now, if one is.
    pub fn to_open(&self, now: Duration) -> Option<u64> {
        match self.state {
            SessionState::Closed => Some(self.id),
            SessionState::Opening { at, .. } if now >= at + REPEAT_AFTER => Some(self.id),
            _ => None,
        }
    }

    /// `over` was asked to open it, under `number`.
    pub fn opening(&mut self, now: Duration, over: L, number: u64) {
        self.state = SessionState::Opening { over, number, at: now };
    }

    /// Whether this is the answer to the open.
    pub fn is_opening(&self, by: L, answer: u64) -> bool {
        matches!(self.state, SessionState::Opening { over, number, .. } if (over, number) == (by, answer))
    }

    /// The answer to the open.
    pub fn opened(&mut self, reply: &ForwardReply) {
        self.state = match reply {
            ForwardReply::Done(error) if error.is_empty() => SessionState::Open { id: self.id },
            ForwardReply::Done(_) | ForwardReply::NotLeader | ForwardReply::Lost => {
                SessionState::Closed
            }
            // Asked too long ago to be believed: another id.
            ForwardReply::SessionUnknown => {
                self.id = draw(&mut self.random);
                SessionState::Closed
            }
        };
    }

    /// What was asked over `link` is not answered any more.
    pub fn link_lost(&mut self, link: L) {
        if matches!(self.state, SessionState::Opening { over, .. } if over == link) {
            self.state = SessionState::Closed;
        }
    }

    /// Another leader may keep sessions where the last one did not.
    pub fn leader_changed(&mut self) {
        if !matches!(self.state, SessionState::Open { .. }) {
            self.state = SessionState::Closed;
        }
    }

    /// A server does not know `session`. Late answers about an earlier one
    /// change nothing.
    pub fn is_unknown(&mut self, session: u64) {
        if self.state == (SessionState::Open { id: session }) {
            self.state = SessionState::Closed;
            self.id = draw(&mut self.random);
            self.next_sequence = 1;
            self.unanswered.clear();
        }
    }

    /// Ids for so many writes; `None`: too many are unanswered.
    pub fn assign(&mut self, writes: u64) -> Option<WriteIds> {
        if self.next_sequence + writes - self.done_below() > MAX_UNANSWERED_WRITES {
            return None;
        }
        let first_sequence = self.next_sequence;
        self.next_sequence += writes;
        self.unanswered.insert(first_sequence);
        Some(WriteIds { session: self.id, first_sequence, done_below: 0 })
    }

    /// The ids of a run as they are sent now.
    pub fn with_done_below(&self, ids: Option<WriteIds>) -> WriteIds {
        match ids {
            Some(ids) if ids.session == self.id => {
                WriteIds { done_below: self.done_below(), ..ids }
            }
            ids => ids.unwrap_or_default(),
        }
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
