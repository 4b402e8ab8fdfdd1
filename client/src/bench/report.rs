//! What a measurement found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::options::{Limit, Operation, Plan};

/// Longest latency that is told apart, in microseconds.
const MAX_LATENCY_US: u64 = 600_000_000;

/// Different error texts that are kept apart; the others are counted as one.
const MAX_ERROR_TEXTS: usize = 32;

/// Counts and latencies while they are collected.
#[derive(Debug)]
pub struct Tally {
    set_us: Histogram<u64>,
    get_us: Histogram<u64>,
    hits: u64,
    misses: u64,
    errors: BTreeMap<String, u64>,
    connect_failures: u64,
    last_done: Instant,
    longest_pause: Duration,
    seconds: f64,
    cpu_us: f64,
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Self {
        Tally {
            set_us: histogram(),
            get_us: histogram(),
            hits: 0,
            misses: 0,
            errors: BTreeMap::new(),
            connect_failures: 0,
            last_done: Instant::now(),
            longest_pause: Duration::ZERO,
            seconds: 0.0,
            cpu_us: 0.0,
        }
    }

    /// A set was acknowledged.
    pub fn set(&mut self, latency: Duration) {
        self.set_us.saturating_record(latency.as_micros() as u64);
    }

    /// A get was answered.
    pub fn get(&mut self, latency: Duration, hit: bool) {
        self.get_us.saturating_record(latency.as_micros() as u64);
        if hit {
            self.hits += 1;
        } else {
            self.misses += 1;
        }
    }

    /// Something was acknowledged or answered now: for the longest pause.
    pub fn mark(&mut self, now: Instant) {
        let pause = now.saturating_duration_since(self.last_done);
        self.longest_pause = self.longest_pause.max(pause);
        self.last_done = now;
    }

    /// `count` requests came to nothing for the same reason.
    pub fn error(&mut self, text: &str, count: u64) {
        if count == 0 {
            return;
        }
        if let Some(known) = self.errors.get_mut(text) {
            *known += count;
            return;
        }
        let full = self.errors.len() >= MAX_ERROR_TEXTS;
        let text = if full { "other errors" } else { text };
        *self.errors.entry(text.to_string()).or_default() += count;
    }

    /// A connection could not be made. No request was lost by it.
    pub fn connect_failure(&mut self) {
        self.connect_failures += 1;
    }

    /// How long nothing has succeeded.
    pub fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_done)
    }

    /// Requests that succeeded.
    pub fn done(&self) -> u64 {
        self.set_us.len() + self.get_us.len()
    }

    /// The measurement is over.
    pub fn close(&mut self, (seconds, cpu_us): (f64, f64)) {
        self.mark(Instant::now());
        self.seconds = seconds;
        self.cpu_us = cpu_us;
    }
}

fn histogram() -> Histogram<u64> {
    // Three digits from 1 us to 10 minutes: the bounds are constants that the crate accepts.
    Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).expect("constant bounds are valid")
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Arithmetic mean.
    pub mean: f64,
    /// Half were faster.
    pub p50: u64,
    /// 90 % were faster.
    pub p90: u64,
    /// 99 % were faster.
    pub p99: u64,
    /// 99.9 % were faster.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        (!histogram.is_empty()).then(|| Latency {
            mean: histogram.mean(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        })
    }
}

/// The result of a measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `set`, `get` or `mix`.
    pub op: &'static str,
    /// The server or servers, separated by commas.
    pub server: String,
    /// Connections.
    pub connections: usize,
    /// Requests per write of a connection.
    pub pipeline: usize,
    /// Bytes per value.
    pub value_size: usize,
    /// Number of keys.
    pub keys: u64,
    /// Requests per second that were due; none in a closed loop.
    pub rate: Option<f64>,
    /// Length of the measurement.
    pub seconds: f64,
    /// Requests that succeeded.
    pub ops: u64,
    /// The same per second.
    pub ops_per_s: f64,
    /// Sets among them.
    pub sets: u64,
    /// Gets among them.
    pub gets: u64,
    /// Gets that found a value, 0 to 1.
    pub hit_rate: Option<f64>,
    /// Latency of all.
    pub latency_us: Option<Latency>,
    /// Latency of sets.
    pub set_latency_us: Option<Latency>,
    /// Latency of gets.
    pub get_latency_us: Option<Latency>,
    /// Longest time in which nothing succeeded.
    pub longest_pause_ms: f64,
    /// CPU time of this process per request, in microseconds.
    pub client_cpu_us_per_op: f64,
    /// Requests that came to nothing, by reason.
    pub errors: BTreeMap<String, u64>,
    /// Connections that could not be made again.
    pub connect_failures: u64,
}

impl Report {
    /// Sums up `tally`.
    pub fn new(plan: &Plan, server: String, tally: &Tally) -> Self {
        let mut all = tally.set_us.clone();
        all.add(&tally.get_us).expect("the same bounds");
        let ops = tally.done();
        let gets = tally.hits + tally.misses;
        Report {
            op: match plan.operation {
                Operation::Set => "set",
                Operation::Get => "get",
                Operation::Mix => "mix",
            },
            server,
            connections: plan.connections,
            pipeline: plan.pipeline,
            value_size: plan.value_size,
            keys: plan.keys,
            rate: plan.rate,
            seconds: tally.seconds,
            ops,
            ops_per_s: if tally.seconds > 0.0 { ops as f64 / tally.seconds } else { 0.0 },
            sets: tally.set_us.len(),
            gets,
            hit_rate: (gets > 0).then(|| tally.hits as f64 / gets as f64),
            latency_us: Latency::of(&all),
            set_latency_us: Latency::of(&tally.set_us),
            get_latency_us: Latency::of(&tally.get_us),
            longest_pause_ms: tally.longest_pause.as_secs_f64() * 1e3,
            client_cpu_us_per_op: if ops > 0 { tally.cpu_us / ops as f64 } else { 0.0 },
            errors: tally.errors.clone(),
            connect_failures: tally.connect_failures,
        }
    }

    /// One field per line.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and texts have a JSON form")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} connections, pipeline {}, values of {} bytes, {} keys, {:.1} s, {}",
            self.op,
            self.connections,
            self.pipeline,
            self.value_size,
            self.keys,
            self.seconds,
            self.server
        )?;
        if let Some(rate) = self.rate {
            writeln!(f, "  due           {rate:>12.0} per s, latency from the time they were due")?;
        }
        writeln!(f, "  operations    {:>12.0} per s, {} in all", self.ops_per_s, self.ops)?;
        let kinds = [("sets", self.set_latency_us), ("gets", self.get_latency_us)];
        for (kind, latency) in kinds {
            let Some(latency) = latency else { continue };
            writeln!(
                f,
                "  {kind:<13} p50 {:.3} ms, p90 {:.3}, p99 {:.3}, p99.9 {:.3}, max {:.3}",
                latency.p50 as f64 / 1e3,
                latency.p90 as f64 / 1e3,
                latency.p99 as f64 / 1e3,
                latency.p999 as f64 / 1e3,
                latency.max as f64 / 1e3
            )?;
        }
        if let Some(hit_rate) = self.hit_rate {
            writeln!(f, "  hit rate      {:>12.2} %", hit_rate * 100.0)?;
        }
        writeln!(f, "  longest pause {:>12.1} ms", self.longest_pause_ms)?;
        writeln!(f, "  client CPU    {:>12.2} us per operation", self.client_cpu_us_per_op)?;
        if self.connect_failures > 0 {
            writeln!(f, "  failed connects {:>10}", self.connect_failures)?;
        }
        if self.errors.is_empty() {
            return writeln!(f, "  errors                none");
        }
        for (text, count) in &self.errors {
            writeln!(f, "  errors        {count:>12} x {text}")?;
        }
        Ok(())
    }
}

/// The bar on a terminal; nothing where stderr is none.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    by_requests: bool,
    warmup: Duration,
}

impl Progress {
    /// A bar up to `limit`.
    pub fn new(label: &'static str, limit: &Limit, warmup: Duration) -> Self {
        let (length, by_requests) = match limit {
            Limit::Requests(requests) => (*requests, true),
            Limit::Duration(duration) => ((*duration + warmup).as_millis() as u64, false),
        };
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{prefix:>7} [{bar:40}] {percent:>3}% {msg}")
            .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "));
        bar.set_style(style);
        bar.set_prefix(label);
        Progress { bar, by_requests, warmup }
    }

    /// `done` requests so far in `elapsed`, `per_second` lately.
    pub fn show(&self, elapsed: Duration, done: u64, per_second: f64) {
        if self.bar.is_hidden() {
            return;
        }
        let warming = if elapsed < self.warmup { ", warming up" } else { "" };
        self.bar.set_message(format!("{per_second:.0} ops/s{warming}"));
        self.bar.set_position(if self.by_requests { done } else { elapsed.as_millis() as u64 });
    }

    /// Clears the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
