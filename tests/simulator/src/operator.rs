//! Operators: they ask for what only the leader can do, by way of a load
//! balancer, and ask again until it is done or refused.

use common::control::{Hello, Operation, Outcome, PROTOCOL_VERSION, Party, ToLb, ToServer};
use lb::balancer::Input;
use lb::registry::LinkId;
use raft::NodeId;

use crate::queue::Micros;
use crate::world::{Event, World};

/// An answer that does not come within this does not come.
const PATIENCE: Micros = 1_500_000;

/// Between two questions, and after a refusal.
const AGAIN: Micros = 50_000;
const AFTER_REFUSAL: Micros = 300_000;

/// What an operator wants.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    /// A server that is lost, with its data, is to be no member any more.
    Forget(NodeId),
    /// A server is to leave, and what becomes of its host then.
    Leave(NodeId, Afterwards),
    /// Leadership is to go to somebody else.
    Transfer,
}

/// What becomes of the host of a server that was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Afterwards {
    /// It is left as it is.
    Stays,
    /// It starts over with an empty folder after this time.
    StartsOver(Micros),
    /// It hangs, and goes on this long after its removal, and after another change
    /// of the membership.
    GoesOn(Micros),
}

/// An operator at work.
struct Operator {
    wish: Wish,
    /// Not any longer than this.
    until: Micros,
    /// Leadership has to go elsewhere first.
    hand_over: bool,
    link: Option<(usize, LinkId)>,
    /// When the answer is given up, or the question asked.
    next_at: Micros,
    next_lb: usize,
}

/// All that is asked for.
#[derive(Default)]
pub(crate) struct Operators {
    at_work: Vec<Operator>,
    /// Hosts that are going to start over.
    pub(crate) starting_over: usize,
    /// Orders and their answers on their way between servers.
    pub(crate) handed_on: usize,
}

impl Operators {
    /// Whether somebody waits for this server to be forgotten.
    pub(crate) fn want_gone(&self, id: NodeId) -> bool {
        let wants = |operator: &Operator| matches!(operator.wish, Wish::Forget(own) if own == id);
        self.at_work.iter().any(wants)
    }

    /// Whether nobody waits for a server to leave.
    pub(crate) fn want_nobody_gone(&self) -> bool {
        let transfers = |operator: &Operator| matches!(operator.wish, Wish::Transfer);
        self.starting_over == 0 && self.at_work.iter().all(transfers)
    }
}

impl World {
    /// Somebody wants something done within `length`.
    pub(crate) fn wish(&mut self, wish: Wish, length: Micros) {
        self.out.watch.trace.note(|| format!("an operator wants: {wish:?}"));
        self.operators.at_work.push(Operator {
            wish,
            until: self.now.saturating_add(length),
            hand_over: false,
            link: None,
            next_at: self.now,
            next_lb: 0,
        });
    }

    pub(crate) fn is_operator(&self, link: LinkId) -> bool {
        self.operators
            .at_work
            .iter()
            .any(|operator| operator.link.is_some_and(|(_, own)| own == link))
    }

    pub(crate) fn mind_operators(&mut self) {
        self.forget_lost();
        // Nobody could be admitted or removed, nor would an operator leave it so.
        if let Some(leader) = self.leader().filter(|leader| self.hosts[*leader].unlisted)
            && self.hosts[leader].disk.id.is_some_and(|id| self.is_member(id))
        {
            self.hosts[leader].unlisted = false;
        }
        let mut at = 0;
        while let Some(operator) = self.operators.at_work.get_mut(at) {
            at += 1;
            if self.now < operator.next_at {
                continue;
            }
            if let Some((lb, link)) = operator.link.take() {
                // No answer: the next load balancer is asked.
                operator.next_lb += 1;
                let reason = "no answer".to_owned();
                self.balance(lb, Input::Closed { link, reason });
            }
            self.ask(at - 1);
        }
        let now = self.now;
        self.operators.at_work.retain(|operator| now < operator.until);
    }

    fn ask(&mut self, at: usize) {
        let count = self.lbs.len();
        let Some(operator) = self.operators.at_work.get_mut(at) else { return };
        let lb = operator.next_lb % count;
        operator.next_at = self.now + PATIENCE;
        if !self.lbs[lb].is_up() {
            operator.next_lb += 1;
            operator.next_at = self.now + AGAIN;
            return;
        }
        let wanted = match operator.wish {
            _ if operator.hand_over => Operation::Transfer { to: None },
            Wish::Transfer => Operation::Transfer { to: None },
            Wish::Forget(id) | Wish::Leave(id, _) => {
                Operation::Remove { server: format!("#{}", id.0), force: false, only_look: false }
            }
        };
        let link = self.control.number();
        operator.link = Some((lb, link));
        let from = Party::Operator { name: "orders".to_owned() };
        let hello = Hello { version: PROTOCOL_VERSION, from };
        let remote = ([10, 0, 1, 1], 1).into();
        self.balance(lb, Input::Opened { link, remote, hello });
        let message = Box::new(ToLb::Operate(wanted));
        self.balance(lb, Input::Message { link, message });
    }

    pub(crate) fn operator_hears(&mut self, link: LinkId, message: ToServer) {
        let ToServer::Operated(outcome) = message else { return };
        let own = |operator: &Operator| operator.link.is_some_and(|(_, own)| own == link);
        let Some(at) = self.operators.at_work.iter().position(own) else { return };
        self.out.watch.trace.note(|| format!("an operator hears: {outcome:?}"));
        let leader = self.leader().and_then(|leader| self.hosts[leader].disk.id);
        let operator = &mut self.operators.at_work[at];
        let Some((lb, _)) = operator.link.take() else { return };
        operator.next_at = self.now + AGAIN;
        let mut done = false;
        match (&operator.wish, outcome) {
            _ if std::mem::take(&mut operator.hand_over) => {}
            (Wish::Transfer, outcome) => done = !matches!(outcome, Outcome::Pending(_)),
            (_, Outcome::Done(_) | Outcome::Unknown(_) | Outcome::Stops(_)) => done = true,
            (Wish::Forget(id) | Wish::Leave(id, _), Outcome::Refused(_)) => {
                operator.hand_over = leader == Some(*id);
                operator.next_at = self.now + AFTER_REFUSAL;
            }
            (_, Outcome::Removes { .. } | Outcome::Pending(_) | Outcome::HandsOver(_)) => {}
        }
        if done {
            let Operator { wish, .. } = self.operators.at_work.swap_remove(at);
            match wish {
                Wish::Leave(id, Afterwards::StartsOver(after)) => {
                    self.operators.starting_over += 1;
                    self.queue.push(self.now + after, Event::StartOver(id));
                }
                Wish::Leave(id, Afterwards::GoesOn(after)) => self.let_go_on(id, after),
                _ => {}
            }
        }
        let reason = "answered".to_owned();
        self.balance(lb, Input::Closed { link, reason });
    }

    /// Nobody moves leadership from now on. An order that is on its way arrives
    /// long before it has to stay where it is.
    pub(crate) fn give_up_transfers(&mut self) {
        self.operators.at_work.retain(|operator| !matches!(operator.wish, Wish::Transfer));
    }

    /// Their load balancer is gone.
    pub(crate) fn lose_operators_of(&mut self, lb: usize) {
        for operator in &mut self.operators.at_work {
            if operator.link.is_some_and(|(at, _)| at == lb) {
                operator.link = None;
                operator.next_lb += 1;
                operator.next_at = self.now + AGAIN;
            }
        }
    }
}
