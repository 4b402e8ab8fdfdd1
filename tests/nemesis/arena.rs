//! The nodes that the nemesis plays with: load balancers and servers in the
//! foreground, each in a place of its own if there is a network for that.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitStatus;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::log::Log;
use super::network::Network;
use super::support::memcached::Connection;
use super::support::ports::free_port;
use super::support::process::{Process, signal};

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    pub(crate) lbs: usize,
    pub(crate) servers: usize,
    /// Options of every server.
    pub(crate) options: String,
}

/// What a node does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    /// There is none, and no folder.
    Absent,
    Runs,
    /// By a signal.
    Stopped,
    /// Its process is gone, its folder is not.
    Down,
}

/// One load balancer or server.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) is_lb: bool,
    pub(crate) ip: Ipv4Addr,
    pub(crate) life: Life,
    /// An operator has asked for its removal, which it may hear of late, once
    /// it runs again: it may end by itself.
    pub(crate) dismissed: bool,
    /// Its process was asked to end, which takes as long as it takes.
    is_ending: bool,
    /// The id that it had before it lost its place in the cluster.
    pub(crate) was: Option<u64>,
    prefix: Vec<String>,
    client: u16,
    peer: u16,
    process: Option<Process>,
}

impl Node {
    pub(crate) fn client_address(&self) -> SocketAddr {
        SocketAddr::from((self.ip, self.client))
    }

    pub(crate) fn peer_address(&self) -> SocketAddr {
        SocketAddr::from((self.ip, self.peer))
    }

    pub(crate) fn is_there(&self) -> bool {
        self.life != Life::Absent
    }

    fn signal(&self, what: Signal) {
        if let Some(process) = &self.process {
            signal(process.pid(), what);
        }
    }
}

/// A server as a load balancer sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) live: bool,
    pub(crate) id: Option<u64>,
    pub(crate) voter: Option<bool>,
}

/// All nodes; gone when it is dropped, their folder unless it is kept.
#[derive(Debug)]
pub(crate) struct Arena {
    // Dropped in this order: processes end before their places and folder go.
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Option<Network>,
    dir: TempDir,
    topology: Topology,
}

impl Arena {
    /// No process yet. The last server is one that joins later.
    pub(crate) fn new(topology: &Topology, network: Option<Network>) -> Arena {
        let node = |number: usize| {
            let is_lb = number < topology.lbs;
            let name = match is_lb {
                true => format!("lb-{}", number + 1),
                false => format!("srv-{}", number + 1 - topology.lbs),
            };
            let place = network.as_ref().map(|network| network.places()[number].clone());
            Node {
                name,
                is_lb,
                ip: place.as_ref().map_or(Ipv4Addr::LOCALHOST, |place| place.ip),
                life: Life::Absent,
                dismissed: false,
                is_ending: false,
                was: None,
                prefix: place.map(|place| place.prefix).unwrap_or_default(),
                client: free_port(),
                peer: free_port(),
                process: None,
            }
        };
        let nodes = (0..Self::places(topology)).map(node).collect();
        Arena { nodes, network, dir: TempDir::new().unwrap(), topology: topology.clone() }
    }

    /// Places that a topology needs.
    pub(crate) fn places(topology: &Topology) -> usize {
        topology.lbs + topology.servers + 1
    }

    /// The one that joins and leaves.
    pub(crate) fn spare(&self) -> usize {
        self.nodes.len() - 1
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.dir.path().join("store-data")
    }

    pub(crate) fn folder(&self, node: usize) -> PathBuf {
        self.home().join(&self.nodes[node].name)
    }

    /// The folder stays, with the logs of all nodes.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    /// Servers, or load balancers.
    pub(crate) fn numbers(&self, lbs: bool) -> Vec<usize> {
        (0..self.nodes.len()).filter(|number| self.nodes[*number].is_lb == lbs).collect()
    }

    /// Servers that live so.
    pub(crate) fn servers(&self, life: Life) -> Vec<usize> {
        let mut servers = self.numbers(false);
        servers.retain(|number| self.nodes[*number].life == life);
        servers
    }

    /// Starts a node, for the first time or again; does not wait.
    pub(crate) fn start(&mut self, number: usize) {
        let home = self.home().display().to_string();
        let lbs = self.numbers(true).into_iter().map(|lb| self.nodes[lb].peer_address());
        let lbs: Vec<_> = lbs.map(|address| address.to_string()).collect();
        let Topology { servers, options, .. } = &self.topology;
        let node = &self.nodes[number];
        let Node { name, ip, client, peer, .. } = node;
        let command = match node.is_lb {
            // They read from different servers, and all answers must fit.
            true if number == 0 => format!("addlb --expect {servers}"),
            true => format!("addlb --expect {servers} --policy round-robin"),
            false => format!("addsrv --lb {} {options}", lbs.join(",")),
        };
        let line = format!(
            "{command} --foreground --announce --dir {home} --name {name} --cip {ip} --sip {ip} \
             --cport {client} --sport {peer}"
        );
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let log = self.dir.path().join("logs").join(name);
        let process = Process::start_as(name, &node.prefix, &words, &log);
        let node = &mut self.nodes[number];
        (node.life, node.process) = (Life::Runs, Some(process));
        node.is_ending = false;
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if let Some(mut process) = node.process.take() {
            process.kill9();
            node.life = Life::Down;
        }
    }

    /// SIGTERM; does not wait.
    pub(crate) fn terminate(&mut self, number: usize) {
        self.nodes[number].signal(Signal::SIGTERM);
        self.nodes[number].is_ending = true;
    }

    pub(crate) fn pause(&mut self, number: usize) {
        self.nodes[number].signal(Signal::SIGSTOP);
        self.nodes[number].life = Life::Stopped;
    }

    pub(crate) fn resume(&mut self, number: usize) {
        self.nodes[number].signal(Signal::SIGCONT);
        self.nodes[number].life = Life::Runs;
    }

    /// Everything that a node had is lost; it must be down.
    pub(crate) fn wipe(&mut self, number: usize) {
        assert_eq!(self.nodes[number].life, Life::Down);
        let _ = std::fs::remove_dir_all(self.folder(number));
        self.nodes[number].life = Life::Absent;
    }

    /// Nodes whose process has ended by itself, and what it ended with; they
    /// are down from now on.
    pub(crate) fn ended(&mut self) -> Vec<(usize, ExitStatus)> {
        let mut ended = Vec::new();
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if let Some(status) = node.process.as_mut().and_then(Process::ended) {
                (node.process, node.life) = (None, Life::Down);
                ended.push((number, status));
            }
        }
        ended
    }

    /// Nobody ends without having been told to, nor in another way than by saying so.
    pub(crate) fn judge_end(&self, number: usize, status: ExitStatus, log: &mut Log) {
        let node = &self.nodes[number];
        let may_end = node.dismissed || node.is_ending;
        match may_end && matches!(status.code(), Some(0 | 1)) {
            true => log.note(&format!("{} has ended ({status})", node.name)),
            false => log.wrong(&format!("{} ended by itself: {status}", node.name)),
        }
    }

    /// What a load balancer that answers says of all servers.
    pub(crate) fn view(&self) -> Option<Vec<Seen>> {
        let mut lbs = self.numbers(true).into_iter().map(|lb| &self.nodes[lb]);
        let lb = lbs.find(|lb| lb.life == Life::Runs)?;
        let stats = Connection::open(lb.client_address()).ok()?.stats().ok()?;
        let mut view = Vec::new();
        for (key, state) in &stats {
            let name = key.strip_prefix("server.").and_then(|key| key.strip_suffix(".state"));
            let Some(name) = name else { continue };
            let field = |field: &str| stats.get(&format!("server.{name}.{field}"))?.parse().ok();
            let voter = field("voter").map(|votes: u64| votes == 1);
            // Of several with one name the second is called `name#2`.
            let name = name.split('#').next().unwrap_or(name).to_owned();
            view.push(Seen { name, live: state == "live", id: field("id"), voter });
        }
        Some(view)
    }

    /// The id that a server has in the cluster.
    pub(crate) fn id(&self, number: usize) -> Option<u64> {
        let name = &self.nodes[number].name;
        self.view()?.iter().find(|seen| seen.live && seen.name == *name)?.id
    }

    /// Whether every server that is there runs and votes, and nobody else does.
    pub(crate) fn whole(&self) -> Result<(), String> {
        let view = self.view().ok_or("no load balancer answers")?;
        for node in self.nodes.iter().filter(|node| !node.is_lb) {
            let mut named = view.iter().filter(|seen| seen.name == node.name);
            let is_well = match node.life {
                Life::Absent => named.all(|seen| seen.voter.is_none()),
                life => {
                    let votes =
                        |seen: &Seen| seen.live && seen.voter == Some(true) && seen.id != node.was;
                    life == Life::Runs && named.any(votes)
                }
            };
            if !is_well {
                return Err(format!("{} is not yet where it belongs: {view:?}", node.name));
            }
        }
        match self.ghost(&view) {
            Some(ghost) => Err(format!("{ghost} is a member still: {view:?}")),
            None => Ok(()),
        }
    }

    /// A member that nobody is any more, as an operator would call it: its name
    /// is nobody's, or that of one that lives under another id.
    pub(crate) fn ghost(&self, view: &[Seen]) -> Option<String> {
        let lives = |name: &str| view.iter().any(|seen| seen.live && seen.name == name);
        let is_nobody = |name: &str| {
            !self.nodes.iter().any(|node| node.name == name && node.life != Life::Absent)
        };
        view.iter().filter(|seen| !seen.live && seen.voter.is_some()).find_map(|seen| {
            match is_nobody(&seen.name) {
                true => Some(seen.name.clone()),
                false if lives(&seen.name) => seen.id.map(|id| id.to_string()),
                false => None,
            }
        })
    }

    /// The leader, if a load balancer knows one.
    pub(crate) fn leader(&self) -> Option<usize> {
        let mut lbs = self.numbers(true).into_iter().map(|lb| &self.nodes[lb]);
        let lb = lbs.find(|lb| lb.life == Life::Runs)?;
        let listed = Connection::open(lb.client_address()).ok()?.servers().ok()?;
        let first = *listed.first()?;
        self.nodes.iter().position(|node| !node.is_lb && node.client_address() == first)
    }

    /// Cuts what the first of a pair sends to the second.
    pub(crate) fn cut(&self, pairs: &[(usize, usize)]) {
        let Some(network) = &self.network else { return };
        let ip = |number: usize| self.nodes[number].ip;
        let pairs: Vec<_> = pairs.iter().map(|&(from, to)| (ip(from), ip(to))).collect();
        network.cut(&pairs);
    }
}
