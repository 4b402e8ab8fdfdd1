//! The timeline of a run, for people.

use raft::{Envelope, Message, NodeId};
use server::command::Payload;

use crate::queue::Micros;

/// Lines in order of time; costs nothing while it is off.
#[derive(Debug)]
pub(crate) struct Trace {
    lines: Option<Vec<String>>,
    pub(crate) now: Micros,
    /// The host whose turn it is.
    pub(crate) host: usize,
}

impl Trace {
    pub(crate) fn new(on: bool) -> Self {
        Trace { lines: on.then(Vec::new), now: 0, host: 0 }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// Something happened to the whole, or to the world around.
    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        self.line("----", what);
    }

    /// Something happened on the host whose turn it is.
    pub(crate) fn here(&mut self, what: impl FnOnce() -> String) {
        if self.is_on() {
            let host = format!("h{}", self.host);
            self.line(&host, what);
        }
    }

    fn line(&mut self, who: &str, what: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            let ms = self.now / 1000;
            lines.push(format!(
                "{:>3}.{:03}.{:03} {who:<4} {}",
                ms / 1000,
                ms % 1000,
                self.now % 1000,
                what()
            ));
        }
    }

    pub(crate) fn message(&mut self, envelope: &Envelope<Payload>) {
        self.here(|| {
            let Envelope { from, to, term, message } = envelope;
            format!("{from} -> {to} t{term} {}", describe(message))
        });
    }

    pub(crate) fn take(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }
}

fn describe(message: &Message<Payload>) -> String {
    match message {
        Message::Append { prev_index, prev_term, commit, entries, .. } => {
            let last = prev_index + entries.len() as u64;
            let terms: Vec<_> = entries.iter().map(|entry| entry.term.to_string()).collect();
            format!(
                "append {}..={last} of terms [{}] behind {prev_index}@{prev_term}, commit {commit}",
                prev_index + 1,
                terms.join(" ")
            )
        }
        Message::SnapshotChunk { meta, offset, data, done } => {
            let end = if *done { ", the last" } else { "" };
            format!("snapshot {}@{}, {} bytes at {offset}{end}", meta.index, meta.term, data.len())
        }
        other => format!("{other:?}"),
    }
}

/// A node's id, or nobody's.
pub(crate) fn name(id: Option<NodeId>) -> String {
    id.map_or("nobody".to_owned(), |id| id.to_string())
}
