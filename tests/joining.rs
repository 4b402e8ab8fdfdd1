//! Whatever happens in the middle of a join, and however often it is asked
//! for, each server ends up in the membership once, as a voter.

mod support;

use nix::sys::signal::Signal;
use support::background::Background;
use support::cluster::{PATIENCE, TestCluster, progress};
use support::eventually;
use support::memcached::Connection;
use support::ports::free_port;
use support::process::signal;

/// Stops servers, so that nothing can be committed and a join stays where it is.
fn freeze(cluster: &mut TestCluster, names: &[&str]) {
    for name in names {
        signal(cluster.server(name).pid(), Signal::SIGSTOP);
    }
}

fn thaw(cluster: &mut TestCluster, names: &[&str]) {
    for name in names {
        signal(cluster.server(name).pid(), Signal::SIGCONT);
    }
}

/// A new server that is registered and no more.
fn begin_join(cluster: &mut TestCluster, name: &str) {
    cluster.start_server(name);
    cluster.server(name).wait_for("registered", |line| progress(line, "registered").then_some(()));
    assert_ne!(cluster.voters().get(name), Some(&Some(true)), "{name} votes already");
}

/// A cluster of three, its leader and the others.
fn three() -> (TestCluster, String, [String; 2]) {
    let cluster = TestCluster::start(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    let others: Vec<_> = cluster.running().into_iter().filter(|name| *name != leader).collect();
    (cluster, leader, others.try_into().unwrap())
}

#[test]
fn a_join_outlives_the_load_balancer() {
    let (mut cluster, leader, [one, two]) = three();
    let all = [leader.as_str(), &one, &two];
    freeze(&mut cluster, &all);
    begin_join(&mut cluster, "srv-4");
    cluster.kill_lb();
    thaw(&mut cluster, &all);
    cluster.start_lb();
    cluster.wait_for_members(&["srv-1", "srv-2", "srv-3", "srv-4"]);
    assert_eq!(cluster.stat("server.srv-4.id"), "4");
    assert_eq!(cluster.connect("srv-4").set("k", "v").unwrap(), "STORED");
}

#[test]
fn a_join_outlives_the_leader() {
    let (mut cluster, leader, [one, two]) = three();
    // The leader takes the admission into its log, and nobody else does.
    freeze(&mut cluster, &[&one, &two]);
    let before: u64 = cluster.connect(&leader).stats().unwrap()["raft_last_index"].parse().unwrap();
    begin_join(&mut cluster, "srv-4");
    let address = cluster.client_address(&leader);
    let proposed = |stats: &std::collections::BTreeMap<String, String>| {
        stats["raft_members"] == "4" && stats["raft_last_index"].parse::<u64>().unwrap() > before
    };
    let deposed =
        |stats: &std::collections::BTreeMap<String, String>| stats["raft_role"] != "leader";
    eventually("the leader has the admission, or gives up", PATIENCE, || {
        let stats = Connection::open(address).unwrap().stats().unwrap();
        (proposed(&stats) || deposed(&stats)).then_some(()).ok_or_else(|| format!("{stats:?}"))
    });
    cluster.kill9(&leader);
    thaw(&mut cluster, &[&one, &two]);
    let next = cluster.wait_for_leader(PATIENCE);
    assert_ne!(next, leader);
    let voting = |cluster: &TestCluster| cluster.voters().get("srv-4") == Some(&Some(true));
    eventually("it votes", PATIENCE, || voting(&cluster).then_some(()).ok_or_else(String::new));
    // The first leader comes back with an entry that never counted.
    cluster.start_server(&leader);
    cluster.wait_for_members(&["srv-1", "srv-2", "srv-3", "srv-4"]);
}

#[test]
fn a_server_that_registers_twice_is_the_same_server() {
    let (mut cluster, leader, [one, two]) = three();
    let all = [leader.as_str(), &one, &two];
    freeze(&mut cluster, &all);
    begin_join(&mut cluster, "srv-4");
    // Killed and started again on the same folder, twice, while nobody can
    // take it in; then the cluster goes on.
    for _ in 0..2 {
        cluster.kill9("srv-4");
        cluster.start_server("srv-4");
    }
    thaw(&mut cluster, &all);
    cluster.wait_for_members(&["srv-1", "srv-2", "srv-3", "srv-4"]);
    assert_eq!(cluster.stat("server.srv-4.id"), "4");
    // And once more as a voter.
    cluster.kill9("srv-4");
    cluster.start_server("srv-4");
    cluster.wait_for_members(&["srv-1", "srv-2", "srv-3", "srv-4"]);
    assert_eq!(cluster.stat("server.srv-4.id"), "4");
}

#[test]
fn servers_that_join_at_once_all_join() {
    let home = Background::new();
    let port = home.up(2);
    std::thread::scope(|scope| {
        for number in 3..=5 {
            let line = format!(
                "addsrv --name srv-{number} --cport {} --sport {}",
                free_port(),
                free_port()
            );
            let home = &home;
            scope.spawn(move || {
                home.store(&line).expect(0).says(&format!("srv-{number} is a voter"));
            });
        }
    });
    let lb = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    // The load balancer hears of the last vote a moment later.
    eventually("five voters, each once", PATIENCE, || {
        let stats = Connection::open(lb).unwrap().stats().unwrap();
        let field = |number: usize, field: &str| {
            stats.get(&format!("server.srv-{number}.{field}")).map_or("", String::as_str)
        };
        let mut ids: Vec<_> = (1..=5).map(|number| field(number, "id")).collect();
        ids.sort_unstable();
        let members = stats.keys().filter(|key| key.ends_with(".voter")).count();
        let all_vote = (1..=5).all(|number| field(number, "voter") == "1");
        let right = ids == ["1", "2", "3", "4", "5"] && members == 5 && all_vote;
        right.then_some(()).ok_or_else(|| format!("{stats:?}"))
    });
    home.store("down").expect(0);
}

#[test]
fn a_join_that_takes_long_goes_on_without_its_command() {
    let home = Background::new();
    home.up(2);
    let status = home.store("status --json").expect(0).out;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let pid = |name: &str| status["servers"][name]["pid"].as_u64().unwrap() as u32;
    let follower = if status["lb"]["leader"] == "srv-1" { "srv-2" } else { "srv-1" };
    // Nothing can be committed, and so nobody can join.
    signal(pid(follower), Signal::SIGSTOP);
    let ports = format!("--cport {} --sport {}", free_port(), free_port());
    let finished = home.store(&format!("addsrv {ports}"));
    signal(pid(follower), Signal::SIGCONT);
    finished
        .expect(0)
        .says("srv-3 goes on in the background (pid ")
        .says("it waits for")
        .says("`store status` shows how far");
    eventually("it votes all the same", PATIENCE, || {
        let status = home.store("status --json").expect(0).out;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        match &status["servers"]["srv-3"]["voter"] {
            votes if *votes == 1 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    home.store("down").expect(0);
}

#[test]
fn two_load_balancers_register_a_server_once() {
    let mut cluster = TestCluster::empty(3);
    cluster.start_lb();
    let (second_client, second_server, _second) = cluster.another_lb("lb-2");
    let lbs = format!("--lb {},{second_server}", cluster.lb_server());
    let start = |cluster: &mut TestCluster, name: &str| {
        let ports = format!("--cport {} --sport {}", free_port(), free_port());
        cluster.start_server_with(name, &format!("{lbs} {ports}"));
    };
    for name in ["srv-1", "srv-2", "srv-3"] {
        start(&mut cluster, name);
    }
    cluster.wait_for_servers(3);
    let knows = |count: usize| {
        eventually("the second one knows as many", PATIENCE, || {
            let servers = Connection::open(second_client).unwrap().servers().unwrap();
            (servers.len() == count).then_some(()).ok_or_else(|| format!("{servers:?}"))
        });
    };
    knows(3);
    // Both ask the leader for each of them, and one more while the other is
    // under way.
    start(&mut cluster, "srv-4");
    start(&mut cluster, "srv-5");
    knows(5);
    cluster.wait_for_members(&["srv-1", "srv-2", "srv-3", "srv-4", "srv-5"]);
    let mut ids = [cluster.stat("server.srv-4.id"), cluster.stat("server.srv-5.id")];
    ids.sort_unstable();
    assert_eq!(ids, ["4", "5"]);
}

#[test]
fn a_server_that_lost_its_disk_takes_the_place_of_its_former_self() {
    let (mut cluster, leader, [lost, other]) = three();
    let address = cluster.client_address(&lost);
    let ports = {
        let peer = cluster.stat(&format!("server.{lost}.peer"));
        let (_, peer) = peer.rsplit_once(':').unwrap();
        format!("--cport {} --sport {peer}", address.port())
    };
    let before = cluster.stat(&format!("server.{lost}.id"));
    assert_eq!(cluster.connect(&leader).set("k", "v").unwrap(), "STORED");
    cluster.kill9(&lost);
    std::fs::remove_dir_all(cluster.home().join(&lost)).unwrap();
    // The default of --dead-after is 30 s: nobody waits for that.
    cluster.start_server_with(&lost, &ports);
    let replaced = cluster.server(&lost).wait_for("its vote", |line| {
        progress(line, "voter").then(|| line["progress"]["replaces"].clone())
    });
    cluster.wait_for_members(&["srv-1", "srv-2", "srv-3"]);
    assert_eq!(replaced, serde_json::json!([before.parse::<u64>().unwrap()]));
    assert_eq!(cluster.stat(&format!("server.{lost}.id")), "4");
    assert_eq!(cluster.connect(&lost).get("k").unwrap().as_deref(), Some("v"));
    eventually("nobody speaks of its former self", PATIENCE, || {
        let found = cluster.voters();
        (found.len() == 3).then_some(()).ok_or_else(|| format!("{found:?}"))
    });
    // It counts: any of the others may go now.
    cluster.kill9(&other);
    cluster.wait_for_leader(PATIENCE);
}
