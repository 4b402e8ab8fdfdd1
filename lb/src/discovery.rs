//! Whom clients are sent to: the answers to `get-servers` and
//! `config get cluster`.
//!
//! Both list live servers of the cluster, five at most; those that still catch
//! up are last. Every server takes every command, so any of them will do; the
//! leader saves writes a hop. Without a leader the lists are empty. A leader
//! that this load balancer does not see, but a majority follows, is listed as well:
//! clients may reach it.
//!
//! `config get cluster` has the leader first, then the others by id, and so has
//! `get-servers` unless the [`Policy`] says otherwise: then each answer to it
//! is made for the client that asks ([`by_policy`]). The version of the
//! configuration goes up with the rotation only, whatever the policy is.

use std::net::SocketAddr;

use bytes::Bytes;
use common::control::Role;
use common::discovery::{write_config_cluster, write_get_servers};
use common::ids::ClusterId;
use common::limits::MAX_DISCOVERY_LINES;

use crate::config::Policy;
use crate::leading::leading;
use crate::registry::{Entry, Registry};

/// The rotation as it was last published, with its answers ready to send.
#[derive(Clone, Debug)]
pub struct View {
    /// Goes up with every change.
    pub version: u64,
    /// Client addresses, leader first; empty: no leader.
    pub servers: Vec<SocketAddr>,
    /// The whole answer to `get-servers`.
    pub get_servers: Bytes,
    /// The whole answer to `config get cluster`.
    pub config: Bytes,
}

impl View {
    /// Nobody to go to.
    pub fn empty(version: u64) -> View {
        View::new(version, Vec::new())
    }

    fn new(version: u64, servers: Vec<SocketAddr>) -> View {
        let (mut get_servers, mut config) = (Vec::new(), Vec::new());
        write_get_servers(&servers, &mut get_servers);
        write_config_cluster(version, &servers, &mut config);
        View { version, servers, get_servers: get_servers.into(), config: config.into() }
    }

    /// Publishes `servers`, if that changes anything.
    pub(crate) fn update(&mut self, servers: Vec<SocketAddr>) -> bool {
        let changed = self.servers != servers;
        if changed {
            *self = View::new(self.version + 1, servers);
        }
        changed
    }
}

/// The servers of `cluster` in the order in which clients should try them.
pub fn in_order(registry: &Registry, cluster: ClusterId) -> Vec<SocketAddr> {
    let Some(leading) = leading(registry, cluster) else { return Vec::new() };
    let (mut up, learners) = rotation(registry, cluster);
    up.sort_by_key(|entry| entry.id_in(cluster) != Some(leading.id));
    let mut servers = addresses(up.into_iter().chain(learners));
    if let Some(unseen) = leading.unseen_address() {
        servers.retain(|server| *server != unseen);
        servers.insert(0, unseen);
        servers.truncate(MAX_DISCOVERY_LINES);
    }
    servers
}

/// The servers of `cluster` for one client, which goes to the first of them.
/// `turn` goes up with each answer.
pub fn by_policy(
    registry: &Registry,
    cluster: ClusterId,
    policy: Policy,
    turn: usize,
) -> Vec<SocketAddr> {
    if policy == Policy::Leader {
        return in_order(registry, cluster);
    }
    if leading(registry, cluster).is_none() {
        return Vec::new();
    }
    let (mut up, learners) = rotation(registry, cluster);
    let first = turn.checked_rem(up.len()).unwrap_or(0);
    up.rotate_left(first);
    if policy == Policy::LeastLoaded {
        // Of several with the same load, the next in turn.
        up.sort_by_key(|entry| entry.load());
    }
    addresses(up.into_iter().chain(learners))
}

/// The live members, by id: those that have the leader's log, and those that
/// still catch up.
fn rotation(registry: &Registry, cluster: ClusterId) -> (Vec<&Entry>, Vec<&Entry>) {
    let members = registry.membership(cluster);
    let serves = |entry: &&Entry| entry.is_live() && entry.is_member(cluster, members);
    let mut live: Vec<_> = registry.iter().filter(serves).collect();
    live.sort_by_key(|entry| entry.id_in(cluster));
    live.into_iter().partition(|entry| entry.report.role != Role::Learner)
}

fn addresses<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<SocketAddr> {
    entries.take(MAX_DISCOVERY_LINES).map(|entry| entry.report.info.client).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_as_bytes() {
        let mut view = View::empty(7);
        assert_eq!(view.get_servers, "end\r\n");
        assert_eq!(view.config, "CONFIG cluster 0 3\r\n7\n\n\r\nEND\r\n");

        let servers: Vec<SocketAddr> =
            vec!["127.0.0.1:7002".parse().unwrap(), "127.0.0.1:7001".parse().unwrap()];
        assert!(view.update(servers.clone()));
        assert_eq!(view.get_servers, "127.0.0.1:7002\r\n127.0.0.1:7001\r\nend\r\n");
        assert_eq!(
            view.config,
            "CONFIG cluster 0 52\r\n8\n127.0.0.1|127.0.0.1|7002 127.0.0.1|127.0.0.1|7001\n\r\nEND\r\n"
        );
        assert!(!view.update(servers));
        assert_eq!(view.version, 8);
    }
}
