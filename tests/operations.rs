//! Looking at files and bringing data to safety, on real processes: `verify`,
//! `log` and `keystore` with their options, `backup`, `restore`, `recover`.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::background::Background;
use support::cluster::{PATIENCE, TestCluster};
use support::eventually;
use support::load::Load;
use support::memcached::Connection;
use support::ports::free_port;
use support::process::STORE;

/// Where servers find the load balancer.
fn lb_port(home: &Background) -> u64 {
    let settings = fs::read_to_string(home.home().join("lb-1/settings.json")).unwrap();
    let settings: Value = serde_json::from_str(&settings).unwrap();
    settings["server"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

fn cluster_id(home: &Background) -> String {
    let status: Value = serde_json::from_str(&home.store("status --json").expect(0).out).unwrap();
    status["lb"]["cluster"].as_str().unwrap().to_owned()
}

fn flip(path: &Path, offset: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset as usize] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn log_and_keystore_have_ranges_json_and_follow() {
    let mut cluster = TestCluster::start(1);
    let mut server = cluster.connect("srv-1");
    for number in 1..=5 {
        assert_eq!(
            server.set(&format!("key-{number}"), &format!("value {number}")).unwrap(),
            "STORED"
        );
    }
    assert_eq!(server.ask("set raw 7 0 2\r\n\0\u{7f}\r\n").unwrap(), "STORED");
    cluster.wait_until_level();
    let dir = cluster.home().join("srv-1").display().to_string();
    let dir = dir.as_str();

    let json = cluster.store(&format!("log {dir} --json")).expect(0).out;
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let entry = lines.iter().find(|entry| entry["key"] == "key-3").unwrap();
    assert_eq!((&entry["op"], &entry["value"]), (&"set".into(), &"value 3".into()));
    assert!(entry["clock_ms"].as_u64() > Some(1_600_000_000_000), "{entry}");
    let index = entry["index"].as_u64().unwrap();
    let one = cluster.store(&format!("log {dir} --from {index} --to {index}")).expect(0);
    assert_eq!(one.out, format!("{index} key-3 value 3\n"));
    cluster.store(&format!("log {dir} --from 9 --to 8")).expect(2).complains("after");

    let items = cluster.store(&format!("keystore {dir} --from key-2 --to key-3")).expect(0);
    assert_eq!(items.out, "key-2 value 2\nkey-3 value 3\n");
    let item = cluster.store(&format!("keystore {dir} --from raw --to raw --json")).expect(0);
    let item: Value = serde_json::from_str(&item.out).unwrap();
    assert_eq!((&item["value"], &item["flags"]), (&"\0\u{7f}".into(), &7.into()));

    // Follows while the server runs, and ends with it.
    let mut follow = Command::new(STORE)
        .args(["log", dir, "--follow", "--from", &(index + 1).to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), format!("{} key-4 value 4", index + 1));
    assert_eq!(next(), format!("{} key-5 value 5", index + 2));
    assert!(next().ends_with("\\x7f\""), "raw");
    for number in 0..3 {
        server.set("later", &number.to_string()).unwrap();
        assert!(next().ends_with(&format!(" later {number}")));
    }
    cluster.stop("srv-1");
    assert!(follow.wait().unwrap().success());
    assert!(lines.next().is_none());
    // Of a server that does not run, there is nothing to wait for.
    cluster.store(&format!("log {dir} --follow --json")).expect(0).says("later");
}

#[test]
fn verify_says_what_is_well_and_what_is_not() {
    let mut cluster = TestCluster::start(1);
    let mut server = cluster.connect("srv-1");
    for number in 0..100 {
        server.set(&format!("key-{number}"), &"x".repeat(100)).unwrap();
    }
    let home = cluster.home();
    let dir = home.join("srv-1");
    let name = dir.display().to_string();
    let running = cluster.store(&format!("verify {}", home.display())).expect(0);
    running.says("in use by process").says("Everything is well");
    cluster.stop("srv-1");

    let well = cluster.store(&format!("verify {name}")).expect(0);
    for part in ["identity", "identity.copy", "log-file", "keystore-file", "settings.json"] {
        assert!(well.out.contains(part), "{part}: {}", well.out);
    }
    let json = cluster.store(&format!("verify {name} --json")).expect(0);
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["well"], true);

    // One file at a time.
    let segment = dir.join("log-file/0000000001.segment");
    let keystore = dir.join("keystore-file");
    let end = fs::metadata(&keystore).unwrap().len();
    for (file, offset) in
        [(&dir.join("identity"), 30), (&keystore, 20), (&keystore, end / 2), (&keystore, end - 1)]
    {
        flip(file, offset);
        let bad = cluster.store(&format!("verify {name} --json")).expect(1);
        bad.says("\"damaged\"").says(&file.display().to_string()).complains("1 file is not well");
        flip(file, offset);
    }
    fs::write(dir.join("log-file/notes.txt"), "mine").unwrap();
    cluster.store(&format!("verify {name}")).expect(1).says("FOREIGN").says("notes.txt");
    fs::remove_file(dir.join("log-file/notes.txt")).unwrap();
    // Behind the header and the first record, in front of many others.
    flip(&segment, 300);
    let bad = cluster.store(&format!("verify {name} --json")).expect(1);
    let bad: Value = serde_json::from_str(&bad.out).unwrap();
    let files = bad["reports"][0]["files"].as_array().unwrap();
    let damaged = files.iter().find(|file| file["health"] == "damaged").unwrap();
    assert_eq!(damaged["file"].as_str().unwrap(), segment.display().to_string());
    let offset = damaged["offset"].as_u64().unwrap();
    assert!((64..=300).contains(&offset), "{damaged}");
    flip(&segment, 300);
    fs::rename(&keystore, dir.join("aside")).unwrap();
    cluster.store(&format!("verify {name}")).expect(1).says("MISSING");
    fs::rename(dir.join("aside"), &keystore).unwrap();
    cluster.store(&format!("verify {name}")).expect(0);

    // What is no server's.
    cluster.store("verify nowhere").expect(2).complains("nowhere is not there");
    cluster.store("verify .").expect(2).complains("holds no server");
    fs::write(cluster.cwd().join("foreign"), "not a backup").unwrap();
    cluster.store("verify foreign").expect(1).says("FOREIGN").says("is no backup");
}

#[test]
fn a_backup_becomes_a_new_cluster() {
    let home = Background::new();
    let port = home.up(1);
    home.client(port, "set hello world").expect(0);
    home.store("backup one.backup").expect(0).complains("srv-1");
    let one = home.cwd().join("one.backup");
    home.store("verify one.backup").expect(0).says("1 items").says("Everything is well");
    home.client(port, "set hello later").expect(0);
    home.store("backup one.backup").expect(1).complains("--force");
    home.store("backup --name srv-9 two.backup").expect(1).complains("no server srv-9");
    let lbport = format!("backup two.backup --lbport {port} --name srv-1 --force");
    home.store(&lbport).expect(0);
    let piped = Command::new(STORE).args(["backup", "-"]).current_dir(home.cwd()).output().unwrap();
    assert!(piped.status.success());
    fs::write(home.cwd().join("piped.backup"), &piped.stdout).unwrap();
    home.store("verify piped.backup two.backup").expect(0);
    // Straight from a server, and with a key that is not its own.
    home.store("backup three.backup --dir store-data/srv-1").expect(0);
    fs::write(home.cwd().join("other.key"), format!("{}\n", "ab".repeat(32))).unwrap();
    home.store("backup four.backup --key other.key").expect(3).complains("cluster.key");
    assert!(!home.cwd().join("four.backup").exists());

    // A new cluster never touches what is there.
    home.store("restore one.backup").expect(1).complains("not empty").complains("lb-1");
    let old = cluster_id(&home);
    home.store("down").expect(0);
    home.store("backup stopped.backup --dir store-data/srv-1").expect(0).complains("does not run");
    home.store("backup five.backup").expect(3).complains("no load balancer answers");
    fs::rename(home.home(), home.cwd().join("old")).unwrap();

    bad_backups(&home, &one);
    home.store(&format!("restore one.backup --cport {} --sport {}", free_port(), free_port()))
        .expect(0)
        .says("1 items")
        .says("store up");
    let port = home.up(1);
    home.client(port, "get hello").expect(0).says("world");
    home.client(port, "set hello again").expect(0);
    assert_ne!(cluster_id(&home), old);
    joins(&home, "srv-2", "srv-1");
    // A server of the old cluster is refused by the new one.
    fs::rename(home.cwd().join("old/srv-1"), home.home().join("srv-7")).unwrap();
    let port = lb_port(&home);
    home.store(&format!("addsrv --name srv-7 --lbport {port}"))
        .expect(1)
        .complains("belongs to cluster");
    home.store("down").expect(0);
}

/// Adds a server, which fetches everything that `from` holds.
fn joins(home: &Background, name: &str, from: &str) {
    let ports = format!("--cport {} --sport {}", free_port(), free_port());
    home.store(&format!("addsrv --name {name} {ports}")).expect(0).says("is registered");
    eventually("it votes and holds everything", PATIENCE, || {
        let status = home.store("status --json").out;
        let status: Value = serde_json::from_str(&status).map_err(|error| error.to_string())?;
        let items = |name: &str| home.store(&format!("keystore store-data/{name}")).out;
        let voter = status["servers"][name]["voter"] == 1;
        match voter && items(name) == items(from) {
            true => Ok(()),
            false => Err(status.to_string()),
        }
    });
}

/// Whatever is wrong with a backup, nothing is made of it.
fn bad_backups(home: &Background, good: &Path) {
    let bad = home.cwd().join("bad.backup");
    let size = fs::metadata(good).unwrap().len();
    // The head, its text, its checksum, and each block of the keystore-file.
    for offset in (8..size).step_by(37).chain([size - 1]) {
        fs::copy(good, &bad).unwrap();
        flip(&bad, offset);
        let restored = home.store("restore bad.backup").expect(1);
        assert!(restored.err.contains("bad.backup"), "{offset}: {restored:#?}");
    }
    for length in [0, 10, size / 2, size - 1] {
        fs::write(&bad, &fs::read(good).unwrap()[..length as usize]).unwrap();
        home.store("restore bad.backup").expect(1).complains("bad.backup");
    }
    home.store("restore missing.backup").expect(1).complains("missing.backup");
    home.store("restore").expect(2);
    home.store("restore one.backup --until noon").expect(2).complains("noon");
    assert!(!home.home().exists(), "nothing was made");
}

#[test]
fn a_backup_holds_what_was_acknowledged_whoever_leads() {
    let mut cluster = TestCluster::start(3);
    let load = Load::start(cluster.lb_client(), 2);
    let ports = format!("--lbport {}", cluster.lb_client().port());
    for round in 0..3 {
        let key = format!("before-{round}");
        eventually("a set is acknowledged", PATIENCE, || {
            let leader = cluster.leader()?;
            let mut server = Connection::open(cluster.client_address(&leader)).unwrap();
            match server.set(&key, "there").map_err(|error| error.to_string())?.as_str() {
                "STORED" => Ok(()),
                other => Err(other.to_owned()),
            }
        });
        let backup = Command::new(STORE)
            .args(format!("backup {round}.backup {ports}").split_whitespace())
            .args(["--dir", &cluster.home().display().to_string()])
            .current_dir(cluster.cwd())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The leader goes while the backup is asked for or under way.
        let leader = cluster.wait_for_leader(PATIENCE);
        cluster.kill9(&leader);
        let mut backup = backup;
        let mut said = String::new();
        backup.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let done = backup.wait().unwrap().success();
        cluster.start_server(&leader);
        let file = cluster.cwd().join(format!("{round}.backup"));
        if !done {
            // It was taken from the one that died: nothing is left of it.
            assert!(said.contains("start it again") || said.contains("no backup"), "{said}");
            assert!(!file.exists());
            cluster
                .store(&format!("backup {round}.backup {ports} --dir {}", cluster.home().display()))
                .expect(0);
        }
        let backup = server::backup::read(&file).unwrap();
        assert!(backup.keystore.get(key.as_bytes()).is_some(), "{key}");
    }
    load.finish();
}

#[test]
fn a_survivor_goes_on_alone() {
    let home = Background::new();
    let port = home.up(3);
    home.client(port, "set hello world").expect(0);
    let old = cluster_id(&home);
    home.store("recover store-data/srv-2").expect(1).complains("store down");
    home.store("down").expect(0);
    home.store("recover store-data").expect(2).complains("choose a server");
    home.store("recover nowhere").expect(2).complains("nowhere");
    let asked = home.store("recover store-data/srv-2").expect(2);
    asked.says("last entry").says("srv-1").complains("nothing was changed");
    home.store("recover store-data/srv-2 --i-understand-data-may-be-lost")
        .expect(0)
        .says("only voter")
        .says("Never start");
    for name in ["srv-1", "srv-3"] {
        fs::rename(home.home().join(name), home.cwd().join(name)).unwrap();
    }
    home.store("addlb").expect(0);
    home.store("addsrv --name srv-2").expect(0).says("leader");
    home.client(port, "get hello").expect(0).says("world");
    home.client(port, "set hello again").expect(0);
    assert_ne!(cluster_id(&home), old);
    joins(&home, "srv-4", "srv-2");
    // By mistake.
    fs::rename(home.cwd().join("srv-1"), home.home().join("srv-1")).unwrap();
    home.store("addsrv --name srv-1").expect(1).complains("belongs to cluster");
    home.store("down").expect(0);
}

#[test]
fn what_is_left_of_a_damaged_survivor_goes_on() {
    let home = Background::new();
    let port = home.up(1);
    for number in 1..=20 {
        home.client(port, &format!("set key-{number} x")).expect(0);
    }
    home.store("down").expect(0);
    // Without its checkpoint, and with a hole in its log.
    fs::remove_file(home.home().join("srv-1/keystore-file")).unwrap();
    let index = home.store("log store-data/srv-1").expect(0).out;
    let line = index.lines().find(|line| line.ends_with(" key-11 x")).unwrap();
    let index: u64 = line.split(' ').next().unwrap().parse().unwrap();
    let segment = home.home().join("srv-1/log-file/0000000001.segment");
    let bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(6).position(|bytes| bytes == b"key-11").unwrap();
    flip(&segment, at as u64);
    let verify = home.store("verify store-data/srv-1 --json").expect(1);
    let report: Value = serde_json::from_str(&verify.out).unwrap();
    let files = report["reports"][0]["files"].as_array().unwrap();
    let damaged = files.iter().find(|file| file["offset"].is_u64()).unwrap();
    assert_eq!(damaged["entries"], serde_json::json!([index, index]), "{report}");
    home.store("recover store-data/srv-1 --i-understand-data-may-be-lost")
        .expect(0)
        .says(&format!("{} of term", index - 1))
        .says("lost");
    home.store("up --servers 1").expect(0);
    home.client(port, "get key-10").expect(0).says("x");
    home.client(port, "get key-11").expect(1);
    home.client(port, "set key-11 y").expect(0);
    home.store("down").expect(0);
    home.store("verify store-data/srv-1").expect(0);
}

#[test]
fn a_server_of_a_fixed_cluster_is_backed_up_too() {
    let home = Background::new();
    let port = free_port();
    let config = format!("{{\"Ser\": {{\"1\": \"127.0.0.1:{port}\"}}}}");
    fs::write(home.cwd().join("config.json"), config).unwrap();
    let mut server = Command::new(STORE)
        .args(["run", "1", "config.json", "log-1", "keystore-1"])
        .current_dir(home.cwd())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = ([127, 0, 0, 1], port + 1000).into();
    eventually("it serves", Duration::from_secs(10), || {
        let mut server = Connection::open(address).map_err(|error| error.to_string())?;
        match server.set("hello", "world").map_err(|error| error.to_string())?.as_str() {
            "STORED" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    let line = format!("backup a.backup --server 127.0.0.1:{port} --key cluster.key");
    let finished = home.store(&line);
    home.store("backup b.backup --dir log-1.server --key cluster.key").expect(0);
    home.store("recover log-1.server").expect(1).complains("fixed cluster");
    server.kill().unwrap();
    server.wait().unwrap();
    finished.expect(0);
    home.store("backup c.backup --dir log-1.server").expect(0);
    home.store("verify a.backup b.backup c.backup log-1.server").expect(0);
}
