//! What every node process does: a runtime, signals, and a report of its end.

use std::net::{IpAddr, Ipv4Addr};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::announce::{Announcement, Announcer};
use crate::args::NodeArgs;
use crate::failure::{Failure, Outcome};
use crate::home::Node;
use crate::logging;

/// The address that everything listens on unless told otherwise.
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Runs a node in this process: logs, announces and returns why it ended.
pub(crate) fn node(
    args: &NodeArgs,
    name: &str,
    body: impl FnOnce(Announcer) -> Outcome,
) -> Outcome {
    logging::start(args.log_format);
    let announcer = Announcer::new(args.announce);
    let result = body(announcer);
    match &result {
        Ok(()) => info!(name, "stopped"),
        Err(failure) => {
            error!(name, "ends: {failure}");
            announcer.say(&Announcement::from(failure));
        }
    }
    result
}

/// Runs `body` on a runtime of one thread until it ends; Ctrl-C or SIGTERM
/// cancels the token that it is given.
pub(crate) fn block_on<F>(background: bool, body: impl FnOnce(CancellationToken) -> F) -> Outcome
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(async {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::refused(format!("cannot listen to signals: {error}")))
        };
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        // A background process outlives the terminal that it was started
        // from: a handler that does nothing replaces the end of the process.
        let _hangup = background.then(|| listen(SignalKind::hangup())).transpose()?;
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => info!("stopping: SIGTERM"),
                _ = interrupt.recv() => info!("stopping: Ctrl-C"),
            }
            token.cancel();
        });
        body(shutdown).await.map_err(Failure::from)
    })
}

/// Makes the node's folder and refuses one that is in use.
pub(crate) fn claim(node: &Node) -> Outcome {
    std::fs::create_dir_all(&node.dir).map_err(|error| {
        Failure::usage(format!("cannot make the folder {}: {error}", node.dir.display()))
    })?;
    match node.running() {
        None => Ok(()),
        Some(pid) => Err(already_running(node, pid)),
    }
}

/// One process per folder.
pub(crate) fn already_running(node: &Node, pid: u32) -> Failure {
    Failure::refused(format!(
        "{} already runs on {} (pid {pid}): stop it first with `store stop {}`",
        node.name,
        node.dir.display(),
        node.name
    ))
}

/// Anyone who reaches a client port can read and write everything.
pub(crate) fn warn_if_open(ip: IpAddr) {
    if !ip.is_loopback() {
        warn!(
            %ip,
            "the client port has neither TLS nor authentication and faces more than this machine: \
             let a firewall decide who reaches it"
        );
    }
}
