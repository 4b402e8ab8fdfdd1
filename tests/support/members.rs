//! Who the members are, as the load balancer and the leader have it.

use std::collections::BTreeMap;

use super::cluster::{PATIENCE, TestCluster};
use super::eventually;
use super::memcached::Connection;

impl TestCluster {
    /// One line of the load balancer's statistics.
    pub(crate) fn stat(&self, key: &str) -> String {
        Connection::open(self.lb_client()).unwrap().stats().unwrap()[key].clone()
    }

    /// What the load balancer says of each server: whether it votes.
    pub(crate) fn voters(&self) -> BTreeMap<String, Option<bool>> {
        let stats = Connection::open(self.lb_client()).unwrap().stats().unwrap();
        let servers = stats.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix("server.")?.strip_suffix(".voter")?;
            Some((name.to_owned(), value.parse::<u8>().ok().map(|votes| votes == 1)))
        });
        servers.collect()
    }

    /// Waits until these servers vote and no others.
    pub(crate) fn wait_for_voters(&self, names: &[&str]) {
        eventually("these voters and no others", PATIENCE, || {
            let found = self.voters();
            let voting = found.iter().filter(|(_, votes)| **votes == Some(true));
            let voting: Vec<_> = voting.map(|(name, _)| name.as_str()).collect();
            (voting == names).then_some(()).ok_or_else(|| format!("{found:?}"))
        });
    }

    /// Waits until these servers are the members, each of them once and as a
    /// voter, by what every one of them says itself.
    pub(crate) fn wait_for_members(&self, names: &[&str]) {
        self.wait_for_voters(names);
        for name in names {
            eventually("each server is a member once", PATIENCE, || {
                let stats = Connection::open(self.client_address(name))
                    .and_then(|mut connection| connection.stats())
                    .map_err(|error| error.to_string())?;
                let count = |key: &str| stats.get(key).and_then(|value| value.parse().ok());
                let found = (count("raft_members"), count("raft_voters"));
                match found == (Some(names.len()), Some(names.len())) {
                    true => Ok(()),
                    false => Err(format!("{name} says {found:?}")),
                }
            });
        }
    }
}
