//! Fixed clusters: the JSON shapes of the seeds.
//!
//! The first names servers by `mypid`; `client` is our addition, where clients
//! connect. Without it that is the url's address, 1000 ports up:
//!
//! ```json
//! {"object": {"total": 2, "Servers": [
//!     {"mypid": 1, "url": "127.0.0.1:6001"},
//!     {"mypid": 2, "url": "127.0.0.1:6002", "client": "127.0.0.1:7102"}]}}
//! ```
//!
//! The second has times in nanoseconds, one election timeout for each server
//! in the order of their pids. What else stands there was never used:
//!
//! ```json
//! {"Ser": {"1": "127.0.0.1:6001", "2": "127.0.0.1:6002"},
//!  "Electiontimeout": [400000000, 700000000], "Heartbeatinterval": 90000000}
//! ```

mod node;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use node::{Document, Node};

/// How far a server's client port lies above its url's port, unless said otherwise.
pub const DEFAULT_CLIENT_PORT_OFFSET: u16 = 1000;

/// A cluster whose servers never change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterFile {
    /// Where it was read.
    pub path: PathBuf,
    /// Where servers reach each other (UDP), by pid.
    pub servers: BTreeMap<u64, SocketAddr>,
    /// Where clients reach them (TCP), by pid; the same pids.
    pub clients: BTreeMap<u64, SocketAddr>,
    /// Time between a leader's heartbeats, if the file says so.
    pub heartbeat: Option<Duration>,
    /// Election timeouts by pid; empty if the file says nothing, otherwise
    /// one for each server.
    pub election_timeouts: BTreeMap<u64, Duration>,
}

/// One server of a [`ClusterFile`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClusterServer {
    /// Its number, from 1.
    pub pid: u64,
    /// Where other servers reach it (UDP).
    pub address: SocketAddr,
    /// Where clients reach it (TCP).
    pub client: SocketAddr,
    /// How long it waits for a leader, if the file says so.
    pub election_timeout: Option<Duration>,
}

/// What is wrong with a configuration file, and where.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot read the configuration: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not JSON.
    #[error("{}:{line}:{column}: not valid JSON: {problem}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What the JSON reader says.
        problem: String,
    },
    /// A field is missing or its value is not usable.
    #[error("{}:{line}: {field}: {problem}", path.display())]
    Field {
        /// Which file.
        path: PathBuf,
        /// Where the value starts, from 1; for a missing field, what should hold it.
        line: usize,
        /// Such as `object.Servers[1].url`.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// There is no server of this number.
    #[error("{}: there is no server {pid}; the pids are {known}", path.display())]
    UnknownPid {
        /// Which file.
        path: PathBuf,
        /// The one that was asked for.
        pid: u64,
        /// Those that there are.
        known: String,
    },
}

impl ClusterFile {
    /// Reads and checks a file of either shape.
    pub fn load(path: &Path) -> Result<ClusterFile, ConfigError> {
        let bytes = std::fs::read(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let text = String::from_utf8(bytes).map_err(|error| ConfigError::Read {
            path: path.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()),
        })?;
        Self::parse(path, &text)
    }

    /// Checks `text`; `path` is for error messages only.
    pub fn parse(path: &Path, text: &str) -> Result<ClusterFile, ConfigError> {
        let document = Document { path, text };
        let root = document.root()?;
        match (root.optional("object")?, root.optional("Ser")?) {
            (Some(object), None) => by_mypid(path, &object),
            (None, Some(servers)) => by_key(path, &root, &servers),
            (Some(_), Some(servers)) => {
                Err(servers.error("the file has `object`, too; keep one of the two"))
            }
            (None, None) => Err(root.error(
                "neither of the known shapes: expected \
                 {\"object\": {\"total\", \"Servers\": [{\"mypid\", \"url\"}]}} or {\"Ser\": {\"<pid>\": \"ip:port\"}}",
            )),
        }
    }

    /// The server numbered `pid`.
    pub fn server(&self, pid: u64) -> Result<ClusterServer, ConfigError> {
        let (Some(&address), Some(&client)) = (self.servers.get(&pid), self.clients.get(&pid))
        else {
            let known: Vec<String> = self.servers.keys().map(u64::to_string).collect();
            return Err(ConfigError::UnknownPid {
                path: self.path.clone(),
                pid,
                known: known.join(", "),
            });
        };
        let election_timeout = self.election_timeouts.get(&pid).copied();
        Ok(ClusterServer { pid, address, client, election_timeout })
    }
}

/// `{"total": N, "Servers": [{"mypid": 1, "url": "127.0.0.1:6001"}, ...]}`
fn by_mypid(path: &Path, object: &Node<'_>) -> Result<ClusterFile, ConfigError> {
    let mut members = Members::default();
    let list = object.required("Servers")?;
    let items = list.items()?;
    for item in &items {
        let pid = item.required("mypid")?;
        let number = pid.unsigned()?;
        members.add(number, &pid, &item.required("url")?, item.optional("client")?.as_ref())?;
    }
    if items.is_empty() {
        return Err(list.error("is empty; a cluster needs at least one server"));
    }
    let total = object.required("total")?;
    let count = total.unsigned()?;
    if count != items.len() as u64 {
        return Err(total.error(&format!("says {count}, but {} servers are listed", items.len())));
    }
    Ok(members.finish(path, None, BTreeMap::new()))
}

/// `"Ser": {"1": "127.0.0.1:6001", ...}`, with times beside it.
fn by_key(path: &Path, root: &Node<'_>, list: &Node<'_>) -> Result<ClusterFile, ConfigError> {
    let mut members = Members::default();
    let fields = list.fields()?;
    if fields.is_empty() {
        return Err(list.error("is empty; a cluster needs at least one server"));
    }
    for (name, url) in &fields {
        let number = name.parse().map_err(|_| {
            url.error(&format!("the key `{name}` is no pid; expected a number from 1 on"))
        })?;
        members.add(number, url, url, None)?;
    }
    let heartbeat =
        root.optional("Heartbeatinterval")?.map(|interval| nanoseconds(&interval)).transpose()?;
    let mut timeouts = BTreeMap::new();
    if let Some(list) = root.optional("Electiontimeout")? {
        let items = list.items()?;
        if items.len() != members.servers.len() {
            return Err(list.error(&format!(
                "has {} entries for {} servers; expected one for each",
                items.len(),
                members.servers.len()
            )));
        }
        for (&pid, item) in members.servers.keys().zip(&items) {
            timeouts.insert(pid, nanoseconds(item)?);
        }
    }
    Ok(members.finish(path, heartbeat, timeouts))
}

fn nanoseconds(node: &Node<'_>) -> Result<Duration, ConfigError> {
    match node.unsigned()? {
        0 => Err(node.error("must be above 0 (nanoseconds)")),
        time => Ok(Duration::from_nanos(time)),
    }
}

/// The servers so far.
#[derive(Default)]
struct Members {
    servers: BTreeMap<u64, SocketAddr>,
    clients: BTreeMap<u64, SocketAddr>,
}

impl Members {
    fn add(
        &mut self,
        pid: u64,
        pid_node: &Node<'_>,
        url: &Node<'_>,
        client: Option<&Node<'_>>,
    ) -> Result<(), ConfigError> {
        if pid == 0 {
            return Err(pid_node.error("pid 0 is not allowed; pids start at 1"));
        }
        if self.servers.contains_key(&pid) {
            return Err(pid_node.error(&format!("pid {pid} is given to another server already")));
        }
        let address = url.address()?;
        if let Some(other) = owner(&self.servers, address) {
            return Err(url.error(&format!("{address} is the url of server {other} already")));
        }
        let (client_address, client_node) = match client {
            Some(node) => (node.address()?, node),
            None => (default_client(address, url)?, url),
        };
        if let Some(other) = owner(&self.clients, client_address) {
            return Err(client_node.error(&format!(
                "the client address {client_address} is that of server {other} already"
            )));
        }
        self.servers.insert(pid, address);
        self.clients.insert(pid, client_address);
        Ok(())
    }

    fn finish(
        self,
        path: &Path,
        heartbeat: Option<Duration>,
        election_timeouts: BTreeMap<u64, Duration>,
    ) -> ClusterFile {
        let path = path.to_owned();
        let Members { servers, clients } = self;
        ClusterFile { path, servers, clients, heartbeat, election_timeouts }
    }
}

fn owner(addresses: &BTreeMap<u64, SocketAddr>, address: SocketAddr) -> Option<u64> {
    addresses.iter().find(|(_, known)| **known == address).map(|(pid, _)| *pid)
}

fn default_client(address: SocketAddr, url: &Node<'_>) -> Result<SocketAddr, ConfigError> {
    match address.port().checked_add(DEFAULT_CLIENT_PORT_OFFSET) {
        Some(port) => Ok(SocketAddr::new(address.ip(), port)),
        None => Err(url.error(&format!(
            "leaves no room for the client port, {DEFAULT_CLIENT_PORT_OFFSET} above port {}: \
             use a port of at most {}, or give the server a `client` address",
            address.port(),
            u16::MAX - DEFAULT_CLIENT_PORT_OFFSET
        ))),
    }
}
