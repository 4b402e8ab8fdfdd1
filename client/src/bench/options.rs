//! What to measure.

use std::time::Duration;

use clap::{Args, ValueEnum};
use common::limits::DEFAULT_MAX_VALUE_BYTES;

use crate::cli::duration;

/// Bounds of what one thread can usefully do.
const MAX_CONNECTIONS: usize = 10_000;
const MAX_PIPELINE: usize = 10_000;
/// Keys have 8 digits.
const MAX_KEYS: u64 = 100_000_000;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Operation {
    /// Sets of random keys.
    Set,
    /// Gets of random keys, one per request.
    Get,
    /// Both, see `--ratio`.
    Mix,
}

/// When to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// After so long, warm-up not counted.
    Duration(Duration),
    /// After so many requests.
    Requests(u64),
}

/// Options of `client bench`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  client bench                                   sets over 50 connections for 10 s
  client bench --op get --connections 100
  client bench --op mix --ratio 0.9              nine gets to one set
  client bench --op set --rate 20000             open loop: latency as users see it
  client bench --server 127.0.0.1:11211 --json - any memcached

Without --rate the loop is closed: a stall of the server also stops the load, so percentiles are
better than users would see (coordinated omission). With --rate, latency counts from the time a
request was due.")]
pub struct BenchArgs {
    /// What to ask
    #[arg(long, value_enum, default_value_t = Operation::Set)]
    pub op: Operation,
    /// Share of gets in a mix, 0 to 1
    #[arg(long, default_value_t = 0.9)]
    pub ratio: f64,
    /// Connections
    #[arg(long, short = 'c', default_value_t = 50)]
    pub connections: usize,
    /// Requests per write of a connection
    #[arg(long, short = 'p', default_value_t = 1)]
    pub pipeline: usize,
    /// Bytes per value
    #[arg(long, short = 'd', default_value_t = 100)]
    pub value_size: usize,
    /// Keys, picked at random with equal chance
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Stop after so many requests instead
    #[arg(long, short = 'n', conflicts_with = "duration")]
    pub requests: Option<u64>,
    /// Load before the measurement that does not count [default: 1s, with --requests none]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub warmup: Option<Duration>,
    /// Requests per second on a fixed schedule (open loop) instead of as many as possible
    #[arg(long)]
    pub rate: Option<f64>,
    /// Set every key before the measurement [default: if there are gets]
    #[arg(long)]
    pub prefill: bool,
    /// Set nothing before the measurement
    #[arg(long, conflicts_with = "prefill")]
    pub no_prefill: bool,
    /// Spread connections over all servers that the load balancer names, not only the leader
    #[arg(long)]
    pub spread: bool,
    /// Seed of the choice of keys
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the result as JSON to FILE; `-`: to standard output, instead of the text
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,
}

/// A checked measurement.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is asked.
    pub operation: Operation,
    /// Share of gets in a mix.
    pub ratio: f64,
    /// Connections, at least 1.
    pub connections: usize,
    /// Requests per write of a connection, at least 1.
    pub pipeline: usize,
    /// Bytes per value.
    pub value_size: usize,
    /// Number of keys.
    pub keys: u64,
    /// When to stop.
    pub limit: Limit,
    /// Load before the measurement.
    pub warmup: Duration,
    /// Requests per second of an open loop.
    pub rate: Option<f64>,
    /// Set every key first.
    pub prefill: bool,
    /// Keys in turn instead of at random.
    pub sequential: bool,
    /// Seed of the choice of keys.
    pub seed: u64,
    /// Shown at the progress bar.
    pub label: &'static str,
}

impl BenchArgs {
    /// Checks the options together.
    pub fn plan(&self) -> Result<Plan, String> {
        within("--connections", self.connections as u64, 1, MAX_CONNECTIONS as u64)?;
        within("--pipeline", self.pipeline as u64, 1, MAX_PIPELINE as u64)?;
        within("--keys", self.keys, 1, MAX_KEYS)?;
        within("--value-size", self.value_size as u64, 0, 16 * DEFAULT_MAX_VALUE_BYTES as u64)?;
        if !(0.0..=1.0).contains(&self.ratio) {
            return Err("--ratio is a share between 0 and 1".into());
        }
        if self.rate.is_some_and(|rate| !(0.1..=10_000_000.0).contains(&rate)) {
            return Err("--rate is between 0.1 and 10000000 requests per second".into());
        }
        if self.requests == Some(0) {
            return Err("--requests is at least 1".into());
        }
        let (limit, default_warmup) = match self.requests {
            Some(requests) => (Limit::Requests(requests), Duration::ZERO),
            None => (Limit::Duration(self.duration), Duration::from_secs(1)),
        };
        Ok(Plan {
            operation: self.op,
            ratio: self.ratio,
            connections: self.connections,
            pipeline: self.pipeline,
            value_size: self.value_size,
            keys: self.keys,
            limit,
            warmup: self.warmup.unwrap_or(default_warmup),
            rate: self.rate,
            prefill: !self.no_prefill && (self.prefill || self.op != Operation::Set),
            sequential: false,
            seed: self.seed,
            label: match self.op {
                Operation::Set => "set",
                Operation::Get => "get",
                Operation::Mix => "mix",
            },
        })
    }
}

fn within(option: &str, value: u64, least: u64, most: u64) -> Result<(), String> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(format!("{option} is between {least} and {most}, not {value}"))
}
