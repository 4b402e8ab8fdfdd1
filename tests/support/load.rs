//! Clients that write all the time and remember what was acknowledged.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::memcached::Connection;

/// Writers, each on a connection of its own to the leader of the moment.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Written>>,
}

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Keys whose set was acknowledged, and when.
    pub(crate) acknowledged: Vec<(String, Instant)>,
    /// Answers that were no acknowledgement.
    pub(crate) refused: Vec<String>,
}

impl Load {
    /// Starts writers that ask the load balancer for the leader.
    pub(crate) fn start(lb: SocketAddr, writers: usize) -> Load {
        Load::start_with(writers, "load", move || {
            let servers = Connection::open(lb)?.servers()?;
            let leader = servers.first().ok_or_else(|| std::io::Error::other("no leader"))?;
            Connection::open(*leader)
        })
    }

    /// Starts writers that write to `address`, under keys of their own.
    pub(crate) fn at(address: SocketAddr, writers: usize, keys: &'static str) -> Load {
        Load::start_with(writers, keys, move || Connection::open(address))
    }

    fn start_with(
        writers: usize,
        keys: &'static str,
        connect: impl Fn() -> std::io::Result<Connection> + Clone + Send + 'static,
    ) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..writers)
            .map(|writer| {
                let (stop, connect) = (stop.clone(), connect.clone());
                std::thread::spawn(move || write(connect, &format!("{keys}-{writer}"), &stop))
            })
            .collect();
        Load { stop, writers }
    }

    pub(crate) fn finish(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Written::default();
        for writer in self.writers {
            let written = writer.join().unwrap();
            all.acknowledged.extend(written.acknowledged);
            all.refused.extend(written.refused);
        }
        all.acknowledged.sort_by_key(|(_, at)| *at);
        all
    }
}

impl Written {
    /// Longest time between two acknowledgements.
    pub(crate) fn longest_pause(&self) -> Duration {
        let times = self.acknowledged.iter().map(|(_, at)| *at);
        times.clone().zip(times.skip(1)).map(|(a, b)| b - a).max().unwrap_or_default()
    }

    /// Asserts that every acknowledged set can be read.
    pub(crate) fn assert_all_there(&self, server: &mut Connection) {
        for chunk in self.acknowledged.chunks(100) {
            let keys: Vec<_> = chunk.iter().map(|(key, _)| key.as_str()).collect();
            let lines = server.ask_until(&format!("get {}\r\n", keys.join(" ")), "END").unwrap();
            let found: Vec<_> = lines.chunks(2).map(|pair| pair[1].as_str()).collect();
            assert_eq!(found, keys, "an acknowledged set is lost");
        }
    }
}

fn write(
    connect: impl Fn() -> std::io::Result<Connection>,
    keys: &str,
    stop: &AtomicBool,
) -> Written {
    let mut written = Written::default();
    let mut connection: Option<Connection> = None;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{keys}-{number}");
        let mut open = match connection.take().map_or_else(&connect, Ok) {
            Ok(open) => open,
            Err(_) => {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
        };
        match open.set(&key, &key) {
            Ok(answer) if answer == "STORED" => {
                written.acknowledged.push((key, Instant::now()));
                connection = Some(open);
            }
            Ok(answer) => written.refused.push(answer),
            Err(error) => written.refused.push(error.to_string()),
        }
    }
    written
}
