//! One run, from a seed to a report.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::bugs::Bug;
use crate::faults::FaultSet;
use crate::oracle::Violation;
use crate::plan::Plan;
use crate::queue::Micros;
use crate::world::World;

/// What to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Kinds of faults that may occur, if the seed has them.
    pub faults: FaultSet,
    /// Servers of the cluster, if not as many as the seed says.
    pub servers: Option<usize>,
    /// Heal at this time, if that is before the seed's own; microseconds.
    pub faults_end_us: Option<Micros>,
    /// Faults come and go for so long, in one run; microseconds.
    pub churn_us: Option<Micros>,
    /// A bug to plant.
    pub bug: Option<Bug>,
    /// Keep a timeline.
    pub trace: bool,
}

impl Options {
    /// The whole run of a seed.
    pub fn of_seed(seed: u64) -> Self {
        let faults = FaultSet::ALL;
        Options {
            seed,
            faults,
            servers: None,
            faults_end_us: None,
            churn_us: None,
            bug: None,
            trace: false,
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The first rule that was broken.
    pub violation: Option<Violation>,
    /// Kinds of faults that the run had.
    pub faults: FaultSet,
    /// When faults ended, microseconds.
    pub faults_end_us: Micros,
    /// How long the run was in virtual time, microseconds.
    pub simulated_us: Micros,
    /// How often everything healed, and the cluster recovered.
    pub rounds: u32,
    /// Servers at the beginning.
    pub servers: usize,
    /// Events that were played.
    pub events: u64,
    /// Requests of clients.
    pub requests: usize,
    /// Entries committed.
    pub committed: usize,
    /// Equal for equal runs.
    pub fingerprint: u64,
    /// The timeline, if it was asked for.
    pub trace: Vec<String>,
}

/// Plays a run to its end.
pub fn run(options: Options) -> Report {
    catch_quietly();
    let mut plan = Plan::draw(options.seed, options.servers);
    if let Some(length) = options.churn_us {
        plan.churn_for(length);
    }
    if let Some(end) = options.faults_end_us {
        plan.faults_end = plan.faults_end.min(end);
        plan.churn_until = plan.churn_until.min(end);
    }
    let (servers, faults_end_us) = (plan.servers, plan.faults_end.max(plan.churn_until));
    let mut world = World::new(plan, options.faults, options.bug, options.trace);
    if catch_unwind(AssertUnwindSafe(|| world.play())).is_err() {
        let what = PANIC.with_borrow_mut(std::mem::take);
        world.fail("nothing panics", what);
    }
    Report {
        violation: world.out.watch.violation.take(),
        faults: world.allowed,
        faults_end_us,
        simulated_us: world.now,
        rounds: world.round + 1,
        servers,
        events: world.events,
        requests: world.clients.history.ops.len(),
        committed: world.out.watch.log.len(),
        fingerprint: world.fingerprint,
        trace: world.out.watch.trace.take(),
    }
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics become violations with a seed instead of text on the terminal.
fn catch_quietly() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let ours = std::thread::current().name() == Some(RUNNER);
            if ours {
                PANIC.with_borrow_mut(|text| *text = info.to_string().replace('\n', " "));
            } else {
                before(info);
            }
        }));
    });
}

/// Name of the threads that play runs.
pub(crate) const RUNNER: &str = "simulator-run";
