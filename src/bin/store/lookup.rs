//! Finding things: the load balancers of a cluster, its servers, and the files
//! of a server.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::race;
use tokio::sync::oneshot;

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

/// What the first load balancer that answers knows. They are asked side by
/// side: one that hangs costs a moment.
///
/// # Errors
/// None answers; what each of them said, and what to do.
pub(crate) fn stats(addresses: &[SocketAddr]) -> Result<(SocketAddr, Stats), String> {
    first(addresses, |lb| asked(lb, Connection::stats)).map_err(|all| {
        let all: Vec<_> = all.iter().map(|(lb, error)| format!("{lb} ({error})")).collect();
        format!(
            "no load balancer answers at {}: start one with `store addlb` or `store up`",
            all.join(", ")
        )
    })
}

/// What a server says of itself, and whom it names.
pub(crate) fn server(address: SocketAddr) -> Result<(Stats, Vec<SocketAddr>), String> {
    asked(address, |connection| Ok((connection.stats()?, connection.servers()?)))
}

fn asked<T>(
    address: SocketAddr,
    ask: impl FnOnce(&mut Connection) -> io::Result<T>,
) -> Result<T, String> {
    let answer =
        Connection::connect(address, ANSWER).and_then(|mut connection| ask(&mut connection));
    answer.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("no answer within {} s", ANSWER.as_secs())
        }
        _ => error.to_string(),
    })
}

/// The first good answer to `ask`, which ends by itself; the next address is
/// asked, too, when the one before has not answered for a moment.
///
/// # Errors
/// Nobody gave one: what each of them said.
fn first<T: Send + 'static>(
    addresses: &[SocketAddr],
    ask: impl Fn(SocketAddr) -> Result<T, String> + Copy + Send + 'static,
) -> Result<(SocketAddr, T), Vec<(SocketAddr, String)>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| vec![(addresses[0], format!("the runtime does not start: {error}"))])?;
    runtime.block_on(race::first_good(addresses, |address| {
        let (sender, answer) = oneshot::channel();
        // Whoever is not waited for any more ends with the process.
        std::thread::spawn(move || sender.send(ask(address)));
        async { answer.await.unwrap_or_else(|_| Err("it could not be asked".to_owned())) }
    }))
}

/// What each of them answers, in their order; all are asked at once and waited for.
pub(crate) fn all<T: Send + 'static>(
    addresses: &[SocketAddr],
    ask: impl Fn(SocketAddr) -> Result<T, String> + Copy + Send + 'static,
) -> Vec<Result<T, String>> {
    let threads: Vec<_> =
        addresses.iter().map(|&address| std::thread::spawn(move || ask(address))).collect();
    let lost = |_| Err("it could not be asked".to_owned());
    threads.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect()
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_load_balancer_that_hangs_is_not_waited_for() {
        // Nobody takes its connections, and they are made all the same.
        let hung = TcpListener::bind("127.0.0.1:0").unwrap();
        let lb = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [hung.local_addr().unwrap(), lb.local_addr().unwrap()];
        let answers = std::thread::spawn(move || {
            let (mut stream, _) = lb.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(b"STAT lb.name lb-2\r\nEND\r\n").unwrap();
            line
        });
        let (by, found) = stats(&addresses).unwrap();
        assert_eq!((by, found["lb.name"].as_str()), (addresses[1], "lb-2"));
        assert_eq!(answers.join().unwrap(), "stats\r\n");
        // The first one was asked, and has still not answered.
        assert!(hung.accept().is_ok());
        let why = stats(&addresses).unwrap_err();
        assert!(why.contains(&format!("{} (no answer within 1 s)", addresses[0])), "{why}");
        assert!(why.contains(&format!("{} (Connection refused", addresses[1])), "{why}");
    }
}
