//! Commands through the load balancer: the same answers as from a server, and
//! what becomes of them when servers and load balancers come and go.

mod support;

use std::time::{Duration, Instant};

use support::cluster::{PATIENCE, TestCluster};
use support::load::Load;
use support::memcached::Connection;
use support::{bound, eventually};

/// Lines that a stock client sends in one go, and what must come back.
const DIALOGUE: &[(&str, &[&str])] = &[
    ("set a 7 0 1\r\n5\r\n", &["STORED"]),
    ("get a\r\n", &["VALUE a 7 1", "5", "END"]),
    ("add a 0 0 1\r\nx\r\n", &["NOT_STORED"]),
    ("append a 0 0 1\r\n0\r\n", &["STORED"]),
    ("incr a 5\r\n", &["55"]),
    ("set quiet 0 0 1 noreply\r\nq\r\n", &[]),
    ("get a quiet nobody\r\n", &["VALUE a 7 2", "55", "VALUE quiet 0 1", "q", "END"]),
    ("delete a\r\n", &["DELETED"]),
    ("delete a noreply\r\n", &[]),
    ("incr a 1\r\n", &["NOT_FOUND"]),
    ("no such command\r\n", &["ERROR"]),
    ("set a 0 0 nonsense\r\n", &["CLIENT_ERROR bad command line format"]),
    ("get a\r\n", &["END"]),
];

#[test]
fn a_stock_client_gets_the_same_answers_as_from_the_leader() {
    let cluster = TestCluster::start(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    for address in [cluster.client_address(&leader), cluster.lb_client()] {
        let mut single = Connection::open(address).unwrap();
        for (request, answer) in DIALOGUE {
            single.send(request).unwrap();
            for line in *answer {
                assert_eq!(single.line().unwrap(), *line, "{request:?} at {address}");
            }
        }
        // All in one write: the answers come in order, with the load
        // balancer's own in their place.
        let mut piped = Connection::open(address).unwrap();
        let text: String = DIALOGUE.iter().map(|(request, _)| *request).collect();
        piped.send(text.clone() + "get-servers\r\n" + &text + "quit\r\n").unwrap();
        for round in 0..2 {
            for (request, answer) in DIALOGUE {
                for line in *answer {
                    assert_eq!(piped.line().unwrap(), *line, "{request:?} at {address}");
                }
            }
            if round == 0 {
                let leader = cluster.client_address(&leader).to_string();
                assert_eq!(piped.line().unwrap(), leader);
                while piped.line().unwrap() != "end" {}
            }
        }
        assert!(piped.is_closed());
    }
}

#[test]
fn reads_on_all_servers_see_every_write() {
    for policy in ["round-robin", "least-loaded"] {
        let mut cluster = TestCluster::empty(3);
        cluster.start_lb_with(&format!("--policy {policy}"));
        for number in 1..=3 {
            cluster.start_server(&format!("srv-{number}"));
        }
        cluster.wait_for_servers(3);
        let mut writer = Connection::open(cluster.lb_client()).unwrap();
        let mut reader = Connection::open(cluster.lb_client()).unwrap();
        for round in 0..300 {
            assert_eq!(writer.set("k", &round.to_string()).unwrap(), "STORED");
            let read = reader.get("k").unwrap();
            assert_eq!(read, Some(round.to_string()), "{policy}");
        }
        for name in cluster.running() {
            let stats = cluster.connect(&name).stats().unwrap();
            let reads: u64 = stats["cmd_get"].parse().unwrap();
            assert!(reads >= 50, "{policy}: {name} answered {reads} of 300 reads");
        }
        whom_clients_are_sent_to(&cluster, policy);
        // The policy outlives the process.
        cluster.kill_lb();
        let settings = std::fs::read_to_string(cluster.home().join("lb-1/settings.json")).unwrap();
        assert!(settings.contains(policy), "{settings}");
    }
}

/// Each client is sent to another server, or to one with less to do; whoever
/// it is answers everything.
fn whom_clients_are_sent_to(cluster: &TestCluster, policy: &str) {
    let mut lb = Connection::open(cluster.lb_client()).unwrap();
    let config = lb.config().unwrap();
    let first: std::collections::BTreeSet<_> = (0..6).map(|_| lb.servers().unwrap()[0]).collect();
    if policy == "round-robin" {
        assert_eq!(first.len(), 3, "{first:?}");
    } else {
        assert!(first.len() > 1, "{first:?}");
    }
    for number in 0..3 {
        let (key, value) = (format!("native-{number}"), number.to_string());
        cluster.client(&format!("set {key} {value}")).expect(0);
        cluster.client(&format!("get {key}")).expect(0).says(&value);
    }
    let leader = cluster.client_address(&cluster.leader().unwrap());
    let again = lb.config().unwrap();
    assert_eq!(config, again, "the configuration does not change with each question");
    let head = format!("\n127.0.0.1|127.0.0.1|{} ", leader.port());
    assert!(config.contains(&head), "{config:?} does not begin with {head}");
}

#[test]
fn nothing_is_refused_while_a_leader_stops() {
    let mut cluster = TestCluster::start(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    let load = Load::at(cluster.lb_client(), 4, "load");
    std::thread::sleep(Duration::from_millis(300));
    cluster.stop(&leader);
    let next = cluster.wait_for_leader(PATIENCE);
    assert_ne!(next, leader);
    std::thread::sleep(Duration::from_millis(300));
    let written = load.finish();
    println!("{} acknowledged, pause {:?}", written.acknowledged.len(), written.longest_pause());
    assert!(written.refused.is_empty(), "{:?}", written.refused);
    written.assert_all_there(&mut Connection::open(cluster.lb_client()).unwrap());
}

#[test]
fn a_killed_leader_costs_a_pause_and_nothing_that_was_acknowledged() {
    let mut cluster = TestCluster::start(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    let load = Load::at(cluster.lb_client(), 4, "load");
    std::thread::sleep(Duration::from_millis(300));
    cluster.kill9(&leader);
    cluster.wait_for_leader(PATIENCE);
    std::thread::sleep(Duration::from_millis(500));
    cluster.start_server(&leader);
    cluster.wait_for_servers(3);
    let written = load.finish();
    let pause = written.longest_pause();
    println!("{} acknowledged, pause {pause:?}", written.acknowledged.len());
    // What was on its way when the leader died, and nothing else.
    assert!(written.refused.len() <= 4, "{:?}", written.refused);
    assert!(pause < bound(Duration::from_millis(1500), Duration::from_secs(5)), "{pause:?}");
    cluster.wait_until_level();
    written.assert_all_there(&mut Connection::open(cluster.lb_client()).unwrap());
}

#[test]
fn without_a_majority_requests_wait_and_then_are_told_so() {
    let mut cluster = TestCluster::start(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    let mut client = Connection::open(cluster.lb_client()).unwrap();
    assert_eq!(client.set("k", "1").unwrap(), "STORED");
    let followers: Vec<_> = cluster.running().into_iter().filter(|name| *name != leader).collect();
    for name in &followers {
        cluster.kill9(name);
    }
    // The leader steps down as soon as it has heard nobody for a while.
    eventually("a refusal", PATIENCE, || match client.set("k", "2") {
        Ok(answer) if answer == "SERVER_ERROR no leader, not executed" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let asked = Instant::now();
    let answer = client.ask("get k\r\n").unwrap();
    assert_eq!(answer, "SERVER_ERROR no leader, not executed");
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(1000), "it was parked only {took:?}");
    assert!(took < bound(Duration::from_millis(1750), Duration::from_secs(3)), "{took:?}");

    // That holds for each request of a deep pipeline, too.
    for address in [cluster.lb_client(), cluster.client_address(&leader)] {
        let mut client = Connection::open(address).unwrap();
        let asked = Instant::now();
        client.send("get k\r\n".repeat(1024)).unwrap();
        for _ in 0..1024 {
            assert_eq!(client.line().unwrap(), "SERVER_ERROR no leader, not executed");
        }
        let took = asked.elapsed();
        assert!(took < bound(Duration::from_millis(1750), Duration::from_secs(3)), "{took:?}");
    }

    // What waits goes on as soon as somebody leads.
    cluster.start_server(&followers[0]);
    eventually("service", PATIENCE, || match client.set("k", "3") {
        Ok(answer) if answer == "STORED" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(client.get("k").unwrap().as_deref(), Some("3"));
}

#[test]
fn a_load_balancer_that_stops_answers_what_it_has() {
    let mut cluster = TestCluster::start(3);
    let load = Load::at(cluster.lb_client(), 4, "load");
    std::thread::sleep(Duration::from_millis(300));
    cluster.stop_lb();
    let written = load.finish();
    // What it had read was answered as ever; what it had not read is the
    // close of a connection.
    let errors = written.refused.iter().any(|why| why.contains("SERVER_ERROR"));
    assert!(!errors && written.refused.len() <= 4, "{:?}", written.refused);
    cluster.start_lb();
    cluster.wait_for_servers(3);
    written.assert_all_there(&mut Connection::open(cluster.lb_client()).unwrap());
}
