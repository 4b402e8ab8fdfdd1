//! Real processes under every fault that a seed brings, while clients ask all
//! the time; in the end what they were told has to be true.
//!
//! As root, each node is in a network namespace of its own, so that the network
//! can be cut in all ways; else that part is left out, which is said.
//!
//! `STORE_CHAOS_SECONDS=600 STORE_CHAOS_SERVERS=5 STORE_CHAOS_SEED=7 cargo test
//! --test chaos -- --nocapture` plays longer.

mod nemesis;
mod support;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use nemesis::Nemesis;
use nemesis::arena::{Arena, Topology};
use nemesis::clients::{COUNTERS, Clients, Target};
use nemesis::dice::Dice;
use nemesis::history::{History, Op};
use nemesis::log::Log;
use nemesis::network::Network;
use nemesis::stalls::Stalls;
use nemesis::verdict;
use support::cluster::PATIENCE;
use support::memcached::Connection;
use support::{eventually, one_at_a_time};

/// Clients of each load balancer; a server has one.
const CLIENTS_OF_LB: usize = 2;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// What a run is.
#[derive(Debug)]
struct Run {
    seed: u64,
    length: Duration,
    topology: Topology,
}

impl Run {
    fn from_environment() -> Run {
        let seed = setting("STORE_CHAOS_SEED", 1);
        // Small checkpoints, so that those who come back are sent some.
        let dead_after = Dice::new(seed).pick(&["2s", "5s", "30s"]).unwrap();
        Run {
            seed,
            length: Duration::from_secs(setting("STORE_CHAOS_SECONDS", 15)),
            topology: Topology {
                lbs: setting("STORE_CHAOS_LBS", 2) as usize,
                servers: setting("STORE_CHAOS_SERVERS", 3) as usize,
                options: format!("--dead-after {dead_after} --checkpoint-after 256k"),
            },
        }
    }
}

/// A cluster that serves, with counters at 0.
fn start(run: &Run) -> Arena {
    let network = match Network::create(Arena::places(&run.topology)) {
        Ok(network) => Some(network),
        Err(why) => {
            // Not by a macro, whose text a test that passes does not show.
            let _ = writeln!(
                std::io::stderr(),
                "\n!! SKIPPED: partitions of the network ({why}); they need root, `ip` and `nft`. \
                 Everything else is played on loopback.\n"
            );
            None
        }
    };
    let mut arena = Arena::new(&run.topology, network);
    for number in 0..arena.spare() {
        arena.start(number);
    }
    eventually("a cluster of voters", PATIENCE, || arena.whole());
    for counter in COUNTERS {
        eventually("a counter at 0", PATIENCE, || {
            let stored = Connection::open(arena.nodes[0].client_address())
                .and_then(|mut connection| connection.set(counter, "0"));
            match stored.as_deref() {
                Ok("STORED") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    arena
}

fn targets(arena: &Arena) -> Vec<Target> {
    let mut targets = Vec::new();
    for node in &arena.nodes[..arena.spare()] {
        let (name, address, is_lb) = (node.name.clone(), node.client_address(), node.is_lb);
        for _ in 0..if is_lb { CLIENTS_OF_LB } else { 1 } {
            targets.push(Target { name: name.clone(), address, is_lb });
        }
    }
    targets
}

/// Plays and waits until all is well again; the history, and what was wrong.
fn play(run: &Run, arena: &mut Arena, log: &mut Log, history: &Arc<History>) -> Vec<Op> {
    let targets = targets(arena);
    let stalls = Stalls::watch(history);
    let clients = Clients::start(history, &targets, run.seed);
    Nemesis::new(arena, log, run.seed).play(run.length);
    match verdict::wait_for_service(arena, log) {
        Ok(took) => log.note(&format!("every node serves again after {took:?}")),
        Err(why) => log.wrong(&why),
    }
    match verdict::wait_until_whole(arena, log) {
        Ok(took) => log.note(&format!("every server votes again after {took:?}")),
        Err(why) => log.wrong(&why),
    }
    clients.finish();
    log.stalled(&stalls.finish());
    let ops = history.take();
    if let Err(why) = verdict::read_everything(arena, history, &ops) {
        log.wrong(&why);
    }
    match verdict::compare_keystores(arena) {
        Ok(items) => log.note(&format!("all keystores print the same {items} items")),
        Err(why) => log.wrong(&why),
    }
    let ops = [ops, history.take()].concat();
    for why in verdict::unserved(&ops, &targets, log) {
        log.wrong(&why);
    }
    verdict::tell(&ops, &targets, log);
    ops
}

#[test]
fn nothing_that_clients_were_told_is_untrue() {
    let _one = one_at_a_time();
    let run = Run::from_environment();
    println!("{run:?}");
    let mut arena = start(&run);
    let history = Arc::new(History::new());
    let mut log = Log::new(&history);
    let ops = play(&run, &mut arena, &mut log, &history);
    let mut wrong = verdict::judge(&ops);
    wrong.splice(0..0, std::mem::take(&mut log.wrong));
    println!("What the nemesis did:\n{}", log.text());
    if wrong.is_empty() {
        return;
    }
    let kept = arena.keep();
    let all: Vec<_> = ops.iter().map(ToString::to_string).collect();
    let _ = std::fs::write(kept.join("history"), all.join("\n"));
    drop(arena);
    panic!(
        "seed {}: {}\n\nFolders, logs and the whole history: {}",
        run.seed,
        wrong.join("\n\n"),
        kept.display()
    );
}
