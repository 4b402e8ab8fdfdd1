//! Integrity in service: do all replicas hold the same data?
//!
//! 1. A leader under load proposes a *check* at intervals. It changes nothing;
//!    whoever applies it notes the digest of its keystore at that very entry.
//! 2. Followers report what they noted to the leader, which does not wait for
//!    anybody: a report that is lost is missing, nothing else.
//! 3. Once a majority of the voters has noted the same, the leader proposes it
//!    as the *verdict* on that check. Whoever applies a verdict that differs
//!    from what it noted itself knows that its data has gone wrong: an
//!    [`IntegrityFailure`]. It hands leadership over if it has it; the shell
//!    stops serving and fetches the data again.
//! 4. If all voters have reported and no majority agrees, nobody can know who
//!    is right: that is logged and counted, and nobody is taken out.
//!
//! All that is agreed is in the log. What is noted, reported and counted lives
//! in memory only: after a restart there are later checks.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use raft::{Index, NodeId, Time};

use super::{Actions, Driver, Now};
use crate::command::{Command, Operation, Payload};

/// How [`Keystore::digest`](crate::keystore::Keystore::digest) computes. To be
/// counted up with every change of it: replicas of two versions would differ.
const ALGORITHM: u8 = 2;

/// Checks whose digests and reports are kept: a verdict that takes longer comes
/// too late for nobody, because others follow.
const KEPT_CHECKS: usize = 8;

/// Between two checks, whatever else is due.
const LEAST_INTERVAL_US: Time = 1_000_000;

/// When integrity is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IntegrityOptions {
    /// After so long, if anything was written that no verdict covers;
    /// microseconds.
    pub interval_us: Time,
    /// After so many commands, however soon.
    pub commands: u64,
}

impl Default for IntegrityOptions {
    fn default() -> Self {
        IntegrityOptions { interval_us: 10_000_000, commands: 1_000_000 }
    }
}

/// What a replica noted at a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DigestReport {
    /// Index of the check's entry.
    pub index: Index,
    /// The digest of the keystore at that entry.
    pub digest: u64,
}

/// This replica's data is not that of the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IntegrityFailure {
    /// At which check.
    pub index: Index,
    /// The digest here.
    pub own: u64,
    /// The digest that a majority agreed on.
    pub agreed: u64,
}

#[derive(Default)]
pub(super) struct Integrity {
    options: IntegrityOptions,
    /// What this replica noted, oldest first.
    noted: VecDeque<DigestReport>,
    /// Commands applied on which there is no verdict yet.
    commands: u64,
    /// The newest check, and how many of those commands it covers.
    newest: (Index, u64),
    /// When this server proposed a check last.
    proposed_us: Time,
    /// Reports by check, while this server leads.
    reports: BTreeMap<Index, BTreeMap<NodeId, u64>>,
    /// The newest check that was decided or given up here as leader.
    settled: Index,
    outgoing: Vec<(NodeId, DigestReport)>,
    failure: Option<IntegrityFailure>,
    agreed_index: Index,
    failures: u64,
    disagreements: u64,
}

impl Integrity {
    /// The newest check on which this replica agrees with the others.
    pub(super) fn agreed_index(&self) -> Index {
        self.agreed_index
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    pub(super) fn disagreements(&self) -> u64 {
        self.disagreements
    }

    /// The keystore is another one now.
    pub(super) fn restart(&mut self) {
        self.noted.clear();
        self.failure = None;
    }

    pub(super) fn has_output(&self) -> bool {
        !self.outgoing.is_empty() || self.failure.is_some()
    }

    pub(super) fn flush(&mut self, actions: &mut Actions) {
        actions.digests.append(&mut self.outgoing);
        if let Some(failure) = self.failure.take() {
            actions.integrity_failure.get_or_insert(failure);
        }
    }
}

impl Driver {
    /// Sets when integrity is checked.
    pub fn set_integrity(&mut self, options: IntegrityOptions) {
        self.integrity.options = options;
    }

    /// Memory changes by itself; see [`Keystore::rot`].
    ///
    /// [`Keystore::rot`]: crate::keystore::Keystore::rot
    #[cfg(any(test, feature = "planted-bugs"))]
    pub fn rot(&mut self, key: &[u8]) -> bool {
        self.keystore.rot(key)
    }

    /// What a peer noted at a check.
    pub fn digest_reported(&mut self, now: Now, from: NodeId, report: DigestReport) {
        if !self.node.is_leader() || report.index <= self.integrity.settled {
            return;
        }
        let reports = &mut self.integrity.reports;
        reports.entry(report.index).or_default().insert(from, report.digest);
        while reports.len() > KEPT_CHECKS {
            reports.pop_first();
        }
        self.consider_verdict(now, report.index);
    }

    /// Proposes a check when one is due.
    pub(super) fn consider_check(&mut self, now: Now) {
        let Integrity { options, commands, proposed_us, .. } = self.integrity;
        let since = now.mono_us.saturating_sub(proposed_us);
        let due = since >= options.interval_us || commands >= options.commands;
        let alone = self.node.membership().voters().nth(1).is_none();
        if !due
            || commands == 0
            || since < LEAST_INTERVAL_US.min(options.interval_us)
            || alone
            || !self.node.is_leader()
        {
            return;
        }
        self.integrity.proposed_us = now.mono_us;
        self.propose_own(now, Operation::Check { algorithm: ALGORITHM });
    }

    /// Takes note of a command that was applied just now.
    pub(super) fn note_applied(&mut self, now: Now, index: Index, operation: &Operation<'_>) {
        match *operation {
            Operation::Check { algorithm: ALGORITHM } => self.note_check(now, index),
            Operation::Check { .. } => {}
            Operation::Verdict { index, digest } => self.judge(now, index, digest),
            _ => {
                self.stats.writes += 1;
                self.integrity.commands += 1;
            }
        }
    }

    fn note_check(&mut self, now: Now, index: Index) {
        let report = DigestReport { index, digest: self.keystore.digest() };
        self.integrity.newest = (index, self.integrity.commands);
        if self.integrity.noted.len() == KEPT_CHECKS {
            self.integrity.noted.pop_front();
        }
        self.integrity.noted.push_back(report);
        let own = self.node.id();
        match self.node.leader() {
            Some(leader) if leader == own => self.digest_reported(now, own, report),
            Some(leader) => self.integrity.outgoing.push((leader, report)),
            None => {}
        }
    }

    /// Decides about the check at `index` once that is possible.
    fn consider_verdict(&mut self, now: Now, index: Index) {
        let Some(reports) = self.integrity.reports.get(&index) else { return };
        let voters: Vec<NodeId> = self.node.membership().voters().collect();
        let digests: Vec<u64> = voters.iter().filter_map(|id| reports.get(id).copied()).collect();
        let votes = |digest: u64| digests.iter().filter(|vote| **vote == digest).count();
        let agreed = digests.iter().find(|digest| votes(**digest) * 2 > voters.len()).copied();
        if agreed.is_none() && digests.len() < voters.len() {
            return;
        }
        if agreed.is_none() {
            self.integrity.disagreements += 1;
            tracing::error!(
                index,
                ?reports,
                "no majority of the servers holds the same data: back it up, check the machines' \
                 memory, and restore"
            );
        }
        self.integrity.settled = index;
        self.integrity.reports.retain(|check, _| *check > index);
        if let Some(digest) = agreed {
            self.propose_own(now, Operation::Verdict { index, digest });
        }
    }

    fn judge(&mut self, now: Now, index: Index, agreed: u64) {
        if self.integrity.newest.0 == index {
            // A check whose verdict is lost is followed by another one.
            self.integrity.commands -= std::mem::take(&mut self.integrity.newest.1);
        }
        let noted = self.integrity.noted.iter().find(|noted| noted.index == index);
        let Some(DigestReport { digest: own, .. }) = noted.copied() else { return };
        if own == agreed {
            self.integrity.agreed_index = index;
            return;
        }
        tracing::error!(
            index,
            own = format!("{own:016x}"),
            agreed = format!("{agreed:016x}"),
            "the data of this server is not that of the others: check this machine's memory"
        );
        self.integrity.failures += 1;
        self.integrity.failure = Some(IntegrityFailure { index, own, agreed });
        if self.node.is_leader() {
            // No candidate for it: the shell stops serving all the same.
            let _ = self.node.transfer(now.mono_us, None);
        }
    }

    /// Proposes a command that nobody waits for. What is not taken now comes
    /// again at the next check.
    fn propose_own(&mut self, now: Now, operation: Operation<'_>) {
        self.advance_clock(now);
        let mut bytes = BytesMut::new();
        Command { clock_ms: self.clock_ms, id: None, operation }.encode(&mut bytes);
        if let Err(error) = self.node.propose(now.mono_us, Payload(bytes.freeze())) {
            tracing::debug!(?error, "integrity entry not proposed");
        }
    }
}
