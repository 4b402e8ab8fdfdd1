//! Servers with data that are in the membership no longer, or at addresses that
//! they have left: they were away for too long, an operator has removed them,
//! or they have moved.
//!
//! One that was away comes back by itself. The leader admits its folder as a
//! learner under a new id, and the server takes that id and keeps its data. One
//! that an operator has removed is told to stop, whenever it reports, and by
//! every load balancer: the membership has it in mind, and so the leader's
//! report. Started again, it is another run, and comes back the same way.

use std::net::SocketAddr;

use common::control::{MemberRecord, Report, ToServer};
use common::ids::{FolderId, ServerId};

use super::Balancer;
use crate::registry::{Asked, LinkId};

use super::fresh::REPEAT_AFTER;

/// What a server with data needs.
#[derive(Clone, Copy)]
enum Step {
    Stop(LinkId),
    Admission,
    Place(ServerId),
}

impl Balancer {
    /// The server that is meant by its name or id, if it was removed by an operator and
    /// the link to its process is still there: its name.
    pub(super) fn runs_though_dismissed(&self, server: &str) -> Option<String> {
        let id = server.strip_prefix('#').unwrap_or(server).parse().ok().map(ServerId);
        let dismissed = self.registry.dismissed(self.memory.cluster?);
        let is_it = |record: &&MemberRecord| record.info.name == server || Some(record.id) == id;
        let record = dismissed.iter().rfind(is_it)?;
        let entry = self.registry.get(record.info.folder)?;
        let runs = entry.link.is_some() && record.was(&entry.report.info);
        runs.then(|| entry.name().to_owned())
    }

    /// Looks after every live server that is not who it takes itself for.
    pub(super) fn care_for_returning(&mut self) {
        let Some(cluster) = self.memory.cluster else { return };
        let Some(leader_link) = self.link_to_leader() else { return };
        let members = self.registry.membership(cluster);
        let mut steps = Vec::new();
        for entry in self.registry.iter().filter(|entry| entry.is_live()) {
            let (Some(id), Some(link)) = (entry.id_in(cluster), entry.link) else { continue };
            let folder = entry.report.info.folder;
            let place = members.iter().find(|member| member.info.folder == folder);
            match place {
                Some(member)
                    if member.id == id && member.info.is_found_like(&entry.report.info) => {}
                Some(member) if member.id == id => {
                    steps.push((folder, leader_link, Step::Admission));
                }
                Some(member) => steps.push((folder, link, Step::Place(member.id))),
                None if self.registry.is_dismissed(cluster, &entry.report.info) => {
                    steps.push((folder, link, Step::Stop(link)));
                }
                None => steps.push((folder, leader_link, Step::Admission)),
            }
        }
        for (folder, over, step) in steps {
            self.take_step(folder, over, step);
        }
    }

    /// A member without a leader is told where the others are, if it takes any
    /// of them to be elsewhere: when most have moved, nobody can say so by an
    /// entry in the log.
    pub(super) fn tell_whereabouts(&mut self, link: LinkId, folder: FolderId) {
        let Some(cluster) = self.memory.cluster else { return };
        let Some(entry) = self.registry.get(folder) else { return };
        if entry.report.leader.is_some() || entry.id_in(cluster).is_none() {
            return;
        }
        let others = self
            .registry
            .iter()
            .filter(|other| other.is_live() && other.report.info.folder != folder);
        let members: Vec<_> = others
            .filter_map(|other| Some((other.id_in(cluster)?, other.report.info.peer)))
            .collect();
        let is_astray = |&(id, peer): &(ServerId, SocketAddr)| {
            entry.report.members.iter().any(|known| known.id == id && known.info.peer != peer)
        };
        let was_told = entry.told_whereabouts;
        if !was_told && !members.iter().any(is_astray) {
            return;
        }
        if let Some(entry) = self.registry.get_mut(folder) {
            entry.told_whereabouts = true;
        }
        self.send(link, ToServer::Whereabouts { members });
    }

    fn take_step(&mut self, folder: FolderId, over: LinkId, step: Step) {
        let now = self.now;
        let (Some(entry), Some(cluster)) = (self.registry.get_mut(folder), self.memory.cluster)
        else {
            return;
        };
        let name = entry.name().to_owned();
        let message = match step {
            Step::Stop(link) => return self.stop_dismissed(link, &name),
            Step::Admission => {
                let Report { info, runs, .. } = &entry.report;
                ToServer::Admit { info: info.clone(), runs: runs.clone() }
            }
            Step::Place(id) => ToServer::Adopt { cluster, id, voters: Vec::new(), campaign: false },
        };
        let recent = |asked: Asked| asked.over == over && now < asked.at + REPEAT_AFTER;
        if !entry.asked.is_some_and(recent) {
            entry.asked = Some(Asked { at: now, over });
            self.send(over, message);
        }
    }
}
