//! What the commands tell when something is wrong: a start that is refused, a
//! load balancer that is away or hangs, a folder that is damaged.

mod support;

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::background::Background;
use support::cluster::PATIENCE;
use support::eventually;
use support::ports::free_port;
use support::process::signal;

fn settings(home: &Background, name: &str) -> PathBuf {
    home.home().join(name).join("settings.json")
}

fn pid(home: &Background, name: &str) -> u32 {
    common::folder::holder(&home.home().join(name)).expect("it runs")
}

/// Gives the folder another cluster key; the one it had.
fn change_key(home: &Background, key: &str) -> String {
    let path = home.home().join("cluster.key");
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, key).unwrap();
    before
}

#[test]
fn a_wrong_key_is_told_at_once_and_changes_nothing() {
    let home = Background::new();
    home.up(2);
    home.store("stop srv-2").expect(0);
    let before = std::fs::read(settings(&home, "srv-2")).unwrap();
    let key = change_key(&home, &format!("{}\n", "5a".repeat(32)));
    // A new one is stopped again.
    let ports = format!("--cport {} --sport {}", free_port(), free_port());
    let new = home.store(&format!("addsrv {ports}")).expect(3);
    assert!(new.took < Duration::from_secs(3), "{new:?}");
    let new = new.complains("has another cluster key than").complains("store-data/cluster.key");
    new.complains("load balancer 127.0.0.1:").complains("stopped again");
    // So is a member, as its peers do not want it either.
    let member = home.store(&format!("addsrv --name srv-2 --cport {}", free_port())).expect(3);
    assert!(member.took < Duration::from_millis(3500), "{member:?}");
    member.complains("has another cluster key than");
    assert_eq!(std::fs::read(settings(&home, "srv-2")).unwrap(), before);

    let up = home.store("up").expect(3).says("is not taken in");
    assert!(!up.out.contains("restarted"), "{up:?}");
    up.complains("srv-2 is not registered").complains("has another cluster key than");
    assert_eq!(std::fs::read(settings(&home, "srv-2")).unwrap(), before);
    change_key(&home, "no key\n");
    home.store("addsrv --name srv-2").expect(2).complains("cluster.key is not a cluster key");
    change_key(&home, &key);
    home.store("up").expect(0).says("restarted");
    home.store("down").expect(0);
}

#[test]
fn a_copied_folder_keeps_its_settings_when_it_is_refused() {
    let home = Background::new();
    home.up(2);
    let copy = home.home().join("srv-9");
    let from = home.home().join("srv-1");
    let copied = std::process::Command::new("cp").arg("-r").args([&from, &copy]).status().unwrap();
    assert!(copied.success());
    let before = std::fs::read(settings(&home, "srv-9")).unwrap();
    let ports = format!("--cport {} --sport {}", free_port(), free_port());
    home.store(&format!("addsrv --name srv-9 {ports}")).expect(1).complains("a copy of it");
    assert_eq!(std::fs::read(settings(&home, "srv-9")).unwrap(), before);
    // As they were copied, its addresses are in use.
    let up = home.store("up").expect(2).complains("srv-9 did not start").complains("is taken by");
    up.says("runs already").says("is not taken in");
    assert_eq!(std::fs::read(settings(&home, "srv-9")).unwrap(), before);
    home.store("down").expect(0);
}

#[test]
fn a_member_serves_without_its_load_balancers() {
    let home = Background::new();
    home.up(3);
    let restart = |texts: &[&str]| {
        home.store("stop srv-3").expect(0);
        let mut started = home.store("addsrv --name srv-3").expect(0).says("srv-3 serves (pid ");
        for text in texts {
            started = started.says(text);
        }
        assert!(started.took < Duration::from_secs(4), "{started:?}");
    };
    let lb = pid(&home, "lb-1");
    signal(lb, Signal::SIGSTOP);
    restart(&["its peers know it", &format!("is suspended (pid {lb})")]);
    for line in ["up", "status"] {
        home.store(line).expect(3).complains(&format!("is suspended (pid {lb})"));
    }
    let ports = format!("--cport {} --sport {}", free_port(), free_port());
    let new = home.store(&format!("addsrv {ports}")).expect(3);
    new.complains("is suspended").complains("stopped again");
    signal(lb, Signal::SIGKILL);
    restart(&["lb-1", "does not run", "`store addlb --name lb-1`"]);
    home.store("down").expect(0);
}

#[test]
fn damaged_settings_of_one_node_stop_no_command() {
    let home = Background::new();
    home.up(3);
    std::fs::write(settings(&home, "srv-2"), "{").unwrap();
    let warned = |line: &str| {
        let way_out = "srv-2/settings.json is damaged";
        home.store(line).expect(0).complains(way_out).complains("remove it")
    };
    warned("status").says("srv-2");
    let up = warned("up").says("runs already").says("leads");
    assert!(!up.out.contains("srv-4"), "{up:?}");
    warned("down").says("srv-2 (pid ").says("Everything is stopped");
    assert!(home.pids().is_empty());
    home.store("status").expect(3).complains("srv-2/settings.json is damaged").says("srv-3");
    warned("up").says("srv-3").says("restarted");
    // The way out.
    std::fs::remove_file(settings(&home, "srv-2")).unwrap();
    home.store("addsrv --name srv-2").expect(0).says("srv-2 is a voter");
    home.store("down").expect(0);
}

#[test]
fn what_does_not_end_is_named_and_keeps_nothing_else_from_ending() {
    let home = Background::new();
    home.store("down").expect(2).complains("there is no folder").complains("--dir");
    home.up(2);
    home.store("stop srv-9").expect(2).complains("it holds lb-1, srv-1, srv-2");
    std::fs::create_dir(home.home().join("mine")).unwrap();
    home.store("stop mine").expect(2).complains("there is no node mine");
    home.store("stop srv-2").expect(0).says("stopped");
    home.store("stop srv-2").expect(0).says("srv-2 does not run");
    let server = pid(&home, "srv-1");
    signal(server, Signal::SIGSTOP);
    for line in ["stop srv-1", "down"] {
        let finished = home.store(line).expect(3).complains(&format!("suspended (pid {server})"));
        assert!(finished.took < Duration::from_secs(6), "{finished:?}");
    }
    assert_eq!(home.pids(), [server], "the load balancer has ended");
    signal(server, Signal::SIGCONT);
    home.store("down").expect(0);
    home.store("down").expect(0).says("Nothing runs");
}

#[test]
fn without_a_leader_commands_say_what_they_wait_for() {
    let home = Background::new();
    home.up(3);
    home.store("stop srv-3").expect(0);
    for name in ["srv-1", "srv-2"] {
        signal(pid(&home, name), Signal::SIGKILL);
    }
    eventually("nobody leads", PATIENCE, || {
        let status = home.store("status --json").expect(0).out;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["lb"]["leader"].is_null().then_some(()).ok_or_else(|| status.to_string())
    });
    for line in ["removesrv srv-2", "transfer"] {
        let finished = home.store(line).expect(3);
        finished
            .complains("store: no server leads; waiting up to 5 s")
            .complains("not done within 5 s");
    }
    let server = home.store("addsrv --name srv-3").expect(0);
    let server = server.says("No server leads: srv-3 waits up to 5 s for a leader.");
    server.says("goes on in the background").says("it hears no leader");
    home.store("down").expect(0);
}

#[test]
fn a_load_balancer_that_is_added_later_is_learned_at_the_next_start() {
    let home = Background::new();
    home.up(2);
    let (cport, sport) = (free_port(), free_port());
    let line = format!("addlb --name lb-2 --cport {cport} --sport {sport}");
    let added = home.store(&line).expect(0).says("not known yet to srv-1, srv-2");
    added.says("store stop NAME").says("store addsrv --name NAME");
    let second = format!("--lbport {cport}");
    home.store(&format!("status {second}")).expect(0).says("No server is registered");
    for name in ["srv-1", "srv-2"] {
        home.store(&format!("stop {name}")).expect(0);
        home.store(&format!("addsrv --name {name}")).expect(0).says("is a voter");
    }
    // A new one registers with both.
    let ports = format!("--cport {} --sport {}", free_port(), free_port());
    home.store(&format!("addsrv {ports}")).expect(0).says("srv-3 is a voter");
    eventually("all are known to the second one", PATIENCE, || {
        let status = home.store(&format!("status --json {second}")).expect(0).out;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let votes = |name: &&str| status["servers"][name]["vote"] == "voter";
        let all = ["srv-1", "srv-2", "srv-3"].iter().all(votes);
        all.then_some(()).ok_or_else(|| status.to_string())
    });
    home.store("stop lb-2").expect(0);
    home.store(&line).expect(0).says("Add a server with");
    home.store("down").expect(0);
}

/// Wrong words are told as such, and cost nothing.
#[test]
fn wrong_words_end_with_2_and_say_what_is_right() {
    let home = Background::new();
    for (line, text) in [
        ("addsrv --lb 127.0.0.1", "has no port: write it like"),
        ("addsrv --heartbeat 0", "more than 0"),
        ("addsrv --heartbeat 300ms", "shorter --heartbeat"),
        ("addsrv --election-timeout 5", "write it like 200ms..400ms"),
        ("addsrv --cip here", "no IP address"),
        ("addsrv --name a/b", "no node name"),
        ("addlb --policy any", "leader, round-robin and least-loaded"),
        ("up --servers 0", "1..=64"),
        ("stop srv-1", "there is no node srv-1"),
        ("log srv-1", "is no folder"),
        ("removesrv srv-1", "no cluster key"),
    ] {
        home.store(line).expect(2).complains(text);
    }
    assert!(home.pids().is_empty());
    let commands = "up addlb addsrv run status stop down removesrv transfer log keystore verify \
                    backup restore recover";
    for command in commands.split_whitespace() {
        let help = home.store(&format!("{command} --help")).expect(0).says("Usage: store");
        assert!(!help.out.contains("possible values"), "{help:?}");
    }
}
