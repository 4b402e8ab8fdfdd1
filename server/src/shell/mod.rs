//! The async shell around the driver: sockets, timers, the disk, and nothing
//! that decides.
//!
//! One current-thread runtime carries the client connections, the QUIC
//! endpoint and the driver's loop; beside it there is one log thread (see
//! [`log_writer`]) and, now and then, a thread that writes a checkpoint. The loop
//! waits for the bell of its [`inbox`], takes everything that has arrived
//! and plays one turn of the driver.

mod checkpoint;
mod disk_trouble;
mod fresh;
pub(crate) mod inbox;
mod inputs;
mod install;
mod joining;
mod log_writer;
mod member;
mod membership;
pub(crate) mod operator;
mod orders;
mod refetch;
pub(crate) mod restore;
mod routed;
mod set_aside;
pub(crate) mod snapshots;
#[cfg(test)]
mod tests;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::Context as _;
use common::control::{Hello, MemberInfo, PROTOCOL_VERSION, Party, Report, Run, ToLb};
use common::front_end::{Counters, FrontEnd, FrontEndConfig, Service};
use common::ids::{ClusterId, ServerId};
use common::udp::{ClusterKey, Endpoint};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{self, Progress, ServerConfig, Sockets};
use crate::driver::Now;
use crate::identity::{Folder, FolderError, Identity};
use crate::registration::Lb;
pub use disk_trouble::BeginAgain;
use inbox::{Inbox, Input};
use restore::Opened;

/// Where the steps of a start are told.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

/// What a server has from its first moment, before it is a member of anything.
struct Shell {
    config: ServerConfig,
    folder: Folder,
    info: MemberInfo,
    endpoint: Endpoint,
    inbox: Arc<Inbox>,
    counters: Arc<Counters>,
    reports: tokio::sync::watch::Sender<Report>,
    to_lbs: Vec<(SocketAddr, mpsc::UnboundedSender<ToLb>)>,
    progress: ProgressFn,
    started: Instant,
    started_ms: u64,
    front_end: CancellationToken,
    /// Ends the tasks of the shell when it is dropped.
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// Runs a server until it is asked to stop or cannot go on.
///
/// # Errors
/// When the folder, the key or the sockets cannot be used, when a load
/// balancer refuses the server, or when the disk fails.
pub async fn run(
    config: ServerConfig,
    sockets: Sockets,
    progress: ProgressFn,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut shell = Shell::start(config, sockets, progress, shutdown)?;
    loop {
        let (cluster, id, disk) = loop {
            let (cluster, id) = match shell.membership()? {
                Some(member) => member,
                None => match fresh::wait_for_adoption(&mut shell).await? {
                    Some(member) => member,
                    None => return shell.end().await,
                },
            };
            match restore::open(&shell, id)? {
                Opened::Disk(disk) => break (cluster, id, *disk),
                Opened::Amnesia(why) => shell.forget_itself(&why)?,
            }
        };
        let mut member = member::Member::start(shell, cluster, id, disk)?;
        let ended = member.serve().await;
        let Some(id) = member.rejoins_as else {
            member.end().await?;
            return ended;
        };
        shell = member.rejoin(id)?;
    }
}

impl Shell {
    fn start(
        config: ServerConfig,
        sockets: Sockets,
        progress: ProgressFn,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let key = ClusterKey::load_or_create(&config.key_file)?;
        sockets.client.set_nonblocking(true)?;
        sockets.peer.set_nonblocking(true)?;
        let client = sockets.client.local_addr()?;
        let peer = sockets.peer.local_addr()?;
        let mut folder = match Folder::open(&config.dir) {
            Err(error @ FolderError::Damaged { .. }) => {
                told_set_aside(&config, &progress, &error.to_string())?;
                Folder::open(&config.dir)?
            }
            opened => opened?,
        };
        let info = identify(&mut folder, &config, peer, client)?;

        let hello = hello_of(&folder, &info);
        let endpoint = Endpoint::new(sockets.peer, &key, hello)
            .with_context(|| format!("cannot serve UDP on {peer}"))?;
        let inbox = Arc::new(Inbox::default());
        let listener = tokio::net::TcpListener::from_std(sockets.client)?;
        let front_end = CancellationToken::new();
        let counters = Arc::new(Counters::default());
        let front_end_config = FrontEndConfig {
            max_connections: config.max_connections,
            max_value_bytes: config.max_value_bytes,
            counters: Arc::clone(&counters),
        };
        let service: Arc<dyn Service> = Arc::clone(&inbox) as Arc<dyn Service>;
        let serving = FrontEnd::serve(listener, front_end_config, service, front_end.clone());
        let accepting = accept(endpoint.clone(), Arc::clone(&inbox));
        let stopping = stop_on(shutdown, Arc::clone(&inbox));
        let tasks = vec![spawn(serving), spawn(accepting), spawn(stopping)];

        let report = fresh_report(&config, &folder, &info);
        let mut shell = Shell {
            config,
            folder,
            info,
            endpoint,
            inbox,
            counters,
            reports: tokio::sync::watch::channel(report).0,
            to_lbs: Vec::new(),
            progress,
            started: Instant::now(),
            started_ms: unix_ms(),
            front_end,
            tasks,
        };
        shell.register();
        Ok(shell)
    }

    /// Starts one task for each load balancer.
    fn register(&mut self) {
        let founder = config::founder(&self.config.lbs);
        for lb in self.config.lbs.clone() {
            let (sender, receiver) = mpsc::unbounded_channel();
            self.to_lbs.push((lb, sender));
            self.tasks.push(spawn(crate::registration::keep_registered(
                Lb {
                    address: lb,
                    may_found: Some(lb) == founder,
                    key_file: self.config.key_file.clone(),
                },
                self.endpoint.clone(),
                Arc::clone(&self.inbox),
                self.reports.subscribe(),
                receiver,
                Arc::clone(&self.progress),
            )));
        }
    }

    /// Goes on as a new server: what the folder says cannot be relied on.
    fn forget_itself(&mut self, why: &str) -> anyhow::Result<()> {
        told_set_aside(&self.config, &self.progress, why)?;
        self.folder.forget();
        let MemberInfo { peer, client, .. } = self.info;
        self.info = identify(&mut self.folder, &self.config, peer, client)?;
        self.endpoint.set_hello(hello_of(&self.folder, &self.info));
        self.reports.send_replace(fresh_report(&self.config, &self.folder, &self.info));
        Ok(())
    }

    /// The cluster and id that the folder or a fixed configuration names.
    fn membership(&mut self) -> anyhow::Result<Option<(ClusterId, ServerId)>> {
        let on_disk = member_of(&self.folder);
        let Some(fixed) = self.config.fixed.clone() else { return Ok(on_disk) };
        if let Some((cluster, id)) = on_disk {
            anyhow::ensure!(
                (cluster, id) == (fixed.cluster, fixed.id),
                "{} holds server {id} of cluster {cluster}, but the configuration names server {} \
                 of cluster {}: use another folder, or the configuration it was made with",
                self.config.dir.display(),
                fixed.id,
                fixed.cluster
            );
        } else {
            restore::adopt(self, fixed.cluster, fixed.id, &fixed.members)?;
        }
        Ok(Some((fixed.cluster, fixed.id)))
    }

    fn now(&self) -> Now {
        Now { mono_us: self.started.elapsed().as_micros() as u64, wall_ms: unix_ms() }
    }

    fn uptime_secs(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// A fresh server that was told of a cluster tells its other load
    /// balancers: none of them may found a second one. Nor may they before all
    /// of its load balancers have said what they know.
    fn hear_of(&self, lb: SocketAddr, cluster: Option<ClusterId>) {
        self.reports.send_if_modified(|report| {
            let unheard = report.unheard.len();
            report.unheard.retain(|address| *address != lb);
            let news = cluster.is_some() && report.heard_of != cluster;
            if news {
                report.heard_of = cluster;
            }
            news || report.unheard.len() != unheard
        });
    }

    fn tell_lb(&self, lb: SocketAddr, message: ToLb) {
        if let Some((_, sender)) = self.to_lbs.iter().find(|(address, _)| *address == lb) {
            // The task lives as long as this sender.
            let _ = sender.send(message);
        }
    }

    /// Says goodbye and lets the sockets go.
    async fn end(mut self) -> anyhow::Result<()> {
        self.front_end.cancel();
        for (_, sender) in &self.to_lbs {
            let _ = sender.send(ToLb::Goodbye);
        }
        self.refuse_routed().await;
        self.tasks.clear();
        self.endpoint.close().await;
        Ok(())
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

/// Sets the data of the folder aside, and says so.
fn told_set_aside(config: &ServerConfig, progress: &ProgressFn, why: &str) -> anyhow::Result<()> {
    let aside = set_aside::set_aside(config, why)?;
    tracing::error!(
        why,
        kept = %aside.display(),
        "this server does not know any more what it has promised: its data are set aside, and it \
         joins as a new server"
    );
    progress(Progress::SetAside { why: why.to_owned(), aside });
    Ok(())
}

/// Writes down that a run begins, under which name and at which addresses. The
/// folder id, and the cluster if it has one, stay what they were.
fn identify(
    folder: &mut Folder,
    config: &ServerConfig,
    peer: SocketAddr,
    client: SocketAddr,
) -> anyhow::Result<MemberInfo> {
    let fresh = Identity::new(&config.name, peer, client, config.lbs.clone());
    let mut identity = match folder.identity() {
        Some(known) => {
            let known = known.clone();
            let Identity { folder, cluster, server, runs, .. } = known;
            Identity { folder, cluster, server, runs, ..fresh }
        }
        // The other servers of a fixed cluster expect the folder id that they
        // all derive from the configuration.
        None => match &config.fixed {
            Some(fixed) => Identity { folder: fixed.own_folder().unwrap_or(fresh.folder), ..fresh },
            None => fresh,
        },
    };
    let mut run = Some(identity.runs.begin(rand::random()));
    let (name, own) = (config.name.clone(), identity.folder);
    if let Err(error) = folder.save(identity) {
        // Reads go on while a disk has no room.
        let Some(known) = folder.identity().filter(|_| error.is_want_of_room()) else {
            return Err(error.into());
        };
        run = known.runs.last();
        tracing::warn!(%error, "this start is not written down: it goes on as the one before it");
    }
    Ok(MemberInfo { folder: own, name, peer, client, run })
}

/// The cluster and id that a folder belongs to.
fn member_of(folder: &Folder) -> Option<(ClusterId, ServerId)> {
    let identity = folder.identity()?;
    identity.cluster.zip(identity.server)
}

/// The runs of a folder, oldest first.
fn runs_of(folder: &Folder) -> Vec<Run> {
    folder.identity().map_or_else(Vec::new, |identity| identity.runs.chain())
}

fn hello_of(folder: &Folder, info: &MemberInfo) -> Hello {
    let from = match member_of(folder) {
        Some((cluster, id)) => Party::Member {
            cluster,
            id,
            folder: info.folder,
            peer: info.peer,
            runs: runs_of(folder),
            disk: None,
        },
        None => Party::Fresh { folder: info.folder },
    };
    Hello { version: PROTOCOL_VERSION, from }
}

fn fresh_report(config: &ServerConfig, folder: &Folder, info: &MemberInfo) -> Report {
    let founder = config::founder(&config.lbs);
    let mut unheard = config.lbs.clone();
    unheard.retain(|lb| Some(*lb) != founder);
    Report { runs: runs_of(folder), unheard, ..Report::fresh(info.clone(), std::process::id()) }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

async fn accept(endpoint: Endpoint, inbox: Arc<Inbox>) {
    while let Some((link, hello)) = endpoint.accept().await {
        inbox.push(Input::Link { link, hello });
    }
}

async fn stop_on(shutdown: CancellationToken, inbox: Arc<Inbox>) {
    shutdown.cancelled().await;
    inbox.push(Input::Stop);
}
