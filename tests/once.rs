//! Exactly-once: leaders are killed with `kill -9` and come back while a client
//! counts. A plain one, that knows nothing of it, does so over one connection
//! to a load balancer or to a server that does not lead; the client library at
//! the very leader that is killed. They see no error, and the counter is what
//! they counted.
//!
//! `STORE_INCRS=1000 cargo test --test once -- --nocapture` counts further.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::bound;
use support::cluster::{PATIENCE, TestCluster};
use support::memcached::Connection;

/// Between two kills.
const KILL_EVERY: Duration = Duration::from_secs(2);

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(10);

fn incrs() -> u64 {
    std::env::var("STORE_INCRS").map_or(200, |text| text.parse().expect("a number"))
}

/// How long requests took.
#[derive(Debug, Default)]
struct Took {
    /// The longest one.
    longest: Duration,
    /// The longest time between two answers.
    gap: Duration,
}

/// Counts from `from` on; every answer has to be the next number.
fn count(address: SocketAddr, from: u64, times: u64) -> JoinHandle<Took> {
    std::thread::spawn(move || {
        let mut connection = Connection::open(address).unwrap();
        let mut took = Took::default();
        let mut answered = Instant::now();
        for number in from + 1..=from + times {
            let asked = Instant::now();
            let answer = connection.ask("incr n 1\r\n").unwrap();
            assert_eq!(answer, number.to_string(), "after {:?}", asked.elapsed());
            took.longest = took.longest.max(asked.elapsed());
            took.gap = took.gap.max(answered.elapsed());
            answered = Instant::now();
            std::thread::sleep(PAUSE);
        }
        took
    })
}

/// The same by the client library, at whoever leads and without a pause, so
/// that a write is under way whenever a leader is killed. How far it counted.
fn count_natively(lb: SocketAddr, stop: Arc<AtomicBool>) -> JoinHandle<(u64, Took)> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut cluster = client::Cluster::new(vec![lb], client::Options::default());
        let mut took = Took::default();
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let asked = Instant::now();
            let answer = runtime.block_on(cluster.incr("n", 1));
            assert_eq!(answer, Ok(Some(number)), "after {:?}", asked.elapsed());
            took.longest = took.longest.max(asked.elapsed());
        }
        took.gap = took.longest;
        (number, took)
    })
}

/// Kills the leader and brings it back.
fn kill_leader(cluster: &mut TestCluster) {
    let leader = cluster.wait_for_leader(PATIENCE);
    cluster.kill9(&leader);
    cluster.wait_for_leader(PATIENCE);
    cluster.start_server(&leader);
    cluster.wait_for_servers(3);
}

fn expect(cluster: &mut TestCluster, number: u64) {
    cluster.wait_until_level();
    for name in cluster.running() {
        let found = cluster.connect(&name).get("n").unwrap();
        assert_eq!(found, Some(number.to_string()), "{name}");
    }
}

#[test]
fn through_the_load_balancer() {
    let mut cluster = TestCluster::start(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    assert_eq!(cluster.connect(&leader).set("n", "0").unwrap(), "STORED");
    let counting = count(cluster.lb_client(), 0, incrs());
    let mut kills = 0;
    std::thread::sleep(Duration::from_millis(300));
    while !counting.is_finished() {
        let killed = Instant::now();
        kill_leader(&mut cluster);
        kills += 1;
        while killed.elapsed() < KILL_EVERY && !counting.is_finished() {
            std::thread::sleep(PAUSE);
        }
    }
    let took = counting.join().unwrap();
    println!("{} incr, {kills} leaders killed: {took:?}", incrs());
    expect(&mut cluster, incrs());
    assert!(took.longest < bound(Duration::from_secs(1), Duration::from_millis(1500)), "{took:?}");
}

#[test]
fn by_the_client_library_at_the_leader() {
    let mut cluster = TestCluster::start(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    assert_eq!(cluster.connect(&leader).set("n", "0").unwrap(), "STORED");
    let stop = Arc::new(AtomicBool::new(false));
    let counting = count_natively(cluster.lb_client(), Arc::clone(&stop));
    let kills = incrs() / 50;
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(300));
        kill_leader(&mut cluster);
        assert!(!counting.is_finished(), "the client sees an error");
    }
    stop.store(true, Ordering::Relaxed);
    let (number, took) = counting.join().unwrap();
    println!("{number} incr, {kills} leaders killed: {took:?}");
    expect(&mut cluster, number);
    assert!(took.longest < bound(Duration::from_millis(1500), Duration::from_secs(3)), "{took:?}");
}

#[test]
fn through_a_server_that_does_not_lead() {
    const ROUNDS: u64 = 4;
    let mut cluster = TestCluster::start(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    assert_eq!(cluster.connect(&leader).set("n", "0").unwrap(), "STORED");
    let each = incrs() / ROUNDS;
    for round in 0..ROUNDS {
        let leader = cluster.wait_for_leader(PATIENCE);
        let other = cluster.running().into_iter().find(|name| *name != leader).unwrap();
        let counting = count(cluster.client_address(&other), round * each, each);
        std::thread::sleep(each as u32 * PAUSE / 4);
        cluster.kill9(&leader);
        let took = counting.join().unwrap();
        println!("{each} incr through {other}, {leader} killed: {took:?}");
        let most = bound(Duration::from_secs(1), Duration::from_millis(1500));
        assert!(took.longest < most, "{took:?}");
        cluster.start_server(&leader);
        cluster.wait_for_servers(3);
    }
    expect(&mut cluster, ROUNDS * each);
}
