//! Supplying peers: once in a turn each gets what may leave for it now.

use alloc::vec::Vec;

use crate::config::Config;
use crate::leader::Leader;
use crate::log::{Log, entry_bytes};
use crate::message::Message;
use crate::node::{Node, Role};
use crate::outbox::{Ballot, Outbox};
use crate::output::{Fetch, SnapshotTask};
use crate::progress::{Peer, Probing, Supply, Wait, fetch_retry_at};
use crate::types::{Entry, Index, NodeId, Payload, Time};

/// What supplying a peer needs beside the peer.
struct Supplier<'a, P> {
    config: &'a Config,
    ballot: &'a Ballot,
    log: &'a Log<P>,
    out: &'a mut Outbox<P>,
    now: Time,
    commit: Index,
    read_round: u64,
    checkpoint: Index,
}

impl<P: Payload> Node<P> {
    /// Sends every peer what may leave for it.
    pub(crate) fn replicate(&mut self) {
        let Some((mut supplier, leader)) = self.supplier() else { return };
        for peer in &mut leader.peers {
            supplier.supply(peer);
        }
        self.tell_successor();
    }

    fn supplier(&mut self) -> Option<(Supplier<'_, P>, &mut Leader)> {
        let Role::Leader(leader) = &mut self.role else { return None };
        let supplier = Supplier {
            config: &self.config,
            ballot: &self.ballot,
            log: &self.log,
            out: &mut self.out,
            now: self.now,
            commit: self.commit,
            read_round: leader.reads.round,
            checkpoint: self.checkpoint.index,
        };
        Some((supplier, leader))
    }

    /// Whether `replicate` would send anything.
    pub(crate) fn supply_due(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        leader.peers.iter().any(|peer| self.supply_at(peer) <= self.now) || self.transfer_due()
    }

    /// When there is something to do for a peer; 0 for at once.
    fn supply_at(&self, peer: &Peer) -> Time {
        let at_once = match &peer.supply {
            Supply::Probe { sent, .. } => sent.is_none(),
            Supply::Snapshot(sending) => sending.wait == Wait::Nothing,
            Supply::Replicate => false,
        };
        if at_once {
            return 0;
        }
        let mut at = peer.retry_at(&self.config);
        let pending = peer.next <= self.log.last().index && peer.fetch.is_none();
        if matches!(peer.supply, Supply::Replicate) && pending {
            let bytes = self.log.bytes_from(peer.next);
            match peer.may_append(&self.config, bytes, self.now) {
                Ok(()) => at = 0,
                Err(until) => at = at.min(until.unwrap_or(Time::MAX)),
            }
        }
        at
    }

    pub(crate) fn leader_deadline(&self) -> Time {
        let Role::Leader(leader) = &self.role else { return Time::MAX };
        let transfer = leader.transfer.as_ref().map_or(Time::MAX, |transfer| transfer.deadline);
        let peers = leader.peers.iter().map(|peer| self.supply_at(peer)).min();
        leader.next_heartbeat.min(transfer).min(peers.unwrap_or(Time::MAX))
    }

    /// Entries that [`Fetch`] asked for, from `Fetch::from` on; none when
    /// they are no longer on disk. Answers that nobody waits for any more are
    /// dropped, and so are entries that differ from the log.
    pub fn fetched(&mut self, now: Time, peer: NodeId, entries: Vec<Entry<P>>) {
        self.advance(now);
        let Some((mut supplier, leader)) = self.supplier() else { return };
        let Some(peer) = leader.peer(peer) else { return };
        supplier.fetched(peer, entries);
    }
}

impl<P: Payload> Supplier<'_, P> {
    fn supply(&mut self, peer: &mut Peer) {
        match &peer.supply {
            Supply::Probe { .. } => self.probe(peer),
            Supply::Replicate => self.stream(peer),
            Supply::Snapshot(_) => self.read_chunk(peer),
        }
    }

    /// One append that finds out where the logs agree. When it is not
    /// answered the next ones go without entries: the peer may be down.
    fn probe(&mut self, peer: &mut Peer) {
        let Supply::Probe { sent, bare } = &peer.supply else { return };
        let unanswered = sent.is_some();
        if sent.is_some_and(|probe| self.now < probe.at.saturating_add(self.config.heartbeat_us)) {
            return;
        }
        let bare = *bare || unanswered;
        if unanswered {
            peer.probe_from(peer.next, true);
        }
        let prev = peer.next - 1;
        let (entries, bytes) = if bare {
            (Vec::new(), 0)
        } else {
            self.log.entries(peer.next, self.config.max_append_bytes)
        };
        let last = prev + entries.len() as u64;
        if !self.append(peer.id, prev, entries) {
            peer.start_snapshot();
            self.read_chunk(peer);
            return;
        }
        if bytes > 0 {
            peer.sent(last, bytes, self.now);
        }
        peer.supply = Supply::Probe { sent: Some(Probing { prev, last, at: self.now }), bare };
    }

    /// As many appends as the window and the rule of
    /// `Config::append_full_bytes` allow.
    fn stream(&mut self, peer: &mut Peer) {
        while peer.next <= self.log.last().index {
            let waits = |(_, asked)| self.now < fetch_retry_at(self.config, asked);
            if peer.fetch.is_some_and(waits) {
                return;
            }
            peer.fetch = None;
            let pending = self.log.bytes_from(peer.next);
            if peer.may_append(self.config, pending, self.now).is_err() {
                return;
            }
            if peer.next < self.log.cache_first() {
                self.fetch(peer);
                return;
            }
            let (entries, bytes) = self.log.entries(peer.next, self.config.max_append_bytes);
            self.send_entries(peer, entries, bytes);
        }
    }

    fn send_entries(&mut self, peer: &mut Peer, entries: Vec<Entry<P>>, bytes: usize) {
        let prev = peer.next - 1;
        let last = prev + entries.len() as u64;
        if self.append(peer.id, prev, entries) {
            peer.sent(last, bytes, self.now);
            peer.next = last + 1;
        } else {
            peer.start_snapshot();
        }
    }

    /// Asks the disk for entries that are no longer in memory.
    fn fetch(&mut self, peer: &mut Peer) {
        if peer.next <= self.log.base().index {
            peer.start_snapshot();
            self.read_chunk(peer);
            return;
        }
        peer.fetch = Some((peer.next, self.now));
        self.out.fetch.push(Fetch {
            peer: peer.id,
            from: peer.next,
            to: self.log.cache_first() - 1,
            max_bytes: self.config.max_append_bytes,
        });
    }

    fn fetched(&mut self, peer: &mut Peer, entries: Vec<Entry<P>>) {
        let Some((from, _)) = peer.fetch else { return };
        if !matches!(peer.supply, Supply::Replicate) || from != peer.next {
            return;
        }
        if entries.is_empty() {
            // Gone. If no checkpoint covers them the disk is asked again
            // later: the entries are in the log, so they must appear.
            if self.checkpoint >= from {
                peer.start_snapshot();
            }
            return;
        }
        let genuine = entries.iter().zip(from..).all(|(entry, index)| {
            entry.index == index && self.log.term_at(index) == Some(entry.term)
        });
        if genuine {
            peer.fetch = None;
            let bytes = entries.iter().map(entry_bytes).sum();
            self.send_entries(peer, entries, bytes);
        }
    }

    /// `false` when the log no longer reaches back to `prev`.
    fn append(&mut self, to: NodeId, prev_index: Index, entries: Vec<Entry<P>>) -> bool {
        let Some(prev_term) = self.log.term_at(prev_index) else { return false };
        let (commit, read_round) = (self.commit, self.read_round);
        let append = Message::Append { prev_index, prev_term, commit, read_round, entries };
        self.out.say(self.ballot, to, append);
        true
    }

    /// Asks the driver for the next chunk of a snapshot.
    fn read_chunk(&mut self, peer: &mut Peer) {
        let Supply::Snapshot(sending) = &mut peer.supply else { return };
        if sending.wait != Wait::Nothing {
            if self.now < sending.retry_at(self.config) {
                return;
            }
            sending.retries += 1;
        }
        sending.wait = Wait::Read;
        sending.since = self.now;
        self.out.snapshots.push(SnapshotTask::Read {
            peer: peer.id,
            index: sending.index,
            offset: sending.offset,
        });
    }
}
