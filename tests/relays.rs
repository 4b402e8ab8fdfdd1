//! A load balancer that is cut off from the leader alone serves: servers that follow
//! the leader hand on to it what is for it.
//!
//! Between each server and the load balancer there is a stretch of network that the
//! test cuts. It takes no root.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use support::cluster::{PATIENCE, TestCluster};
use support::load::Load;
use support::memcached::Connection;
use support::ports::free_port;
use support::proxy::Proxy;
use support::{bound, eventually};

/// Three servers, each of which registers over a wire of its own.
struct Wired {
    cluster: TestCluster,
    wires: BTreeMap<String, Proxy>,
}

impl Wired {
    fn start() -> Wired {
        let mut cluster = TestCluster::empty(3);
        cluster.start_lb();
        let mut wired = Wired { cluster, wires: BTreeMap::new() };
        for number in 1..=3 {
            wired.start_server(&format!("srv-{number}"));
        }
        wired.cluster.wait_for_servers(3);
        wired
    }

    fn start_server(&mut self, name: &str) {
        let wire = Proxy::to(self.cluster.lb_server());
        let options =
            format!("--cport {} --sport {} --lb {}", free_port(), free_port(), wire.address());
        self.cluster.start_server_with(name, &options);
        self.wires.insert(name.to_owned(), wire);
    }

    fn lb_stat(&self, field: &str) -> String {
        let stats = Connection::open(self.cluster.lb_client()).unwrap().stats().unwrap();
        stats.get(&format!("lb.{field}")).cloned().unwrap_or_default()
    }

    /// Cuts the leader's wire, and waits until the load balancer has noticed.
    fn cut_leader(&self) -> String {
        let leader = self.cluster.wait_for_leader(PATIENCE);
        self.wires[&leader].cut(true);
        eventually("another server hands on", PATIENCE, || {
            match (self.lb_stat("leader_seen").as_str(), self.lb_stat("relay").as_str()) {
                ("0", relay) if relay != "-" && relay != leader => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        leader
    }

    /// An order of an operator, by way of the load balancer.
    fn order(&self, line: &str) -> support::process::Finished {
        let (dir, lb) = (self.cluster.home(), self.cluster.lb_server());
        self.cluster.store(&format!("{line} --dir {} --lb {lb}", dir.display()))
    }
}

#[test]
fn clients_of_a_load_balancer_that_does_not_see_the_leader_are_served() {
    let wired = Wired::start();
    let leader = wired.cluster.wait_for_leader(PATIENCE);
    let load = Load::at(wired.cluster.lb_client(), 4, "load");
    let mut client = Connection::open(wired.cluster.lb_client()).unwrap();
    assert_eq!(client.set("n", "0").unwrap(), "STORED");
    let mut count = 0;
    let mut ask_for = |how_long: Duration| {
        let until = Instant::now() + how_long;
        while Instant::now() < until {
            count += 1;
            assert_eq!(client.ask("incr n 1\r\n").unwrap(), count.to_string());
            assert_eq!(client.get("n").unwrap(), Some(count.to_string()));
        }
    };
    ask_for(Duration::from_millis(300));
    // The cut itself, the time without it, and the way back: no client sees an error.
    wired.wires[&leader].cut(true);
    ask_for(Duration::from_secs(3));
    assert_eq!(
        (wired.lb_stat("leader"), wired.lb_stat("leader_seen")),
        (leader.clone(), "0".into())
    );
    let mut listed = Connection::open(wired.cluster.lb_client()).unwrap();
    let first = *listed.servers().unwrap().first().unwrap();
    assert_eq!(first, wired.cluster.client_address(&leader), "clients may reach it");
    let status = format!("status --dir {}", wired.cluster.home().display());
    wired.cluster.store(&status).expect(0).says(&format!("{leader} is not seen from lb-1"));

    wired.wires[&leader].cut(false);
    eventually("the leader is seen again", PATIENCE, || {
        match wired.lb_stat("leader_seen").as_str() {
            "1" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    ask_for(Duration::from_millis(300));
    assert_eq!(wired.lb_stat("leader"), leader, "nobody else was elected");
    // Until the link is given up, which takes a second.
    let written = load.finish();
    assert_eq!(written.refused, Vec::<String>::new());
    assert!(written.longest_pause() < bound(Duration::from_millis(1_500), Duration::from_secs(3)));
    written.assert_all_there(&mut client);
}

#[test]
fn a_leader_that_is_lost_while_it_is_not_seen_is_followed_by_another() {
    let mut wired = Wired::start();
    let leader = wired.cut_leader();
    let mut client = Connection::open(wired.cluster.lb_client()).unwrap();
    assert_eq!(client.set("n", "0").unwrap(), "STORED");
    wired.cluster.kill9(&leader);
    for count in 1..=50 {
        assert_eq!(client.ask("incr n 1\r\n").unwrap(), count.to_string());
    }
    assert_ne!(wired.lb_stat("leader"), leader);
}

#[test]
fn orders_go_by_a_server_that_follows() {
    let mut wired = Wired::start();
    let leader = wired.cut_leader();
    // A server that joins is admitted by the leader.
    wired.start_server("srv-4");
    wired.cluster.wait_for_voters(&["srv-1", "srv-2", "srv-3", "srv-4"]);
    let gone = ["srv-1", "srv-2", "srv-3"].into_iter().find(|name| *name != leader).unwrap();
    wired.order(&format!("removesrv {gone}")).expect(0).says("is removed");
    wired.order(&format!("removesrv {leader}")).expect(1).complains("leads");
    assert_eq!(wired.lb_stat("leader_seen"), "0");
    let target = ["srv-1", "srv-2", "srv-3", "srv-4"]
        .into_iter()
        .find(|name| *name != leader && *name != gone)
        .unwrap();
    wired.order(&format!("transfer {target}")).expect(0).says(&format!("{target} leads"));
}
