//! What the load balancer does when the leader's process is gone.
//!
//! Servers that follow see its end themselves, and elect. Which of them has
//! the longest log none of them can know before it has asked the others; here
//! all of them report, so the right one can be told to campaign at once. It
//! decides itself whether that still fits, and the others whether to vote for it:
//! a hint that is wrong, late or lost costs time, no more.

use common::control::{Report, Role, ToServer};
use common::ids::{ClusterId, FolderId, ServerId};

use super::Balancer;
use crate::events::Severity;
use crate::registry::{Contact, Entry, LinkId};

/// A leader that is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hint {
    cluster: ClusterId,
    leader: ServerId,
    term: u64,
}

/// What a majority of the voters says.
struct Finding {
    hint: Hint,
    /// Whose log is longest.
    best: (LinkId, String),
}

impl Balancer {
    /// Takes a leader out of the rotation whose process is gone, by the word
    /// of a majority of the voters, and tells the best of those to campaign:
    /// once for each leader and term.
    pub(super) fn replace_gone_leader(&mut self) {
        let Some(Finding { hint, best: (link, name) }) = self.find_gone_leader() else { return };
        if self.hint == Some(hint) {
            return;
        }
        self.hint = Some(hint);
        self.lose_sight_of(hint);
        let Hint { leader, term, .. } = hint;
        let text = format!("the process of server {leader} is gone, {name} is to take over");
        self.log(Severity::Warning, text);
        self.send(link, ToServer::Campaign { term });
    }

    /// Nothing that is sent to it is answered any more. If that should be
    /// wrong, it registers again.
    fn lose_sight_of(&mut self, hint: Hint) {
        let leads = |entry: &&Entry| {
            let Report { role, term, .. } = entry.report;
            let is_it = entry.id_in(hint.cluster) == Some(hint.leader);
            is_it && entry.is_live() && role == Role::Leader && term <= hint.term
        };
        let Some(entry) = self.registry.iter().find(leads) else { return };
        let (folder, link): (FolderId, _) = (entry.report.info.folder, entry.link);
        if let Some(entry) = self.registry.get_mut(folder) {
            entry.contact = Contact::Silent;
            entry.link = None;
        }
        if let Some(link) = link {
            self.drop_link(link, "the other servers say that this process is gone".to_owned());
        }
    }

    fn find_gone_leader(&self) -> Option<Finding> {
        let cluster = self.memory.cluster?;
        // Any of those who have seen it will do to learn whom and when.
        let seen = self.registry.iter().filter(|entry| entry.is_live()).find_map(|entry| {
            entry.id_in(cluster)?;
            Some((entry.report.gone_leader?, entry.report.term))
        });
        let (leader, term) = seen?;
        let members = self.registry.membership(cluster);
        let voters = members.iter().filter(|member| member.voter);
        let leaderless = |entry: &&Entry| {
            let report = &entry.report;
            let member = members.iter().find(|member| member.info.folder == report.info.folder);
            let votes = member
                .is_some_and(|member| member.voter && entry.id_in(cluster) == Some(member.id));
            let is_without = report.leader.is_none() && report.role != Role::Leader;
            votes && entry.is_live() && is_without && report.term == term
        };
        let without: Vec<_> = self
            .registry
            .iter()
            .filter(leaderless)
            .filter(|entry| entry.id_in(cluster) != Some(leader))
            .collect();
        if 2 * without.len() <= voters.count() {
            return None;
        }
        let order =
            |entry: &&&Entry| (entry.report.last_index, std::cmp::Reverse(entry.id_in(cluster)));
        let best = without.iter().max_by_key(order)?;
        let hint = Hint { cluster, leader, term };
        Some(Finding { hint, best: (best.link?, best.name().to_owned()) })
    }
}
