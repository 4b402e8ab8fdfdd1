//! What every node process does: a runtime, signals, and a report of its end.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

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

/// Set for a process that began again after its disk or its data failed.
const BEGAN_AGAIN: &str = "STORE_BEGAN_AGAIN";

/// One that began again and fails again sooner than this stays down: a disk
/// that is broken for good must not be worn by restarts.
const STAYS_DOWN_WITHIN: Duration = Duration::from_secs(60);

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
    let began = Instant::now();
    let ended = runtime.block_on(async {
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
        Ok::<_, Failure>(body(shutdown).await)
    })?;
    // Ends its threads: nothing of this process may touch the disk any more.
    drop(runtime);
    match ended {
        Err(error) if error.is::<server::BeginAgain>() => Err(begin_again(&error, began.elapsed())),
        ended => ended.map_err(Failure::from),
    }
}

/// Replaces this process by a new one of the same command line, which recovers
/// from what is on the disk. Returns only when that cannot be.
fn begin_again(error: &anyhow::Error, uptime: Duration) -> Failure {
    if std::env::var_os(BEGAN_AGAIN).is_some() && uptime < STAYS_DOWN_WITHIN {
        return Failure::refused(format!(
            "{error}. It failed again {} seconds after this server began anew, which it will not do \
             once more by itself: start it with the same command when the disk is well",
            uptime.as_secs()
        ));
    }
    error!("{error}. This server begins anew");
    let program = match running_program() {
        Ok(program) => program,
        Err(why) => return Failure::refused(format!("{error}. No program to begin with: {why}")),
    };
    let mut line = std::env::args_os();
    let name = line.next().unwrap_or_else(|| program.clone().into());
    let why = Command::new(program).arg0(name).args(line).env(BEGAN_AGAIN, "1").exec();
    Failure::refused(format!("{error}. It cannot begin anew by itself: {why}"))
}

/// The program that runs, also when its file was replaced by another version
/// since, or is gone: Linux still has it under this name.
fn running_program() -> std::io::Result<PathBuf> {
    let this = Path::new("/proc/self/exe");
    if this.exists() { Ok(this.to_owned()) } else { std::env::current_exe() }
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
        "{} already runs on {} (pid {pid}): stop it first with `store stop {}{}`",
        node.name,
        node.dir.display(),
        node.name,
        node.dir_option()
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
