//! Folders that were copied, or put back to an earlier state: whoever has run last
//! under an id is the one that counts, all others are turned away, and nothing that
//! was acknowledged is lost.

mod support;

use std::fs;
use std::path::Path;

use support::cluster::{PATIENCE, TestCluster};
use support::memcached::Connection;
use support::ports::free_port;
use support::process::{STORE, run};
use support::trio::Trio;
use support::{copy_folder, eventually};

const NAMES: [&str; 3] = ["srv-1", "srv-2", "srv-3"];

/// Puts the folder `from` in the place of `at`, which goes to `aside`.
fn swap(at: &Path, aside: &Path, from: &Path) {
    fs::rename(at, aside).unwrap();
    fs::rename(from, at).unwrap();
}

/// Nobody is removed for being away.
fn start(cluster: &mut TestCluster, name: &str) {
    let ports = format!("--cport {} --sport {}", free_port(), free_port());
    cluster.start_server_with(name, &format!("{ports} --dead-after 0"));
}

/// Three servers: who leads, and the two others.
fn three() -> (TestCluster, String, [&'static str; 2]) {
    let mut cluster = TestCluster::empty(3);
    cluster.start_lb();
    NAMES.into_iter().for_each(|name| start(&mut cluster, name));
    let leader = cluster.wait_for_servers(3);
    let mut others = NAMES.into_iter().filter(|name| *name != leader);
    let others = [others.next().unwrap(), others.next().unwrap()];
    (cluster, leader, others)
}

fn log_of(cluster: &TestCluster, name: &str) -> String {
    fs::read_to_string(cluster.home().join(name).join("server.log")).unwrap()
}

#[test]
fn the_original_is_turned_away_once_its_copy_has_run() {
    let (mut cluster, leader, [copied, other]) = three();

    cluster.stop(copied);
    let (folder, kept) = (cluster.home().join(copied), cluster.cwd().join("kept"));
    copy_folder(&folder, &kept);
    // Which of the two goes on is nothing that anybody could see.
    cluster.start_server(copied);
    cluster.wait_for_servers(3);
    // What is acknowledged now rests on the leader and the copy.
    cluster.kill9(other);
    eventually("a write is acknowledged", PATIENCE, || {
        let set = cluster.connect(&leader).set("acknowledged", "yes");
        match set.map_err(|error| error.to_string())?.as_str() {
            "STORED" => Ok(()),
            why => Err(why.to_owned()),
        }
    });
    cluster.kill9(copied);
    let copy = cluster.cwd().join("copy");
    swap(&folder, &copy, &kept);
    cluster.start_server(copied);
    let status = cluster.server(copied).wait_end(PATIENCE);
    assert!(!status.success(), "it ends with {status}");
    cluster.forget(copied);
    let told = |log: &str| log.contains("a copy of the folder") && log.contains(copied);
    assert!(told(&log_of(&cluster, copied)), "{}", log_of(&cluster, copied));
    let by = ["lb-1", leader.as_str()].map(|name| log_of(&cluster, name));
    assert!(by.iter().any(|log| told(log)), "{by:?}");

    // The cluster serves on, with all that it has acknowledged, and the copy too.
    cluster.start_server(other);
    let leader = cluster.wait_for_leader(PATIENCE);
    let get = |name: &str| cluster.connect(name).get("acknowledged").unwrap();
    assert_eq!(get(&leader).as_deref(), Some("yes"));
    swap(&folder, &kept, &copy);
    cluster.start_server(copied);
    cluster.wait_for_servers(3);
    cluster.wait_for_voters(&NAMES);
}

/// In a cluster without load balancers the others say so.
#[test]
fn a_folder_that_was_put_back_is_turned_away_by_the_other_servers() {
    let mut trio = Trio::start();
    let (folder, kept) = (trio.folder(2), trio.folder(2).with_file_name("kept"));
    trio.kill9(&[2]);
    copy_folder(&folder, &kept);
    for round in 0..2 {
        trio.start_server(2);
        trio.wait_for_service();
        let mut connection = Connection::open(trio.addresses()[2]).unwrap();
        assert_eq!(connection.set("k", &round.to_string()).unwrap(), "STORED");
        trio.wait_until_level();
        trio.kill9(&[2]);
    }
    let newer = folder.with_file_name("newer");
    swap(&folder, &newer, &kept);
    trio.start_server(2);
    let log = trio.wait_end(2);
    assert!(log.contains("turned this server away"), "{log}");
    assert!(log.contains("an older state of the folder"), "{log}");
    let mut connection = Connection::open(trio.addresses()[0]).unwrap();
    assert_eq!(connection.get("k").unwrap().as_deref(), Some("1"));
    assert_eq!(connection.set("k", "2").unwrap(), "STORED");
    fs::remove_dir_all(&folder).unwrap();
    fs::rename(&newer, &folder).unwrap();
    trio.start_server(2);
    trio.wait_for_service();
}

/// The state that is put back was taken while the newest run went on: its runs are
/// those of the original. The leader knows what that has acknowledged.
#[test]
fn a_disk_that_was_put_back_to_a_moment_of_its_newest_run_is_turned_away() {
    let (mut cluster, leader, [put_back, other]) = three();
    let folder = cluster.home().join(put_back);
    let [kept, newer] = ["kept", "newer"].map(|name| cluster.cwd().join(name));
    eventually("its run is noted and confirmed", PATIENCE, || {
        let identity = fs::read_to_string(folder.join("identity")).map_err(|e| e.to_string())?;
        let identity: serde_json::Value =
            serde_json::from_str(&identity).map_err(|e| e.to_string())?;
        let runs = &identity["identity"]["runs"];
        let confirmed = runs["confirmed"].as_array().is_some_and(|runs| !runs.is_empty());
        confirmed.then_some(()).ok_or_else(|| runs.to_string())
    });
    copy_folder(&folder, &kept);

    cluster.kill9(other);
    eventually("a write is acknowledged", PATIENCE, || {
        let set = cluster.connect(&leader).set("acknowledged", "yes");
        match set.map_err(|error| error.to_string())?.as_str() {
            "STORED" => Ok(()),
            why => Err(why.to_owned()),
        }
    });
    cluster.kill9(put_back);
    swap(&folder, &newer, &kept);
    cluster.start_server(put_back);
    let status = cluster.server(put_back).wait_end(PATIENCE);
    assert!(!status.success(), "it ends with {status}");
    cluster.forget(put_back);
    let log = log_of(&cluster, put_back);
    assert!(log.contains("an older state of the folder"), "{log}");

    // The disk as it was is taken.
    swap(&folder, &kept, &newer);
    cluster.start_server(put_back);
    cluster.start_server(other);
    cluster.wait_for_servers(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    assert_eq!(cluster.connect(&leader).get("acknowledged").unwrap().as_deref(), Some("yes"));
}

/// Nobody can take its place in a cluster without load balancers: what they say
/// leads on.
#[test]
fn a_wiped_server_of_a_fixed_cluster_is_turned_away_and_a_backup_leads_on() {
    let mut trio = Trio::start();
    let mut connection = Connection::open(trio.addresses()[0]).unwrap();
    assert_eq!(connection.set("k", "v").unwrap(), "STORED");
    trio.wait_until_level();
    // Its run is noted by now, or soon.
    trio.kill9(&[2]);
    trio.start_server(2);
    trio.wait_for_service();
    trio.kill9(&[2]);
    fs::remove_dir_all(trio.folder(2)).unwrap();
    trio.start_server(2);
    let log = trio.wait_end(2);
    assert!(log.contains("turned this server away") && log.contains("`store backup`"), "{log}");
    assert_eq!(connection.set("k", "still").unwrap(), "STORED");

    let (well, dir) = (trio.folder(0), trio.folder(0).with_file_name("new"));
    let backup = dir.with_file_name("k.backup");
    let [well, dir, backup] = [well, dir, backup].map(|path| path.display().to_string());
    let store = |args: &[&str]| run(STORE, Path::new("/"), args).expect(0);
    store(&["backup", &backup, "--dir", &well]);
    store(&["restore", &backup, "--dir", &dir]);
    let items = store(&["keystore", &format!("{dir}/srv-1")]);
    assert_eq!(items.out.lines().find(|item| item.starts_with("k ")), Some("k still"));
}
