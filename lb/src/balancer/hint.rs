//! What the load balancer does when the leader's process is gone.
//!
//! Servers that follow see its end themselves, and elect. Which of them has
//! the longest log none of them can know before it has asked the others; here
//! all of them report, so the right one can be told to campaign at once. It
//! decides itself whether that still fits, and the others whether to vote for it:
//! a hint that is wrong, late or lost costs time, no more.

use std::cmp::Reverse;

use common::control::{MemberRecord, Report, Role, ToServer};
use common::ids::{ClusterId, ServerId};

use super::Balancer;
use crate::events::Severity;
use crate::registry::{Contact, Entry, LinkId};

/// What was done last about a leader that is gone; each of it once.
#[derive(Default, Debug)]
pub(super) struct Hints {
    /// Somebody was told to campaign.
    told: Option<Hint>,
    /// It was taken out of the rotation. If it comes back it is there.
    dropped: Option<Hint>,
}

/// A leader that is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hint {
    cluster: ClusterId,
    leader: ServerId,
    term: u64,
}

impl Balancer {
    /// By the word of a majority of the voters: takes a leader whose process
    /// is gone out of the rotation, and tells the best of the others to
    /// campaign, once for each leader and term.
    pub(super) fn replace_gone_leader(&mut self) {
        let Some(cluster) = self.memory.cluster else { return };
        let said: Vec<Hint> = self
            .voters(cluster)
            .filter_map(|(_, report, _)| {
                let (leader, term) = report.gone_leader?;
                Some(Hint { cluster, leader, term })
            })
            .collect();
        for hint in said {
            self.lose_sight_of(hint);
            if self.hints.told == Some(hint) {
                continue;
            }
            if let Some((link, name)) = self.successor(hint) {
                self.hints.told = Some(hint);
                let Hint { leader, term, .. } = hint;
                let text = format!("the process of leader {leader} is gone, {name} may take over");
                self.log(Severity::Warning, text);
                self.send(link, ToServer::Campaign { term });
            }
        }
    }

    /// Nothing that is sent to that leader is answered any more. If that
    /// should be wrong, it registers again.
    fn lose_sight_of(&mut self, hint: Hint) {
        let Hint { cluster, leader, .. } = hint;
        let leads = |entry: &&Entry| {
            let is_it = entry.id_in(cluster) == Some(leader);
            is_it && entry.is_live() && entry.report.role == Role::Leader
        };
        let Some(entry) = self.registry.iter().find(leads) else { return };
        let (folder, link, term) = (entry.report.info.folder, entry.link, entry.report.term);
        let left = |report: &Report| report.term >= term && report.leader != Some(leader);
        let this = Some(Hint { term, ..hint });
        if self.hints.dropped == this || !self.is_majority(cluster, leader, left) {
            return;
        }
        self.hints.dropped = this;
        if let Some(entry) = self.registry.get_mut(folder) {
            entry.contact = Contact::Silent;
            entry.link = None;
        }
        if let Some(link) = link {
            self.drop_link(link, "the other servers say that this process is gone".to_owned());
        }
    }

    /// Whose log is longest, if a majority has no leader in that term, nor has
    /// gone on to an election.
    fn successor(&self, hint: Hint) -> Option<(LinkId, String)> {
        let Hint { cluster, leader, term } = hint;
        let is_without = |report: &Report| report.leader.is_none() && report.term == term;
        if !self.is_majority(cluster, leader, is_without) {
            return None;
        }
        let without = self.voters(cluster).filter(|(_, report, _)| is_without(report));
        let others = without.filter(|(id, ..)| *id != leader);
        let (_, report, link) =
            others.max_by_key(|(id, report, _)| (report.last_index, Reverse(*id)))?;
        Some((link, report.info.name.clone()))
    }

    fn is_majority(
        &self,
        cluster: ClusterId,
        leader: ServerId,
        says: impl Fn(&Report) -> bool,
    ) -> bool {
        let voters = self.registry.membership(cluster).iter().filter(|member| member.voter);
        let others = self.voters(cluster).filter(|(id, ..)| *id != leader);
        2 * others.filter(|(_, report, _)| says(report)).count() > voters.count()
    }

    /// The voters that are in contact.
    fn voters(&self, cluster: ClusterId) -> impl Iterator<Item = (ServerId, &Report, LinkId)> {
        let members = self.registry.membership(cluster);
        self.registry.iter().filter(|entry| entry.is_live()).filter_map(move |entry| {
            let id = entry.id_in(cluster)?;
            let is_it = |member: &&MemberRecord| {
                member.id == id && member.info.folder == entry.report.info.folder
            };
            let member = members.iter().find(is_it)?;
            member.voter.then_some((id, &entry.report, entry.link?))
        })
    }
}
