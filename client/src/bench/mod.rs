//! A load generator for anything that speaks the memcached text protocol.
//!
//! It runs on one thread and spends one write and one read per round trip of
//! a connection, as it shares the machine with the servers that it measures:
//! the report says what an operation cost on this side
//! (`client_cpu_us_per_op`), so that a figure that the client limits is seen
//! to be one.
//!
//! **Closed loop** (the default): a connection sends its next requests when
//! the previous ones are answered. A stall of the server stops the load, too,
//! so the percentiles leave out what would have been asked meanwhile
//! (coordinated omission). Good for the largest throughput and for comparing
//! systems under equal concurrency.
//!
//! **Open loop** (`--rate`): requests are due at fixed times, whatever the
//! server does, and latency counts from the time a request was due. Good for
//! the latency that users see at a load, stalls included.
//!
//! With `--pipeline N` a connection sends N requests in one write and waits
//! for all N answers before the next N.
//!
//! A lost connection is made again, after asking the load balancer who leads
//! (a request of 200 ms at most that stops this one thread: while a leader is
//! missing there is nothing else to send). Requests without an answer are
//! errors and are not repeated.

mod load;
mod options;
mod pace;
mod report;
mod scanner;
mod targets;
mod workload;

use std::io;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

pub use options::{BenchArgs, Limit, Operation, Plan};
pub use report::{Latency, Progress, Report, Tally};
pub use targets::Targets;

use crate::error::Error;
use load::Load;

/// Requests per write while keys are filled in before a measurement.
const PREFILL_PIPELINE: usize = 64;

/// Runs `plan` against `targets`, prefill and warm-up included.
pub fn run(plan: &Plan, mut targets: Targets) -> Result<Report, Error> {
    if plan.prefill {
        let prefill = Plan {
            operation: Operation::Set,
            pipeline: PREFILL_PIPELINE.min(1 + plan.keys as usize / plan.connections),
            limit: Limit::Requests(plan.keys),
            warmup: Duration::ZERO,
            rate: None,
            sequential: true,
            label: "prefill",
            ..plan.clone()
        };
        let report = measure(&prefill, &mut targets)?;
        if report.sets < plan.keys {
            let errors: Vec<&String> = report.errors.keys().collect();
            return Err(Error::ServerError(format!(
                "only {} of {} keys could be filled in before the measurement: {errors:?}; \
                 look at the server, lower --keys, or go without with --no-prefill",
                report.sets, plan.keys
            )));
        }
    }
    measure(plan, &mut targets)
}

fn measure(plan: &Plan, targets: &mut Targets) -> Result<Report, Error> {
    let progress = Progress::new(plan.label, &plan.limit, plan.warmup);
    let load = Load::new(plan, targets)?;
    let result = load.run(&progress);
    progress.finish();
    let measured = result.map_err(|error| local(&error))?;
    Ok(Report::new(plan, targets.first(), &measured))
}

/// Something of this process failed, not of the server's.
pub(crate) fn local(error: &io::Error) -> Error {
    Error::ClientError(format!("the load cannot be generated: {error}"))
}

/// Stretch of time with what this process used of the CPU in it.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Instant,
    cpu_us: i64,
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Stopwatch { started: Instant::now(), cpu_us: cpu_us() }
    }

    /// When it started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Seconds of the clock and microseconds of CPU since the start.
    pub fn read(&self) -> (f64, f64) {
        (self.started.elapsed().as_secs_f64(), (cpu_us() - self.cpu_us) as f64)
    }
}

fn cpu_us() -> i64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| {
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
    })
}

#[cfg(test)]
mod tests;
