//! Whom clients are sent to: the answers to `get-servers` and
//! `config get cluster`.
//!
//! Both list the same servers: the leader, then the other live servers of the
//! cluster by id, those that still catch up last, five at most. Every server
//! takes every command, so any of them will do; the leader saves a hop.
//! Without a leader the lists are empty. A place for other policies than
//! leader first is [`in_order`].

use std::net::SocketAddr;

use bytes::Bytes;
use common::control::Role;
use common::discovery::{write_config_cluster, write_get_servers};
use common::ids::ClusterId;
use common::limits::MAX_DISCOVERY_LINES;

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
    let Some(leader) = registry.leader(cluster) else { return Vec::new() };
    let rank = |entry: &Entry| {
        let role = if entry.report.info.folder == leader.report.info.folder {
            0
        } else if entry.report.role == Role::Learner {
            2
        } else {
            1
        };
        (role, entry.id_in(cluster))
    };
    let members = registry.membership(cluster);
    let serves = |entry: &&Entry| entry.is_live() && entry.is_member(cluster, members);
    let mut live: Vec<_> = registry.iter().filter(serves).collect();
    live.sort_by_key(|entry| rank(entry));
    live.iter().take(MAX_DISCOVERY_LINES).map(|entry| entry.report.info.client).collect()
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
