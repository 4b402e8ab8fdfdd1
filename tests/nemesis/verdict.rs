//! Whether all that was promised was kept, and what there was to see.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::arena::{Arena, Life};
use super::clients::{COUNTERS, Target, is_written_once, read_answer};
use super::history::{Action, Answer, History, Op};
use super::log::{Fault, Log, STALL};
use super::model::{check, check_counter};
use super::support::bound;
use super::support::cluster::PATIENCE;
use super::support::memcached::Connection;
use super::support::process::{STORE, run};

/// Within which everybody serves again once everything is healed.
const HEALED_MS: (u64, u64) = (5_000, 15_000);

/// Within which everybody votes again.
const WHOLE: Duration = Duration::from_secs(45);

/// Within which a load balancer that is cut off from the leader has found a way around.
const NOTICED: Duration = Duration::from_millis(2_000);

/// In so long a time a client of it gets an answer.
const SERVED_WITHIN: Duration = Duration::from_millis(700);

/// The longest pauses that are told.
const PAUSES: usize = 8;

/// Whoever was asked to end at the last moment ends now, and is started.
fn start_ended(arena: &mut Arena, log: &mut Log) {
    for (number, status) in arena.ended() {
        arena.judge_end(number, status, log);
        arena.start(number);
    }
}

/// Waits until every node stores again; how long it took.
pub(crate) fn wait_for_service(arena: &mut Arena, log: &mut Log) -> Result<Duration, String> {
    let healed = Instant::now();
    let within = bound(Duration::from_millis(HEALED_MS.0), Duration::from_millis(HEALED_MS.1));
    for number in 0..arena.nodes.len() {
        while arena.nodes[number].is_there() {
            start_ended(arena, log);
            let node = &arena.nodes[number];
            let stored = Connection::open(node.client_address())
                .and_then(|mut connection| connection.set("service", &node.name));
            match stored {
                Ok(answer) if answer == "STORED" => break,
                other if healed.elapsed() > within => {
                    let name = &node.name;
                    return Err(format!("{name} does not store {within:?} after: {other:?}"));
                }
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
    Ok(healed.elapsed())
}

/// Waits until every server is a voter, and nobody else; how long it took.
pub(crate) fn wait_until_whole(arena: &mut Arena, log: &mut Log) -> Result<Duration, String> {
    let began = Instant::now();
    loop {
        start_ended(arena, log);
        match arena.whole() {
            Ok(()) => return Ok(began.elapsed()),
            Err(why) if began.elapsed() > WHOLE => {
                return Err(format!("not all servers are voters {WHOLE:?} after: {why}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
        // The leader may take half a minute to remove somebody by itself.
        let ghost = arena.view().and_then(|view| arena.ghost(&view));
        if let Some(ghost) = ghost.filter(|_| began.elapsed() > WHOLE / 10) {
            let home = arena.home().display().to_string();
            run(STORE, &arena.home(), &["removesrv", &ghost, "--dir", &home]);
        }
    }
}

/// Waits until every server has applied what all have committed, then compares
/// what their files print.
pub(crate) fn compare_keystores(arena: &Arena) -> Result<usize, String> {
    let servers = arena.servers(Life::Runs);
    let until = Instant::now() + PATIENCE;
    while let Err(why) = level(arena, &servers) {
        if Instant::now() > until {
            return Err(format!("not all servers have applied the same after {PATIENCE:?}: {why}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let printed = servers.iter().map(|&number| {
            let folder = arena.folder(number).display().to_string();
            run(STORE, &arena.home(), &["keystore", &folder]).expect(0).out
        });
        let printed: Vec<_> = printed.collect();
        if printed.iter().all(|one| *one == printed[0]) {
            return Ok(printed[0].lines().count());
        }
        // A log says a moment later how far it is committed.
        if Instant::now() > until {
            return Err(differences(arena, &servers, &printed));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether all have applied what all have committed.
fn level(arena: &Arena, servers: &[usize]) -> Result<(), String> {
    let mut applied = Vec::new();
    for &number in servers {
        let node = &arena.nodes[number];
        let stats = Connection::open(node.client_address())
            .and_then(|mut connection| connection.stats())
            .map_err(|error| format!("{}: {error}", node.name))?;
        applied.push((stats.get("raft_commit").cloned(), stats.get("raft_applied").cloned()));
    }
    let level = applied.iter().all(|one| *one == applied[0]) && applied[0].0 == applied[0].1;
    level.then_some(()).ok_or_else(|| format!("{applied:?}"))
}

fn differences(arena: &Arena, servers: &[usize], printed: &[String]) -> String {
    let mut text = "the keystores differ:\n".to_owned();
    for (place, other) in printed.iter().enumerate().skip(1) {
        let name = |place: usize| &arena.nodes[servers[place]].name;
        let lines = |of: &str| -> Vec<String> { of.lines().map(str::to_owned).collect() };
        let (first, other) = (lines(&printed[0]), lines(other));
        for line in first.iter().filter(|line| !other.contains(line)).take(5) {
            text.push_str(&format!("{} has, {} has not: {line}\n", name(0), name(place)));
        }
        for line in other.iter().filter(|line| !first.contains(line)).take(5) {
            text.push_str(&format!("{} has, {} has not: {line}\n", name(place), name(0)));
        }
    }
    text
}

/// Reads every key that was used at every server, as one more client of each.
pub(crate) fn read_everything(arena: &Arena, history: &History, ops: &[Op]) -> Result<(), String> {
    let mut keys: Vec<&str> = ops.iter().map(|op| op.key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    for number in arena.servers(Life::Runs) {
        let node = &arena.nodes[number];
        let fails = |error: std::io::Error| format!("{} cannot be read: {error}", node.name);
        let mut connection = Connection::open(node.client_address()).map_err(fails)?;
        for (batch, keys) in keys.chunks(100).enumerate() {
            let call = history.now();
            let lines: String = keys.iter().map(|key| format!("get {key}\r\n")).collect();
            connection.send(lines).map_err(fails)?;
            let read = keys.iter().map(|key| {
                let answer = read_answer(&mut connection, key, &Action::Get).map_err(fails)?;
                if !answer.is_known() {
                    return Err(format!("{} cannot be read: {key}: {answer:?}", node.name));
                }
                let (client, batch, key) = (1000 + number, batch as u64, (*key).to_owned());
                let ret = history.now();
                Ok(Op { client, batch, key, action: Action::Get, call, ret, answer })
            });
            history.add(read.collect::<Result<_, _>>()?);
        }
    }
    Ok(())
}

/// Every check of what clients were told; what is wrong.
pub(crate) fn judge(ops: &[Op]) -> Vec<String> {
    let mut wrong = Vec::new();
    for counter in COUNTERS {
        let of: Vec<_> = ops.iter().filter(|op| op.key == counter).collect();
        let last = of.iter().rev().find_map(|op| match &op.answer {
            Answer::Value(Some(value)) => value.parse().ok(),
            _ => None,
        });
        match last.ok_or_else(|| "it is no number".to_owned()).and_then(|n| check_counter(&of, n)) {
            Ok((acknowledged, open)) => {
                println!("{counter}: {acknowledged} acknowledged, {open} open, all counted once");
            }
            Err(why) => wrong.push(format!("{counter}: {why}")),
        }
    }
    // Those of a counter are too many to be searched, and are checked.
    let (searched, _): (Vec<Op>, Vec<Op>) =
        ops.iter().cloned().partition(|op| !COUNTERS.contains(&op.key.as_str()));
    for op in searched.iter().filter(|op| matches!(op.answer, Answer::Unexpected(_))) {
        wrong.push(format!("not what is promised:\n{op}"));
    }
    match check(&searched) {
        Ok(keys) => println!("{keys} keys are linearizable"),
        Err(why) => wrong.push(why),
    }
    wrong
}

/// Tells what there was to see.
pub(crate) fn tell(ops: &[Op], targets: &[Target], log: &Log) {
    let mut errors: BTreeMap<(&str, String), usize> = BTreeMap::new();
    let (mut asked, mut known) = (0, 0);
    for op in ops {
        let Some(target) = targets.get(op.client) else { continue };
        asked += 1;
        let text = match &op.answer {
            Answer::NotExecuted(text) | Answer::Unknown(text) | Answer::Unexpected(text) => text,
            _ => {
                known += 1;
                continue;
            }
        };
        let by = if target.is_lb { "load balancer" } else { "server" };
        *errors.entry((by, text.clone())).or_default() += 1;
    }
    let once = ops.iter().filter(|op| is_written_once(&op.key) && op.answer == Answer::Stored);
    println!("{asked} requests, {known} answered; {} sets of keys of their own", once.count());
    for ((by, text), count) in errors {
        println!("  by a {by}: {count} x {text}");
    }
    let faults: Vec<_> = log.count().iter().map(|(kind, n)| format!("{kind} {n}")).collect();
    println!("faults: {}", faults.join(", "));
    // What several clients saw at the same time is told once.
    let mut told: Vec<(f64, f64)> = Vec::new();
    for (took, at, text) in pauses(ops, targets, log) {
        if told.len() < PAUSES && told.iter().all(|(from, to)| at + took < *from || at > *to) {
            told.push((at, at + took));
            println!("pause of {took:.3} s at {at:.3} s: {text}");
        }
    }
}

/// Clients of load balancers that got no answer while their load balancer was cut off
/// from the leader and nothing else went wrong: servers that follow hand on.
pub(crate) fn unserved(ops: &[Op], targets: &[Target], log: &Log) -> Vec<String> {
    let nanoseconds = |time: Duration| time.as_nanos() as u64;
    let mut unserved = Vec::new();
    for fault in log.faults.iter().filter(|fault| fault.kind == "LbFromLeader") {
        let Some(to) = fault.to else { continue };
        // By then the link is given up, and the way around it found.
        let from = fault.from + nanoseconds(NOTICED);
        let before = fault.from.saturating_sub(nanoseconds(NOTICED));
        let is_alone = log.between(before, to).count() == 1;
        if !is_alone || to < from + nanoseconds(SERVED_WITHIN) {
            continue;
        }
        for (number, target) in targets.iter().enumerate().filter(|(_, target)| target.is_lb) {
            let answered = |op: &Op| {
                op.client == number && op.answer.is_known() && (from..=to).contains(&op.ret)
            };
            if !ops.iter().any(answered) {
                let name = &target.name;
                unserved.push(format!(
                    "client {number} of {name} got no answer from {from} to {to} ns, though servers \
                     that follow the leader could be reached"
                ));
            }
        }
    }
    unserved
}

/// Times between two answers to one client of a load balancer that ran, on a
/// machine that did, the longest first: seconds, when, who and what went on then.
fn pauses(ops: &[Op], targets: &[Target], log: &Log) -> Vec<(f64, f64, String)> {
    let mut pauses = Vec::new();
    for (number, target) in targets.iter().enumerate().filter(|(_, target)| target.is_lb) {
        let of = |op: &&Op| op.client == number && op.answer.is_known();
        let mut answered: Vec<_> = ops.iter().filter(of).map(|op| op.ret).collect();
        answered.sort_unstable();
        for pair in answered.windows(2) {
            let excuses = |fault: &Fault| fault.track == target.name || fault.kind == STALL;
            if log.between(pair[0], pair[1]).any(excuses) {
                continue;
            }
            let faults = log.between(pair[0], pair[1]).map(|fault| fault.kind.as_str());
            let mut faults: Vec<_> = faults.collect();
            faults.sort_unstable();
            faults.dedup();
            let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
            let text = format!("client {number} of {}: {}", target.name, faults.join(", "));
            pauses.push((seconds(pair[1] - pair[0]), seconds(pair[0]), text));
        }
    }
    pauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    pauses
}
