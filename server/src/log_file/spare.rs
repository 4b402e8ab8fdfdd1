//! The thread that makes the next segment while the current one is filled.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::segment::Segment;

/// Makes segments on request, one at a time.
#[derive(Debug)]
pub(super) struct SpareMaker {
    orders: Option<Sender<(u64, usize)>>,
    made: Receiver<io::Result<Segment>>,
    ordered: bool,
    ready: Option<Segment>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SpareMaker {
    pub(super) fn start(dir: PathBuf, log: u128) -> io::Result<Self> {
        let (orders, inbox) = channel::<(u64, usize)>();
        let (outbox, made) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("log-spare".to_owned()).spawn(move || {
            for (number, capacity) in inbox {
                let segment = Segment::create(&dir, log, number, capacity, &stopped);
                if outbox.send(segment).is_err() {
                    return;
                }
            }
        })?;
        let orders = Some(orders);
        Ok(SpareMaker { orders, made, ordered: false, ready: None, stop, thread: Some(thread) })
    }

    /// A segment that was found on disk.
    pub(super) fn put(&mut self, segment: Segment) {
        self.ready = Some(segment);
    }

    /// Has segment `number` made, unless that is under way.
    pub(super) fn order(&mut self, number: u64, capacity: usize) {
        if self.ready.is_none() && !self.ordered {
            self.ordered =
                self.orders.as_ref().is_some_and(|orders| orders.send((number, capacity)).is_ok());
        }
    }

    /// The segment, once it is there. After an error it must be ordered again.
    pub(super) fn wait(&mut self) -> io::Result<&mut Segment> {
        if self.ready.is_none() {
            let gone = || io::Error::other("the thread that makes segments has ended");
            if !self.ordered {
                return Err(gone());
            }
            let made = self.made.recv().map_err(|_| gone())?;
            self.ordered = false;
            self.ready = Some(made?);
        }
        self.ready.as_mut().ok_or_else(|| io::Error::other("no segment"))
    }

    /// Takes it into use.
    pub(super) fn take(&mut self) -> Option<Segment> {
        self.ready.take()
    }
}

impl Drop for SpareMaker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic there left at most an unfinished side file.
            let _ = thread.join();
        }
    }
}
