//! Bad input gets an answer that says what, where and what to do; never a
//! crash, never memory growth.

mod support;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use support::background::Background;
use support::cluster::{PATIENCE, TestCluster};
use support::eventually;
use support::memcached::Connection;
use support::ports::free_port;
use support::process::{STORE, is_alive, run};

/// A configuration, the pid asked for, and what the error must name.
const CONFIGURATIONS: &[(&str, &str, &[&str])] = &[
    // The seeds' own ports.
    (
        "{\"object\": {\"total\": 1, \"Servers\": [\n  {\"mypid\": 1, \"url\": \"127.0.0.1:100001\"}]}}",
        "1",
        &["config.json:2", "Servers[0].url", "65535"],
    ),
    (
        "{\"object\": {\"total\": 5, \"Servers\": [{\"mypid\": 1, \"url\": \"127.0.0.1:6001\"}]}}",
        "1",
        &["config.json:1", "total", "5"],
    ),
    (
        "{\"object\": {\"total\": 1, \"Servers\": [{\"mypid\": 1, \"url\": \"127.0.0.1:6001\"}]}}",
        "7",
        &["config.json", "no server 7"],
    ),
    (
        "{\"object\": {\"total\": 2, \"Servers\": [{\"mypid\": 1, \"url\": \"127.0.0.1:6001\"},\n\
         {\"mypid\": 1, \"url\": \"127.0.0.1:6002\"}]}}",
        "1",
        &["config.json:2", "mypid", "pid 1"],
    ),
    ("{\"object\": {\n  \"total\": 1,,\n}}", "1", &["config.json:2", "JSON"]),
    ("{\"Ser\": {\"one\": \"127.0.0.1:6001\"}}", "1", &["config.json:1", "one"]),
    ("{}", "1", &["config.json", "shape"]),
];

#[test]
fn a_bad_configuration_is_an_error_with_file_line_and_field() {
    let dir = tempfile::TempDir::new().unwrap();
    for (text, pid, named) in CONFIGURATIONS {
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        let finished = run(STORE, dir.path(), &["run", pid, "config.json", "log", "keys"]);
        let finished =
            named.iter().fold(finished.expect(2), |finished, name| finished.complains(name));
        assert_eq!(finished.out, "", "{finished:#?}");
    }
    run(STORE, dir.path(), &["run", "1", "missing.json", "log", "keys"])
        .expect(2)
        .complains("missing.json");
    run(STORE, dir.path(), &["run", "1", "log", "keys"]).expect(2).complains("configuration");
    run(STORE, dir.path(), &["run", "x", "config.json", "log", "keys"]).expect(2).complains("'x'");
    assert!(!dir.path().join("log").exists(), "nothing was started");
}

#[test]
fn a_bad_command_line_is_an_error() {
    let home = Background::new();
    for (line, named) in [
        ("", "Usage"),
        ("nonsense", "nonsense"),
        ("addsrv --cport 65536", "65536"),
        ("addsrv --cip nowhere", "nowhere"),
        ("addsrv --cip 0.0.0.0", "leads nowhere"),
        ("addsrv --name ../x", "../x"),
        ("addsrv --heartbeat fast", "50ms"),
        ("addsrv --election-timeout 400ms..200ms", "less than"),
        ("addsrv -I 1g", "1g"),
        ("addsrv --lb 127.0.0.1", "127.0.0.1"),
        ("addlb --expect 0", "expect"),
        ("up --servers 0", "servers"),
        ("stop", "NAME"),
        ("stop srv-9", "srv-9"),
    ] {
        home.store(line).expect(2).complains(named);
    }
    assert!(!home.home().exists(), "nothing was made");
}

#[test]
fn closed_outputs_change_no_exit_code() {
    let home = Background::new();
    let closed = |line: &str| {
        let (reader, out) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = std::process::Command::new(STORE);
        command.args(line.split_whitespace()).current_dir(home.cwd());
        command.stdout(out.try_clone().unwrap()).stderr(out);
        command.status().unwrap().code()
    };
    assert_eq!(closed("stop nosuch"), Some(2));
    assert_eq!(closed("nonsense"), Some(2));
    assert_eq!(closed("status"), Some(3));
    assert_eq!(closed("--help"), Some(0));
    // A node whose log goes nowhere.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    assert_eq!(closed(&format!("addlb --foreground --cport {port}")), Some(2));
}

#[test]
fn a_port_that_was_asked_for_and_is_taken_is_named() {
    let home = Background::new();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp = taken.local_addr().unwrap().to_string();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = taken.local_addr().unwrap().to_string();
    let port = |address: &str| address.rsplit(':').next().unwrap().to_owned();
    let (cport, sport) = (port(&tcp), port(&udp));
    home.store(&format!("addlb --cport {cport} --sport {}", free_port()))
        .expect(2)
        .complains(&tcp)
        .complains("--cport");
    home.store(&format!("up --cport {} --sport {sport}", free_port()))
        .expect(2)
        .complains(&udp)
        .complains("--sport");
    home.store(&format!("addlb --cport {} --sport {}", free_port(), free_port())).expect(0);
    home.store(&format!("addsrv --cport {cport}")).expect(2).complains(&tcp);
    home.store(&format!("addsrv --sport {sport}")).expect(2).complains(&udp);
    // Another load balancer on the same port is told who has it.
    let lb = home.store("status --json").expect(0).out;
    let lb: serde_json::Value = serde_json::from_str(&lb).unwrap();
    let address = lb["address"].as_str().unwrap();
    home.store(&format!("addlb --name lb-2 --cport {} --sport {}", port(address), free_port()))
        .expect(2)
        .complains("load balancer lb-1 (pid ");
    home.store("down").expect(0);
}

#[test]
fn a_server_without_a_load_balancer_says_so_within_five_seconds() {
    let home = Background::new();
    let nobody = free_port();
    let finished = home
        .store(&format!("addsrv --lbport {nobody} --cport {} --sport {}", free_port(), free_port()))
        .expect(3)
        .complains(&format!("127.0.0.1:{nobody}"))
        .complains("store addlb");
    assert!(finished.took < Duration::from_secs(5), "{finished:#?}");
    assert!(home.pids().is_empty(), "it is stopped again");
    // Its name is free for the next new server.
    assert!(finished.err.contains("srv-1"), "{finished:#?}");
    home.store(&format!("addsrv --lbport {nobody}")).expect(3).complains("srv-1");
}

#[test]
fn a_wrong_cluster_key_is_refused_and_logged_on_both_sides() {
    let cluster = TestCluster::start(2);
    let stranger = cluster.cwd().join("stranger");
    std::fs::create_dir(&stranger).unwrap();
    std::fs::write(stranger.join("cluster.key"), format!("{}\n", "5a".repeat(32))).unwrap();
    cluster
        .store(&format!(
            "addsrv --dir {} --name intruder --lb {} --cport {} --sport {}",
            stranger.display(),
            cluster.lb_server(),
            free_port(),
            free_port()
        ))
        .expect(3)
        .complains(&cluster.lb_server().to_string())
        .complains("cluster.key");
    let log = std::fs::read_to_string(stranger.join("intruder/server.log")).unwrap();
    assert!(log.contains("key"), "{log}");
    eventually("the load balancer logs the refusal", PATIENCE, || {
        let log = std::fs::read_to_string(cluster.home().join("lb-1/server.log")).unwrap();
        match log.lines().any(|line| line.contains("WARN") && line.contains("key")) {
            true => Ok(()),
            false => Err(log),
        }
    });
    assert_eq!(Connection::open(cluster.lb_client()).unwrap().servers().unwrap().len(), 2);
}

#[test]
fn a_folder_belongs_to_one_process() {
    let mut cluster = TestCluster::start(2);
    let pid = cluster.server("srv-1").pid();
    let dir = cluster.home();
    for line in ["addsrv --name srv-1", "addsrv --name srv-1 --foreground"] {
        cluster
            .store(&format!(
                "{line} --dir {} --cport {} --sport {}",
                dir.display(),
                free_port(),
                free_port()
            ))
            .expect(1)
            .complains("srv-1")
            .complains(&pid.to_string());
    }
    cluster
        .store(&format!(
            "addlb --dir {} --cport {} --sport {}",
            dir.display(),
            free_port(),
            free_port()
        ))
        .expect(1)
        .complains("lb-1");
    assert!(is_alive(pid));
    cluster.wait_for_leader(PATIENCE);
}

/// Lines that are wrong, and memcached's answers.
const WRONG: &[(&str, &str)] = &[
    ("\r\n", "ERROR"),
    ("gut a\r\n", "ERROR"),
    ("set a\r\n", "ERROR"),
    ("set a x 0 1\r\nb\r\n", "CLIENT_ERROR bad command line format"),
    ("set a 0 0 -1\r\n", "CLIENT_ERROR bad command line format"),
    ("set a 0 0 3\r\nabcdef\r\n", "CLIENT_ERROR bad data chunk"),
    ("incr a x\r\n", "CLIENT_ERROR invalid numeric delta argument"),
    ("set a 0 60 1\r\nb\r\n", "SERVER_ERROR"),
];

/// After each wrong line, the connection answers or is closed, and a new one works.
fn assert_serves(cluster: &TestCluster, name: &str, what: &str) {
    let mut connection = cluster.connect(name);
    assert_eq!(connection.set("still", "there").unwrap(), "STORED", "{name} after {what}");
    assert_eq!(connection.get("still").unwrap().as_deref(), Some("there"), "{name} after {what}");
}

#[test]
fn wrong_lines_get_memcacheds_answers_and_never_shift_the_next_command() {
    let cluster = TestCluster::start(2);
    for name in cluster.running() {
        let mut connection = cluster.connect(&name);
        for (request, answer) in WRONG {
            let got = connection.ask(request).unwrap();
            assert!(got.starts_with(answer), "{name}: {request:?} gets {got:?}");
            // What is left of the wrong data block may get answers of its own:
            // they end before the mark's.
            connection.send("get mark\r\n").unwrap();
            eventually("the next command is parsed", PATIENCE, || {
                match connection.line().map_err(|error| error.to_string())?.as_str() {
                    "END" => Ok(()),
                    other => Err(format!("{request:?}: {other}")),
                }
            });
        }
        let key = "k".repeat(251);
        let got = connection.ask(format!("get {key}\r\n")).unwrap();
        assert!(got.starts_with("CLIENT_ERROR"), "{got}");
        // Too large: swallowed, the old value stays.
        assert_eq!(connection.set("big", "old").unwrap(), "STORED");
        let body = "x".repeat(1024 * 1024 + 1);
        let got = connection.set("big", &body).unwrap();
        assert_eq!(got, "SERVER_ERROR object too large for cache", "{name}");
        assert_eq!(connection.get("big").unwrap().as_deref(), Some("old"), "{name}");
        let body = "x".repeat(1024 * 1024);
        assert_eq!(connection.set("big", &body).unwrap(), "STORED", "{name}");
        assert_eq!(connection.get("big").unwrap().map(|value| value.len()), Some(body.len()));
        assert_serves(&cluster, &name, "wrong lines");
    }
}

/// Resident memory of a process, in KiB.
fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn floods_are_cut_off_without_memory() {
    let mut cluster = TestCluster::start(2);
    let pid = cluster.server("srv-1").pid();
    let before = memory_kib(pid);
    let ten_mib = vec![b'x'; 10 * 1024 * 1024];
    for flood in [
        ten_mib.clone(),
        [b"get ".as_slice(), &ten_mib].concat(),
        [b"set a 0 0 4294967295\r\n".as_slice(), &ten_mib].concat(),
        [b"set a 0 0 99999999999999999999\r\n".as_slice(), &ten_mib].concat(),
        vec![0x80; 100_000],
        vec![0; 100_000],
        vec![b'\n'; 100_000],
    ] {
        let mut connection = cluster.connect("srv-1");
        // The server may close while this still sends.
        let _ = connection.send(&flood);
        drop(connection);
        assert_serves(&cluster, "srv-1", &format!("{:?}...", &flood[..20]));
    }
    let grown = memory_kib(pid).saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB more than before");

    // A line that never ends is closed, not collected.
    let mut connection = cluster.connect("srv-1");
    let asked = Instant::now();
    let _ = connection.send(vec![b'x'; 100_000]);
    assert!(connection.is_closed(), "closed after {:?}", asked.elapsed());
}
