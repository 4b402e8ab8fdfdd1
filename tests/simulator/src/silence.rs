//! How much is said while nothing gets any further. A message may lead to
//! others, but not for ever: sooner or later something is written, committed,
//! read or elected, or all fall silent until a timer rings. Servers that
//! answer each other without end take the whole of a network.

use std::collections::BTreeMap;

use raft::{DurableMark, Envelope, Event, Message, NodeId, Output};
use server::command::Payload;

use crate::oracle::Violation;
use crate::queue::Micros;

/// Messages in a row, each sent because of the one before, at the most while
/// nothing gets any further. To find out where two logs part takes two for
/// each term; the rest is room.
const LONGEST_CHAIN: u32 = 200;

/// Chains up to here are usual, and not looked at: that would cost time.
const SHORT_CHAIN: u32 = 16;

/// In so long a time...
const WINDOW: Micros = 1_000_000;

/// ...a peer that does not get any further is sent so many appends without
/// entries. Heartbeats are 15 ms apart or more.
const MAX_BARE_APPENDS: u32 = 200;

/// ...and a snapshot is begun so often.
const MAX_SNAPSHOTS_BEGUN: u32 = 30;

/// See the module's page.
#[derive(Default)]
pub(crate) struct Silence {
    /// How many messages in a row have led to what happens now.
    chain: u32,
    /// The last batch of each core.
    batches: BTreeMap<NodeId, DurableMark>,
    bare_appends: BTreeMap<(NodeId, NodeId), Window>,
    snapshots_begun: BTreeMap<(NodeId, NodeId), Window>,
}

/// A count that begins anew now and then.
#[derive(Default)]
struct Window {
    since: Micros,
    count: u32,
}

impl Window {
    fn count(&mut self, now: Micros) -> u32 {
        if now >= self.since + WINDOW {
            *self = Window { since: now, count: 0 };
        }
        self.count += 1;
        self.count
    }
}

impl Silence {
    /// A turn begins whose inputs came at the end of `chain` messages in a
    /// row; 0 for a timer, a disk or a client.
    pub(crate) fn begin(&mut self, chain: u32) {
        self.chain = chain;
    }

    /// The number of a message that leaves now.
    pub(crate) fn next(&self) -> u32 {
        self.chain + 1
    }

    /// The core `id` has produced `output`.
    pub(crate) fn check(
        &mut self,
        now: Micros,
        id: NodeId,
        output: &Output<Payload>,
    ) -> Result<(), Violation> {
        if self.chain > SHORT_CHAIN && self.gets_further(id, output) {
            self.chain = 0;
        }
        if self.chain > LONGEST_CHAIN && !output.send.is_empty() {
            let what = format!("{id} sends the message {} of a chain", self.chain + 1);
            return Err(Violation::new("messages lead to something", what));
        }
        for envelope in &output.send {
            self.check_message(now, envelope)?;
        }
        Ok(())
    }

    fn gets_further(&mut self, id: NodeId, output: &Output<Payload>) -> bool {
        // A batch stays in its place while the disk is busy.
        let wrote = output.persist.as_ref().is_some_and(|batch| {
            self.batches.insert(id, batch.mark).is_none_or(|before| before != batch.mark)
        });
        let answers = |envelope: &Envelope<Payload>| {
            matches!(envelope.message, Message::ReadIndexReply { index: Some(_), .. })
        };
        wrote
            || !output.committed.is_empty()
            || !output.reads.is_empty()
            || !output.reads_failed.is_empty()
            || output.events.iter().any(|event| !matches!(event, Event::Rejected { .. }))
            || output.send.iter().any(answers)
    }

    fn check_message(
        &mut self,
        now: Micros,
        envelope: &Envelope<Payload>,
    ) -> Result<(), Violation> {
        let link = (envelope.from, envelope.to);
        let (windows, limit, what) = match &envelope.message {
            Message::Append { entries, .. } if entries.is_empty() => {
                (&mut self.bare_appends, MAX_BARE_APPENDS, "appends without entries")
            }
            Message::SnapshotChunk { offset: 0, .. } => {
                (&mut self.snapshots_begun, MAX_SNAPSHOTS_BEGUN, "snapshots begun")
            }
            _ => return Ok(()),
        };
        let count = windows.entry(link).or_default().count(now);
        if count <= limit {
            return Ok(());
        }
        let what = format!("{count} {what} from {} to {} in a second", link.0, link.1);
        Err(Violation::new("nothing is repeated at full speed", what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sending(message: Message<Payload>) -> Output<Payload> {
        let envelope = Envelope { from: NodeId(1), to: NodeId(2), term: 1, message };
        Output { send: vec![envelope], ..Output::default() }
    }

    fn heartbeat() -> Output<Payload> {
        sending(Message::Heartbeat { commit: 0, read_round: 0 })
    }

    #[test]
    fn a_chain_without_progress_is_found() {
        let mut silence = Silence::default();
        silence.begin(LONGEST_CHAIN);
        assert_eq!(silence.check(0, NodeId(1), &heartbeat()), Ok(()));
        silence.begin(silence.next());
        let violation = silence.check(0, NodeId(1), &heartbeat()).unwrap_err();
        assert_eq!(violation.rule, "messages lead to something");
    }

    #[test]
    fn progress_ends_a_chain_but_a_batch_that_stays_does_not() {
        let mut silence = Silence::default();
        let mark = DurableMark { index: 1, ..DurableMark::default() };
        let batch = raft::Persist { hard_state: None, entries: Vec::new(), mark };
        let wrote = Output { persist: Some(batch), ..heartbeat() };
        silence.begin(LONGEST_CHAIN + 1);
        assert_eq!(silence.check(0, NodeId(1), &wrote), Ok(()));
        assert_eq!(silence.next(), 1);
        silence.begin(LONGEST_CHAIN + 1);
        assert!(silence.check(0, NodeId(1), &wrote).is_err());
    }

    #[test]
    fn repetition_is_found_within_its_second_only() {
        let bare = || {
            sending(Message::Append {
                prev_index: 0,
                prev_term: 0,
                commit: 0,
                read_round: 0,
                entries: Vec::new(),
            })
        };
        let mut silence = Silence::default();
        for at in [0, WINDOW] {
            for _ in 0..MAX_BARE_APPENDS {
                assert_eq!(silence.check(at, NodeId(1), &bare()), Ok(()));
            }
        }
        let violation = silence.check(WINDOW, NodeId(1), &bare()).unwrap_err();
        assert_eq!(violation.rule, "nothing is repeated at full speed");
    }
}
