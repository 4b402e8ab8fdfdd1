//! What was asked, what was answered, and when, by one clock.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Since the run began, in nanoseconds.
pub(crate) type Moment = u64;

/// What is asked of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Get,
    Gets,
    Set(String),
    Add(String),
    Append(String),
    /// With the token that came with the value `expected`.
    Cas {
        value: String,
        expected: String,
        token: u64,
    },
    Delete,
    Incr(u64),
}

impl Action {
    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Action::Get | Action::Gets)
    }
}

/// How it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// Nothing is known: it may take effect at any time, or never.
    Unknown(String),
    /// It must never take effect.
    NotExecuted(String),
    /// What is promised nowhere; as good as unknown.
    Unexpected(String),
    Value(Option<String>),
    /// With its token.
    Token(String, u64),
    Stored,
    NotStored,
    Exists,
    NotFound,
    Deleted,
    Number(u64),
    /// incr of what is no number.
    NotANumber,
}

impl Answer {
    /// Whether the store has said what became of it.
    pub(crate) fn is_known(&self) -> bool {
        !matches!(self, Answer::Unknown(_) | Answer::NotExecuted(_) | Answer::Unexpected(_))
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Answer::Unknown(_) | Answer::Unexpected(_))
    }
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) client: usize,
    /// Requests that were sent together have the same number.
    pub(crate) batch: u64,
    pub(crate) key: String,
    pub(crate) action: Action,
    pub(crate) call: Moment,
    pub(crate) ret: Moment,
    pub(crate) answer: Answer,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |moment: Moment| moment as f64 / 1e6;
        write!(
            f,
            "{:>11.3} to {:>11.3} ms  client {:<2} batch {:<6} {}: {:?} -> {:?}",
            millis(self.call),
            millis(self.ret),
            self.client,
            self.batch,
            self.key,
            self.action,
            self.answer
        )
    }
}

/// All requests of a run, and its clock.
#[derive(Debug)]
pub(crate) struct History {
    began: Instant,
    ops: Mutex<Vec<Op>>,
}

impl History {
    pub(crate) fn new() -> History {
        History { began: Instant::now(), ops: Mutex::default() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn now(&self) -> Moment {
        self.began.elapsed().as_nanos() as Moment
    }

    pub(crate) fn add(&self, ops: Vec<Op>) {
        self.ops.lock().unwrap().extend(ops);
    }

    /// All of them, in order of their calls.
    pub(crate) fn take(&self) -> Vec<Op> {
        let mut ops = std::mem::take(&mut *self.ops.lock().unwrap());
        ops.sort_by_key(|op| op.call);
        ops
    }
}
