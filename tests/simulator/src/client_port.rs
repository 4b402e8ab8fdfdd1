//! Where clients of a load balancer are connected: the product's own router,
//! with the ends of the simulated links and of the clients' connections.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::front_end::{Batch, Finish, Finished};
use common::memcached::Request;
use common::udp::SendError;
use lb::registry::LinkId;
use lb::routing::{Job, Router, Wire, proceed};

use crate::bugs::Bug;
use crate::plan::Plan;
use crate::queue::Micros;

/// Between two looks at the clock a load balancer sends a batch so often at
/// the most. It is sent again when links and leaders change, not because time
/// passes.
const MOST_SENDINGS: u64 = 20;

/// Requests and answers on a link: a lane of their own beside the one of the
/// messages.
#[derive(Default)]
pub(crate) struct Frames {
    pub(crate) to_host: VecDeque<Bytes>,
    pub(crate) to_lb: VecDeque<Bytes>,
    pub(crate) pipe: Rc<Pipe>,
}

impl Frames {
    /// The oldest frame on its way to the host arrives.
    pub(crate) fn next_to_host(&mut self) -> Option<Bytes> {
        let frame = self.to_host.pop_front()?;
        self.pipe.queued.set(self.pipe.queued.get() - 1);
        Some(frame)
    }

    /// The process at the end of the load balancer is gone; so many of the
    /// frames that it sent last may still arrive.
    pub(crate) fn lose_lb(&mut self, kept: usize) {
        self.to_lb.clear();
        self.to_host.truncate(kept);
    }

    /// The same for the host's process.
    pub(crate) fn lose_host(&mut self, kept: usize) {
        self.to_host.clear();
        self.to_lb.truncate(kept);
    }
}

/// What the load balancer's end of a link shows of its state.
#[derive(Default)]
pub(crate) struct Pipe {
    /// Frames on their way to the host.
    queued: Cell<usize>,
    /// The load balancer's end is gone; the balancer may not know it yet.
    pub(crate) closed: Cell<bool>,
}

/// The load balancer's end of a link.
pub(crate) struct LbEnd {
    link: LinkId,
    pipe: Rc<Pipe>,
    room: usize,
    frames: Rc<RefCell<Sent>>,
}

impl Wire for LbEnd {
    fn send(&self, encode: impl FnOnce(&mut BytesMut)) -> Result<(), SendError> {
        if self.pipe.closed.get() {
            return Err(SendError::Closed);
        }
        if self.pipe.queued.get() >= self.room {
            return Err(SendError::Full);
        }
        self.pipe.queued.set(self.pipe.queued.get() + 1);
        let mut frame = BytesMut::new();
        encode(&mut frame);
        self.frames.borrow_mut().push((self.link, frame.freeze()));
        Ok(())
    }
}

/// Frames, each with its link.
type Sent = Vec<(LinkId, Bytes)>;

type Answers = Arc<Mutex<Vec<(u64, Finished)>>>;

/// A connection of a client.
struct Slip {
    batch: u64,
    answers: Answers,
}

impl Finish for Slip {
    fn finish(&self, finished: Finished) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push((self.batch, finished));
    }
}

/// The part of a running load balancer that clients talk to.
pub(crate) struct ClientPort {
    pub(crate) router: Router<LbEnd>,
    frames: Rc<RefCell<Sent>>,
    answers: Answers,
    /// It stops, and will be away for so long.
    pub(crate) stops: Option<Micros>,
    /// Frames that were sent, and batches that were there, since the clock was
    /// looked at.
    sent: u64,
    there: u64,
}

impl ClientPort {
    pub(crate) fn new(plan: &Plan, lb: usize, life: u32, bug: Option<Bug>) -> Self {
        // Another one for each life of each load balancer, and of no host.
        let session_seed = (1 << 16 | lb as u64) << 32 | u64::from(life);
        let mut router = Router::new(plan.policies[lb], session_seed);
        if let Some(Bug::Routing(bug)) = bug {
            router.plant(bug);
        }
        ClientPort {
            router,
            frames: Rc::default(),
            answers: Arc::default(),
            stops: None,
            sent: 0,
            there: 0,
        }
    }

    /// Batches that wait for an answer, and those that wait for a leader.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        self.router.waiting()
    }

    /// Whether it serves, and nobody waits for anything.
    pub(crate) fn is_idle(&self) -> bool {
        self.stops.is_none() && self.waiting() == (0, 0)
    }

    /// What a client asks for in one read.
    pub(crate) fn batch(&self, batch: u64, requests: Vec<Request>) -> Batch {
        let bytes = requests.len() * 64;
        let slip = Slip { batch, answers: Arc::clone(&self.answers) };
        Batch::new(requests, BytesMut::new(), bytes, Arc::new(slip))
    }

    /// Its end of a link, whose queue has so much room.
    pub(crate) fn end_of(&self, link: LinkId, pipe: Rc<Pipe>, room: usize) -> LbEnd {
        LbEnd { link, pipe, room, frames: Rc::clone(&self.frames) }
    }

    /// Goes on with a batch, and with all others that are answered: what is to
    /// be sent, and what is finished.
    pub(crate) fn proceed(
        &mut self,
        now: Duration,
        next: Option<Job>,
    ) -> (Sent, Vec<(u64, Finished)>) {
        let ClientPort { router, there, .. } = self;
        let exchange = |job: Option<Job>| {
            *there += u64::from(job.is_some());
            router.exchange(now, job)
        };
        // What only a load balancer can answer is left out of the answer: the
        // clients here would have to know it.
        proceed(next, |_, _| {}, exchange);
        let frames = std::mem::take(&mut *self.frames.borrow_mut());
        self.sent += frames.len() as u64;
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        (frames, std::mem::take(&mut *answers))
    }

    /// How often it has sent what was there since this was asked last, if that
    /// is too often.
    pub(crate) fn count(&mut self) -> Result<(), String> {
        let (sent, there) = (std::mem::take(&mut self.sent), self.there);
        let (out, parked) = self.waiting();
        self.there = (out + parked) as u64;
        // One more for the session.
        match sent > (there + 1) * MOST_SENDINGS {
            true => Err(format!("sends {sent} frames for {there} batches")),
            false => Ok(()),
        }
    }

    /// The load balancer is gone: whose connections break.
    pub(crate) fn kill(self) -> Vec<u64> {
        let answers = Arc::clone(&self.answers);
        drop(self);
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.drain(..).map(|(batch, _)| batch).collect()
    }
}
