//! Servers come and go for good: learners become voters, the dead leave the
//! membership, operators remove servers and move leadership.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use support::cluster::{PATIENCE, TestCluster};
use support::eventually;
use support::memcached::Connection;
use support::ports::free_port;

/// What the load balancer says of each server: whether it votes.
fn voters(cluster: &TestCluster) -> BTreeMap<String, Option<bool>> {
    let stats = Connection::open(cluster.lb_client()).unwrap().stats().unwrap();
    let servers = stats.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix("server.")?.strip_suffix(".voter")?;
        Some((name.to_owned(), value.parse::<u8>().ok().map(|votes| votes == 1)))
    });
    servers.collect()
}

fn cluster_stat(cluster: &TestCluster, key: &str) -> String {
    Connection::open(cluster.lb_client()).unwrap().stats().unwrap()[key].clone()
}

fn wait_for_voters(cluster: &TestCluster, names: &[&str]) {
    eventually("these voters and no others", PATIENCE, || {
        let found = voters(cluster);
        let voting = found.iter().filter(|(_, votes)| **votes == Some(true));
        let voting: Vec<_> = voting.map(|(name, _)| name.as_str()).collect();
        (voting == names).then_some(()).ok_or_else(|| format!("{found:?}"))
    });
}

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
    wait_for_voters(&cluster, &["srv-1", "srv-2", "srv-3"]);
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
    let mut left = [leader.as_str(), others[1].as_str()];
    left.sort_unstable();
    wait_for_voters(&cluster, &left);
    remove(&cluster, &others[1]).expect(1).complains("only 1 server would vote");
    remove(&cluster, &format!("{} --force", others[1])).expect(0).says("is removed");
    wait_for_voters(&cluster, &[&leader]);
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
    wait_for_voters(&cluster, &left.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(cluster.connect(&leader).set("meanwhile", "1").unwrap(), "STORED");

    // It was away for too long.
    let all = ["srv-1", "srv-2", "srv-3"];
    cluster.start_server(&away);
    wait_for_voters(&cluster, &all);
    let id = |name: &str| cluster_stat(&cluster, &format!("server.{name}.id"));
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
    wait_for_voters(&cluster, &all);
    assert_ne!(cluster_stat(&cluster, &format!("server.{leaves}.id")), before);
}

#[test]
fn the_dead_leave_one_by_one_until_two_are_left() {
    let mut cluster = TestCluster::empty(5);
    cluster.start_lb();
    for number in 1..=5 {
        start_with(&mut cluster, &format!("srv-{number}"), "--dead-after 1s");
    }
    cluster.wait_for_servers(5);
    let mut left: Vec<_> = cluster.running();
    while left.len() > 2 {
        let leader = cluster.wait_for_leader(PATIENCE);
        let dies = left.iter().position(|name| *name != leader).unwrap();
        cluster.kill9(&left.remove(dies));
        let names: Vec<_> = left.iter().map(String::as_str).collect();
        wait_for_voters(&cluster, &names);
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
    wait_for_voters(&cluster, &names);
    cluster.wait_for_leader(PATIENCE);

    // What was asked for is kept for the next start.
    let text = std::fs::read_to_string(cluster.home().join(&other).join("settings.json")).unwrap();
    let settings: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(settings["dead_after_ms"], 1000);
}
