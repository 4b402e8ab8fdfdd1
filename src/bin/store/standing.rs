//! Where a server that starts stands with its load balancers: who has taken its
//! registration, who has not and why, and what becomes of a start that nobody
//! takes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use server::config::Progress;

use crate::announce::Announcement;
use crate::background::Background;
use crate::failure::{Failure, Outcome};
use crate::home::Home;
use crate::silent;

/// How long a load balancer may take to answer, so that the whole command
/// fails within five seconds.
pub(crate) const REGISTRATION: Duration = Duration::from_millis(4500);

/// How long the other servers may take to take in one that they know, when no
/// load balancer wants it.
const PEERS: Duration = Duration::from_millis(1500);

/// How long a server that has its vote waits for its load balancers.
const VOTES_ALREADY: Duration = Duration::from_secs(1);

/// Why a load balancer has not registered the server.
#[derive(Clone, PartialEq, Eq, Debug)]
struct No {
    /// It was reached, and does not want it.
    refuses: bool,
    why: String,
}

/// What is known so far.
#[derive(Debug)]
pub(crate) struct Standing {
    home: Home,
    lbs: Vec<SocketAddr>,
    /// A load balancer has accepted its folder before: it may hold data, and
    /// others may know it.
    was_registered: bool,
    registered: BTreeSet<SocketAddr>,
    others: BTreeMap<SocketAddr, No>,
    has_vote: bool,
    until: Instant,
}

impl Standing {
    /// Of a server that has just begun to serve.
    pub(crate) fn new(home: &Home, lbs: &[SocketAddr], was_registered: bool) -> Self {
        Standing {
            home: home.clone(),
            lbs: lbs.to_vec(),
            was_registered,
            registered: BTreeSet::new(),
            others: BTreeMap::new(),
            has_vote: false,
            until: Instant::now() + REGISTRATION,
        }
    }

    /// Takes in a step of its start.
    pub(crate) fn note(&mut self, progress: &Progress) {
        let now = Instant::now();
        match progress {
            Progress::Registered { lb, .. } => {
                self.registered.insert(*lb);
            }
            Progress::NotRegistered { lb, refuses, why } => {
                self.others.insert(*lb, No { refuses: *refuses, why: why.clone() });
                if self.was_registered && self.is_out() {
                    self.until = self.until.min(now + PEERS);
                }
            }
            Progress::Voter { .. } => {
                self.has_vote = true;
                self.until = self.until.min(now + VOTES_ALREADY);
            }
            _ => {}
        }
    }

    /// A load balancer, or the cluster itself, has taken it in.
    pub(crate) fn is_accepted(&self) -> bool {
        self.is_registered() || self.has_vote
    }

    /// A load balancer has taken it in.
    pub(crate) fn is_registered(&self) -> bool {
        !self.registered.is_empty()
    }

    /// All load balancers have said no, or nothing for long.
    fn is_out(&self) -> bool {
        self.lbs.iter().all(|lb| self.others.contains_key(lb)) && !self.is_registered()
    }

    /// When to wait no longer for a load balancer.
    pub(crate) fn until(&self) -> Instant {
        let is_over = self.is_out() && (self.has_vote || !self.was_registered);
        if is_over { Instant::now() } else { self.until }
    }

    /// Each load balancer that has not registered it, and why.
    pub(crate) fn missing(&self) -> String {
        let missing = self.lbs.iter().filter(|lb| !self.registered.contains(lb));
        let each = missing.map(|lb| match self.others.get(lb) {
            Some(No { refuses: true, why }) => why.clone(),
            _ => silent::why(&self.home, *lb),
        });
        each.collect::<Vec<_>>().join("; ")
    }

    /// Nobody has taken it in. One that holds data goes on trying, unless all
    /// have refused it.
    pub(crate) fn give_up(&self, process: Background) -> Failure {
        let (name, log) = (&process.node.name, process.node.log_path());
        let (name, log, why) = (name.clone(), log.display().to_string(), self.missing());
        let refused = self.is_out() && self.others.values().all(|no| no.refuses);
        if self.was_registered && !refused {
            return Failure::unreachable(format!(
                "{name} is not registered: {why}.\nIt holds data, so it keeps running (pid {}) \
                 and trying; its log: {log}",
                process.pid()
            ));
        }
        process.terminate();
        Failure::unreachable(format!(
            "{name} is not registered and stopped again: {why}.\nIts log: {log}"
        ))
    }
}

/// Waits until a server that serves is taken in, without telling of it.
///
/// # Errors
/// It ends, or nobody takes it in.
pub(crate) fn wait_accepted(
    mut process: Background,
    mut standing: Standing,
) -> Outcome<Background> {
    while !standing.is_accepted() {
        match process.next(standing.until())? {
            Some(Announcement::Server { progress }) => standing.note(&progress),
            Some(_) => {}
            None => return Err(standing.give_up(process)),
        }
    }
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::control::Role;
    use common::ids::ServerId;
    use std::path::Path;

    fn lb(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn standing(was_registered: bool) -> Standing {
        let home = Home::at(Path::new("/nowhere")).unwrap();
        Standing::new(&home, &[lb(1), lb(2)], was_registered)
    }

    fn no(port: u16, refuses: bool) -> Progress {
        Progress::NotRegistered { lb: lb(port), refuses, why: format!("{port} says no") }
    }

    fn waits(standing: &Standing) -> Duration {
        standing.until().saturating_duration_since(Instant::now())
    }

    #[test]
    fn a_fresh_server_waits_until_everybody_has_said_no() {
        let mut fresh = standing(false);
        fresh.note(&no(1, true));
        assert!(waits(&fresh) > Duration::from_secs(4), "the other one may take it");
        fresh.note(&no(2, true));
        assert_eq!(waits(&fresh), Duration::ZERO);
        assert_eq!(fresh.missing(), "1 says no; 2 says no");
    }

    #[test]
    fn one_that_takes_it_is_enough() {
        let mut server = standing(false);
        server.note(&no(1, true));
        server.note(&Progress::Registered { lb: lb(2), waiting_for: None });
        assert!(server.is_accepted());
        assert_eq!(server.missing(), "1 says no");
    }

    #[test]
    fn a_member_waits_a_moment_for_its_peers_and_then_for_nobody() {
        let mut member = standing(true);
        for port in [1, 2] {
            member.note(&no(port, true));
        }
        assert!(waits(&member) > Duration::ZERO && waits(&member) <= PEERS);
        let vote = Progress::Voter { id: ServerId(1), role: Role::Follower, replaces: vec![] };
        member.note(&vote);
        assert!(member.is_accepted() && !member.is_registered());
        assert_eq!(waits(&member), Duration::ZERO);
    }

    #[test]
    fn one_that_votes_waits_only_a_moment_for_load_balancers_that_are_away() {
        let mut member = standing(true);
        member.note(&Progress::Voter { id: ServerId(1), role: Role::Leader, replaces: vec![] });
        assert!(waits(&member) > Duration::ZERO && waits(&member) <= VOTES_ALREADY);
        assert!(member.missing().contains("127.0.0.1:1"), "{}", member.missing());
    }
}
