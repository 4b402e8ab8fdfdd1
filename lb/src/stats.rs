//! What `stats` answers on the client port: the whole view, for
//! `store status` and for people with a terminal.
//!
//! Lines of `STAT <key> <value>\r\n`, then `END\r\n`. A key is a word, and so is a value.
//! Values that are not known are `-`.
//!
//! About the load balancer:
//!
//! | key | value |
//! | --- | --- |
//! | `lb.name`, `lb.pid`, `lb.uptime_secs`, `lb.version` | the process |
//! | `lb.cluster` | the cluster's id, 32 hexadecimal digits, or `-` |
//! | `lb.leader` | the leader's name, or `-` |
//! | `lb.leader_seen` | 1 if the leader itself is in contact, 0 if only servers that follow it are |
//! | `lb.relay` | who hands on to the leader what is for it, while it is not seen; else `-` |
//! | `lb.expect` | fresh servers that make a new cluster |
//! | `lb.bootstrapped` | 1 once a cluster is seen or remembered, else 0 |
//! | `lb.config_version` | goes up with every change of the rotation |
//!
//! About each server, `server.<name>.<field>`, members by id and then the
//! others by registration. A name may hold dots, a field holds none: split at the last one. When two known
//! servers have one name (one of them gone), that one is `<name>#<n>`.
//!
//! | field | value |
//! | --- | --- |
//! | `state` | `live`, `fresh` (live, in no cluster yet), `silent`, `stopped` |
//! | `role` | `fresh`, `learner`, `follower`, `candidate`, `leader`; `-` unless in contact |
//! | `id` | in the cluster, or `-` |
//! | `voter` | 1, 0 (learner), or `-` (in no membership) |
//! | `vote` | `voter`, `learner`, `removed` (it has an id, and the members do not have it any more), or `-` |
//! | `folder`, `client`, `peer` | folder id; addresses for clients (TCP) and servers (UDP) |
//!
//! and for servers that have reported to this load balancer, as of the last report:
//!
//! | field | value |
//! | --- | --- |
//! | `term`, `last_index`, `commit_index`, `applied_index` | Raft |
//! | `leader` | the id it follows, or `-` |
//! | `lag` | entries it is behind the leader's log, within a report's interval; `-` without a leader |
//! | `keys`, `memory_bytes` | keystore |
//! | `trouble` | what is wrong with it: `data-differ`, `disk-full`, `no-checkpoint`, `repairing`, or `-` |
//! | `reads`, `writes`, `connections`, `uptime_secs`, `pid` | its process |
//! | `heard_ms` | milliseconds since the last report |
//!
//! `stats events` answers the last events, oldest first, as
//! `STAT event.<n> <milliseconds ago> <text>`.

use std::collections::BTreeSet;
use std::fmt::{Display, Write};
use std::time::Duration;

use common::control::{MemberInfo, MemberRecord, Trouble};
use common::ids::ServerId;

use crate::balancer::Balancer;
use crate::leading::{Leading, leading};
use crate::registry::{Contact, Entry};

/// Version of the product.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The answer to `stats`.
pub fn stats(balancer: &Balancer, now: Duration) -> String {
    let mut text = String::with_capacity(4096);
    load_balancer(&mut text, balancer, now);

    let registry = balancer.registry();
    let cluster = balancer.cluster();
    let members = cluster.map_or(&[][..], |cluster| registry.membership(cluster));
    let leader = cluster.and_then(|cluster| leading(registry, cluster)?.seen);
    let record_of = |entry: &Entry| {
        members.iter().find(|member| member.info.folder == entry.report.info.folder)
    };

    let mut servers: Vec<Server<'_>> = registry
        .iter()
        .map(|entry| Server {
            info: &entry.report.info,
            entry: Some(entry),
            record: record_of(entry),
        })
        .collect();
    let unheard = members.iter().filter(|member| registry.get(member.info.folder).is_none());
    servers.extend(unheard.map(|record| Server {
        info: &record.info,
        entry: None,
        record: Some(record),
    }));
    servers.sort_by_key(Server::order);

    for (server, name) in servers.iter().zip(names(&servers)) {
        server.write(&mut text, &name, !members.is_empty(), leader, now);
    }
    text.push_str("END\r\n");
    text
}

/// What each of them is called here: a live one by its own name, whoever else
/// had that name before.
fn names(servers: &[Server<'_>]) -> Vec<String> {
    let mut order: Vec<_> = (0..servers.len()).collect();
    order.sort_by_key(|&place| !servers[place].entry.is_some_and(Entry::is_live));
    let (mut taken, mut names) = (BTreeSet::new(), vec![String::new(); servers.len()]);
    for place in order {
        let own = &servers[place].info.name;
        let mut name = own.clone();
        for number in 2.. {
            if taken.insert(name.clone()) {
                break;
            }
            name = format!("{own}#{number}");
        }
        names[place] = name;
    }
    names
}

/// The answer to `stats events`.
pub fn events(balancer: &Balancer, now: Duration) -> String {
    let mut text = String::new();
    for event in balancer.events().iter() {
        let ago = now.saturating_sub(event.at).as_millis();
        // One line each, whatever a peer's reason was made of.
        let what = event.text.replace(char::is_control, " ");
        let _ = write!(text, "STAT event.{} {ago} {what}\r\n", event.number);
    }
    text.push_str("END\r\n");
    text
}

fn load_balancer(text: &mut String, balancer: &Balancer, now: Duration) {
    let settings = balancer.settings();
    let cluster = balancer.cluster();
    let leading = cluster.and_then(|cluster| leading(balancer.registry(), cluster));
    let seen = leading.as_ref().is_some_and(|leading| leading.seen.is_some());
    let relays = leading.as_ref().map_or(Vec::new(), Leading::relays);
    line(text, "lb", "name", &settings.name);
    line(text, "lb", "pid", settings.pid);
    line(text, "lb", "uptime_secs", now.as_secs());
    line(text, "lb", "version", VERSION);
    line(text, "lb", "cluster", Known(cluster));
    line(text, "lb", "leader", Known(leading.as_ref().map(Leading::name)));
    line(text, "lb", "leader_seen", u8::from(seen));
    line(text, "lb", "relay", Known(relays.first().map(|relay| relay.name())));
    line(text, "lb", "expect", settings.expect);
    line(text, "lb", "bootstrapped", u8::from(cluster.is_some()));
    line(text, "lb", "config_version", balancer.view().version);
}

fn line(text: &mut String, of: &str, key: &str, value: impl Display) {
    let _ = write!(text, "STAT {of}.{key} {value}\r\n");
}

/// A value, or `-`.
struct Known<T>(Option<T>);

impl<T: Display> Display for Known<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// A server known by its report, by the membership, or by both.
struct Server<'a> {
    info: &'a MemberInfo,
    entry: Option<&'a Entry>,
    record: Option<&'a MemberRecord>,
}

impl Server<'_> {
    fn id(&self) -> Option<ServerId> {
        let reported = self.entry.and_then(|entry| entry.report.member).map(|(_, id)| id);
        reported.or(self.record.map(|record| record.id))
    }

    /// Members by id, then the others by registration.
    fn order(&self) -> (bool, u64, u64) {
        let id = self.id();
        (id.is_none(), id.map_or(0, |id| id.0), self.entry.map_or(0, |entry| entry.order))
    }

    /// What its cluster takes it for.
    fn vote(&self, has_members: bool) -> &'static str {
        match self.record {
            Some(record) if record.voter => "voter",
            Some(_) => "learner",
            None if has_members && self.id().is_some() => "removed",
            None => "-",
        }
    }

    fn state(&self) -> &'static str {
        match self.entry {
            Some(entry) => match entry.contact {
                Contact::Live if entry.is_fresh() => "fresh",
                Contact::Live => "live",
                Contact::Silent => "silent",
                Contact::Stopped => "stopped",
            },
            None => "silent",
        }
    }

    fn write(
        &self,
        text: &mut String,
        name: &str,
        has_members: bool,
        leader: Option<&Entry>,
        now: Duration,
    ) {
        let of = format!("server.{name}");
        let mut put = |key: &str, value: &dyn Display| line(text, &of, key, value);
        let info = self.info;
        let live = self.entry.filter(|entry| entry.is_live());
        put("state", &self.state());
        put("role", &Known(live.map(|entry| entry.report.role.name())));
        put("id", &Known(self.id()));
        put("voter", &Known(self.record.map(|record| u8::from(record.voter))));
        put("vote", &self.vote(has_members));
        put("folder", &info.folder);
        put("client", &info.client);
        put("peer", &info.peer);

        let Some(entry) = self.entry else { return };
        let report = &entry.report;
        let behind = |leader: &Entry| leader.report.last_index.saturating_sub(report.last_index);
        put("term", &report.term);
        put("leader", &Known(report.leader));
        put("last_index", &report.last_index);
        put("commit_index", &report.commit_index);
        put("applied_index", &report.applied_index);
        put("lag", &Known(leader.map(behind)));
        put("keys", &report.keys);
        put("memory_bytes", &report.memory_bytes);
        put("reads", &report.reads);
        put("writes", &report.writes);
        put("connections", &report.connections);
        put("uptime_secs", &report.uptime_secs);
        put("pid", &report.pid);
        put("trouble", &Known(report.trouble.map(Trouble::name)));
        put("heard_ms", &now.saturating_sub(entry.last_heard).as_millis());
    }
}
