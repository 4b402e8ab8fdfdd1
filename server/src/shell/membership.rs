//! What a leader does about the membership: learners that have caught up are
//! promoted, voters that are gone are removed, operators get what they ask
//! for if that is safe.
//!
//! Each change is an entry like any other, one at a time; the core refuses
//! what would overlap. Nothing here is remembered: whatever did not come about
//! is found again at the next look, by this leader or by the next.

use std::time::Duration;

use common::control::{MemberRecord, Operation, Outcome};
use common::ids::ServerId;
use raft::{Change, NodeId, PeerStatus, Status, Suffrage, Time};

use super::member::Member;
use super::{Shell, hello_of};
use crate::config::Progress;
use crate::driver::Now;

/// A server that was heard within this time is there.
const HEARD_LATELY: Duration = Duration::from_millis(1000);

/// Fewest voters that a leader leaves by itself, or without force.
const MIN_VOTERS: usize = 2;

impl Member {
    /// Looks after learners and after voters that are gone; called several
    /// times a second.
    pub(super) fn mind_membership(&mut self, now: Now) {
        if !self.driver.is_leader() || self.stop_by.is_some() {
            return;
        }
        let status = self.driver.node().status();
        // The core refuses a learner that is too far behind, and any change
        // while another one is under way: asked again.
        let learners = status.peers.iter().filter(|peer| {
            let answers = peer.matched > 0 && is_heard(now, peer, HEARD_LATELY);
            peer.suffrage == Suffrage::Learner && answers
        });
        for id in learners.map(|peer| peer.id) {
            if self.driver.change(now, Change::Promote(id)).is_ok() {
                let name = self.name_of(id);
                return tracing::info!(server = id.0, name, "has caught up and is to vote");
            }
        }
        if let Some(id) = self.gone(now, &status)
            && self.driver.change(now, Change::Remove(id)).is_ok()
        {
            let name = self.name_of(id);
            tracing::warn!(server = id.0, name, "was silent for too long and is removed");
        }
    }

    /// A voter that has not been heard for so long that it is to be removed.
    fn gone(&self, now: Now, status: &Status) -> Option<NodeId> {
        let dead_after = self.shell.config.dead_after;
        if dead_after.is_zero() || status.membership.voters().count() <= MIN_VOTERS {
            return None;
        }
        let gone = |peer: &&PeerStatus| {
            peer.suffrage == Suffrage::Voter && !is_heard(now, peer, dead_after)
        };
        status.peers.iter().find(gone).map(|peer| peer.id)
    }

    /// Does what an operator asks for, or says why not.
    pub(super) fn operate(&mut self, now: Now, operation: &Operation) -> Outcome {
        if !self.driver.is_leader() {
            return Outcome::Pending(format!("{} does not lead", self.shell.info.name));
        }
        match operation {
            Operation::Remove { server, force } => self.remove(now, server, *force),
            Operation::Transfer { to } => self.hand_over(now, to.as_deref()),
        }
    }

    fn remove(&mut self, now: Now, server: &str, force: bool) -> Outcome {
        let Some(record) = self.find(server) else { return self.unknown(server) };
        let (id, name) = (NodeId(record.id.0), record.info.name);
        if id == self.id {
            return Outcome::Refused(format!(
                "{name} leads: hand over first with `store transfer`, then remove it"
            ));
        }
        let status = self.driver.node().status();
        if let Some(why) = few_voters(now, &status, id).filter(|_| !force) {
            return Outcome::Refused(format!(
                "without {name} {why}; --force removes it all the same"
            ));
        }
        match self.driver.change(now, Change::Remove(id)) {
            Ok(()) => {
                tracing::info!(server = id.0, name, force, "removed at an operator's request");
                Outcome::Pending(format!("the removal of {name} is being committed"))
            }
            Err(error @ raft::ChangeError::LastVoter(_)) => Outcome::Refused(error.to_string()),
            Err(error) => Outcome::Pending(error.to_string()),
        }
    }

    fn hand_over(&mut self, now: Now, to: Option<&str>) -> Outcome {
        let status = self.driver.node().status();
        let there = |peer: &&PeerStatus| is_heard(now, peer, HEARD_LATELY);
        let (to, name) = match to {
            Some(server) => match self.find(server) {
                Some(record) => (NodeId(record.id.0), record.info.name),
                None => return self.unknown(server),
            },
            None => {
                let voters = status.peers.iter().filter(|peer| peer.suffrage == Suffrage::Voter);
                match voters.filter(there).max_by_key(|peer| peer.matched) {
                    Some(peer) => (peer.id, self.name_of(peer.id)),
                    None => return Outcome::Refused("no other voter was heard lately".to_owned()),
                }
            }
        };
        if to == self.id {
            return Outcome::Done(format!("{name} leads"));
        }
        if !status.peers.iter().filter(there).any(|peer| peer.id == to) {
            return Outcome::Refused(format!(
                "{name} was not heard lately: start it first, or name another server"
            ));
        }
        match self.driver.transfer(now, Some(to)) {
            Ok(()) => Outcome::HandsOver(name),
            Err(error @ raft::TransferError::InProgress { .. }) => {
                Outcome::Pending(error.to_string())
            }
            Err(error) => Outcome::Refused(error.to_string()),
        }
    }

    /// Whether a load balancer may give this server the id `id` instead of its
    /// own: ids only go up, so that a message that was late changes nothing.
    pub(super) fn is_outside_as(&self, id: ServerId) -> bool {
        id.0 > self.id.0 && !self.driver.is_leader() && self.shell.config.fixed.is_none()
    }

    /// Comes back under the id that the cluster has admitted its folder under,
    /// with all its data; what it lacks the leader sends.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) fn rejoin(self, id: ServerId) -> anyhow::Result<Shell> {
        let (cluster, before) = (self.cluster, self.id);
        self.transport.close();
        let mut shell = self.close();
        tracing::info!(before = before.0, %id, "was removed, and comes back as a learner");
        (shell.progress)(Progress::Rejoins { before: ServerId(before.0), id });
        shell.folder.adopt(cluster, id)?;
        shell.endpoint.set_hello(hello_of(&shell.folder, &shell.info));
        shell.inbox.keep_for_another_member();
        Ok(shell)
    }

    /// A member by its name or its id.
    fn find(&self, server: &str) -> Option<MemberRecord> {
        let members = self.driver.members();
        let id = server.parse().ok();
        let named = members.iter().find(|member| member.info.name == server);
        named.or_else(|| members.iter().find(|member| Some(member.id.0) == id)).cloned()
    }

    fn unknown(&self, server: &str) -> Outcome {
        let members = self.driver.members();
        let names: Vec<_> = members.iter().map(|member| &*member.info.name).collect();
        Outcome::Unknown(format!(
            "no member is called {server}, or has that id: there are {}",
            names.join(", ")
        ))
    }

    fn name_of(&self, id: NodeId) -> String {
        self.driver.member_info(id).map_or_else(String::new, |info| info.name)
    }
}

fn is_heard(now: Now, peer: &PeerStatus, within: Duration) -> bool {
    now.mono_us.saturating_sub(peer.last_contact) <= within.as_micros() as Time
}

/// What speaks against going on without `leaving`.
fn few_voters(now: Now, status: &Status, leaving: NodeId) -> Option<String> {
    if !status.membership.is_voter(leaving) {
        return None;
    }
    let left = status.membership.voters().filter(|id| *id != leaving).count();
    if left < MIN_VOTERS {
        return Some(format!("only {left} server would vote: the next one lost would be the end"));
    }
    let there = |peer: &&PeerStatus| {
        let votes = peer.suffrage == Suffrage::Voter && peer.id != leaving;
        votes && is_heard(now, peer, HEARD_LATELY)
    };
    // And the leader itself.
    let there = status.peers.iter().filter(there).count() + 1;
    (there <= left / 2).then(|| {
        format!("{there} of the {left} remaining voters would be there, which is no majority")
    })
}
