//! Who is a member, as seen from outside: hosts are taken into the cluster,
//! start over, leave it, and come back; and what may be done to them so that the
//! cluster is certain to recover.

use common::ids::{ClusterId, ServerId};
use raft::{Membership, NodeId};
use server::membership::{self, Heard, Place};

use crate::control::is_removal;
use crate::faults::Fault;
use crate::host::Host;
use crate::network::Cut;
use crate::network::Lane;
use crate::operator::{Afterwards, Wish};
use crate::oracle::Violation;
use crate::process::Input;
use crate::queue::Micros;
use crate::rng::Rng;
use crate::world::{Event, World};

/// Longer than any run.
const FOR_EVER: Micros = Micros::MAX / 4;

/// A server that a load balancer refuses ends, and is started again so soon.
const RESTART: Micros = 500_000;

/// An operator gives up after so long.
const LEAVES_WITHIN: Micros = 8_000_000;

/// Of those that are to leave, so many in a thousand hang then, and go on later.
const HANGS: u64 = 350;

/// A member that is started anew is away for so long.
const STARTS_ANEW: Micros = 50_000;

/// A member that its leader has not heard for so long may be removed before long.
const SILENT_FOR: Micros = 500_000;

impl World {
    /// A load balancer says something to a server that is no member yet.
    pub(crate) fn fresh_hears(
        &mut self,
        host: usize,
        lb: usize,
        message: common::control::ToServer,
    ) {
        let heard = membership::heard_fresh(self.hosts[host].member_info(), message);
        if matches!(heard, Heard::Dismissed(_)) {
            self.hosts[host].disk.runs.confirm_last();
        }
        match heard {
            Heard::Registered { cluster, .. } => {
                let at = &mut self.hosts[host];
                let is_first = at.heard.insert(lb);
                let is_news = cluster.is_some() && at.heard_of != cluster;
                if is_news {
                    at.heard_of = cluster;
                }
                if is_first || is_news {
                    self.report_change(host);
                }
            }
            Heard::Stops(why) | Heard::Dismissed(why) => {
                self.out.watch.trace.note(|| format!("h{host} ends: lb-{} {why}", lb + 1));
                self.crash(host, RESTART);
            }
            // Before it has written that down.
            Heard::Joins(_) if self.lb_forms_cluster() && self.disk_rng.chance(50) => {
                self.out.watch.trace.note(|| format!("h{host} dies when it is to join"));
                self.crash(host, RESTART);
            }
            Heard::Joins(place) => self.join(host, lb, place),
            Heard::Nothing => {}
        }
    }

    fn join(&mut self, host: usize, lb: usize, place: Place) {
        let Place { cluster, id, ref voters, campaign } = place;
        self.out.watch.trace.note(|| format!("h{host} is {id} from now on"));
        let first = Membership::of_voters(
            voters.iter().map(|voter| (NodeId(voter.id.0), membership::info_bytes(&voter.info))),
        );
        self.adopt(host, cluster, NodeId(id.0), first);
        self.start(host);
        if campaign {
            let Place { cluster, id, voters, campaign } = place;
            let message = common::control::ToServer::Adopt { cluster, id, voters, campaign };
            self.give(host, Input::FromLb { lb, message });
        }
    }

    /// The folder of a host is that of a server from now on.
    pub(crate) fn adopt(&mut self, host: usize, cluster: ClusterId, id: NodeId, first: Membership) {
        let other = self.hosts.iter().find_map(|host| host.disk.cluster.filter(|c| *c != cluster));
        if let Some(other) = other {
            let what = format!("h{host} is in cluster {cluster}, others are in {other}");
            self.out.watch.fail(Violation::new("one cluster", what));
        }
        self.move_in(host, id);
        self.out.watch.founded(&first);
        self.hosts[host].disk.adopt(cluster, id, first);
    }

    fn move_in(&mut self, host: usize, id: NodeId) {
        if let Some(home) = self.homes.insert(id, host).filter(|home| *home != host) {
            let what = format!("{id} is on h{home} and on h{host}");
            self.out.watch.fail(Violation::new("an id has one home", what));
        }
    }

    /// A server that was removed comes back under the id that the cluster has
    /// given its folder, with all that it has.
    pub(crate) fn rejoin(&mut self, host: usize, id: ServerId) {
        self.out.watch.trace.note(|| format!("h{host} comes back as {id}"));
        let Some(life) = self.stop_process(host) else { return };
        self.move_in(host, NodeId(id.0));
        self.hosts[host].disk.id = Some(NodeId(id.0));
        let at = self.now + self.disk_rng.between(500, 20_000);
        self.queue.push(at, Event::Start { host, life });
    }

    /// The host of a server that was removed starts over, unless it is back
    /// under another id by now.
    pub(crate) fn start_over(&mut self, id: NodeId) {
        self.operators.starting_over -= 1;
        if let Some(&host) = self.homes.get(&id)
            && self.hosts[host].disk.id == Some(id)
            && !self.is_member(id)
        {
            self.wipe(host);
        }
    }

    pub(crate) fn is_member(&self, id: NodeId) -> bool {
        self.out.watch.membership.1.members.contains_key(&id)
    }

    /// Members whose folder is lost for good: somebody has to say so, if the
    /// servers do not find out by themselves.
    pub(crate) fn forget_lost(&mut self) {
        if self.plan.dead_after > 0 && !self.healed {
            return;
        }
        let members = self.out.watch.membership.1.members.iter();
        // One that reaches no load balancer will not hear of another id, either.
        let lives = |id: NodeId, host: &Host| !host.unlisted || host.disk.id == Some(id);
        let lost = members.filter(|(id, member)| {
            let folder = membership::info_of(&member.info).map(|info| info.folder);
            let is_there = |host: &Host| folder == Some(host.member_info().folder);
            !self.hosts.iter().any(|host| is_there(host) && lives(**id, host))
        });
        let lost: Vec<NodeId> = lost.map(|(id, _)| *id).collect();
        for id in lost {
            if !self.operators.want_gone(id) {
                self.wish(Wish::Forget(id), FOR_EVER);
            }
        }
    }

    /// Whether a voter can be spared: every member runs, is heard and has all its
    /// data, and all of them agree on a membership of at least three voters.
    /// Whoever takes away more than that takes away data, too.
    pub(crate) fn can_spare(&self, host: usize) -> bool {
        let members = &self.out.watch.membership.1.members;
        self.is_of_settled_voters(host)
            && members
                .keys()
                .all(|id| self.home_of(*id).is_some_and(|host| host.driver().is_some()))
            && self.impaired() == 0
            && !self.is_about_to_remove()
    }

    /// Whether a leader may soon remove somebody whom it does not hear. It takes a
    /// server that has lost its disk for one that is there for another second, and
    /// would count on it.
    fn is_about_to_remove(&self) -> bool {
        let hears_all = |host: &Host| {
            let now = host.clock.now(self.now).mono_us;
            host.driver().filter(|driver| driver.is_leader()).is_none_or(|leader| {
                let peers = leader.node().status().peers;
                peers.iter().all(|peer| now.saturating_sub(peer.last_contact) <= SILENT_FOR)
            })
        };
        self.plan.dead_after > 0 && !self.hosts.iter().all(hears_all)
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
            && self.operators.want_nobody_gone()
            && !self.removal_is_ordered()
            && membership.voters().count() >= 3
            && membership.members.keys().all(|id| self.home_of(*id).is_some())
            && agree
    }

    /// Whether the order of an operator who has given up waiting may yet be
    /// carried out.
    fn removal_is_ordered(&self) -> bool {
        let waits = |input: &Input| match input {
            Input::FromLb { message, .. } => is_removal(message),
            Input::Frame { lane, .. } => *lane == Lane::Control,
            _ => false,
        };
        let inboxes = self.hosts.iter().filter_map(|host| host.process.as_ref());
        self.operators.handed_on > 0
            || self.control.brings_removal()
            || inboxes.into_iter().any(|process| process.inbox.iter().any(waits))
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
        host.put_back
            || host.disk.is_damaged()
            || host.disk.floor.is_some()
            || floor.is_some()
            || rotten
    }

    /// Whether what is lost may be lost for good.
    pub(crate) fn rots_anywhere(&self) -> bool {
        self.allowed.has(Fault::RotAnywhere)
    }

    /// The server of a host is to be removed. It runs on, or is away when that
    /// happens, and comes back with all that it had, or with nothing.
    pub(crate) fn let_leave(&mut self, host: usize, length: Micros, rng: &mut Rng) {
        let Some(id) = self.hosts[host].disk.id else { return };
        let (stray, starts_over, direct) = (rng.chance(500), rng.chance(500), rng.chance(300));
        let way = rng.below(4);
        if !self.can_spare(host) {
            // Of two voters, for example: that has to be refused. Not while a disk
            // is lost: for a second its server counts as there.
            let members = &self.out.watch.membership.1.members;
            if self.impaired() == 0 && members.keys().all(|id| self.home_of(*id).is_some()) {
                self.wish(Wish::Leave(id, Afterwards::Stays), length.min(LEAVES_WITHIN));
            }
            return;
        }
        self.out.watch.trace.note(|| format!("h{host} is to leave"));
        if self.leader() == Some(host) && direct {
            // The core can do what the server refuses.
            return self.give(host, Input::Change(raft::Change::Remove(id)));
        }
        if rng.chance(HANGS) {
            self.pause(host, LEAVES_WITHIN);
            let afterwards = Afterwards::GoesOn(rng.between(800_000, 3_000_000));
            return self.wish(Wish::Leave(id, afterwards), LEAVES_WITHIN);
        }
        match way {
            0 => self.crash(host, 2 * length),
            1 => {
                let others: Vec<usize> = (0..self.hosts.len()).filter(|o| *o != host).collect();
                self.cut(Cut::between(&[host], &others, true), 2 * length);
            }
            2 => self.pause(host, 2 * length),
            _ => {}
        }
        let afterwards = match starts_over {
            true => Afterwards::StartsOver(length),
            false => Afterwards::Stays,
        };
        if stray {
            // It reaches no load balancer any more: nobody stops it, and it
            // cannot come back.
            self.lose_links_of(host);
            self.hosts[host].unlisted = true;
        }
        self.wish(Wish::Leave(id, afterwards), LEAVES_WITHIN);
    }

    /// Whoever was removed while it hung goes on. Before that a member is started
    /// anew, of which the leader takes note: what the membership has in mind of the
    /// removal has to last.
    pub(crate) fn let_go_on(&mut self, id: NodeId, after: Micros) {
        let Some(&host) = self.homes.get(&id).filter(|_| !self.healed) else { return };
        self.steady.begin_anew(self.now);
        let leader = self.leader();
        let is_member = |other: &usize| {
            let at = &self.hosts[*other];
            at.driver().is_some() && at.disk.id.is_some_and(|id| self.is_member(id))
        };
        let others = (0..self.hosts.len()).filter(|other| *other != host);
        if let Some(other) = others.filter(is_member).find(|other| Some(*other) != leader) {
            self.crash(other, STARTS_ANEW);
        }
        let life = self.hosts[host].life;
        self.queue.push(self.now + after, Event::Resume { host, life });
    }

    /// Servers that were removed and run nevertheless.
    pub(crate) fn strays(&self) -> impl Iterator<Item = usize> + '_ {
        let members = &self.out.watch.membership.1.members;
        let hosts = self.hosts.iter().filter(|host| host.process.is_some());
        let stray = |id: &NodeId| !members.contains_key(id);
        hosts.filter(move |host| host.disk.id.is_some_and(|id| stray(&id))).map(|host| host.number)
    }

    /// Whether nobody waits to be admitted or removed.
    pub(crate) fn membership_is_settled(&self) -> bool {
        let membership = &self.out.watch.membership.1;
        let members = &membership.members;
        self.lbs.iter().all(|lb| lb.is_up())
            && self.operators.want_nobody_gone()
            && self.hosts.iter().all(|host| {
                host.unlisted || host.disk.id.is_some_and(|id| members.contains_key(&id))
            })
            && members.keys().all(|id| membership.is_voter(*id))
            && members.keys().all(|id| {
                self.homes.get(id).is_some_and(|host| self.hosts[*host].disk.id == Some(*id))
            })
    }
}
