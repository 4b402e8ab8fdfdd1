//! A client's batch on its way through the load balancer.

use std::time::Duration;

use bytes::BytesMut;
use common::forward::WriteIds;
use common::front_end::{Batch, answer_local};
use common::memcached::{NO_LEADER, Reply, Request, SESSION_OVER, SESSION_UNKNOWN, UNKNOWN};

/// A batch with its progress. It is answered in runs: what the load balancer
/// answers itself, then a run that a server answers, and so on.
#[derive(Debug)]
pub struct Job {
    batch: Batch,
    /// Requests before this one are answered.
    cursor: usize,
    /// End of the run that is routed, which starts at the cursor.
    end: usize,
    /// Whether there are writes in that run.
    is_write: bool,
    deadline: Duration,
    /// An earlier sending of the run may have been executed.
    exposed: bool,
    /// What names the run's requests, if there are writes among them.
    pub(super) ids: Option<WriteIds>,
}

/// What only the load balancer itself can answer.
fn is_own(request: &Request) -> bool {
    matches!(request, Request::Discover { .. } | Request::Stats { .. })
}

/// Goes on with a job until it is answered, and with all others that come up
/// on the way. `own` answers what only a load balancer knows; `exchange` gives
/// the router a job whose next run is to be routed, if there is one, and takes
/// one from it whose run is answered. In between the router is nobody's, so
/// that it may be locked in `exchange` alone.
pub fn proceed(
    mut next: Option<Job>,
    mut own: impl FnMut(&Request, &mut BytesMut),
    mut exchange: impl FnMut(Option<Job>) -> Option<Job>,
) {
    while let Some(mut job) = next {
        if job.next_run(&mut own) {
            next = exchange(Some(job));
        } else {
            job.finish();
            next = exchange(None);
        }
    }
}

fn is_routed(request: &Request) -> bool {
    request.is_read() || request.is_write()
}

impl Job {
    /// A batch that has just arrived, to be answered by `deadline`.
    pub fn new(batch: Batch, deadline: Duration) -> Self {
        Job { batch, cursor: 0, end: 0, is_write: false, deadline, exposed: false, ids: None }
    }

    /// Answers what needs no server, `own` what only a load balancer knows,
    /// up to the next run that needs one. False: all is answered.
    fn next_run(&mut self, mut own: impl FnMut(&Request, &mut BytesMut)) -> bool {
        let requests = &self.batch.requests;
        while let Some(request) = requests.get(self.cursor)
            && !is_routed(request)
        {
            if !answer_local(request, &mut self.batch.out) {
                own(request, &mut self.batch.out);
            }
            self.cursor += 1;
        }
        let rest = &requests[self.cursor..];
        let run = &rest[..rest.iter().position(is_own).unwrap_or(rest.len())];
        // What stands behind the last one that is routed is answered here.
        self.end = self.cursor + run.iter().rposition(is_routed).map_or(0, |last| last + 1);
        self.is_write = run.iter().any(Request::is_write);
        self.exposed = self.batch.ids.again;
        self.ids = self.clients_ids();
        self.end > self.cursor
    }

    /// What names the run, if the client itself has named it.
    fn clients_ids(&self) -> Option<WriteIds> {
        let mut ids = self.batch.ids;
        ids.first_sequence += self.cursor as u64;
        self.is_named_by_client().then_some(ids)
    }

    /// Whether the ids are the client's.
    pub(super) fn is_named_by_client(&self) -> bool {
        self.batch.ids.session != 0
    }

    /// All is answered: back to the client.
    fn finish(self) {
        self.batch.finish();
    }

    /// The requests that are routed.
    pub(super) fn run(&self) -> &[Request] {
        &self.batch.requests[self.cursor..self.end]
    }

    pub(super) fn run_length(&self) -> u64 {
        (self.end - self.cursor) as u64
    }

    pub(super) fn is_write(&self) -> bool {
        self.is_write
    }

    pub(super) fn bytes(&self) -> usize {
        self.batch.bytes
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// There is time at least until `deadline`.
    pub(super) fn allow(&mut self, deadline: Duration) {
        self.deadline = self.deadline.max(deadline);
    }

    pub(super) fn hurry(&mut self, deadline: Duration) {
        self.deadline = self.deadline.min(deadline);
    }

    /// Whether an earlier sending may have been executed.
    pub(super) fn is_exposed(&self) -> bool {
        self.exposed
    }

    pub(super) fn expose(&mut self) {
        self.exposed = true;
    }

    /// A server has answered the run.
    pub(super) fn done(&mut self, replies: &[u8]) {
        self.batch.out.extend_from_slice(replies);
        self.cursor = self.end;
    }

    /// The session under which the client has named its writes is not open.
    pub(super) fn fail_session(&mut self) {
        self.fail(if self.exposed { SESSION_OVER } else { SESSION_UNKNOWN }, NO_LEADER);
    }

    /// Its writes may have taken effect.
    pub(super) fn fail_unknown(&mut self) {
        self.fail(UNKNOWN, NO_LEADER);
    }

    /// Answers the run with an error.
    pub(super) fn fail(&mut self, writes: &'static str, others: &'static str) {
        for request in &self.batch.requests[self.cursor..self.end] {
            if answer_local(request, &mut self.batch.out) || request.noreply() {
                continue;
            }
            let text = if request.is_write() { writes } else { others };
            Reply::Error(text).write(&mut self.batch.out);
        }
        self.cursor = self.end;
    }
}
