//! The cluster of this load balancer: formed, seen, and remembered.

use std::time::Duration;

use common::control::Waiting;
use common::ids::ClusterId;

use super::{Balancer, Output, PlantedBug};
use crate::bootstrap::{self, Decision};
use crate::events::Severity;
use crate::memory::Memory;
use crate::registry::Entry;

/// How often the memory is written again after the disk refused.
const SAVE_AGAIN: Duration = Duration::from_millis(1000);

impl Balancer {
    /// A member of a cluster reports: from now on that is the cluster of this
    /// load balancer, if it had none. One that is being formed is given up:
    /// nobody has been told of it.
    pub(super) fn see_cluster(&mut self, cluster: ClusterId, who: &str) {
        if self.memory.cluster.is_some() || self.has(PlantedBug::ClusterUnseen) {
            return;
        }
        self.memory = Memory { cluster: Some(cluster), voters: Vec::new() };
        self.save_at = Some(self.now);
        self.log(Severity::Info, format!("{who} belongs to cluster {cluster}: adopted it"));
    }

    /// Forms a cluster, if it is time: writes it down first. It is there once
    /// that is durable.
    pub(super) fn form_cluster(&mut self) {
        if self.memory.cluster.is_some() || !self.may_save() {
            return;
        }
        if let Decision::Form(voters) = self.founding() {
            self.persist(Memory { cluster: Some(self.settings.cluster_to_form), voters });
        }
    }

    /// Whether it is time to found a cluster, for a load balancer that knows none.
    pub(super) fn founding(&self) -> Decision {
        let fresh = self.registry.fresh();
        let unasked = self.has(PlantedBug::FoundsUnasked);
        let heard_of = fresh.iter().find_map(|entry| entry.report.heard_of);
        if let Some(cluster) = heard_of.filter(|_| !unasked) {
            return Decision::Wait(Waiting::for_what(format!(
                "a member of cluster {cluster} to report here: another load balancer knows it"
            )));
        }
        let able = |entry: &&&Entry| (entry.report.may_found || unasked) && entry.is_reached();
        // Another load balancer may know a cluster whose members do not know this one.
        let unheard = fresh.iter().filter(able).find_map(|entry| entry.report.unheard.first());
        if let Some(lb) = unheard.filter(|_| !unasked) {
            return Decision::Wait(Waiting::for_what(format!(
                "load balancer {lb} to answer: it may know a cluster already. Start it, or leave \
                 it out of the lists of all servers"
            )));
        }
        let infos: Vec<_> = fresh.iter().filter(able).map(|entry| &entry.report.info).collect();
        bootstrap::decide(self.now, self.settings.expect, infos.into_iter())
    }

    /// Writes down a cluster that was seen.
    pub(super) fn save(&mut self) {
        if self.memory.cluster.is_some() && self.save_at.is_some() && self.may_save() {
            self.persist(self.memory.clone());
        }
    }

    fn may_save(&self) -> bool {
        self.saving.is_none() && self.save_at.is_none_or(|at| at <= self.now)
    }

    fn persist(&mut self, memory: Memory) {
        self.saving = Some(memory.clone());
        self.outputs.push(Output::Persist(memory));
    }

    pub(super) fn persisted(&mut self, result: Result<(), String>) {
        let Some(written) = self.saving.take() else { return };
        if let Err(why) = result {
            self.save_at = Some(self.now + SAVE_AGAIN);
            return self.log(Severity::Warning, format!("memory not written: {why}"));
        }
        if self.memory.cluster.is_none() {
            let names: Vec<_> = written.voters.iter().map(|voter| &*voter.info.name).collect();
            let cluster = self.settings.cluster_to_form;
            let text = format!("cluster {cluster} is formed by {}", names.join(", "));
            self.memory = written;
            self.save_at = None;
            self.log(Severity::Info, text);
        } else if self.memory == written {
            self.save_at = None;
        }
    }
}
