//! Watches that no term ever has two leaders.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::memcached::Connection;

/// Between two samples.
const INTERVAL: Duration = Duration::from_millis(100);

/// Samples every server in a thread of its own.
#[derive(Debug)]
pub(crate) struct TermWatch {
    stop: Arc<AtomicBool>,
    samplers: Vec<JoinHandle<Samples>>,
}

/// Who was seen leading which term, and how often anything was seen.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(crate) leaders: BTreeMap<u64, BTreeSet<SocketAddr>>,
    pub(crate) count: usize,
}

impl TermWatch {
    pub(crate) fn start(servers: &[SocketAddr]) -> TermWatch {
        let stop = Arc::new(AtomicBool::new(false));
        let samplers = servers
            .iter()
            .map(|&address| {
                let stop = stop.clone();
                std::thread::spawn(move || sample(address, &stop))
            })
            .collect();
        TermWatch { stop, samplers }
    }

    /// Ends, and asserts at most one leader per term.
    pub(crate) fn finish(self) -> Samples {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Samples::default();
        for sampler in self.samplers {
            let samples = sampler.join().unwrap();
            all.count += samples.count;
            for (term, leaders) in samples.leaders {
                all.leaders.entry(term).or_default().extend(leaders);
            }
        }
        for (term, leaders) in &all.leaders {
            assert!(leaders.len() < 2, "term {term} has the leaders {leaders:?}");
        }
        all
    }
}

fn sample(address: SocketAddr, stop: &AtomicBool) -> Samples {
    let mut samples = Samples::default();
    let mut connection = None;
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        next += INTERVAL;
        let open = connection.take().map_or_else(|| Connection::open(address), Ok);
        // A server that is down has nothing to say; it is asked again.
        if let Ok(mut open) = open
            && let Ok(stats) = open.stats()
        {
            samples.count += 1;
            let term = stats.get("raft_term").and_then(|term| term.parse().ok());
            let leads = stats.get("raft_role").is_some_and(|role| role == "leader");
            if let (Some(term), true) = (term, leads) {
                samples.leaders.entry(term).or_default().insert(address);
            }
            connection = Some(open);
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    samples
}
