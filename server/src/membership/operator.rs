//! What operators ask a leader for: it does that if it is safe, or says why not.

use std::time::Duration;

use common::control::{MemberInfo, MemberRecord, Operation, Outcome, Run};
use common::ids::FolderId;
use raft::{Change, NodeId, PeerStatus, Suffrage};

use super::{HEARD_LATELY, Members, Rules, info_bytes, is_heard, is_there, name_of};
use crate::driver::{Driver, Now};

impl Members {
    /// Does what an operator asks a server for, or says why not. `runs` are those
    /// that the load balancer has heard of which brings this.
    pub fn operate(
        &self,
        driver: &mut Driver,
        now: Now,
        operation: &Operation,
        runs: &[(FolderId, Run)],
    ) -> Outcome {
        if !driver.is_leader() {
            let name = driver.info().name.clone();
            return Outcome::Pending(format!("{name} does not lead"));
        }
        match operation {
            Operation::Remove { server, only_look: true, .. } => look(driver, now, server),
            Operation::Remove { server, force, .. } => {
                self.remove(driver, now, server, *force, runs)
            }
            Operation::Transfer { to } => hand_over(driver, now, to.as_deref()),
        }
    }

    fn remove(
        &self,
        driver: &mut Driver,
        now: Now,
        server: &str,
        force: bool,
        runs: &[(FolderId, Run)],
    ) -> Outcome {
        let record = match meant(driver, now, server) {
            Ok(record) => record,
            // Who asks for `#ID` knows whom, and hears that it is gone.
            Err(outcome) if server.starts_with('#') => return outcome,
            Err(outcome) => return or_removed(driver, server, outcome),
        };
        let (id, name) = (NodeId(record.id.0), record.info.name.clone());
        if id == driver.node().id() {
            return Outcome::Refused(format!(
                "{name} leads: hand over first with `store transfer`, then remove it"
            ));
        }
        let status = driver.node().status();
        let rules = self.rules;
        let voters = status.membership.voters().filter(|voter| *voter != id).count();
        if status.membership.is_voter(id) && !force {
            match few_voters(now, id, voters, &status.peers, rules) {
                Some(FewVoters::For(why)) => {
                    return Outcome::Refused(format!(
                        "without {name} {why}; --force removes it all the same"
                    ));
                }
                Some(FewVoters::Perhaps) => {
                    let leader = &driver.info().name;
                    let why = format!("{leader} leads only now, and has not heard a majority yet");
                    return Outcome::Pending(why);
                }
                None => {}
            }
        }
        let older = self.of_older_programs(driver, id, runs);
        let change = match older.is_empty() {
            true => Change::Dismiss { id, info: info_bytes(&self.with_newest_run(&record, runs)) },
            false => Change::Remove(id),
        };
        match driver.change(now, change) {
            Ok(()) => {
                tracing::info!(server = id.0, name, force, "removed at an operator's request");
                if !older.is_empty() {
                    tracing::warn!(
                        server = id.0,
                        name,
                        older = older.join(", "),
                        "those run an older program, which could not read that it was removed: \
                         that is not noted, so stop its process, or it comes back by itself"
                    );
                }
                removes(record)
            }
            Err(error @ raft::ChangeError::LastVoter(_)) => Outcome::Refused(error.to_string()),
            Err(error) => Outcome::Pending(error.to_string()),
        }
    }

    /// Who would stay and is of a program that knows no runs, as far as anybody has
    /// heard: it reads no membership that has dismissed members, and would follow
    /// no more.
    fn of_older_programs(
        &self,
        driver: &Driver,
        leaves: NodeId,
        runs: &[(FolderId, Run)],
    ) -> Vec<String> {
        let own = driver.node().id();
        let others = driver.members().into_iter().filter(|member| {
            let id = NodeId(member.id.0);
            id != own && id != leaves && self.with_newest_run(member, runs).run.is_none()
        });
        others.map(|member| member.info.name).collect()
    }

    /// The process that runs is the one that is meant, also if the membership has
    /// not taken note of its run yet.
    fn with_newest_run(&self, record: &MemberRecord, runs: &[(FolderId, Run)]) -> MemberInfo {
        let mut info = record.info.clone();
        let heard = runs.iter().filter(|(folder, _)| *folder == info.folder).map(|(_, run)| *run);
        let known = info.run.into_iter().chain(self.runs.heard(NodeId(record.id.0)));
        info.run = heard.chain(known).max_by_key(|run| run.count);
        info
    }
}

/// Who is meant by a removal; changes nothing.
fn look(driver: &Driver, now: Now, server: &str) -> Outcome {
    match meant(driver, now, server) {
        Ok(record) => removes(record),
        Err(outcome) => or_removed(driver, server, outcome),
    }
}

/// The member that is meant by a removal; otherwise what there is to say.
fn meant(driver: &Driver, now: Now, server: &str) -> Result<MemberRecord, Outcome> {
    let found = find(&driver.members(), server);
    // Until a removal is committed it may be undone, and the name means that one.
    let leaves = |old: &MemberRecord| found.iter().all(|member| member.id != old.id);
    if find(&driver.committed_members(), server).iter().any(leaves) {
        return Err(Outcome::Pending(format!("the removal of {server} is being committed")));
    }
    match &found[..] {
        [] => Err(unknown(driver, server)),
        [record] => Ok(record.clone()),
        several => Err(ambiguous(driver, now, server, several)),
    }
}

/// Of somebody who is no member: the removal that was asked for may be done, and
/// the answer have been lost. Of several of that name, the last one is meant.
fn or_removed(driver: &Driver, server: &str, outcome: Outcome) -> Outcome {
    match (find(&driver.dismissed(), server).pop(), outcome) {
        (Some(record), Outcome::Unknown(_)) => removes(record),
        (_, outcome) => outcome,
    }
}

fn removes(record: MemberRecord) -> Outcome {
    let MemberRecord { id, info: MemberInfo { folder, name, .. }, .. } = record;
    Outcome::Removes { id, folder, name }
}

fn hand_over(driver: &mut Driver, now: Now, to: Option<&str>) -> Outcome {
    let status = driver.node().status();
    let there = |peer: &&PeerStatus| is_heard(now, peer, HEARD_LATELY);
    let (to, name) = match to {
        Some(server) => {
            let mut found = find(&driver.members(), server);
            if found.len() > 1 {
                // A dead one of that name is not meant.
                found.retain(|member| is_live(driver, now, member));
            }
            match &found[..] {
                [record] => (NodeId(record.id.0), record.info.name.clone()),
                _ => match &find(&driver.members(), server)[..] {
                    [] => return unknown(driver, server),
                    several => return ambiguous(driver, now, server, several),
                },
            }
        }
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
    if !status.membership.is_voter(to) {
        return Outcome::Refused(format!("{name} is a learner: it can lead once it votes"));
    }
    match driver.transfer(now, Some(to)) {
        Ok(()) => Outcome::HandsOver(name),
        Err(error @ raft::TransferError::InProgress { .. }) => Outcome::Pending(error.to_string()),
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

/// The members that are meant by a name, else by an id. `#5` is an id in any case:
/// no name contains that sign.
fn find(members: &[MemberRecord], server: &str) -> Vec<MemberRecord> {
    let named = |member: &&MemberRecord| member.info.name == server;
    let found: Vec<_> = members.iter().filter(named).cloned().collect();
    if !found.is_empty() {
        return found;
    }
    let id = server.strip_prefix('#').unwrap_or(server).parse().ok();
    members.iter().filter(|member| Some(member.id.0) == id).cloned().collect()
}

fn is_live(driver: &Driver, now: Now, member: &MemberRecord) -> bool {
    let id = NodeId(member.id.0);
    let peers = driver.node().status().peers;
    id == driver.node().id()
        || peers.iter().any(|peer| peer.id == id && is_there(now, peer, HEARD_LATELY))
}

/// A server that was lost, and the one that came in its place, may have one name.
fn ambiguous(driver: &Driver, now: Now, server: &str, several: &[MemberRecord]) -> Outcome {
    let each = several.iter().map(|member| match is_live(driver, now, member) {
        true => format!("#{} (live)", member.id.0),
        false => format!("#{} (silent)", member.id.0),
    });
    let each: Vec<_> = each.collect();
    let (count, each) = (several.len(), each.join(" and "));
    Outcome::Refused(format!(
        "{count} members are called {server}: {each}; name one by its id, in quotes because of the #"
    ))
}

fn unknown(driver: &Driver, server: &str) -> Outcome {
    let members = driver.members();
    let names: Vec<_> = members.iter().map(|member| &*member.info.name).collect();
    Outcome::Unknown(format!(
        "no member is called {server}, or has that id: there are {}",
        names.join(", ")
    ))
}

/// What speaks against going on without `leaving`, which votes, when so many
/// `voters` are left then. `peers` are those of the leader.
pub(super) fn few_voters(
    now: Now,
    leaving: NodeId,
    voters: usize,
    peers: &[PeerStatus],
    rules: Rules,
) -> Option<FewVoters> {
    if voters < rules.min_voters() {
        let why = format!("only {voters} server would vote: the next one lost would be the end");
        return Some(FewVoters::For(why));
    }
    let stays = |peer: &&PeerStatus| peer.suffrage == Suffrage::Voter && peer.id != leaving;
    // And the leader itself.
    let count = |is: fn(Now, &PeerStatus, Duration) -> bool| {
        1 + peers.iter().filter(stays).filter(|peer| is(now, peer, HEARD_LATELY)).count()
    };
    let (there, perhaps) = (count(is_there), count(is_heard));
    if there > voters / 2 {
        None
    } else if perhaps > voters / 2 {
        Some(FewVoters::Perhaps)
    } else {
        Some(FewVoters::For(format!(
            "{there} of the {voters} remaining voters would be there, which is no majority"
        )))
    }
}

/// Why a server is not to be removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum FewVoters {
    For(String),
    /// The leader is so new that it has not heard the others yet.
    Perhaps,
}
