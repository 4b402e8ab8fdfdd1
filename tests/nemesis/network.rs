//! A network of the test's own: each node in a network namespace, all of them
//! on one bridge, and a list of who does not hear whom.
//!
//! The bridge is in a namespace of its own as well, in which the clients are:
//! what it does not forward from one node to another does not concern them, so
//! that they reach every node and see both sides of a partition.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns};

/// What all names of namespaces begin with; then come the process and a number.
const PREFIX: &str = "store-chaos-";

/// Where the system keeps them.
const NAMESPACES: &str = "/run/netns";

/// Where a node is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) ip: Ipv4Addr,
    /// What must stand before a command, so that it runs there.
    pub(crate) prefix: Vec<String>,
}

/// The namespaces; gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Network {
    hub: String,
    places: Vec<Place>,
}

/// Runs a command; what it complained about.
fn run(words: &[&str], input: &str) -> Result<(), String> {
    let what = words.join(" ");
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{what}: {error}"))?;
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(|error| format!("{what}: {error}"))?;
    match (output.status.success(), written) {
        (true, Some(Ok(()))) => Ok(()),
        _ => Err(format!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Runs a line of words.
fn line(words: &str) -> Result<(), String> {
    run(&words.split(' ').collect::<Vec<_>>(), "")
}

impl Network {
    /// A network with so many places, or why there can be none.
    pub(crate) fn create(places: usize) -> Result<Network, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("this is not root".to_owned());
        }
        clear_leftovers();
        let process = std::process::id();
        let name = |number: usize| format!("{PREFIX}{process}-{number}");
        let hub = name(0);
        // From here on whatever was made goes when this is dropped.
        let mut network = Network { hub: hub.clone(), places: Vec::new() };
        line(&format!("ip netns add {hub}"))?;
        for command in [
            "link set lo up",
            "link add bridge0 type bridge",
            "link set bridge0 up",
            "addr add 10.77.0.1/24 dev bridge0",
        ] {
            line(&format!("ip -n {hub} {command}"))?;
        }
        for number in 1..=places {
            let (place, ip) = (name(number), Ipv4Addr::new(10, 77, 0, 10 + number as u8));
            line(&format!("ip netns add {place}"))?;
            let prefix = ["ip", "netns", "exec", &place].map(str::to_owned).to_vec();
            network.places.push(Place { ip, prefix });
            line(&format!(
                "ip link add node{number} netns {hub} type veth peer name eth0 netns {place}"
            ))?;
            line(&format!("ip -n {hub} link set node{number} master bridge0 up"))?;
            line(&format!("ip -n {place} link set lo up"))?;
            line(&format!("ip -n {place} addr add {ip}/24 dev eth0"))?;
            line(&format!("ip -n {place} link set eth0 up"))?;
        }
        network.nft(
            "table bridge chaos {\n\
             set cut { type ipv4_addr . ipv4_addr; }\n\
             chain forward {\n\
             type filter hook forward priority 0;\n\
             ip saddr . ip daddr @cut drop\n\
             }\n}\n",
        )?;
        network.enter();
        Ok(network)
    }

    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    fn nft(&self, rules: &str) -> Result<(), String> {
        run(&["ip", "netns", "exec", &self.hub, "nft", "-f", "-"], rules)
    }

    /// Nothing that the first of a pair sends reaches the second, as of now;
    /// everything else is heard.
    pub(crate) fn cut(&self, pairs: &[(Ipv4Addr, Ipv4Addr)]) {
        let mut rules = "flush set bridge chaos cut\n".to_owned();
        for (from, to) in pairs {
            rules.push_str(&format!("add element bridge chaos cut {{ {from} . {to} }}\n"));
        }
        self.nft(&rules).expect("the network can be cut");
    }

    /// The calling thread, and what it starts, is where the clients are.
    pub(crate) fn enter(&self) {
        let file = std::fs::File::open(Path::new(NAMESPACES).join(&self.hub)).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).expect("a namespace can be entered");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in &self.places {
            let _ = line(&format!("ip netns del {}", place.prefix[3]));
        }
        let _ = line(&format!("ip netns del {}", self.hub));
    }
}

/// Ends and removes what tests have left that were killed themselves.
fn clear_leftovers() {
    let Ok(entries) = std::fs::read_dir(NAMESPACES) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let Some(process) = rest.split('-').next() else { continue };
        if Path::new("/proc").join(process).exists() {
            continue;
        }
        let pids = Command::new("ip").args(["netns", "pids", &name]).output();
        let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        for pid in pids.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()) {
            super::support::process::signal(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = line(&format!("ip netns del {name}"));
    }
}
