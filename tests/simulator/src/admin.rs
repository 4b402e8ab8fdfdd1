//! The part that load balancers and operators have: fresh hosts are admitted,
//! lost ones are removed. A simple model; it only asks the leader.

use std::sync::Arc;

use raft::{Change, Membership, NodeId};

use crate::host::Input;
use crate::queue::Micros;
use crate::world::{Event, World};

/// Beyond the end of any run.
const FOR_EVER: Micros = Micros::MAX / 4;

/// What is to be done about the membership.
#[derive(Default)]
pub(crate) struct Admin {
    /// To be removed, and how long they run on after that, unaware.
    leaving: Vec<(NodeId, Micros)>,
    /// Removed; the host becomes a fresh one then.
    retired: Vec<(NodeId, Micros)>,
}

impl World {
    /// Looks at the membership and asks for one change at the most.
    pub(crate) fn administer(&mut self) {
        self.queue.push(self.now + 2 * self.plan.heartbeat, Event::Admin);
        self.adopt_admitted();
        self.retire_removed();
        let Some(leader) = self.leader() else { return };
        if let Some(change) = self.wanted_change(leader) {
            self.out.watch.trace.note(|| format!("h{leader} is asked for {change:?}"));
            self.give(leader, Input::Change(change));
        }
    }

    /// Fresh hosts that the committed membership names start as members. An
    /// id that is not committed yet could still be given to somebody else.
    fn adopt_admitted(&mut self) {
        for host in 0..self.hosts.len() {
            if self.hosts[host].disk.id.is_some() {
                continue;
            }
            let info = self.hosts[host].info();
            let Some(id) = self.member_named(&info) else { continue };
            self.out.watch.trace.note(|| format!("h{host} is {id} from now on"));
            self.homes.insert(id, host);
            self.hosts[host].disk.adopt(id, Membership::default());
            self.start(host);
        }
    }

    fn member_named(&self, info: &Arc<[u8]>) -> Option<NodeId> {
        let members = &self.out.watch.membership.1.members;
        members.iter().find(|(_, member)| member.info == *info).map(|(id, _)| *id)
    }

    /// Servers that were removed run on for a while; then their hosts start
    /// over.
    fn retire_removed(&mut self) {
        let members = &self.out.watch.membership.1.members;
        let removed: Vec<_> =
            self.admin.leaving.extract_if(.., |(id, _)| !members.contains_key(id)).collect();
        for (id, runs_on) in removed {
            self.admin.retired.push((id, self.now + runs_on));
        }
        let now = self.now;
        let due: Vec<_> = self.admin.retired.extract_if(.., |(_, at)| *at <= now).collect();
        for (id, _) in due {
            if let Some(&host) = self.homes.get(&id)
                && self.hosts[host].disk.id == Some(id)
            {
                self.wipe(host);
            }
        }
    }

    fn wanted_change(&self, leader: usize) -> Option<Change> {
        let members = &self.out.watch.membership.1.members;
        let in_force = self.hosts[leader].driver()?.node().membership();
        let gone = |id: &&NodeId| match self.homes.get(id) {
            Some(&host) => self.hosts[host].disk.id != Some(**id),
            None => !self.hosts.iter().any(|host| host.info() == members[id].info),
        };
        if let Some(id) = members.keys().find(gone) {
            return Some(Change::Remove(*id));
        }
        if let Some((id, _)) = self.admin.leaving.first() {
            return Some(Change::Remove(*id));
        }
        let fresh = self.hosts.iter().filter(|host| host.disk.id.is_none()).map(|h| h.info());
        let mut unknown =
            fresh.filter(|info| !in_force.members.values().any(|member| member.info == *info));
        unknown.next().map(|info| Change::AddLearner { info })
    }

    /// Whether a voter can be spared: every member runs, and all of them agree
    /// on a membership of at least three voters. Whoever takes away more than
    /// that takes away data, too.
    fn can_spare(&self, host: usize) -> bool {
        let membership = &self.out.watch.membership.1;
        let runs = |id: &NodeId| {
            let host = self.homes.get(id).map(|host| &self.hosts[*host]);
            let intact = |host: &&crate::host::Host| host.disk.id == Some(*id) && !host.disk.rotten;
            host.filter(intact).and_then(|host| host.driver()).is_some()
        };
        let agree = self
            .hosts
            .iter()
            .filter_map(|host| host.driver())
            .filter(|driver| membership.members.contains_key(&driver.node().id()))
            .all(|driver| driver.node().membership() == membership);
        let voter = self.hosts[host].disk.id.is_some_and(|id| membership.is_voter(id));
        voter
            && self.admin.leaving.is_empty()
            && membership.voters().count() >= 3
            && membership.members.keys().all(runs)
            && agree
    }

    /// Whether the host may lose its disk now.
    pub(crate) fn may_lose_disk(&self, host: usize) -> bool {
        self.can_spare(host)
    }

    /// The server of a host is to be removed, and runs on for a while.
    pub(crate) fn let_leave(&mut self, host: usize, runs_on: Micros) {
        if let Some(id) = self.hosts[host].disk.id
            && self.can_spare(host)
        {
            // Every third one never learns of it, and is still there at the end.
            let runs_on = if id.0 % 3 == 0 { 2 * FOR_EVER } else { runs_on };
            self.admin.leaving.push((id, runs_on));
        }
    }

    /// Whether nobody waits to be admitted or removed.
    pub(crate) fn membership_is_settled(&self) -> bool {
        let membership = &self.out.watch.membership.1;
        let members = &membership.members;
        self.admin.leaving.is_empty()
            && self.admin.retired.iter().all(|(_, at)| *at > FOR_EVER)
            && self.hosts.iter().all(|host| host.disk.id.is_some())
            && members.keys().all(|id| membership.is_voter(*id))
            && members.keys().all(|id| {
                self.homes.get(id).is_some_and(|host| self.hosts[*host].disk.id == Some(*id))
            })
    }
}
