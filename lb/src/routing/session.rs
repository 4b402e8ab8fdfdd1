//! The session under which writes are sent; see [`common::forward`].

use std::collections::BTreeSet;
use std::time::Duration;

use common::forward::{ForwardReply, WriteIds};
use common::limits::MAX_UNANSWERED_WRITES;

use crate::registry::LinkId;

/// An open that shows no effect is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// To be opened.
    Closed,
    /// Asked for: sent over this link under this number.
    Opening { over: LinkId, number: u64, at: Duration },
    /// In use.
    Open { id: u64 },
    /// The leader keeps no sessions.
    Without,
}

#[derive(Debug)]
pub(super) struct Sessions {
    state: State,
    /// The one that is open or to be opened. To open it twice is to open it
    /// once; after its end another one is drawn.
    id: u64,
    draw: fn() -> u64,
    next_sequence: u64,
    /// First sequences of the runs that are not answered.
    unanswered: BTreeSet<u64>,
}

impl Sessions {
    pub(super) fn new(draw: fn() -> u64) -> Self {
        Sessions {
            state: State::Closed,
            id: draw(),
            draw,
            next_sequence: 1,
            unanswered: BTreeSet::new(),
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// The session that is to be opened now, if one is.
    pub(super) fn to_open(&self, now: Duration) -> Option<u64> {
        match self.state {
            State::Closed => Some(self.id),
            State::Opening { at, .. } if now >= at + REPEAT_AFTER => Some(self.id),
            _ => None,
        }
    }

    pub(super) fn opening(&mut self, now: Duration, over: LinkId, number: u64) {
        self.state = State::Opening { over, number, at: now };
    }

    pub(super) fn is_opening(&self, by: LinkId, answer: u64) -> bool {
        matches!(self.state, State::Opening { over, number, .. } if (over, number) == (by, answer))
    }

    /// The answer to the open.
    pub(super) fn opened(&mut self, reply: &ForwardReply) {
        self.state = match reply {
            ForwardReply::Done(error) if error.is_empty() => State::Open { id: self.id },
            ForwardReply::Done(_) | ForwardReply::NotLeader => State::Closed,
            ForwardReply::SessionUnknown => State::Without,
        };
    }

    pub(super) fn link_lost(&mut self, link: LinkId) {
        if matches!(self.state, State::Opening { over, .. } if over == link) {
            self.state = State::Closed;
        }
    }

    /// Another leader may keep sessions where the last one did not.
    pub(super) fn leader_changed(&mut self) {
        if !matches!(self.state, State::Open { .. }) {
            self.state = State::Closed;
        }
    }

    /// A server does not know `session`. Late answers about an earlier one
    /// change nothing.
    pub(super) fn is_unknown(&mut self, session: u64) {
        if self.state == (State::Open { id: session }) {
            self.state = State::Closed;
            self.id = (self.draw)();
            self.next_sequence = 1;
            self.unanswered.clear();
        }
    }

    /// Ids for so many writes; `None`: too many are unanswered.
    pub(super) fn assign(&mut self, writes: u64) -> Option<WriteIds> {
        if self.next_sequence + writes - self.done_below() > MAX_UNANSWERED_WRITES {
            return None;
        }
        let first_sequence = self.next_sequence;
        self.next_sequence += writes;
        self.unanswered.insert(first_sequence);
        Some(WriteIds { session: self.id, first_sequence, done_below: 0 })
    }

    /// The ids of a run as they are sent now.
    pub(super) fn with_done_below(&self, ids: Option<WriteIds>) -> WriteIds {
        match ids {
            Some(ids) if ids.session == self.id => {
                WriteIds { done_below: self.done_below(), ..ids }
            }
            ids => ids.unwrap_or_default(),
        }
    }

    /// The client has its answer.
    pub(super) fn answered(&mut self, ids: WriteIds) {
        if ids.session == self.id {
            self.unanswered.remove(&ids.first_sequence);
        }
    }

    fn done_below(&self) -> u64 {
        self.unanswered.first().copied().unwrap_or(self.next_sequence)
    }
}
