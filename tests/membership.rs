//! Servers come and go for good: learners become voters, the dead leave the
//! membership, operators remove servers and move leadership.

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::background::Background;
use support::cluster::{PATIENCE, TestCluster};
use support::eventually;
use support::memcached::Connection;
use support::ports::free_port;
use support::process::signal;

/// A command by way of the cluster's load balancer.
fn line(cluster: &TestCluster, command: &str) -> String {
    format!("{command} --dir {}", cluster.home().display())
}

fn start_with(cluster: &mut TestCluster, name: &str, options: &str) {
    let ports = format!("--cport {} --sport {} {options}", free_port(), free_port());
    cluster.start_server_with(name, &ports);
}

#[test]
fn a_server_that_joins_becomes_a_voter() {
    let mut cluster = TestCluster::start(2);
    cluster.start_server("srv-3");
    cluster.wait_for_voters(&["srv-1", "srv-2", "srv-3"]);
    // It counts: one of the first two may go now.
    let leader = cluster.wait_for_leader(PATIENCE);
    cluster.kill9(&leader);
    let next = cluster.wait_for_leader(PATIENCE);
    assert_ne!(next, leader);
}

#[test]
fn leadership_goes_where_an_operator_wants_it() {
    let cluster = TestCluster::start(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    let target = cluster.running().into_iter().find(|name| *name != leader).unwrap();
    let transfer = |to: &str| cluster.store(&line(&cluster, &format!("transfer {to}")));
    transfer(&target).expect(0).says(&format!("{target} leads"));
    eventually("it leads", PATIENCE, || match cluster.leader() {
        Ok(name) if name == target => Ok(()),
        other => Err(format!("{other:?}")),
    });
    transfer(&target).expect(0).says(&format!("{target} leads"));
    transfer("srv-9").expect(1).complains("no member is called srv-9").complains("srv-1");
    transfer("").expect(0).says("leads");
    eventually("another one leads", PATIENCE, || match cluster.leader() {
        Ok(name) if name != target => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn an_operator_removes_servers_as_long_as_that_is_safe() {
    let mut cluster = TestCluster::start(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    let others: Vec<_> = cluster.running().into_iter().filter(|name| *name != leader).collect();
    let remove = |cluster: &TestCluster, what: &str| {
        cluster.store(&line(cluster, &format!("removesrv {what}")))
    };
    remove(&cluster, "srv-9").expect(1).complains("no member is called srv-9");
    remove(&cluster, &leader).expect(1).complains("leads").complains("store transfer");

    // With one of three dead, the other one is needed.
    cluster.kill9(&others[0]);
    std::thread::sleep(Duration::from_millis(1200));
    remove(&cluster, &others[1]).expect(1).complains("no majority").complains("--force");
    // The dead one is not.
    remove(&cluster, &others[0]).expect(0).says("is removed");
    remove(&cluster, &others[0]).expect(0).says("is removed");
    let mut left = [leader.as_str(), others[1].as_str()];
    left.sort_unstable();
    cluster.wait_for_voters(&left);
    remove(&cluster, &others[1]).expect(1).complains("only 1 server would vote");
    remove(&cluster, &format!("{} --force", others[1])).expect(0).says("is removed");
    cluster.wait_for_voters(&[&leader]);
    assert_eq!(cluster.connect(&leader).set("alone", "1").unwrap(), "STORED");

    let wrong = cluster.store(&format!("removesrv srv-1 --dir {}", cluster.cwd().display()));
    wrong.expect(2).complains("cluster.key");
}

#[test]
fn one_that_was_removed_comes_back_with_its_data() {
    let mut cluster = TestCluster::empty(3);
    cluster.start_lb();
    for number in 1..=3 {
        start_with(&mut cluster, &format!("srv-{number}"), "--dead-after 1s");
    }
    cluster.wait_for_servers(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    assert_eq!(cluster.connect(&leader).set("before", "1").unwrap(), "STORED");
    let away = cluster.running().into_iter().find(|name| *name != leader).unwrap();
    let mut left = cluster.running();
    left.retain(|name| *name != away);
    cluster.kill9(&away);
    cluster.wait_for_voters(&left.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(cluster.connect(&leader).set("meanwhile", "1").unwrap(), "STORED");

    // It was away for too long.
    let all = ["srv-1", "srv-2", "srv-3"];
    cluster.start_server(&away);
    cluster.wait_for_voters(&all);
    let id = |name: &str| cluster.stat(&format!("server.{name}.id"));
    assert_eq!(id(&away), "4", "ids are not used again");
    eventually("it has everything", PATIENCE, || {
        let mut connection = cluster.connect(&away);
        match (connection.get("before"), connection.get("meanwhile")) {
            (Ok(Some(_)), Ok(Some(_))) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let log = std::fs::read_to_string(cluster.home().join(&away).join("server.log")).unwrap();
    assert!(log.contains("comes back as a learner"), "{log}");

    // An operator removes it while it runs: it ends and says why.
    let leader = cluster.wait_for_leader(PATIENCE);
    let leaves = all.into_iter().find(|name| *name != leader).unwrap();
    let before = id(leaves);
    cluster.store(&line(&cluster, &format!("removesrv {leaves}"))).expect(0).says("is removed");
    let status = cluster.server(leaves).wait_end(PATIENCE);
    assert!(!status.success());
    let log = std::fs::read_to_string(cluster.home().join(leaves).join("server.log")).unwrap();
    assert!(log.contains("an operator has removed"), "{log}");
    cluster.start_server(leaves);
    cluster.wait_for_voters(&all);
    assert_ne!(cluster.stat(&format!("server.{leaves}.id")), before);
}

/// The command to remove it ends once its process has: nothing is in the way of the
/// next one.
#[test]
fn one_is_removed_and_brought_back_by_two_commands_in_a_row() {
    let home = Background::new();
    let lb = std::net::SocketAddr::from(([127, 0, 0, 1], home.up(3)));
    let stats = || Connection::open(lb).and_then(|mut lb| lb.stats()).map_err(|e| e.to_string());
    let voters = || {
        let stats = stats()?;
        let votes =
            |name: &&str| stats.get(&format!("server.{name}.voter")).is_some_and(|v| v == "1");
        let count = ["srv-1", "srv-2", "srv-3"].iter().filter(|name| votes(name)).count();
        if count == 3 { Ok(stats) } else { Err(format!("{count} vote: {stats:?}")) }
    };
    for _ in 0..3 {
        let before = eventually("all vote", PATIENCE, voters);
        let leader = &before["lb.leader"];
        let name = ["srv-3", "srv-2"].into_iter().find(|name| name != leader).unwrap();
        let id = format!("server.{name}.id");
        home.store(&format!("removesrv {name}"))
            .expect(0)
            .says("is removed")
            .says("brings it back");
        home.store(&format!("addsrv --name {name}")).expect(0);
        let after = eventually("all vote again", PATIENCE, voters);
        assert_ne!(after[&id], before[&id], "it came back under another id");
    }
}

/// It hangs when it is removed, the leader goes, and a load balancer that knows
/// nothing of that comes: nobody takes it in again until it is started.
#[test]
fn one_that_hangs_at_its_removal_stops_when_it_goes_on() {
    let mut cluster = TestCluster::empty(4);
    cluster.start_lb();
    for number in 1..=4 {
        start_with(&mut cluster, &format!("srv-{number}"), "--dead-after 0");
    }
    let all = ["srv-1", "srv-2", "srv-3", "srv-4"];
    cluster.wait_for_servers(4);
    cluster.wait_for_voters(&all);
    let leader = cluster.wait_for_leader(PATIENCE);
    assert_eq!(cluster.connect(&leader).set("before", "1").unwrap(), "STORED");
    let leaves = all.into_iter().find(|name| *name != leader).unwrap();
    let stay: Vec<_> = all.into_iter().filter(|name| *name != leaves).collect();
    let before = cluster.stat(&format!("server.{leaves}.id"));
    signal(cluster.server(leaves).pid(), Signal::SIGSTOP);
    cluster
        .store(&line(&cluster, &format!("removesrv {leaves}")))
        .expect(0)
        .says("was not seen to end");
    cluster.wait_for_voters(&stay);
    cluster.store(&line(&cluster, "transfer")).expect(0);
    cluster.stop_lb();
    cluster.start_lb();
    cluster.wait_for_voters(&stay);
    // Longer than anybody would remember it beside the log.
    std::thread::sleep(Duration::from_secs(5));
    signal(cluster.server(leaves).pid(), Signal::SIGCONT);
    assert!(!cluster.server(leaves).wait_end(PATIENCE).success());
    let log = std::fs::read_to_string(cluster.home().join(leaves).join("server.log")).unwrap();
    assert!(log.contains("an operator has removed"), "{log}");
    cluster.wait_for_voters(&stay);

    cluster.start_server(leaves);
    cluster.wait_for_voters(&all);
    assert_ne!(cluster.stat(&format!("server.{leaves}.id")), before);
    assert_eq!(cluster.connect(leaves).get("before").unwrap().as_deref(), Some("1"));
}

/// What it knows of the membership names nobody who is left.
#[test]
fn one_that_was_away_while_all_others_were_replaced_is_found_by_them() {
    let mut cluster = TestCluster::empty(3);
    cluster.start_lb();
    for number in 1..=3 {
        start_with(&mut cluster, &format!("srv-{number}"), "--dead-after 0");
    }
    cluster.wait_for_servers(3);
    let id = |cluster: &TestCluster| cluster.stat("server.srv-1.id");
    let before = id(&cluster);
    cluster.stop("srv-1");
    for number in 4..=5 {
        start_with(&mut cluster, &format!("srv-{number}"), "--dead-after 0");
    }
    cluster.wait_for_voters(&["srv-1", "srv-2", "srv-3", "srv-4", "srv-5"]);
    cluster.store(&line(&cluster, "transfer srv-4")).expect(0);
    for goes in ["srv-2", "srv-3"] {
        cluster.store(&line(&cluster, &format!("removesrv {goes}"))).expect(0);
        cluster.server(goes).wait_end(PATIENCE);
        cluster.forget(goes);
    }
    let all = ["srv-1", "srv-4", "srv-5"];
    cluster.wait_for_voters(&all);
    let leader = cluster.wait_for_leader(PATIENCE);
    assert_eq!(cluster.connect(&leader).set("meanwhile", "1").unwrap(), "STORED");

    cluster.start_server("srv-1");
    eventually("it follows and has everything", PATIENCE, || {
        match cluster.connect("srv-1").get("meanwhile") {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    cluster.wait_for_voters(&all);
    assert_eq!(id(&cluster), before, "it was a member all the time");
}

/// A server that was lost, and another one of its name elsewhere.
#[test]
fn of_two_members_of_one_name_the_right_one_is_removed() {
    let mut cluster = TestCluster::empty(3);
    cluster.start_lb();
    for number in 1..=3 {
        start_with(&mut cluster, &format!("srv-{number}"), "--dead-after 0");
    }
    cluster.wait_for_servers(3);
    let lost = cluster.stat("server.srv-3.id");
    cluster.kill9("srv-3");
    std::fs::remove_dir_all(cluster.home().join("srv-3")).unwrap();
    start_with(&mut cluster, "srv-3", "--dead-after 0");
    let voters = |cluster: &TestCluster, count: &str| {
        eventually("this many vote", PATIENCE, || {
            let stats = cluster.connect("srv-3").stats().map_err(|error| error.to_string())?;
            let voters = stats.get("raft_voters").cloned();
            if voters.as_deref() == Some(count) { Ok(()) } else { Err(format!("{voters:?}")) }
        });
    };
    voters(&cluster, "4");
    let remove = |what: &str| cluster.store(&line(&cluster, &format!("removesrv {what}")));
    eventually("it says which is silent", PATIENCE, || {
        let refused = remove("srv-3").expect(1).complains("2 members are called srv-3");
        if refused.err.contains("(silent)") { Ok(()) } else { Err(refused.err) }
    });
    voters(&cluster, "4");
    cluster.store(&line(&cluster, "transfer srv-3")).expect(0).says("srv-3 leads");
    remove(&format!("#{lost}")).expect(0).says("is removed");
    voters(&cluster, "3");
    assert_eq!(cluster.connect("srv-3").set("k", "v").unwrap(), "STORED");
    assert!(cluster.server("srv-3").pid() > 0);
}

/// As containers do: nobody is where the others look for it.
#[test]
fn all_come_back_at_other_addresses() {
    let mut cluster = TestCluster::start(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    assert_eq!(cluster.connect(&leader).set("before", "1").unwrap(), "STORED");
    let all = ["srv-1", "srv-2", "srv-3"];
    let ids = all.map(|name| cluster.stat(&format!("server.{name}.id")));
    all.iter().for_each(|name| cluster.kill9(name));
    all.iter().for_each(|name| start_with(&mut cluster, name, ""));
    cluster.wait_for_servers(3);
    assert_eq!(all.map(|name| cluster.stat(&format!("server.{name}.id"))), ids);

    // The membership follows: what the servers know no load balancer has to tell.
    eventually("all name the new addresses", PATIENCE, || {
        let mut here = all.map(|name| cluster.client_address(name));
        here.sort_unstable();
        for name in all {
            let mut listed =
                cluster.connect(name).servers().map_err(|error| format!("{name}: {error}"))?;
            listed.sort_unstable();
            if listed != here {
                return Err(format!("{name} lists {listed:?}, not {here:?}"));
            }
        }
        Ok(())
    });
    cluster.stop_lb();
    let leader = all.into_iter().find(|name| {
        cluster.connect(name).stats().is_ok_and(|stats| stats["raft_role"] == "leader")
    });
    let leader = leader.unwrap();
    cluster.kill9(leader);
    for name in all.into_iter().filter(|name| *name != leader) {
        eventually("those two go on", PATIENCE, || match cluster.connect(name).get("before") {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{name}: {other:?}")),
        });
    }
}

#[test]
fn seven_join_and_five_die_one_after_another_and_two_go_on() {
    let mut cluster = TestCluster::empty(2);
    cluster.start_lb();
    let mut all: Vec<String> = Vec::new();
    for number in 1..=7 {
        let name = format!("srv-{number}");
        start_with(&mut cluster, &name, "--dead-after 1s");
        all.push(name);
        if number >= 2 {
            cluster.wait_for_members(&all.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
    let mut left = all.clone();
    for round in 0..5 {
        // Followers and leaders in turn.
        let leader = cluster.wait_for_leader(PATIENCE);
        let dies = left.iter().position(|name| (*name == leader) == (round % 2 == 1)).unwrap();
        cluster.kill9(&left.remove(dies));
        cluster.wait_for_voters(&left.iter().map(String::as_str).collect::<Vec<_>>());
    }
    cluster.wait_for_leader(PATIENCE);
    let mut addresses = vec![cluster.lb_client()];
    addresses.extend(left.iter().map(|name| cluster.client_address(name)));
    for (number, address) in addresses.into_iter().enumerate() {
        let (key, value) = (format!("key-{number}"), number.to_string());
        eventually("service", PATIENCE, || {
            let mut connection = Connection::open(address).map_err(|error| error.to_string())?;
            match connection.set(&key, &value).map_err(|error| error.to_string())?.as_str() {
                "STORED" => Ok(()),
                other => Err(format!("{address}: {other}")),
            }
        });
        let read = Connection::open(address).unwrap().get(&key).unwrap();
        assert_eq!(read.as_deref(), Some(value.as_str()), "{address}");
    }

    let leader = cluster.wait_for_leader(PATIENCE);
    assert_eq!(cluster.connect(&leader).set("k", "v").unwrap(), "STORED");
    // Not below two: one alone could not tell its own isolation from their end.
    let other = left.iter().find(|name| **name != leader).unwrap().clone();
    cluster.kill9(&other);
    std::thread::sleep(Duration::from_millis(2500));
    cluster.start_server(&other);
    left.sort_unstable();
    let names: Vec<_> = left.iter().map(String::as_str).collect();
    cluster.wait_for_voters(&names);
    cluster.wait_for_leader(PATIENCE);

    // What was asked for is kept for the next start.
    let text = std::fs::read_to_string(cluster.home().join(&other).join("settings.json")).unwrap();
    let settings: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(settings["dead_after_ms"], 1000);
}
