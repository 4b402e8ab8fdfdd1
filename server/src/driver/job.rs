//! A batch in the driver's hands: how far it is answered, and how it ends.

use common::forward::WriteIds;
use common::front_end::{Batch, answer_local};
use common::limits::{MAX_FORWARDED_REPLY_BYTES, MAX_REPLY_BYTES};
use common::memcached::{self, Reply, Request};
use raft::Time;

use super::ForwardId;
use super::sending::Ticket;
use crate::command::RequestId;
use crate::keystore::SESSION_UNKNOWN;

/// A batch with its progress.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) batch: Batch,
    /// Requests before this one are answered.
    pub(super) cursor: usize,
    pub(super) deadline: Time,
    /// The peer that forwarded it, if one did.
    pub(super) forwarded: Option<ForwardId>,
    /// What names its writes, so that they can be sent again.
    pub(super) names: Option<Names>,
    /// Some of it may have been executed by an earlier sending.
    pub(super) exposed: bool,
    /// It has no requests, but opens this session.
    pub(super) opens: Option<u64>,
    /// Writes that were not applied because their session is unknown, and
    /// those that were answered otherwise.
    no_session: usize,
    applied: usize,
}

/// Names the requests of a batch.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) ids: WriteIds,
    /// Position of the first request that they name.
    pub(super) base: usize,
    /// Held by the forwarder until its client has the answer; none of names
    /// that came with the batch.
    pub(super) ticket: Option<Ticket>,
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
        Job {
            batch,
            cursor: 0,
            deadline,
            forwarded,
            names: None,
            exposed: false,
            opens: None,
            no_session: 0,
            applied: 0,
        }
    }

    /// A batch whose writes were named by whoever sent it.
    pub(super) fn named(mut self, ids: WriteIds) -> Self {
        if ids.session != 0 {
            self.names = Some(Names { ids, base: 0, ticket: None });
            self.exposed = ids.again;
        }
        self
    }

    /// What names the request at `position`.
    pub(super) fn id_of(&self, position: usize) -> Option<RequestId> {
        let Names { ids, base, .. } = self.names.as_ref()?;
        let WriteIds { session, first_sequence, done_below, .. } = *ids;
        let sequence = first_sequence.wrapping_add(position.checked_sub(*base)? as u64);
        Some(RequestId { session, sequence, done_below })
    }

    /// Whether this server itself has named its writes, to forward them.
    pub(super) fn has_own_names(&self) -> bool {
        self.names.as_ref().is_some_and(|names| names.ticket.is_some())
    }

    /// Whether a client of this server has named its writes.
    pub(super) fn is_named_by_client(&self) -> bool {
        self.forwarded.is_none() && self.names.is_some() && !self.has_own_names()
    }

    /// No write of it was applied, all because their session is unknown.
    pub(super) fn has_no_session(&self) -> bool {
        self.no_session > 0 && self.applied == 0
    }

    /// The strongest need of the requests that are still to be answered.
    pub(super) fn need(&self) -> Need {
        if self.opens.is_some() {
            return Need::Log;
        }
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

    /// Answers the write at the cursor with what applying it gave.
    pub(super) fn answer_write(&mut self, reply: &Reply) {
        if *reply == SESSION_UNKNOWN {
            self.no_session += 1;
            let text = match self.is_named_by_client() {
                true => self.session_text(),
                false => memcached::UNKNOWN,
            };
            self.answer(&Reply::Error(text));
        } else {
            self.applied += 1;
            self.answer(reply);
        }
    }

    /// What a client gets that has named its writes under a session that is not
    /// open.
    fn session_text(&self) -> &'static str {
        if self.exposed { memcached::SESSION_OVER } else { memcached::SESSION_UNKNOWN }
    }

    /// Ends the batch of a client that has named its writes under a session
    /// that is not open.
    pub(super) fn fail_session(self) {
        let text = self.session_text();
        self.fail(text, memcached::NO_LEADER);
    }

    /// Ends the batch: nothing of what is left was executed, unless an earlier
    /// sending of it was.
    pub(super) fn fail_not_executed(self, why: &'static str) {
        let writes = if self.exposed { memcached::UNKNOWN } else { why };
        self.fail(writes, why);
    }

    /// Ends the batch: writes that are left may have taken effect.
    pub(super) fn fail_unknown(self) {
        self.fail(memcached::UNKNOWN, memcached::NO_LEADER);
    }

    fn fail(mut self, writes: &'static str, others: &'static str) {
        if self.opens.is_some() {
            // Not finished: that would say that it is open. Who wants it open
            // asks again.
            return;
        }
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
