//! Who leads, and by whom the leader is reached.
//!
//! Mostly that is the leader itself, which reports here. But a fault of the network may
//! cut this load balancer off from the leader alone: the servers that follow
//! it then know better, and hand on what is for it. Whether the leader is gone is
//! another question, which the followers answer: see the balancer's hints.

use std::cmp::Reverse;
use std::fmt;
use std::net::SocketAddr;

use common::control::{MemberRecord, Role, Trouble};
use common::ids::{ClusterId, ServerId};

use crate::registry::{Entry, LinkId, Registry};

/// Who leads, by the newest word of those in contact.
#[derive(Debug)]
pub(crate) struct Leading<'a> {
    pub(crate) id: ServerId,
    pub(crate) term: u64,
    /// The leader itself, if it is in contact.
    pub(crate) seen: Option<&'a Entry>,
    /// Members that follow it and have its log, by id; itself not.
    pub(crate) followers: Vec<(ServerId, &'a Entry)>,
    members: &'a [MemberRecord],
}

/// Who leads `cluster`; `None`: nobody, as far as is known here. A server that
/// follows somebody has heard that one in its term, so the newest term counts.
pub(crate) fn leading(registry: &Registry, cluster: ClusterId) -> Option<Leading<'_>> {
    let members = registry.membership(cluster);
    let follower = |entry: &&Entry| {
        let is_there = entry.is_live() && entry.link.is_some();
        is_there && entry.report.role == Role::Follower && entry.is_member(cluster, members)
    };
    let seen = registry.leader(cluster).filter(|leader| leader.link.is_some());
    let own = seen.and_then(|leader| Some((leader.report.term, leader.id_in(cluster)?)));
    let named = registry
        .iter()
        .filter(follower)
        .filter_map(|entry| Some((entry.report.term, entry.report.leader?)))
        .max();
    let (term, id) = own.max(named)?;
    let seen = seen.filter(|leader| leader.id_in(cluster) == Some(id));
    // Somebody has seen its end, and the others are about to.
    let is_gone = |entry: &Entry| {
        entry.is_live() && entry.report.gone_leader.is_some_and(|gone| gone == (id, term))
    };
    // It says itself that it does not lead any more.
    let denies = |entry: &Entry| {
        let is_there = entry.is_live() && entry.link.is_some();
        is_there && entry.id_in(cluster) == Some(id) && entry.report.term > term
    };
    if seen.is_none() && registry.iter().any(|entry| is_gone(entry) || denies(entry)) {
        return None;
    }
    let mut followers: Vec<_> = registry
        .iter()
        .filter(follower)
        .filter(|entry| entry.report.leader == Some(id))
        .filter_map(|entry| Some((entry.id_in(cluster)?, entry)))
        .filter(|(own, _)| *own != id)
        .collect();
    followers.sort_by_key(|(own, _)| *own);
    Some(Leading { id, term, seen, followers, members })
}

impl<'a> Leading<'a> {
    /// Who hands on what is for the leader, while that is not seen from here: the
    /// best first, which has the most of what is committed.
    pub(crate) fn relays(&self) -> Vec<&'a Entry> {
        if self.seen.is_some() {
            return Vec::new();
        }
        let mut relays: Vec<_> = self.followers.iter().map(|(_, entry)| *entry).collect();
        relays.retain(|entry| entry.report.trouble != Some(Trouble::DataDiffer));
        relays.sort_by_key(|entry| Reverse(entry.report.commit_index));
        relays
    }

    /// The link over which the leader hears what it is told: its own, or that of
    /// a server that hands it on.
    pub(crate) fn link(&self) -> Option<LinkId> {
        match self.seen {
            Some(leader) => leader.link,
            None => self.relays().first().and_then(|relay| relay.link),
        }
    }

    /// How it is found, as far as the members know.
    fn record(&self) -> Option<&'a MemberRecord> {
        self.members.iter().find(|member| member.id == self.id)
    }

    /// What it is called.
    pub(crate) fn name(&self) -> String {
        match (self.seen, self.record()) {
            (Some(leader), _) => leader.name().to_owned(),
            (None, Some(record)) => record.info.name.clone(),
            (None, None) => format!("server {}", self.id),
        }
    }

    /// Where clients may reach it though this load balancer does not: by the word of a
    /// majority of the voters.
    pub(crate) fn unseen_address(&self) -> Option<SocketAddr> {
        let voters = self.members.iter().filter(|member| member.voter);
        let says = |member: &&MemberRecord| {
            let is_it = |(id, entry): &(ServerId, &Entry)| {
                *id == member.id && entry.report.info.folder == member.info.folder
            };
            self.followers.iter().any(is_it)
        };
        let is_majority = 2 * voters.clone().filter(says).count() > voters.count();
        let record = self.record().filter(|_| self.seen.is_none() && is_majority)?;
        Some(record.info.client)
    }
}

impl fmt::Display for Leading<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} leads in term {}", self.name(), self.term)?;
        if self.seen.is_some() {
            return Ok(());
        }
        f.write_str(", but is not seen from here; ")?;
        let relays = self.relays();
        let names: Vec<_> = relays.iter().map(|relay| relay.name()).collect();
        match names.len() {
            0 => f.write_str("nobody hands requests on to it"),
            1 => write!(f, "{} hands requests on to it", names[0]),
            _ => write!(f, "{} hand requests on to it", names.join(", ")),
        }
    }
}
