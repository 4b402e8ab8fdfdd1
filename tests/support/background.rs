//! A data folder whose nodes run as background processes.

use std::path::{Path, PathBuf};
use std::sync::MutexGuard;

use tempfile::TempDir;

use super::one_at_a_time;
use super::ports::free_port;
use super::process::{CLIENT, Finished, STORE, is_alive, run, signal};

/// The folder; whatever runs on it is ended when it is dropped.
#[derive(Debug)]
pub(crate) struct Background {
    dir: TempDir,
    _one: MutexGuard<'static, ()>,
}

impl Background {
    pub(crate) fn new() -> Background {
        Background { _one: one_at_a_time(), dir: TempDir::new().unwrap() }
    }

    pub(crate) fn cwd(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.dir.path().join("store-data")
    }

    /// Runs `store`; its data folder is the default one, in this folder.
    pub(crate) fn store(&self, line: &str) -> Finished {
        run(STORE, self.cwd(), &line.split_whitespace().collect::<Vec<_>>())
    }

    /// A cluster; the load balancer's port for clients.
    pub(crate) fn up(&self, servers: usize) -> u16 {
        let (cport, sport) = (free_port(), free_port());
        self.store(&format!("up --servers {servers} --cport {cport} --sport {sport}")).expect(0);
        cport
    }

    /// Runs `client` against the load balancer at `port`.
    pub(crate) fn client(&self, port: u16, line: &str) -> Finished {
        let port = port.to_string();
        let mut args = vec!["--lbport", &port];
        args.extend(line.split_whitespace());
        run(CLIENT, self.cwd(), &args)
    }

    /// Processes that hold a node's folder.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let Ok(entries) = std::fs::read_dir(self.home()) else { return Vec::new() };
        let dirs = entries.filter_map(|entry| Some(entry.ok()?.path()));
        dirs.filter_map(|dir| common::folder::holder(&dir)).collect()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let pids = self.pids();
        if std::thread::panicking() {
            for name in std::fs::read_dir(self.home()).into_iter().flatten().flatten() {
                let log = name.path().join("server.log");
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                eprintln!("---- {}\n{text}", log.display());
            }
        }
        for pid in pids {
            signal(pid, nix::sys::signal::Signal::SIGKILL);
            while is_alive(pid) {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
}
