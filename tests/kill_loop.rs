//! Servers are killed with `kill -9` again and again, one of them or all at
//! once, while clients write: nothing that was acknowledged is ever lost, and
//! the replicas agree after every round.
//!
//! `STORE_KILL_ROUNDS=500 cargo test --test kill_loop -- --nocapture` plays
//! more rounds; `STORE_KILL_SEED` chooses who is killed when.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::cluster::PATIENCE;
use support::eventually;
use support::memcached::Connection;
use support::trio::{SERVERS, Trio};

const WRITERS: usize = 3;

/// Acknowledged between a start and the next kill, at least.
const WRITES: usize = 30;

/// Every key is written once, so that what must be there is known exactly.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Held for reading while a write is under way.
    pause: RwLock<()>,
    acknowledged: Mutex<Vec<String>>,
    count: AtomicUsize,
    unknown: AtomicUsize,
}

struct Writers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    fn start(servers: [SocketAddr; SERVERS]) -> Writers {
        let shared = Arc::new(Shared::default());
        let writer = |writer| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || write(&shared, servers, writer))
        };
        let threads = (0..WRITERS).map(writer).collect();
        Writers { shared, threads }
    }

    /// Waits for so many further acknowledgements.
    fn wait_for(&self, writes: usize) {
        let count = || self.shared.count.load(Ordering::Relaxed);
        let enough = count() + writes;
        eventually("writes are acknowledged", PATIENCE, || match count() {
            now if now >= enough => Ok(()),
            now => Err(format!("{now} of {enough}")),
        });
    }

    /// Keys acknowledged since the last time, with no write under way.
    fn take(&self, read: impl FnOnce(Vec<String>)) {
        let _paused = self.shared.pause.write().unwrap();
        let keys = std::mem::take(&mut *self.shared.acknowledged.lock().unwrap());
        read(keys);
    }

    fn finish(self) -> Arc<Shared> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.shared
    }
}

/// Sets one key after the other on any server that answers.
fn write(shared: &Shared, servers: [SocketAddr; SERVERS], writer: usize) {
    let mut connection: Option<Connection> = None;
    let mut next = writer;
    for number in 0.. {
        let writing = shared.pause.read().unwrap();
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("w{writer}-{number}");
        next += usize::from(connection.is_none());
        let open = connection.take().map_or_else(|| Connection::open(servers[next % SERVERS]), Ok);
        let answer = open.and_then(|mut open| Ok((open.set(&key, &key)?, open)));
        match answer {
            Ok((answer, open)) if answer == "STORED" => {
                shared.acknowledged.lock().unwrap().push(key);
                shared.count.fetch_add(1, Ordering::Relaxed);
                connection = Some(open);
            }
            _ => {
                shared.unknown.fetch_add(1, Ordering::Relaxed);
                drop(writing);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Each replica answers from its own keystore once it is level.
fn assert_all_there(address: SocketAddr, keys: &[String]) {
    let mut server = Connection::open(address).unwrap();
    for chunk in keys.chunks(100) {
        let lines = server.ask_until(&format!("get {}\r\n", chunk.join(" ")), "END").unwrap();
        let found: Vec<_> = lines.chunks(2).map(|pair| pair[1].as_str()).collect();
        assert_eq!(found, chunk, "{address} lost an acknowledged set");
    }
}

/// Numbers from a seed, as many as are wanted.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        // Steele, Lea, Flood: Fast splittable pseudorandom number generators.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[test]
fn nothing_acknowledged_is_lost_however_often_servers_are_killed() {
    let rounds = setting("STORE_KILL_ROUNDS", 10);
    let mut dice = Dice(setting("STORE_KILL_SEED", 1));
    let mut trio = Trio::start();
    let writers = Writers::start(trio.addresses());
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    let (mut kills, mut acknowledged, mut all_at_once) = (0, Vec::new(), 0);
    for round in 1..=rounds {
        let began = Instant::now();
        writers.wait_for(WRITES);
        let victims: Vec<_> = match dice.below(4) {
            0 => (0..SERVERS).collect(),
            _ => vec![dice.below(SERVERS as u64) as usize],
        };
        kills += victims.len();
        all_at_once += usize::from(victims.len() == SERVERS);
        // Somewhere within a write, a sync, an election.
        std::thread::sleep(Duration::from_micros(dice.below(20_000)));
        trio.kill9(&victims);
        for &victim in &victims {
            trio.start_server(victim);
        }
        writers.wait_for(1);
        writers.take(|keys| {
            let items = trio.wait_until_level();
            for address in trio.addresses() {
                assert_all_there(address, &keys);
            }
            acknowledged.extend(keys);
            assert!(items as usize >= acknowledged.len(), "round {round}: {items} items");
        });
        longest = longest.max(began.elapsed());
        if round % 50 == 0 {
            println!("round {round}: {} sets acknowledged, {kills} kills", acknowledged.len());
        }
    }
    let shared = writers.finish();
    acknowledged.append(&mut shared.acknowledged.lock().unwrap());
    for address in trio.addresses() {
        assert_all_there(address, &acknowledged);
    }
    trio.wait_until_level();
    let keystore = trio.stop();
    assert!(keystore.lines().count() >= acknowledged.len());
    println!(
        "{rounds} rounds in {:?} (longest {longest:?}), {kills} kills, {all_at_once} times all at \
         once; {} sets acknowledged, {} without an answer, none lost",
        began.elapsed(),
        acknowledged.len(),
        shared.unknown.load(Ordering::Relaxed)
    );
}
