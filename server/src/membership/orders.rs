//! Orders of load balancers, which only the leader can carry out.

use common::control::{Operation, Outcome, ToLb, ToServer};
use raft::NodeId;

use super::Members;
use crate::driver::{Driver, Now};

impl Members {
    /// Carries out an order of a load balancer: the answer, if there is one yet.
    pub fn order(&mut self, driver: &mut Driver, now: Now, order: &ToServer) -> Option<ToLb> {
        match order {
            ToServer::Operate { number, wanted, runs } => {
                let outcome = self.operate(driver, now, wanted, runs);
                Some(ToLb::Operated { number: *number, outcome })
            }
            ToServer::Admit { info, runs } => {
                let result = self.admit(driver, now, info, runs)?;
                Some(ToLb::Admitted { folder: info.folder, result })
            }
            _ => None,
        }
    }
}

/// The leader, if that is another server: an order that a load balancer gives here
/// goes there, because the load balancer does not reach it.
pub fn hands_orders_to(driver: &Driver) -> Option<NodeId> {
    driver.node().leader().filter(|leader| *leader != driver.node().id())
}

/// What an operator is told whose order could not be handed on.
pub fn not_handed_on(driver: &Driver, order: &ToServer) -> Option<ToLb> {
    let ToServer::Operate { number, wanted, .. } = order else { return None };
    let what = match wanted {
        Operation::Remove { .. } => "removal",
        Operation::Transfer { .. } => "transfer",
    };
    let name = &driver.info().name;
    let why = format!("{name} has no link to the leader now, to hand the {what} on");
    Some(ToLb::Operated { number: *number, outcome: Outcome::Pending(why) })
}
