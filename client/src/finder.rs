//! Who can be asked who serves, who serves, and in which order to try them.
//!
//! Load balancers and servers alike answer `get-servers`, and every server
//! takes every command. So whoever has once learnt of servers can do without
//! load balancers: any server that lives names the leader, or takes the
//! request and waits for the next leader itself.
//!
//! It is pure: no sockets, and time is told. `search.rs` does the asking.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Role, Tried};

/// Who failed is tried behind all others for so long: whoever names it may not
/// have noticed yet.
const SHUN_SERVER: Duration = Duration::from_secs(1);

/// The same for who is asked: one that is silent costs a moment each time.
const SHUN_SOURCE: Duration = Duration::from_secs(10);

/// What was just learnt is not asked for again, however many lose their
/// server at that moment.
const STANDS: Duration = Duration::from_millis(20);

/// Servers come and go: what was learnt is looked at again now and then.
const RECHECK: Duration = Duration::from_secs(10);

/// The same while the server at hand is not the one that was named first, or
/// no load balancer has named it.
const RECHECK_MAKESHIFT: Duration = Duration::from_secs(1);

/// What all connections of a client know together.
#[derive(Debug)]
pub(crate) struct Finder {
    lbs: Vec<SocketAddr>,
    /// Best first, as they were named last, or given.
    servers: Vec<SocketAddr>,
    /// Whether a load balancer named them.
    by_lb: bool,
    /// Whether the last lookup found somebody.
    found: bool,
    /// Who failed, and when.
    failed: Vec<(SocketAddr, Instant)>,
    /// Lookups that have ended.
    lookups: u64,
    ended: Option<Instant>,
    /// What each said in the last lookup.
    said: Vec<Tried>,
    /// Who was asked and was silent.
    silent: Vec<SocketAddr>,
    /// Whether all of them refused the connection.
    only_refused: bool,
    /// Whether anything ever answered.
    reached: bool,
}

impl Finder {
    /// One that asks load balancers, and servers once it knows some.
    pub(crate) fn of_lbs(lbs: Vec<SocketAddr>) -> Self {
        Finder { lbs, ..Finder::of_servers(Vec::new()) }
    }

    /// One of fixed servers: nobody is asked.
    pub(crate) fn of_servers(servers: Vec<SocketAddr>) -> Self {
        Finder {
            lbs: Vec::new(),
            servers,
            by_lb: false,
            found: true,
            failed: Vec::new(),
            lookups: 0,
            ended: None,
            said: Vec::new(),
            silent: Vec::new(),
            only_refused: true,
            reached: false,
        }
    }

    /// Whether nobody is asked.
    pub(crate) fn is_fixed(&self) -> bool {
        self.lbs.is_empty()
    }

    /// Lookups that have ended.
    pub(crate) fn lookups(&self) -> u64 {
        self.lookups
    }

    /// Whether anything ever answered.
    pub(crate) fn was_reached(&self) -> bool {
        self.reached
    }

    /// Whether what is known need not be asked for again by somebody who
    /// wanted to know after `seen` lookups.
    pub(crate) fn stands(&self, seen: u64, now: Instant) -> bool {
        self.lookups != seen || self.ended.is_some_and(|ended| now < ended + STANDS)
    }

    /// Whether it is time to look again, though nothing has failed, for
    /// somebody who is connected to `server`.
    pub(crate) fn is_due(&self, server: SocketAddr, now: Instant) -> bool {
        let interval = match self.by_lb && self.is_first(server) {
            true => RECHECK,
            false => RECHECK_MAKESHIFT,
        };
        !self.is_fixed() && self.ended.is_some_and(|ended| now >= ended + interval)
    }

    /// A lookup begins: whom to ask, in this order. Load balancers come first,
    /// but who failed lately comes behind who did not.
    pub(crate) fn begin(&mut self, now: Instant) -> Vec<(SocketAddr, Role)> {
        self.said.clear();
        self.silent.clear();
        self.only_refused = true;
        let lbs = self.lbs.iter().map(|lb| (*lb, Role::LoadBalancer, SHUN_SOURCE));
        let servers = self.servers.iter().map(|server| (*server, Role::Server, SHUN_SERVER));
        let mut asked: Vec<_> = lbs.chain(servers).collect();
        asked.sort_by_key(|(address, _, shun)| self.failed_at(*address, *shun, now));
        asked.into_iter().map(|(address, role, _)| (address, role)).collect()
    }

    /// Somebody is asked.
    pub(crate) fn asks(&mut self, address: SocketAddr, role: Role) {
        self.silent.push(address);
        self.says(address, role, "no answer yet".into());
    }

    /// Somebody who was asked refused the connection, or answered, well or not.
    pub(crate) fn is_not_silent(&mut self, address: SocketAddr) {
        self.silent.retain(|silent| *silent != address);
    }

    /// What somebody said.
    pub(crate) fn says(&mut self, address: SocketAddr, role: Role, said: String) {
        match self.said.iter_mut().find(|tried| tried.address == address) {
            Some(tried) => tried.said = said,
            None => self.said.push(Tried { address, role, said }),
        }
    }

    /// Somebody did something else than refuse the connection.
    pub(crate) fn not_refused(&mut self) {
        self.only_refused = false;
    }

    /// Whether in the last lookup all refused the connection.
    pub(crate) fn only_refused(&self) -> bool {
        self.only_refused
    }

    /// What each said in the last lookup.
    pub(crate) fn said(&self) -> &[Tried] {
        &self.said
    }

    /// The lookup that asked `asked` ends: `by` named `servers`. A server that
    /// knows no leader names nobody, and is good enough itself.
    pub(crate) fn named(
        &mut self,
        asked: &[(SocketAddr, Role)],
        by: SocketAddr,
        servers: Vec<SocketAddr>,
        now: Instant,
    ) {
        let winner = asked.iter().position(|(address, _)| *address == by).unwrap_or(0);
        self.shuns(&asked[..winner], now);
        self.by_lb = asked.get(winner).is_some_and(|(_, role)| *role == Role::LoadBalancer);
        if servers.is_empty() {
            self.servers.sort_by_key(|server| *server != by);
        } else {
            self.servers = servers;
        }
        self.worked(by);
        self.ends(true, now);
    }

    /// The lookup that asked `asked` ends, and nobody knew anything.
    pub(crate) fn nobody(&mut self, asked: &[(SocketAddr, Role)], now: Instant) {
        self.shuns(asked, now);
        self.ends(false, now);
    }

    /// These had nothing good to say. Asking a load balancer that says so at
    /// once costs nothing: it may be the first to know the next leader.
    fn shuns(&mut self, asked: &[(SocketAddr, Role)], now: Instant) {
        for (address, role) in asked {
            if *role == Role::Server || self.silent.contains(address) {
                self.failed(*address, now);
            }
        }
    }

    fn ends(&mut self, found: bool, now: Instant) {
        self.found = found;
        self.lookups += 1;
        self.ended = Some(now);
    }

    /// Servers to connect to, best first; none if the last lookup found nobody.
    pub(crate) fn targets(&self, now: Instant) -> Vec<SocketAddr> {
        if !self.found {
            return Vec::new();
        }
        let mut servers = self.servers.clone();
        servers.sort_by_key(|server| self.failed_at(*server, SHUN_SERVER, now));
        servers
    }

    /// Whether `server` was named first.
    pub(crate) fn is_first(&self, server: SocketAddr) -> bool {
        self.servers.first() == Some(&server)
    }

    /// Whether somebody who is connected to `server` since `seen` lookups, as
    /// the first choice or not, should leave it for another one.
    pub(crate) fn is_better(
        &self,
        server: SocketAddr,
        first: bool,
        seen: u64,
        now: Instant,
    ) -> bool {
        if self.is_fixed() || self.lookups == seen || !self.found {
            return false;
        }
        let best = self.servers.first();
        let usable = best.is_some_and(|best| self.failed_at(*best, SHUN_SERVER, now).is_none());
        usable && (!first && !self.is_first(server) || !self.servers.contains(&server))
    }

    /// `address` did not do what was asked of it.
    pub(crate) fn failed(&mut self, address: SocketAddr, now: Instant) {
        self.failed.retain(|(failed, at)| *failed != address && now < *at + SHUN_SOURCE);
        self.failed.push((address, now));
    }

    /// `address` did what was asked of it.
    pub(crate) fn worked(&mut self, address: SocketAddr) {
        self.reached = true;
        if !self.failed.is_empty() {
            self.failed.retain(|(failed, _)| *failed != address);
        }
    }

    /// When it failed, if that still counts. No failure sorts in front.
    fn failed_at(&self, address: SocketAddr, shun: Duration, now: Instant) -> Option<Instant> {
        let failed = self.failed.iter().find(|(failed, _)| *failed == address);
        failed.map(|(_, at)| *at).filter(|at| now < *at + shun)
    }
}

#[cfg(test)]
#[path = "finder_tests.rs"]
mod tests;
