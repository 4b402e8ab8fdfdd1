//! What goes wrong, by a seed.
//!
//! Faults come on three tracks that know nothing of each other, so that they
//! meet in all ways: the network, the processes, and the operator's orders.
//! Whatever is done is taken back some time later. Only the loss of a disk
//! cannot be; so nobody loses one, or its place, unless every server is a voter,
//! and the next one only once that is so again. For a moment before it nothing
//! new goes wrong; right after it everything may.

pub(crate) mod arena;
pub(crate) mod clients;
pub(crate) mod dice;
pub(crate) mod history;
pub(crate) mod log;
pub(crate) mod model;
mod model_tests;
pub(crate) mod network;
mod orders;
pub(crate) mod stalls;
pub(crate) mod verdict;

use std::time::Duration;

use super::support;
use arena::{Arena, Life};
use dice::Dice;
use log::Log;
use orders::Orders;

/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(15);

/// How long faults last: below an election timeout, around it, and so long
/// that everybody notices.
const SHORT_MS: (u64, u64) = (60, 700);
/// See [`SHORT_MS`].
const LONG_MS: (u64, u64) = (700, 3_500);

/// What can happen to the network.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Halves,
    OneWay,
    LeaderAlone,
    LbFromLeader,
    Bridge,
}

const CUTS: [Cut; 5] = [Cut::Halves, Cut::OneWay, Cut::LeaderAlone, Cut::LbFromLeader, Cut::Bridge];

/// What can happen to processes.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Kill,
    KillLeader,
    KillAll,
    Pause,
    PauseLeader,
    Restart,
    KillLb,
}

const BLOWS: [Blow; 10] = [
    Blow::Kill,
    Blow::KillLeader,
    Blow::KillLeader,
    Blow::KillAll,
    Blow::Pause,
    Blow::PauseLeader,
    Blow::PauseLeader,
    Blow::Restart,
    Blow::KillLb,
    Blow::KillLb,
];

/// See the module's page.
pub(crate) struct Nemesis<'a> {
    arena: &'a mut Arena,
    log: &'a mut Log,
    dice: Dice,
    /// When the network heals, or else when it breaks next.
    network_at: Duration,
    is_cut: bool,
    process_at: Duration,
    /// Nodes that are started or go on again, and when.
    repairs: Vec<(Duration, usize)>,
    orders: Orders,
}

impl<'a> Nemesis<'a> {
    pub(crate) fn new(arena: &'a mut Arena, log: &'a mut Log, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let (first, second) = (dice.millis(300, 1500), dice.millis(300, 2500));
        let now = log.now();
        let orders = Orders::new(now + dice.millis(1500, 3000));
        Nemesis {
            arena,
            log,
            dice,
            network_at: now + first,
            is_cut: false,
            process_at: now + second,
            repairs: Vec::new(),
            orders,
        }
    }

    /// Plays for so long, then heals everything.
    pub(crate) fn play(&mut self, how_long: Duration) {
        let until = self.log.now() + how_long;
        while self.log.now() < until {
            let now = self.log.now();
            self.mind_processes(now);
            let calm = self.orders.wants_calm(now);
            let is_due = self.network_at <= now && (self.is_cut || !calm);
            if self.arena.network.is_some() && is_due {
                self.break_or_heal(now);
            }
            if self.process_at <= now && !calm {
                self.strike(now);
            }
            self.repair(now);
            self.orders.mind(now, self.arena, self.log, &mut self.dice);
            std::thread::sleep(TICK);
        }
        self.heal();
    }

    /// Everything goes on: no fault is left.
    fn heal(&mut self) {
        // First, so that what is healed is healed at once.
        self.orders.finish(self.arena, self.log);
        self.repairs.clear();
        for number in 0..self.arena.nodes.len() {
            self.bring_back(number);
        }
        self.arena.cut(&[]);
        self.log.note("everything is healed");
    }

    /// Nobody ends without having been told to.
    fn mind_processes(&mut self, now: Duration) {
        for (number, status) in self.arena.ended() {
            self.arena.judge_end(number, status, self.log);
            self.repairs.push((now + self.dice.millis(100, 1500), number));
        }
    }

    fn lasts(&mut self) -> Duration {
        let (from, to) = if self.dice.one_in(3) { SHORT_MS } else { LONG_MS };
        self.dice.millis(from, to)
    }

    fn break_or_heal(&mut self, now: Duration) {
        if self.is_cut {
            self.is_cut = false;
            self.network_at = now + self.dice.millis(100, 3000);
            self.arena.cut(&[]);
            return self.log.end("network");
        }
        let cut = CUTS[self.dice.below(CUTS.len() as u64) as usize];
        let Some((what, pairs)) = self.pairs(cut) else { return };
        self.arena.cut(&pairs);
        self.is_cut = true;
        self.network_at = now + self.lasts();
        self.log.begin("network", &format!("{cut:?}"), &what);
    }

    /// Who does not hear whom; in words, too.
    fn pairs(&mut self, cut: Cut) -> Option<(String, Vec<(usize, usize)>)> {
        let there = |arena: &Arena, lbs| -> Vec<usize> {
            let mut numbers = arena.numbers(lbs);
            numbers.retain(|number| arena.nodes[*number].is_there());
            numbers
        };
        let (mut servers, lbs) = (there(self.arena, false), there(self.arena, true));
        for place in (1..servers.len()).rev() {
            servers.swap(place, self.dice.below(place as u64 + 1) as usize);
        }
        let leader = self.arena.leader().unwrap_or(servers[0]);
        let both = |a: &[usize], b: &[usize]| -> Vec<(usize, usize)> {
            let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (*a, *b)));
            pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
        };
        let names = |numbers: &[usize]| {
            let names = numbers.iter().map(|number| self.arena.nodes[*number].name.as_str());
            names.collect::<Vec<_>>().join(" ")
        };
        Some(match cut {
            Cut::Halves => {
                let middle = servers.len() / 2;
                let (mut one, mut two) = (servers[..middle].to_vec(), servers[middle..].to_vec());
                for lb in lbs {
                    if self.dice.one_in(2) { &mut one } else { &mut two }.push(lb);
                }
                (format!("{} | {}", names(&one), names(&two)), both(&one, &two))
            }
            Cut::OneWay => {
                // Of the leader to one or to all, or of one to the leader.
                let others: Vec<_> = servers.iter().copied().filter(|s| *s != leader).collect();
                let (from, to) = match self.dice.below(3) {
                    0 => (vec![leader], others),
                    1 => (others, vec![leader]),
                    _ => (vec![servers[0]], vec![servers[1]]),
                };
                let pairs = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
                (format!("{} -x> {}", names(&from), names(&to)), pairs.collect())
            }
            Cut::LeaderAlone => {
                let mut others = servers;
                others.retain(|server| *server != leader);
                others.extend(lbs);
                (names(&[leader]), both(&[leader], &others))
            }
            Cut::LbFromLeader => {
                let lb = self.dice.pick(&lbs)?;
                (format!("{} | {}", names(&[lb]), names(&[leader])), both(&[lb], &[leader]))
            }
            Cut::Bridge => {
                let (bridge, rest) = servers.split_first()?;
                let (one, two) = rest.split_at(rest.len() / 2);
                let what = format!("{} - {} - {}", names(one), names(&[*bridge]), names(two));
                (what, both(one, two))
            }
        })
    }

    fn strike(&mut self, now: Duration) {
        self.process_at = now + self.dice.millis(200, 3500);
        let blow = BLOWS[self.dice.below(BLOWS.len() as u64) as usize];
        let running = self.arena.servers(Life::Runs);
        let leader = || self.arena.leader().filter(|leader| running.contains(leader));
        let victims = match blow {
            Blow::KillAll if self.dice.one_in(3) => running.clone(),
            Blow::KillAll => return,
            Blow::KillLeader | Blow::PauseLeader => leader().into_iter().collect(),
            Blow::Kill | Blow::Pause | Blow::Restart => {
                self.dice.pick(&running).into_iter().collect()
            }
            Blow::KillLb => {
                let mut lbs = self.arena.numbers(true);
                lbs.retain(|lb| self.arena.nodes[*lb].life == Life::Runs);
                self.dice.pick(&lbs).into_iter().collect()
            }
        };
        for number in victims {
            let name = self.arena.nodes[number].name.clone();
            let back = now + self.lasts();
            match blow {
                Blow::Pause | Blow::PauseLeader => self.arena.pause(number),
                // It is started again once it has ended.
                Blow::Restart => {
                    self.log.note_of("Restart", &format!("{name} is asked to end"));
                    self.arena.terminate(number);
                    continue;
                }
                _ => self.arena.kill(number),
            }
            self.log.begin(&name, &format!("{blow:?}"), &name);
            self.repairs.push((back, number));
        }
    }

    fn repair(&mut self, now: Duration) {
        let due: Vec<_> = self.repairs.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, number) in due {
            self.bring_back(number);
        }
    }

    fn bring_back(&mut self, number: usize) {
        match self.arena.nodes[number].life {
            Life::Runs | Life::Absent => return,
            Life::Stopped => self.arena.resume(number),
            Life::Down => self.arena.start(number),
        }
        self.log.end(&self.arena.nodes[number].name);
    }
}
