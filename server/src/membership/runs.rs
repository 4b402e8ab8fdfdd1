//! The leader writes the newest run of each member into the membership, so that
//! a copy of its folder, or an older state of it, is told from it.
//!
//! Nothing waits for that. What a run has helped to commit before it was noted
//! lies before the note in the log: whoever knows the note has that, too.

use std::collections::BTreeMap;

use common::control::{MemberInfo, MemberRecord, Run};
use common::ids::ServerId;
use common::runs::{is_newer, stale};
use raft::{Change, Index, NodeId, Term};

use super::{Members, info_bytes};
use crate::driver::{Driver, Now};

/// The runs that peers claim to be.
#[derive(Default, Debug)]
pub(super) struct HeardRuns {
    peers: BTreeMap<NodeId, Run>,
    /// The membership, and the term it was looked at in, that has them all.
    noted_in: Option<(Term, Index)>,
}

impl Members {
    /// There is a link to a peer, which claims to be this run of its folder.
    pub fn heard_run(&mut self, peer: NodeId, run: Option<Run>) {
        let HeardRuns { peers, noted_in } = &mut self.runs;
        if let Some(run) = run
            && peers.insert(peer, run) != Some(run)
        {
            *noted_in = None;
        }
    }
}

impl HeardRuns {
    /// The run that a peer claims to be.
    pub(super) fn heard(&self, peer: NodeId) -> Option<Run> {
        self.peers.get(&peer).copied()
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

/// Why the server itself must not go on: its own log says that its folder, with
/// these runs, is a copy, or an older state, of what has run under its id since.
pub fn stale_here(driver: &Driver, runs: &[Run]) -> Option<String> {
    let (id, own) = (driver.node().id(), driver.info());
    let noted = driver.member_info(id).filter(|noted| noted.folder == own.folder)?;
    Some(stale(noted.run, runs)?.explain(&noted.name, ServerId(id.0)))
}
