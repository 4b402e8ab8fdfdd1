//! The language of the scripts: one command in a line.
//!
//! | command | does |
//! | --- | --- |
//! | `cluster 3 +1 lease gap=0` | servers 1..3 as voters, 4 as a learner; settings follow |
//! | `start 4` | a server with an empty disk that knows no members |
//! | `campaign 1`, `elect 1` | an election at once; `elect` also delivers and beats once |
//! | `gone 2 1 [t3]` | 2 is told that the process of 1 has ended, which led in this or that term |
//! | `deliver`, `deliver 1->2 append first` | delivers all until quiet, or those meant, once |
//! | `drop ..`, `dup ..`, `reverse ..` | loses, doubles or reorders those meant |
//! | `wire` | prints what is on the way |
//! | `tick 2 30ms`, `wait 300ms`, `run 1s` | one clock; all clocks; all clocks, delivering |
//! | `timeout 2` | the clock of 2 jumps to its next deadline |
//! | `hold-sync 2`, `sync 2 [n]`, `free-sync 2` | the disk of 2 is held; syncs n batches; flows |
//! | `hold-tasks 1`, `task 1`, `free-tasks 1` | the same for fetches and snapshot chunks |
//! | `propose 1 a b:5000`, `read 2 7` | commands (`b` of 5,000 bytes), reads by number |
//! | `change 1 add`, `promote 4`, `remove 3`, `update 2` | membership |
//! | `transfer 1 [2]` | hands leadership over |
//! | `crash 1 [n]`, `restart 1` | loses what is not synced, except n batches |
//! | `checkpoint 1 [n]` | and drops the log, except the last n entries |
//! | `damage 2 31`, `damage 2` | the disk of 2 lost the entries from 31 on; or all but its end, term and vote |
//! | `cut 1->2`, `partition 1 \| 2 3`, `heal` | links |
//! | `send 2->1 t5 vote last 3@2` | hands 1 a message that nobody sent |
//! | `status`, `peers 1`, `disk 2`, `state 2`, `members 1` | prints |
//!
//! `quiet` before a command prints nothing of what happens, `brief` neither
//! messages nor what is written.

use std::sync::Arc;

use raft::{Change, Config, Member, Membership, NodeId, Suffrage};

use super::cluster::{Cluster, Detail, Select};
use super::machine::Cmd;
use super::{print, raw};

type Words<'a> = &'a [&'a str];

fn number(words: Words<'_>, at: usize) -> u64 {
    let word = words.get(at).unwrap_or_else(|| panic!("a number is missing in {words:?}"));
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

fn optional(words: Words<'_>, at: usize) -> Option<u64> {
    (words.len() > at).then(|| number(words, at))
}

fn micros(words: Words<'_>, at: usize) -> u64 {
    let word = words.get(at).unwrap_or_else(|| panic!("a time is missing in {words:?}"));
    let (digits, unit) = word
        .strip_suffix("ms")
        .map(|digits| (digits, 1_000))
        .or_else(|| word.strip_suffix("us").map(|digits| (digits, 1)))
        .or_else(|| word.strip_suffix('s').map(|digits| (digits, 1_000_000)))
        .unwrap_or_else(|| panic!("{word} has no unit: us, ms or s"));
    digits.parse::<u64>().expect("a time") * unit
}

pub(super) fn link(word: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (from, to) = word.split_once("->")?;
    let side = |text: &str| (!text.is_empty()).then(|| text.parse().expect("a server"));
    Some((side(from), side(to)))
}

fn select(words: Words<'_>) -> Select {
    let mut select = Select::default();
    for word in words {
        if let Some((from, to)) = link(word) {
            (select.from, select.to) = (from, to);
        } else if *word == "first" {
            select.first = true;
        } else {
            select.kind = Some((*word).to_owned());
        }
    }
    select
}

fn set(config: &mut Config, word: &str) {
    let (name, value) = word.split_once('=').unwrap_or((word, "1"));
    let value: usize = value.parse().expect("a number");
    match name {
        "lease" => config.lease_reads = true,
        "append" => config.max_append_bytes = value,
        "window" => config.window_bytes = value,
        "full" => config.append_full_bytes = value,
        "gap" => config.append_gap_us = value as u64,
        "cache" => config.cache_bytes = value,
        "uncommitted" => config.max_uncommitted_bytes = value,
        "promote-lag" => config.promote_lag = value as u64,
        "no-promote" => config.auto_promote = false,
        _ => panic!("there is no setting {name}"),
    }
}

impl Cluster {
    /// Does what a line says; what happened is in `lines`.
    pub(crate) fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (detail, words) = match words[0] {
            "quiet" => (Detail::Nothing, &words[1..]),
            "brief" => (Detail::Outcome, &words[1..]),
            _ => (Detail::Everything, &words[..]),
        };
        self.detail = detail;
        let (verb, rest) = (words[0], &words[1..]);
        let known = self.run_command(verb, rest)
            || self.ask_command(verb, rest)
            || self.wire_command(verb, rest)
            || self.disk_command(verb, rest)
            || self.print_command(verb, rest);
        assert!(known, "there is no command {verb}");
    }

    fn run_command(&mut self, verb: &str, words: Words<'_>) -> bool {
        match verb {
            "cluster" => self.form(words),
            "start" => self.add(number(words, 0), Membership::default()),
            "restart" => self.start(number(words, 0)),
            "crash" => {
                let survive = optional(words, 1).unwrap_or(0) as usize;
                self.machine(number(words, 0)).crash(survive);
            }
            "campaign" => self.with(number(words, 0), |core, now| core.campaign(now)),
            "gone" => {
                let (node, leader) = (number(words, 0), NodeId(number(words, 1)));
                let term = words.get(2).map(|word| {
                    word.strip_prefix('t').and_then(|term| term.parse().ok()).expect("a term")
                });
                self.with(node, |core, now| {
                    let term = term.unwrap_or(core.term());
                    core.leader_gone(now, leader, term);
                });
            }
            "elect" => {
                let node = number(words, 0);
                let before = std::mem::replace(&mut self.detail, Detail::Nothing);
                self.with(node, |core, now| core.campaign(now));
                self.settle();
                self.pass(node, 50_000);
                self.settle();
                self.detail = before;
                let status = self.machine(node).core().status();
                self.say(Detail::Outcome, print::status(&status));
            }
            "tick" => self.pass(number(words, 0), micros(words, 1)),
            "timeout" => self.time_out(number(words, 0)),
            "wait" => {
                for node in self.machines.keys().copied().collect::<Vec<_>>() {
                    self.pass(node, micros(words, 0));
                }
            }
            "run" => self.run(micros(words, 0)),
            _ => return false,
        }
        true
    }

    fn form(&mut self, words: Words<'_>) {
        let voters = number(words, 0);
        let info: Arc<[u8]> = Arc::from(&b""[..]);
        let mut first = Membership::of_voters((1..=voters).map(|id| (NodeId(id), info.clone())));
        for word in &words[1..] {
            if let Some(learners) = word.strip_prefix('+') {
                for _ in 0..learners.parse().expect("a number") {
                    let learner = Member { suffrage: Suffrage::Learner, info: info.clone() };
                    first.members.insert(NodeId(first.next_id), learner);
                    first.next_id += 1;
                }
            } else {
                set(&mut self.settings, word);
            }
        }
        for node in first.members.keys() {
            self.add(node.0, first.clone());
        }
    }

    fn ask_command(&mut self, verb: &str, words: Words<'_>) -> bool {
        match verb {
            "propose" => {
                let node = number(words, 0);
                // All of them in one turn, as a driver hands over a batch.
                let machine = self.machine(node);
                let now = machine.now;
                let mut told = Vec::new();
                for word in &words[1..] {
                    let answer = machine.core().propose(now, Cmd::parse(word));
                    told.push(match answer {
                        Ok((index, term)) => format!("{node} accepts {word} as {index}@{term}"),
                        Err(why) => format!("{node} does not accept {word}: {why}"),
                    });
                }
                for line in told {
                    self.say(Detail::Outcome, line);
                }
                self.turn(node);
            }
            "read" => {
                let node = number(words, 0);
                let machine = self.machine(node);
                let now = machine.now;
                for word in &words[1..] {
                    machine.core().read(now, word.parse().expect("a number"));
                }
                self.turn(node);
            }
            "change" => {
                let node = number(words, 0);
                let info: Arc<[u8]> = Arc::from(&b"new"[..]);
                let change = match words[1] {
                    "add" => Change::AddLearner { info },
                    "promote" => Change::Promote(NodeId(number(words, 2))),
                    "remove" => Change::Remove(NodeId(number(words, 2))),
                    "update" => Change::Update { id: NodeId(number(words, 2)), info },
                    other => panic!("there is no change {other}"),
                };
                let machine = self.machine(node);
                let now = machine.now;
                let line = match machine.core().change(now, change) {
                    Ok((index, term)) => format!("{node} accepts the change as {index}@{term}"),
                    Err(why) => format!("{node} does not accept the change: {why}"),
                };
                self.say(Detail::Outcome, line);
                self.turn(node);
            }
            "transfer" => {
                let (node, to) = (number(words, 0), optional(words, 1).map(NodeId));
                let machine = self.machine(node);
                let now = machine.now;
                if let Err(why) = machine.core().transfer(now, to) {
                    self.say(Detail::Outcome, format!("{node} does not hand over: {why}"));
                }
                self.turn(node);
            }
            _ => return false,
        }
        true
    }

    fn wire_command(&mut self, verb: &str, words: Words<'_>) -> bool {
        match verb {
            "deliver" if words.is_empty() => self.settle(),
            "deliver" => {
                for envelope in self.take(&select(words)) {
                    self.deliver(envelope);
                }
            }
            "drop" => {
                for envelope in self.take(&select(words)) {
                    self.say(Detail::Outcome, format!("lost: {}", print::message(&envelope)));
                }
            }
            "dup" => {
                let taken = self.take(&select(words));
                self.wire.extend(taken.iter().cloned());
                self.wire.extend(taken);
            }
            "reverse" => {
                let taken = self.take(&select(words));
                self.wire.extend(taken.into_iter().rev());
            }
            "wire" => {
                let lines: Vec<_> = self.wire.iter().map(print::message).collect();
                self.lines.extend(lines);
            }
            "cut" => {
                let (from, to) = link(words[0]).expect("a link");
                self.cut.insert((from.expect("a server"), to.expect("a server")));
            }
            "partition" => self.partition(words),
            "heal" => self.cut.clear(),
            "send" => {
                let envelope = raw::parse(words);
                let (to, _) = (link(words[0]).and_then(|link| link.1), ());
                self.with(to.expect("a server"), |core, now| core.step(now, envelope));
            }
            _ => return false,
        }
        true
    }

    fn partition(&mut self, words: Words<'_>) {
        let sides: Vec<Vec<u64>> = words
            .split(|word| *word == "|")
            .map(|side| side.iter().map(|word| word.parse().expect("a server")).collect())
            .collect();
        for (at, side) in sides.iter().enumerate() {
            for other in sides.iter().enumerate().filter(|(o, _)| *o != at).map(|(_, s)| s) {
                let links = side.iter().flat_map(|a| other.iter().map(move |b| (*a, *b)));
                self.cut.extend(links);
            }
        }
    }

    fn disk_command(&mut self, verb: &str, words: Words<'_>) -> bool {
        match verb {
            "hold-sync" => self.machine(number(words, 0)).hold_sync = true,
            "free-sync" => {
                self.machine(number(words, 0)).hold_sync = false;
                self.turn(number(words, 0));
            }
            "sync" => {
                let count = optional(words, 1).map_or(usize::MAX, |count| count as usize);
                self.sync(number(words, 0), count);
                self.turn(number(words, 0));
            }
            "hold-tasks" => self.machine(number(words, 0)).hold_tasks = true,
            "free-tasks" => {
                self.machine(number(words, 0)).hold_tasks = false;
                self.turn(number(words, 0));
            }
            "task" => {
                let node = number(words, 0);
                let task = self.machine(node).tasks.pop_front();
                self.work(node, task.expect("a task waits"));
                self.turn(node);
            }
            "damage" => {
                let machine = self.machine(number(words, 0));
                assert!(machine.node.is_none(), "only what is down is damaged");
                match optional(words, 1) {
                    Some(index) => machine.disk.damage(index),
                    None => machine.disk.lose(),
                }
            }
            "checkpoint" => {
                let node = number(words, 0);
                let index = self.machine(node).checkpoint(optional(words, 1).unwrap_or(0));
                self.say(Detail::Outcome, format!("{node} has a checkpoint at {index}"));
                self.turn(node);
            }
            _ => return false,
        }
        true
    }

    fn print_command(&mut self, verb: &str, words: Words<'_>) -> bool {
        let all: Vec<u64> = match words {
            [] => self.machines.keys().copied().collect(),
            _ => (0..words.len()).map(|at| number(words, at)).collect(),
        };
        for node in all {
            let machine = self.machine(node);
            let status = machine.node.as_ref().map(|core| core.status());
            let lines = match (verb, status) {
                ("disk", _) => {
                    let disk = &machine.disk;
                    let vote = disk.hard.vote.map_or(String::new(), |to| format!(" vote {}", to.0));
                    let entries =
                        disk.entries.iter().map(|entry| " ".to_owned() + &print::entry(entry));
                    let log: String = entries.collect();
                    vec![format!("{node} disk t{}{vote}{log}", disk.hard.term)]
                }
                ("state", _) => vec![format!("{node} state {}", machine.state.join(" "))],
                ("status" | "peers" | "members", None) => vec![format!("{node} is down")],
                ("status", Some(status)) => vec![print::status(&status)],
                ("peers", Some(status)) => print::peers(&status),
                ("members", Some(status)) => {
                    let members = print::members(&status.membership);
                    let (at, next) = (status.membership_index, status.membership.next_id);
                    vec![format!("{node} members {members} at {at}, next id {next}")]
                }
                _ => return false,
            };
            self.lines.extend(lines);
        }
        true
    }
}
