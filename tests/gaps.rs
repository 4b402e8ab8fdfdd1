//! The pause that clients see when a leader goes: killed, stopped, or told to
//! hand over; with a load balancer, through one, and without any.
//!
//! `STORE_TRIALS=20 cargo test --release --test gaps -- --nocapture` prints a
//! table of medians and worst cases.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::bound;
use support::cluster::{PATIENCE, TestCluster};
use support::memcached::Connection;
use support::ports::free_port;
use support::process::signal;
use support::pulse::{Beats, Pulse};
use support::trio::{SERVERS, Trio};

/// Acknowledged writes before and after something happens.
const AROUND: u64 = 20;

fn trials() -> usize {
    std::env::var("STORE_TRIALS").map_or(3, |text| text.parse().expect("a number"))
}

/// Plays one trial after the other and prints a line of the table.
fn measure(what: &str, mut trial: impl FnMut() -> Beats) -> Vec<Beats> {
    let trials: Vec<_> = (0..trials()).map(|_| trial()).collect();
    let mut gaps: Vec<_> = trials.iter().map(|beats| beats.gap).collect();
    gaps.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{what:<42} trials {:>2}  gap ms: median {:>6.1} worst {:>6.1}  longest write ms {:>6.1}  \
         errors {} broken {}",
        gaps.len(),
        ms(gaps[gaps.len() / 2]),
        ms(gaps[gaps.len() - 1]),
        ms(trials.iter().map(|beats| beats.longest).max().unwrap()),
        trials.iter().map(|beats| beats.errors.len()).sum::<usize>(),
        trials.iter().map(|beats| beats.broken).sum::<usize>(),
    );
    let worst = gaps[gaps.len() - 1];
    assert!(worst < bound(Duration::from_secs(1), Duration::from_secs(5)), "{worst:?}");
    trials
}

fn no_errors(trials: &[Beats]) {
    for beats in trials {
        assert!(beats.errors.is_empty() && beats.broken == 0, "{beats:?}");
    }
}

/// The servers' addresses, beginning with this one's.
fn addresses(cluster: &TestCluster, first: &str) -> Vec<SocketAddr> {
    let others = cluster.running().into_iter().filter(|name| name != first);
    [first.to_owned()].into_iter().chain(others).map(|name| cluster.client_address(&name)).collect()
}

/// Kills the leader while a client writes there, or through the load balancer.
fn kill(cluster: &mut TestCluster, through_lb: bool) -> Beats {
    let leader = cluster.wait_for_servers(3);
    cluster.wait_until_level();
    let addresses = match through_lb {
        true => vec![cluster.lb_client()],
        false => addresses(cluster, &leader),
    };
    let pulse = Pulse::start(addresses);
    pulse.wait_for(AROUND);
    signal(cluster.server(&leader).pid(), Signal::SIGKILL);
    pulse.wait_for(AROUND);
    let beats = pulse.finish();
    cluster.kill9(&leader);
    cluster.start_server(&leader);
    beats
}

#[test]
fn killed_with_a_load_balancer() {
    let mut cluster = TestCluster::start(3);
    measure("kill -9, clients at the servers", || kill(&mut cluster, false));
    let trials = measure("kill -9, through the load balancer", || kill(&mut cluster, true));
    no_errors(&trials);
}

#[test]
fn killed_in_a_fixed_cluster() {
    let mut trio = Trio::start();
    measure("kill -9, fixed cluster", || {
        trio.wait_for_service();
        let leader = leader_of(&trio);
        let mut addresses = trio.addresses().to_vec();
        addresses.rotate_left(leader);
        let pulse = Pulse::start(addresses);
        pulse.wait_for(AROUND);
        trio.kill9(&[leader]);
        pulse.wait_for(AROUND);
        let beats = pulse.finish();
        trio.start_server(leader);
        trio.wait_for_service();
        trio.wait_until_level();
        beats
    });
}

fn leader_of(trio: &Trio) -> usize {
    support::eventually("one of them leads", PATIENCE, || {
        let leads = |address: SocketAddr| {
            let stats = Connection::open(address).and_then(|mut server| server.stats());
            stats.is_ok_and(|stats| stats["raft_role"] == "leader")
        };
        (0..SERVERS).find(|number| leads(trio.addresses()[*number])).ok_or("nobody".to_owned())
    })
}

#[test]
fn handed_over() {
    let mut cluster = TestCluster::start(3);
    let lb_client = cluster.lb_client();
    let transfer = format!("transfer --dir {}", cluster.home().display());
    for (what, through_lb) in
        [("transfer, clients at the leader", false), ("transfer, through the load balancer", true)]
    {
        let trials = measure(what, || {
            let leader = cluster.wait_for_servers(3);
            let target = match through_lb {
                true => vec![lb_client],
                false => addresses(&cluster, &leader),
            };
            let pulse = Pulse::start(target);
            pulse.wait_for(AROUND);
            cluster.store(&transfer).expect(0);
            pulse.wait_for(AROUND);
            pulse.finish()
        });
        no_errors(&trials);
    }
    // What the machine does by itself, to compare with.
    measure("nothing", || {
        let leader = cluster.wait_for_servers(3);
        let pulse = Pulse::start(addresses(&cluster, &leader));
        pulse.wait_for(2 * AROUND);
        pulse.finish()
    });
    let stop = |cluster: &mut TestCluster, through_lb| {
        let leader = cluster.wait_for_servers(3);
        let target = match through_lb {
            true => vec![lb_client],
            false => addresses(cluster, &leader),
        };
        let pulse = Pulse::start(target);
        pulse.wait_for(AROUND);
        cluster.stop(&leader);
        pulse.wait_for(AROUND);
        let beats = pulse.finish();
        cluster.start_server(&leader);
        beats
    };
    let trials = measure("stop, clients at the leader", || stop(&mut cluster, false));
    assert!(trials.iter().all(|beats| beats.errors.is_empty()), "{trials:?}");
    let trials = measure("stop, through the load balancer", || stop(&mut cluster, true));
    no_errors(&trials);
}

/// With timeouts so long that only the end of the connection can be it.
#[test]
fn the_end_of_a_process_is_noticed_and_silence_is_not_taken_for_it() {
    const PATIENT: &str = "--election-timeout 100s..200s";
    let mut cluster = TestCluster::empty(3);
    cluster.start_lb();
    for number in 1..=3 {
        let ports = format!("--cport {} --sport {}", free_port(), free_port());
        cluster.start_server_with(&format!("srv-{number}"), &format!("{ports} {PATIENT}"));
    }
    let leader = cluster.wait_for_servers(3);
    let others: Vec<_> = cluster.running().into_iter().filter(|name| *name != leader).collect();
    let term = |cluster: &TestCluster, name: &str| {
        cluster.connect(name).stats().unwrap()["raft_term"].parse::<u64>().unwrap()
    };
    let before = term(&cluster, &leader);
    // Watched by both, and silent for as long as an election would take.
    support::eventually("both watch", PATIENCE, || {
        let stats = cluster.connect(&leader).stats().unwrap();
        match &*stats["curr_connections"] {
            "0" | "1" | "2" => Err(format!("{} connections", stats["curr_connections"])),
            _ => Ok(()),
        }
    });
    let pid = cluster.server(&leader).pid();
    signal(pid, Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(500));
    signal(pid, Signal::SIGCONT);
    assert_eq!(cluster.wait_for_leader(PATIENCE), leader);
    assert_eq!(term(&cluster, &others[0]), before, "it only stood still");

    cluster.kill9(&leader);
    let next = cluster.wait_for_leader(PATIENCE);
    assert!(others.contains(&next));
    assert_eq!(term(&cluster, &next), before + 1);
    for name in &others {
        let log = cluster.server(name).log_text();
        assert!(log.contains("the leader's process is gone"), "{log}");
    }
}
