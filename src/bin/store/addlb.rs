//! `store addlb`: a load balancer, as a background process or here.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use common::limits::{DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_VALUE_BYTES};
use common::udp::ClusterKey;
use lb::config::{LbConfig, Policy, Sockets};
use tracing::{info, warn};

use crate::announce::{Announcement, Announcer};
use crate::args::{AddLbArgs, LB_CLIENT_PORT, LB_SERVER_PORT};
use crate::background::{self, Background};
use crate::failure::{Failure, Outcome, say};
use crate::home::{Home, LbSettings, Node, Settings};
use crate::serve::{self, LOOPBACK};
use crate::sockets::{self, CLIENT_OPTIONS, Port, SERVER_OPTIONS};

/// Fresh servers that make a cluster, unless told otherwise.
const DEFAULT_EXPECT: u16 = 2;

/// How long a load balancer may take to serve; it has next to nothing to do.
const START: Duration = Duration::from_secs(10);

/// What a load balancer is started with: asked for, recorded, or default.
#[derive(Debug)]
struct Plan {
    client: (IpAddr, Port),
    server: (IpAddr, Port),
    expect: u16,
    policy: Policy,
    max_item_bytes: usize,
}

fn plan(args: &AddLbArgs, node: &Node) -> Outcome<Plan> {
    let recorded = match node.settings()? {
        None => None,
        Some(Settings::LoadBalancer(lb)) => Some(lb),
        Some(Settings::Server(_) | Settings::Fixed(_)) => {
            return Err(Failure::usage(format!(
                "{} is the folder of a server: choose another --name",
                node.dir.display()
            )));
        }
    };
    let recorded = recorded.as_ref();
    let port = |asked, recorded: Option<u16>, default| {
        Port::choose(asked, recorded, Port::Exactly(default))
    };
    Ok(Plan {
        client: (
            args.cip.or(recorded.map(|lb| lb.client.ip())).unwrap_or(LOOPBACK),
            port(args.cport, recorded.map(|lb| lb.client.port()), LB_CLIENT_PORT),
        ),
        server: (
            args.sip.or(recorded.map(|lb| lb.server.ip())).unwrap_or(LOOPBACK),
            port(args.sport, recorded.map(|lb| lb.server.port()), LB_SERVER_PORT),
        ),
        expect: args.expect.or(recorded.map(|lb| lb.expect)).unwrap_or(DEFAULT_EXPECT),
        policy: args.policy.or(recorded.map(|lb| lb.policy)).unwrap_or_default(),
        max_item_bytes: args
            .max_item_size
            .or(recorded.map(|lb| lb.max_item_bytes))
            .unwrap_or(DEFAULT_MAX_VALUE_BYTES),
    })
}

/// The command.
pub(crate) fn run(args: &AddLbArgs) -> Outcome {
    let home = Home::create(&args.node.dir)?;
    let node = home.node(&args.name);
    if args.node.foreground {
        return serve::node(&args.node, &args.name, |announcer| {
            foreground(args, &home, &node, announcer)
        });
    }
    let _lock = home.lock_commands()?;
    serve::claim(&node)?;
    let plan = plan(args, &node)?;
    say!("Distributed Key Value Store.");
    say!(
        "Adding Load Balancer at [clients {}, servers {}]",
        shown(plan.client),
        shown(plan.server)
    );
    let mut process = start(args, &home)?;
    say!("Starting Load Balancer with pid[{}]", process.pid());
    let (client, server) = wait(&mut process)?;
    say!(
        "{} serves clients at {client} and servers at {server}; {} fresh servers make a cluster.",
        args.name,
        plan.expect
    );
    if !client.ip().is_loopback() {
        say!("Warning: anyone who reaches {client} can read and write everything.");
    }
    let unaware = unaware(&home, server)?;
    match unaware.is_empty() {
        true => {
            say!("Add a server with `store addsrv`, see the cluster with `store status`.");
        }
        false => say!(
            "It is not known yet to {}: start them again, one after the other, each with `store stop \
             NAME` and `store addsrv --name NAME`.",
            unaware.join(", ")
        ),
    }
    Ok(())
}

/// Running servers of the folder that do not register with the load balancer at
/// `lb`: they know those that were there when they were started.
fn unaware(home: &Home, lb: SocketAddr) -> Outcome<Vec<String>> {
    let servers = home.servers()?.into_iter();
    let unaware = servers
        .filter(|(node, settings)| !settings.lbs.contains(&lb) && node.running().is_some())
        .map(|(node, _)| node.name);
    Ok(unaware.collect())
}

fn shown((ip, port): (IpAddr, Port)) -> String {
    let (Port::Exactly(port) | Port::From(port)) = port;
    SocketAddr::new(ip, port).to_string()
}

/// Starts the background process.
pub(crate) fn start(args: &AddLbArgs, home: &Home) -> Outcome<Background> {
    // Made by the command, so that it exists before the first server asks.
    cluster_key(home)?;
    background::start(&home.node(&args.name), args.background_line(home.dir()))
}

fn cluster_key(home: &Home) -> Outcome {
    match ClusterKey::load_or_create(&home.key_file()) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::usage(error.to_string())),
    }
}

/// Waits until it serves; its addresses for clients and for servers.
pub(crate) fn wait(process: &mut Background) -> Outcome<(SocketAddr, SocketAddr)> {
    let until = Instant::now() + START;
    loop {
        match process.next(until)? {
            Some(Announcement::LoadBalancer { client, server }) => {
                return Ok((client, server));
            }
            Some(_) => {}
            None => {
                return Err(Failure::refused(format!(
                    "{} (pid {}) does not serve after {} s; its log: {}",
                    process.node.name,
                    process.pid(),
                    START.as_secs(),
                    process.node.log_path().display()
                )));
            }
        }
    }
}

fn foreground(args: &AddLbArgs, home: &Home, node: &Node, announcer: Announcer) -> Outcome {
    serve::claim(node)?;
    let plan = plan(args, node)?;
    cluster_key(home)?;
    let sockets = Sockets {
        client: sockets::bind_clients(plan.client.0, plan.client.1, CLIENT_OPTIONS)?,
        server: sockets::bind_servers(plan.server.0, plan.server.1, SERVER_OPTIONS)?,
    };
    let address = |result: std::io::Result<_>| {
        result.map_err(|error| Failure::refused(format!("a socket has no address: {error}")))
    };
    let settings = LbSettings {
        client: address(sockets.client.local_addr())?,
        server: address(sockets.server.local_addr())?,
        expect: plan.expect,
        policy: plan.policy,
        max_item_bytes: plan.max_item_bytes,
    };
    serve::warn_if_open(settings.client.ip());
    let config = LbConfig {
        name: args.name.clone(),
        dir: node.dir.clone(),
        key_file: home.key_file(),
        expect: usize::from(plan.expect),
        policy: plan.policy,
        max_connections: DEFAULT_MAX_CONNECTIONS,
        max_value_bytes: plan.max_item_bytes,
    };
    let node = node.clone();
    let ready = move || {
        info!(client = %settings.client, server = %settings.server, expect = settings.expect, "serving");
        let announcement =
            Announcement::LoadBalancer { client: settings.client, server: settings.server };
        if let Err(error) = node.record(&Settings::LoadBalancer(settings)) {
            warn!("a restart will need its addresses on the command line: {error:#}");
        }
        announcer.say(&announcement);
    };
    serve::block_on(args.node.announce, |shutdown| lb::run(config, sockets, ready, shutdown))
}
