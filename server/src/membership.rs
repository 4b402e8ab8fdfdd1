//! What servers decide about who is a member: the leader's part, and what a
//! server makes of the word of a load balancer. Pure, like the driver that it
//! works on: the shell carries it out on sockets and files, the simulator on
//! virtual ones.
//!
//! A leader promotes learners that have caught up, removes voters that are
//! gone, and does what operators ask for if that is safe. Each change is an
//! entry like any other, one at a time; the core refuses what would overlap.
//! Nothing here is remembered: whatever did not come about is found again at
//! the next look, by this leader or by the next.

use std::sync::Arc;
use std::time::Duration;

use common::control::{MemberInfo, MemberRecord, Operation, Outcome, ToServer, Waiting};
use common::ids::{ClusterId, ServerId};
use raft::{Change, NodeId, PeerStatus, Status, Suffrage, Time};

use crate::driver::{Driver, Now};

mod planted;
mod replaced;
#[cfg(test)]
mod tests;

use replaced::replaced;

#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
#[cfg(not(feature = "planted-bugs"))]
use planted::PlantedBug;

/// A server that was heard within this time is there.
const HEARD_LATELY: Duration = Duration::from_millis(1000);

/// Fewest voters that a leader leaves by itself, or without force.
pub const MIN_VOTERS: usize = 2;

/// By which rules a leader looks after the membership.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// A voter that was silent for so long is removed; zero: never.
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
}

/// Looks after learners and after voters that are gone; to be called several
/// times a second, on whoever leads.
pub fn mind(driver: &mut Driver, now: Now, rules: Rules) {
    if !driver.is_leader() {
        return;
    }
    let status = driver.node().status();
    let voters = status.membership.voters().count();
    // Whoever is gone leaves before somebody new votes: fewer voters are needed
    // for what comes then. The core refuses any change while another one is
    // under way, and a learner that is too far behind: asked again.
    let replaced = replaced(driver.node().id(), now, &status.peers, || driver.members());
    let gone = gone(now, voters, &status.peers, &replaced, rules);
    if let Some((id, name)) = gone.map(|id| (id, name_of(driver, id)))
        && driver.change(now, Change::Remove(id)).is_ok()
    {
        let server = id.0;
        return match replaced.contains(&id) {
            true => tracing::warn!(server, name, "another server has its address: it is removed"),
            false => tracing::warn!(server, name, "was silent for too long and is removed"),
        };
    }
    let learners = status.peers.iter().filter(|peer| {
        let answers = peer.matched > 0 && is_heard(now, peer, HEARD_LATELY);
        peer.suffrage == Suffrage::Learner && answers
    });
    for id in learners.map(|peer| peer.id) {
        if driver.change(now, Change::Promote(id)).is_ok() {
            let name = name_of(driver, id);
            return tracing::info!(server = id.0, name, "has caught up and is to vote");
        }
    }
}

/// The voter that has been silent for the longest time, if that is so long
/// that it is to be removed: at once if it is among `replaced`.
///
/// Not while the others that would be left are no majority either: the change
/// could not be committed without them, would be in force on this leader all the
/// same, and those that it removed could not help it any more when they are
/// back. A leader that has just been stopped for a while hears nobody at first.
fn gone(
    now: Now,
    voters: usize,
    peers: &[PeerStatus],
    replaced: &[NodeId],
    rules: Rules,
) -> Option<NodeId> {
    let min_voters = if rules.has(PlantedBug::FewVoters) { 1 } else { MIN_VOTERS };
    if rules.dead_after.is_zero() || voters <= min_voters {
        return None;
    }
    let lately = HEARD_LATELY.min(rules.dead_after);
    let votes = |peer: &&PeerStatus| peer.suffrage == Suffrage::Voter;
    let silent = |peer: &&PeerStatus| {
        let within = if replaced.contains(&peer.id) { lately } else { rules.dead_after };
        !is_heard(now, peer, within)
    };
    let gone = peers.iter().filter(votes).filter(silent).min_by_key(|peer| peer.last_contact)?;
    let there = |peer: &&PeerStatus| is_heard(now, peer, lately);
    // And the leader itself.
    let there = peers.iter().filter(votes).filter(there).count() + 1;
    (there > (voters - 1) / 2).then_some(gone.id)
}

/// Does what an operator asks a server for, or says why not.
pub fn operate(driver: &mut Driver, now: Now, operation: &Operation, rules: Rules) -> Outcome {
    if !driver.is_leader() {
        let name = driver.info().name.clone();
        return Outcome::Pending(format!("{name} does not lead"));
    }
    match operation {
        Operation::Remove { server, force } => {
            remove(driver, now, server, *force || rules.has(PlantedBug::FewVoters))
        }
        Operation::Transfer { to } => hand_over(driver, now, to.as_deref()),
    }
}

fn remove(driver: &mut Driver, now: Now, server: &str, force: bool) -> Outcome {
    let Some(record) = find(driver, server) else { return unknown(driver, server) };
    let (id, name) = (NodeId(record.id.0), record.info.name);
    if id == driver.node().id() {
        return Outcome::Refused(format!(
            "{name} leads: hand over first with `store transfer`, then remove it"
        ));
    }
    let status = driver.node().status();
    if let Some(why) = few_voters(now, &status, id).filter(|_| !force) {
        return Outcome::Refused(format!("without {name} {why}; --force removes it all the same"));
    }
    match driver.change(now, Change::Remove(id)) {
        Ok(()) => {
            tracing::info!(server = id.0, name, force, "removed at an operator's request");
            Outcome::Pending(format!("the removal of {name} is being committed"))
        }
        Err(error @ raft::ChangeError::LastVoter(_)) => Outcome::Refused(error.to_string()),
        Err(error) => Outcome::Pending(error.to_string()),
    }
}

fn hand_over(driver: &mut Driver, now: Now, to: Option<&str>) -> Outcome {
    let status = driver.node().status();
    let there = |peer: &&PeerStatus| is_heard(now, peer, HEARD_LATELY);
    let (to, name) = match to {
        Some(server) => match find(driver, server) {
            Some(record) => (NodeId(record.id.0), record.info.name),
            None => return unknown(driver, server),
        },
        None => {
            let voters = status.peers.iter().filter(|peer| peer.suffrage == Suffrage::Voter);
            match voters.filter(there).max_by_key(|peer| peer.matched) {
                Some(peer) => (peer.id, name_of(driver, peer.id)),
                None => return Outcome::Refused("no other voter was heard lately".to_owned()),
            }
        }
    };
    if to == driver.node().id() {
        return Outcome::Done(format!("{name} leads"));
    }
    if !status.peers.iter().filter(there).any(|peer| peer.id == to) {
        return Outcome::Refused(format!(
            "{name} was not heard lately: start it first, or name another server"
        ));
    }
    match driver.transfer(now, Some(to)) {
        Ok(()) => Outcome::HandsOver(name),
        Err(error @ raft::TransferError::InProgress { .. }) => Outcome::Pending(error.to_string()),
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

/// Admits a fresh server as a learner; idempotent by its folder. Its id, or why
/// it has none yet; `None`: it is on the way, and the membership will show it.
pub fn admit(driver: &mut Driver, now: Now, info: &MemberInfo) -> Option<Result<ServerId, String>> {
    let members = driver.committed_members();
    if let Some(known) = members.iter().find(|member| member.info.folder == info.folder) {
        return Some(Ok(known.id));
    }
    // Its id is told once the change is committed: until then it may be
    // lost with this leader, and the id be given to somebody else.
    let change = Change::AddLearner { info: info_bytes(info) };
    driver.change(now, change).err().map(|error| Err(error.to_string()))
}

/// The `info` of a Raft member.
pub fn info_bytes(info: &MemberInfo) -> Arc<[u8]> {
    serde_json::to_vec(info).unwrap_or_default().into()
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
        ToServer::Refused { why } => Heard::Stops(format!("refused this server: {why}")),
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

/// A member by its name or its id.
fn find(driver: &Driver, server: &str) -> Option<MemberRecord> {
    let members = driver.members();
    let id = server.parse().ok();
    let named = members.iter().find(|member| member.info.name == server);
    named.or_else(|| members.iter().find(|member| Some(member.id.0) == id)).cloned()
}

fn unknown(driver: &Driver, server: &str) -> Outcome {
    let members = driver.members();
    let names: Vec<_> = members.iter().map(|member| &*member.info.name).collect();
    Outcome::Unknown(format!(
        "no member is called {server}, or has that id: there are {}",
        names.join(", ")
    ))
}

fn name_of(driver: &Driver, id: NodeId) -> String {
    driver.member_info(id).map_or_else(String::new, |info| info.name)
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
