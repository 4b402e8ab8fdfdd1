//! The load balancers: the product's own state machine, with a disk, links and
//! a clock that are simulated.

use std::time::Duration;

use common::ids::{ClusterId, FolderId, ServerId};
use lb::Balancer;
use lb::balancer::{Input, Output, Settings};
use lb::memory::Memory;

use crate::bugs::Bug;
use crate::client_port::ClientPort;
use crate::clients::Answer;
use crate::control::micros;
use crate::plan::Plan;
use crate::queue::Micros;

use crate::world::{Event, World};

/// How long a server may take to answer at the address that it gives.
const PROBE: Micros = 3_000_000;

/// A load balancer that cannot be started yet is tried again so soon.
const RETRY: Micros = 50_000;

/// One load balancer, running or not.
#[derive(Default)]
pub(crate) struct Lb {
    pub(crate) balancer: Option<Balancer>,
    /// There while the balancer is.
    pub(crate) port: Option<ClientPort>,
    pub(crate) started_at: Micros,
    /// Counts its lives: what was scheduled for an earlier one is void.
    pub(crate) life: u32,
    disk: Memory,
    /// What is being written.
    writing: Option<Memory>,
}

impl Lb {
    /// One that knows its cluster from before.
    pub(crate) fn remembering(memory: Memory) -> Self {
        Lb { disk: memory, ..Lb::default() }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.balancer.is_some()
    }
}

fn settings(plan: &Plan, lb: usize, life: u32) -> Settings {
    Settings {
        name: format!("lb-{}", lb + 1),
        pid: 0,
        expect: plan.servers,
        // Another one for each life of each load balancer.
        cluster_to_form: ClusterId(u128::from(life) << 32 | (lb as u128 + 1) << 8),
        config_version: 1,
    }
}

impl World {
    pub(crate) fn start_lb(&mut self, lb: usize, life: u32) {
        if self.lbs[lb].life != life || self.lbs[lb].is_up() {
            return;
        }
        let forgot = self.lbs[lb].disk.cluster.is_none();
        let witness = self.witness(lb);
        if forgot && self.now > 0 && !self.may_start_without_memory(witness) {
            let again = Event::LbStart { lb, life };
            return self.queue.push(self.now + RETRY, again);
        }
        if forgot && self.now > 0 && witness.is_none() {
            // Fresh servers may have heard of a cluster that nobody knows any
            // more, and would wait for it: they are started anew.
            for host in 0..self.hosts.len() {
                self.crash(host, 1);
            }
        }
        let at = &mut self.lbs[lb];
        let mut balancer = Balancer::new(settings(&self.plan, lb, life), at.disk.clone());
        if let Some(Bug::Balancer(bug)) = self.bug {
            balancer.plant(bug);
        }
        at.balancer = Some(balancer);
        at.port = Some(ClientPort::new(&self.plan, lb, life, self.bug));
        at.started_at = self.now;
        self.out.watch.trace.note(|| format!("lb-{} starts", lb + 1));
        if forgot && let Some(host) = witness {
            self.introduce(host, lb);
        }
    }

    /// Whoever waits to be started waits no longer than it must.
    pub(crate) fn start_lb_now(&mut self, lb: usize) {
        let life = self.lbs[lb].life;
        self.start_lb(lb, life);
    }

    /// A member that can speak to a load balancer right now.
    fn witness(&self, lb: usize) -> Option<usize> {
        let lb = crate::network::lb_node(lb);
        let speaks = |host: &usize| {
            let at = &self.hosts[*host];
            at.is_awake()
                && !at.unlisted
                && at.disk.id.is_some_and(|id| self.is_member(id))
                && !self.network.is_cut(*host, lb)
                && !self.network.is_cut(lb, *host)
        };
        (0..self.hosts.len()).find(speaks)
    }

    /// Losing the memory is safe as long as a member of the cluster reports
    /// within a second of the start: nobody can promise more. So that is when a
    /// load balancer without memory is started here; or when there is no
    /// cluster, and nobody is about to be taken into one.
    fn may_start_without_memory(&self, witness: Option<usize>) -> bool {
        let exists = self.hosts.iter().any(|host| host.disk.cluster.is_some());
        if exists { witness.is_some() } else { !self.control.brings_adoption() }
    }

    /// A load balancer is gone for a while, and remembers everything or
    /// nothing.
    pub(crate) fn lose_lb(&mut self, lb: usize, length: Micros, forgets: bool) {
        let Some(at) = self.lbs.get_mut(lb).filter(|at| at.is_up()) else { return };
        at.balancer = None;
        let port = at.port.take();
        at.life += 1;
        let life = at.life;
        // What was being written is there, or not.
        if let Some(memory) = at.writing.take().filter(|_| self.disk_rng.chance(500)) {
            at.disk = memory;
        }
        if forgets {
            at.disk = Memory::default();
        }
        let with = if forgets { "with its memory" } else { "not its memory" };
        self.out.watch.trace.note(|| format!("lb-{} is lost, {with}", lb + 1));
        self.break_connections(port);
        self.lose_links_to(lb);
        self.lose_operators_of(lb);
        let again = Event::LbStart { lb, life };
        self.queue.push(self.now + length.max(RETRY), again);
    }

    /// The load balancer that clients were connected to is gone.
    fn break_connections(&mut self, port: Option<ClientPort>) {
        for batch in port.map_or(Vec::new(), ClientPort::kill) {
            let at = self.now + self.network.client_latency();
            self.queue.push(at, Event::Answer { batch, answer: Answer::Broken });
        }
    }

    /// Gives a load balancer something, and does what it says.
    pub(crate) fn balance(&mut self, lb: usize, input: Input) {
        if let Input::Closed { link, .. } = &input {
            self.router_loses(lb, *link);
        }
        let at = &mut self.lbs[lb];
        let Some(balancer) = &mut at.balancer else { return };
        let outputs = balancer.handle(Duration::from_micros(self.now - at.started_at), input);
        let life = at.life;
        self.follow_balancer(lb);
        for output in outputs {
            match output {
                Output::Send { link, message } if self.is_operator(link) => {
                    self.operator_hears(link, message);
                }
                Output::Send { link, message } => self.say_to_host(link, message),
                Output::Close { link, .. } => {
                    self.router_loses(lb, link);
                    self.close_link(link);
                }
                Output::Probe { folder, peer } => self.reach(lb, folder, peer),
                Output::Persist(memory) => {
                    let at = self.now + self.disk_rng.between(100, 20_000);
                    self.lbs[lb].writing = Some(memory);
                    self.queue.push(at, Event::LbPersisted { lb, life });
                }
                Output::Log(event) => {
                    self.out.watch.trace.note(|| format!("lb-{}: {}", lb + 1, event.text));
                }
            }
        }
    }

    pub(crate) fn lb_persisted(&mut self, lb: usize, life: u32) {
        if self.lbs[lb].life != life {
            return;
        }
        let refuses = self.lb_forms_cluster() && !self.healed && self.disk_rng.chance(100);
        let Some(memory) = self.lbs[lb].writing.take() else { return };
        let result = if refuses {
            Err("no space left on device".to_owned())
        } else {
            self.lbs[lb].disk = memory;
            Ok(())
        };
        self.balance(lb, Input::Persisted(result));
    }

    /// Dials a server at the address that it gives to others.
    fn reach(&mut self, lb: usize, folder: FolderId, peer: std::net::SocketAddr) {
        let life = self.lbs[lb].life;
        let host = self.hosts.iter().find(|host| host.member_info().peer == peer);
        let node = crate::network::lb_node(lb);
        let there = host.filter(|host| {
            let up = host.process.is_some() || host.is_fresh_and_up(self.now);
            let reached =
                !self.network.is_cut(node, host.number) && !self.network.is_cut(host.number, node);
            up && reached
        });
        let (after, result) = match there {
            Some(host) if host.member_info().folder == folder => {
                (2 * self.network.client_latency(), Ok(()))
            }
            Some(_) => {
                (2 * self.network.client_latency(), Err("somebody else answered".to_owned()))
            }
            None => (PROBE, Err("nobody answered".to_owned())),
        };
        let probed = Box::new(Input::Probed { folder, peer, result });
        self.queue.push(self.now + after, Event::Probed { lb, life, probed });
    }

    pub(crate) fn probed(&mut self, lb: usize, life: u32, probed: Input) {
        if self.lbs[lb].life == life {
            self.balance(lb, probed);
        }
    }

    /// Carries out what a turn has for load balancers, or has from them.
    pub(crate) fn settle_with_lbs(&mut self, host: usize) {
        for (link, frame) in std::mem::take(&mut self.out.routed) {
            self.frame_to_lb(link, frame);
        }
        let Some(process) = &mut self.hosts[host].process else { return };
        let changed = std::mem::take(&mut process.actions.changed);
        for (lb, message) in std::mem::take(&mut process.to_lbs) {
            self.tell_lb(host, lb, message);
        }
        if changed {
            self.confirm_run(host);
            self.report_change(host);
        }
        let Some(process) = &mut self.hosts[host].process else { return };
        let rejoins_as: Option<ServerId> = process.rejoins_as;
        if process.refused {
            if process.dismissed {
                self.hosts[host].disk.runs.confirm_last();
            }
            self.die(host, "a load balancer refuses it");
        } else if let Some(id) = rejoins_as {
            self.rejoin(host, id);
        }
    }

    /// Whether the load balancers are what forms the cluster.
    pub(crate) fn lb_forms_cluster(&self) -> bool {
        self.allowed.has(crate::faults::Fault::LbLoss)
    }

    /// When the cluster that a load balancer forms is just there: a second
    /// after its start, in which members of another one could have spoken.
    pub(crate) fn founding_time(&self) -> Micros {
        micros(lb::bootstrap::BOOTSTRAP_WAIT)
    }
}
