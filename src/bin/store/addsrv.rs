//! `store addsrv`: a server, as a background process or here.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::control::{Role, Waiting};
use common::ids::ServerId;
use common::limits::{DEFAULT_CHECKPOINT_AFTER, DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_VALUE_BYTES};
use server::config::{Progress, ServerConfig, Sockets};
use tracing::warn;

use crate::announce::{Announcement, Announcer};
use crate::args::{AddSrvArgs, LB_SERVER_PORT, SERVER_CLIENT_PORT, SERVER_PEER_PORT};
use crate::background::{self, Background};
use crate::failure::{Failure, Outcome, say};
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

/// Reading the log-file of a large server takes long, and says so.
const RECOVERY: Duration = Duration::from_secs(600);

/// How long a load balancer may take to answer, so that the whole command
/// fails within five seconds.
const REGISTRATION: Duration = Duration::from_millis(4500);

/// How long a registered server may take to learn its role.
const ROLE: Duration = Duration::from_secs(5);

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
    Ok(Plan {
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
    })
}

/// Those asked for, then those recorded, then those of the same data folder,
/// then the default.
fn load_balancers(
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
    if let Some(recorded) = recorded.filter(|server| !server.lbs.is_empty()) {
        return Ok(recorded.lbs.clone());
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
    say!("Distributed Key Value Store.");
    say!("Adding Server @ clients {}, servers {}", shown(plan.client), shown(plan.peer));
    let mut process = start(args, &home, &name)?;
    say!("Starting Server with pid[{}]", process.pid());
    let (client, peer) = wait_serving(&mut process)?;
    drop(lock);
    say!("{name} serves clients at {client} and servers at {peer}.");
    if !client.ip().is_loopback() {
        say!("Warning: anyone who reaches {client} can read and write everything.");
    }
    report(process, &plan)
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

/// Waits until it has read its files; its addresses for clients and servers.
pub(crate) fn wait_serving(process: &mut Background) -> Outcome<(SocketAddr, SocketAddr)> {
    let until = Instant::now() + RECOVERY;
    let mut patience = Instant::now() + Duration::from_secs(3);
    loop {
        match process.next(patience.min(until))? {
            Some(Announcement::Server { progress: Progress::Serving { client, peer, .. } }) => {
                return Ok((client, peer));
            }
            Some(announcement) => tell_repair(&process.node.name, &announcement),
            None if Instant::now() < until => {
                say!("{} still reads its files ...", process.node.name);
                patience = Instant::now() + Duration::from_secs(10);
            }
            None => {
                return Err(Failure::refused(format!(
                    "{} (pid {}) does not serve after {} s; its log: {}",
                    process.node.name,
                    process.pid(),
                    RECOVERY.as_secs(),
                    process.node.log_path().display()
                )));
            }
        }
    }
}

/// Says what a start found damaged, and what becomes of it.
fn tell_repair(name: &str, announcement: &Announcement) {
    match announcement {
        Announcement::Server { progress: Progress::Repairing { what } } => {
            say!("{name} repairs its files: {what}");
        }
        Announcement::Server { progress: Progress::SetAside { why, aside } } => {
            say!(
                "{name} joins as a new server, because its files are damaged: {why}\n\
                 What is left of them is in {}.",
                aside.display()
            );
        }
        _ => {}
    }
}

/// How far the registration got.
#[derive(Debug, Default)]
struct Standing {
    /// The load balancer that may found a cluster: what it says counts.
    founder: Option<SocketAddr>,
    registered: Option<(SocketAddr, Option<Waiting>)>,
    member: Option<(ServerId, Role)>,
    refused: Option<String>,
}

impl Standing {
    /// Listens to the process until it is registered and has a role, waits
    /// for something that only others can bring, or takes too long.
    fn listen(process: &mut Background, founder: SocketAddr) -> Outcome<Self> {
        let mut standing = Standing { founder: Some(founder), ..Standing::default() };
        let mut until = Instant::now() + REGISTRATION;
        while !standing.settled() {
            match process.next(until)? {
                Some(Announcement::Server { progress }) => match progress {
                    Progress::Registered { lb, waiting_for } => {
                        if lb == founder || standing.registered.is_none() {
                            standing.registered = Some((lb, waiting_for));
                        }
                        until = Instant::now() + ROLE;
                    }
                    Progress::Member { id, role, .. } => standing.member = Some((id, role)),
                    Progress::NotRegistered { why } => standing.refused = Some(why),
                    Progress::Serving { .. }
                    | Progress::Repairing { .. }
                    | Progress::SetAside { .. } => {}
                },
                Some(_) => {}
                None => break,
            }
        }
        Ok(standing)
    }

    /// Nothing goes on until somebody adds servers; everything else that a
    /// server waits for comes by itself, and soon.
    fn waits_for_servers(&self) -> bool {
        matches!(
            &self.registered,
            Some((lb, Some(waiting))) if Some(*lb) == self.founder && waiting.missing_servers > 0
        )
    }

    fn settled(&self) -> bool {
        let waits = self.waits_for_servers();
        let complete = self.registered.is_some() && self.member.is_some();
        waits || complete || self.refused.is_some()
    }
}

/// Says how the registration went.
fn report(mut process: Background, plan: &Plan) -> Outcome {
    let standing = Standing::listen(&mut process, plan.lbs[0])?;
    let more_servers = standing.waits_for_servers();
    let name = process.node.name.clone();
    match (standing.registered, standing.member) {
        (Some((lb, _)), Some((id, role))) => {
            say!("{name} is registered with {lb}: server {id}, {}.", role_name(role));
            Ok(())
        }
        (Some((lb, Some(waiting_for))), None) => {
            say!("{name} is registered with {lb} and waits for {}.", waiting_for.what);
            if more_servers {
                say!("Add a server with `store addsrv`.");
            }
            Ok(())
        }
        (Some((lb, None)), None) => {
            say!(
                "{name} is registered with {lb}; its role is not decided yet: see `store status`."
            );
            Ok(())
        }
        (None, member) => {
            let lbs: Vec<_> = plan.lbs.iter().map(ToString::to_string).collect();
            let why = standing.refused.unwrap_or_else(|| {
                format!(
                    "no load balancer answered at {} within {:.1} s: is one running there, with the \
                     same cluster.key? Add one with `store addlb`",
                    lbs.join(", "),
                    REGISTRATION.as_secs_f32()
                )
            });
            let log = process.node.log_path();
            if plan.registered || member.is_some() {
                let pid = process.pid();
                return Err(Failure::unreachable(format!(
                    "{name} is not registered: {why}.\nIt holds data, so it keeps running (pid {pid}) \
                     and trying; its log: {}",
                    log.display()
                )));
            }
            process.terminate();
            Err(Failure::unreachable(format!(
                "{name} is not registered and stopped again: {why}.\nIts log: {}",
                log.display()
            )))
        }
    }
}

/// In words.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Fresh => "fresh",
        Role::Learner => "learner",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
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
        key_file: home.key_file(),
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
    let recorder = Mutex::new(Recorder { node: node.clone(), plan, settings: None, lock });
    let progress = Arc::new(move |progress: Progress| {
        recorder.lock().unwrap_or_else(PoisonError::into_inner).note(&progress);
        announcer.say(&Announcement::Server { progress });
    });
    serve::block_on(args.node.announce, |shutdown| server::run(config, sockets, progress, shutdown))
}

/// Records in the folder how the server runs, from the moment on at which it
/// holds the folder's lock.
struct Recorder {
    node: Node,
    plan: Plan,
    settings: Option<ServerSettings>,
    /// Given back once the name and the ports are taken.
    lock: Option<CommandLock>,
}

impl Recorder {
    fn note(&mut self, progress: &Progress) {
        match progress {
            Progress::Serving { client, peer, .. } => {
                self.settings = Some(ServerSettings {
                    client: *client,
                    peer: *peer,
                    lbs: self.plan.lbs.clone(),
                    heartbeat_ms: self.plan.heartbeat.as_millis() as u64,
                    dead_after_ms: self.plan.dead_after.as_millis() as u64,
                    election_timeout: self.plan.election_timeout,
                    max_item_bytes: self.plan.max_item_bytes,
                    checkpoint_after_bytes: self.plan.checkpoint_after_bytes,
                    keep_log: self.plan.keep_log,
                    memory_limit_mib: self.plan.memory_limit_mib,
                    registered: self.plan.registered,
                });
            }
            Progress::Registered { .. } | Progress::Member { .. } => match &mut self.settings {
                Some(settings) if !settings.registered => settings.registered = true,
                _ => return,
            },
            Progress::NotRegistered { .. }
            | Progress::Repairing { .. }
            | Progress::SetAside { .. } => return,
        }
        let Some(settings) = self.settings.clone() else { return };
        if let Err(error) = self.node.record(&Settings::Server(settings)) {
            warn!("a restart will need its addresses on the command line: {error:#}");
        }
        self.lock = None;
    }
}
