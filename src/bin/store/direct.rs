//! What the servers themselves say, for when no load balancer does: those of
//! the data folder, and those that they name.

use std::net::SocketAddr;

use crate::failure::Outcome;
use crate::home::{Home, Settings};
use crate::lookup;
use crate::text::Stats;

/// What a load balancer calls a figure, and what a server calls it.
const FIELDS: [(&str, &str); 13] = [
    ("role", "raft_role"),
    ("id", "raft_id"),
    ("term", "raft_term"),
    ("leader", "raft_leader"),
    ("last_index", "raft_last_index"),
    ("commit_index", "raft_commit"),
    ("applied_index", "raft_applied"),
    ("keys", "curr_items"),
    ("memory_bytes", "bytes"),
    ("connections", "curr_connections"),
    ("writes", "cmd_set"),
    ("pid", "pid"),
    ("trouble", "trouble"),
];

/// A server, and what it said.
#[derive(Debug)]
struct Found {
    name: String,
    client: SocketAddr,
    /// For servers of the folder only.
    peer: Option<SocketAddr>,
    pid: Option<u32>,
    said: Result<Stats, String>,
}

/// What the servers say, under the names that a load balancer has for it;
/// `None`: none of them answers.
pub(crate) fn stats(home: &Home) -> Outcome<Option<Stats>> {
    let mut known = Vec::new();
    for node in home.nodes()? {
        let settings = node.readable_settings();
        if let Some(settings @ (Settings::Server(_) | Settings::Fixed(_))) = settings {
            known.push((node.running(), node.name, settings.client(), settings.peer()));
        }
    }
    let addresses: Vec<_> = known.iter().map(|(_, _, client, _)| *client).collect();
    let mut others = Vec::new();
    let mut found = Vec::new();
    let answers = lookup::all(&addresses, lookup::server);
    for ((pid, name, client, peer), answer) in known.into_iter().zip(answers) {
        let said = answer.map(|(stats, named)| {
            others.extend(named);
            stats
        });
        found.push(Found { name, client, peer: Some(peer), pid, said });
    }
    others.retain(|other| !addresses.contains(other));
    others.sort_unstable();
    others.dedup();
    for (client, answer) in others.iter().zip(lookup::all(&others, lookup::server)) {
        let said = answer.map(|(stats, _)| stats);
        found.push(Found {
            name: client.to_string(),
            client: *client,
            peer: None,
            pid: None,
            said,
        });
    }
    Ok(found.iter().any(|server| server.said.is_ok()).then(|| view(&found)))
}

fn view(found: &[Found]) -> Stats {
    let mut view = Stats::new();
    let leader = leader(found);
    let commit = leader.and_then(|leader| number(leader, "raft_commit"));
    let told = |field: &str| found.iter().find_map(|server| server.said.as_ref().ok()?.get(field));
    view.insert("lb.cluster".into(), told("cluster").map_or("-".into(), Clone::clone));
    view.insert("lb.leader".into(), leader.map_or("-".into(), Found::name));
    for server in found {
        let name = server.name();
        let mut put = |field: &str, value: String| {
            view.insert(format!("server.{name}.{field}"), value);
        };
        put("client", server.client.to_string());
        if let Some(peer) = server.peer {
            put("peer", peer.to_string());
        }
        match &server.said {
            Ok(stats) => {
                put("state", "live".into());
                for (field, theirs) in FIELDS {
                    put(field, stats.get(theirs).map_or("-".into(), Clone::clone));
                }
                let applied = number(server, "raft_applied");
                let lag = commit.zip(applied).map(|(commit, mine)| commit.saturating_sub(mine));
                put("lag", lag.map_or("-".into(), |lag| lag.to_string()));
            }
            Err(_) => {
                let stopped = server.peer.is_some() && server.pid.is_none();
                put("state", if stopped { "stopped" } else { "silent" }.into());
                put("pid", server.pid.map_or("-".into(), |pid| pid.to_string()));
            }
        }
    }
    view
}

/// Who leads in the latest term of which anybody has heard of a leader.
fn leader(found: &[Found]) -> Option<&Found> {
    let told = found.iter().filter_map(|server| {
        let id = number(server, "raft_leader").filter(|id| *id != 0)?;
        Some((number(server, "raft_term")?, id))
    });
    let (_, id) = told.max()?;
    found.iter().find(|server| number(server, "raft_id") == Some(id))
}

fn number(server: &Found, field: &str) -> Option<u64> {
    server.said.as_ref().ok()?.get(field)?.parse().ok()
}

impl Found {
    /// As it calls itself, if it says so.
    fn name(&self) -> String {
        let own = self.said.as_ref().ok().and_then(|stats| stats.get("name"));
        own.unwrap_or(&self.name).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, port: u16, said: Option<&[(&str, &str)]>) -> Found {
        let stats = |lines: &[(&str, &str)]| {
            lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        Found {
            name: name.to_owned(),
            client: SocketAddr::from(([127, 0, 0, 1], port)),
            peer: Some(SocketAddr::from(([127, 0, 0, 1], port + 1000))),
            pid: None,
            said: said.map(stats).ok_or_else(|| "refused".to_owned()),
        }
    }

    #[test]
    fn the_latest_term_says_who_leads() {
        let servers = [
            found(
                "srv-1",
                1,
                Some(&[
                    ("name", "srv-1"),
                    ("raft_id", "1"),
                    ("raft_term", "4"),
                    ("raft_leader", "1"),
                ]),
            ),
            found(
                "srv-2",
                2,
                Some(&[
                    ("name", "two"),
                    ("raft_id", "2"),
                    ("raft_term", "5"),
                    ("raft_leader", "2"),
                    ("raft_commit", "9"),
                    ("raft_applied", "9"),
                    ("cluster", "c"),
                ]),
            ),
            found(
                "srv-3",
                3,
                Some(&[
                    ("raft_id", "3"),
                    ("raft_term", "6"),
                    ("raft_leader", "0"),
                    ("raft_applied", "7"),
                ]),
            ),
            found("srv-4", 4, None),
        ];
        let view = view(&servers);
        assert_eq!(view["lb.leader"], "two");
        assert_eq!(view["lb.cluster"], "c");
        assert_eq!(view["server.srv-3.lag"], "2");
        assert_eq!(view["server.srv-3.state"], "live");
        assert_eq!(view["server.two.peer"], "127.0.0.1:1002");
        assert_eq!(view["server.srv-4.state"], "stopped");
    }
}
