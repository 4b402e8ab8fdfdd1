//! A thread that has the next segment ready before the current one is full,
//! and clears away those that nothing needs any more.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::segment::{ARCHIVE, FREE_SUFFIX, Segment, named, path_of};
use crate::files::{self, sync_dir};

/// So many free segments are kept for their blocks; the others are removed.
const POOL: usize = 4;

/// What the thread works with.
#[derive(Debug)]
pub(super) struct Yard {
    pub(super) dir: PathBuf,
    pub(super) log: u128,
    /// Segments are kept for ever, below the folder of the log.
    pub(super) keep: bool,
    /// The usual size of a segment: others are not worth keeping.
    pub(super) usual_bytes: usize,
    /// Free segments, and their sizes.
    pub(super) pool: Vec<(PathBuf, usize)>,
}

/// What the thread is asked to do.
#[derive(Debug)]
enum Job {
    Make {
        number: u64,
        capacity: usize,
    },
    Free {
        number: u64,
        path: PathBuf,
    },
    /// Says that everything before is done.
    #[cfg(test)]
    Tell(Sender<()>),
}

/// Makes segments on request, one at a time, and frees others.
#[derive(Debug)]
pub(super) struct SpareMaker {
    orders: Option<Sender<Job>>,
    made: Receiver<io::Result<Segment>>,
    ordered: bool,
    ready: Option<Segment>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SpareMaker {
    pub(super) fn start(mut yard: Yard) -> io::Result<Self> {
        let (orders, inbox) = channel();
        let (outbox, made) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("log-spare".to_owned()).spawn(move || {
            for job in inbox {
                match job {
                    Job::Make { number, capacity } => {
                        // Nobody waits for it if that fails.
                        let _ = outbox.send(yard.make(number, capacity, &stopped));
                    }
                    Job::Free { number, path } => {
                        if let Err(error) = yard.free(number, &path) {
                            // It is tried again at the next start.
                            let file = path.display();
                            tracing::warn!(%file, %error, "an old segment cannot be cleared away");
                        }
                    }
                    #[cfg(test)]
                    Job::Tell(done) => drop(done.send(())),
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
            self.ordered = self.send(Job::Make { number, capacity });
        }
    }

    /// Has a segment cleared away, in the order of the calls.
    pub(super) fn free(&self, number: u64, path: &Path) {
        self.send(Job::Free { number, path: path.to_owned() });
    }

    /// Waits until nothing is under way.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        let (done, told) = channel();
        if self.send(Job::Tell(done)) {
            let _ = told.recv();
        }
    }

    fn send(&self, job: Job) -> bool {
        self.orders.as_ref().is_some_and(|orders| orders.send(job).is_ok())
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

impl Yard {
    /// Takes over the free segments that were found; those too many go.
    pub(super) fn adopt(&mut self, free: &[(u64, PathBuf)]) {
        for (_, path) in free {
            let size = files::File::open(path).and_then(|file| file.len()).unwrap_or(0) as usize;
            if self.pool.len() < POOL && size >= self.usual_bytes {
                self.pool.push((path.clone(), size));
            } else {
                // If it stays, the next start finds it again.
                let _ = files::remove_file(path);
            }
        }
    }

    fn make(&mut self, number: u64, capacity: usize, stop: &AtomicBool) -> io::Result<Segment> {
        if let Some(at) = self.pool.iter().position(|(_, size)| *size >= capacity) {
            let (free, _) = self.pool.swap_remove(at);
            match Segment::recycle(&self.dir, self.log, number, &free) {
                Ok(segment) => return Ok(segment),
                // Whatever it is, a new one may do.
                Err(_) => drop(files::remove_file(&free)),
            }
        }
        Segment::create(&self.dir, self.log, number, capacity, stop)
    }

    /// Clears a segment away. Each step leaves a folder that can be opened:
    /// that the segment is not needed was durable before.
    fn free(&mut self, number: u64, path: &Path) -> io::Result<()> {
        if self.keep {
            let archive = self.dir.join(ARCHIVE);
            files::create_dir_all(&archive)?;
            files::rename(path, &path_of(&archive, number))?;
            sync_dir(&archive)?;
            return sync_dir(&self.dir);
        }
        let size = files::File::open(path)?.len()? as usize;
        if self.pool.len() >= POOL || size < self.usual_bytes || size > 2 * self.usual_bytes {
            return files::remove_file(path);
        }
        let free = named(&self.dir, number, FREE_SUFFIX);
        files::rename(path, &free)?;
        // Before its header may change: under its old name the new header
        // would be a foreign one.
        sync_dir(&self.dir)?;
        self.pool.push((free, size));
        Ok(())
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
