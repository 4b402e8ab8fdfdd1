//! The servers under load.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::error::Error;
use crate::router::Options;

/// After the start nobody waits longer for a load balancer, as the load
/// stands still meanwhile.
const REFRESH_WAIT: Duration = Duration::from_millis(200);

/// Load balancers are asked no more often than this.
const REFRESH_INTERVAL: Duration = Duration::from_millis(50);

/// Servers, and where to learn of others.
#[derive(Debug)]
pub struct Targets {
    servers: Vec<SocketAddr>,
    discovery: Option<Discovery>,
}

#[derive(Debug)]
struct Discovery {
    cluster: Cluster,
    spread: bool,
    asked_at: Instant,
    runtime: tokio::runtime::Runtime,
}

impl Targets {
    /// Fixed servers; connections are spread over them.
    pub fn fixed(servers: Vec<SocketAddr>) -> Self {
        Targets { servers, discovery: None }
    }

    /// The leader as a load balancer knows it; with `spread` all servers that it names.
    pub fn discovered(
        lbs: Vec<SocketAddr>,
        options: &Options,
        spread: bool,
    ) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| super::local(&error))?;
        let mut cluster = Cluster::new(lbs, options.clone());
        let servers = runtime.block_on(cluster.discover())?;
        let options =
            Options { deadline: REFRESH_WAIT, connect_timeout: REFRESH_WAIT, ..options.clone() };
        let cluster = cluster.another_with(options);
        let discovery = Discovery { cluster, spread, asked_at: Instant::now(), runtime };
        let mut targets = Targets { servers: Vec::new(), discovery: Some(discovery) };
        targets.take(servers);
        Ok(targets)
    }

    /// The server of the connection with number `index`.
    pub(crate) fn of(&self, index: usize) -> Option<SocketAddr> {
        self.servers.get(index % self.servers.len().max(1)).copied()
    }

    pub(crate) fn first(&self) -> String {
        let texts: Vec<String> = self.servers.iter().map(SocketAddr::to_string).collect();
        texts.join(",")
    }

    /// Asks again who leads, if there is somebody to ask.
    pub(crate) fn refresh(&mut self) {
        let Some(discovery) = &mut self.discovery else { return };
        if discovery.asked_at.elapsed() < REFRESH_INTERVAL {
            return;
        }
        let found = discovery.runtime.block_on(discovery.cluster.discover());
        discovery.asked_at = Instant::now();
        if let Ok(servers) = found {
            self.take(servers);
        }
    }

    fn take(&mut self, mut servers: Vec<SocketAddr>) {
        if self.discovery.as_ref().is_some_and(|discovery| !discovery.spread) {
            servers.truncate(1);
        }
        self.servers = servers;
    }
}
