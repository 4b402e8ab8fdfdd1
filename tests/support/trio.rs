//! Three servers of a fixed cluster, for tests that kill them often: no load
//! balancer has to notice anything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::MutexGuard;

use tempfile::TempDir;

use super::cluster::PATIENCE;
use super::memcached::Connection;
use super::ports::free_port;
use super::process::{Process, STORE, run};
use super::small_disk::SmallDisk;
use super::{eventually, one_at_a_time};

/// How many they are.
pub(crate) const SERVERS: usize = 3;

/// The servers; gone when it is dropped, with their files.
#[derive(Debug)]
pub(crate) struct Trio {
    // Dropped in this order: processes end before their folder goes.
    servers: [Option<Process>; SERVERS],
    clients: [SocketAddr; SERVERS],
    disk: Option<SmallDisk>,
    dir: TempDir,
    _one: MutexGuard<'static, ()>,
}

impl Trio {
    /// Starts all of them and waits for a leader.
    pub(crate) fn start() -> Trio {
        Self::start_on(TempDir::new().unwrap(), None)
    }

    /// All of them on one small disk; `None` where there can be none.
    pub(crate) fn start_on_small_disk(mebibytes: u32) -> Option<Trio> {
        let dir = TempDir::new().unwrap();
        let disk = SmallDisk::mount(&dir.path().join("disk"), mebibytes)?;
        Some(Self::start_on(dir, Some(disk)))
    }

    fn start_on(dir: TempDir, disk: Option<SmallDisk>) -> Trio {
        let local = |_| SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut trio = Trio {
            _one: one_at_a_time(),
            servers: [const { None }; SERVERS],
            clients: [0; SERVERS].map(local),
            disk,
            dir,
        };
        let member = |(number, client)| {
            let peer = local(0);
            format!(r#"{{"mypid": {}, "url": "{peer}", "client": "{client}"}}"#, number + 1)
        };
        let members: Vec<_> = trio.clients.iter().enumerate().map(member).collect();
        let config =
            format!(r#"{{"object": {{"total": {SERVERS}, "Servers": [{}]}}}}"#, members.join(","));
        std::fs::write(trio.dir.path().join("config.json"), config).unwrap();
        for number in 0..SERVERS {
            trio.start_server(number);
        }
        trio.wait_for_service();
        trio
    }

    /// Where clients reach them.
    pub(crate) fn addresses(&self) -> [SocketAddr; SERVERS] {
        self.clients
    }

    /// Starts a server, again if it ran before; does not wait.
    pub(crate) fn start_server(&mut self, number: usize) {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let folder = self.folder(number);
        let args = [
            "run".to_owned(),
            (number + 1).to_string(),
            path("config.json"),
            folder.join("log-file").display().to_string(),
            folder.join("keystore-file").display().to_string(),
            "--dir".to_owned(),
            folder.display().to_string(),
        ];
        let name = format!("srv-{}", number + 1);
        let prefix = self.disk.as_ref().map_or(&[][..], SmallDisk::prefix);
        let log = self.dir.path().join(format!("{name}.log"));
        self.servers[number] = Some(Process::start_as(&name, prefix, &args, &log));
    }

    /// `kill -9` for those that run among these, at once.
    pub(crate) fn kill9(&mut self, numbers: &[usize]) {
        for &number in numbers {
            if let Some(server) = &self.servers[number] {
                super::process::signal(server.pid(), nix::sys::signal::Signal::SIGKILL);
            }
        }
        for &number in numbers {
            if let Some(mut server) = self.servers[number].take() {
                server.kill9();
            }
        }
    }

    /// Waits until a server ends by itself, as one that failed; gives its log.
    pub(crate) fn wait_end(&mut self, number: usize) -> String {
        let mut server = self.servers[number].take().expect("it runs");
        let status = server.wait_end(PATIENCE);
        assert!(!status.success(), "it ends with {status}");
        server.log_text()
    }

    /// Where a server keeps its files.
    pub(crate) fn folder(&self, number: usize) -> PathBuf {
        let above = if self.disk.is_some() { "disk" } else { "" };
        self.dir.path().join(above).join(format!("srv-{}", number + 1))
    }

    /// The disk that they are on.
    pub(crate) fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().expect("a cluster on a small disk")
    }

    /// What a server says, to its log.
    pub(crate) fn log_text(&self, number: usize) -> String {
        self.servers[number].as_ref().expect("it runs").log_text()
    }

    /// Waits until each of them stores something.
    pub(crate) fn wait_for_service(&mut self) {
        for number in 0..SERVERS {
            let address = self.clients[number];
            eventually("a server stores", PATIENCE, || {
                let mut connection = Connection::open(address).map_err(|e| e.to_string())?;
                match connection.set("service", "x").map_err(|e| e.to_string())?.as_str() {
                    "STORED" => Ok(()),
                    other => Err(other.to_owned()),
                }
            });
        }
    }

    /// Waits until all have applied the same; gives the number of items.
    pub(crate) fn wait_until_level(&self) -> u64 {
        eventually("all servers have applied the same", PATIENCE, || {
            let mut seen = Vec::new();
            for address in self.clients {
                let stats = Connection::open(address)
                    .and_then(|mut connection| connection.stats())
                    .map_err(|error| format!("{address}: {error}"))?;
                let number =
                    |field: &str| stats.get(field).and_then(|value| value.parse::<u64>().ok());
                let applied = number("raft_applied").ok_or("no raft_applied")?;
                let commit = number("raft_commit").ok_or("no raft_commit")?;
                let items = number("curr_items").ok_or("no curr_items")?;
                let bytes = number("bytes").ok_or("no bytes")?;
                if applied != commit {
                    return Err(format!("{address} has applied {applied} of {commit}"));
                }
                seen.push((applied, items, bytes));
            }
            match seen.iter().all(|one| *one == seen[0]) {
                true => Ok(seen[0].1),
                false => Err(format!("{seen:?}")),
            }
        })
    }

    /// Stops all, and asserts that their keystores print the same.
    pub(crate) fn stop(mut self) -> String {
        for server in self.servers.iter_mut().flatten() {
            assert!(server.terminate().success());
        }
        let print = |number: usize| {
            let folder = self.folder(number).display().to_string();
            let prefix = self.disk.as_ref().map_or(&[][..], SmallDisk::prefix);
            let words = [STORE, "keystore", &folder];
            let words: Vec<_> = prefix.iter().map(String::as_str).chain(words).collect();
            run(words[0], self.dir.path(), &words[1..]).expect(0).out
        };
        let first = print(0);
        for number in 1..SERVERS {
            assert_eq!(print(number), first, "the keystores of srv-1 and srv-{}", number + 1);
        }
        first
    }
}
