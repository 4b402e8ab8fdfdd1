//! The data folder: one folder for each node, the cluster key, and what is
//! recorded about each node so that it can be started again as it was.
//!
//! ```text
//! store-data/
//!   cluster.key
//!   commands.lock        held while a command starts nodes
//!   lb-1/, srv-1/, ...
//!     lock               held by the running process, holds its pid
//!     settings.json      addresses and options of the last start
//!     server.log         log of the background process
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use common::folder;
use common::limits::DEFAULT_MAX_VALUE_BYTES;
use lb::config::Policy;
use serde::{Deserialize, Serialize};

use crate::args::DEFAULT_DIR;
use crate::failure::{Failure, Outcome, complain};
use crate::values::TimeoutRange;

const SETTINGS: &str = "settings.json";
const LOCK: &str = "lock";

/// The data folder.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    dir: PathBuf,
}

/// The folder of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Node {
    /// Its name and its folder's.
    pub(crate) name: String,
    /// Its folder.
    pub(crate) dir: PathBuf,
}

/// How a node was started last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum Settings {
    /// A load balancer.
    LoadBalancer(LbSettings),
    /// A server.
    Server(ServerSettings),
    /// A server of a fixed cluster.
    Fixed(FixedSettings),
}

/// How a load balancer was started last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct LbSettings {
    /// For clients.
    pub(crate) client: SocketAddr,
    /// For servers.
    pub(crate) server: SocketAddr,
    /// Fresh servers that make a cluster.
    pub(crate) expect: u16,
    /// Which servers answer reads.
    #[serde(default)]
    pub(crate) policy: Policy,
    /// Largest value.
    #[serde(default = "default_item_bytes")]
    pub(crate) max_item_bytes: usize,
}

/// As long as a machine takes to start again.
pub(crate) const DEFAULT_DEAD_AFTER_MS: u64 = 30_000;

fn default_dead_after_ms() -> u64 {
    DEFAULT_DEAD_AFTER_MS
}

fn default_item_bytes() -> usize {
    DEFAULT_MAX_VALUE_BYTES
}

/// How a server was started last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ServerSettings {
    /// For clients.
    pub(crate) client: SocketAddr,
    /// For other servers and load balancers.
    pub(crate) peer: SocketAddr,
    /// Its load balancers.
    pub(crate) lbs: Vec<SocketAddr>,
    /// A voter that was silent for so long is removed; 0: never.
    #[serde(default = "default_dead_after_ms")]
    pub(crate) dead_after_ms: u64,
    /// Interval of heartbeats.
    pub(crate) heartbeat_ms: u64,
    /// Range of election timeouts.
    pub(crate) election_timeout: TimeoutRange,
    /// Largest value.
    pub(crate) max_item_bytes: usize,
    /// Growth of the log after which a checkpoint is due.
    pub(crate) checkpoint_after_bytes: u64,
    /// Whether the log-file is archived.
    #[serde(default)]
    pub(crate) keep_log: bool,
    /// Memory for items; 0: no limit.
    #[serde(default)]
    pub(crate) memory_limit_mib: u32,
    /// Whether a load balancer has ever accepted it. A folder that was never
    /// registered is free for the next new server.
    pub(crate) registered: bool,
}

/// How a server of a fixed cluster was started last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct FixedSettings {
    /// For clients.
    pub(crate) client: SocketAddr,
    /// For other servers.
    pub(crate) peer: SocketAddr,
    /// Its log-file.
    pub(crate) log_file: PathBuf,
    /// Its keystore-file.
    pub(crate) keystore_file: PathBuf,
}

impl Settings {
    /// Where clients reach the node.
    pub(crate) fn client(&self) -> SocketAddr {
        match self {
            Settings::LoadBalancer(lb) => lb.client,
            Settings::Server(server) => server.client,
            Settings::Fixed(server) => server.client,
        }
    }

    /// Where servers reach the node.
    pub(crate) fn peer(&self) -> SocketAddr {
        match self {
            Settings::LoadBalancer(lb) => lb.server,
            Settings::Server(server) => server.peer,
            Settings::Fixed(server) => server.peer,
        }
    }
}

/// Held while nodes are started, so that two commands never choose the same
/// name or start the same node.
#[derive(Debug)]
pub(crate) struct CommandLock {
    _file: File,
}

impl Home {
    /// The folder, whether it exists or not.
    pub(crate) fn at(dir: &Path) -> Outcome<Self> {
        let dir = std::path::absolute(dir)
            .with_context(|| format!("cannot find the folder {}", dir.display()))?;
        Ok(Home { dir })
    }

    /// The folder, made if it does not exist.
    pub(crate) fn create(dir: &Path) -> Outcome<Self> {
        let home = Home::at(dir)?;
        fs::create_dir_all(&home.dir).map_err(|error| {
            Failure::usage(format!(
                "cannot make the folder {}: {error}; choose another with --dir",
                home.dir.display()
            ))
        })?;
        Ok(home)
    }

    /// The folder itself, absolute.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The cluster key's file.
    pub(crate) fn key_file(&self) -> PathBuf {
        self.dir.join("cluster.key")
    }

    /// The folder of a node, whether it exists or not.
    pub(crate) fn node(&self, name: &str) -> Node {
        Node { name: name.to_owned(), dir: self.dir.join(name) }
    }

    /// All nodes in the folder, by name, numbers in their order.
    pub(crate) fn nodes(&self) -> Outcome<Vec<Node>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(Failure::usage(format!("cannot read {}: {error}", self.dir.display())));
            }
        };
        let mut nodes = Vec::new();
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", self.dir.display()))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let node = self.node(&name);
            if node.dir.join(SETTINGS).exists() || node.dir.join(LOCK).exists() {
                nodes.push(node);
            }
        }
        nodes.sort_by_key(|node| {
            (split_number(&node.name).0.to_owned(), split_number(&node.name).1)
        });
        Ok(nodes)
    }

    /// Nodes that cannot be told what they are: what is recorded about them is
    /// damaged.
    pub(crate) fn unreadable(&self) -> Outcome<Vec<Node>> {
        Ok(self.nodes()?.into_iter().filter(|node| node.settings().is_err()).collect())
    }

    /// The nodes that are servers, with what is recorded about them.
    pub(crate) fn servers(&self) -> Outcome<Vec<(Node, ServerSettings)>> {
        let mut servers = Vec::new();
        for node in self.nodes()? {
            if let Some(Settings::Server(settings)) = node.readable_settings() {
                servers.push((node, settings));
            }
        }
        Ok(servers)
    }

    /// The nodes that are load balancers, with what is recorded about them.
    pub(crate) fn load_balancers(&self) -> Outcome<Vec<(Node, LbSettings)>> {
        let mut lbs = Vec::new();
        for node in self.nodes()? {
            if let Some(Settings::LoadBalancer(settings)) = node.readable_settings() {
                lbs.push((node, settings));
            }
        }
        Ok(lbs)
    }

    /// The name for a new server: the first srv-N whose folder does not exist,
    /// or holds a server that stopped before any load balancer accepted it.
    pub(crate) fn next_server_name(&self, reserved: &[String]) -> Outcome<String> {
        for number in 1.. {
            let node = self.node(&format!("srv-{number}"));
            if reserved.contains(&node.name) {
                continue;
            }
            let unused = match node.settings() {
                Ok(None) => true,
                Ok(Some(Settings::Server(server))) => !server.registered,
                Ok(Some(Settings::LoadBalancer(_) | Settings::Fixed(_))) | Err(_) => false,
            };
            if !node.dir.exists() || (unused && node.running().is_none()) {
                return Ok(node.name);
            }
        }
        unreachable!("there are more numbers than folders")
    }

    /// Waits for other commands on the same folder to end theirs.
    pub(crate) fn lock_commands(&self) -> Outcome<CommandLock> {
        let path = self.dir.join("commands.lock");
        let locked = File::create(&path).and_then(|file| file.lock().map(|()| file));
        let file = locked.with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(CommandLock { _file: file })
    }
}

impl Node {
    /// The pid of the process that runs on this folder. A pid is believed only
    /// while the lock is held, so that a stale one is never signalled.
    pub(crate) fn running(&self) -> Option<u32> {
        folder::holder(&self.dir)
    }

    /// What is recorded about it.
    pub(crate) fn settings(&self) -> Outcome<Option<Settings>> {
        let path = self.dir.join(SETTINGS);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(Failure::refused(format!("cannot read {}: {error}", path.display())));
            }
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            Failure::refused(format!(
                "{} is damaged ({error}): remove it, and start {} with its addresses on the command \
                 line",
                path.display(),
                self.name
            ))
        })
    }

    /// What is recorded about it. Where that is damaged there is a warning, once,
    /// and nothing: one node must not stop a command for all of them.
    pub(crate) fn readable_settings(&self) -> Option<Settings> {
        static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
        self.settings().unwrap_or_else(|failure| {
            let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
            if warned.insert(self.dir.clone()) {
                complain!("store: warning: {failure}");
            }
            None
        })
    }

    /// Records how it runs.
    pub(crate) fn record(&self, settings: &Settings) -> anyhow::Result<()> {
        let path = self.dir.join(SETTINGS);
        let beside = self.dir.join("settings.json.new");
        let mut text = serde_json::to_vec_pretty(settings)?;
        text.push(b'\n');
        fs::write(&beside, text)
            .and_then(|()| fs::rename(&beside, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The option that chooses its data folder on a command line, after a space;
    /// nothing if that is the one that is chosen anyway.
    pub(crate) fn dir_option(&self) -> String {
        let home = self.dir.parent().unwrap_or(&self.dir);
        match std::path::absolute(DEFAULT_DIR) {
            Ok(default) if default == home => String::new(),
            _ => format!(" --dir {}", home.display()),
        }
    }

    /// The log of the background process.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.join("server.log")
    }
}

/// `srv-12` is (`srv-`, 12), so that srv-2 comes before srv-12.
pub(crate) fn split_number(name: &str) -> (&str, u32) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (stem, name[stem.len()..].parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(registered: bool) -> Settings {
        Settings::Server(ServerSettings {
            client: "127.0.0.1:7001".parse().unwrap(),
            peer: "127.0.0.1:6001".parse().unwrap(),
            lbs: vec!["127.0.0.1:5001".parse().unwrap()],
            dead_after_ms: 1000,
            heartbeat_ms: 50,
            election_timeout: TimeoutRange { low_ms: 200, high_ms: 400 },
            max_item_bytes: 1 << 20,
            checkpoint_after_bytes: 64 << 20,
            keep_log: false,
            memory_limit_mib: 0,
            registered,
        })
    }

    #[test]
    fn settings_come_back_and_nodes_are_in_order() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::create(&temp.path().join("a/b")).unwrap();
        assert!(home.nodes().unwrap().is_empty());
        for name in ["srv-10", "srv-2", "lb-1"] {
            let node = home.node(name);
            fs::create_dir(&node.dir).unwrap();
            node.record(&server(true)).unwrap();
            assert_eq!(node.settings().unwrap(), Some(server(true)));
        }
        let names: Vec<_> = home.nodes().unwrap().into_iter().map(|node| node.name).collect();
        assert_eq!(names, ["lb-1", "srv-2", "srv-10"]);
    }

    #[test]
    fn a_new_server_never_takes_a_used_folder() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::create(temp.path()).unwrap();
        assert_eq!(home.next_server_name(&[]).unwrap(), "srv-1");
        fs::create_dir(home.node("srv-1").dir).unwrap();
        home.node("srv-1").record(&server(true)).unwrap();
        fs::create_dir(home.node("srv-2").dir).unwrap();
        home.node("srv-2").record(&server(false)).unwrap();
        assert_eq!(home.next_server_name(&[]).unwrap(), "srv-2");
        assert_eq!(home.next_server_name(&["srv-2".to_owned()]).unwrap(), "srv-3");
    }

    #[test]
    fn a_damaged_record_leaves_out_only_its_own_node() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::create(temp.path()).unwrap();
        for name in ["srv-1", "srv-2", "srv-3"] {
            fs::create_dir(home.node(name).dir).unwrap();
            home.node(name).record(&server(true)).unwrap();
        }
        fs::write(home.node("srv-2").dir.join(SETTINGS), "{").unwrap();
        let names: Vec<_> =
            home.servers().unwrap().into_iter().map(|(node, _)| node.name).collect();
        assert_eq!(names, ["srv-1", "srv-3"]);
        assert_eq!(home.unreadable().unwrap(), [home.node("srv-2")]);
        assert!(home.load_balancers().unwrap().is_empty());
        assert_eq!(home.next_server_name(&[]).unwrap(), "srv-4", "it is not free");
        let failure = home.node("srv-2").settings().unwrap_err().to_string();
        assert!(
            failure.contains("srv-2/settings.json") && failure.contains("remove it"),
            "{failure}"
        );
    }

    #[test]
    fn only_a_held_lock_names_a_process() {
        let temp = tempfile::tempdir().unwrap();
        let node = Home::create(temp.path()).unwrap().node("srv-1");
        assert_eq!(node.running(), None);
        fs::create_dir(&node.dir).unwrap();
        fs::write(node.dir.join(LOCK), "4711\n").unwrap();
        assert_eq!(node.running(), None, "a stale pid");
        let held = File::options().write(true).open(node.dir.join(LOCK)).unwrap();
        held.lock().unwrap();
        assert_eq!(node.running(), Some(4711));
    }
}
