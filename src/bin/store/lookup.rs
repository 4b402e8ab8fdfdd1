//! Finding things: the load balancers of a cluster, its servers, and the files
//! of a server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::args::{ClusterArgs, LB_CLIENT_PORT};
use crate::failure::{Failure, Outcome};
use crate::home::{Home, Node, Settings};
use crate::text::{Connection, Stats};
use crate::values;

/// How long a load balancer may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// Whom to ask: the address given, or the load balancers of the folder, or
/// the default address.
pub(crate) fn load_balancers(args: &ClusterArgs, home: &Home) -> Outcome<Vec<SocketAddr>> {
    if args.lbip.is_none() && args.lbport.is_none() {
        let known: Vec<_> = home.load_balancers()?.into_iter().map(|(_, lb)| lb.client).collect();
        if !known.is_empty() {
            return Ok(known);
        }
    }
    let host = args.lbip.as_deref().unwrap_or("127.0.0.1");
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let port = args.lbport.unwrap_or(LB_CLIENT_PORT);
    values::remote(&format!("{host}:{port}")).map(|found| vec![found]).map_err(Failure::usage)
}

/// What the first load balancer that answers knows.
///
/// # Errors
/// None answers; what to do.
pub(crate) fn stats(addresses: &[SocketAddr]) -> Result<(SocketAddr, Stats), String> {
    let mut errors = Vec::new();
    for &address in addresses {
        match Connection::connect(address, ANSWER).and_then(|mut connection| connection.stats()) {
            Ok(stats) => return Ok((address, stats)),
            Err(error) => errors.push(format!("{address} ({error})")),
        }
    }
    Err(format!(
        "no load balancer answers at {}: start one with `store addlb` or `store up`",
        errors.join(", ")
    ))
}

/// The files of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Files {
    /// Its folder.
    pub(crate) node: Node,
    /// The folder of segments.
    pub(crate) log: PathBuf,
    /// The checkpoint.
    pub(crate) keystore: PathBuf,
}

impl Files {
    /// Those of the server in `dir`; `None`: it is no server's folder.
    pub(crate) fn of(dir: &Path) -> Outcome<Option<Files>> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let node = Node { name, dir: dir.to_owned() };
        if let Some(Settings::Fixed(server)) = node.readable_settings() {
            let (log, keystore) = (server.log_file, server.keystore_file);
            return Ok(Some(Files { node, log, keystore }));
        }
        let is_one = ["log-file", "identity"].iter().any(|name| dir.join(name).exists());
        let (log, keystore) = (dir.join("log-file"), dir.join("keystore-file"));
        Ok(is_one.then_some(Files { node, log, keystore }))
    }

    /// Those of the server in `dir`; a data folder gets a hint at its servers.
    pub(crate) fn find(dir: &Path, command: &str) -> Outcome<Files> {
        if !dir.is_dir() {
            return Err(Failure::usage(format!(
                "{} is no folder: give a server's, e.g. `store {command} store-data/srv-1`",
                dir.display()
            )));
        }
        if let Some(files) = Files::of(dir)? {
            return Ok(files);
        }
        let servers = Home::at(dir)?.servers()?;
        if servers.is_empty() {
            return Err(Failure::usage(format!(
                "{} is not a server's folder: it holds neither `identity` nor `log-file`",
                dir.display()
            )));
        }
        let lines: Vec<_> = servers
            .iter()
            .map(|(node, _)| format!("  store {command} {}", dir.join(&node.name).display()))
            .collect();
        Err(Failure::usage(format!(
            "{} holds several nodes; choose a server:\n{}",
            dir.display(),
            lines.join("\n")
        )))
    }
}
