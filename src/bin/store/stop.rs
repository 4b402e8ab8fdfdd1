//! `store stop` and `store down`: a graceful end, checked.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::args::{DownArgs, StopArgs};
use crate::failure::{Failure, Outcome, say};
use crate::home::{Home, Node, Settings};
use crate::silent;

/// How long a process may take to hand over, flush and end.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one that is suspended may take to be let go on.
const MOMENT: Duration = Duration::from_secs(1);

/// Between two looks at a lock.
const POLL: Duration = Duration::from_millis(5);

/// Asks a process to end.
pub(crate) fn terminate(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // It may have ended meanwhile: whoever asks looks at the lock next.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// `store stop NAME`.
pub(crate) fn stop(args: &StopArgs) -> Outcome {
    let home = Home::at(&args.dir)?;
    let nodes = home.nodes()?;
    let Some(node) = nodes.iter().find(|node| node.name == args.name) else {
        let names: Vec<_> = nodes.iter().map(|node| &*node.name).collect();
        let known = match names.is_empty() {
            true => "it holds none".to_owned(),
            false => format!("it holds {}", names.join(", ")),
        };
        return Err(Failure::usage(format!(
            "there is no node {} in {}: {known}; another folder is chosen with --dir",
            args.name,
            home.dir().display()
        )));
    };
    let Some(pid) = node.running() else {
        say!("{} does not run.", node.name);
        return Ok(());
    };
    terminate(pid);
    wait(&[(node.clone(), pid)])
}

/// `store down`.
pub(crate) fn down(args: &DownArgs) -> Outcome {
    let home = Home::at(&args.dir)?;
    if !home.dir().is_dir() {
        return Err(Failure::usage(format!(
            "there is no folder {}: another one is chosen with --dir",
            home.dir().display()
        )));
    }
    let mut servers = Vec::new();
    let mut lbs = Vec::new();
    for node in home.nodes()? {
        let Some(pid) = node.running() else { continue };
        match node.readable_settings() {
            Some(Settings::LoadBalancer(_)) => lbs.push((node, pid)),
            _ => servers.push((node, pid)),
        }
    }
    if servers.is_empty() && lbs.is_empty() {
        say!("Nothing runs on {}.", home.dir().display());
        return Ok(());
    }
    // Servers first: their goodbye reaches a load balancer that still listens.
    let mut stopped = Ok(());
    for group in [servers, lbs] {
        for (_, pid) in &group {
            terminate(*pid);
        }
        // What hangs keeps nothing else from ending.
        stopped = stopped.and(wait(&group));
    }
    stopped?;
    say!("Everything is stopped; the data stays in {}.", home.dir().display());
    Ok(())
}

/// Waits until the processes have given up their locks. For one that a signal
/// has stopped nobody waits once the others have ended: it will not end.
fn wait(nodes: &[(Node, u32)]) -> Outcome {
    let began = Instant::now();
    let mut left: Vec<_> = nodes.iter().collect();
    loop {
        left.retain(|(node, pid)| {
            let runs = node.running() == Some(*pid);
            if !runs {
                say!("{} (pid {pid}) stopped.", node.name);
            }
            runs
        });
        if left.is_empty() {
            return Ok(());
        }
        let waited = began.elapsed();
        let is_suspended = |(_, pid): &&(Node, u32)| silent::is_suspended(*pid);
        let in_vain = waited > MOMENT && left.iter().all(is_suspended);
        if in_vain || waited > PATIENCE {
            let each = left.iter().map(|(node, pid)| {
                let name = &node.name;
                match silent::is_suspended(*pid) {
                    true => format!(
                        "{name} is suspended (pid {pid}): `kill -CONT {pid}` lets it go on, and end"
                    ),
                    false => format!(
                        "{name} still runs after {} s (pid {pid}): `kill -9 {pid}` ends it at once \
                         and loses nothing that was acknowledged; its log: {}",
                        waited.as_secs(),
                        node.log_path().display()
                    ),
                }
            });
            return Err(Failure::unreachable(each.collect::<Vec<_>>().join("\n")));
        }
        std::thread::sleep(POLL);
    }
}
