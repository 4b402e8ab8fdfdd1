//! Operators: they show the cluster key, ask for something that only the
//! leader can do, and get its answer.

use std::collections::BTreeMap;
use std::time::Duration;

use common::control::{Operation, Outcome, ToLb, ToServer};

use super::{Balancer, Output};
use crate::registry::{Entry, LinkId};

/// An operator's command is over long before.
const OVERDUE: Duration = Duration::from_secs(30);

/// An order that the leader has not answered by then is to be asked for again: it was
/// lost, or its answer was, on the way over a server that hands orders on.
const UNANSWERED: Duration = Duration::from_secs(3);

/// Operators at a time.
const MAX_OPERATORS: usize = 64;

/// The operators' links, and what they wait for.
#[derive(Debug, Default)]
pub(super) struct Operators {
    /// When each of them came.
    links: BTreeMap<LinkId, Duration>,
    next_number: u64,
    asked: BTreeMap<u64, Asked>,
}

/// What the leader has not answered.
#[derive(Debug)]
struct Asked {
    operator: LinkId,
    /// The link that it was asked over: the leader's, or that of a server which hands
    /// it on.
    over: LinkId,
    at: Duration,
    wanted: Operation,
}

impl Balancer {
    pub(super) fn operator_opened(&mut self, link: LinkId) {
        if self.operators.links.len() >= MAX_OPERATORS {
            let reason = format!("{MAX_OPERATORS} operators are here already");
            return self.outputs.push(Output::Close { link, reason });
        }
        self.operators.links.insert(link, self.now);
    }

    /// Whether `message` came from an operator, and was taken care of.
    pub(super) fn operator_message(&mut self, link: LinkId, message: &ToLb) -> bool {
        if !self.operators.links.contains_key(&link) {
            return false;
        }
        match message {
            ToLb::Operate(wanted) => self.operate(link, wanted.clone()),
            _ => {
                self.operators.links.remove(&link);
                let reason = "operators have nothing else to say".to_owned();
                self.outputs.push(Output::Close { link, reason });
            }
        }
        true
    }

    fn operate(&mut self, from: LinkId, wanted: Operation) {
        let Some(over) = self.link_to_leader() else {
            let outcome = Outcome::Pending("no server leads".to_owned());
            return self.send(from, ToServer::Operated(outcome));
        };
        self.operators.next_number += 1;
        let number = self.operators.next_number;
        let asked = Asked { operator: from, over, at: self.now, wanted: wanted.clone() };
        self.operators.asked.insert(number, asked);
        let run = |entry: &Entry| Some((entry.report.info.folder, entry.report.info.run?));
        let runs = self.registry.iter().filter_map(run).collect();
        self.send(over, ToServer::Operate { number, wanted, runs });
    }

    /// What the leader has answered.
    pub(super) fn operated(&mut self, over: LinkId, number: u64, outcome: Outcome) {
        let asked = &mut self.operators.asked;
        if asked.get(&number).is_none_or(|asked| asked.over != over) {
            return;
        }
        let Some(Asked { operator, wanted, .. }) = asked.remove(&number) else { return };
        let outcome = match (&wanted, outcome) {
            (Operation::Remove { server, .. }, Outcome::Unknown(why)) => {
                match self.runs_though_dismissed(server) {
                    Some(name) => Outcome::Stops(format!("{name} is told to stop")),
                    None => Outcome::Unknown(why),
                }
            }
            (_, outcome) => outcome,
        };
        self.send(operator, ToServer::Operated(outcome));
    }

    /// A link is gone: an operator's, or that of a leader which was asked.
    pub(super) fn operator_link_closed(&mut self, link: LinkId) {
        self.operators.links.remove(&link);
        let why = "the leader was lost before it answered";
        self.give_up(why, |asked| asked.operator == link || asked.over == link);
    }

    /// Tells the operators that are still there that some orders have no answer.
    fn give_up(&mut self, why: &str, which: impl Fn(&Asked) -> bool) {
        let lost = self.operators.asked.extract_if(.., |_, asked| which(asked));
        let waiting: Vec<_> = lost.map(|(_, asked)| asked.operator).collect();
        for operator in waiting {
            if self.operators.links.contains_key(&operator) {
                let outcome = Outcome::Pending(why.to_owned());
                self.send(operator, ToServer::Operated(outcome));
            }
        }
    }

    pub(super) fn close_overdue_operators(&mut self) {
        let now = self.now;
        let unanswered = |asked: &Asked| now.saturating_sub(asked.at) >= UNANSWERED;
        self.give_up("the leader has not answered", unanswered);
        let overdue = |_: &LinkId, since: &mut Duration| now.saturating_sub(*since) >= OVERDUE;
        let over: Vec<_> = self.operators.links.extract_if(.., overdue).collect();
        for (link, _) in over {
            self.operator_link_closed(link);
            let reason = "nothing is left to say".to_owned();
            self.outputs.push(Output::Close { link, reason });
        }
    }
}
