//! The end of a turn: everything that the inputs of the turn led to comes out
//! at once, so that it is batched.

use crate::node::{Node, Role};
use crate::output::Output;
use crate::types::{Index, Payload, Time};

impl<P: Payload> Node<P> {
    /// Appends everything there is to do to `out`, whose buffers the driver
    /// has emptied and keeps, and sends what the turn's inputs allow: appends
    /// are batched here, and reads share a round.
    ///
    /// While `out.persist` is still occupied no further batch is put there,
    /// nor are snapshot tasks, which must not overtake it: a driver that
    /// writes one batch at a time leaves it there and gets all that came
    /// meanwhile as the next one.
    pub fn take_output(&mut self, now: Time, out: &mut Output<P>) {
        self.advance(now);
        self.acknowledge();
        self.forward_reads();
        self.begin_read_round();
        self.replicate();
        if out.persist.is_none() {
            self.persist(out);
            out.snapshots.append(&mut self.out.snapshots);
        }
        let applicable = self.applicable();
        if applicable > self.applied {
            self.log.copy(self.applied + 1, applicable, &mut out.committed);
            self.applied = applicable;
        }
        self.log.trim_cache(self.applied);
        out.send.append(&mut self.out.send);
        out.reads.append(&mut self.out.reads);
        out.reads_failed.append(&mut self.out.reads_failed);
        out.fetch.append(&mut self.out.fetch);
        out.events.append(&mut self.out.events);
    }

    /// Whether `take_output` would produce anything now, if `out.persist` is
    /// free.
    pub fn has_output(&self) -> bool {
        self.has_batch() || !self.out.snapshots.is_empty() || self.has_output_beside_batch()
    }

    /// Whether `take_output` would produce anything now while `out.persist` is
    /// occupied: what waits for the batch there to be taken does not count, or
    /// a driver that goes on for as long as there is output would never end.
    pub fn has_output_beside_batch(&self) -> bool {
        !self.out.is_empty_beside_snapshots()
            || self.applicable() > self.applied
            || self.acknowledgement_due()
            || self.forward_due()
            || self.read_round_due()
            || self.supply_due()
    }

    fn has_batch(&self) -> bool {
        self.log.has_unpersisted() || self.ballot.persisted != self.ballot.current
    }

    fn persist(&mut self, out: &mut Output<P>) {
        if self.has_batch() {
            let hard_changed = self.ballot.persisted != self.ballot.current;
            out.persist = Some(self.log.take_batch(self.ballot.current, hard_changed));
            self.ballot.persisted = self.ballot.current;
        }
    }

    /// Up to where entries may be applied: on a leader what is committed, that
    /// is, durable on a majority, though perhaps not yet here; elsewhere only
    /// what is durable here, too.
    fn applicable(&self) -> Index {
        match self.role {
            _ if self.is_installing() => self.applied,
            Role::Leader(_) => self.commit,
            Role::Follower(_) | Role::Candidate(_) => self.commit.min(self.log.durable()),
        }
    }
}
