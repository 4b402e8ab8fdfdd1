//! `store status`: what the load balancer knows about everybody, or, if none
//! answers, what the servers say themselves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::args::StatusArgs;
use crate::direct;
use crate::failure::{Failure, Outcome, say};
use crate::home::{Home, Settings, split_number};
use crate::lookup;
use crate::silent;
use crate::table::{self, bytes, uptime};
use crate::text::Stats;

/// Between two looks in watch mode.
const WATCH: Duration = Duration::from_secs(1);

/// What the load balancer at `address` says, or without it the servers.
#[derive(Debug)]
struct View {
    address: Option<SocketAddr>,
    lb: Stats,
    servers: BTreeMap<String, Stats>,
    at: Instant,
}

/// The command.
pub(crate) fn run(args: &StatusArgs) -> Outcome {
    let home = Home::at(&args.cluster.dir)?;
    let addresses = lookup::load_balancers(&args.cluster, &home)?;
    let mut before: Option<View> = None;
    loop {
        let (view, trouble) = match lookup::stats(&addresses) {
            Ok((address, stats)) => (View::new(Some(address), stats), None),
            Err(why) => {
                let why = silent::hung(&home, &addresses).unwrap_or(why);
                let Some(stats) = direct::stats(&home)? else {
                    if !args.json {
                        folders(&home)?;
                    }
                    return Err(Failure::unreachable(why));
                };
                (View::new(None, stats), Some(why))
            }
        };
        if args.json {
            say!("{}", view.to_json(before.as_ref()));
        } else {
            if args.watch {
                // Clears the screen, then goes to its corner.
                say!("\x1b[2J\x1b[H{}", view.to_text(before.as_ref()));
            } else {
                say!("{}", view.to_text(None).trim_end());
            }
        }
        match trouble {
            Some(why) if !args.watch => return Err(Failure::unreachable(why)),
            None if !args.watch => return Ok(()),
            _ => {}
        }
        before = Some(view);
        std::thread::sleep(WATCH);
    }
}

impl View {
    fn new(address: Option<SocketAddr>, stats: Stats) -> Self {
        let mut view =
            View { address, lb: Stats::new(), servers: BTreeMap::new(), at: Instant::now() };
        for (name, value) in stats {
            if let Some(field) = name.strip_prefix("lb.") {
                view.lb.insert(field.to_owned(), value);
            } else if let Some((server, field)) =
                name.strip_prefix("server.").and_then(|rest| rest.rsplit_once('.'))
            {
                view.servers.entry(server.to_owned()).or_default().insert(field.to_owned(), value);
            }
        }
        view
    }

    fn lb(&self, field: &str) -> &str {
        self.lb.get(field).map_or("-", String::as_str)
    }

    /// Operations a second since the view before.
    fn rate(&self, before: Option<&View>, server: &str, field: &str) -> Option<f64> {
        let before = before?;
        let count = |view: &View| view.servers.get(server)?.get(field)?.parse::<u64>().ok();
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        // A server that restarted counts from zero again.
        let difference = count(self)?.checked_sub(count(before)?)?;
        (seconds > 0.0).then(|| difference as f64 / seconds)
    }

    fn to_text(&self, before: Option<&View>) -> String {
        let mut header = vec![
            "SERVER", "ID", "STATE", "ROLE", "VOTE", "TERM", "LAST", "COMMIT", "APPLIED", "LAG",
            "KEYS", "MEMORY", "UPTIME", "CONNS", "READS", "WRITES", "PID", "CLIENTS", "SERVERS",
        ];
        if before.is_some() {
            (header[14], header[15]) = ("READS/S", "WRITES/S");
        }
        let right: Vec<bool> = header
            .iter()
            .map(|name| {
                !matches!(*name, "SERVER" | "STATE" | "ROLE" | "VOTE" | "CLIENTS" | "SERVERS")
            })
            .collect();
        let mut names: Vec<&String> = self.servers.keys().collect();
        names.sort_by_key(|name| split_number(name));
        let rows: Vec<_> = names.iter().map(|name| self.row(name, before)).collect();
        let who = match self.address {
            Some(address) => format!(
                "{} at {address} (pid {}, up {}),",
                self.lb("name"),
                self.lb("pid"),
                number(self.lb.get("uptime_secs")).map_or("-".into(), uptime)
            ),
            None => "No load balancer answers, the servers say:".to_owned(),
        };
        let mut out =
            format!("{who} cluster {}, leader {}\n", self.lb("cluster"), self.lb("leader"));
        if self.lb("leader_seen") == "0" && self.lb("leader") != "-" {
            let relay = match self.lb("relay") {
                "-" => "and nobody hands requests on to it".to_owned(),
                relay => format!("{relay} hands requests on to it"),
            };
            let (leader, lb) = (self.lb("leader"), self.lb("name"));
            out.push_str(&format!("{leader} is not seen from {lb}: {relay}.\n"));
        }
        if rows.is_empty() {
            out.push_str("No server is registered: add one with `store addsrv`.\n");
        } else {
            out.push_str(&table::render(&header, &right, &rows));
        }
        out
    }

    fn row(&self, name: &str, before: Option<&View>) -> Vec<String> {
        let stats = &self.servers[name];
        let text = |field: &str| stats.get(field).cloned().unwrap_or_else(|| "-".into());
        let trouble =
            stats.get("trouble").filter(|trouble| *trouble != "-" && text("state") == "live");
        let shown = |field: &str, show: fn(u64) -> String| {
            number(stats.get(field)).map_or("-".into(), show)
        };
        let operations = |field: &str| match before {
            None => text(field),
            Some(_) => {
                self.rate(before, name, field).map_or("-".into(), |rate| format!("{rate:.0}"))
            }
        };
        vec![
            name.to_owned(),
            text("id"),
            // A server that is live and in trouble is shown as what troubles it.
            trouble.cloned().unwrap_or_else(|| text("state")),
            text("role"),
            text("vote"),
            text("term"),
            text("last_index"),
            text("commit_index"),
            text("applied_index"),
            text("lag"),
            text("keys"),
            shown("memory_bytes", bytes),
            shown("uptime_secs", uptime),
            text("connections"),
            operations("reads"),
            operations("writes"),
            text("pid"),
            text("client"),
            text("peer"),
        ]
    }

    fn to_json(&self, before: Option<&View>) -> serde_json::Value {
        let object = |stats: &Stats| -> serde_json::Map<String, serde_json::Value> {
            stats.iter().map(|(name, value)| (name.clone(), typed(value))).collect()
        };
        let servers: serde_json::Map<_, _> = self
            .servers
            .iter()
            .map(|(name, stats)| {
                let mut server = object(stats);
                for field in ["reads", "writes"] {
                    if let Some(rate) = self.rate(before, name, field) {
                        server.insert(format!("{field}_per_second"), json!(rate));
                    }
                }
                (name.clone(), server.into())
            })
            .collect();
        json!({ "address": self.address, "lb": object(&self.lb), "servers": servers })
    }
}

fn number(value: Option<&String>) -> Option<u64> {
    value?.parse().ok()
}

/// Numbers as such, what is not known as null, everything else as text.
fn typed(value: &str) -> serde_json::Value {
    match (value.parse::<u64>(), value) {
        (Ok(number), _) => json!(number),
        (_, "-" | "") => serde_json::Value::Null,
        _ => json!(value),
    }
}

/// Without a load balancer: which processes run on the folder.
fn folders(home: &Home) -> Outcome {
    let mut rows = Vec::new();
    for node in home.nodes()? {
        let running = node.running();
        let settings = node.readable_settings();
        let address = |of: fn(&Settings) -> SocketAddr| {
            settings.as_ref().map_or("-".to_owned(), |settings| of(settings).to_string())
        };
        rows.push(vec![
            node.name.clone(),
            running.map_or("stopped".into(), |_| "running".into()),
            running.map_or("-".into(), |pid| pid.to_string()),
            address(Settings::client),
            address(Settings::peer),
        ]);
    }
    if rows.is_empty() {
        say!("{} holds no node.", home.dir().display());
        return Ok(());
    }
    let header = ["NODE", "PROCESS", "PID", "CLIENTS", "SERVERS"];
    say!("{}", table::render(&header, &[false, false, true, false, false], &rows).trim_end());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(reads: &str) -> View {
        let stats = [
            ("lb.name", "lb-1"),
            ("lb.leader", "srv-2"),
            ("server.srv-10.role", "follower"),
            ("server.srv-10.vote", "removed"),
            ("server.srv-10.reads", reads),
            ("server.srv-2.role", "leader"),
            ("server.srv-2.memory_bytes", "2048"),
            ("server.srv-2.lag", "-"),
            ("server.srv-2.voter", "1"),
            ("server.srv-2.vote", "voter"),
            ("server.srv-2.state", "live"),
            ("server.srv-2.trouble", "disk-full"),
        ];
        let stats = stats.map(|(name, value)| (name.to_owned(), value.to_owned()));
        View::new(Some("127.0.0.1:5002".parse().unwrap()), stats.into_iter().collect())
    }

    #[test]
    fn servers_are_rows_in_the_order_of_their_numbers() {
        let text = view("5").to_text(None);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].contains("lb-1") && lines[0].contains("leader srv-2"), "{text}");
        assert!(lines[2].starts_with("srv-2 ") && lines[2].contains("2.0 KiB"), "{text}");
        assert!(lines[2].contains("disk-full") && !lines[2].contains("live"), "{text}");
        assert!(lines[2].contains(" voter "), "{text}");
        assert!(lines[3].starts_with("srv-10") && lines[3].contains(" removed "), "{text}");
    }

    #[test]
    fn without_a_load_balancer_the_servers_speak() {
        let of_servers = View { address: None, ..view("5") };
        let text = of_servers.to_text(None);
        assert!(text.starts_with("No load balancer answers, the servers say: cluster -, leader"));
        assert_eq!(of_servers.to_json(None)["address"], serde_json::Value::Null);
    }

    #[test]
    fn a_leader_that_is_not_seen_is_said_to_be_so() {
        assert!(!view("5").to_text(None).contains("not seen"));
        let mut unseen = view("5");
        unseen.lb.insert("leader_seen".to_owned(), "0".to_owned());
        unseen.lb.insert("relay".to_owned(), "srv-10".to_owned());
        let text = unseen.to_text(None);
        let line = "srv-2 is not seen from lb-1: srv-10 hands requests on to it.";
        assert_eq!(text.lines().nth(1), Some(line), "{text}");
    }

    #[test]
    fn json_is_typed_and_has_rates() {
        let before = view("5");
        let mut after = view("25");
        after.at = before.at + Duration::from_secs(2);
        let json = after.to_json(Some(&before));
        assert_eq!(json["servers"]["srv-10"]["reads"], 25);
        assert_eq!(json["servers"]["srv-10"]["reads_per_second"], 10.0);
        assert_eq!(json["servers"]["srv-2"]["voter"], 1);
        assert_eq!(json["servers"]["srv-2"]["vote"], "voter");
        assert_eq!(json["servers"]["srv-2"]["lag"], serde_json::Value::Null);
        assert_eq!(json["lb"]["name"], "lb-1");
    }
}
