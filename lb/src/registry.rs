//! What is known of each server, by its folder.
//!
//! A server is its folder: names, addresses and ids may be claimed by
//! anybody, the folder's random id is drawn once and a wiped folder draws
//! another one. So registering again, restarting, or coming back over a new
//! link is always the same entry.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use common::control::{MemberInfo, MemberRecord, Report, Role, Waiting};
use common::ids::{ClusterId, FolderId, ServerId};

/// Names one link between this load balancer and a server; never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

/// Servers that are kept in mind. Every one of them has shown the cluster
/// key; the bound keeps a server that is wiped in a loop from growing the list.
pub const MAX_SERVERS: usize = 1024;

/// Whether a server is in contact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contact {
    /// Reports as it should.
    Live,
    /// Not heard for too long, or its link broke.
    Silent,
    /// Said goodbye.
    Stopped,
}

/// One server.
#[derive(Debug)]
pub struct Entry {
    /// The last report.
    pub report: Report,
    /// The link it reports on; `None` once that is closed.
    pub link: Option<LinkId>,
    /// When the last report came.
    pub last_heard: Duration,
    /// Whether it is in contact.
    pub contact: Contact,
    /// Place in the order of first registrations.
    pub order: u64,
    /// What it was last told on this link that it waits for; `None` before
    /// the first answer.
    pub(crate) told: Option<Option<Waiting>>,
    /// The last request made for it, as long as it is fresh.
    pub(crate) asked: Option<Asked>,
    /// The address that was asked whether the server answers there, and
    /// whether it does; fresh servers only.
    pub(crate) probed: Option<(SocketAddr, bool)>,
    /// How many clients were sent to it since its last report.
    pub(crate) sent_there: u64,
    /// It was told where the others are, which has to stay true.
    pub(crate) told_whereabouts: bool,
    /// Why the leader did not admit it the last time.
    pub(crate) leader_says: Option<String>,
}

/// A request that is repeated until it shows effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    /// When.
    pub(crate) at: Duration,
    /// Over which link: a new leader is asked at once.
    pub(crate) over: LinkId,
}

impl Entry {
    /// In contact.
    pub fn is_live(&self) -> bool {
        self.contact == Contact::Live
    }

    /// A fresh server that answers at the address that it gives to others.
    pub(crate) fn is_reached(&self) -> bool {
        self.probed == Some((self.report.info.peer, true))
    }

    /// Connections of clients: those it has reported, and those that are
    /// likely to have been opened since.
    pub(crate) fn load(&self) -> u64 {
        self.report.connections.saturating_add(self.sent_there)
    }

    /// In no cluster yet.
    pub fn is_fresh(&self) -> bool {
        self.report.member.is_none()
    }

    /// Its id in `cluster`, if it is a member of that one.
    pub fn id_in(&self, cluster: ClusterId) -> Option<ServerId> {
        self.report.member.filter(|(of, _)| *of == cluster).map(|(_, id)| id)
    }

    /// In `cluster` as far as it knows, and as far as the leader knows; `members`
    /// is the leader's membership, empty while that is not known.
    pub(crate) fn is_member(&self, cluster: ClusterId, members: &[MemberRecord]) -> bool {
        let folder = self.report.info.folder;
        let is_listed = || members.iter().any(|member| member.info.folder == folder);
        self.id_in(cluster).is_some() && (members.is_empty() || is_listed())
    }

    /// The name it is known by.
    pub fn name(&self) -> &str {
        &self.report.info.name
    }
}

/// All servers that registered.
#[derive(Debug, Default)]
pub struct Registry {
    entries: BTreeMap<FolderId, Entry>,
    registrations: u64,
}

impl Registry {
    /// The server with this folder.
    pub fn get(&self, folder: FolderId) -> Option<&Entry> {
        self.entries.get(&folder)
    }

    pub(crate) fn get_mut(&mut self, folder: FolderId) -> Option<&mut Entry> {
        self.entries.get_mut(&folder)
    }

    /// In the order of folder ids.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.values_mut()
    }

    /// How many servers are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody ever registered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes a report in; returns what it replaces of the entry.
    pub(crate) fn take(&mut self, now: Duration, link: LinkId, report: Report) -> Taken {
        let Some(entry) = self.entries.get_mut(&report.info.folder) else {
            self.registrations += 1;
            let entry = Entry {
                link: Some(link),
                last_heard: now,
                contact: Contact::Live,
                order: self.registrations,
                told: None,
                told_whereabouts: false,
                asked: None,
                probed: None,
                sent_there: 0,
                leader_says: None,
                report,
            };
            self.entries.insert(entry.report.info.folder, entry);
            return Taken { change: Some(Change::New), replaced_link: None };
        };

        let change = if entry.contact != Contact::Live {
            Some(Change::Returned)
        } else if entry.report.member != report.member {
            Some(Change::Member)
        } else if entry.report.role != report.role {
            Some(Change::Role(entry.report.role))
        } else {
            None
        };
        let replaced_link = entry.link.filter(|old| *old != link);
        if entry.link != Some(link) {
            entry.told = None;
            entry.asked = None;
        }
        entry.link = Some(link);
        entry.last_heard = now;
        entry.contact = Contact::Live;
        entry.sent_there = 0;
        entry.report = report;
        Taken { change, replaced_link }
    }

    /// Forgets the entries for which `keep` says no.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.entries.retain(|_, entry| keep(entry));
    }

    /// Live servers that are in no cluster, in the order of registration.
    pub fn fresh(&self) -> Vec<&Entry> {
        let mut fresh: Vec<_> =
            self.iter().filter(|entry| entry.is_live() && entry.is_fresh()).collect();
        fresh.sort_by_key(|entry| entry.order);
        fresh
    }

    /// Who leads `cluster`: of the live servers that say so, the one with the
    /// highest term. An earlier leader that has not noticed yet loses.
    pub fn leader(&self, cluster: ClusterId) -> Option<&Entry> {
        self.iter()
            .filter(|entry| entry.is_live() && entry.report.role == Role::Leader)
            .filter(|entry| entry.id_in(cluster).is_some())
            .max_by_key(|entry| entry.report.term)
    }

    /// The membership of `cluster` as far as known: the leader's, otherwise
    /// that of the report that has seen most, even if its sender is gone.
    pub fn membership(&self, cluster: ClusterId) -> &[MemberRecord] {
        self.best(cluster).map_or(&[], |entry| &entry.report.members)
    }

    /// Whom operators have removed from `cluster`, by the same report.
    pub(crate) fn dismissed(&self, cluster: ClusterId) -> &[MemberRecord] {
        self.best(cluster).map_or(&[], |entry| &entry.report.dismissed)
    }

    /// Whether an operator has removed whoever says `process` of itself.
    pub(crate) fn is_dismissed(&self, cluster: ClusterId, process: &MemberInfo) -> bool {
        self.dismissed(cluster).iter().any(|record| record.was(process))
    }

    /// Whose report tells most of `cluster`.
    fn best(&self, cluster: ClusterId) -> Option<&Entry> {
        self.leader(cluster).or_else(|| {
            self.iter()
                .filter(|entry| entry.id_in(cluster).is_some() && !entry.report.members.is_empty())
                .max_by_key(|entry| (entry.report.commit_index, entry.report.term))
        })
    }
}

/// What a report changed.
#[derive(Debug)]
pub(crate) struct Taken {
    /// `None`: only numbers.
    pub(crate) change: Option<Change>,
    /// The older link of the same server.
    pub(crate) replaced_link: Option<LinkId>,
}

/// A change that is worth an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// Registered for the first time.
    New,
    /// Was silent or stopped.
    Returned,
    /// Became a member.
    Member,
    /// Was this before.
    Role(Role),
}
