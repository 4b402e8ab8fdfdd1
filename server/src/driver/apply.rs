//! Applying committed entries, and answering on the way.

use bytes::{Bytes, BytesMut};
use common::front_end::answer_local;
use common::memcached::{self, REPLY_TOO_LARGE, Reply, Request, write_end, write_value};
use raft::{Body, Entry};

use super::job::{Job, NO_EXPIRY, Need, need};
use super::{Driver, Now, Refusal, Refused};
use crate::command::{Command, Payload};
use crate::keystore::Keystore;

/// A `VALUE` line and the line ends, beside its key and data, at the most.
const VALUE_LINE_BYTES: usize = 64;

impl Driver {
    /// Applies what is committed and answers everybody whose turn it is.
    pub fn apply(&mut self, now: Now) {
        while let Some(entry) = self.committed.pop_front() {
            self.apply_entry(now, &entry);
        }
        let applied = self.keystore.applied();
        while self.read_groups.front().is_some_and(|g| g.index.is_some_and(|i| i <= applied)) {
            for mut job in self.read_groups.pop_front().into_iter().flat_map(|g| g.jobs) {
                self.answer_until_log(&mut job);
                job.batch.finish();
            }
        }
    }

    fn apply_entry(&mut self, now: Now, entry: &Entry<Payload>) {
        let mut job = self.take_job(now, entry);
        let reply = match &entry.body {
            Body::Command(payload) => match Command::decode(&payload.0) {
                Ok(command) => {
                    // Reads that came before this write see the state before it.
                    if let Some(job) = &mut job {
                        let is_past = job.exposed && !self.keystore.is_new(&command);
                        self.answer_reads(job, is_past);
                    }
                    self.hear_clock(now, command.clock_ms);
                    let reply = self.keystore.apply(entry.index, &command);
                    self.note_use(now, entry.index);
                    self.note_applied(now, entry.index, &command.operation);
                    reply
                }
                // Every replica fails alike; only a newer version can have
                // proposed it.
                Err(error) => {
                    tracing::error!(index = entry.index, %error, "entry cannot be applied");
                    self.keystore.advance(entry.index);
                    Reply::Error("SERVER_ERROR command of a newer version")
                }
            },
            Body::Noop | Body::Membership(_) => {
                self.keystore.advance(entry.index);
                return;
            }
        };
        let Some(mut job) = job else { return };
        if job.opens.is_some() {
            self.proposed.pop_front();
            return self.opened(job, &reply);
        }
        job.answer_write(&reply);
        // Reads in front of a write that may have taken effect before wait
        // until that is known.
        if !job.exposed || job.need() != Need::Log {
            self.answer_until_log(&mut job);
        }
        let Some(front) = self.proposed.front_mut() else { return };
        if entry.index < front.last {
            front.job = Some(job);
            return;
        }
        self.proposed.pop_front();
        if job.cursor == job.batch.requests.len() {
            self.finish(job);
        } else if job.exposed {
            // The core took only a part of the batch; the rest may have been
            // executed before.
            self.ask_again(now, job);
        } else {
            job.fail_not_executed(memcached::BUSY);
        }
    }

    /// All of a batch is answered.
    fn finish(&mut self, job: Job) {
        match job.forwarded {
            // Its forwarder may know that it was sent only once, and that it
            // can therefore be sent under another session.
            Some(id) if job.has_no_session() => {
                self.refuse.push(Refused { id, why: Refusal::SessionUnknown });
            }
            _ => job.batch.finish(),
        }
    }

    fn opened(&mut self, job: Job, reply: &Reply) {
        match job.forwarded {
            Some(id) if *reply != Reply::Ok => {
                self.refuse.push(Refused { id, why: Refusal::SessionUnknown });
            }
            _ => job.batch.finish(),
        }
    }

    /// The batch that waits for this very entry. Batches whose entries lost
    /// against others go back to be routed anew: what was committed instead
    /// proves that they were not executed.
    fn take_job(&mut self, now: Now, entry: &Entry<Payload>) -> Option<Job> {
        loop {
            let front = self.proposed.front_mut()?;
            if entry.index < front.first {
                return None;
            }
            if entry.index <= front.last && entry.term == front.term {
                if front.job.is_none() && entry.index == front.last {
                    self.proposed.pop_front();
                    return None;
                }
                return front.job.take();
            }
            let lost = self.proposed.pop_front()?;
            match lost.job {
                None => {}
                Some(job) if job.forwarded.is_none() => self.park(now, job),
                Some(Job { cursor: 0, forwarded: Some(from), .. }) => self.not_leader(from),
                // A part of it was executed.
                Some(job) if job.names.is_some() => self.ask_again(now, job),
                Some(job) => job.fail_not_executed(memcached::NO_LEADER),
            }
            self.unpark = true;
        }
    }

    /// Answers requests from the cursor on, up to the next one that needs an
    /// entry of its own.
    pub(super) fn answer_until_log(&mut self, job: &mut Job) {
        self.answer_reads(job, false);
    }

    /// As [`Driver::answer_until_log`]; `is_past`: the state that the reads
    /// should see is, because the write behind them took effect earlier. They
    /// are refused: they must not see what came after it.
    fn answer_reads(&mut self, job: &mut Job, is_past: bool) {
        while let Some(request) = job.batch.requests.get(job.cursor) {
            match (need(request), request) {
                (Need::Log, _) => return,
                (Need::Read, _) if is_past => {
                    Reply::Error(memcached::NO_LEADER).write(&mut job.batch.out);
                }
                (_, Request::Get { keys, with_cas }) => {
                    let (limit, out) = (job.reply_limit(), &mut job.batch.out);
                    let hits = write_hits(&self.keystore, keys, *with_cas, limit, out);
                    self.stats.reads += 1;
                    self.stats.keys_read += keys.len() as u64;
                    self.stats.misses += keys.len() as u64 - hits;
                }
                (_, Request::Store { noreply, .. }) => {
                    if !noreply {
                        Reply::Error(NO_EXPIRY).write(&mut job.batch.out);
                    }
                }
                (_, Request::Stats { what }) => self.write_stats(what, &mut job.batch.out),
                (_, Request::Discover { elasticache }) => {
                    self.write_servers(*elasticache, &mut job.batch.out);
                }
                (_, request) => {
                    answer_local(request, &mut job.batch.out);
                }
            }
            job.cursor += 1;
        }
    }
}

/// Answers a get; how many keys were there. An answer is whole or an error:
/// never an error behind a first value.
fn write_hits(
    keystore: &Keystore,
    keys: &[Bytes],
    with_cas: bool,
    limit: usize,
    out: &mut BytesMut,
) -> u64 {
    let start = out.len();
    let mut hits = 0;
    for key in keys {
        let Some(item) = keystore.get(key) else { continue };
        let bytes = VALUE_LINE_BYTES + key.len() + item.value.len();
        if out.len() + bytes > limit {
            out.truncate(start);
            Reply::Error(REPLY_TOO_LARGE).write(out);
            return hits;
        }
        out.reserve(bytes);
        write_value(out, key, item.flags, with_cas.then_some(item.cas), item.value);
        hits += 1;
    }
    write_end(out);
    hits
}
