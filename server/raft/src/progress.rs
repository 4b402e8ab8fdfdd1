//! What a leader knows about one peer, and how it supplies it.

use alloc::collections::VecDeque;

use crate::config::Config;
use crate::status::{PeerState, PeerStatus};
use crate::types::{Index, NodeId, Suffrage, Term, Time};

/// One peer of a leader.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) voter: bool,
    /// Set once the peer is no member any more: it is supplied until then, so
    /// that it learns of its removal.
    pub(crate) leaving: Option<Time>,
    /// Its log equals ours up to here, durably.
    pub(crate) matched: Index,
    /// The next index to send.
    pub(crate) next: Index,
    pub(crate) supply: Supply,
    /// Appends on the way: last index and bytes of each.
    inflight: VecDeque<(Index, usize)>,
    inflight_bytes: usize,
    /// When an append with entries last left.
    pub(crate) appended_at: Time,
    /// When `matched` last moved, or appends began to be on the way.
    pub(crate) progressed_at: Time,
    /// When it was last asked to acknowledge what it has.
    pub(crate) nudged_at: Time,
    /// Its last index, as the heartbeat reply before this one said.
    pub(crate) reported: Option<Index>,
    /// The same, if that was before `matched`, and since when.
    short: Option<(Index, Time)>,
    pub(crate) last_contact: Time,
    /// The newest read round that it has echoed.
    pub(crate) echoed: u64,
    /// Entries asked of the disk: first index, and when.
    pub(crate) fetch: Option<(Index, Time)>,
    /// Since when this learner has been close behind.
    pub(crate) close_since: Option<Time>,
}

/// How a peer is being supplied.
#[derive(Clone, Debug)]
pub(crate) enum Supply {
    /// It is not known where the logs agree: one append at a time.
    Probe {
        /// The append that waits for its answer.
        sent: Option<Probing>,
        /// The one before was lost: ask without entries.
        bare: bool,
    },
    /// Appends are pipelined within the window.
    Replicate,
    /// It needs entries that are no longer in the log.
    Snapshot(Sending),
}

/// An append that finds out where the logs agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probing {
    pub(crate) prev: Index,
    pub(crate) last: Index,
    pub(crate) at: Time,
}

/// A snapshot on its way to a peer, one chunk at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sending {
    /// 0 until the driver has named it.
    pub(crate) index: Index,
    pub(crate) term: Term,
    /// First byte that the peer has not confirmed.
    pub(crate) offset: u64,
    pub(crate) wait: Wait,
    pub(crate) since: Time,
    pub(crate) retries: u32,
    /// How often the peer has lost what it had.
    pub(crate) restarts: u32,
}

/// What a snapshot transfer waits for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Wait {
    /// Nothing: the next chunk is to be read.
    #[default]
    Nothing,
    /// The driver reads a chunk.
    Read,
    /// The peer confirms a chunk.
    Reply,
}

impl Peer {
    pub(crate) fn new(id: NodeId, voter: bool, next: Index, now: Time) -> Self {
        Peer {
            id,
            voter,
            leaving: None,
            matched: 0,
            next,
            supply: Supply::Probe { sent: None, bare: false },
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            appended_at: 0,
            progressed_at: now,
            nudged_at: 0,
            reported: None,
            short: None,
            last_contact: now,
            echoed: 0,
            fetch: None,
            close_since: None,
        }
    }

    pub(crate) fn probe_from(&mut self, next: Index, bare: bool) {
        self.next = next.max(self.matched + 1);
        self.supply = Supply::Probe { sent: None, bare };
        self.clear_inflight();
        self.fetch = None;
        self.reported = None;
    }

    /// Whether its log has ended at `last`, before what it acknowledged, in two
    /// answers or more that came at least `apart` from each other: not those
    /// of a moment that a later one has overtaken.
    pub(crate) fn stays_short(&mut self, last: Index, now: Time, apart: Time) -> bool {
        let since = match self.short {
            Some((before, since)) if before == last => since,
            _ => now,
        };
        self.short = (last < self.matched).then_some((last, since));
        self.short.is_some() && now.saturating_sub(since) >= apart && since < now
    }

    /// The peer's log ends at `last`, though it acknowledged more. That stays
    /// committed: the peer votes as if it had it. If the news are old ones
    /// after all, the next answer puts things right.
    pub(crate) fn lost(&mut self, last: Index) {
        self.matched = self.matched.min(last);
        if !matches!(self.supply, Supply::Snapshot(_)) {
            self.probe_from(last + 1, false);
        }
        self.short = None;
        self.close_since = None;
    }

    pub(crate) fn start_snapshot(&mut self) {
        self.supply = Supply::Snapshot(Sending::default());
        self.clear_inflight();
        self.fetch = None;
    }

    /// The peer's log equals ours up to `matched`.
    pub(crate) fn acknowledged(&mut self, matched: Index, now: Time) {
        if matched > self.matched {
            self.matched = matched;
            self.progressed_at = now;
        }
        while self.inflight.front().is_some_and(|&(last, _)| last <= self.matched) {
            if let Some((_, bytes)) = self.inflight.pop_front() {
                self.inflight_bytes -= bytes;
            }
        }
        match &self.supply {
            Supply::Probe { sent, .. } => {
                // An answer of before the probe says nothing about the probe.
                let reached = sent.map(|probe| (probe.prev, probe.last));
                if let Some((prev, last)) = reached
                    && matched >= prev
                {
                    self.supply = Supply::Replicate;
                    self.next = last.max(self.matched) + 1;
                }
            }
            Supply::Replicate => {}
            Supply::Snapshot(sending) => {
                if self.matched >= sending.index && sending.index > 0 {
                    self.supply = Supply::Replicate;
                }
            }
        }
        self.next = self.next.max(self.matched + 1);
        // Entries on their way from the disk are of use only from `next` on.
        self.fetch = self.fetch.filter(|&(from, _)| from == self.next);
    }

    /// An append with entries up to `last` leaves.
    pub(crate) fn sent(&mut self, last: Index, bytes: usize, now: Time) {
        if self.inflight.is_empty() {
            self.progressed_at = now;
        }
        self.inflight.push_back((last, bytes));
        self.inflight_bytes += bytes;
        self.appended_at = now;
    }

    pub(crate) fn has_inflight(&self) -> bool {
        !self.inflight.is_empty()
    }

    /// Whether an append with `pending` bytes may leave now; if it only has
    /// to wait for the gap, until when.
    pub(crate) fn may_append(
        &self,
        config: &Config,
        pending: usize,
        now: Time,
    ) -> Result<(), Option<Time>> {
        if self.inflight_bytes >= config.window_bytes {
            return Err(None);
        }
        let gap_over = self.appended_at.saturating_add(config.append_gap_us);
        if self.inflight.is_empty() || pending >= config.append_full_bytes || now >= gap_over {
            Ok(())
        } else {
            Err(Some(gap_over))
        }
    }

    /// When something has to be tried again because no answer came.
    pub(crate) fn retry_at(&self, config: &Config) -> Time {
        let fetch = self.fetch.map_or(Time::MAX, |(_, at)| fetch_retry_at(config, at));
        let supply = match &self.supply {
            Supply::Probe { sent: Some(probe), .. } => probe.at.saturating_add(config.heartbeat_us),
            Supply::Snapshot(sending) if sending.wait != Wait::Nothing => sending.retry_at(config),
            Supply::Probe { sent: None, .. } | Supply::Snapshot(_) | Supply::Replicate => Time::MAX,
        };
        fetch.min(supply)
    }

    fn clear_inflight(&mut self) {
        self.inflight.clear();
        self.inflight_bytes = 0;
    }

    pub(crate) fn status(&self) -> PeerStatus {
        PeerStatus {
            id: self.id,
            suffrage: if self.voter { Suffrage::Voter } else { Suffrage::Learner },
            matched: self.matched,
            next: self.next,
            state: match &self.supply {
                Supply::Probe { .. } => PeerState::Probe,
                Supply::Replicate => PeerState::Replicate,
                Supply::Snapshot(sending) => {
                    PeerState::Snapshot { index: sending.index, offset: sending.offset }
                }
            },
            inflight_bytes: self.inflight_bytes,
            last_contact: self.last_contact,
        }
    }
}

/// A disk that has not answered for an election timeout is asked again.
pub(crate) fn fetch_retry_at(config: &Config, asked: Time) -> Time {
    asked.saturating_add(config.election_timeout_max_us)
}

impl Sending {
    /// The peer has the snapshot up to `offset`, and wants what follows. It
    /// gets that at once, except when it has lost what it had a second time:
    /// perhaps it can never finish, and is not to be sent the whole again and
    /// again at the speed of the network.
    pub(crate) fn go_on_from(&mut self, offset: u64, now: Time) {
        let lost = offset < self.offset;
        self.offset = offset;
        self.retries = 0;
        if lost && self.restarts > 0 {
            self.wait = Wait::Reply;
            self.since = now;
            self.retries = self.restarts;
        } else {
            self.wait = Wait::Nothing;
        }
        self.restarts += u32::from(lost);
    }

    /// From the beginning, since the snapshot is another one or cannot be had.
    pub(crate) fn reset(&mut self, wait: Wait, now: Time) {
        *self = Sending { wait, since: now, restarts: self.restarts, ..Sending::default() };
    }

    /// A chunk may be lost, but installing may also just take long: the pause
    /// doubles, up to 16 heartbeats.
    pub(crate) fn retry_at(&self, config: &Config) -> Time {
        let heartbeats = 2_u64 << self.retries.min(3);
        self.since.saturating_add(config.heartbeat_us.saturating_mul(heartbeats))
    }
}
