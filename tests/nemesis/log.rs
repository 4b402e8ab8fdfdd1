//! What the nemesis did, and when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::history::{History, Moment};

/// The machine stood still.
pub(crate) const STALL: &str = "Stall";

/// A fault from beginning to end.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: String,
    /// Of the thing that it happens to: one at a time for each.
    pub(crate) track: String,
    pub(crate) from: Moment,
    pub(crate) to: Option<Moment>,
}

/// See the module's page; by the clock of the history.
#[derive(Debug)]
pub(crate) struct Log {
    history: Arc<History>,
    lines: Vec<String>,
    pub(crate) faults: Vec<Fault>,
    /// What must not have happened.
    pub(crate) wrong: Vec<String>,
}

impl Log {
    pub(crate) fn new(history: &Arc<History>) -> Log {
        let history = Arc::clone(history);
        Log { history, lines: Vec::new(), faults: Vec::new(), wrong: Vec::new() }
    }

    pub(crate) fn now(&self) -> Duration {
        self.history.elapsed()
    }

    pub(crate) fn note(&mut self, what: &str) {
        self.lines.push(format!("{:>11.3} ms  {what}", self.now().as_secs_f64() * 1e3));
    }

    /// Notes something that should never be.
    pub(crate) fn wrong(&mut self, what: &str) {
        self.note(&format!("WRONG: {what}"));
        self.wrong.push(what.to_owned());
    }

    /// Notes a fault that is over at once.
    pub(crate) fn note_of(&mut self, kind: &str, what: &str) {
        self.begin(kind, kind, what);
        self.end_silently(kind);
    }

    pub(crate) fn begin(&mut self, track: &str, kind: &str, what: &str) {
        self.note(&format!("{kind}: {what}"));
        let from = self.history.now();
        let (kind, track) = (kind.to_owned(), track.to_owned());
        self.faults.push(Fault { kind, track, from, to: None });
    }

    /// Notes that the machine stood still.
    pub(crate) fn stalled(&mut self, stalls: &[(Moment, Moment)]) {
        for &(from, to) in stalls {
            self.note(&format!("the machine stood still from {from} to {to} ns"));
            let (kind, track) = (STALL.to_owned(), STALL.to_owned());
            self.faults.push(Fault { kind, track, from, to: Some(to) });
        }
    }

    pub(crate) fn end(&mut self, track: &str) {
        self.note(&format!("{track} is back"));
        self.end_silently(track);
    }

    fn end_silently(&mut self, track: &str) {
        let now = self.history.now();
        for fault in self.faults.iter_mut().filter(|fault| fault.track == track) {
            fault.to.get_or_insert(now);
        }
    }

    /// How many there were, by kind.
    pub(crate) fn count(&self) -> BTreeMap<&str, usize> {
        let mut count = BTreeMap::new();
        for fault in &self.faults {
            *count.entry(fault.kind.as_str()).or_default() += 1;
        }
        count
    }

    /// The faults that there were between two moments.
    pub(crate) fn between(&self, from: Moment, to: Moment) -> impl Iterator<Item = &Fault> {
        let overlaps =
            move |fault: &&Fault| fault.from < to && fault.to.is_none_or(|end| end > from);
        self.faults.iter().filter(overlaps)
    }

    pub(crate) fn text(&self) -> String {
        self.lines.join("\n")
    }
}
