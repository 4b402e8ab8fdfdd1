//! What a member does about the word of a load balancer, as in the shell.

use std::net::SocketAddr;

use common::control::{ToPeer, ToServer};
use raft::NodeId;
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
            order @ (ToServer::Operate { .. } | ToServer::Admit { .. }) => {
                match membership::hands_orders_to(&self.driver) {
                    Some(leader) => {
                        let (lb, order) = (address_of(lb), Box::new(order));
                        self.to_peers.push((leader, ToPeer::Order { lb, order }));
                    }
                    None => {
                        let answer = self.members.order(&mut self.driver, now, &order);
                        self.to_lbs.extend(answer.map(|answer| (lb, answer)));
                    }
                }
            }
            ToServer::Campaign { term } => self.driver.campaign_in(now, term),
            ToServer::Refused { dismissed, .. } => {
                self.refused = true;
                self.dismissed |= dismissed;
            }
            // Nobody moves here.
            ToServer::Registered { .. } | ToServer::Operated(_) | ToServer::Whereabouts { .. } => {}
        }
    }

    /// What another server says about orders.
    pub(crate) fn hear_peer(&mut self, now: Now, from: NodeId, frame: &[u8]) {
        match serde_json::from_slice(frame).expect("a peer's own encoding") {
            ToPeer::Order { lb, order } => {
                if let Some(answer) = self.members.order(&mut self.driver, now, &order) {
                    self.to_peers.push((from, ToPeer::Answer { lb, answer: Box::new(answer) }));
                }
            }
            ToPeer::Answer { lb, answer } => self.to_lbs.push((number_of(lb), *answer)),
        }
    }
}

/// Where servers find a load balancer.
pub(crate) fn address_of(lb: usize) -> SocketAddr {
    ([10, 0, 2, 1], lb as u16 + 1).into()
}

fn number_of(lb: SocketAddr) -> usize {
    usize::from(lb.port()) - 1
}
