//! Starting, crashing, pausing and wiping hosts.

use raft::{Config, NodeId, Restored};
use server::command::Payload;
use server::driver::{Driver, IntegrityOptions, Node};
use server::keystore::Keystore;
use server::recovery::{self, Decision};

use crate::bugs::Bug;
use crate::disk::Disk;
use crate::host::DiskMode;
use crate::network::Cut;
use crate::process::Process;
use crate::queue::Micros;
use crate::world::{Event, World};

/// A server whose disk was full is started again so often.
const RETRY: Micros = 300_000;

impl World {
    /// Starts the server on a host, if its folder belongs to a cluster.
    pub(crate) fn start(&mut self, host: usize) {
        if self.hosts[host].process.is_some() {
            return;
        }
        let Some(id) = self.hosts[host].disk.id else { return };
        self.hosts[host].begin_run();
        if self.hosts[host].put_back && !self.is_taken(host, id) {
            return;
        }
        let now = self.hosts[host].clock.now(self.now);
        let Some((restored, mut keystore)) = self.recover(host, id) else { return };
        self.prepare(&mut keystore);
        let config = self.config(host);
        let checkpoint = restored.snapshot.index;
        let node = Node::new(now.mono_us, config, restored.clone());
        self.out.watch.started(&node, &restored);
        // Another one for each life of each host.
        let session_seed = (host as u64) << 32 | u64::from(self.hosts[host].life);
        let facts = self.hosts[host].facts(now.wall_ms, session_seed);
        let mut driver = Driver::new(node, keystore, facts);
        let interval_us = self.plan.check_interval;
        driver.set_integrity(IntegrityOptions { interval_us, ..IntegrityOptions::default() });
        let at = &mut self.hosts[host];
        at.life += 1;
        at.paused = false;
        at.process = Some(Process::new(id, driver, checkpoint, self.out.ways));
        self.links.lose_all(host, self.now);
        self.out.watch.trace.note(|| {
            let last = checkpoint + restored.entries.len() as u64;
            format!(
                "h{host} starts {id}: {:?}, checkpoint {checkpoint}, log up to {last}, commit {}, \
                 floor {:?}",
                restored.hard_state, restored.commit, restored.floor
            )
        });
        self.turn(host);
    }

    /// Makes a keystore that was read what it is in this run.
    pub(crate) fn prepare(&self, keystore: &mut Keystore) {
        keystore.limit_sessions(self.plan.session_limits());
        if let Some(bug) = self.bug {
            bug.plant_in(keystore);
        }
    }

    /// Reads the disk, and repairs it as the server does. `None` when the
    /// server cannot start.
    fn recover(&mut self, host: usize, id: NodeId) -> Option<(Restored<Payload>, Keystore)> {
        let disk = &mut self.hosts[host].disk;
        match recovery::decide(disk.found(id)) {
            Decision::Start(recovery) if disk.is_damaged() && self.disk_rng.chance(150) => {
                // The floor is recorded first, and the damage filled later.
                disk.floor = recovery.restored.floor;
                self.out.watch.trace.note(|| format!("h{host} stops in the middle of its repair"));
                let life = self.hosts[host].life;
                self.queue.push(self.now + RETRY, Event::Start { host, life });
                None
            }
            Decision::Start(mut recovery) => {
                if self.bug == Some(Bug::DamageForTear) {
                    recovery.restored.floor = None;
                }
                disk.repair(&recovery);
                for note in &recovery.notes {
                    self.out.watch.trace.note(|| format!("h{host} finds damage: {note}"));
                }
                Some((recovery.restored, self.hosts[host].disk.keystore()))
            }
            Decision::Amnesia(why) => {
                self.out.watch.trace.note(|| format!("h{host} cannot be {id} any more: {why}"));
                if !self.rots_anywhere() {
                    self.wipe(host);
                }
                None
            }
            Decision::Refuse(why) => {
                self.out.watch.trace.note(|| format!("h{host} cannot start {id}: {why}"));
                None
            }
        }
    }

    fn config(&self, host: usize) -> Config {
        let plan = &self.plan;
        let at = &self.hosts[host];
        let id = at.disk.id.unwrap_or(NodeId(0));
        let seed = plan.seed ^ (u64::from(at.life) << 20) ^ host as u64;
        let mut config = Config {
            election_timeout_min_us: plan.election_min,
            election_timeout_max_us: plan.election_max,
            heartbeat_us: plan.heartbeat,
            lease_reads: plan.lease_reads,
            promote_lag: plan.promote_lag,
            ..Config::new(id, seed)
        };
        if plan.tight {
            config.max_append_bytes = 200;
            config.window_bytes = 800;
            config.append_full_bytes = 100;
            config.cache_bytes = 1_000;
            config.max_uncommitted_bytes = 4_000;
        }
        if let Some(bug) = self.bug {
            bug.plant(&mut config);
        }
        config
    }

    /// The process ends by itself.
    pub(crate) fn die(&mut self, host: usize, why: &'static str) {
        self.out.watch.trace.note(|| format!("h{host} ends: {why}"));
        self.crash(host, RETRY);
    }

    /// The data in memory is known to be wrong. What is on the disk came from
    /// there: the server starts over with what the others have.
    pub(crate) fn give_up_data(&mut self, host: usize, why: &'static str) {
        self.ending.begin_again();
        self.hosts[host].disk.damage_checkpoint(&mut self.disk_rng);
        self.die(host, why);
    }

    /// The process is gone; the disk keeps what was synced, and perhaps more.
    /// It comes back after `down`.
    pub(crate) fn crash(&mut self, host: usize, down: Micros) {
        if self.hosts[host].is_fresh_and_up(self.now) {
            self.out.watch.trace.note(|| format!("h{host} crashes, a fresh one"));
            self.hosts[host].fresh_from = self.now + down.max(1);
            self.hosts[host].heard_of = None;
            self.hosts[host].heard.clear();
            self.hosts[host].begin_fresh_run();
            self.lose_links_of(host);
            return;
        }
        let Some(life) = self.stop_process(host) else { return };
        self.lose_links_of(host);
        self.queue.push(self.now + down.max(1), Event::Start { host, life });
    }

    /// Ends a process, and gives the number of the next life.
    pub(crate) fn stop_process(&mut self, host: usize) -> Option<u32> {
        let process = self.hosts[host].process.take()?;
        let id = process.id;
        self.out.watch.trace.note(|| format!("h{host} crashes, {id} with it"));
        let broken = process.kill();
        let at = &mut self.hosts[host];
        at.life += 1;
        at.paused = false;
        if at.disk_mode == DiskMode::Failing {
            // Once is enough: it would only fail again and again.
            at.disk_mode = DiskMode::Fine;
        }
        at.disk.crash(&mut self.disk_rng);
        let life = at.life;
        self.keep_for_later(host);
        for batch in broken {
            let at = self.now + self.network.client_latency();
            self.queue.push(at, Event::Answer { batch, answer: crate::clients::Answer::Broken });
        }
        self.links.lose_all(host, self.now);
        self.break_links(id, host);
        Some(life)
    }

    /// The others notice some time later that a process is gone.
    fn break_links(&mut self, id: NodeId, host: usize) {
        for other in 0..self.hosts.len() {
            if other != host && self.hosts[other].process.is_some() {
                let at = self.now + self.disk_rng.between(1_000, 600_000);
                let life = self.hosts[other].life;
                self.queue.push(at, Event::LinkLost { host: other, life, peer: id });
            }
        }
    }

    /// The folder is gone, and the process with it: a fresh host.
    pub(crate) fn wipe(&mut self, host: usize) {
        self.crash(host, 1);
        self.out.watch.trace.note(|| format!("h{host} has lost its disk"));
        self.hosts[host].begin_anew(Disk::empty(self.bug == Some(Bug::VoteNotSynced)));
        self.forget_lost();
    }

    pub(crate) fn pause(&mut self, host: usize, length: Micros) {
        if self.hosts[host].process.is_some() && !self.hosts[host].paused {
            self.out.watch.trace.note(|| format!("h{host} stops for {} ms", length / 1000));
            self.hosts[host].paused = true;
            let life = self.hosts[host].life;
            self.queue.push(self.now + length, Event::Resume { host, life });
        }
    }

    pub(crate) fn resume(&mut self, host: usize) {
        if std::mem::take(&mut self.hosts[host].paused) {
            self.out.watch.trace.note(|| format!("h{host} goes on"));
            if self.hosts[host].is_awake() {
                self.turn(host);
            }
        }
    }

    pub(crate) fn mend(&mut self, cut: &Cut) {
        self.out.watch.trace.note(|| format!("links mended: {:?}", cut.0));
        self.network.mend(cut);
    }
}
