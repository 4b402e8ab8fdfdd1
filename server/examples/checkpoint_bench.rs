//! Measures checkpoints and starts beside what the machine itself takes for the
//! same bytes: writing and syncing them, reading and summing them.
//!
//! `cargo run --release -p store-server --example checkpoint_bench [FOLDER [ITEMS]]`

use std::collections::VecDeque;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::memcached::StoreVerb;
use raft::{Body, Entry, Membership};
use store_server::command::{Command, Operation, Payload};
use store_server::keystore::{Frozen, Keystore, KeystoreLimits};
use store_server::keystore_file::{self, CHECKPOINT_BYTES_PER_SECOND, CheckpointMeta, Written};
use store_server::log_file::{LogFile, LogOptions};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Sets that share a sync, as those of 50 connections do.
const BATCH: u64 = 50;

const LATENCY_TIME: Duration = Duration::from_secs(4);

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let items = args.next().map_or(Ok(1_000_000), |items| items.parse())?;
    if args.next().is_some() {
        return start(&dir, items);
    }
    let dir = dir.join(format!("checkpoint-bench-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let result = bench(&dir, items);
    fs::remove_dir_all(&dir)?;
    result
}

fn bench(dir: &Path, items: u64) -> Result<()> {
    let path = dir.join("keystore-file");
    let mut keystore = Keystore::new(KeystoreLimits::default());
    let mut dice = Dice(items);
    let ns = |begin: u64| (cpu_ns() - begin) / items;
    let begin = cpu_ns();
    (0..items).for_each(|number| set(&mut keystore, number, b'a'));
    let insert = ns(begin);
    let begin = cpu_ns();
    (0..items).for_each(|_| set(&mut keystore, dice.below(items), b'b'));
    let overwrite = ns(begin);
    let steady = resident_bytes();
    println!(
        "{items} items of 100 bytes: insert {insert} ns of CPU, overwrite {overwrite} ns, {} resident",
        mib(steady)
    );

    let begin = Instant::now();
    let frozen = keystore.freeze();
    let froze = begin.elapsed();
    let begin = Instant::now();
    let written = keystore_file::write(&path, &frozen, &meta(&frozen))?;
    let wrote = begin.elapsed();
    drop(frozen);
    let bare = write_bare(&dir.join("bare"), written.bytes)?;
    let begin = Instant::now();
    paced(&path, keystore.freeze())?;
    println!(
        "checkpoint of {}: freeze {froze:.1?}, write {wrote:.0?}, at its pace {:.0?}; the same bytes \
         written and synced alone {bare:.0?}",
        mib(written.bytes),
        begin.elapsed()
    );
    for _ in 0..2 {
        let this = std::env::current_exe()?;
        Process::new(this).arg(&path).arg(items.to_string()).arg("start").status()?;
    }
    memory(&mut keystore, &path, items, &mut dice, steady)?;
    latency(&mut keystore, dir, items, &mut dice)
}

/// A start, in a process of its own: nothing is warm but the file.
fn start(path: &Path, items: u64) -> Result<()> {
    let begin = Instant::now();
    let mut file = File::open(path)?;
    let (mut buffer, mut sum) = (vec![0; 256 * 1024], 0);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        sum = crc32c::crc32c_append(sum, &buffer[..count]);
    }
    black_box(sum);
    let floor = begin.elapsed();
    let begin = Instant::now();
    let (keystore, _) = keystore_file::read(path)?.ok_or("no checkpoint")?;
    let read = begin.elapsed();
    assert_eq!(keystore.len(), items);
    println!(
        "start from a checkpoint: {read:.0?}, {} resident; reading and summing its bytes alone \
         {floor:.0?}",
        mib(resident_bytes())
    );
    Ok(())
}

/// Overwrites items in random order, as fast as one thread can, while a
/// checkpoint is written.
fn memory(
    keystore: &mut Keystore,
    path: &Path,
    items: u64,
    dice: &mut Dice,
    steady: u64,
) -> Result<()> {
    let frozen = keystore.freeze();
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut sets = 0u64;
    let mut took = Duration::ZERO;
    let begin = Instant::now();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let result = paced(path, frozen).map_err(|error| error.to_string());
            done.store(true, Ordering::Relaxed);
            (result, begin.elapsed())
        });
        while !done.load(Ordering::Relaxed) {
            for _ in 0..20_000 {
                set(keystore, dice.below(items), b'c');
            }
            sets += 20_000;
            peak.fetch_max(resident_bytes(), Ordering::Relaxed);
        }
        if let Ok((result, time)) = writer.join() {
            took = time;
            if let Err(error) = result {
                println!("the checkpoint failed: {error}");
            }
        }
    });
    let peak = peak.load(Ordering::Relaxed);
    println!(
        "under random overwrite: checkpoint {took:.0?}, {:.0} sets/s meanwhile, peak {}, {:.2} times \
         the steady state",
        sets as f64 / took.as_secs_f64(),
        mib(peak),
        peak as f64 / steady as f64
    );
    Ok(())
}

/// Batches of sets with a log-file on the same disk; rounds with and without a
/// checkpoint beside them alternate.
fn latency(keystore: &mut Keystore, dir: &Path, items: u64, dice: &mut Dice) -> Result<()> {
    let (mut log, _) = LogFile::open(&dir.join("log"), LogOptions::default(), 0)?;
    let mut next = 1;
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    let mut times = VecDeque::new();
    let begin = Instant::now();
    while begin.elapsed() < LATENCY_TIME * 2 || times.len() < 3 {
        let round = Instant::now();
        let frozen = keystore.freeze();
        let path = dir.join("keystore-file");
        let writer = thread::spawn(move || paced(&path, frozen).map_err(|error| error.to_string()));
        while !writer.is_finished() {
            busy.push(batch(keystore, &mut log, &mut next, items, dice)?);
        }
        writer.join().map_err(|_| "the writer panicked")??;
        let took = round.elapsed();
        times.push_back(took);
        let round = Instant::now();
        while round.elapsed() < took {
            quiet.push(batch(keystore, &mut log, &mut next, items, dice)?);
        }
    }
    let (quiet, busy) = (Percentiles::of(quiet), Percentiles::of(busy));
    println!(
        "batches of {BATCH} sets, logged and synced: {quiet}; beside a checkpoint: {busy}; p99 {:.2} \
         times; checkpoints {times:.0?}",
        busy.p99.as_secs_f64() / quiet.p99.as_secs_f64()
    );
    Ok(())
}

fn batch(
    keystore: &mut Keystore,
    log: &mut LogFile,
    next: &mut u64,
    items: u64,
    dice: &mut Dice,
) -> Result<Duration> {
    let begin = Instant::now();
    let entries: Vec<_> = (*next..*next + BATCH)
        .map(|index| {
            let mut bytes = Vec::with_capacity(160);
            let key = key_of(dice.below(items));
            command(&key, &[b'd'; 100]).encode(&mut bytes);
            Entry { index, term: 1, body: Body::Command(Payload(Bytes::from(bytes))) }
        })
        .collect();
    log.append(None, &entries, *next - 1)?;
    log.sync()?;
    for entry in &entries {
        let Body::Command(payload) = &entry.body else { continue };
        let index = keystore.applied() + 1;
        black_box(keystore.apply(index, &Command::decode(&payload.0)?));
    }
    *next += BATCH;
    Ok(begin.elapsed())
}

/// Writes a checkpoint as a server does.
fn paced(path: &Path, frozen: Frozen) -> Result<Written> {
    let meta = meta(&frozen);
    let mut pace = keystore_file::at_rate(CHECKPOINT_BYTES_PER_SECOND);
    Ok(keystore_file::write_paced(path, frozen, &meta, &mut pace)?)
}

fn write_bare(path: &Path, bytes: u64) -> Result<Duration> {
    let chunk = vec![b'x'; 256 * 1024];
    let begin = Instant::now();
    let mut file = File::create(path)?;
    for _ in 0..bytes.div_ceil(chunk.len() as u64) {
        file.write_all(&chunk)?;
    }
    file.sync_all()?;
    let took = begin.elapsed();
    fs::remove_file(path)?;
    Ok(took)
}

fn meta(frozen: &Frozen) -> CheckpointMeta {
    CheckpointMeta { index: frozen.applied(), term: 1, membership: Membership::default() }
}

fn set(keystore: &mut Keystore, number: u64, value: u8) {
    let index = keystore.applied() + 1;
    black_box(keystore.apply(index, &command(&key_of(number), &[value; 100])));
}

fn key_of(number: u64) -> [u8; 16] {
    let mut key = *b"key-000000000000";
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    key
}

fn command<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    let operation = Operation::Store { verb: StoreVerb::Set, key, flags: 0, deadline_ms: 0, value };
    Command { clock_ms: 1, id: None, operation }
}

/// Time that this thread was on a CPU.
fn cpu_ns() -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// Memory of this process in RAM.
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// A generator that is as good as it must be (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

struct Percentiles {
    p50: Duration,
    p99: Duration,
    count: usize,
}

impl Percentiles {
    fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        let at = |share: f64| samples.get((samples.len() as f64 * share) as usize);
        let at = |share| at(share).copied().unwrap_or_default();
        Percentiles { p50: at(0.5), p99: at(0.99), count: samples.len() }
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:.0?}, p99 {:.0?} ({} batches)", self.p50, self.p99, self.count)
    }
}
