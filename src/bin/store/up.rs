//! `store up`: a whole cluster on this machine in one command.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use common::limits::DEFAULT_MAX_VALUE_BYTES;

use crate::addlb;
use crate::addsrv;
use crate::args::{AddLbArgs, AddSrvArgs, DEFAULT_DIR, DataArgs, LB_CLIENT_PORT, NodeArgs, UpArgs};
use crate::background::Background;
use crate::failure::{Failure, Outcome, say};
use crate::following::{self, Voice};
use crate::home::{Home, LbSettings, Settings, split_number};
use crate::silent;
use crate::standing::{self, Standing};
use crate::table;
use crate::text::Connection;

/// Servers of a new cluster, unless told otherwise.
const DEFAULT_SERVERS: usize = 3;

/// How long the whole cluster may take to have a leader.
const LEADER: Duration = Duration::from_secs(20);

/// Between two questions for the leader.
const POLL: Duration = Duration::from_millis(10);

/// How long one question may take.
const ANSWER: Duration = Duration::from_secs(2);

/// What runs, and what does not.
#[derive(Default)]
struct Nodes {
    rows: Vec<Vec<String>>,
    /// Processes that were started and taken in.
    processes: Vec<Background>,
    /// Where clients reach each server.
    clients: Vec<(String, SocketAddr)>,
    /// What was refused, or does not answer.
    failures: Vec<Failure>,
}

/// The command.
pub(crate) fn run(args: &UpArgs) -> Outcome {
    let began = Instant::now();
    let home = Home::create(&args.dir)?;
    let lock = home.lock_commands()?;
    let names = server_names(args, &home)?;
    let mut nodes = Nodes::default();
    let lb = load_balancers(args, &home, names.len(), &mut nodes)?;
    servers(args, &home, &names, &mut nodes)?;
    drop(lock);
    let header = ["NODE", "PID", "CLIENTS", "SERVERS", ""];
    let table = table::render(&header, &[false, true, false, false, false], &nodes.rows);
    say!("{table}");
    nodes.check()?;
    let leader = wait_for_leader(lb.client, &mut nodes.processes)?;
    let who = nodes.clients.iter().find(|(_, client)| *client == leader);
    let who = who.map_or_else(|| leader.to_string(), |(name, _)| format!("{name} ({leader})"));
    say!("{who} leads: the cluster serves after {:.2} s.\n", began.elapsed().as_secs_f64());
    demonstrate(lb.client, began)?;
    next_steps(args, &lb);
    Ok(())
}

impl Nodes {
    /// Whether everything that should run does.
    fn check(&self) -> Outcome {
        let Some(first) = self.failures.first() else { return Ok(()) };
        let mut each: Vec<_> = self.failures.iter().map(|failure| &*failure.message).collect();
        each.push("The others go on: `store status` shows them.");
        Err(Failure { code: first.code, message: each.join("\n") })
    }
}

/// The servers that should run: those in the folder, and new ones up to the
/// number that was asked for.
fn server_names(args: &UpArgs, home: &Home) -> Outcome<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for (node, settings) in home.servers()? {
        if settings.registered || node.running().is_some() {
            names.push(node.name);
        }
    }
    // One whose record is damaged is a server all the same.
    let unreadable = home.unreadable()?;
    let left_out = unreadable.iter().filter(|node| split_number(&node.name).0 == "srv-").count();
    let wanted = args.servers.map_or(DEFAULT_SERVERS, usize::from);
    while names.len() + left_out < wanted {
        names.push(home.next_server_name(&names)?);
    }
    Ok(names)
}

fn node_args(args: &UpArgs) -> NodeArgs {
    NodeArgs {
        dir: args.dir.clone(),
        foreground: false,
        log_format: args.log_format,
        announce: false,
    }
}

fn row(name: &str, pid: u32, client: SocketAddr, peer: SocketAddr, what: &str) -> Vec<String> {
    vec![name.into(), pid.to_string(), client.to_string(), peer.to_string(), what.into()]
}

/// Finds the load balancers running or starts them; the first that answers is
/// the one that is asked for the leader.
fn load_balancers(
    args: &UpArgs,
    home: &Home,
    servers: usize,
    nodes: &mut Nodes,
) -> Outcome<LbSettings> {
    let known = home.load_balancers()?;
    if known.is_empty() {
        let asked = AddLbArgs {
            cport: args.cport,
            sport: args.sport,
            expect: Some(servers as u16),
            ..lb_args(args, "lb-1")
        };
        return start_lb(&asked, home, servers, nodes);
    }
    let mut answers = None;
    for (place, (node, settings)) in known.iter().enumerate() {
        // The ports that are asked for are those of the first.
        let (cport, sport) = if place == 0 { (args.cport, args.sport) } else { (None, None) };
        let Some(pid) = node.running() else {
            let asked = AddLbArgs { cport, sport, ..lb_args(args, &node.name) };
            let started = start_lb(&asked, home, servers, nodes)?;
            answers = answers.or(Some(started));
            continue;
        };
        stays_where_it_is((cport, sport), &node.name, pid, settings)?;
        let asked = Connection::connect(settings.client, ANSWER).and_then(|mut lb| lb.stats());
        let what = if asked.is_ok() { "runs already" } else { "does not answer" };
        nodes.rows.push(row(&node.name, pid, settings.client, settings.server, what));
        match asked {
            Ok(_) => answers = answers.or(Some(settings.clone())),
            Err(_) => {
                nodes.failures.push(Failure::unreachable(silent::why(home, settings.server)));
            }
        }
    }
    let Some(lb) = answers else {
        let each: Vec<_> = nodes.failures.iter().map(|failure| &*failure.message).collect();
        return Err(Failure::unreachable(each.join("\n")));
    };
    Ok(lb)
}

/// As the folder has it recorded, or the defaults.
fn lb_args(args: &UpArgs, name: &str) -> AddLbArgs {
    AddLbArgs {
        cip: None,
        cport: None,
        sip: None,
        sport: None,
        expect: None,
        policy: None,
        max_item_size: None,
        name: name.to_owned(),
        node: node_args(args),
    }
}

fn start_lb(
    asked: &AddLbArgs,
    home: &Home,
    servers: usize,
    nodes: &mut Nodes,
) -> Outcome<LbSettings> {
    let what = if asked.expect.is_some() { "started" } else { "restarted" };
    let mut process = addlb::start(asked, home)?;
    let (client, server) = addlb::wait(&mut process)?;
    nodes.rows.push(row(&asked.name, process.pid(), client, server, what));
    Ok(LbSettings {
        client,
        server,
        expect: servers as u16,
        policy: asked.policy.unwrap_or_default(),
        max_item_bytes: asked.max_item_size.unwrap_or(DEFAULT_MAX_VALUE_BYTES),
    })
}

/// A running load balancer does not move to ports that are asked for now.
fn stays_where_it_is(
    (cport, sport): (Option<u16>, Option<u16>),
    name: &str,
    pid: u32,
    settings: &LbSettings,
) -> Outcome {
    let asked =
        [(cport, settings.client.port(), "--cport"), (sport, settings.server.port(), "--sport")];
    for (asked, is, option) in asked {
        if asked.is_some_and(|asked| asked != is && asked != 0) {
            return Err(Failure::usage(format!(
                "{name} already runs with {option} {is} (pid {pid}): \
                 stop it first with `store stop {name}` to move it"
            )));
        }
    }
    Ok(())
}

/// Starts those that do not run, all at once, and waits until each is taken in.
fn servers(args: &UpArgs, home: &Home, names: &[String], nodes: &mut Nodes) -> Outcome {
    let mut starting = Vec::new();
    for name in names {
        let node = home.node(name);
        let settings = node.settings()?;
        if let (Some(pid), Some(Settings::Server(server))) = (node.running(), &settings) {
            nodes.rows.push(row(name, pid, server.client, server.peer, "runs already"));
            nodes.clients.push((name.clone(), server.client));
            continue;
        }
        let recorded = match settings {
            Some(Settings::Server(server)) if server.registered => Some(server),
            _ => None,
        };
        let server = server_args(args, name);
        let lbs = addsrv::load_balancers(&server, home, recorded.as_ref())?;
        starting.push((addsrv::start(&server, home, name)?, lbs, recorded.is_some()));
    }
    // All of them read their files at the same time, and register then.
    let mut serving = Vec::new();
    for (mut process, lbs, restarted) in starting {
        match following::wait_serving(&mut process, Voice::People) {
            Ok(addresses) => {
                let standing = Standing::new(home, &lbs, restarted);
                serving.push((process, addresses, standing, restarted));
            }
            Err(failure) => nodes.is_refused(&process.node.name, None, failure),
        }
    }
    for (process, (client, peer), standing, restarted) in serving {
        let name = process.node.name.clone();
        match standing::wait_accepted(process, standing) {
            Ok(process) => {
                let what = if restarted { "restarted" } else { "started" };
                nodes.rows.push(row(&name, process.pid(), client, peer, what));
                nodes.clients.push((name, client));
                nodes.processes.push(process);
            }
            Err(failure) => nodes.is_refused(&name, Some((client, peer)), failure),
        }
    }
    Ok(())
}

impl Nodes {
    fn is_refused(
        &mut self,
        name: &str,
        addresses: Option<(SocketAddr, SocketAddr)>,
        failure: Failure,
    ) {
        let (client, peer) = match addresses {
            Some((client, peer)) => (client.to_string(), peer.to_string()),
            None => ("-".to_owned(), "-".to_owned()),
        };
        self.rows.push(vec![name.into(), "-".into(), client, peer, "is not taken in".into()]);
        self.failures.push(failure);
    }
}

/// As the folder has it recorded, or the defaults.
fn server_args(args: &UpArgs, name: &str) -> AddSrvArgs {
    AddSrvArgs {
        cip: None,
        cport: None,
        sip: None,
        sport: None,
        lbip: None,
        lbport: None,
        // All of the folder, and those that it knows if it was there before.
        lb: Vec::new(),
        name: Some(name.to_owned()),
        heartbeat: None,
        dead_after: None,
        election_timeout: None,
        max_item_size: None,
        wait: Duration::ZERO,
        json: false,
        data: DataArgs {
            checkpoint_after: None,
            keep_log: args.keep_log,
            memory_limit: args.memory_limit,
        },
        node: node_args(args),
    }
}

/// Asks the load balancer until it names a leader.
fn wait_for_leader(lb: SocketAddr, processes: &mut [Background]) -> Outcome<SocketAddr> {
    let until = Instant::now() + LEADER;
    let mut trouble = "it names none".to_owned();
    while Instant::now() < until {
        match Connection::connect(lb, ANSWER).and_then(|mut connection| connection.leader()) {
            Ok(Some(leader)) => {
                check(processes)?;
                return Ok(leader);
            }
            Ok(None) => trouble = "it names none".to_owned(),
            Err(error) => trouble = error.to_string(),
        }
        check(processes)?;
        std::thread::sleep(POLL);
    }
    Err(Failure::unreachable(format!(
        "no leader after {} s: the load balancer at {lb} was asked, {trouble}; \
         `store status` shows what the servers do, server.log in each folder why",
        LEADER.as_secs()
    )))
}

/// Whether all that were started still run.
fn check(processes: &mut [Background]) -> Outcome {
    processes.iter_mut().try_for_each(Background::check)
}

/// A set and a get, with a key that nobody else uses and that is deleted again.
fn demonstrate(lb: SocketAddr, began: Instant) -> Outcome {
    let key = format!("store-up-check-{}", std::process::id());
    let until = Instant::now() + LEADER;
    let failed = |error: &str| {
        Failure::unreachable(format!("the cluster has a leader but does not store: {error}"))
    };
    // The leader may have just been elected, or move: its address is asked
    // for again until a set is stored.
    let (mut connection, leader, took) = loop {
        let attempt = Connection::connect(lb, ANSWER).and_then(|mut lb| lb.leader());
        let error = match attempt {
            Ok(Some(leader)) => match try_set(leader, &key) {
                Ok((connection, took)) => break (connection, leader, took),
                Err(error) => error,
            },
            Ok(None) => "the load balancer names no leader".to_owned(),
            Err(error) => error.to_string(),
        };
        if Instant::now() > until {
            return Err(failed(&error));
        }
        std::thread::sleep(POLL);
    };
    say!("A set and a get at the leader, {leader} (the key is deleted again):");
    say!(
        "  set {key} hello  ->  STORED in {:.1} ms, {:.2} s after `up`",
        took.as_secs_f64() * 1e3,
        began.elapsed().as_secs_f64()
    );
    let asked = Instant::now();
    let value = connection.get(&key).map_err(|error| failed(&error.to_string()))?;
    let value = value.ok_or_else(|| failed("a get does not find what was just set"))?;
    say!("  get {key}        ->  {value} in {:.1} ms\n", asked.elapsed().as_secs_f64() * 1e3);
    match connection.delete(&key) {
        Ok(answer) if answer == "DELETED" => Ok(()),
        Ok(answer) => Err(failed(&format!("deleting {key}: {answer}"))),
        Err(error) => Err(failed(&format!("deleting {key}: {error}"))),
    }
}

fn try_set(leader: SocketAddr, key: &str) -> Result<(Connection, Duration), String> {
    let mut connection =
        Connection::connect(leader, ANSWER).map_err(|error| format!("{leader}: {error}"))?;
    let asked = Instant::now();
    match connection.set(key, "hello") {
        Ok(answer) if answer == "STORED" => Ok((connection, asked.elapsed())),
        Ok(answer) => Err(format!("{leader}: {answer}")),
        Err(error) => Err(format!("{leader}: {error}")),
    }
}

/// What to type next, as it can be typed.
fn next_steps(args: &UpArgs, lb: &LbSettings) {
    let port = match lb.client.port() {
        LB_CLIENT_PORT => String::new(),
        port => format!(" --lbport {port}"),
    };
    let dir = match args.dir == Path::new(DEFAULT_DIR) {
        true => String::new(),
        false => format!(" --dir {}", args.dir.display()),
    };
    let (store, client) = (command("store"), command("client"));
    let steps = [
        (format!("{client} set{port} hello world"), "store a value"),
        (format!("{client} get{port} hello"), "read it"),
        (format!("{store} status{dir}"), "see what each server does"),
        (format!("{store} down{dir}"), "stop everything; the data stays"),
    ];
    let rows: Vec<_> =
        steps.into_iter().map(|(line, what)| vec![format!("  {line}"), what.into()]).collect();
    let table = table::render(&["Type next:", ""], &[false, false], &rows);
    say!("{}", table.trim_end());
}

/// How to call `store` or `client` in the shell that this was called from.
fn command(name: &str) -> String {
    // Set by `cargo run`, and by nothing that a user would start this from otherwise.
    if std::env::var_os("CARGO").is_some() {
        let release = if cfg!(debug_assertions) { "" } else { " --release" };
        return match name {
            "store" => format!("cargo run{release} --"),
            other => format!("cargo run{release} --bin {other} --"),
        };
    }
    let Ok(this) = std::env::current_exe() else { return name.to_owned() };
    let program = this.with_file_name(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let first = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.exists());
    match first {
        Some(found) if same_file(&found, &program) => name.to_owned(),
        _ => program.display().to_string(),
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}
