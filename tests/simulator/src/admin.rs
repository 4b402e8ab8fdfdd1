//! The load balancer's part, and the operator's who gives it orders: a cluster
//! is formed, fresh hosts are admitted, lost ones are removed.
//!
//! A simple model, which keeps to what the real one can know: what the hosts
//! report, and what it remembers of that. Everything that it sends may get
//! lost, with it or with whoever is to have it; so it asks again until the
//! reports show the effect.

use std::collections::BTreeMap;
use std::sync::Arc;

use raft::{Change, Index, Membership, NodeId, Suffrage, Term};

use crate::faults::Fault;
use crate::host::{Host, Input};
use crate::network::Cut;
use crate::oracle::Violation;
use crate::queue::Micros;
use crate::rng::Rng;
use crate::world::{Event, World};

/// Beyond the end of any run.
const FOR_EVER: Micros = Micros::MAX / 4;

/// Without memory a cluster is formed only when no member has reported for
/// so long. Longer than faults last: a member that is silent for all that time
/// is outside of what the real one promises, too.
const BOOTSTRAP_WAIT: Micros = 15_000_000;

/// What is to be done about the membership.
#[derive(Default)]
pub(crate) struct Admin {
    /// The load balancer is gone until then.
    lost_until: Option<Micros>,
    /// Counts its lives: what an earlier one has sent may be lost.
    life: u32,
    memory: Memory,
    /// No cluster is formed before.
    forms_after: Micros,
    /// Removed; the host becomes a fresh one then. The operator's own list.
    retired: Vec<(NodeId, Micros)>,
}

/// What the load balancer may forget.
#[derive(Default)]
struct Memory {
    /// The cluster, if it knows one.
    cluster: Option<u32>,
    /// The members of the cluster that it has formed.
    first: Option<Membership>,
    /// The newest committed membership of any report, and how new that is.
    newest: (Index, Membership),
    /// The last report of each host.
    hosts: BTreeMap<usize, Known>,
    /// To be removed, and how long they run on after that, unaware.
    leaving: Vec<(NodeId, Micros)>,
}

/// What a host has said of itself.
struct Known {
    info: Arc<[u8]>,
    id: Option<NodeId>,
}

/// What the load balancer sends.
pub(crate) enum Order {
    /// The fresh folder that calls itself `info` is `id` in `cluster`.
    Adopt {
        info: Arc<[u8]>,
        cluster: u32,
        id: NodeId,
        first: Membership,
    },
    Change(Change),
}

impl World {
    /// Looks at the reports, and asks for what they show to be needed.
    pub(crate) fn administer(&mut self) {
        self.queue.push(self.now + 2 * self.plan.heartbeat, Event::Admin);
        self.retire();
        if let Some(until) = self.admin.lost_until {
            if self.now < until && !self.healed {
                return;
            }
            self.admin.lost_until = None;
            self.out.watch.trace.note(|| "the load balancer is back".to_owned());
        }
        let leader = self.collect_reports();
        self.notice_removed();
        self.form();
        self.adopt_fresh();
        if let Some(leader) = leader
            && let Some(change) = self.wanted_change()
        {
            self.out.watch.trace.note(|| format!("h{leader} is to be asked for {change:?}"));
            self.order(leader, Order::Change(change));
        }
    }

    /// The load balancer is gone for a while, and forgets everything or
    /// nothing.
    pub(crate) fn lose_lb(&mut self, length: Micros, forgets: bool) {
        let with = if forgets { "with its memory" } else { "not its memory" };
        self.out.watch.trace.note(|| format!("the load balancer is lost, {with}"));
        self.admin.lost_until = Some(self.now + length);
        self.admin.life += 1;
        if forgets {
            self.admin.memory = Memory::default();
            self.admin.forms_after = self.now + length + BOOTSTRAP_WAIT;
        }
    }

    /// What all hosts say that are awake; gives who leads by that.
    fn collect_reports(&mut self) -> Option<usize> {
        let memory = &mut self.admin.memory;
        // Who reports nothing now may be fresh no more.
        memory.hosts.retain(|_, known| known.id.is_some());
        let mut leader: Option<(Term, usize)> = None;
        for host in &self.hosts {
            let Some(id) = host.disk.id else {
                memory.hosts.insert(host.number, Known { info: host.info(), id: None });
                continue;
            };
            let Some(driver) = host.driver().filter(|_| host.is_awake()) else { continue };
            memory.hosts.insert(host.number, Known { info: host.info(), id: Some(id) });
            memory.cluster = memory.cluster.or(host.disk.cluster);
            // As in the server's report: a change that is not committed yet
            // could still be lost, and its id be given to somebody else.
            if let Some(meta) = driver.node().snapshot_meta(driver.node().commit())
                && (meta.index >= memory.newest.0 && !meta.membership.members.is_empty())
            {
                memory.newest = (meta.index, meta.membership);
            }
            if driver.is_leader() {
                leader = leader.max(Some((driver.node().term(), host.number)));
            }
        }
        leader.map(|(_, host)| host)
    }

    /// Orders that the reports show to be carried out.
    fn notice_removed(&mut self) {
        let Memory { newest, leaving, .. } = &mut self.admin.memory;
        for (id, runs_on) in leaving.extract_if(.., |(id, _)| !newest.1.members.contains_key(id)) {
            self.admin.retired.push((id, self.now + runs_on));
        }
    }

    /// Forms a cluster once enough servers are there, all of them fresh.
    fn form(&mut self) {
        let Admin { memory, life, forms_after, .. } = &mut self.admin;
        let fresh = memory.hosts.iter().filter(|(_, known)| known.id.is_none());
        let chosen: Vec<_> = fresh.take(self.plan.servers).collect();
        let enough = chosen.len() == self.plan.servers;
        if memory.cluster.is_some() || !enough || self.now < *forms_after {
            return;
        }
        let named = chosen.iter().map(|(host, known)| {
            let id = NodeId(**host as u64 + 1);
            (id, Arc::clone(&known.info))
        });
        let first = Membership::of_voters(named);
        memory.cluster = Some(*life);
        memory.first = Some(first);
        self.out.watch.trace.note(|| "the load balancer forms a cluster".to_owned());
    }

    /// Fresh hosts that the committed membership names are told so.
    fn adopt_fresh(&mut self) {
        let memory = &self.admin.memory;
        let Some(cluster) = memory.cluster else { return };
        let reported = Some(&memory.newest.1).filter(|newest| !newest.members.is_empty());
        let Some(membership) = reported.or(memory.first.as_ref()) else { return };
        let mut orders = Vec::new();
        for (host, known) in memory.hosts.iter().filter(|(_, known)| known.id.is_none()) {
            let mut members = membership.members.iter();
            let Some((id, member)) = members.find(|(_, member)| member.info == known.info) else {
                continue;
            };
            // A fresh voter is one of the first, whose adoption got lost:
            // whoever joins later has to catch up before it votes.
            let voters = membership.members.iter().filter(|(id, _)| membership.is_voter(**id));
            let first = match (&memory.first, member.suffrage) {
                (Some(first), _) if first.members.contains_key(id) => first.clone(),
                (_, Suffrage::Voter) => {
                    Membership::of_voters(voters.map(|(id, voter)| (*id, Arc::clone(&voter.info))))
                }
                (_, Suffrage::Learner) => Membership::default(),
            };
            let info = Arc::clone(&known.info);
            orders.push((*host, Order::Adopt { info, cluster, id: *id, first }));
        }
        for (host, order) in orders {
            self.order(host, order);
        }
    }

    fn wanted_change(&self) -> Option<Change> {
        let memory = &self.admin.memory;
        let members = &memory.newest.1.members;
        // A folder is known to be lost when its host has another one.
        let gone = |id: &&NodeId| {
            let name = &members[*id].info;
            let host = self.hosts.iter().find(|host| host.has_had(name));
            let known = host.and_then(|host| memory.hosts.get(&host.number));
            known.is_some_and(|known| known.info != *name)
        };
        if let Some(id) = members.keys().find(gone) {
            return Some(Change::Remove(*id));
        }
        if let Some((id, _)) = memory.leaving.first() {
            return Some(Change::Remove(*id));
        }
        let mut fresh = memory.hosts.values().filter(|known| known.id.is_none());
        let unknown = fresh.find(|known| !members.values().any(|m| m.info == known.info))?;
        Some(Change::AddLearner { info: Arc::clone(&unknown.info) })
    }

    /// Sends an order on its way.
    fn order(&mut self, host: usize, order: Order) {
        let at = self.now + self.network.client_latency();
        let life = self.admin.life;
        self.queue.push(at, Event::Order { host, life, order: Box::new(order) });
    }

    /// An order arrives, unless it was lost together with its sender.
    pub(crate) fn ordered(&mut self, host: usize, life: u32, order: Order) {
        if life != self.admin.life && self.disk_rng.chance(700) {
            self.out.watch.trace.note(|| format!("an order for h{host} is lost"));
            return;
        }
        match order {
            Order::Adopt { info, cluster, id, first } => {
                // As in the server: only a fresh one can be adopted.
                let at = &self.hosts[host];
                if at.disk.id.is_some() || at.info() != info {
                    return;
                }
                self.out.watch.trace.note(|| format!("h{host} is {id} from now on"));
                self.adopt(host, cluster, id, first);
                self.start(host);
            }
            Order::Change(Change::AddLearner { info }) => {
                // As in the server: idempotent by the folder.
                let Some(driver) = self.hosts[host].driver() else { return };
                let node = driver.node();
                let knows = |member: &raft::Member| member.info == info;
                let meta = node.snapshot_meta(node.commit());
                if !meta.is_some_and(|meta| meta.membership.members.values().any(knows)) {
                    self.give(host, Input::Change(Change::AddLearner { info }));
                }
            }
            Order::Change(change) => self.give(host, Input::Change(change)),
        }
    }

    /// The folder of a host is that of a server from now on.
    pub(crate) fn adopt(&mut self, host: usize, cluster: u32, id: NodeId, first: Membership) {
        let other = self.hosts.iter().find_map(|host| host.disk.cluster.filter(|c| *c != cluster));
        if let Some(other) = other {
            let what = format!("h{host} is in cluster {cluster}, others are in {other}");
            self.out.watch.fail(Violation::new("one cluster", what));
        }
        if let Some(home) = self.homes.insert(id, host).filter(|home| *home != host) {
            let what = format!("{id} is on h{home} and on h{host}");
            self.out.watch.fail(Violation::new("an id has one home", what));
        }
        self.hosts[host].disk.adopt(cluster, id, first);
    }

    /// Servers that were removed run on for a while; then their hosts start
    /// over.
    fn retire(&mut self) {
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

    /// Whether a voter can be spared: every member runs and has all its data,
    /// and all of them agree on a membership of at least three voters. Whoever
    /// takes away more than that takes away data, too.
    pub(crate) fn can_spare(&self, host: usize) -> bool {
        let members = &self.out.watch.membership.1.members;
        self.is_of_settled_voters(host)
            && members
                .keys()
                .all(|id| self.home_of(*id).is_some_and(|host| host.driver().is_some()))
            && self.impaired() == 0
    }

    /// Whether bits may rot on a host so that the cluster is certain to heal:
    /// a majority of the voters keeps all its data. Then every committed entry
    /// is with one of them, the one of them whose log is the longest has them
    /// all, and they elect it without the others. It supplies those, however
    /// little they have left; and who has to start over is replaced by them.
    /// Nobody is removed or loses a disk meanwhile.
    pub(crate) fn may_rot(&self, host: usize) -> bool {
        let voters = self.out.watch.membership.1.voters().count();
        let disk = &self.hosts[host].disk;
        let more = usize::from(!self.is_impaired(&self.hosts[host]) || disk.id.is_none());
        self.is_of_settled_voters(host) && self.impaired() + more <= (voters - 1) / 2
    }

    /// Whether a host is that of a voter, three or more vote, and nobody is
    /// about to come or go.
    fn is_of_settled_voters(&self, host: usize) -> bool {
        let membership = &self.out.watch.membership.1;
        let agree = self
            .hosts
            .iter()
            .filter_map(|host| host.driver())
            .filter(|driver| membership.members.contains_key(&driver.node().id()))
            .all(|driver| driver.node().membership() == membership);
        let voter = self.hosts[host].disk.id.is_some_and(|id| membership.is_voter(id));
        voter
            && self.admin.memory.leaving.is_empty()
            && membership.voters().count() >= 3
            && membership.members.keys().all(|id| self.home_of(*id).is_some())
            && agree
    }

    /// The host of a server, if its folder is still there.
    fn home_of(&self, id: NodeId) -> Option<&Host> {
        let host = self.homes.get(&id).map(|host| &self.hosts[*host]);
        host.filter(|host| host.disk.id == Some(id))
    }

    /// Members that cannot read all that they once had.
    fn impaired(&self) -> usize {
        let members = self.out.watch.membership.1.members.keys();
        members.filter_map(|id| self.home_of(*id)).filter(|host| self.is_impaired(host)).count()
    }

    fn is_impaired(&self, host: &Host) -> bool {
        let floor = host.driver().and_then(|driver| driver.node().floor());
        let rotten = host.process.as_ref().is_some_and(|process| process.rotten);
        host.disk.is_damaged() || host.disk.floor.is_some() || floor.is_some() || rotten
    }

    /// Whether what is lost may be lost for good.
    pub(crate) fn rots_anywhere(&self) -> bool {
        self.allowed.has(Fault::RotAnywhere)
    }

    /// The server of a host is to be removed. It runs on for a while, or is
    /// away when that happens, and comes back with all that it had.
    pub(crate) fn let_leave(&mut self, host: usize, length: Micros, rng: &mut Rng) {
        let Some(id) = self.hosts[host].disk.id else { return };
        if self.admin.lost_until.is_some() || !self.can_spare(host) {
            return;
        }
        // Every other one is never started over, and still there at the end.
        let runs_on = if rng.chance(500) { 2 * FOR_EVER } else { length };
        match rng.below(4) {
            0 => self.crash(host, 2 * length),
            1 => {
                let others: Vec<usize> = (0..self.hosts.len()).filter(|o| *o != host).collect();
                self.cut(Cut::between(&[host], &others, true), 2 * length);
            }
            2 => self.pause(host, 2 * length),
            _ => {}
        }
        self.out.watch.trace.note(|| format!("h{host} is to leave"));
        self.admin.memory.leaving.push((id, runs_on));
    }

    /// Servers that were removed and run nevertheless.
    pub(crate) fn strays(&self) -> impl Iterator<Item = usize> + '_ {
        let members = &self.out.watch.membership.1.members;
        let hosts = self.hosts.iter().filter(|host| host.process.is_some());
        let stray = |id: &NodeId| !members.contains_key(id);
        hosts.filter(move |host| host.disk.id.is_some_and(|id| stray(&id))).map(|host| host.number)
    }

    /// Whether the load balancer is what forms the cluster.
    pub(crate) fn lb_forms_cluster(&self) -> bool {
        self.allowed.has(Fault::LbLoss)
    }

    /// Whether nobody waits to be admitted or removed.
    pub(crate) fn membership_is_settled(&self) -> bool {
        let membership = &self.out.watch.membership.1;
        let members = &membership.members;
        self.admin.lost_until.is_none()
            && self.admin.memory.leaving.is_empty()
            && self.admin.retired.iter().all(|(_, at)| *at > FOR_EVER)
            && self.hosts.iter().all(|host| host.disk.id.is_some())
            && members.keys().all(|id| membership.is_voter(*id))
            && members.keys().all(|id| {
                self.homes.get(id).is_some_and(|host| self.hosts[*host].disk.id == Some(*id))
            })
    }
}
