//! A whole cluster as a user meets it: `up`, the commands by hand, the files,
//! a fixed cluster.

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::background::Background;
use support::bound;
use support::cluster::{PATIENCE, TestCluster};
use support::memcached::Connection;
use support::ports::free_port;
use support::process::{CLIENT, Process, STORE, is_alive, run, signal};
use support::{eventually, one_at_a_time};

#[test]
fn up_serves_and_down_leaves_no_process() {
    let home = Background::new();
    let (cport, sport) = (free_port(), free_port());
    let up = format!("up --cport {cport} --sport {sport}");
    let first = home.store(&up).expect(0).says("leads").says("STORED").says("set --lbport");
    println!("`up` on an empty folder, to its first set and get: {:?}", first.took);
    assert!(first.took < bound(Duration::from_secs(3), Duration::from_secs(10)), "{first:#?}");
    let pids = home.pids();
    assert_eq!(pids.len(), 4, "a load balancer and three servers");

    // What it says to type next works as printed.
    let line = first.out.lines().find(|line| line.contains(" set --lbport")).unwrap();
    let (line, _) = line.trim().split_once("  ").unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    run(words[0], home.cwd(), &words[1..]).expect(0);
    let lbport = cport.to_string();
    run(CLIENT, home.cwd(), &["get", "--lbport", &lbport, "hello"]).expect(0).says("world");

    // Again: nothing is started twice, and what is down comes back.
    home.store(&up).expect(0).says("runs already");
    assert_eq!(home.pids(), pids);
    home.store("stop srv-2").expect(0).says("stopped");
    assert_eq!(home.pids().len(), 3);
    home.store("stop srv-2").expect(0).says("does not run");
    home.store("up").expect(0).says("restarted").says("runs already");
    home.store("status").expect(0).says("srv-3").says("leader");

    let pids = home.pids();
    home.store("down").expect(0).says("Everything is stopped");
    for pid in pids {
        assert!(!is_alive(pid), "{pid} still runs");
    }
    home.store("down").expect(0).says("Nothing runs");

    // The data stays.
    home.store("up").expect(0).says("restarted");
    run(CLIENT, home.cwd(), &["get", "--lbport", &lbport, "hello"]).expect(0).says("world");
    home.store("down").expect(0);
}

#[test]
fn nodes_are_added_by_hand_with_the_options_of_the_seed() {
    let home = Background::new();
    let (cport, sport) = (free_port(), free_port());
    home.store(&format!("addlb -cip 127.0.0.1 -cport {cport} -sip 127.0.0.1 -sport {sport}"))
        .expect(0)
        .says("Distributed Key Value Store.")
        .says(&format!("Adding Load Balancer at [clients 127.0.0.1:{cport}"))
        .says("Starting Load Balancer with pid[");
    let first = free_port();
    home.store(&format!(
        "addsrv -cip 127.0.0.1 -cport {first} -sip 127.0.0.1 -sport {} -lbport {sport} -lbIp 127.0.0.1",
        free_port()
    ))
    .expect(0)
    .says(&format!("Adding Server @ clients 127.0.0.1:{first}"))
    .says("Starting Server with pid[")
    .says("waits for 1 more server");
    // The second makes the cluster: it is told its role.
    home.store(&format!("addsrv --cport {} --sport {}", free_port(), free_port()))
        .expect(0)
        .says("srv-2 is registered");
    eventually("a leader", PATIENCE, || {
        let status = home.store("status").out;
        if status.contains("leader srv-") { Ok(()) } else { Err(status) }
    });
    // Another one joins a cluster that is there already.
    let joined = home
        .store(&format!("addsrv --cport {} --sport {}", free_port(), free_port()))
        .expect(0)
        .says("srv-3 is registered")
        .says("waits for the leader to admit it")
        // A learner, unless it votes before that is said.
        .says("srv-3 is server 3, ")
        .says("srv-3 is a voter: server 3, follower, in sync");
    println!("a third server joins an empty cluster: {:?}", joined.took);
    home.store("addsrv --name srv-3")
        .expect(1)
        .complains("already runs")
        .complains("store stop srv-3");
    let status = home.store("status --json").expect(0);
    let status: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!(status["servers"].as_object().unwrap().len(), 3, "{status}");
    assert_eq!(status["lb"]["expect"], 2, "{status}");

    // A server that is killed comes back where it was.
    let pid = status["servers"]["srv-3"]["pid"].as_u64().unwrap() as u32;
    signal(pid, Signal::SIGKILL);
    eventually(
        "srv-3 is gone",
        PATIENCE,
        || if is_alive(pid) { Err(String::new()) } else { Ok(()) },
    );
    let client = status["servers"]["srv-3"]["client"].as_str().unwrap();
    home.store("addsrv --name srv-3")
        .expect(0)
        .says(&format!("serves clients at {client}"))
        .says("srv-3 is a voter: server 3");

    // The same for a program.
    let line = format!("addsrv --json --cport {} --sport {}", free_port(), free_port());
    let told = home.store(&line).expect(0);
    let told: Vec<Value> =
        told.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<_> = told.iter().map(|line| line["step"].as_str().unwrap()).collect();
    let wanted = ["started", "serving", "registered", "member", "voter"];
    let mut rest = steps.iter();
    assert!(wanted.iter().all(|step| rest.any(|told| told == step)), "{steps:?}");
    assert!(told.iter().all(|line| line["name"] == "srv-4"), "{told:?}");
    assert_eq!(told.last().unwrap()["id"], 4, "{told:?}");

    // Whoever does not want to wait need not.
    let line = format!("addsrv --wait 0 --cport {} --sport {}", free_port(), free_port());
    home.store(&line).expect(0).says("srv-5 is server 5");
    // One that was removed says so when it comes back.
    eventually("srv-4 is no member", PATIENCE, || match home.store("removesrv srv-4") {
        finished if finished.code == 0 => Ok(()),
        finished => Err(finished.err),
    });
    eventually("srv-4 has ended", PATIENCE, || match home.store("addsrv --name srv-4") {
        finished if finished.out.contains("was removed from the cluster, as server 4") => {
            finished.expect(0).says("srv-4 is a voter: server 6");
            Ok(())
        }
        finished => Err(finished.err),
    });
    home.store("down").expect(0);
    home.store("status").expect(3).says("stopped").complains("store addlb");
}

#[test]
fn the_files_of_all_servers_print_the_same() {
    let mut cluster = TestCluster::start(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    let mut connection = cluster.connect(&leader);
    connection.set("greeting", "hello world").unwrap();
    connection.set("gone", "x").unwrap();
    assert_eq!(connection.ask("delete gone\r\n").unwrap(), "DELETED");
    assert_eq!(connection.ask("set raw 5 0 3\r\n\r\n\0\r\n").unwrap(), "STORED");
    cluster.wait_until_level();
    let (log, keystore) = cluster.same_files(&["srv-1", "srv-2", "srv-3"]);
    assert!(log.lines().any(|line| line.ends_with(" greeting hello world")), "{log}");
    assert!(
        log.lines().all(|line| line.split(' ').next().unwrap().parse::<u64>().is_ok()),
        "{log}"
    );
    assert!(keystore.contains("greeting hello world\n"), "{keystore}");
    assert!(keystore.contains("raw \"\\r\\n\\x00\"\n"), "{keystore}");
    assert!(!keystore.contains("gone"), "{keystore}");
    // Stopped servers print what they printed while they ran.
    for name in ["srv-1", "srv-2", "srv-3"] {
        cluster.stop(name);
    }
    let (_, stopped) = cluster.same_files(&["srv-1", "srv-2", "srv-3"]);
    assert_eq!(stopped, keystore);
    let home = cluster.home();
    cluster.store(&format!("log {}", home.display())).expect(2).complains("srv-2");
    cluster.store(&format!("log {}/nothing", home.display())).expect(2).complains("no folder");
}

#[test]
fn the_client_goes_through_the_load_balancer() {
    let cluster = TestCluster::start(3);
    cluster.client("set -key color -value blue").expect(0);
    cluster.client("get color").expect(0).says("color blue");
    cluster.client("delete color").expect(0);
    cluster.client("get color").expect(1);
}

#[test]
fn a_load_balancer_that_dies_and_returns_finds_its_cluster_again() {
    let mut cluster = TestCluster::start(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    cluster.kill_lb();
    assert_eq!(cluster.connect(&leader).set("without", "lb").unwrap(), "STORED");
    cluster.start_lb();
    cluster.wait_for_servers(3);
    let mut connection = cluster.connect(&leader);
    assert_eq!(connection.get("without").unwrap().as_deref(), Some("lb"));
}

#[test]
fn a_memory_limit_refuses_what_does_not_fit_and_is_kept_over_a_restart() {
    const FULL: &str = "SERVER_ERROR out of memory storing object";
    let mut cluster = TestCluster::empty(1);
    cluster.start_lb();
    let ports = format!("--cport {} --sport {} -m 1", free_port(), free_port());
    cluster.start_server_with("srv-1", &ports);
    cluster.wait_for_leader(PATIENCE);
    let large = "x".repeat(700_000);
    let mut connection = cluster.connect("srv-1");
    assert_eq!(connection.set("a", &large).unwrap(), "STORED");
    assert_eq!(connection.set("b", &large).unwrap(), FULL);
    assert_eq!(connection.ask("delete a\r\n").unwrap(), "DELETED");
    assert_eq!(connection.set("b", &large).unwrap(), "STORED");
    cluster.stop("srv-1");
    cluster.start_server("srv-1");
    cluster.wait_for_leader(PATIENCE);
    assert_eq!(cluster.connect("srv-1").set("a", &large).unwrap(), FULL);
}

/// One server of a fixed cluster for each pid, on the same configuration.
fn fixed_cluster(config: &str, clients: &[u16], shape: &str) {
    let _one = one_at_a_time();
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, config).unwrap();
    let mut servers = Vec::new();
    for pid in 1..=clients.len() {
        let path = |name: &str| dir.path().join(format!("{name}-{pid}")).display().to_string();
        let args =
            ["run", &pid.to_string(), &file.display().to_string(), &path("log"), &path("keys")]
                .map(str::to_owned);
        servers.push(Process::start(
            &format!("{shape}-{pid}"),
            &args,
            &dir.path().join(path("err")),
        ));
    }
    let address = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    for &port in clients {
        eventually("every server takes a set", PATIENCE, || {
            let mut connection = Connection::open(address(port)).map_err(|e| e.to_string())?;
            match connection.set(&format!("key-{port}"), shape).map_err(|e| e.to_string())?.as_str()
            {
                "STORED" => Ok(()),
                other => Err(other.to_owned()),
            }
        });
    }
    for &port in clients {
        let mut connection = Connection::open(address(port)).unwrap();
        for &key in clients {
            assert_eq!(connection.get(&format!("key-{key}")).unwrap().as_deref(), Some(shape));
        }
    }
    for server in &mut servers {
        assert!(server.terminate().success());
    }
    let print = |command: &str, pid: usize| {
        let folder = dir.path().join(format!("log-{pid}.server")).display().to_string();
        run(STORE, dir.path(), &[command, &folder]).expect(0).out
    };
    assert!(print("keystore", 1).contains(shape));
    assert!(print("log", 1).contains(shape));
}

#[test]
fn a_fixed_cluster_runs_from_the_first_shape_of_the_configuration() {
    let peers: Vec<_> = (0..3).map(|_| free_port()).collect();
    let clients: Vec<_> = (0..3).map(|_| free_port()).collect();
    let servers: Vec<_> = (0..3)
        .map(|i| {
            format!(
                r#"{{"mypid": {}, "url": "127.0.0.1:{}", "client": "127.0.0.1:{}"}}"#,
                i + 1,
                peers[i],
                clients[i]
            )
        })
        .collect();
    let config = format!(r#"{{"object": {{"total": 3, "Servers": [{}]}}}}"#, servers.join(","));
    fixed_cluster(&config, &clients, "first");
}

#[test]
fn a_fixed_cluster_runs_from_the_third_seeds_shape() {
    // Clients are found 1000 ports up.
    let peers: Vec<_> = (0..3).map(|_| free_port()).collect();
    let clients: Vec<_> = peers.iter().map(|port| port + 1000).collect();
    let servers: Vec<_> =
        (0..3).map(|i| format!(r#""{}": "127.0.0.1:{}""#, i + 1, peers[i])).collect();
    let config = format!(
        r#"{{"Ser": {{{}}}, "Electiontimeout": [300000000, 400000000, 500000000], "Heartbeatinterval": 90000000}}"#,
        servers.join(",")
    );
    fixed_cluster(&config, &clients, "third");
}
