//! `store addsrv`: a server, as a background process or here.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::limits::{DEFAULT_CHECKPOINT_AFTER, DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_VALUE_BYTES};
use common::udp::ClusterKey;
use serde_json::json;
use server::config::{Progress, ServerConfig, Sockets};
use tracing::warn;

use crate::announce::{Announcement, Announcer};
use crate::args::{AddSrvArgs, LB_SERVER_PORT, SERVER_CLIENT_PORT, SERVER_PEER_PORT};
use crate::background::{self, Background};
use crate::failure::{Failure, Outcome};
use crate::following::{self, Following, Voice};
use crate::home::{
    CommandLock, DEFAULT_DEAD_AFTER_MS, Home, Node, ServerSettings, Settings, split_number,
};
use crate::serve::{self, LOOPBACK};
use crate::sockets::{self, CLIENT_OPTIONS, Port, SERVER_OPTIONS};
use crate::values::{self, TimeoutRange};

/// Between heartbeats, unless told otherwise.
pub(crate) const DEFAULT_HEARTBEAT_MS: u64 = 50;
/// Random waits for a leader, unless told otherwise.
pub(crate) const DEFAULT_ELECTION_TIMEOUT: TimeoutRange =
    TimeoutRange { low_ms: 200, high_ms: 400 };

/// What a server is started with: asked for, recorded, or default.
#[derive(Debug)]
struct Plan {
    client: (IpAddr, Port),
    peer: (IpAddr, Port),
    lbs: Vec<SocketAddr>,
    heartbeat: Duration,
    dead_after: Duration,
    election_timeout: TimeoutRange,
    max_item_bytes: usize,
    checkpoint_after_bytes: u64,
    keep_log: bool,
    memory_limit_mib: u32,
    /// A load balancer has accepted this folder before.
    registered: bool,
}

fn plan(args: &AddSrvArgs, home: &Home, node: &Node) -> Outcome<Plan> {
    let settings = match node.settings()? {
        None => None,
        Some(Settings::Server(server)) => Some(server),
        Some(Settings::LoadBalancer(_) | Settings::Fixed(_)) => {
            return Err(Failure::usage(format!(
                "{} is the folder of something else: choose another --name",
                node.dir.display()
            )));
        }
    };
    // Nobody knows a server that was never registered: it may move.
    let recorded = settings.as_ref().filter(|server| server.registered);
    let number = match split_number(&node.name) {
        ("srv-", number @ 1..=999) => number as u16,
        _ => 1,
    };
    let ports = |asked, recorded: Option<SocketAddr>, first: u16| {
        let default = Port::From(first + number - 1);
        Port::choose(asked, recorded.map(|address| address.port()), default)
    };
    let (client, peer) = (recorded.map(|server| server.client), recorded.map(|server| server.peer));
    let plan = Plan {
        client: (
            args.cip.or(client.map(|address| address.ip())).unwrap_or(LOOPBACK),
            ports(args.cport, client, SERVER_CLIENT_PORT),
        ),
        peer: (
            args.sip.or(peer.map(|address| address.ip())).unwrap_or(LOOPBACK),
            ports(args.sport, peer, SERVER_PEER_PORT),
        ),
        lbs: load_balancers(args, home, recorded)?,
        heartbeat: args.heartbeat.unwrap_or(Duration::from_millis(
            recorded.map_or(DEFAULT_HEARTBEAT_MS, |server| server.heartbeat_ms),
        )),
        dead_after: args.dead_after.unwrap_or(Duration::from_millis(
            recorded.map_or(DEFAULT_DEAD_AFTER_MS, |server| server.dead_after_ms),
        )),
        election_timeout: args
            .election_timeout
            .or(recorded.map(|server| server.election_timeout))
            .unwrap_or(DEFAULT_ELECTION_TIMEOUT),
        max_item_bytes: args
            .max_item_size
            .or(recorded.map(|server| server.max_item_bytes))
            .unwrap_or(DEFAULT_MAX_VALUE_BYTES),
        checkpoint_after_bytes: args
            .data
            .checkpoint_after
            .or(recorded.map(|server| server.checkpoint_after_bytes))
            .unwrap_or(DEFAULT_CHECKPOINT_AFTER),
        keep_log: args.data.keep_log.or(recorded.map(|server| server.keep_log)).unwrap_or(false),
        memory_limit_mib: args
            .data
            .memory_limit
            .or(recorded.map(|server| server.memory_limit_mib))
            .unwrap_or_default(),
        registered: recorded.is_some(),
    };
    plan.check()?;
    Ok(plan)
}

/// Those asked for; else those recorded and those of the same data folder; else the
/// default.
pub(crate) fn load_balancers(
    args: &AddSrvArgs,
    home: &Home,
    recorded: Option<&ServerSettings>,
) -> Outcome<Vec<SocketAddr>> {
    if !args.lb.is_empty() {
        return Ok(args.lb.clone());
    }
    if args.lbip.is_some() || args.lbport.is_some() {
        let host = args.lbip.as_deref().unwrap_or("127.0.0.1");
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let port = args.lbport.unwrap_or(LB_SERVER_PORT);
        let found = values::remote(&format!("{host}:{port}")).map_err(Failure::usage)?;
        return Ok(vec![found]);
    }
    // Load balancers of this folder may have been added or moved since.
    let mut known = recorded.map_or_else(Vec::new, |server| server.lbs.clone());
    if !known.is_empty() {
        for (_, lb) in home.load_balancers()? {
            if !known.contains(&lb.server) {
                known.push(lb.server);
            }
        }
        return Ok(known);
    }
    let beside = home.load_balancers()?;
    if beside.is_empty() {
        return Ok(vec![SocketAddr::new(LOOPBACK, LB_SERVER_PORT)]);
    }
    Ok(beside.into_iter().map(|(_, lb)| lb.server).collect())
}

/// The command.
pub(crate) fn run(args: &AddSrvArgs) -> Outcome {
    let home = Home::create(&args.node.dir)?;
    // The command that started this process holds the lock for it.
    let lock = (!args.node.announce).then(|| home.lock_commands()).transpose()?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => home.next_server_name(&[])?,
    };
    let node = home.node(&name);
    if args.node.foreground {
        return serve::node(&args.node, &name, |announcer| {
            foreground(args, &home, &node, lock, announcer)
        });
    }
    if let Some(pid) = node.running() {
        return Err(serve::already_running(&node, pid));
    }
    let plan = plan(args, &home, &node)?;
    let voice = if args.json { Voice::Json } else { Voice::People };
    voice.tell(|| {
        let (client, peer) = (shown(plan.client), shown(plan.peer));
        format!("Distributed Key Value Store.\nAdding Server @ clients {client}, servers {peer}")
    });
    let mut process = start(args, &home, &name)?;
    let pid = process.pid();
    voice.own_step(&name, "started", json!({ "pid": pid }));
    voice.tell(|| format!("Starting Server with pid[{pid}]"));
    let (client, peer) = following::wait_serving(&mut process, voice)?;
    drop(lock);
    voice.tell(|| format!("{name} serves clients at {client} and servers at {peer}."));
    if !client.ip().is_loopback() {
        let warning = format!("anyone who reaches {client} can read and write everything.");
        voice.tell(|| format!("Warning: {warning}"));
    }
    Following::new(process, voice, &home, &plan.lbs, plan.registered, args.wait).follow()
}

fn shown((ip, port): (IpAddr, Port)) -> String {
    match port {
        Port::Exactly(port) => SocketAddr::new(ip, port).to_string(),
        Port::From(port) => format!("{} (or the next free port)", SocketAddr::new(ip, port)),
    }
}

/// Starts the background process.
pub(crate) fn start(args: &AddSrvArgs, home: &Home, name: &str) -> Outcome<Background> {
    background::start(&home.node(name), args.background_line(home.dir(), name))
}

fn foreground(
    args: &AddSrvArgs,
    home: &Home,
    node: &Node,
    lock: Option<CommandLock>,
    announcer: Announcer,
) -> Outcome {
    serve::claim(node)?;
    let plan = plan(args, home, node)?;
    let key_file = home.key_file();
    ClusterKey::load_or_create(&key_file).map_err(|error| Failure::usage(error.to_string()))?;
    let sockets = Sockets {
        client: sockets::bind_clients(plan.client.0, plan.client.1, CLIENT_OPTIONS)?,
        peer: sockets::bind_servers(plan.peer.0, plan.peer.1, SERVER_OPTIONS)?,
    };
    serve::warn_if_open(plan.client.0);
    let config = ServerConfig {
        name: node.name.clone(),
        dir: node.dir.clone(),
        log_file: node.dir.join("log-file"),
        keystore_file: node.dir.join("keystore-file"),
        key_file,
        lbs: plan.lbs.clone(),
        fixed: None,
        heartbeat: plan.heartbeat,
        dead_after: plan.dead_after,
        election_timeout: plan.election_timeout.durations(),
        max_value_bytes: plan.max_item_bytes,
        checkpoint_after_bytes: plan.checkpoint_after_bytes,
        keep_log: plan.keep_log,
        memory_bytes: values::memory_bytes(Some(plan.memory_limit_mib)),
        max_connections: DEFAULT_MAX_CONNECTIONS,
    };
    let recorder =
        Mutex::new(Recorder { node: node.clone(), plan, serving: None, recorded: None, lock });
    let progress = Arc::new(move |progress: Progress| {
        recorder.lock().unwrap_or_else(PoisonError::into_inner).note(&progress);
        announcer.say(&Announcement::Server { progress });
    });
    serve::block_on(args.node.announce, |shutdown| server::run(config, sockets, progress, shutdown))
}

/// Records in the folder how the server runs: what it was asked for counts
/// from the moment on at which a load balancer or its cluster has taken it in
/// so. A folder that nobody has taken in yet is claimed as soon as it serves.
struct Recorder {
    node: Node,
    plan: Plan,
    serving: Option<(SocketAddr, SocketAddr)>,
    /// What lies in the folder, if this start has written it.
    recorded: Option<ServerSettings>,
    /// Given back once the name and the ports are taken.
    lock: Option<CommandLock>,
}

impl Recorder {
    fn note(&mut self, progress: &Progress) {
        match progress {
            Progress::Serving { client, peer, .. } => {
                // Said again once a cluster has taken it in.
                self.serving = Some((*client, *peer));
                self.record(self.recorded.as_ref().is_some_and(|settings| settings.registered));
                self.lock = None;
            }
            Progress::Registered { .. } | Progress::Voter { .. } => self.record(true),
            Progress::NotRegistered { .. }
            | Progress::Member { .. }
            | Progress::Rejoins { .. }
            | Progress::Syncing { .. }
            | Progress::Repairing { .. }
            | Progress::SetAside { .. } => {}
        }
    }

    fn record(&mut self, accepted: bool) {
        let Some((client, peer)) = self.serving else { return };
        if !accepted && self.plan.registered {
            return;
        }
        let settings = self.plan.settings(client, peer, accepted);
        if self.recorded.as_ref() == Some(&settings) {
            return;
        }
        if let Err(error) = self.node.record(&Settings::Server(settings.clone())) {
            warn!("a restart will need its addresses on the command line: {error:#}");
        }
        self.recorded = Some(settings);
    }
}

impl Plan {
    /// Whether a leader can stay one.
    fn check(&self) -> Outcome {
        let TimeoutRange { low_ms, high_ms } = self.election_timeout;
        let heartbeat_ms = self.heartbeat.as_millis();
        if heartbeat_ms < u128::from(low_ms) {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "no leader could stay one with a heartbeat each {heartbeat_ms} ms and an election timeout of \
             {low_ms}ms..{high_ms}ms: choose a shorter --heartbeat or a longer --election-timeout"
        )))
    }

    /// What is recorded of a server that runs by this plan.
    fn settings(&self, client: SocketAddr, peer: SocketAddr, registered: bool) -> ServerSettings {
        ServerSettings {
            client,
            peer,
            lbs: self.lbs.clone(),
            heartbeat_ms: self.heartbeat.as_millis() as u64,
            dead_after_ms: self.dead_after.as_millis() as u64,
            election_timeout: self.election_timeout,
            max_item_bytes: self.max_item_bytes,
            checkpoint_after_bytes: self.checkpoint_after_bytes,
            keep_log: self.keep_log,
            memory_limit_mib: self.memory_limit_mib,
            registered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::control::Role;
    use common::ids::ServerId;

    fn recorder(node: &Node, registered: bool) -> Recorder {
        let ip = (LOOPBACK, Port::From(1));
        let plan = Plan {
            client: ip,
            peer: ip,
            lbs: vec![lb()],
            heartbeat: Duration::from_millis(50),
            dead_after: Duration::ZERO,
            election_timeout: DEFAULT_ELECTION_TIMEOUT,
            max_item_bytes: 1,
            checkpoint_after_bytes: 1,
            keep_log: false,
            memory_limit_mib: 0,
            registered,
        };
        Recorder { node: node.clone(), plan, serving: None, recorded: None, lock: None }
    }

    fn lb() -> SocketAddr {
        SocketAddr::new(LOOPBACK, 5001)
    }

    fn serving(port: u16) -> Progress {
        let (client, peer) = (SocketAddr::new(LOOPBACK, port), SocketAddr::new(LOOPBACK, port));
        Progress::Serving { client, peer, replayed: 0 }
    }

    /// The port for clients that is recorded, and whether a load balancer has taken it.
    fn recorded(node: &Node) -> Option<(u16, bool)> {
        match node.settings().unwrap() {
            Some(Settings::Server(server)) => Some((server.client.port(), server.registered)),
            _ => None,
        }
    }

    #[test]
    fn heartbeats_are_shorter_than_the_election_timeout() {
        let temp = tempfile::tempdir().unwrap();
        let node = Home::create(temp.path()).unwrap().node("srv-1");
        let mut plan = recorder(&node, false).plan;
        assert!(plan.check().is_ok());
        plan.heartbeat = Duration::from_millis(200);
        let failure = plan.check().unwrap_err();
        assert_eq!(failure.code, crate::failure::USAGE);
        assert!(failure.message.contains("--election-timeout"), "{failure}");
    }

    #[test]
    fn what_a_start_asked_for_counts_once_it_is_taken_in() {
        let temp = tempfile::tempdir().unwrap();
        let node = Home::create(temp.path()).unwrap().node("srv-1");
        std::fs::create_dir(&node.dir).unwrap();
        let registered = Progress::Registered { lb: lb(), waiting_for: None };
        // A new one claims its ports at once.
        let mut first = recorder(&node, false);
        first.note(&serving(1));
        assert_eq!(recorded(&node), Some((1, false)));
        first.note(&registered);
        assert_eq!(recorded(&node), Some((1, true)));
        // Another start of it changes nothing as long as nobody wants it so.
        let mut second = recorder(&node, true);
        second.note(&serving(2));
        let why = "another key".to_owned();
        second.note(&Progress::NotRegistered { lb: lb(), refuses: true, why });
        assert_eq!(recorded(&node), Some((1, true)));
        second.note(&registered);
        second.note(&serving(2));
        assert_eq!(recorded(&node), Some((2, true)));
        // Its peers will do, when no load balancer is there.
        let mut third = recorder(&node, true);
        third.note(&serving(3));
        third.note(&Progress::Voter { id: ServerId(1), role: Role::Leader, replaces: vec![] });
        assert_eq!(recorded(&node), Some((3, true)));
    }
}
