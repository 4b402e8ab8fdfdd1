//! A client that writes each 10 ms, and how long it was without an answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::eventually;
use super::memcached::Connection;

/// From one write to the next.
const INTERVAL: Duration = Duration::from_millis(10);

/// One client, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Pulse {
    stop: Arc<AtomicBool>,
    beats: Arc<AtomicU64>,
    client: JoinHandle<Beats>,
}

/// What the client saw.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    /// Longest time between two writes that were acknowledged.
    pub(crate) gap: Duration,
    /// Longest time from the first attempt of a write to its acknowledgement.
    pub(crate) longest: Duration,
    /// Answers other than `STORED`.
    pub(crate) errors: Vec<String>,
    /// How often a connection broke while an answer was due.
    pub(crate) broken: usize,
}

impl Pulse {
    /// Starts with the first address; goes on with the next one when the
    /// connection breaks.
    pub(crate) fn start(addresses: Vec<SocketAddr>) -> Pulse {
        let (stop, beats) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (told, counted) = (stop.clone(), beats.clone());
        let client = std::thread::spawn(move || write(&addresses, &told, &counted));
        Pulse { stop, beats, client }
    }

    /// Waits for so many more acknowledged writes.
    pub(crate) fn wait_for(&self, more: u64) {
        let enough = self.beats.load(Ordering::Relaxed) + more;
        eventually("writes are acknowledged", super::cluster::PATIENCE, || {
            let beats = self.beats.load(Ordering::Relaxed);
            if beats >= enough { Ok(()) } else { Err(format!("{beats} of {enough}")) }
        });
    }

    pub(crate) fn finish(self) -> Beats {
        self.stop.store(true, Ordering::Relaxed);
        self.client.join().unwrap()
    }
}

fn write(addresses: &[SocketAddr], stop: &AtomicBool, count: &AtomicU64) -> Beats {
    let mut beats = Beats::default();
    let mut connection: Option<Connection> = None;
    let mut turn = 0;
    let mut before: Option<Instant> = None;
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        number += 1;
        loop {
            let open = match connection.take() {
                Some(open) => Ok(open),
                None => Connection::open(addresses[turn % addresses.len()]),
            };
            let Ok(mut open) = open else {
                turn += 1;
                // Once round: do not spin.
                if turn % addresses.len() == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                continue;
            };
            match open.set("pulse", &number.to_string()) {
                Ok(answer) => {
                    connection = Some(open);
                    if answer == "STORED" {
                        break;
                    }
                    beats.errors.push(answer);
                }
                Err(error) => {
                    assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "no answer at all");
                    beats.broken += 1;
                    turn += 1;
                }
            }
        }
        let now = Instant::now();
        beats.longest = beats.longest.max(now - began);
        beats.gap = beats.gap.max(before.map_or(Duration::ZERO, |before| now - before));
        before = Some(now);
        count.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep((began + INTERVAL).saturating_duration_since(now));
    }
    beats
}
