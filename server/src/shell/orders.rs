//! Orders of load balancers: carried out by the leader, handed on by the others.
//!
//! Nothing is kept here of what was handed on: the answer says for which load
//! balancer it is. What gets lost is asked for again.

use std::net::SocketAddr;

use common::control::{ToLb, ToPeer, ToServer};
use common::udp::Lane;
use raft::NodeId;

use super::member::Member;
use crate::driver::Now;
use crate::membership::{hands_orders_to, not_handed_on};

impl Member {
    /// An order of the load balancer at `lb`.
    pub(super) fn order(&mut self, now: Now, lb: SocketAddr, order: &ToServer) {
        let answer = match hands_orders_to(&self.driver) {
            // One of an older program takes no orders from servers, and closes the link.
            Some(leader) if self.transport.run_of(leader).is_none() => {
                not_handed_on(&self.driver, order)
            }
            Some(leader) => {
                let message = ToPeer::Order { lb, order: Box::new(order.clone()) };
                match self.tell_peer(leader, &message) {
                    true => None,
                    false => not_handed_on(&self.driver, order),
                }
            }
            None => self.members.order(&mut self.driver, now, order),
        };
        if let Some(answer) = answer {
            self.shell.tell_lb(lb, answer);
        }
    }

    /// What another server says about orders.
    pub(super) fn peer_message(&mut self, now: Now, from: NodeId, frame: &[u8]) {
        let message = match serde_json::from_slice(frame) {
            Ok(message) => message,
            // Of a newer program, perhaps: the link is needed for more than that.
            Err(error) => {
                return tracing::warn!(from = from.0, %error, "message of a server refused");
            }
        };
        match message {
            // Carried out here or nowhere: an order that went on from server to
            // server might never end.
            ToPeer::Order { lb, order } => {
                if let Some(answer) = self.members.order(&mut self.driver, now, &order) {
                    self.tell_peer(from, &ToPeer::Answer { lb, answer: Box::new(answer) });
                }
            }
            ToPeer::Answer { lb, answer } => {
                if matches!(*answer, ToLb::Operated { .. } | ToLb::Admitted { .. }) {
                    self.shell.tell_lb(lb, *answer);
                }
            }
        }
    }

    /// Whether the message has left.
    fn tell_peer(&self, peer: NodeId, message: &ToPeer) -> bool {
        let Some(link) = self.transport.link_to(peer) else { return false };
        let sent = serde_json::to_vec(message).map(|json| link.send(Lane::Control, &json));
        matches!(sent, Ok(Ok(())))
    }
}
