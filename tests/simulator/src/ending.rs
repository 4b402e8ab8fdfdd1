//! The end of a run: everything heals, and the cluster has to recover.

use common::memcached::{self, Reply, Request, StoreVerb};
use server::keystore::sessions::Sessions;

use crate::clients::Answer;
use crate::history::{Action, Key, OpId, Outcome, Write};
use crate::oracle::{Model, Violation, search, witness};
use crate::queue::Micros;
use crate::world::{Event, World};

/// The clients go on for so long after healing.
const MORE_WORK: Micros = 500_000;

/// Within so long of healing everything has to be well.
const RECOVERY: Micros = 30_000_000;

/// So long it may try where data may be lost for good.
const PATIENCE: Micros = 5_000_000;

/// Then nothing may disturb the leader for so long.
const STEADY: Micros = 2_000_000;

const LOOK_EVERY: Micros = 20_000;

/// How far the recovery is.
#[derive(Default)]
pub(crate) struct Ending {
    healed_at: Micros,
    stage: Stage,
    /// The reads between the rounds.
    census: Vec<OpId>,
}

#[derive(Default)]
enum Stage {
    /// Replicas have to agree.
    #[default]
    Settling,
    /// Every server is asked to write and read.
    Probing(Vec<u64>),
    /// The term may not change any more.
    Steady {
        since: Micros,
        term: raft::Term,
    },
    /// The leader is asked for a session by a client.
    Asking(u64),
    /// One read of everything, of what the next round begins with.
    Census(u64),
    Over,
}

impl Ending {
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// A fault of before was noticed only now: the cluster recovers from that
    /// first, in the time that it has.
    pub(crate) fn begin_again(&mut self) {
        if !self.is_over() {
            self.stage = Stage::Settling;
        }
    }

    pub(crate) fn clients_stop(&self, now: Micros) -> bool {
        now >= self.healed_at + MORE_WORK
    }
}

impl World {
    /// No fault is left, and none will come.
    pub(crate) fn heal(&mut self) {
        self.out.watch.trace.note(|| "everything heals".to_owned());
        self.healed = true;
        self.network.heal();
        for host in 0..self.hosts.len() {
            self.hosts[host].disk_mode = crate::host::DiskMode::Fine;
            self.hosts[host].clock.set_rate(self.now, 1_000_000);
            self.resume(host);
            self.hosts[host].fresh_from = 0;
            self.start(host);
        }
        for lb in 0..self.lbs.len() {
            self.start_lb_now(lb);
        }
        self.give_up_transfers();
        self.ending.healed_at = self.now;
        self.queue.push(self.now + MORE_WORK, Event::Ending);
    }

    /// Whether the cluster is well by now.
    pub(crate) fn look_at_the_end(&mut self) {
        if !self.healed {
            return;
        }
        self.queue.push(self.now + LOOK_EVERY, Event::Ending);
        if self.rots_anywhere() && self.now > self.ending.healed_at + PATIENCE {
            // What is lost for good may hold everything up. What was served
            // must be right all the same.
            self.ending.stage = Stage::Over;
            return self.judge();
        }
        if self.now > self.ending.healed_at + RECOVERY {
            let why = self.what_is_missing().unwrap_or("requests still fail");
            return self.fail("the cluster recovers", format!("30 s after healing: {why}"));
        }
        match &self.ending.stage {
            Stage::Settling if self.what_is_missing().is_none() => {
                let batches = self.probe();
                self.ending.stage = Stage::Probing(batches);
            }
            Stage::Probing(batches) if !batches.iter().any(|batch| self.clients.is_out(*batch)) => {
                let term = self.members().map(|host| self.term_of(host)).max().unwrap_or(0);
                // Those of removed servers need an answer only.
                let count = self.members().count() + self.lbs.len();
                let served = batches.iter().take(count).all(|batch| self.is_served(*batch));
                self.ending.stage = match served {
                    true => Stage::Steady { since: self.now, term },
                    false => Stage::Settling,
                };
            }
            Stage::Steady { since, term } => {
                let (since, term) = (*since, *term);
                if self.members().any(|host| self.term_of(host) != term) {
                    let what = format!("term {term} did not last, though no fault was left");
                    return self.fail("leadership is steady", what);
                }
                let usurper = self.strays().find(|host| self.leads(*host));
                if let Some(host) = usurper {
                    let what = format!("h{host} leads, though it was removed");
                    return self.fail("leadership is steady", what);
                }
                if self.now >= since + STEADY {
                    self.ask_for_session();
                }
            }
            Stage::Asking(batch) => {
                let batch = *batch;
                if let Some(answer) = self.clients.take_asked(batch) {
                    self.session_asked(&answer);
                }
            }
            Stage::Census(batch) if !self.clients.is_out(*batch) => {
                let batch = *batch;
                match self.is_served(batch) {
                    true => self.next_round(),
                    false => self.ending.stage = Stage::Settling,
                }
            }
            Stage::Settling | Stage::Probing(_) | Stage::Census(_) | Stage::Over => {}
        }
    }

    /// By now all sessions rest for longer than they are spared.
    fn ask_for_session(&mut self) {
        let Some(leader) = self.leader() else { return };
        let (batch, requests) = self.clients.ask_for_session(1 << 63 | self.now);
        self.send_batch(leader, batch, requests);
        self.ending.stage = Stage::Asking(batch);
    }

    /// Whoever asks for a session while there are unused ones gets it.
    fn session_asked(&mut self, answer: &Answer) {
        let refusal = memcached::TOO_MANY_SESSIONS.as_bytes();
        match answer {
            Answer::Replies(text) if text[..] == *b"OK\r\n" => self.end_round(),
            Answer::Replies(text) if text.starts_with(refusal) => {
                let what = format!("refused {} s after the last use", STEADY / 1_000_000);
                self.fail("a client gets a session while some rest", what);
            }
            _ => self.ending.stage = Stage::Settling,
        }
    }

    /// The cluster has recovered: that was all, or faults begin anew.
    fn end_round(&mut self) {
        let Some(leader) = self.leader().filter(|_| self.now < self.plan.churn_until) else {
            self.ending.stage = Stage::Over;
            return self.judge();
        };
        let when = self.when();
        let actions = vec![(Action::Get { keys: self.keys(), with_cas: false }, false)];
        let client = self.plan.work.clients + leader;
        self.ending.census.push(self.clients.history.ops.len() as OpId);
        let (batch, requests) = self.clients.send(client, when, actions);
        self.send_batch(leader, batch, requests);
        self.ending.stage = Stage::Census(batch);
    }

    fn next_round(&mut self) {
        self.round += 1;
        self.out.watch.trace.note(|| format!("round {} begins", self.round));
        self.healed = false;
        self.ending.stage = Stage::Settling;
        let length = self.plan.next_round(self.round);
        self.allowed = self.allowed_ever.and(self.plan.faults);
        self.network.change(self.plan.network.clone(), self.allowed);
        for host in &mut self.hosts {
            // Whoever was removed may come back now.
            host.unlisted = false;
        }
        self.wake_clients();
        self.queue.push(self.now + self.plan.fault_gap, Event::Fault);
        self.queue.push(self.now + length, Event::Heal);
    }

    fn keys(&self) -> Vec<Key> {
        (0..(self.plan.work.registers + self.plan.work.counters) as Key).collect()
    }

    fn leads(&self, host: usize) -> bool {
        self.hosts[host].driver().is_some_and(|driver| driver.is_leader())
    }

    fn term_of(&self, host: usize) -> raft::Term {
        self.hosts[host].driver().map_or(0, |driver| driver.node().term())
    }

    /// The hosts of the committed membership.
    fn members(&self) -> impl Iterator<Item = usize> + '_ {
        let members = &self.out.watch.membership.1.members;
        members.keys().filter_map(|id| self.homes.get(id).copied())
    }

    fn what_is_missing(&self) -> Option<&'static str> {
        if self.clients.waiting() > 0 {
            return Some("requests wait for their answers");
        }
        if !self.lbs.is_empty() && !self.routers_are_idle() {
            return Some("a load balancer has something left to answer, or is away");
        }
        if !self.membership_is_settled() {
            return Some("the membership is not settled");
        }
        if self.leader().is_none() {
            return Some("nobody leads");
        }
        let count = self.out.watch.log.len() as u64;
        let up_to_date = |host: usize| {
            self.hosts[host].driver().is_some_and(|driver| {
                let status = driver.node().status();
                driver.keystore().applied() == count && status.last_index == count
            })
        };
        if !self.members().all(up_to_date) {
            return Some("replicas have not applied the same");
        }
        let digests =
            |host: usize| self.hosts[host].driver().map(|driver| driver.keystore().digest());
        let mut digests = self.members().map(digests);
        let first = digests.next();
        if first.is_some_and(|first| digests.any(|digest| digest != first)) {
            return Some("replicas differ, and have not noticed it");
        }
        None
    }

    /// A write and a read of everything on every member, and by every load
    /// balancer; then on servers that were removed, whose clients must not wait
    /// for ever.
    fn probe(&mut self) -> Vec<u64> {
        let members: Vec<usize> = self.members().collect();
        let strays: Vec<usize> = self.strays().collect();
        let mut batches = Vec::new();
        for host in members {
            batches.push(self.probe_host(host));
        }
        for lb in 0..self.lbs.len() {
            let client = self.plan.work.clients + self.hosts.len() + lb;
            let (batch, requests) = self.ask_for_all(client, &format!("lb-{}", lb + 1));
            self.send_to_lb(lb, batch, requests);
            batches.push(batch);
        }
        for host in strays {
            batches.push(self.probe_host(host));
        }
        batches
    }

    fn probe_host(&mut self, host: usize) -> u64 {
        let client = self.plan.work.clients + host;
        let (batch, requests) = self.ask_for_all(client, &format!("h{host}"));
        self.send_batch(host, batch, requests);
        batch
    }

    /// A write and a read of everything.
    fn ask_for_all(&mut self, client: usize, name: &str) -> (u64, Vec<Request>) {
        let when = self.when();
        let value = format!("probe of {name} at {}", self.now).into();
        let write = Write::Store { verb: StoreVerb::Set, value, expected: None };
        let actions = vec![
            (Action::Write { key: 0, write }, false),
            (Action::Get { keys: self.keys(), with_cas: true }, false),
        ];
        self.clients.send(client, when, actions)
    }

    fn is_served(&self, batch: u64) -> bool {
        let ops = self.clients.history.ops.iter().rev().take_while(|op| op.batch >= batch);
        ops.filter(|op| op.batch == batch)
            .all(|op| matches!(op.outcome, Outcome::Replied(Reply::Stored) | Outcome::Values(_)))
    }

    /// The oracle's verdict.
    fn judge(&mut self) {
        if let Err(violation) = self.verdict() {
            self.out.watch.fail(violation);
        }
    }

    fn verdict(&self) -> Result<(), Violation> {
        let history = &self.clients.history;
        let model = witness::check(history, &self.out.watch.log, self.plan.session_limits())?;
        search::check_rounds(history, &self.ending.census)?;
        let count = self.out.watch.log.len() as u64;
        let complete = |host: &usize| {
            self.hosts[*host].driver().is_some_and(|driver| driver.keystore().applied() == count)
        };
        for host in self.members().filter(complete) {
            self.compare(host, &model)?;
        }
        self.compare_sessions(self.members().filter(complete))
    }

    /// The tables of sessions, with the order of their uses, which the digest
    /// leaves out.
    fn compare_sessions(&self, mut hosts: impl Iterator<Item = usize>) -> Result<(), Violation> {
        let sessions =
            |host: usize| self.hosts[host].driver().map(|driver| driver.keystore().sessions());
        let Some(first) = hosts.next() else { return Ok(()) };
        match hosts.find(|other| sessions(*other) != sessions(first)) {
            None => Ok(()),
            Some(other) => {
                let uses = |host| -> Vec<_> {
                    let uses = sessions(host).into_iter().flat_map(Sessions::uses);
                    uses.map(|(id, last)| format!("{id:x} at {}", last.index)).collect()
                };
                let what = format!("h{first} has {:?}, h{other} {:?}", uses(first), uses(other));
                Err(Violation::new("replicas have the same sessions", what))
            }
        }
    }

    /// A replica's keystore against what the log leads to.
    fn compare(&self, host: usize, model: &Model) -> Result<(), Violation> {
        const RULE: &str = "replicas hold the same";
        let Some(driver) = self.hosts[host].driver() else { return Ok(()) };
        let keystore = driver.keystore();
        let (count, cas) = (keystore.len(), keystore.cas_counter());
        if (count, cas) != (model.items.len() as u64, model.cas) {
            let what = format!(
                "h{host} has {count} items and cas {cas}, the log leads to {} and {}",
                model.items.len(),
                model.cas
            );
            return Err(Violation::new(RULE, what));
        }
        for (key, item) in &model.items {
            let held = keystore.get(&crate::history::key_name(*key));
            let same = held.is_some_and(|held| {
                (held.value, held.flags, held.cas) == (&item.value[..], item.flags, item.cas)
            });
            if !same {
                let what =
                    format!("h{host} holds {held:?} under k{key}, the log leads to {item:?}");
                return Err(Violation::new(RULE, what));
            }
        }
        Ok(())
    }
}
