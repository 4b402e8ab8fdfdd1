//! What servers decide about who is a member: the leader's part, and what a
//! server makes of the word of a load balancer. Pure, like the driver that it
//! works on: the shell carries it out on sockets and files, the simulator on
//! virtual ones.
//!
//! A leader promotes learners that have caught up, removes voters that are
//! gone, and does what operators ask for if that is safe. Each change is an
//! entry like any other, one at a time; the core refuses what would overlap.
//! Next to nothing is remembered: whatever did not come about is found again at
//! the next look, by this leader or by the next.

use std::sync::Arc;
use std::time::Duration;

use common::control::{MemberInfo, MemberRecord, Run, ToServer, Waiting};
use common::ids::{ClusterId, ServerId};
use common::runs::stale;
use raft::{Change, NodeId, PeerStatus, Suffrage, Time};

use crate::driver::{Driver, Now};

mod operator;
mod orders;
mod planted;
mod replaced;
mod runs;
#[cfg(test)]
mod tests;

pub use orders::{hands_orders_to, not_handed_on};
use replaced::replaced;
use runs::HeardRuns;
pub use runs::{reached, stale_here};

#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
#[cfg(not(feature = "planted-bugs"))]
use planted::PlantedBug;

/// A server that was heard within this time is there.
const HEARD_LATELY: Duration = Duration::from_millis(1000);

/// A learner that is not heard is not removed before this: one that was admitted
/// only now has yet to be told.
const LEARNER_GONE_AFTER: Duration = Duration::from_secs(5);

/// A learner that this leader has never heard is not removed before this. It may
/// be reading many gigabytes under its new id, and would only be admitted once
/// more, to read them again. Meanwhile it costs a probe with each heartbeat.
const LEARNER_NEVER_HEARD_FOR: Duration = Duration::from_secs(600);

/// Longer than any process runs.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Fewest voters that a leader leaves by itself, or without force.
pub const MIN_VOTERS: usize = 2;

/// By which rules a leader looks after the membership.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// A member that was silent for so long is removed; zero: never.
    pub dead_after: Duration,
    /// A bug to bring back.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<PlantedBug>,
}

impl Rules {
    /// With this time after which a silent voter is removed.
    pub fn new(dead_after: Duration) -> Self {
        Rules {
            dead_after,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }

    fn min_voters(&self) -> usize {
        if self.has(PlantedBug::FewVoters) { 1 } else { MIN_VOTERS }
    }
}

/// Looks after the members of a cluster while this server leads it.
#[derive(Debug)]
pub struct Members {
    rules: Rules,
    runs: HeardRuns,
}

impl Members {
    /// By these rules.
    pub fn new(rules: Rules) -> Self {
        Members { rules, runs: HeardRuns::default() }
    }

    /// Looks after learners and after members that are gone; to be called
    /// several times a second.
    pub fn mind(&mut self, driver: &mut Driver, now: Now) {
        if !driver.is_leader() {
            return;
        }
        let mut status = driver.node().status();
        self.runs.remember_acknowledged(&status);
        // Those that were removed are supplied for a while.
        status.peers.retain(|peer| status.membership.members.contains_key(&peer.id));
        let voters = status.membership.voters().count();
        // Whoever is gone leaves before somebody new votes: fewer voters are needed
        // for what comes then. The core refuses any change while another one is
        // under way, and a learner that is too far behind: asked again.
        let replaced = replaced(driver.node().id(), now, &status.peers, || driver.members());
        let gone = gone(now, voters, &status.peers, &replaced, self.rules);
        if let Some((id, name)) = gone.map(|id| (id, name_of(driver, id)))
            && driver.change(now, Change::Remove(id)).is_ok()
        {
            let server = id.0;
            return match replaced.contains(&id) {
                true => {
                    tracing::warn!(server, name, "another server has its address: it is removed");
                }
                false => tracing::warn!(server, name, "was silent for too long and is removed"),
            };
        }
        if self.runs.note_newer(driver, now) {
            return;
        }
        let learners = status
            .peers
            .iter()
            .filter(|peer| peer.suffrage == Suffrage::Learner && is_there(now, peer, HEARD_LATELY));
        for id in learners.map(|peer| peer.id) {
            if driver.change(now, Change::Promote(id)).is_ok() {
                let name = name_of(driver, id);
                return tracing::info!(server = id.0, name, "has caught up and is to vote");
            }
        }
    }

    /// Admits a fresh server, or one that was removed, as a learner; idempotent
    /// by its folder, whose `runs` it claims. Its id, or why it has none yet; `None`:
    /// it is on the way, and the membership will show it.
    pub fn admit(
        &self,
        driver: &mut Driver,
        now: Now,
        info: &MemberInfo,
        runs: &[Run],
    ) -> Option<Result<ServerId, String>> {
        let members = driver.committed_members();
        if let Some(known) = members.iter().find(|member| member.info.folder == info.folder) {
            // The load balancer may not have heard of the newest run.
            if let Some(stale) = stale(known.info.run, claimed(info, runs)) {
                return Some(Err(stale.explain(&known.info.name, known.id)));
            }
            note_addresses(driver, now, info, runs);
            return Some(Ok(known.id));
        }
        // Whoever starts it again has changed their mind; it does not by itself.
        if driver.dismissed().iter().any(|record| record.was(info)) {
            let why = "an operator has removed it, and it was not started since".to_owned();
            return Some(Err(why));
        }
        // Its id is told once the change is committed: until then it may be
        // lost with this leader, and the id be given to somebody else. The core
        // may know that already, in this turn.
        if driver.members().iter().any(|member| member.info.folder == info.folder) {
            return None;
        }
        let change = Change::AddLearner { info: info_bytes(info) };
        driver.change(now, change).err().map(|error| Err(error.to_string()))
    }
}

/// The runs that a server claims which a load balancer tells of: one of an older
/// program brings only the newest.
fn claimed<'a>(info: &'a MemberInfo, runs: &'a [Run]) -> &'a [Run] {
    if runs.is_empty() { info.run.as_slice() } else { runs }
}

/// A member has come back at other addresses: the others look for it there from
/// now on, unless it has run elsewhere since. Asked again until it is so. Its run
/// is not noted by the word of a load balancer, but when it comes by a link.
fn note_addresses(driver: &mut Driver, now: Now, info: &MemberInfo, runs: &[Run]) {
    let members = driver.members();
    let is_it = |member: &&MemberRecord| member.info.folder == info.folder;
    let Some(member) = members.iter().find(is_it) else { return };
    let noted = member.info.run;
    if member.info.is_found_like(info) || stale(noted, claimed(info, runs)).is_some() {
        return;
    }
    let info = MemberInfo { run: noted, ..info.clone() };
    let change = Change::Update { id: NodeId(member.id.0), info: info_bytes(&info) };
    if driver.change(now, change).is_ok() {
        let (server, name, peer) = (member.id.0, &info.name, info.peer);
        tracing::info!(server, name, %peer, client = %info.client, "has other addresses now");
    }
}

/// The voter that has been silent for the longest time, if that is so long
/// that it is to be removed, which is at once if it is among `replaced`, whatever
/// the rules say of the silent; else such a learner.
///
/// No voter goes while the others that would be left are no majority either: the
/// change could not be committed without them, would be in force on this leader
/// all the same, and those that it removed could not help it any more when they
/// are back. A leader that has just stood still for a while hears nobody at
/// first, and knows nothing about learners either.
fn gone(
    now: Now,
    voters: usize,
    peers: &[PeerStatus],
    replaced: &[NodeId],
    rules: Rules,
) -> Option<NodeId> {
    let dead_after = match rules.dead_after {
        Duration::ZERO => NEVER,
        dead_after => dead_after,
    };
    let lately = HEARD_LATELY.min(dead_after);
    let votes = |peer: &&PeerStatus| peer.suffrage == Suffrage::Voter;
    // And the leader itself.
    let there = 1 + peers.iter().filter(votes).filter(|peer| is_there(now, peer, lately)).count();
    let longest = |voter: bool| {
        let within = |peer: &PeerStatus| match voter {
            _ if replaced.contains(&peer.id) => lately,
            true => dead_after,
            false if peer.matched == 0 => dead_after.max(LEARNER_NEVER_HEARD_FOR),
            false => dead_after.max(LEARNER_GONE_AFTER),
        };
        let silent =
            |peer: &&PeerStatus| votes(peer) == voter && !is_heard(now, peer, within(peer));
        peers.iter().filter(silent).min_by_key(|peer| peer.last_contact).map(|peer| peer.id)
    };
    let voter = longest(true).filter(|_| voters > rules.min_voters() && there > (voters - 1) / 2);
    voter.or_else(|| longest(false).filter(|_| there > voters / 2))
}

/// The `info` of a Raft member.
pub fn info_bytes(info: &MemberInfo) -> Arc<[u8]> {
    serde_json::to_vec(info).unwrap_or_default().into()
}

/// What [`info_bytes`] has written.
pub fn info_of(bytes: &[u8]) -> Option<MemberInfo> {
    serde_json::from_slice(bytes).ok()
}

/// A place in a cluster, as a load balancer names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// In this cluster...
    pub cluster: ClusterId,
    /// ...the server has this id.
    pub id: ServerId,
    /// The first membership; empty for a server that joins.
    pub voters: Vec<MemberRecord>,
    /// Campaign at once.
    pub campaign: bool,
}

/// What a member does about a place that it is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placed {
    /// The cluster has removed it and admitted its folder once more: it begins
    /// anew under this id, with all its data; what it lacks the leader sends.
    Rejoins(ServerId),
    /// Its own place, and nobody has led there yet: it campaigns.
    Campaigns,
    /// Its own place.
    Stays,
    /// The place of somebody else: it has its own.
    Refuses,
}

/// What the member of `own` does about `place`. Ids only go up, so that a
/// message that was late changes nothing; a leader knows better.
pub fn placed(driver: &Driver, own: ClusterId, place: &Place) -> Placed {
    let Place { cluster, id, ref voters, campaign } = *place;
    let own_id = ServerId(driver.node().id().0);
    if cluster == own && voters.is_empty() && id > own_id && !driver.is_leader() {
        Placed::Rejoins(id)
    } else if (cluster, id) != (own, own_id) {
        Placed::Refuses
    } else if campaign && driver.node().term() == 0 {
        Placed::Campaigns
    } else {
        Placed::Stays
    }
}

/// Whether a member with these load balancers ends because one of them, of this
/// cluster, refuses it. Another cluster's does not know who belongs to this one: it
/// is not listened to while there is a leader, or somebody else to ask.
pub fn ends_refused(driver: &Driver, own: ClusterId, by: Option<ClusterId>, lbs: usize) -> bool {
    by.is_none_or(|by| by == own) || (driver.node().leader().is_none() && lbs <= 1)
}

/// What a server that is no member yet makes of the word of a load balancer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// It is registered.
    Registered {
        /// The load balancer's name.
        lb: String,
        /// The load balancer's cluster: the other load balancers are told, so
        /// that none of them founds a second one.
        cluster: Option<ClusterId>,
        /// What it waits for.
        waiting_for: Option<Waiting>,
    },
    /// It stops with this reason.
    Stops(String),
    /// The same, since an operator has removed it: its run was noted.
    Dismissed(String),
    /// It becomes a member.
    Joins(Place),
    /// That was not for it.
    Nothing,
}

/// What the server `own`, which is no member yet, makes of `message`.
pub fn heard_fresh(own: &MemberInfo, message: ToServer) -> Heard {
    match message {
        ToServer::Registered { lb, cluster, waiting_for } => {
            Heard::Registered { lb, cluster, waiting_for }
        }
        ToServer::Refused { why, dismissed, .. } => {
            let why = format!("refused this server: {why}");
            if dismissed { Heard::Dismissed(why) } else { Heard::Stops(why) }
        }
        ToServer::Adopt { cluster, id, voters, campaign } => {
            match voters.iter().find(|voter| voter.id == id) {
                Some(voter) if voter.info.folder != own.folder => Heard::Stops(format!(
                    "takes this server for folder {}, but it is {}: nothing was changed",
                    voter.info.folder, own.folder
                )),
                _ => Heard::Joins(Place { cluster, id, voters, campaign }),
            }
        }
        _ => Heard::Nothing,
    }
}

fn name_of(driver: &Driver, id: NodeId) -> String {
    driver.member_info(id).map_or_else(String::new, |info| info.name)
}

fn is_heard(now: Now, peer: &PeerStatus, within: Duration) -> bool {
    now.mono_us.saturating_sub(peer.last_contact) <= within.as_micros() as Time
}

/// A peer that was heard in this leadership, and not long ago. A new leader
/// takes all of them for heard at its election.
fn is_there(now: Now, peer: &PeerStatus, within: Duration) -> bool {
    peer.matched > 0 && is_heard(now, peer, within)
}
