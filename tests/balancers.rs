//! Several load balancers side by side: they come and go, lose their memory,
//! and the cluster stays one.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use support::cluster::{PATIENCE, TestCluster};
use support::memcached::Connection;
use support::ports::free_port;
use support::process::{CLIENT, Process, run, signal};
use support::{bound, eventually};

/// A cluster whose servers know two load balancers.
struct Two {
    cluster: TestCluster,
    second_client: SocketAddr,
    second_server: SocketAddr,
    second: Process,
}

impl Two {
    fn start(servers: usize) -> Two {
        let mut cluster = TestCluster::empty(servers);
        cluster.start_lb();
        let (second_client, second_server, second) = cluster.another_lb("lb-2");
        let mut two = Two { cluster, second_client, second_server, second };
        for number in 1..=servers {
            two.add(&format!("srv-{number}"));
        }
        two.cluster.wait_for_servers(servers);
        two
    }

    fn lbs(&self) -> [SocketAddr; 2] {
        [self.cluster.lb_server(), self.second_server]
    }

    fn add(&mut self, name: &str) {
        let [first, second] = self.lbs();
        let (cport, sport) = (free_port(), free_port());
        let line = format!("--lb {first},{second} --cport {cport} --sport {sport}");
        self.cluster.start_server_with(name, &line);
    }

    /// Waits until the load balancer at `lb` names so many servers.
    fn wait_for_rotation(lb: SocketAddr, count: usize) {
        eventually("a rotation", PATIENCE, || {
            let mut lb = Connection::open(lb).map_err(|error| error.to_string())?;
            let servers = lb.servers().map_err(|error| error.to_string())?;
            (servers.len() == count).then_some(()).ok_or_else(|| format!("{servers:?}"))
        });
    }
}

fn set(lb: SocketAddr, key: &str) {
    let mut connection = Connection::open(lb).unwrap();
    assert_eq!(connection.set(key, key).unwrap(), "STORED", "through {lb}");
}

#[test]
fn either_of_two_load_balancers_will_do() {
    let mut two = Two::start(3);
    let first = two.cluster.lb_client();
    Two::wait_for_rotation(two.second_client, 3);
    set(first, "by-the-first");
    set(two.second_client, "by-the-second");

    // Without the first, nobody who has a leader stops.
    two.cluster.kill_lb();
    set(two.second_client, "without-the-first");
    let lbs = format!("{first},{}", two.second_client);
    let client = |words: &[&str]| {
        run(CLIENT, two.cluster.cwd(), &[&["--lb", &lbs], words].concat()).expect(0).out
    };
    assert_eq!(client(&["get", "by-the-first"]).trim(), "by-the-first by-the-first");

    // A leader changes, a server joins: all with the second one alone.
    let mut connection = Connection::open(two.second_client).unwrap();
    let leader = connection.servers().unwrap()[0];
    let name = two.cluster.running().into_iter().find(|n| two.cluster.client_address(n) == leader);
    two.cluster.kill9(&name.unwrap());
    eventually("another leader", PATIENCE, || match connection.set("k", "v") {
        Ok(answer) if answer == "STORED" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    two.add("srv-4");

    // The first comes back and sees what the second one sees.
    two.cluster.start_lb();
    let named = |lb| Connection::open(lb).unwrap().servers().unwrap();
    eventually("the same rotation", PATIENCE, || {
        let (first, second) = (named(first), named(two.second_client));
        match first.len() == 3 && first == second {
            true => Ok(()),
            false => Err(format!("{first:?}, {second:?}")),
        }
    });
}

#[test]
fn a_load_balancer_without_memory_founds_no_second_cluster() {
    let mut two = Two::start(2);
    set(two.cluster.lb_client(), "before");
    let leader = two.cluster.wait_for_leader(PATIENCE);
    // No leader, one member alive, and the first load balancer forgets it all.
    two.cluster.kill_lb();
    two.cluster.kill9(&leader);
    let memory = two.cluster.home().join("lb-1").join("lb-memory");
    std::fs::remove_file(&memory).unwrap();
    two.cluster.start_lb();
    // As many fresh servers as make a cluster.
    two.add("srv-8");
    two.add("srv-9");
    let waits = |name: &str| {
        let log = two.cluster.home().join(name).join("server.log");
        std::fs::read_to_string(log).unwrap_or_default().contains("a leader of cluster")
    };
    for name in ["srv-8", "srv-9"] {
        eventually("they wait and say for what", PATIENCE, || {
            waits(name).then_some(()).ok_or_else(|| "not said".to_owned())
        });
    }
    // The leader comes back: one cluster, with everything in it.
    two.cluster.start_server(&leader);
    two.cluster.wait_for_servers(4);
    for lb in [two.cluster.lb_client(), two.second_client] {
        Two::wait_for_rotation(lb, 4);
        let mut connection = Connection::open(lb).unwrap();
        assert_eq!(connection.get("before").unwrap().as_deref(), Some("before"));
    }
    assert!(two.second.pid() > 0);
}

/// The members know only the load balancer that is away; fresh servers know
/// another one as well, which knows nobody.
#[test]
fn a_load_balancer_that_the_members_do_not_know_founds_no_second_cluster() {
    let mut cluster = TestCluster::start(2);
    set(cluster.lb_client(), "before");
    let first = cluster.lb_server();
    cluster.kill_lb();
    let (_, second, _process) = cluster.another_lb("lb-2");
    for name in ["srv-8", "srv-9"] {
        let (cport, sport) = (free_port(), free_port());
        let line = format!("--lb {second},{first} --cport {cport} --sport {sport}");
        cluster.start_server_with(name, &line);
    }
    // Which of the two has the smallest address is not decided here.
    let waits = [format!("load balancer {first} to answer"), "with the smallest address".into()];
    for name in ["srv-8", "srv-9"] {
        eventually("they wait and say for what", PATIENCE, || {
            let log = cluster.home().join(name).join("server.log");
            let log = std::fs::read_to_string(log).unwrap_or_default();
            waits.iter().any(|what| log.contains(what)).then_some(()).ok_or(log)
        });
    }
    cluster.start_lb();
    cluster.wait_for_servers(4);
    let mut connection = Connection::open(cluster.lb_client()).unwrap();
    assert_eq!(connection.get("before").unwrap().as_deref(), Some("before"));
}

/// Whoever lists them, in whatever order: one of them founds, and it finds that
/// all servers may found with it.
#[test]
fn servers_that_list_load_balancers_in_opposite_orders_found_one_cluster() {
    let mut cluster = TestCluster::empty(2);
    cluster.start_lb();
    let (second_client, second, _process) = cluster.another_lb("lb-2");
    let first = cluster.lb_server();
    for (name, lbs) in [("srv-1", [first, second]), ("srv-2", [second, first])] {
        let (cport, sport) = (free_port(), free_port());
        let line = format!("--lb {},{} --cport {cport} --sport {sport}", lbs[0], lbs[1]);
        cluster.start_server_with(name, &line);
    }
    cluster.wait_for_servers(2);
    Two::wait_for_rotation(second_client, 2);
    let cluster_at = |lb| Connection::open(lb).unwrap().stats().unwrap()["lb.cluster"].clone();
    assert_eq!(cluster_at(cluster.lb_client()), cluster_at(second_client));
}

#[test]
fn a_copied_folder_is_refused_while_the_original_lives() {
    let mut cluster = TestCluster::start(2);
    let name = cluster.running()[0].clone();
    let (from, to) = (cluster.home().join(&name), cluster.home().join("srv-7"));
    let copied = std::process::Command::new("cp").arg("-r").args([&from, &to]).status().unwrap();
    assert!(copied.success());
    let ports = [free_port(), free_port()];
    let line = format!(
        "addsrv --foreground --dir {} --name srv-7 --cport {} --sport {}",
        cluster.home().display(),
        ports[0],
        ports[1]
    );
    let finished = cluster.store(&line).expect(1);
    finished.complains("copy").complains(&name).complains("a folder of its own");
    let lb_log = std::fs::read_to_string(cluster.home().join("lb-1/server.log")).unwrap();
    assert!(lb_log.contains("refused srv-7"), "{lb_log}");
    // The original goes on.
    cluster.wait_for_servers(2);
    assert_eq!(cluster.connect(&name).set("k", "v").unwrap(), "STORED");
    cluster.start_server("srv-3");
    cluster.wait_for_servers(3);
}

/// It is added later than the servers, which are restarted as they were.
#[test]
fn a_load_balancer_that_is_added_is_known_after_a_restart() {
    let mut cluster = TestCluster::start(3);
    let (second, _, _process) = cluster.another_lb("lb-2");
    for name in ["srv-1", "srv-2", "srv-3"] {
        cluster.stop(name);
        cluster.start_server(name);
        cluster.wait_for_servers(3);
    }
    Two::wait_for_rotation(second, 3);
    set(second, "through-the-second");
}

/// One of several tasks that count with clients which share what they know,
/// each number once; how often it counted, and the longest time it took.
async fn count(
    mut client: client::Cluster,
    stop: Arc<AtomicBool>,
    counted: Arc<AtomicU64>,
) -> (u64, Duration) {
    let (mut mine, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let answer = client.incr("n", 1).await;
        assert!(matches!(answer, Ok(Some(_))), "{answer:?} after {:?}", asked.elapsed());
        mine += 1;
        counted.fetch_add(1, Ordering::Relaxed);
        longest = longest.max(asked.elapsed());
    }
    (mine, longest)
}

#[test]
fn the_library_goes_on_without_load_balancers_and_without_the_leader() {
    let mut two = Two::start(3);
    let leader = two.cluster.wait_for_leader(PATIENCE);
    assert_eq!(two.cluster.connect(&leader).set("n", "0").unwrap(), "STORED");
    let lbs = vec![two.cluster.lb_client(), two.second_client];
    let (stop, counted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let counting = {
        let (stop, counted) = (Arc::clone(&stop), Arc::clone(&counted));
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let first = client::Cluster::new(lbs, client::Options::default());
                let tasks: Vec<_> = (0..8)
                    .map(|_| {
                        let client = first.another();
                        tokio::spawn(count(client, Arc::clone(&stop), Arc::clone(&counted)))
                    })
                    .collect();
                let mut sum = (0, Duration::ZERO);
                for task in tasks {
                    let (mine, longest) = task.await.unwrap();
                    sum = (sum.0 + mine, longest.max(sum.1));
                }
                sum
            })
        })
    };
    let further = |what: &str| {
        let before = counted.load(Ordering::Relaxed);
        eventually(what, PATIENCE, || {
            assert!(!counting.is_finished(), "a client saw an error");
            let now = counted.load(Ordering::Relaxed);
            (now > before + 200).then_some(()).ok_or_else(|| format!("{before} to {now}"))
        });
    };
    further("counting through the leader");
    two.cluster.kill_lb();
    two.second.kill9();
    further("counting without load balancers");
    let stopped = two.cluster.server(&leader).pid();
    signal(stopped, SIGSTOP);
    further("counting while the leader stands still");
    signal(stopped, SIGCONT);
    let leader = eventually("another leader", PATIENCE, || {
        let status = two.cluster.store("status --json").out;
        let status: serde_json::Value =
            serde_json::from_str(&status).map_err(|error| error.to_string())?;
        let name = status["lb"]["leader"].as_str().filter(|name| *name != leader);
        name.map(str::to_owned).ok_or_else(|| status.to_string())
    });
    two.cluster.kill9(&leader);
    further("counting at the next leader");
    stop.store(true, Ordering::Relaxed);
    let (number, longest) = counting.join().unwrap();
    println!("{number} incr, the longest took {longest:?}");
    for name in two.cluster.running() {
        let found = two.cluster.connect(&name).get("n").unwrap();
        assert_eq!(found, Some(number.to_string()), "{name}");
    }
    // A try is given up after two seconds, all of them after five.
    assert!(longest < bound(Duration::from_secs(4), Duration::from_secs(5)), "{longest:?}");
}

#[test]
fn commands_do_not_wait_for_a_load_balancer_that_stands_still() {
    let two = Two::start(3);
    Two::wait_for_rotation(two.second_client, 3);
    set(two.second_client, "k");
    let lbs = format!("{},{}", two.cluster.lb_client(), two.second_client);
    let dir = two.cluster.home().display().to_string();
    let client =
        || run(CLIENT, two.cluster.cwd(), &["--lb", &lbs, "get", "k"]).expect(0).says("k k");
    let status = || two.cluster.store(&format!("status --dir {dir}")).expect(0);
    let took = [client().took, status().took];
    let stopped = common::folder::holder(&two.cluster.home().join("lb-1")).expect("it runs");
    signal(stopped, SIGSTOP);
    let all = [
        client(),
        // The first one has been asked before, and has not answered.
        status().says("lb-2 at"),
        two.cluster.store(&format!("backup --dir {dir} b.backup")).expect(0),
        two.cluster.store(&format!("transfer --dir {dir}")).expect(0),
    ];
    signal(stopped, SIGCONT);
    println!("{took:?} before, {:?} with one that hangs", all.each_ref().map(|done| done.took));
    let most = bound(Duration::from_millis(400), Duration::from_secs(3));
    assert!(all[..2].iter().all(|done| done.took < most), "{all:?}");
}

#[test]
fn without_load_balancers_the_servers_tell_their_status() {
    let mut two = Two::start(3);
    let leader = two.cluster.wait_for_leader(PATIENCE);
    set(two.second_client, "k");
    let lbs = [two.cluster.lb_client().to_string(), two.second_client.to_string()];
    two.cluster.kill_lb();
    two.second.kill9();
    let dir = two.cluster.home().display().to_string();
    let status = two.cluster.store(&format!("status --dir {dir}")).expect(3);
    let status = status.says(&format!("leader {leader}")).complains(&lbs[0]).complains(&lbs[1]);
    assert_eq!(status.out.matches(" live ").count(), 3, "{status:?}");
    let json = two.cluster.store(&format!("status --json --dir {dir}")).expect(3).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["lb"]["leader"], leader);
    assert_eq!(json["servers"][&leader]["role"], "leader");
    two.cluster.store(&format!("backup --dir {dir} b.backup")).expect(0);
    // One that has just started knows nobody: it says whom it tried.
    let words = ["--lb", &lbs.join(","), "get", "k"];
    let tried = run(CLIENT, two.cluster.cwd(), &words).expect(3);
    let tried = tried.complains(&format!("load balancer {}: Connection refused", lbs[0]));
    tried.complains(&format!("load balancer {}: Connection refused", lbs[1]));
}
