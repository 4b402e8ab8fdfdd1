//! Whole servers in this process, each on a thread and a folder of its own,
//! whose disks can be made full, slow or broken.

mod disk_trouble;
mod repair;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::control::{MemberInfo, MemberRecord};
use common::ids::{ClusterId, FolderId, ServerId};
use tokio_util::sync::CancellationToken;

use crate::config::{FixedCluster, Progress, ServerConfig, Sockets};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A fixed cluster of three.
pub(super) struct Trio {
    pub(super) dir: tempfile::TempDir,
    members: Vec<MemberRecord>,
    running: Vec<Option<Running>>,
    steps: Arc<Mutex<Vec<(u64, Progress)>>>,
    pub(super) checkpoint_after_bytes: u64,
}

struct Running {
    thread: JoinHandle<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

fn bind(client: SocketAddr, peer: SocketAddr) -> Sockets {
    let again = |bind: &dyn Fn() -> std::io::Result<Sockets>| {
        let began = Instant::now();
        loop {
            match bind() {
                Ok(sockets) => return sockets,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    again(&|| Ok(Sockets { client: TcpListener::bind(client)?, peer: UdpSocket::bind(peer)? }))
}

impl Trio {
    /// Three servers with a leader; `prepare` sees each folder before anything
    /// in it is opened.
    pub(super) fn start(prepare: impl FnMut(u64, &std::path::Path)) -> Trio {
        let mut trio = Trio::stopped(prepare);
        for id in 1..=3 {
            trio.run(id);
        }
        trio.leader();
        trio
    }

    pub(super) fn stopped(mut prepare: impl FnMut(u64, &std::path::Path)) -> Trio {
        let dir = tempfile::tempdir().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut members = Vec::new();
        for id in 1..=3 {
            let sockets = bind(any, any);
            let home = dir.path().join(format!("srv-{id}"));
            std::fs::create_dir_all(&home).unwrap();
            prepare(id, &home);
            members.push(MemberRecord {
                id: ServerId(id),
                voter: true,
                info: MemberInfo {
                    folder: FolderId(u128::from(id)),
                    name: format!("srv-{id}"),
                    client: sockets.client.local_addr().unwrap(),
                    peer: sockets.peer.local_addr().unwrap(),
                    run: None,
                },
            });
        }
        let running = (0..3).map(|_| None).collect();
        let steps = Arc::default();
        Trio { dir, members, running, steps, checkpoint_after_bytes: 1 << 40 }
    }

    pub(super) fn home(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("srv-{id}"))
    }

    fn config(&self, id: u64) -> ServerConfig {
        let home = self.home(id);
        ServerConfig {
            name: format!("srv-{id}"),
            log_file: home.join("log-file"),
            keystore_file: home.join("keystore-file"),
            dir: home,
            key_file: self.dir.path().join("cluster.key"),
            lbs: Vec::new(),
            fixed: Some(FixedCluster {
                cluster: ClusterId(7),
                id: ServerId(id),
                members: self.members.clone(),
            }),
            dead_after: std::time::Duration::ZERO,
            heartbeat: Duration::from_millis(50),
            election_timeout: (Duration::from_millis(300), Duration::from_millis(600)),
            max_value_bytes: 1 << 20,
            checkpoint_after_bytes: self.checkpoint_after_bytes,
            keep_log: false,
            memory_bytes: None,
            max_connections: 64,
        }
    }

    /// Starts a server.
    pub(super) fn run(&mut self, id: u64) {
        let info = &self.members[id as usize - 1].info;
        let (client, peer, config) = (info.client, info.peer, self.config(id));
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let steps = Arc::clone(&self.steps);
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let sockets = bind(client, peer);
                let progress = move |step| steps.lock().unwrap().push((id, step));
                crate::run(config, sockets, Arc::new(progress), token).await
            })
        };
        let thread = std::thread::Builder::new().name(format!("srv-{id}")).spawn(serve).unwrap();
        self.running[id as usize - 1] = Some(Running { thread, shutdown });
    }

    /// What servers said about repairs.
    pub(super) fn repairs(&self) -> Vec<String> {
        let steps = self.steps.lock().unwrap();
        let repair = |(_, step): &(u64, Progress)| match step {
            Progress::Repairing { what } => Some(what.clone()),
            _ => None,
        };
        steps.iter().filter_map(repair).collect()
    }

    /// Waits until a server ends by itself; why it did.
    pub(super) fn end(&mut self, id: u64) -> anyhow::Result<()> {
        self.running[id as usize - 1].take().unwrap().thread.join().unwrap()
    }

    /// Asks a server to stop, and waits.
    pub(super) fn stop(&mut self, id: u64) {
        if let Some(running) = &self.running[id as usize - 1] {
            running.shutdown.cancel();
            self.end(id).unwrap();
        }
    }

    pub(super) fn connect(&self, id: u64) -> Client {
        let mut client = None;
        eventually("it accepts connections", || {
            client = Client::open(self.members[id as usize - 1].info.client).ok();
            client.is_some()
        });
        client.unwrap()
    }

    /// A field of `stats`; empty when the server does not answer.
    pub(super) fn stat(&self, id: u64, field: &str) -> String {
        let address = self.members[id as usize - 1].info.client;
        let stats = Client::open(address).and_then(|mut client| client.stats());
        let prefix = format!("STAT {field} ");
        let found = stats
            .unwrap_or_default()
            .into_iter()
            .find_map(|line| line.strip_prefix(&prefix).map(str::to_owned));
        found.unwrap_or_default()
    }

    /// Waits until somebody leads who the others follow.
    pub(super) fn leader(&self) -> u64 {
        let mut leader = 0;
        eventually("a leader", || {
            let running = (1..=3).filter(|id| self.running[*id as usize - 1].is_some());
            let said: Vec<_> = running.map(|id| self.stat(id, "raft_leader")).collect();
            leader = said[0].parse().unwrap_or(0);
            leader > 0 && said.iter().all(|other| *other == said[0])
        });
        leader
    }

    /// Waits until all have applied the same.
    pub(super) fn wait_until_level(&self) {
        eventually("all have applied the same", || {
            let all: Vec<_> = (1..=3)
                .map(|id| (self.stat(id, "raft_commit"), self.stat(id, "raft_applied")))
                .collect();
            all.iter().all(|(commit, applied)| *commit == all[0].0 && *applied == all[0].0)
        });
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        for running in self.running.iter().flatten() {
            running.shutdown.cancel();
        }
        for running in self.running.iter_mut().filter_map(Option::take) {
            let _ = running.thread.join();
        }
    }
}

pub(super) fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let began = Instant::now();
    while !look() {
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One connection of a client.
pub(super) struct Client(BufReader<TcpStream>);

impl Client {
    fn open(address: SocketAddr) -> std::io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_nodelay(true)?;
        Ok(Client(BufReader::new(stream)))
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        if line.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    pub(super) fn set(&mut self, key: &str, value: &str) -> String {
        let request = format!("set {key} 0 0 {}\r\n{value}\r\n", value.len());
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        self.line().unwrap()
    }

    /// The value, or the answer that is none.
    pub(super) fn get(&mut self, key: &str) -> String {
        self.0.get_mut().write_all(format!("get {key}\r\n").as_bytes()).unwrap();
        let line = self.line().unwrap();
        let Some(length) = line.strip_prefix("VALUE ").and_then(|rest| rest.rsplit(' ').next())
        else {
            return line;
        };
        let mut value = vec![0; length.parse::<usize>().unwrap() + "\r\nEND\r\n".len()];
        self.0.read_exact(&mut value).unwrap();
        value.truncate(value.len() - "\r\nEND\r\n".len());
        String::from_utf8(value).unwrap()
    }

    fn stats(&mut self) -> std::io::Result<Vec<String>> {
        self.0.get_mut().write_all(b"stats\r\n")?;
        let mut lines = Vec::new();
        loop {
            match self.line()? {
                line if line == "END" => return Ok(lines),
                line => lines.push(line),
            }
        }
    }
}
