//! Measures the log-file beside a bare loop of write and fdatasync of the same
//! batches on a file of zeros (`log`), how fast a log is read at a start
//! (`replay`), and the keystore and the keystore-file (`keystore`).
//!
//! `cargo run --release -p store-server --example disk_bench [all|log|replay|keystore] [FOLDER]`

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::memcached::StoreVerb;
use raft::{Body, Entry, Membership};
use store_server::command::{Command, Operation, Payload};
use store_server::keystore::{Keystore, KeystoreLimits};
use store_server::keystore_file::{self, CheckpointMeta};
use store_server::log_file::{LogFile, LogOptions};

const BATCHES: usize = 2000;
const ROUNDS: usize = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let what = std::env::args().nth(1).unwrap_or_else(|| "all".to_owned());
    let wanted = |part| what == "all" || what == part;
    let dir = std::env::args_os().nth(2).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("disk-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    if wanted("log") {
        for entries in [1, 10, 50] {
            log(&dir, entries)?;
        }
    }
    if wanted("replay") {
        replay(&dir)?;
    }
    if wanted("keystore") {
        keystore(&dir, 100_000)?;
        keystore(&dir, 1_000_000)?;
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn set<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    let operation = Operation::Store { verb: StoreVerb::Set, key, flags: 0, deadline_ms: 0, value };
    Command { clock_ms: 1, id: None, operation }
}

fn entry(index: u64) -> Entry<Payload> {
    let mut bytes = Vec::new();
    set(format!("key-{index:012}").as_bytes(), &[b'v'; 100]).encode(&mut bytes);
    Entry { index, term: 1, body: Body::Command(Payload(Bytes::from(bytes))) }
}

/// Rounds of both alternate, so that a disk whose speed drifts is fair to both.
fn log(dir: &Path, entries: u64) -> Result<(), Box<dyn std::error::Error>> {
    let home = dir.join(format!("log-{entries}"));
    let (mut log, _) = LogFile::open(&home, LogOptions::default(), 0)?;
    // As many bytes as the log writes: 37 around each payload, and the mark.
    let payload = entry(1).body;
    let Body::Command(payload) = payload else { return Ok(()) };
    let batch = vec![b'x'; (payload.0.len() + 37) * entries as usize + 29];
    let bare = File::create(dir.join("bare"))?;
    let zeros = vec![0; batch.len() * BATCHES];
    bare.write_all_at(&zeros, 0)?;
    bare.sync_all()?;
    let (mut log_time, mut bare_time) = (Duration::ZERO, Duration::ZERO);
    let mut next = 1;
    for round in 0..ROUNDS {
        let begin = Instant::now();
        for at in 0..BATCHES / ROUNDS {
            let offset = (round * (BATCHES / ROUNDS) + at) * batch.len();
            bare.write_all_at(&batch, offset as u64)?;
            bare.sync_data()?;
        }
        bare_time += begin.elapsed();
        let batches: Vec<Vec<_>> = (0..(BATCHES / ROUNDS) as u64)
            .map(|at| (0..entries).map(|i| entry(next + at * entries + i)).collect())
            .collect();
        let begin = Instant::now();
        for batch in &batches {
            log.append(None, batch, next - 1)?;
            log.sync()?;
            next += entries;
        }
        log_time += begin.elapsed();
    }
    let per_second = |time: Duration| BATCHES as f64 / time.as_secs_f64();
    let (log_ops, bare_ops) = (per_second(log_time), per_second(bare_time));
    let percent = 100.0 * log_ops / bare_ops;
    println!(
        "append+sync, {entries} entries of 100 bytes: {log_ops:.0}/s, bare loop {bare_ops:.0}/s, {percent:.0}%"
    );
    Ok(())
}

fn replay(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    const ENTRIES: u64 = 1_000_000;
    let home = dir.join("replay");
    let begin = Instant::now();
    let (mut log, _) = LogFile::open(&home, LogOptions::default(), 0)?;
    println!("first open: {:?}", begin.elapsed());
    for batch in 0..ENTRIES / 500 {
        let entries: Vec<_> = (1..=500).map(|i| entry(batch * 500 + i)).collect();
        log.append(None, &entries, batch * 500)?;
    }
    log.sync()?;
    drop(log);
    let begin = Instant::now();
    LogFile::open(&home, LogOptions::default(), ENTRIES)?;
    println!("open {ENTRIES} entries, all in the checkpoint: {:?}", begin.elapsed());
    let begin = Instant::now();
    let (log, recovered) = LogFile::open(&home, LogOptions::default(), 0)?;
    let opened = begin.elapsed();
    let mut keystore = Keystore::new(KeystoreLimits::default());
    for entry in &recovered.entries {
        if let Body::Command(payload) = &entry.body {
            black_box(keystore.apply(entry.index, &Command::decode(&payload.0)?));
        }
    }
    let rate = ENTRIES as f64 / begin.elapsed().as_secs_f64();
    println!("open and replay {ENTRIES} entries: {rate:.0}/s (open {opened:?})");
    let begin = Instant::now();
    let reader = log.reader();
    let mut next = 1;
    while next <= ENTRIES {
        next += reader.read(next, ENTRIES, 256 * 1024)?.len() as u64;
    }
    println!("read back: {:.0} entries/s", ENTRIES as f64 / begin.elapsed().as_secs_f64());
    Ok(())
}

fn keystore(dir: &Path, items: u64) -> Result<(), Box<dyn std::error::Error>> {
    let keys: Vec<_> = (0..items).map(|i| format!("key-{i:012}").into_bytes()).collect();
    let mut keystore = Keystore::new(KeystoreLimits::default());
    let mut index = 0;
    // A stride that is prime to the counts visits all keys in a mixed order.
    let order = || (0..items as usize).map(|i| (i * 7_919_777) % items as usize);
    let per_item = |begin: Instant| begin.elapsed().as_nanos() as f64 / items as f64;
    let mut sets = |keystore: &mut Keystore, value: &[u8]| {
        let begin = Instant::now();
        for at in order() {
            index += 1;
            black_box(keystore.apply(index, &set(&keys[at], value)));
        }
        per_item(begin)
    };
    let insert = sets(&mut keystore, &[b'v'; 100]);
    let overwrite = sets(&mut keystore, &[b'w'; 100]);
    let resize = sets(&mut keystore, &[b'w'; 101]);
    let frozen = keystore.freeze();
    let copying = sets(&mut keystore, &[b'x'; 101]);
    drop(frozen);
    let begin = Instant::now();
    for at in order() {
        black_box(keystore.get(&keys[at]));
    }
    let get = per_item(begin);
    println!(
        "{items} items, ns each: insert {insert:.0}, overwrite {overwrite:.0}, other size {resize:.0}, \
         while frozen {copying:.0}, get {get:.0}"
    );
    let path = dir.join("keystore-file");
    let meta = CheckpointMeta { index, term: 1, membership: Membership::default() };
    let begin = Instant::now();
    let frozen = keystore.freeze();
    let froze = begin.elapsed();
    let written = keystore_file::write(&path, &frozen, &meta)?;
    let wrote = begin.elapsed();
    let begin = Instant::now();
    black_box(keystore_file::read(&path)?);
    println!(
        "checkpoint of {items} items: freeze {froze:?}, write {wrote:?} ({} MiB), read {:?}",
        written.bytes >> 20,
        begin.elapsed()
    );
    Ok(())
}
