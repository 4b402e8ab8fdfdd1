//! What fresh servers need, and how they get it.

use std::net::SocketAddr;
use std::time::Duration;

use common::control::{MemberRecord, Report, ToServer, Waiting};
use common::ids::{FolderId, ServerId};

use super::{Balancer, Output};
use crate::bootstrap::{BOOTSTRAP_WAIT, Decision};
use crate::events::Severity;
use crate::registry::{Asked, Entry, LinkId};

/// How often a request that shows no effect is repeated.
pub(super) const REPEAT_AFTER: Duration = Duration::from_millis(500);

/// What a fresh server needs.
#[derive(Debug, PartialEq)]
enum Need {
    /// Whether its address answers is being found out.
    Probe,
    Wait(Waiting),
    /// An operator has removed it before it knew that it was a member.
    Stop,
    Admission {
        leader: LinkId,
    },
    Adoption(ToServer),
}

impl Balancer {
    pub(super) fn care_for_fresh(&mut self) {
        // What they need hangs on the outcome, which is a moment away.
        if self.saving.is_some() {
            return;
        }
        let fresh: Vec<FolderId> =
            self.registry.fresh().iter().map(|entry| entry.report.info.folder).collect();
        // The one that campaigns is told last, so that those whose votes it
        // asks for are members by then.
        for folder in fresh.into_iter().rev() {
            let Some(entry) = self.registry.get(folder) else { continue };
            let need = self.need(entry);
            self.answer_fresh(folder, &need);
            self.provide(folder, need);
        }
    }

    /// What a fresh server needs, as things are.
    fn need(&self, entry: &Entry) -> Need {
        if !entry.is_reached() {
            return Need::Probe;
        }
        let folder = entry.report.info.folder;
        let Some(cluster) = self.memory.cluster else {
            return match self.founding() {
                Decision::Wait(_) if !entry.report.may_found => Need::Wait(Waiting::for_what(
                    "a cluster, which only the load balancer with the smallest address of its list may found",
                )),
                Decision::Wait(waiting) => Need::Wait(waiting),
                // It could not be written down.
                Decision::Form(_) => Need::Wait(Waiting::for_what("the disk of the load balancer")),
            };
        };
        let leader = self.link_to_leader();
        let members = self.registry.membership(cluster);
        let place = members.iter().find(|member| member.info.folder == folder);
        if place.is_none() && self.registry.is_dismissed(cluster, &entry.report.info) {
            return Need::Stop;
        }
        let place = match (place, leader) {
            (Some(place), _) => place,
            (None, Some(leader)) => return Need::Admission { leader },
            // The memory knows the cluster best only as long as nobody has
            // reported from inside it.
            (None, None) => match self.memory.voter(folder) {
                Some(voter) if members.is_empty() => voter,
                _ => {
                    let what = format!("a leader of cluster {cluster}");
                    return Need::Wait(Waiting::for_what(what));
                }
            },
        };

        let voters = self.first_voters(place, members);
        let starts = voters.first().is_some_and(|first| first.id == place.id);
        Need::Adoption(ToServer::Adopt {
            cluster,
            id: place.id,
            voters,
            campaign: starts && leader.is_none(),
        })
    }

    /// The first membership, for one of the first voters; empty for a server
    /// that joins. A voter that is still fresh can only be a first one whose
    /// `Adopt` got lost: joining servers vote only once they have caught up.
    /// If the memory got lost as well, the members know it.
    fn first_voters(&self, place: &MemberRecord, members: &[MemberRecord]) -> Vec<MemberRecord> {
        let remembered = self.memory.voter(place.info.folder);
        if remembered.is_some_and(|voter| voter.id == place.id) {
            self.memory.voters.clone()
        } else if place.voter {
            members.iter().filter(|member| member.voter).cloned().collect()
        } else {
            Vec::new()
        }
    }

    /// Tells a fresh server what it waits for, when that changes.
    fn answer_fresh(&mut self, folder: FolderId, need: &Need) {
        let Some(entry) = self.registry.get_mut(folder) else { return };
        let Some(link) = entry.link else { return };
        // Its word that it knows no cluster lets another load balancer found one: the
        // members of a cluster are heard first.
        let hears_members = self.memory.cluster.is_none() && self.now < BOOTSTRAP_WAIT;
        if hears_members && !entry.report.may_found {
            return;
        }
        let waiting_for = match (need, &entry.leader_says) {
            (Need::Probe | Need::Stop, _) => return,
            (Need::Wait(waiting), _) => waiting.clone(),
            (Need::Admission { .. }, None) => Waiting::for_what("the leader to admit it"),
            (Need::Admission { .. }, Some(why)) => {
                Waiting::for_what(format!("the leader to admit it; the leader says: {why}"))
            }
            (Need::Adoption(_), _) => {
                Waiting::for_what("its place in the cluster, which is on the way")
            }
        };
        // An adoption speaks for itself, unless the server has no answer at all yet.
        let known = match &entry.told {
            Some(_) if matches!(need, Need::Adoption(_)) => true,
            told => told.as_ref() == Some(&Some(waiting_for.clone())),
        };
        if !known {
            entry.told = Some(Some(waiting_for.clone()));
            let lb = self.settings.name.clone();
            let cluster = self.memory.cluster;
            self.send(link, ToServer::Registered { lb, cluster, waiting_for: Some(waiting_for) });
        }
    }

    /// Asks for what it needs: at once, and again as long as it is needed.
    fn provide(&mut self, folder: FolderId, need: Need) {
        let now = self.now;
        let Some(entry) = self.registry.get_mut(folder) else { return };
        let Some(own_link) = entry.link else { return };
        let (over, message) = match need {
            Need::Probe => return self.probe(folder),
            Need::Wait(_) => return,
            Need::Stop => {
                let name = entry.name().to_owned();
                return self.stop_dismissed(own_link, &name);
            }
            Need::Admission { leader } => {
                let Report { info, runs, .. } = &entry.report;
                (leader, ToServer::Admit { info: info.clone(), runs: runs.clone() })
            }
            Need::Adoption(adopt) => (own_link, adopt),
        };
        let waiting =
            entry.asked.is_some_and(|asked| asked.over == over && now < asked.at + REPEAT_AFTER);
        if !waiting {
            if entry.asked.is_some_and(|asked| asked.over != over) {
                entry.leader_says = None;
            }
            entry.asked = Some(Asked { at: now, over });
            self.send(over, message);
        }
    }

    /// Asks whether a fresh server answers at the address that all others will
    /// be told: one that nobody can reach must never become a member.
    fn probe(&mut self, folder: FolderId) {
        let Some(entry) = self.registry.get_mut(folder) else { return };
        let peer = entry.report.info.peer;
        if entry.probed.is_none_or(|(asked, _)| asked != peer) {
            entry.probed = Some((peer, false));
            self.outputs.push(Output::Probe { folder, peer });
        }
    }

    pub(super) fn probed(
        &mut self,
        folder: FolderId,
        peer: SocketAddr,
        result: Result<(), String>,
    ) {
        // It may have come back with another address meanwhile.
        let Some(entry) = self.registry.get_mut(folder) else { return };
        if entry.probed != Some((peer, false)) {
            return;
        }
        let Err(why) = result else {
            entry.probed = Some((peer, true));
            return;
        };
        entry.probed = None;
        let who = entry.name().to_owned();
        if let Some(link) = entry.link.filter(|_| entry.is_live() && entry.is_fresh()) {
            let why = format!(
                "{who} gives {peer} as its address for other servers, but it does not answer \
                 there: {why}. Start it with a --sip that the others can reach"
            );
            self.refuse(link, &who, why);
        }
    }

    pub(super) fn admitted(
        &mut self,
        link: LinkId,
        folder: FolderId,
        result: Result<ServerId, String>,
    ) {
        // Only the leader that was asked has a say.
        let asked = |entry: &&mut Entry| entry.asked.is_some_and(|asked| asked.over == link);
        let Some(entry) = self.registry.get_mut(folder).filter(asked) else { return };
        let says = result.as_ref().err().cloned();
        if entry.leader_says == says {
            return;
        }
        entry.leader_says = says;
        if let Err(why) = result {
            let text = format!("the leader does not admit {}: {why}", entry.name());
            self.log(Severity::Warning, text);
        }
    }
}
