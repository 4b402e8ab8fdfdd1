//! A cluster in memory: virtual time, a network and disks that fail on
//! request, and the list of invariants checked after every step.

mod alone;
mod machine;

use std::collections::{BTreeMap, BTreeSet};

use raft::invariants::Checker;
use raft::{Config, Envelope, Event, Index, Membership, Node, NodeId, Payload, Term, Time};
use store_raft as raft;

pub(crate) use alone::*;
pub(crate) use machine::{Machine, Work};

/// A command: a number, and how big it pretends to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cmd(pub u64, pub usize);

impl Payload for Cmd {
    fn size(&self) -> usize {
        self.1
    }
}

/// A small generator, independent of the one under test.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound.max(1)
    }

    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True `permille` times of a thousand.
    pub(crate) fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }
}

/// How bad the world is.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) loss_permille: u64,
    pub(crate) duplicate_permille: u64,
    pub(crate) delay_us: (u64, u64),
    pub(crate) sync_us: (u64, u64),
    /// Batches on the way to a disk at once.
    pub(crate) batches: usize,
}

impl Weather {
    pub(crate) fn calm() -> Self {
        Weather {
            loss_permille: 0,
            duplicate_permille: 0,
            delay_us: (100, 100),
            sync_us: (200, 200),
            batches: 1,
        }
    }
}

/// What happens at a moment.
#[derive(Debug)]
enum Happening {
    Deliver(Envelope<Cmd>),
    Work(NodeId, u64, Work),
}

/// Far more messages than are of use while time stands still: replicas that
/// send more answer each other for ever.
const MAX_MESSAGES_AT_ONCE: u64 = 2_000;

type Filter = Box<dyn FnMut(&Envelope<Cmd>) -> bool>;

/// The cluster and everything around it.
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) dice: Dice,
    pub(crate) weather: Weather,
    pub(crate) machines: BTreeMap<NodeId, Machine>,
    pub(crate) checker: Checker<Cmd>,
    /// Links that are cut, one way.
    pub(crate) cut: BTreeSet<(NodeId, NodeId)>,
    /// Disks that do not finish.
    pub(crate) stuck_disks: BTreeSet<NodeId>,
    /// Servers that cannot finish a snapshot.
    pub(crate) full_disks: BTreeSet<NodeId>,
    /// Messages for which this says `false` are lost.
    pub(crate) filter: Option<Filter>,
    agenda: BTreeMap<(Time, u64), Happening>,
    sequence: u64,
    tune: Box<dyn Fn(&mut Config)>,
    /// Every event, with who told it.
    pub(crate) events: Vec<(NodeId, Event)>,
    pub(crate) messages: u64,
    /// How many of them left at which time.
    at_once: (Time, u64),
    next_request: u64,
    /// Highest index whose proposer was told that it is committed.
    pub(crate) acknowledged: Index,
    /// Proposals that wait: who accepted, index, term.
    proposals: Vec<(NodeId, Index, Term)>,
    /// Reads that wait: what they must at least see.
    reads: BTreeMap<u64, Index>,
    pub(crate) reads_served: u64,
    pub(crate) reads_failed: u64,
}

impl World {
    /// `voters` replicas with the ids from 1 on.
    pub(crate) fn new(seed: u64, voters: u64, tune: impl Fn(&mut Config) + 'static) -> Self {
        let mut world = World {
            now: 1_000_000,
            dice: Dice::new(seed),
            weather: Weather::calm(),
            machines: BTreeMap::new(),
            checker: Checker::new(),
            cut: BTreeSet::new(),
            stuck_disks: BTreeSet::new(),
            full_disks: BTreeSet::new(),
            filter: None,
            agenda: BTreeMap::new(),
            sequence: 0,
            tune: Box::new(tune),
            events: Vec::new(),
            messages: 0,
            at_once: (0, 0),
            next_request: 0,
            acknowledged: 0,
            proposals: Vec::new(),
            reads: BTreeMap::new(),
            reads_served: 0,
            reads_failed: 0,
        };
        let first = Membership::of_voters((1..=voters).map(|n| (id(n), info("first"))));
        for voter in 1..=voters {
            world.add(id(voter), first.clone());
        }
        world
    }

    /// A replica with an empty disk.
    pub(crate) fn add(&mut self, node: NodeId, membership: Membership) {
        self.machines.insert(node, Machine::new(node, membership));
        self.restart(node);
    }

    pub(crate) fn restart(&mut self, node: NodeId) {
        let mut config = Config::new(node, self.dice.roll());
        (self.tune)(&mut config);
        let machine = self.machines.get_mut(&node).unwrap();
        let restored = machine.restore(self.now);
        let started = Node::new(self.now, config, restored.clone());
        self.checker.started(&started, &restored).unwrap();
        machine.node = Some(started);
        self.turn(node);
    }

    /// What was not synced is lost, except perhaps the first batches.
    pub(crate) fn crash(&mut self, node: NodeId) {
        let survive = self.dice.below(3) as usize;
        let machine = self.machines.get_mut(&node).unwrap();
        machine.crash(survive);
        self.proposals.retain(|(at, _, _)| *at != node);
    }

    /// A crash, after which entries, or all but the log's end, are lost.
    pub(crate) fn damage(&mut self, node: NodeId, count: u64, all: bool) {
        self.crash(node);
        self.machines.get_mut(&node).unwrap().disk.damage(count, all);
    }

    /// How many cannot be relied on, as they lost entries.
    pub(crate) fn below_floor(&self) -> usize {
        let lost = |disk: &machine::Disk| disk.floor.is_some();
        self.machines.values().filter(|machine| lost(&machine.disk)).count()
    }

    pub(crate) fn node(&self, node: u64) -> &Node<Cmd> {
        self.machines[&id(node)].node.as_ref().expect("is up")
    }

    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        self.machines[&node].node.is_some()
    }

    /// Whoever leads in the highest term.
    pub(crate) fn leader(&self) -> Option<u64> {
        let nodes = self.machines.values().filter_map(|machine| machine.node.as_ref());
        let leaders = nodes.filter(|node| node.is_leader());
        leaders.max_by_key(|node| node.term()).map(|node| node.id().0)
    }

    pub(crate) fn cut_off(&mut self, node: u64) {
        for other in self.machines.keys() {
            if other.0 != node {
                self.cut.insert((id(node), *other));
                self.cut.insert((*other, id(node)));
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        self.stuck_disks.clear();
        self.full_disks.clear();
        self.filter = None;
    }

    /// Calls into a replica, and handles what comes of it.
    pub(crate) fn with<R>(&mut self, node: u64, call: impl FnOnce(&mut Node<Cmd>, Time) -> R) -> R {
        let now = self.now;
        let machine = self.machines.get_mut(&id(node)).unwrap();
        let result = call(machine.node.as_mut().expect("is up"), now);
        self.turn(id(node));
        result
    }

    pub(crate) fn campaign(&mut self, node: u64) {
        self.with(node, |node, now| node.campaign(now));
    }

    /// `node` is told that the process of `leader` has ended, in its own term.
    pub(crate) fn sees_end_of(&mut self, node: u64, leader: u64) -> bool {
        self.with(node, |node, now| node.leader_gone(now, id(leader), node.term()))
    }

    pub(crate) fn propose(&mut self, node: u64, number: u64) -> Option<Index> {
        let at = self.with(node, |node, now| node.propose(now, Cmd(number, 100))).ok()?;
        self.proposals.push((id(node), at.0, at.1));
        // With one voter the entry may be out already.
        self.settle(id(node));
        Some(at.0)
    }

    pub(crate) fn read(&mut self, node: u64) -> u64 {
        self.next_request += 1;
        let request = self.next_request;
        self.reads.insert(request, self.acknowledged);
        self.with(node, |node, now| node.read(now, request));
        request
    }

    /// Whether the read was answered, one way or the other.
    pub(crate) fn is_answered(&self, request: u64) -> bool {
        !self.reads.contains_key(&request)
    }

    pub(crate) fn schedule(&mut self, after_us: u64, node: NodeId, work: Work) {
        let life = self.machines[&node].life;
        self.put(after_us, Happening::Work(node, life, work));
    }

    fn put(&mut self, after_us: u64, happening: Happening) {
        self.sequence += 1;
        self.agenda.insert((self.now + after_us, self.sequence), happening);
    }

    pub(crate) fn run_for(&mut self, us: u64) {
        let end = self.now + us;
        while self.step_until(end) {}
        self.now = end;
    }

    /// Runs until `done`, for `us` at the most; whether it was reached.
    pub(crate) fn run_until(&mut self, us: u64, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now + us;
        while !done(self) {
            if !self.step_until(end) {
                self.now = end;
                return done(self);
            }
        }
        true
    }

    /// The next thing that happens before `end`.
    fn step_until(&mut self, end: Time) -> bool {
        let ticks = self.machines.values().filter_map(|machine| {
            machine.node.as_ref().map(|node| (node.next_deadline(), node.id()))
        });
        let tick = ticks.min();
        let next = self.agenda.keys().next().map(|key| key.0);
        let at = tick.map_or(Time::MAX, |(at, _)| at).min(next.unwrap_or(Time::MAX));
        if at > end {
            return false;
        }
        self.now = self.now.max(at);
        // Inputs first, timers after: as a driver does after a stall.
        if next.is_some_and(|next| next <= self.now) {
            let (_, happening) = self.agenda.pop_first().unwrap();
            self.happen(happening);
        } else if let Some((_, node)) = tick {
            self.with(node.0, |node, now| node.tick(now));
            let deadline = self.node(node.0).next_deadline();
            assert!(deadline > self.now, "{node} spins: {:?}", self.node(node.0).status());
        }
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deliver(envelope) => {
                let to = envelope.to;
                let cut = self.cut.contains(&(envelope.from, to));
                if !cut && self.is_up(to) {
                    self.with(to.0, |node, now| node.step(now, envelope));
                }
            }
            Happening::Work(node, life, work) => {
                if self.machines[&node].life == life && self.is_up(node) {
                    self.work(node, work);
                    self.turn(node);
                }
            }
        }
    }

    /// Takes a replica's output and does what it says.
    pub(crate) fn turn(&mut self, node: NodeId) {
        let machine = self.machines.get_mut(&node).unwrap();
        let Some(core) = &mut machine.node else { return };
        let due = core.has_output();
        core.take_output(self.now, &mut machine.out);
        self.checker.observe(core, &machine.out).unwrap();
        let quiet = machine.out.send.is_empty() && machine.out.committed.is_empty();
        assert!(due || quiet, "{node} had output that it did not announce");
        for envelope in std::mem::take(&mut machine.out.send) {
            self.transmit(envelope);
        }
        self.persist(node);
        self.apply(node);
        self.answer_reads(node);
        self.start_tasks(node);
        let machine = self.machines.get_mut(&node).unwrap();
        let events = machine.out.events.drain(..).map(|event| (node, event));
        self.events.extend(events);
    }

    fn transmit(&mut self, envelope: Envelope<Cmd>) {
        self.messages += 1;
        let before = if self.at_once.0 == self.now { self.at_once.1 } else { 0 };
        self.at_once = (self.now, before + 1);
        assert!(before < MAX_MESSAGES_AT_ONCE, "the replicas never fall silent: {envelope:?}");
        if self.filter.as_mut().is_some_and(|filter| !filter(&envelope))
            || self.cut.contains(&(envelope.from, envelope.to))
            || !self.machines.contains_key(&envelope.to)
        {
            return;
        }
        let (low, high) = self.weather.delay_us;
        if self.dice.chance(self.weather.duplicate_permille) {
            let delay = self.dice.between(low, high * 4);
            self.put(delay, Happening::Deliver(envelope.clone()));
        }
        if !self.dice.chance(self.weather.loss_permille) {
            let delay = self.dice.between(low, high);
            self.put(delay, Happening::Deliver(envelope));
        }
    }

    /// Proposals and reads of `node` that are done now.
    fn settle(&mut self, node: NodeId) {
        let applied = &self.machines[&node].applied_terms;
        let mut acknowledged = self.acknowledged;
        self.proposals.retain(|&(at, index, term)| {
            let outcome = if at == node { applied.get(&index) } else { None };
            if outcome == Some(&term) {
                acknowledged = acknowledged.max(index);
            }
            outcome.is_none()
        });
        self.acknowledged = acknowledged;
    }

    fn answer_reads(&mut self, node: NodeId) {
        self.settle(node);
        let machine = self.machines.get_mut(&node).unwrap();
        for ready in machine.out.reads.drain(..) {
            let floor = self.reads.remove(&ready.request);
            self.reads_served += 1;
            if let Some(floor) = floor {
                assert!(ready.index >= floor, "{node} reads at {} < {floor}", ready.index);
            }
        }
        for request in machine.out.reads_failed.drain(..) {
            self.reads.remove(&request);
            self.reads_failed += 1;
        }
    }

    /// All replicas that are up and members have applied the same.
    pub(crate) fn has_converged(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let status = self.node(leader).status();
        let mut members = status.membership.members.keys();
        status.commit == status.last_index
            && members.all(|member| {
                let machine = &self.machines[member];
                machine.node.is_some()
                    && machine.applied == status.commit
                    && machine.digest == self.machines[&id(leader)].digest
            })
    }

    /// Everybody's view, for a failure's report.
    pub(crate) fn dump(&self) {
        for node in self.machines.values().filter_map(|machine| machine.node.as_ref()) {
            eprintln!("{:?}", node.status());
        }
    }

    /// The leader, once it has committed all that it has.
    pub(crate) fn settle_leader(&mut self) -> u64 {
        assert!(self.run_until(5_000_000, |world| {
            world.leader().is_some_and(|leader| {
                let status = world.node(leader).status();
                status.commit == status.last_index
            })
        }));
        self.leader().unwrap()
    }
}
