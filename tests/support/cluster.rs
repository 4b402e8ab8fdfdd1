//! A load balancer and servers as children of the test.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::MutexGuard;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::memcached::Connection;
use super::ports::free_port;
use super::process::{CLIENT, Finished, Process, STORE, run};
use super::{eventually, one_at_a_time};

/// How long anything about a cluster may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The cluster; its processes and files are gone when it is dropped.
#[derive(Debug)]
pub(crate) struct TestCluster {
    // Dropped in this order: processes end before their folder goes.
    servers: Vec<Process>,
    lb: Option<Process>,
    dir: TempDir,
    lb_client: u16,
    lb_server: u16,
    expect: usize,
    _one: MutexGuard<'static, ()>,
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

impl TestCluster {
    /// No process yet.
    pub(crate) fn empty(expect: usize) -> TestCluster {
        TestCluster {
            _one: one_at_a_time(),
            dir: TempDir::new().unwrap(),
            servers: Vec::new(),
            lb: None,
            lb_client: free_port(),
            lb_server: free_port(),
            expect,
        }
    }

    /// A load balancer and servers with a leader.
    pub(crate) fn start(servers: usize) -> TestCluster {
        let mut cluster = TestCluster::empty(servers);
        cluster.start_lb();
        for number in 1..=servers {
            cluster.start_server(&format!("srv-{number}"));
        }
        cluster.wait_for_servers(servers);
        cluster
    }

    /// The data folder.
    pub(crate) fn home(&self) -> PathBuf {
        self.dir.path().join("store-data")
    }

    /// Where commands run.
    pub(crate) fn cwd(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) fn lb_client(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.lb_client))
    }

    pub(crate) fn lb_server(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.lb_server))
    }

    /// Runs `store` in the cluster's folder.
    pub(crate) fn store(&self, line: &str) -> Finished {
        run(STORE, self.cwd(), &line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs `client` against the load balancer.
    pub(crate) fn client(&self, line: &str) -> Finished {
        let port = self.lb_client.to_string();
        let mut args = vec!["--lbport", &port];
        args.extend(line.split_whitespace());
        run(CLIENT, self.cwd(), &args)
    }

    pub(crate) fn start_lb(&mut self) {
        self.start_lb_with("");
    }

    /// [`Self::start_lb`] with further options.
    pub(crate) fn start_lb_with(&mut self, options: &str) {
        let args = words(&format!(
            "addlb --foreground --announce --dir {} --cport {} --sport {} --expect {} {options}",
            self.home().display(),
            self.lb_client,
            self.lb_server,
            self.expect
        ));
        let mut lb = Process::start("lb-1", &args, &self.home().join("lb-1/server.log"));
        lb.wait_for("serving", |line| (line["kind"] == "load-balancer").then_some(()));
        self.lb = Some(lb);
    }

    /// A second load balancer, which is in no server's list unless it is
    /// named; its addresses for clients and servers, and its process.
    pub(crate) fn another_lb(&self, name: &str) -> (SocketAddr, SocketAddr, Process) {
        let (client, server) = (free_port(), free_port());
        let args = words(&format!(
            "addlb --foreground --announce --dir {} --name {name} --cport {client} \
             --sport {server} --expect {}",
            self.home().display(),
            self.expect
        ));
        let mut lb = Process::start(name, &args, &self.home().join(name).join("server.log"));
        lb.wait_for("serving", |line| (line["kind"] == "load-balancer").then_some(()));
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        (local(client), local(server), lb)
    }

    pub(crate) fn stop_lb(&mut self) {
        let status = self.lb.take().expect("there is a load balancer").terminate();
        assert!(status.success(), "the load balancer ends with {status}");
    }

    pub(crate) fn kill_lb(&mut self) {
        self.lb.take().expect("there is a load balancer").kill9();
    }

    /// Starts a server and waits until it serves; the same for one that ran
    /// before, which finds its ports in its folder.
    pub(crate) fn start_server(&mut self, name: &str) {
        let known = self.home().join(name).join("settings.json").exists();
        let ports = match known {
            true => String::new(),
            false => format!("--cport {} --sport {}", free_port(), free_port()),
        };
        self.start_server_with(name, &ports);
    }

    /// [`Self::start_server`] with further options.
    pub(crate) fn start_server_with(&mut self, name: &str, options: &str) {
        let args = words(&format!(
            "addsrv --foreground --announce --dir {} --name {name} {options}",
            self.home().display()
        ));
        let mut server = Process::start(name, &args, &self.home().join(name).join("server.log"));
        server.wait_for("serving", |line| progress(line, "serving").then_some(()));
        self.servers.retain(|server| server.name != name);
        self.servers.push(server);
    }

    pub(crate) fn server(&mut self, name: &str) -> &mut Process {
        self.servers.iter_mut().find(|server| server.name == name).expect("such a server runs")
    }

    pub(crate) fn running(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.name.clone()).collect()
    }

    pub(crate) fn kill9(&mut self, name: &str) {
        self.server(name).kill9();
        self.forget(name);
    }

    /// A server that has ended by itself.
    pub(crate) fn forget(&mut self, name: &str) {
        self.servers.retain(|server| server.name != name);
    }

    pub(crate) fn stop(&mut self, name: &str) {
        let status = self.server(name).terminate();
        assert!(status.success(), "{name} ends with {status}");
        self.forget(name);
    }

    /// Where clients reach a server, from what it recorded.
    pub(crate) fn client_address(&self, name: &str) -> SocketAddr {
        let text = std::fs::read_to_string(self.home().join(name).join("settings.json")).unwrap();
        let settings: Value = serde_json::from_str(&text).unwrap();
        settings["client"].as_str().unwrap().parse().unwrap()
    }

    /// A connection to a server.
    pub(crate) fn connect(&self, name: &str) -> Connection {
        Connection::open(self.client_address(name)).unwrap()
    }

    /// The leader as the load balancer names it, if it is one that runs.
    pub(crate) fn leader(&self) -> Result<String, String> {
        let mut lb = Connection::open(self.lb_client()).map_err(|error| error.to_string())?;
        let stats = lb.stats().map_err(|error| error.to_string())?;
        let leader = stats.get("lb.leader").ok_or("it does not say who leads")?;
        let found = self.running().into_iter().find(|name| name == leader);
        found.ok_or_else(|| format!("{leader} does not run"))
    }

    /// Waits for a leader that stores something.
    pub(crate) fn wait_for_leader(&self, within: Duration) -> String {
        eventually("a leader that stores", within, || {
            let leader = self.leader()?;
            let mut connection =
                Connection::open(self.client_address(&leader)).map_err(|e| e.to_string())?;
            match connection.set("test-leader", &leader).map_err(|e| e.to_string())?.as_str() {
                "STORED" => Ok(leader),
                other => Err(format!("{leader}: {other}")),
            }
        })
    }

    /// Waits until `count` servers are in rotation and one of them leads.
    pub(crate) fn wait_for_servers(&self, count: usize) -> String {
        eventually("all servers in rotation", PATIENCE, || {
            let mut lb = Connection::open(self.lb_client()).map_err(|error| error.to_string())?;
            let listed = lb.servers().map_err(|error| error.to_string())?;
            match listed.len() == count.min(common::limits::MAX_DISCOVERY_LINES) {
                true => Ok(()),
                false => Err(format!("{listed:?}")),
            }
        });
        self.wait_for_leader(PATIENCE)
    }

    /// Waits until every running server has applied what the furthest one has
    /// committed, nothing more comes, and the logs say so: a server that runs
    /// notes up to a twentieth of a second later how far its log is committed,
    /// and no more than that is printed.
    pub(crate) fn wait_until_level(&self) {
        let commit = eventually("all servers have applied the same", PATIENCE, || {
            let mut applied = Vec::new();
            for name in self.running() {
                let stats = Connection::open(self.client_address(&name))
                    .and_then(|mut connection| connection.stats())
                    .map_err(|error| format!("{name}: {error}"))?;
                let number = |field: &str| stats.get(field).and_then(|value| value.parse().ok());
                applied
                    .push((number("raft_commit"), number("raft_applied"))
                        as (Option<u64>, Option<u64>));
            }
            let (commit, _) = applied[0];
            match commit {
                Some(commit)
                    if applied.iter().all(|&pair| pair == (Some(commit), Some(commit))) =>
                {
                    Ok(commit)
                }
                _ => Err(format!("{applied:?}")),
            }
        });
        for name in self.running() {
            eventually("the log says how far it is committed", PATIENCE, || {
                let dir = self.home().join(&name);
                let last = format!("log {} --all --from {commit}", dir.display());
                match self.store(&last).expect(0).out {
                    printed if printed.is_empty() => Err(format!("{name} before {commit}")),
                    _ => Ok(()),
                }
            });
        }
    }

    /// Waits until the files of all servers print the same; returns the log
    /// and the keystore.
    pub(crate) fn same_files(&self, names: &[&str]) -> (String, String) {
        let print = |name: &str| {
            let dir = self.home().join(name);
            let print =
                |command: &str| self.store(&format!("{command} {}", dir.display())).expect(0).out;
            (print("log"), print("keystore"))
        };
        eventually("the same log and keystore on all servers", PATIENCE, || {
            let first = print(names[0]);
            for name in &names[1..] {
                let other = print(name);
                if other != first {
                    return Err(format!("{}: {first:?}\n{name}: {other:?}", names[0]));
                }
            }
            Ok(first)
        })
    }
}

/// Whether an announcement is this step of a server's start.
pub(crate) fn progress(line: &Value, step: &str) -> bool {
    line["kind"] == "server" && line["progress"]["step"] == step
}
