//! Why a load balancer says nothing, as far as its folder and its process tell.

use std::net::SocketAddr;

use crate::home::{Home, LbSettings};

/// What to say of a load balancer at one of `addresses` that runs and does not
/// answer.
pub(crate) fn hung(home: &Home, addresses: &[SocketAddr]) -> Option<String> {
    let known = home.load_balancers().unwrap_or_default();
    let is_meant = |lb: &LbSettings| [lb.server, lb.client].iter().any(|at| addresses.contains(at));
    let mut found = known.iter().filter(|(node, lb)| is_meant(lb) && node.running().is_some());
    found.next().map(|(_, lb)| why(home, lb.server))
}

/// Why the load balancer at `address` does not answer, and what to do.
pub(crate) fn why(home: &Home, address: SocketAddr) -> String {
    // Whoever asks has enough trouble to tell of without an unreadable folder.
    let known = home.load_balancers().unwrap_or_default();
    let found = known.iter().find(|(_, lb)| lb.server == address || lb.client == address);
    let Some((node, _)) = found else {
        return format!(
            "no load balancer answers at {address}: is one running there, and is it reached? Add \
             one with `store addlb`, or name another with --lb"
        );
    };
    let (name, dir) = (&node.name, node.dir_option());
    match node.running() {
        None => format!(
            "load balancer {name} at {address} does not run: start it with `store addlb --name {name}{dir}`"
        ),
        Some(pid) if is_suspended(pid) => format!(
            "load balancer {name} at {address} is suspended (pid {pid}): `kill -CONT {pid}` lets it \
             go on"
        ),
        Some(pid) => format!(
            "load balancer {name} at {address} runs and does not answer (pid {pid}): `kill -9 {pid}` \
             ends it, `store addlb --name {name}{dir}` starts it again"
        ),
    }
}

/// Whether a signal has stopped a process, as far as the system tells.
pub(crate) fn is_suspended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it, in brackets, may hold anything.
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    matches!(state, Some("T" | "t"))
}
