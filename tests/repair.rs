//! Servers whose files are damaged, with a load balancer and real processes.

mod support;

use support::cluster::{PATIENCE, TestCluster};
use support::eventually;

fn follower(cluster: &TestCluster) -> String {
    let leader = cluster.wait_for_leader(PATIENCE);
    cluster.running().into_iter().find(|name| *name != leader).unwrap()
}

fn stat(cluster: &TestCluster, name: &str, field: &str) -> Result<String, String> {
    let stats = cluster.connect(name).stats().map_err(|error| error.to_string())?;
    stats.get(field).cloned().ok_or_else(|| format!("no {field}"))
}

/// Loses what it has voted: whatever `spoil` does to its folder.
fn joins_as_a_new_server(spoil: impl Fn(&std::path::Path)) {
    let mut cluster = TestCluster::start(3);
    let name = follower(&cluster);
    let id = stat(&cluster, &name, "raft_id").unwrap();
    cluster.client("set key value").expect(0);
    cluster.kill9(&name);
    let home = cluster.home().join(&name);
    spoil(&home);
    cluster.start_server(&name);
    eventually("it is a voter again", PATIENCE, || {
        match stat(&cluster, &name, "raft_role")?.as_str() {
            "follower" | "leader" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    assert_ne!(stat(&cluster, &name, "raft_id").unwrap(), id, "it has another id");
    assert_eq!(cluster.connect(&name).get("key").unwrap().as_deref(), Some("value"));
    assert!(home.join("damaged-1").is_dir(), "what was left is set aside");
    let log = cluster.server(&name).log_text();
    assert!(log.contains("joins as a new server"), "{log}");
}

#[test]
fn a_server_without_its_log_joins_as_a_new_one() {
    joins_as_a_new_server(|home| std::fs::remove_dir_all(home.join("log-file")).unwrap());
}

#[test]
fn a_server_without_its_identity_joins_as_a_new_one() {
    joins_as_a_new_server(|home| {
        for name in ["identity", "identity.copy"] {
            std::fs::write(home.join(name), b"{}").unwrap();
        }
    });
}

#[test]
fn a_command_that_starts_a_damaged_server_says_what_becomes_of_it() {
    let home = support::background::Background::new();
    let (cport, sport) = (support::ports::free_port(), support::ports::free_port());
    home.store(&format!("up --cport {cport} --sport {sport}")).expect(0);
    home.store("stop srv-2").expect(0);
    std::fs::remove_file(home.home().join("srv-2/keystore-file")).unwrap();
    home.store("addsrv --name srv-2").expect(0).says("repairs its files").says("keystore-file");
}
