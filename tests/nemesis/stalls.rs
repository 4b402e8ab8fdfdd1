//! Times in which the machine stood still, or had no time for this process: no
//! pause in them is the store's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::history::{History, Moment};

const EVERY: Duration = Duration::from_millis(10);

/// Later than that is a stall.
const LATE: Duration = Duration::from_millis(300);

/// Looks at the clock all the time.
#[derive(Debug)]
pub(crate) struct Stalls {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(Moment, Moment)>>,
}

impl Stalls {
    pub(crate) fn watch(history: &Arc<History>) -> Stalls {
        let (history, stop) = (Arc::clone(history), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut stalls, mut last) = (Vec::new(), history.now());
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(EVERY);
                let now = history.now();
                if now - last > LATE.as_nanos() as Moment {
                    stalls.push((last, now));
                }
                last = now;
            }
            stalls
        });
        Stalls { stop, thread }
    }

    pub(crate) fn finish(self) -> Vec<(Moment, Moment)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
