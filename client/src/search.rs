//! Asks who serves, for all connections of a client together: one lookup at a
//! time, whose result the others take. The decisions are the finder's.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::connection::Connection;
use crate::error::Role;
use crate::finder::Finder;
use crate::race::first_good;
use crate::retry::Trouble;

/// Shared by the connections of a client.
#[derive(Debug)]
pub(crate) struct Search {
    finder: Mutex<Finder>,
    /// Held by whoever asks.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl Search {
    pub(crate) fn new(finder: Finder) -> Self {
        Search { finder: Mutex::new(finder), asking: Arc::default() }
    }

    /// What is known. It is held for a moment only, never across an await.
    pub(crate) fn finder(&self) -> MutexGuard<'_, Finder> {
        self.finder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Servers to connect to, best first, asked for anew unless somebody else
    /// has just done that; none if nobody knows any. `wait` is for one answer.
    pub(crate) async fn servers(&self, trouble: &mut Trouble, wait: Duration) -> Vec<SocketAddr> {
        let seen = {
            let finder = self.finder();
            if finder.is_fixed() {
                return finder.targets(Instant::now());
            }
            finder.lookups()
        };
        let Ok(_turn) = timeout_at(trouble.deadline(), self.asking.lock()).await else {
            trouble.note("who serves is being asked, and there was no answer in time".into());
            return Vec::new();
        };
        if !self.finder().stands(seen, Instant::now()) {
            self.ask(wait, Some(trouble.deadline())).await;
        }
        let finder = self.finder();
        trouble.heard(finder.said(), finder.only_refused());
        let servers = finder.targets(Instant::now());
        if let (true, Some(last)) = (servers.is_empty(), finder.said().last()) {
            trouble.note(last.to_string());
        }
        servers
    }

    /// Looks again beside what goes on, if it is time for that.
    pub(crate) fn recheck(self: &Arc<Self>, server: SocketAddr, wait: Duration) {
        if !self.finder().is_due(server, Instant::now()) {
            return;
        }
        let Ok(turn) = self.asking.clone().try_lock_owned() else { return };
        let search = self.clone();
        tokio::spawn(async move {
            search.ask(wait, None).await;
            drop(turn);
        });
    }

    async fn ask(&self, wait: Duration, deadline: Option<Instant>) {
        let asked = self.finder().begin(Instant::now());
        let addresses: Vec<_> = asked.iter().map(|(address, _)| *address).collect();
        let role = |address| {
            let found = asked.iter().find(|(asked, _)| *asked == address);
            found.map_or(Role::Server, |(_, role)| *role)
        };
        let answer = first_good(&addresses, |address| {
            let until = Instant::now() + wait;
            self.ask_one(address, role(address), deadline.map_or(until, |by| until.min(by)))
        });
        let answer = answer.await;
        let mut finder = self.finder();
        match answer {
            Ok((by, servers)) => finder.named(&asked, by, servers, Instant::now()),
            Err(_) => finder.nobody(&asked, Instant::now()),
        }
    }

    /// Those that `address` names. It is an error if a load balancer knows no
    /// leader; a server then waits for one itself.
    async fn ask_one(
        &self,
        address: SocketAddr,
        role: Role,
        until: Instant,
    ) -> Result<Vec<SocketAddr>, ()> {
        let says = |said: String| self.finder().says(address, role, said);
        self.finder().asks(address, role);
        let wait = until.saturating_duration_since(Instant::now());
        let found = match Connection::open(address, wait).await {
            Ok(mut connection) => {
                self.finder().not_refused();
                connection.discover(until).await.map_err(|failed| failed.cause)
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.finder().is_not_silent(address);
                Err(error.to_string())
            }
            Err(error) => {
                self.finder().not_refused();
                Err(error.to_string())
            }
        };
        if found.is_ok() {
            self.finder().is_not_silent(address);
        }
        match found {
            Ok(servers) if servers.is_empty() => {
                says("knows no leader".into());
                if role == Role::Server { Ok(servers) } else { Err(()) }
            }
            Ok(servers) => {
                let names: Vec<_> = servers.iter().map(SocketAddr::to_string).collect();
                says(format!("named {}", names.join(", ")));
                Ok(servers)
            }
            Err(why) => {
                says(why);
                Err(())
            }
        }
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
