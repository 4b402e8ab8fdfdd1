//! `store stop` and `store down`: a graceful end, checked.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::args::{DownArgs, StopArgs};
use crate::failure::{Failure, Outcome, say};
use crate::home::{Home, Node, Settings};

/// How long a process may take to hand over, flush and end.
const PATIENCE: Duration = Duration::from_secs(10);

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
    let node = home.node(&args.name);
    if !node.dir.exists() {
        let names: Vec<_> = home.nodes()?.into_iter().map(|node| node.name).collect();
        let known = match names.is_empty() {
            true => "it holds none".to_owned(),
            false => format!("it holds {}", names.join(", ")),
        };
        return Err(Failure::usage(format!(
            "there is no node {} in {}: {known}; another folder is chosen with --dir",
            args.name,
            home.dir().display()
        )));
    }
    let Some(pid) = node.running() else {
        say!("{} does not run.", node.name);
        return Ok(());
    };
    terminate(pid);
    wait(&[(node, pid)])
}

/// `store down`.
pub(crate) fn down(args: &DownArgs) -> Outcome {
    let home = Home::at(&args.dir)?;
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
    for group in [servers, lbs] {
        for (_, pid) in &group {
            terminate(*pid);
        }
        wait(&group)?;
    }
    say!("Everything is stopped; the data stays in {}.", home.dir().display());
    Ok(())
}

/// Waits until the processes have given up their locks.
fn wait(nodes: &[(Node, u32)]) -> Outcome {
    let until = Instant::now() + PATIENCE;
    let mut left: Vec<_> = nodes.iter().collect();
    while !left.is_empty() {
        let mut running = Vec::new();
        for entry @ (node, pid) in left {
            if node.running() == Some(*pid) {
                running.push(entry);
            } else {
                say!("{} (pid {pid}) stopped.", node.name);
            }
        }
        left = running;
        if Instant::now() > until {
            let names: Vec<_> =
                left.iter().map(|(node, pid)| format!("{} (pid {pid})", node.name)).collect();
            return Err(Failure::refused(format!(
                "still running after {} s: {}; their logs are in their folders, `kill -9 PID` ends \
                 them at once and loses nothing that was acknowledged",
                PATIENCE.as_secs(),
                names.join(", ")
            )));
        }
        if !left.is_empty() {
            std::thread::sleep(POLL);
        }
    }
    Ok(())
}
