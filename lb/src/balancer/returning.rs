//! Servers with data that are in the membership no longer, or at addresses that
//! they have left: they were away for too long, an operator has removed them,
//! or they have moved.
//!
//! One that was away comes back by itself. The leader admits its folder as a
//! learner under a new id, and the server takes that id and keeps its data. One
//! that an operator has removed is told to stop; started again, it comes back
//! the same way.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use common::control::{Operation, Outcome, ToServer};
use common::ids::{FolderId, ServerId};

use super::Balancer;
use crate::registry::{Asked, LinkId};

use super::fresh::REPEAT_AFTER;

/// Folders whose removal an operator has asked for.
#[derive(Debug, Default)]
pub(super) struct Dismissed(BTreeSet<FolderId>);

/// What a server with data needs.
#[derive(Clone, Copy)]
enum Step {
    Stop(LinkId),
    Admission,
    Place(ServerId),
}

impl Balancer {
    /// An operator's removal is under way, or came to nothing.
    pub(super) fn note_removal(&mut self, wanted: &Operation, outcome: &Outcome) {
        if let Outcome::Removes { folder, .. } = outcome {
            self.dismissed.0.insert(*folder);
        }
        // Whoever asks again does so by the id.
        let (Operation::Remove { server, .. }, Outcome::Refused(_)) = (wanted, outcome) else {
            return;
        };
        let Some(cluster) = self.memory.cluster else { return };
        let id = server.strip_prefix('#').unwrap_or(server).parse().ok();
        let members = self.registry.membership(cluster);
        let member = members.iter().find(|member| Some(member.id.0) == id);
        if let Some(folder) = member.map(|member| member.info.folder) {
            self.dismissed.0.remove(&folder);
        }
    }

    /// Looks after every live server that is not who it takes itself for.
    pub(super) fn care_for_returning(&mut self) {
        let Some(cluster) = self.memory.cluster else { return };
        let Some(leader) = self.registry.leader(cluster) else { return };
        let Some(leader_link) = leader.link else { return };
        let members = &leader.report.members;
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
                None if self.dismissed.0.contains(&folder) => {
                    steps.push((folder, link, Step::Stop(link)));
                }
                None => steps.push((folder, leader_link, Step::Admission)),
            }
        }
        let gone = |folder: &FolderId| {
            let away = self.registry.get(*folder).is_none_or(|entry| !entry.is_live());
            away && members.iter().all(|member| member.info.folder != *folder)
        };
        let gone: Vec<_> = self.dismissed.0.iter().copied().filter(gone).collect();
        for folder in gone {
            self.dismissed.0.remove(&folder);
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
            Step::Stop(link) => {
                self.dismissed.0.remove(&folder);
                let why = format!(
                    "an operator has removed {name} from the cluster. Its data stays: \
                     `store addsrv --name {name}` brings it back as a learner"
                );
                return self.refuse(link, &name, why);
            }
            Step::Admission => ToServer::Admit { info: entry.report.info.clone() },
            Step::Place(id) => ToServer::Adopt { cluster, id, voters: Vec::new(), campaign: false },
        };
        let recent = |asked: Asked| asked.over == over && now < asked.at + REPEAT_AFTER;
        if !entry.asked.is_some_and(recent) {
            entry.asked = Some(Asked { at: now, over });
            self.send(over, message);
        }
    }
}
