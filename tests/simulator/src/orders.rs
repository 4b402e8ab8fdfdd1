//! What a member does about the word of a load balancer, as in the shell.

use common::control::{ToLb, ToServer};
use server::driver::Now;
use server::membership::{self, Place, Placed};

use crate::process::Process;

impl Process {
    pub(crate) fn hear_lb(&mut self, now: Now, lb: usize, message: ToServer) {
        match message {
            ToServer::Adopt { cluster, id, voters, campaign } => {
                let place = Place { cluster, id, voters, campaign };
                match membership::placed(&self.driver, self.driver.cluster(), &place) {
                    Placed::Rejoins(id) => self.rejoins_as = Some(id),
                    Placed::Campaigns => self.driver.campaign(now),
                    Placed::Stays | Placed::Refuses => {}
                }
            }
            ToServer::Operate { number, wanted, runs } => {
                let outcome = self.members.operate(&mut self.driver, now, &wanted, &runs);
                self.to_lbs.push((lb, ToLb::Operated { number, outcome }));
            }
            ToServer::Admit { info } => {
                let folder = info.folder;
                if let Some(result) = self.members.admit(&mut self.driver, now, &info) {
                    self.to_lbs.push((lb, ToLb::Admitted { folder, result }));
                }
            }
            ToServer::Campaign { term } => self.driver.campaign_in(now, term),
            ToServer::Refused { .. } => self.refused = true,
            // Nobody moves here.
            ToServer::Registered { .. } | ToServer::Operated(_) | ToServer::Whereabouts { .. } => {}
        }
    }
}
