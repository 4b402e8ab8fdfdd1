//! A batch in the driver's hands: how far it is answered, and how it ends.

use common::front_end::{Batch, answer_local};
use common::limits::{MAX_FORWARDED_REPLY_BYTES, MAX_REPLY_BYTES};
use common::memcached::{self, Reply, Request};
use raft::Time;

use super::ForwardId;

/// A batch with its progress.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) batch: Batch,
    /// Requests before this one are answered.
    pub(super) cursor: usize,
    pub(super) deadline: Time,
    /// The peer that forwarded it, if one did.
    pub(super) forwarded: Option<ForwardId>,
}

/// What a request needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    /// An entry in the log.
    Log,
    /// A read index.
    Read,
    /// Nothing: it can be answered on the spot.
    Nothing,
}

/// The answer to an item that is to expire, until expiry is built.
pub(super) const NO_EXPIRY: &str =
    "SERVER_ERROR expiry is not supported yet, not executed: use exptime 0";

/// What `request` needs.
pub(super) fn need(request: &Request) -> Need {
    match request {
        Request::Store { exptime, .. } if *exptime != 0 => Need::Nothing,
        request if request.is_write() => Need::Log,
        request if request.is_read() => Need::Read,
        _ => Need::Nothing,
    }
}

impl Job {
    pub(super) fn new(batch: Batch, deadline: Time, forwarded: Option<ForwardId>) -> Self {
        Job { batch, cursor: 0, deadline, forwarded }
    }

    /// The strongest need of the requests that are still to be answered.
    pub(super) fn need(&self) -> Need {
        let mut strongest = Need::Nothing;
        for request in &self.batch.requests[self.cursor..] {
            match need(request) {
                Need::Log => return Need::Log,
                Need::Read => strongest = Need::Read,
                Need::Nothing => {}
            }
        }
        strongest
    }

    /// Values are written up to here. What was forwarded must get back in one
    /// frame, or it would be executed and yet end as an unknown outcome.
    pub(super) fn reply_limit(&self) -> usize {
        if self.forwarded.is_some() { MAX_FORWARDED_REPLY_BYTES } else { MAX_REPLY_BYTES }
    }

    /// Answers the request at the cursor and moves on.
    pub(super) fn answer(&mut self, reply: &Reply) {
        if !self.batch.requests[self.cursor].noreply() {
            reply.write(&mut self.batch.out);
        }
        self.cursor += 1;
    }

    /// Ends the batch: nothing of what is left was executed.
    pub(super) fn fail_not_executed(self, why: &'static str) {
        self.fail(why, why);
    }

    /// Ends the batch: writes that are left may have taken effect.
    pub(super) fn fail_unknown(self) {
        self.fail(memcached::UNKNOWN, memcached::NO_LEADER);
    }

    fn fail(mut self, writes: &'static str, others: &'static str) {
        while let Some(request) = self.batch.requests.get(self.cursor) {
            // What the cluster has no part in is answered as ever: a `quit`
            // that got a line would leave the client with one too many.
            if answer_local(request, &mut self.batch.out) {
                self.cursor += 1;
                continue;
            }
            let text = if need(request) == Need::Log { writes } else { others };
            self.answer(&Reply::Error(text));
        }
        self.batch.finish();
    }
}
