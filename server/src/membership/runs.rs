//! The leader writes the newest run of each member into the membership, so that
//! a copy of its folder, or an older state of it, is told from it.
//!
//! Nothing waits for that. What a run has helped to commit before it was noted
//! lies before the note in the log: whoever knows the note has that, too.
//!
//! A copy or state that was taken while the noted run went on has the note itself. Who
//! leads, or has led since its process started, tells it by what its disk had at its
//! start: whoever has acknowledged something to a leader has written down that
//! leader's term before, and only a later leader takes it away again, whose term is
//! written down, too.

use std::collections::BTreeMap;

use common::control::{MemberInfo, MemberRecord, Reached, Run};
use common::ids::ServerId;
use common::runs::{is_newer, stale};
use raft::{Change, Index, NodeId, Status, Term};

use super::{Members, info_bytes};
use crate::driver::{Driver, Now};

/// The runs that peers claim to be.
#[derive(Default, Debug)]
pub(super) struct HeardRuns {
    peers: BTreeMap<NodeId, Run>,
    /// The membership, and the term it was looked at in, that has them all.
    noted_in: Option<(Term, Index)>,
    /// What peers have acknowledged to this server when it led last.
    acknowledged: BTreeMap<NodeId, Reached>,
}

impl Members {
    /// There is a link to a peer, which claims to be this run of its folder.
    pub fn heard_run(&mut self, peer: NodeId, run: Option<Run>) {
        let HeardRuns { peers, noted_in, .. } = &mut self.runs;
        if let Some(run) = run
            && peers.insert(peer, run) != Some(run)
        {
            *noted_in = None;
        }
    }

    /// How far the disk of `peer` must have come, by what it has acknowledged to this
    /// server as its leader. A process that starts with less on its disk is neither
    /// the one that has acknowledged that, nor its successor. Not to be asked of one
    /// that goes on: it started before.
    pub fn acknowledged(&self, driver: &Driver, peer: NodeId) -> Option<Reached> {
        let now = acknowledged(&driver.node().status()).find(|(id, _)| *id == peer);
        now.map(|(_, reached)| reached).max(self.runs.acknowledged.get(&peer).copied())
    }
}

/// By the peers of a leader.
fn acknowledged(status: &Status) -> impl Iterator<Item = (NodeId, Reached)> {
    let heard = status.peers.iter().filter(|peer| peer.matched > 0);
    heard.map(|peer| (peer.id, Reached { term: status.term, index: peer.matched }))
}

impl HeardRuns {
    /// The run that a peer claims to be.
    pub(super) fn heard(&self, peer: NodeId) -> Option<Run> {
        self.peers.get(&peer).copied()
    }

    /// What this leader has been acknowledged so far counts also when it does not lead
    /// any more.
    pub(super) fn remember_acknowledged(&mut self, status: &Status) {
        self.acknowledged.retain(|id, _| status.membership.members.contains_key(id));
        for (peer, reached) in acknowledged(status) {
            let known = self.acknowledged.entry(peer).or_insert(reached);
            *known = reached.max(*known);
        }
    }

    /// Proposes to note one run that is newer than what the membership says.
    /// Asked again until it has all of them.
    pub(super) fn note_newer(&mut self, driver: &mut Driver, now: Now) -> bool {
        let status = driver.node().status();
        let this = (status.term, status.membership_index);
        if self.noted_in == Some(this) {
            return false;
        }
        self.peers.retain(|id, _| status.membership.members.contains_key(id));
        self.peers.extend(driver.info().run.map(|run| (status.id, run)));
        let mut refused = false;
        for MemberRecord { id, info, .. } in driver.members() {
            let peer = NodeId(id.0);
            let heard = self.peers.get(&peer).copied();
            let Some(run) = heard.filter(|run| is_newer(*run, info.run)) else { continue };
            let info = MemberInfo { run: Some(run), ..info };
            let change = Change::Update { id: peer, info: info_bytes(&info) };
            if driver.change(now, change).is_ok() {
                tracing::info!(server = id.0, name = info.name, run = run.count, "runs anew");
                return true;
            }
            refused = true;
        }
        if !refused {
            self.noted_in = Some(this);
        }
        false
    }
}

/// How far the disk of the server itself has come, to be said by a process that
/// starts from it. `None`: it is known to have lost something, and the server votes as
/// if it had not.
pub fn reached(driver: &Driver) -> Option<Reached> {
    let status = driver.node().status();
    let reached = Reached { term: status.term, index: status.last_index };
    status.floor.is_none().then_some(reached)
}

/// Why the server itself must not go on: its own log says that its folder, with
/// these runs, is a copy, or an older state, of what has run under its id since. What
/// is not committed does not count: it may be taken back.
pub fn stale_here(driver: &Driver, runs: &[Run]) -> Option<String> {
    let (id, own) = (ServerId(driver.node().id().0), driver.info());
    let members = driver.committed_members();
    let member = members.iter().find(|member| member.id == id)?;
    let noted = Some(&member.info).filter(|noted| noted.folder == own.folder)?;
    Some(stale(noted.run, runs)?.explain(&noted.name, id))
}
