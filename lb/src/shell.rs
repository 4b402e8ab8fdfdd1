//! What gives the [`Balancer`] its links, clock, disk and client port.
//!
//! All on one runtime, as tasks: one loop owns the links and feeds the
//! balancer; the client port reads the balancer's view in between, on the
//! connections' own tasks.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bytes::Bytes;
use common::control::{Hello, PROTOCOL_VERSION, Party, ToLb, ToServer};
use common::folder::FolderLock;
use common::forward::{self, ForwardFrame};
use common::front_end::{FrontEnd, FrontEndConfig};
use common::ids::{ClusterId, FolderId};
use common::udp::{ClusterKey, Endpoint, Lane, Link, Receive};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::balancer::{Balancer, Input, Output, Settings};
use crate::client_port::ClientPort;
use crate::config::{LbConfig, Sockets};
use crate::events::{Event, Severity};
use crate::memory;
use crate::registry::LinkId;

/// How often the balancer looks at the clock: a small part of the second
/// after which a server is silent.
const TICK: Duration = Duration::from_millis(50);

/// How long a fresh server may take to answer at the address that it gives to
/// others. Within the time in which `addsrv` waits for the registration.
const PROBE: Duration = Duration::from_secs(3);

/// Messages that wait for the balancer. Beyond that they are dropped: all of
/// them are sent again.
const MAX_INPUTS: usize = 1024;

/// Runs a load balancer until `shutdown` is cancelled; calls `ready` once it
/// serves. Must be called within a runtime that has IO and time enabled.
///
/// # Errors
/// What keeps it from starting: another process in its folder, the key, the memory, a socket; each with its
/// name and the way out.
pub async fn run(
    config: LbConfig,
    sockets: Sockets,
    ready: impl FnOnce(),
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let _lock = FolderLock::acquire(&config.dir)?;
    let key = ClusterKey::load(&config.key_file)?;
    let memory = memory::load(&config.dir)?;
    match memory.cluster {
        Some(cluster) => tracing::info!(%cluster, "remembers its cluster"),
        None => tracing::info!(expect = config.expect, "knows no cluster yet"),
    }

    sockets.client.set_nonblocking(true).context("cannot use the client socket")?;
    let listener =
        TcpListener::from_std(sockets.client).context("cannot listen on the client socket")?;
    let from = Party::LoadBalancer { name: config.name.clone() };
    let hello = Hello { version: PROTOCOL_VERSION, from };
    let endpoint = Endpoint::new(sockets.server, &key, hello)
        .context("cannot use the UDP socket for servers")?;

    let settings = Settings {
        name: config.name,
        pid: std::process::id(),
        expect: config.expect,
        cluster_to_form: ClusterId(rand::random()),
        config_version: unix_seconds(),
    };
    let balancer = Arc::new(Mutex::new(Balancer::new(settings, memory)));
    let started = Instant::now();

    let front_end = FrontEndConfig {
        max_connections: config.max_connections,
        max_value_bytes: config.max_value_bytes,
        ..FrontEndConfig::default()
    };
    let counters = front_end.counters.clone();
    let port = Arc::new(ClientPort::new(balancer.clone(), config.policy, started, counters));
    let front_end =
        tokio::spawn(FrontEnd::serve(listener, front_end, port.clone(), shutdown.clone()));
    ready();

    let (sender, inputs) = mpsc::channel(MAX_INPUTS);
    let shell = Shell {
        balancer,
        port,
        started,
        dir: config.dir,
        links: HashMap::new(),
        opened: 0,
        endpoint: endpoint.clone(),
        inputs: sender,
    };
    let ended = shell.serve(inputs, &shutdown, front_end).await;
    endpoint.close().await;
    ended.context("the client port broke down")
}

/// Where the rotation's version starts: above that of every earlier run,
/// unless the rotation changed more than once in each second of it.
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

struct Shell {
    balancer: Arc<Mutex<Balancer>>,
    port: Arc<ClientPort>,
    started: Instant,
    dir: PathBuf,
    links: HashMap<LinkId, Link>,
    opened: u64,
    endpoint: Endpoint,
    inputs: mpsc::Sender<Input>,
}

impl Shell {
    /// Serves until the front end has ended: after a shutdown the answers to
    /// what clients have asked still come over the links.
    async fn serve(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        shutdown: &CancellationToken,
        mut front_end: JoinHandle<()>,
    ) -> Result<(), JoinError> {
        let endpoint = self.endpoint.clone();
        let mut stopping = false;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // What has arrived comes before the clock: after a stall of this
                // process the reports that waited must count first.
                biased;
                ended = &mut front_end => return ended,
                () = shutdown.cancelled(), if !stopping => {
                    stopping = true;
                    self.port.with_router(|now, router| router.stop(now));
                }
                Some(input) = inputs.recv() => self.handle(input),
                accepted = endpoint.accept() => match accepted {
                    Some((link, hello)) => self.open(&link, hello),
                    // The endpoint is broken: nothing can be routed.
                    None => {
                        shutdown.cancel();
                        return front_end.await;
                    }
                },
                _ = ticks.tick() => {
                    self.handle(Input::Tick);
                    self.port.with_router(|now, router| router.tick(now));
                }
            }
        }
    }

    fn open(&mut self, link: &Link, hello: Hello) {
        self.opened += 1;
        let id = LinkId(self.opened);
        let remote = link.remote();
        tracing::debug!(%remote, link = id.0, "a link is open");
        self.links.insert(id, link.clone());
        self.handle(Input::Opened { link: id, remote, hello });
        // Unless the balancer has closed it already.
        if self.links.contains_key(&id) {
            self.port.with_router(|_, router| router.link_up(id, link.clone()));
            let (port, inputs) = (self.port.clone(), self.inputs.clone());
            link.start(Arc::new(Receiver { id, link: link.clone(), inputs, port }));
        }
    }

    /// Feeds the balancer and does what it says, until nothing is left to do.
    fn handle(&mut self, input: Input) {
        if let Input::Closed { link, .. } = &input {
            self.forget(*link);
        }
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut balancer = self.balancer.lock().unwrap_or_else(PoisonError::into_inner);
            let outputs = balancer.handle(self.started.elapsed(), input);
            let routes = balancer.routes();
            drop(balancer);
            self.port.with_router(|now, router| router.set_routes(now, routes));
            for output in outputs {
                match output {
                    Output::Send { link, message } => self.send(link, &message),
                    Output::Close { link, reason } => {
                        if let Some(link) = self.forget(link) {
                            link.close(&reason);
                        }
                    }
                    // Once or twice in the life of a cluster: not worth a thread.
                    Output::Persist(memory) => {
                        let result = memory::save(&self.dir, &memory);
                        let result = result.map_err(|error| format!("{error:#}"));
                        inputs.push_back(Input::Persisted(result));
                    }
                    Output::Probe { folder, peer } => self.probe(folder, peer),
                    Output::Log(event) => log(&event),
                }
            }
        }
    }

    /// Dials a server at the address that it gives to others.
    fn probe(&self, folder: FolderId, peer: SocketAddr) {
        let (endpoint, inputs) = (self.endpoint.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let result = match endpoint.connect_with_timeout(peer, PROBE).await {
                Err(error) => Err(error.to_string()),
                Ok((link, hello)) => {
                    link.close("it answers");
                    match hello.from {
                        Party::Member { folder: found, .. } | Party::Fresh { folder: found }
                            if found == folder =>
                        {
                            Ok(())
                        }
                        _ => Err("somebody else answered".to_owned()),
                    }
                }
            };
            // Fails when the load balancer stops.
            let _ = inputs.send(Input::Probed { folder, peer, result }).await;
        });
    }

    fn forget(&mut self, link: LinkId) -> Option<Link> {
        self.port.with_router(|now, router| router.link_lost(now, link));
        self.links.remove(&link)
    }

    fn send(&self, link: LinkId, message: &ToServer) {
        let Some(link) = self.links.get(&link) else { return };
        let text = match serde_json::to_vec(message) {
            Ok(text) => text,
            Err(error) => return tracing::error!(%error, ?message, "cannot encode a message"),
        };
        // All messages are sent again as long as they are needed.
        if let Err(error) = link.send(Lane::Control, &text) {
            tracing::debug!(remote = %link.remote(), %error, "a message was not sent");
        }
    }
}

fn log(event: &Event) {
    match event.severity {
        Severity::Info => tracing::info!("{}", event.text),
        Severity::Warning => tracing::warn!("{}", event.text),
    }
}

/// Brings what comes in on one link to the balancer.
struct Receiver {
    id: LinkId,
    link: Link,
    inputs: mpsc::Sender<Input>,
    port: Arc<ClientPort>,
}

impl Receiver {
    /// A server's answer goes to the client at once, not by way of the balancer.
    fn answer(&self, frame: &Bytes) {
        let why = match forward::decode_forward(frame) {
            Ok(ForwardFrame::Reply { number, reply }) => {
                let id = self.id;
                return self.port.with_router(|now, router| router.reply(now, id, number, reply));
            }
            Ok(_) => "a load balancer executes no requests".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(remote = %self.link.remote(), why, "closed a link");
        self.link.close(&why);
    }
}

impl Receive for Receiver {
    fn frame(&self, lane: Lane, frame: Bytes) {
        match lane {
            Lane::Control => {}
            Lane::Request => return self.answer(&frame),
            Lane::Urgent | Lane::Bulk | Lane::Snapshot => {
                return self.link.close("a load balancer takes no Raft messages");
            }
        }
        match serde_json::from_slice::<ToLb>(&frame) {
            Ok(message) => {
                let input = Input::Message { link: self.id, message: Box::new(message) };
                if self.inputs.try_send(input).is_err() {
                    tracing::debug!(remote = %self.link.remote(), "a message was dropped");
                }
            }
            Err(error) => {
                let remote = self.link.remote();
                tracing::warn!(%remote, %error, "closed a link for an unreadable message");
                self.link.close(&format!("unreadable message to a load balancer: {error}"));
            }
        }
    }

    fn closed(&self, reason: String) {
        // The one message that is never sent again: it waits for room.
        let input = Input::Closed { link: self.id, reason };
        if let Err(mpsc::error::TrySendError::Full(input)) = self.inputs.try_send(input) {
            let inputs = self.inputs.clone();
            tokio::spawn(async move { inputs.send(input).await });
        }
    }
}
