//! Many runs, on several threads, and the shortest form of those that fail.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::bugs::Bug;
use crate::run::{Options, RUNNER, Report, run};

/// Which seeds to play, and until when.
#[derive(Clone, Copy, Debug)]
pub struct Hunt {
    /// What to run; its seed is the first one.
    pub options: Options,
    /// So many seeds at the most.
    pub runs: u64,
    /// No new run after this time.
    pub within: Option<Duration>,
    /// Threads.
    pub jobs: usize,
    /// Look for the first seed that fails, and no further.
    pub first_only: bool,
}

/// What came of all runs.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    /// Runs that were played.
    pub runs: u64,
    /// Virtual time, microseconds.
    pub simulated_us: u64,
    /// Time that the threads took, added up, as the clock on the wall has it.
    pub thread_time: Duration,
    /// Events that were played.
    pub events: u64,
    /// Requests of clients.
    pub requests: u64,
    /// Runs that broke a rule, by seed.
    pub failures: Vec<(Options, Report)>,
}

impl Hunt {
    /// Plays them; `each` hears of every run when it is over, in no
    /// particular order.
    pub fn play(&self, mut each: impl FnMut(&Options, &Report)) -> Tally {
        let first = self.options.seed;
        let next = AtomicU64::new(first);
        // Seeds from here on are of no interest any more.
        let limit = AtomicU64::new(first.saturating_add(self.runs));
        let until = self.within.map(|within| Instant::now() + within);
        let mut tally = Tally::default();
        std::thread::scope(|scope| {
            let (reports, results) = mpsc::channel();
            for _ in 0..self.jobs.max(1) {
                let (reports, next, limit) = (reports.clone(), &next, &limit);
                let work = move || {
                    while until.is_none_or(|until| Instant::now() < until) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= limit.load(Ordering::Relaxed) {
                            return;
                        }
                        let options = Options { seed, ..self.options };
                        let started = Instant::now();
                        let report = run(options);
                        if report.violation.is_some() && self.first_only {
                            limit.fetch_min(seed + 1, Ordering::Relaxed);
                        }
                        if reports.send((options, report, started.elapsed())).is_err() {
                            return;
                        }
                    }
                };
                let thread = std::thread::Builder::new().name(RUNNER.to_owned());
                thread.spawn_scoped(scope, work).expect("a thread for runs");
            }
            drop(reports);
            for (options, report, took) in results {
                each(&options, &report);
                tally.add(options, report, took);
            }
        });
        tally.failures.sort_by_key(|(options, _)| options.seed);
        if self.first_only {
            tally.failures.truncate(1);
        }
        tally
    }
}

impl Tally {
    fn add(&mut self, options: Options, report: Report, took: Duration) {
        self.runs += 1;
        self.simulated_us += report.simulated_us;
        self.events += report.events;
        self.requests += report.requests as u64;
        self.thread_time += took;
        if report.violation.is_some() {
            self.failures.push((options, report));
        }
    }

    /// Simulated seconds in one second of one thread.
    pub fn speed(&self) -> f64 {
        self.simulated_us as f64 / self.thread_time.as_micros().max(1) as f64
    }
}

/// The smallest run that still breaks the same rule: with fewer kinds of
/// faults, and with faults that end earlier.
pub fn shrink(options: Options, report: &Report) -> (Options, Report) {
    let Some(violation) = &report.violation else { return (options, report.clone()) };
    let rule = violation.rule;
    let still_fails = |options: Options| {
        let report = on_a_runner(options);
        let same = report.violation.as_ref().is_some_and(|violation| violation.rule == rule);
        same.then_some(report)
    };
    let mut best = (Options { faults: report.faults, ..options }, report.clone());
    for fault in report.faults.iter() {
        let fewer = Options { faults: best.0.faults.without(fault), ..best.0 };
        if let Some(report) = still_fails(fewer) {
            best = (fewer, report);
        }
    }
    // The end of faults is no threshold, but often enough it acts as one.
    let (mut low, mut high) = (0, best.1.faults_end_us);
    while high - low > 50_000 {
        // Whole milliseconds, as on the command line.
        let middle = (low + (high - low) / 2) / 1_000 * 1_000;
        let shorter = Options { faults_end_us: Some(middle), ..best.0 };
        match still_fails(shorter) {
            Some(report) => {
                high = middle;
                best = (shorter, report);
            }
            None => low = middle,
        }
    }
    best
}

/// A run on a thread whose panics are reports.
pub fn on_a_runner(options: Options) -> Report {
    let thread = std::thread::Builder::new().name(RUNNER.to_owned());
    let thread = thread.spawn(move || run(options)).expect("a thread for a run");
    thread.join().expect("runs catch their panics")
}

/// How soon a bug was found, from several first seeds.
#[derive(Clone, Debug)]
pub struct Catch {
    /// Which bug.
    pub bug: Bug,
    /// For each first seed: how many seeds it took, and the failure.
    pub found: Vec<Option<(u64, Options, Report)>>,
}

/// Seeds within which a planted bug has to be found.
pub const CATCH_WITHIN: u64 = 2_000;

/// Looks for a planted bug from each of the `firsts`.
pub fn catch(bug: Bug, firsts: &[u64], jobs: usize) -> Catch {
    let found = firsts.iter().map(|&seed| {
        let options = Options { bug: Some(bug), ..Options::of_seed(seed) };
        let hunt = Hunt { options, runs: CATCH_WITHIN, within: None, jobs, first_only: true };
        let failure = hunt.play(|_, _| {}).failures.pop();
        failure.map(|(options, report)| (options.seed - seed + 1, options, report))
    });
    Catch { bug, found: found.collect() }
}

impl Catch {
    /// The median number of seeds that it took; `None` when it was missed.
    pub fn median(&self) -> Option<u64> {
        let mut counts: Vec<u64> = self.found.iter().flatten().map(|(count, ..)| *count).collect();
        counts.sort_unstable();
        (counts.len() == self.found.len()).then(|| counts[counts.len() / 2])
    }
}
