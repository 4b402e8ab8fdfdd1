//! Carries out what [`membership`] decides.

use common::control::ToServer;
use common::ids::ServerId;
use raft::NodeId;

use super::member::Member;
use super::{Shell, hello_of, runs_of};
use crate::config::Progress;
use crate::driver::Now;
use crate::membership::{self, Place, Placed, stale_here};

impl Member {
    /// Looks after learners and after voters that are gone; called several
    /// times a second.
    pub(super) fn mind_membership(&mut self, now: Now) {
        if self.stop_by.is_none() {
            self.members.mind(&mut self.driver, now);
        }
    }

    /// Takes up the membership in force, also when it is committed, and ends if that
    /// says that this folder is not the one that has run under this id last.
    pub(super) fn take_up_members(&mut self, now: Now) {
        let next_id = self.driver.node().membership().next_id;
        let supplied = self.supplied();
        self.transport.set_noted(&self.driver.committed_members());
        for peer in self.transport.set_members(&self.driver.members(), next_id, &supplied) {
            self.driver.link_lost(now, peer);
        }
        if let Some(why) = stale_here(&self.driver, &runs_of(&self.shell.folder)) {
            self.failed = Some(anyhow::anyhow!("the log says: {why}"));
        }
    }

    /// Whom the core supplies, those that were removed only now among them.
    fn supplied(&self) -> Vec<NodeId> {
        self.driver.node().status().peers.iter().map(|peer| peer.id).collect()
    }

    /// Whoever was removed has learnt of it, or had the time.
    pub(super) fn let_go_of_removed(&mut self) {
        if self.transport.keeps_removed() {
            let supplied = self.supplied();
            self.transport.let_go(&supplied);
        }
    }

    /// Notes in the folder that the cluster has taken note of this run.
    pub(super) fn confirm_run(&mut self) {
        let members = self.driver.committed_members();
        let folder = self.shell.info.folder;
        let own = members.iter().find(|member| member.info.folder == folder);
        if let Some(run) = own.and_then(|own| own.info.run) {
            self.shell.folder.confirm(run);
        }
    }

    /// A load balancer says where this server belongs.
    pub(super) fn take_place(&mut self, now: Now, lb: std::net::SocketAddr, place: &Place) {
        match membership::placed(&self.driver, self.cluster, place) {
            // Nobody can join a fixed cluster, nor come back to it.
            Placed::Rejoins(id) if self.shell.config.fixed.is_none() => self.rejoins_as = Some(id),
            Placed::Rejoins(_) | Placed::Refuses => {
                let (cluster, id) = (place.cluster, place.id);
                tracing::warn!(%lb, %cluster, %id, "adoption refused: this server has a cluster");
            }
            Placed::Campaigns => self.driver.campaign(now),
            Placed::Stays => {}
        }
    }

    /// Comes back under the id that the cluster has admitted its folder under,
    /// with all its data; what it lacks the leader sends.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) fn rejoin(mut self, id: ServerId) -> anyhow::Result<Shell> {
        let (cluster, before) = (self.cluster, self.id);
        self.leave_routed();
        self.transport.close();
        let mut shell = self.close();
        tracing::info!(before = before.0, %id, "was removed, and comes back as a learner");
        (shell.progress)(Progress::Rejoins { before: ServerId(before.0), id });
        shell.folder.adopt(cluster, id)?;
        shell.endpoint.set_hello(hello_of(&shell.folder, &shell.info));
        shell.inbox.keep_for_another_member();
        Ok(shell)
    }
}

impl Place {
    /// The message that names this place.
    pub(super) fn to_message(&self) -> ToServer {
        let Place { cluster, id, ref voters, campaign } = *self;
        ToServer::Adopt { cluster, id, voters: voters.clone(), campaign }
    }
}
