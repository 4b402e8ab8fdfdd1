//! The run itself: hosts, network, clients and faults on one queue of events.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use common::ids::ClusterId;
use common::memcached::Request;
use lb::memory::Memory;
use lb::registry::LinkId;
use raft::{Fetch, Membership, NodeId, SnapshotMeta};
use server::membership::Rules;

use crate::balancers::Lb;
use crate::bugs::Bug;
use crate::clients::{Answer, Clients};
use crate::control::Control;
use crate::disk::Disk;
use crate::ending::Ending;
use crate::faults::{Fault, FaultSet};
use crate::host::{DiskMode, Host, Outgoing, Ways};
use crate::links::Links;
use crate::network::{Cut, Lane, Network};
use crate::operator::Operators;
use crate::oracle::Violation;
use crate::plan::Plan;
use crate::process::{Input, Process};
use crate::queue::{Micros, Queue};
use crate::rng::Rng;
use crate::routing::{Customers, Way};
use crate::trace::Trace;
use crate::watch::Watch;

/// What is going to happen. `life` names the life of the host that it
/// belongs to.
pub(crate) enum Event {
    Frame {
        from: (usize, NodeId),
        to: (usize, NodeId),
        lane: Lane,
        frame: Bytes,
        /// How many messages in a row this one is the last of.
        chain: u32,
    },
    Timer {
        host: usize,
        life: u32,
    },
    DiskDone {
        host: usize,
        life: u32,
    },
    Fetched {
        host: usize,
        life: u32,
        fetch: Fetch,
    },
    Checkpointed {
        host: usize,
        life: u32,
        checkpoint: Box<(SnapshotMeta, Vec<u8>)>,
    },
    /// The oldest piece of work on snapshots is due.
    SnapshotWork {
        host: usize,
        life: u32,
    },
    /// The snapshot is under its name; the log is to be restarted behind it.
    SnapshotPlaced {
        host: usize,
        life: u32,
        placed: Box<(SnapshotMeta, u64, Option<server::keystore::Keystore>)>,
    },
    LinkLost {
        host: usize,
        life: u32,
        peer: NodeId,
    },
    Start {
        host: usize,
        life: u32,
    },
    Resume {
        host: usize,
        life: u32,
    },
    Cut(Cut, Micros),
    Mend(Cut),
    DiskFine {
        host: usize,
    },
    /// The client's next batch; void in a later round.
    Client {
        client: usize,
        round: u32,
    },
    Request {
        host: usize,
        batch: u64,
    },
    Answer {
        batch: u64,
        answer: Answer,
    },
    Fault,
    /// Load balancers, links to them and operators look at the clock.
    Control,
    LbStart {
        lb: usize,
        life: u32,
    },
    LbLost {
        lb: usize,
        length: Micros,
        forgets: bool,
    },
    LbPersisted {
        lb: usize,
        life: u32,
    },
    Probed {
        lb: usize,
        life: u32,
        probed: Box<lb::balancer::Input>,
    },
    LinkUp(LinkId),
    /// The host's end of a link goes.
    LinkDown(LinkId),
    /// The load balancer's end of a link goes.
    LbLinkDown(LinkId),
    ToLb(LinkId),
    ToHost(LinkId),
    /// Requests by way of load balancers.
    Routing(Way),
    /// The host of this server, which was removed, starts over.
    StartOver(NodeId),
    Heal,
    Ending,
}

/// The cluster that is there from the beginning, if no load balancer forms one.
const FIRST_CLUSTER: ClusterId = ClusterId(1);

/// See the module's page.
pub(crate) struct World {
    pub(crate) plan: Plan,
    /// Kinds of faults that are allowed to occur.
    pub(crate) allowed: FaultSet,
    pub(crate) bug: Option<Bug>,
    pub(crate) now: Micros,
    pub(crate) queue: Queue<Event>,
    pub(crate) hosts: Vec<Host>,
    /// Where each server lives, or lived.
    pub(crate) homes: BTreeMap<NodeId, usize>,
    pub(crate) links: Links,
    pub(crate) network: Network,
    pub(crate) out: Outgoing,
    pub(crate) clients: Clients,
    /// The requests of each batch that is out.
    pub(crate) requests: BTreeMap<u64, Vec<Request>>,
    pub(crate) lbs: Vec<Lb>,
    pub(crate) control: Control,
    pub(crate) customers: Customers,
    pub(crate) operators: Operators,
    pub(crate) ending: Ending,
    pub(crate) disk_rng: Rng,
    pub(crate) fault_number: u64,
    /// This host stops when it sends next, for so long.
    pub(crate) pause_on_send: Option<(usize, Micros)>,
    pub(crate) healed: bool,
    /// Rounds of faults and recovery that are over.
    pub(crate) round: u32,
    /// Kinds of faults that the run may have in any round.
    pub(crate) allowed_ever: FaultSet,
    /// Of everything that happened; two runs with the same value are the same.
    pub(crate) fingerprint: u64,
    pub(crate) events: u64,
}

impl World {
    pub(crate) fn new(plan: Plan, allowed: FaultSet, bug: Option<Bug>, trace: bool) -> Self {
        let mut origins = Rng::new(plan.seed, 3);
        let disk = || Disk::empty(bug == Some(Bug::VoteNotSynced));
        let hosts: Vec<Host> =
            (0..plan.hosts).map(|host| Host::new(host, origins.below(1 << 40), disk())).collect();
        let ids = |host: usize| NodeId(host as u64 + 1);
        let allowed_ever = allowed;
        let allowed = allowed.and(plan.faults);
        let first = match allowed.has(Fault::LbLoss) {
            // Nobody knows whom the load balancer will take.
            true => Membership::default(),
            false => Membership::of_voters(
                hosts[..plan.servers].iter().map(|host| (ids(host.number), host.info())),
            ),
        };
        let mut rules = Rules::new(Duration::from_micros(match allowed.has(Fault::DeadAfter) {
            true => plan.dead_after,
            false => 0,
        }));
        if let Some(Bug::Membership(bug)) = bug {
            rules.planted = Some(bug);
        }
        let out = Outgoing {
            frames: Vec::new(),
            fetches: Vec::new(),
            snapshots: Vec::new(),
            answers: Vec::new(),
            routed: Vec::new(),
            wrote: false,
            watch: Watch::new(Trace::new(trace), first.clone()),
            ways: Ways {
                thread: !plan.disk.inline,
                ack_before_sync: bug == Some(Bug::AckBeforeSync),
                rules: (plan.lbs > 0).then_some(rules),
            },
        };
        let mut world = World {
            allowed,
            bug,
            now: 0,
            queue: Queue::new(),
            homes: BTreeMap::new(),
            links: Links::default(),
            network: Network::new(plan.seed, plan.network.clone(), allowed),
            hosts,
            out,
            clients: Clients::new(plan.seed, &plan.work),
            requests: BTreeMap::new(),
            lbs: Vec::new(),
            control: Control::default(),
            customers: Customers::new(&plan),
            operators: Operators::default(),
            ending: Ending::default(),
            disk_rng: Rng::new(plan.seed, 4),
            fault_number: 0,
            pause_on_send: None,
            healed: false,
            round: 0,
            allowed_ever,
            fingerprint: 0xcbf2_9ce4_8422_2325,
            events: 0,
            plan,
        };
        world.open(&first);
        world
    }

    fn open(&mut self, first: &Membership) {
        let plan = format!("{:?}", self.plan);
        self.out.watch.trace.note(|| plan);
        (0..self.hosts.len()).for_each(|host| self.begin_run(host));
        if self.lb_forms_cluster() {
            self.lbs.resize_with(self.plan.lbs, Lb::default);
            let rng = &mut Rng::new(self.plan.seed, 5);
            // Often just when the first members hear of it.
            let at = self.founding_time() + rng.below(100_000 + 4 * self.plan.network.latency);
            let length = rng.around(self.plan.fault_length);
            let (loses, forgets) = (rng.chance(500), rng.chance(500));
            if loses {
                self.queue.push(at, Event::LbLost { lb: 0, length, forgets });
            }
        } else {
            for host in 0..self.plan.servers {
                self.adopt(host, FIRST_CLUSTER, NodeId(host as u64 + 1), first.clone());
                self.start(host);
            }
            let memory = || Memory { cluster: Some(FIRST_CLUSTER), voters: Vec::new() };
            self.lbs.resize_with(self.plan.lbs, || Lb::remembering(memory()));
        }
        for lb in 0..self.lbs.len() {
            self.start_lb(lb, 0);
        }
        self.wake_clients();
        self.queue.push(self.plan.fault_gap, Event::Fault);
        self.queue.push(self.plan.faults_end, Event::Heal);
        if !self.lbs.is_empty() {
            self.queue.push(0, Event::Control);
        }
    }

    pub(crate) fn wake_clients(&mut self) {
        for client in 0..self.plan.work.clients {
            self.client_thinks(client);
        }
    }

    pub(crate) fn client_thinks(&mut self, client: usize) {
        let at = self.now + self.clients.think(client);
        self.queue.push(at, Event::Client { client, round: self.round });
    }

    /// Plays until the end, or until a rule is broken.
    pub(crate) fn play(&mut self) {
        while let Some((at, event)) = self.queue.pop() {
            self.now = at;
            self.out.watch.trace.now = at;
            self.events += 1;
            self.handle(event);
            if self.out.watch.violation.is_some() || self.ending.is_over() {
                return;
            }
        }
    }

    pub(crate) fn fail(&mut self, rule: &'static str, detail: impl Into<String>) {
        self.out.watch.fail(Violation::new(rule, detail));
    }

    pub(crate) fn fingerprint(&mut self, kind: u64, who: usize) {
        for part in [self.now, kind << 8 | who as u64] {
            self.fingerprint = (self.fingerprint ^ part).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn is_alive(&self, host: usize, life: u32) -> bool {
        self.hosts[host].life == life && self.hosts[host].process.is_some()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Frame { from, to, lane, frame, chain } => {
                self.fingerprint(1 + lane as u64, to.0);
                let is_there = |p: &Process| p.id == to.1;
                if self.hosts[to.0].process.as_ref().is_some_and(is_there) {
                    self.give(to.0, Input::Frame { from: from.1, lane, frame, chain });
                }
            }
            Event::Timer { host, life } if self.is_alive(host, life) => self.timer(host),
            Event::DiskDone { host, life } if self.is_alive(host, life) => self.disk_done(host),
            Event::Fetched { host, life, fetch } if self.is_alive(host, life) => {
                self.fetched(host, fetch);
            }
            Event::Checkpointed { host, life, checkpoint } if self.is_alive(host, life) => {
                self.checkpointed(host, *checkpoint);
            }
            Event::SnapshotWork { host, life } if self.is_alive(host, life) => {
                self.snapshot_work(host);
            }
            Event::SnapshotPlaced { host, life, placed } if self.is_alive(host, life) => {
                self.snapshot_placed(host, *placed);
            }
            Event::LinkLost { host, life, peer } if self.is_alive(host, life) => {
                self.give(host, Input::LinkLost(peer));
            }
            Event::Start { host, life } if self.hosts[host].life == life => self.start(host),
            Event::Resume { host, life } if self.hosts[host].life == life => self.resume(host),
            Event::Cut(cut, length) if !self.healed => self.cut(cut, length),
            Event::Mend(cut) if !self.healed => self.mend(&cut),
            Event::DiskFine { host } => self.hosts[host].disk_mode = DiskMode::Fine,
            Event::Client { client, round } if round == self.round => self.client(client),
            Event::Request { host, batch } => self.request(host, batch),
            Event::Answer { batch, answer } => self.answer(batch, &answer),
            Event::Fault => self.fault(),
            Event::Control => self.mind_control(),
            Event::LbStart { lb, life } => self.start_lb(lb, life),
            Event::LbLost { lb, length, forgets } => self.lose_lb(lb, length, forgets),
            Event::LbPersisted { lb, life } => self.lb_persisted(lb, life),
            Event::Probed { lb, life, probed } => self.probed(lb, life, *probed),
            Event::LinkUp(link) => self.link_up(link),
            Event::LinkDown(link) => self.link_down(link),
            Event::LbLinkDown(link) => self.lb_link_down(link),
            Event::ToLb(link) => self.reaches_lb(link),
            Event::ToHost(link) => self.reaches_host(link),
            Event::Routing(way) => self.on_the_way(way),
            Event::StartOver(id) => self.start_over(id),
            Event::Heal => self.heal(),
            Event::Ending => self.look_at_the_end(),
            _ => {}
        }
    }

    /// Something for a host: at once, if it is awake.
    pub(crate) fn give(&mut self, host: usize, input: Input) {
        let Some(process) = &mut self.hosts[host].process else { return };
        process.inbox.push(input);
        if self.hosts[host].is_awake() {
            self.turn(host);
        }
    }

    pub(crate) fn turn(&mut self, host: usize) {
        self.out.watch.trace.host = host;
        self.hosts[host].turn(self.now, &mut self.out);
        self.settle(host);
    }

    fn timer(&mut self, host: usize) {
        let awake = self.hosts[host].is_awake();
        let Some(process) = &mut self.hosts[host].process else { return };
        if process.queued_at > self.now {
            // An earlier timer, which a later one has replaced.
            return;
        }
        process.queued_at = Micros::MAX;
        if awake && self.now >= process.timer_at {
            self.fingerprint(4, host);
            self.turn(host);
        } else if awake {
            self.set_timer(host);
        }
    }

    fn set_timer(&mut self, host: usize) {
        let Host { process: Some(process), life, .. } = &mut self.hosts[host] else { return };
        if process.timer_at < process.queued_at {
            process.queued_at = process.timer_at;
            self.queue.push(process.timer_at, Event::Timer { host, life: *life });
        }
    }

    fn disk_done(&mut self, host: usize) {
        self.fingerprint(5, host);
        let Host { paused, disk_mode, life, .. } = self.hosts[host];
        if paused {
            self.queue.push(self.now + 1_000, Event::DiskDone { host, life });
            return;
        }
        match disk_mode {
            DiskMode::Failing => return self.die(host, "its fsync failed"),
            DiskMode::Full => {
                self.hosts[host].disk.refuse();
                return self.die(host, "its disk is full");
            }
            DiskMode::Fine | DiskMode::Slow => {}
        }
        self.out.watch.trace.host = host;
        self.hosts[host].disk_done(self.now, &mut self.out);
        self.settle(host);
        if self.hosts[host].is_awake() {
            self.turn(host);
        }
    }

    /// Carries out what a turn asked for.
    pub(crate) fn settle(&mut self, host: usize) {
        let Some(id) = self.hosts[host].process.as_ref().map(|process| process.id) else { return };
        let life = self.hosts[host].life;
        let sends = !self.out.frames.is_empty() && !self.healed;
        if let Some((_, length)) = self.pause_on_send.take_if(|(at, _)| *at == host && sends) {
            self.pause_mid_question(host, length);
        }
        for (to, lane, frame, chain) in std::mem::take(&mut self.out.frames) {
            let Some(&home) = self.homes.get(&to) else { continue };
            if !self.carries((host, home)) {
                continue;
            }
            let from = (host, id);
            for at in self.network.send(self.now, (host, home), lane).into_iter().flatten() {
                let frame = frame.clone();
                self.queue.push(at, Event::Frame { from, to: (home, to), lane, frame, chain });
            }
        }
        for fetch in std::mem::take(&mut self.out.fetches) {
            let at = self.now + self.disk_rng.between(50, 2_000);
            self.queue.push(at, Event::Fetched { host, life, fetch });
        }
        if !self.out.snapshots.is_empty()
            && let Some(process) = &mut self.hosts[host].process
        {
            let idle = process.snapshot_work.is_empty();
            process.snapshot_work.extend(self.out.snapshots.drain(..));
            if idle {
                self.schedule_snapshot_work(host);
            }
        }
        for (batch, out) in std::mem::take(&mut self.out.answers) {
            let answer = out.map_or(Answer::Broken, Answer::Replies);
            let at = self.now + self.network.client_latency();
            self.queue.push(at, Event::Answer { batch, answer });
        }
        if std::mem::take(&mut self.out.wrote) {
            let at = self.now + self.sync_latency(host);
            self.queue.push(at, Event::DiskDone { host, life });
        }
        if self.hosts[host].process.as_ref().is_some_and(|process| process.differs) {
            return self.give_up_data(host, "its data is not that of the others");
        }
        self.consider_checkpoint(host);
        self.set_timer(host);
        self.settle_with_lbs(host);
    }

    /// The host that leads, as far as anybody can tell.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leading = self.hosts.iter().filter_map(|host| {
            let driver = host.driver().filter(|driver| driver.is_leader())?;
            Some((driver.node().term(), host.number))
        });
        leading.max().map(|(_, host)| host)
    }
}
