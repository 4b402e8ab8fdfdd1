//! Servers are killed and come back: one leader at most per term, nothing
//! that was acknowledged is lost, service resumes.

mod support;

use std::time::{Duration, Instant};

use support::bound;
use support::cluster::{PATIENCE, TestCluster};
use support::load::Load;
use support::memcached::Connection;
use support::terms::TermWatch;

/// How long a cluster may be without a leader after one was killed.
const ELECTION: Duration = Duration::from_secs(5);

/// How long terms are watched.
const WATCH: Duration = Duration::from_secs(10);

/// Kills leaders and brings them back while terms are watched.
fn one_leader_per_term(servers: usize, down_at_once: usize) {
    let mut cluster = TestCluster::start(servers);
    let began = Instant::now();
    let addresses: Vec<_> =
        cluster.running().iter().map(|name| cluster.client_address(name)).collect();
    let watch = TermWatch::start(&addresses);
    let mut kills = 0;
    while began.elapsed() < WATCH {
        let mut down = Vec::new();
        for _ in 0..down_at_once {
            let leader = cluster.wait_for_leader(PATIENCE);
            let killed = Instant::now();
            cluster.kill9(&leader);
            let next = cluster.wait_for_leader(ELECTION);
            println!("{leader} killed, {next} stores after {:?}", killed.elapsed());
            kills += 1;
            down.push(leader);
        }
        for name in down {
            cluster.start_server(&name);
        }
        cluster.wait_for_servers(servers);
        // Long enough for every server to be sampled under this leader.
        std::thread::sleep(Duration::from_millis(500));
    }
    let samples = watch.finish();
    println!(
        "{servers} servers, {kills} kills: {} samples, leaders seen in {} terms",
        samples.count,
        samples.leaders.len()
    );
    assert!(samples.leaders.len() > kills / 2, "too few leaders were seen: {samples:?}");
    // Each server answers most of the samples; those that are down do not.
    assert!(samples.count > 50, "too few samples: {}", samples.count);
}

#[test]
fn three_servers_have_one_leader_per_term() {
    one_leader_per_term(3, 1);
}

#[test]
fn five_servers_have_one_leader_per_term() {
    one_leader_per_term(5, 2);
}

#[test]
fn no_acknowledged_set_is_lost_when_the_leader_is_killed_under_load() {
    let mut cluster = TestCluster::start(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    let load = Load::start(cluster.lb_client(), 4);
    std::thread::sleep(Duration::from_millis(500));
    let killed = Instant::now();
    cluster.kill9(&leader);
    let next = cluster.wait_for_leader(ELECTION);
    assert_ne!(next, leader);
    std::thread::sleep(Duration::from_millis(1000));
    // It comes back under load and catches up.
    cluster.start_server(&leader);
    cluster.wait_for_servers(3);
    std::thread::sleep(Duration::from_millis(300));
    let written = load.finish();

    let resumed = written.acknowledged.iter().map(|(_, at)| *at).find(|at| *at > killed);
    let after = resumed.expect("writes resume") - killed;
    println!(
        "{} sets acknowledged, {} not; writes resumed {after:?} after kill -9, longest pause {:?}",
        written.acknowledged.len(),
        written.refused.len(),
        written.longest_pause()
    );
    // Answers that were under way when the leader died count as resumed: the
    // pause is what a user sees.
    let pause = written.longest_pause();
    assert!(pause < bound(Duration::from_secs(1), Duration::from_secs(5)), "{pause:?}");

    cluster.wait_until_level();
    for name in ["srv-1", "srv-2", "srv-3"] {
        written.assert_all_there(&mut cluster.connect(name));
    }
    let (_, keystore) = cluster.same_files(&["srv-1", "srv-2", "srv-3"]);
    assert!(keystore.lines().count() >= written.acknowledged.len());
}

#[test]
fn without_a_majority_nothing_is_acknowledged_and_service_resumes_with_it() {
    let mut cluster = TestCluster::start(4);
    let leader = cluster.wait_for_leader(PATIENCE);
    let other = cluster.running().into_iter().find(|name| *name != leader).unwrap();
    let left: Vec<_> =
        cluster.running().into_iter().filter(|name| *name != leader && *name != other).collect();
    assert_eq!(cluster.connect(&leader).set("before", "1").unwrap(), "STORED");
    cluster.kill9(&leader);
    cluster.kill9(&other);
    for name in &left {
        let mut connection = cluster.connect(name);
        for round in 0..2 {
            let asked = Instant::now();
            let answer = connection.set(&format!("refused-{name}-{round}"), "x").unwrap();
            let took = asked.elapsed();
            assert!(
                answer == "SERVER_ERROR no leader, not executed"
                    || answer == "SERVER_ERROR timeout, outcome unknown",
                "{answer}"
            );
            assert!(
                took < bound(Duration::from_millis(1750), Duration::from_secs(3)),
                "{name} answers after {took:?}"
            );
            println!("{name}: {answer} after {took:?}");
        }
        // A read is not answered from what may be old, either.
        let answer = connection.ask("get before\r\n").unwrap();
        assert!(answer.starts_with("SERVER_ERROR"), "{answer}");
    }
    cluster.start_server(&other);
    cluster.wait_for_leader(PATIENCE);
    for name in left.iter().chain([&other]) {
        let mut connection = Connection::open(cluster.client_address(name)).unwrap();
        assert_eq!(connection.get("before").unwrap().as_deref(), Some("1"), "{name}");
        assert_eq!(connection.set("after", name).unwrap(), "STORED", "{name}");
    }
}
