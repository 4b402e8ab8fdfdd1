//! Whatever goes wrong, and when it is over.

use raft::NodeId;

use crate::faults::Fault;
use crate::history::{Key, key_name};
use crate::host::DiskMode;
use crate::network::{Cut, lb_node};
use crate::operator::Wish;
use crate::process::Input;
use crate::queue::Micros;
use crate::rng::Rng;
use crate::world::{Event, World};

/// Clocks run at most this much fast or slow: two of them differ by less than
/// the 5 % that a lease allows for.
const DRIFT_PPM: u64 = 20_000;

const HOUR_MS: i64 = 3_600_000;

impl World {
    /// Time for the next fault. Each draws from a stream of its own, so that
    /// leaving one out changes no other.
    pub(crate) fn fault(&mut self) {
        if self.healed {
            return;
        }
        self.fault_number += 1;
        let rng = &mut Rng::new(self.plan.seed, 1_000 + self.fault_number);
        let gap = rng.around(self.plan.fault_gap).max(1_000);
        let length = rng.around(self.plan.fault_length).max(5_000);
        self.queue.push(self.now + gap, Event::Fault);
        let kinds: Vec<Fault> = self.plan.faults.iter().filter(|fault| fault.is_event()).collect();
        if kinds.is_empty() {
            return;
        }
        let fault = *rng.pick(&kinds);
        if self.allowed.has(fault) {
            self.out
                .watch
                .trace
                .note(|| format!("fault: {} for {} ms", fault.name(), length / 1000));
            self.inflict(fault, length, rng);
        }
    }

    fn inflict(&mut self, fault: Fault, length: Micros, rng: &mut Rng) {
        let host = rng.below(self.hosts.len() as u64) as usize;
        let leader = self.leader();
        match fault {
            Fault::Loss | Fault::Delay | Fault::Reorder | Fault::Duplicate | Fault::DeadAfter => {}
            Fault::Partition | Fault::OneWay | Fault::Bridge => {
                let cut = self.draw_cut(fault, rng);
                self.cut(cut, length);
            }
            Fault::IsolateLeader => {
                let Some(leader) = leader else { return };
                let others: Vec<usize> = (0..self.hosts.len()).filter(|h| *h != leader).collect();
                self.cut(Cut::between(&[leader], &others, true), length);
            }
            Fault::LinkLoss => {
                let other = rng.below(self.hosts.len() as u64) as usize;
                self.links.lose((host, other), self.now);
                self.lose_link(host, other);
                self.lose_link(other, host);
            }
            Fault::Crash => self.crash(host, length),
            Fault::CrashLeader => self.crash(leader.unwrap_or(host), length),
            Fault::CrashAll => {
                for host in 0..self.hosts.len() {
                    self.crash(host, rng.around(length) + 1);
                }
            }
            Fault::SlowSync => self.disk_mode(host, DiskMode::Slow, length),
            Fault::FailingSync => self.disk_mode(host, DiskMode::Failing, length),
            Fault::DiskFull => self.disk_mode(host, DiskMode::Full, length),
            Fault::Drift => {
                let rate = rng.between(1_000_000 - DRIFT_PPM, 1_000_000 + DRIFT_PPM);
                self.hosts[host].clock.set_rate(self.now, rate);
            }
            Fault::WallJump => {
                let by = rng.below(2 * HOUR_MS as u64) as i64 - HOUR_MS;
                self.hosts[host].clock.jump_wall(by);
            }
            Fault::Pause => self.pause(host, length),
            Fault::PauseLeader if rng.chance(300) => self.pause(leader.unwrap_or(host), length),
            Fault::PauseLeader => {
                let length = length + 2 * self.plan.election_max;
                self.pause_on_send = Some((leader.unwrap_or(host), length));
            }
            Fault::Transfer if !self.lbs.is_empty() && rng.chance(500) => {
                self.wish(Wish::Transfer, length);
            }
            Fault::Transfer => {
                if let Some(leader) = leader {
                    self.give(leader, Input::Transfer);
                }
            }
            Fault::Campaign => self.give(host, Input::Campaign),
            Fault::Churn => self.let_leave(host, length, rng),
            Fault::LbLoss => {
                let lb = rng.below(self.lbs.len() as u64) as usize;
                let forgets = rng.chance(500);
                match rng.chance(300) {
                    true => self.stop_lb(lb, length),
                    false => self.lose_lb(lb, length, forgets),
                }
            }
            Fault::LbCut => {
                let cut = self.draw_lb_cut(rng);
                self.cut(cut, length);
            }
            Fault::Wipe if self.can_spare(host) => self.wipe(host),
            Fault::BitRot if self.may_rot(host) => self.rot(host, length, rng),
            Fault::RotAnywhere => self.rot(host, length, rng),
            Fault::MemoryRot if self.may_rot(host) => self.rot_memory(host, rng),
            Fault::Rollback if self.may_put_back(host) => self.put_back(host, length),
            Fault::Wipe | Fault::BitRot | Fault::MemoryRot | Fault::Rollback => {}
        }
    }

    /// Something on a disk cannot be read any more. Mostly a restart finds it;
    /// otherwise whoever reads it, or nobody for long.
    fn rot(&mut self, host: usize, length: Micros, rng: &mut Rng) {
        let disk = &mut self.hosts[host].disk;
        let Some(what) = disk.id.and_then(|_| disk.damage(rng)) else { return };
        self.out.watch.trace.note(|| format!("bits rot on h{host}: {what}"));
        if rng.chance(700) {
            self.crash(host, length);
        }
    }

    /// A bit of an item flips. Not of the one that is written at the end, when
    /// nothing may happen any more.
    fn rot_memory(&mut self, host: usize, rng: &mut Rng) {
        let keys = (self.plan.work.registers + self.plan.work.counters) as Key;
        let key = rng.between(1, u64::from(keys) - 1) as Key;
        let Some(process) = &mut self.hosts[host].process else { return };
        if process.driver.rot(&key_name(key)) {
            process.rotten = true;
            self.out.watch.trace.note(|| format!("a bit of k{key} flips in the memory of h{host}"));
        }
    }

    /// The worst moment: the host stops when its questions have left, and
    /// its network is gone for longer, once the answers are there. When it
    /// goes on it hears those, and nothing of what it has missed.
    pub(crate) fn pause_mid_question(&mut self, host: usize, length: Micros) {
        self.pause(host, length);
        let others: Vec<usize> = (0..self.hosts.len()).filter(|other| *other != host).collect();
        let after = 4 * self.plan.network.latency + 2 * self.plan.disk.sync;
        let cut = Cut::between(&[host], &others, true);
        self.queue.push(self.now + after, Event::Cut(cut, length * 2));
    }

    fn draw_cut(&mut self, fault: Fault, rng: &mut Rng) -> Cut {
        let lbs = (0..self.lbs.len()).map(lb_node);
        let mut order: Vec<usize> = (0..self.hosts.len()).chain(lbs).collect();
        for position in (1..order.len()).rev() {
            order.swap(position, rng.below(position as u64 + 1) as usize);
        }
        let at = if order.len() < 2 { 0 } else { rng.between(1, order.len() as u64 - 1) as usize };
        let (one, other) = order.split_at(at);
        match fault {
            Fault::Bridge => Cut::between(one, other.get(1..).unwrap_or(&[]), true),
            Fault::OneWay => Cut::between(one, other, false),
            _ => Cut::between(one, other, true),
        }
    }

    /// One load balancer and some hosts, one way or both.
    fn draw_lb_cut(&self, rng: &mut Rng) -> Cut {
        let lb = [lb_node(rng.below(self.lbs.len() as u64) as usize)];
        let share = *rng.pick(&[300, 700, 1000]);
        let hosts: Vec<usize> = (0..self.hosts.len()).filter(|_| rng.chance(share)).collect();
        match rng.below(3) {
            0 => Cut::between(&lb, &hosts, false),
            1 => Cut::between(&hosts, &lb, false),
            _ => Cut::between(&lb, &hosts, true),
        }
    }

    pub(crate) fn cut(&mut self, cut: Cut, length: Micros) {
        self.out.watch.trace.note(|| format!("links cut: {:?}", cut.0));
        self.network.cut(&cut);
        self.queue.push(self.now + length, Event::Mend(cut));
    }

    fn lose_link(&mut self, host: usize, to: usize) {
        let peer: Option<NodeId> = self.hosts[to].disk.id;
        if let Some(peer) = peer.filter(|_| host != to) {
            self.give(host, Input::LinkLost(peer));
        }
    }

    fn disk_mode(&mut self, host: usize, mode: DiskMode, length: Micros) {
        self.hosts[host].disk_mode = mode;
        self.queue.push(self.now + length, Event::DiskFine { host });
    }
}
