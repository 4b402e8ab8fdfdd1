//! One state of the cluster, and what can happen next.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{Debug, Write as _};
use std::hash::{DefaultHasher, Hasher as _};
use std::rc::Rc;
use std::sync::Arc;

use raft::invariants::{Checker, Violation};
use raft::{
    Body, Change, Config, Entry, Envelope, HardState, Member, Membership, Node, NodeId, Output,
    Payload, Persist, Restored, SnapshotMeta, Suffrage, Time,
};
use store_raft as raft;

use super::Scope;

/// A command of one byte.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cmd(u8);

impl Payload for Cmd {
    fn size(&self) -> usize {
        1
    }
}

/// How often each kind of action may still be taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    /// Elections without a timeout, which nobody's stickiness holds up.
    pub hints: u8,
    /// A clock goes on to the next deadline of its replica.
    pub timeouts: u8,
    pub proposals: u8,
    pub changes: u8,
    pub crashes: u8,
    pub duplicates: u8,
}

/// Something that can happen.
#[derive(Clone, Debug)]
pub enum Action {
    Deliver(Rc<Envelope<Cmd>>, u64),
    /// Delivered, and still on the way.
    Duplicate(Rc<Envelope<Cmd>>, u64),
    Hint(u64),
    Timeout(u64),
    Sync(u64),
    Propose(u64),
    Change(u64, Change),
    /// Crash and restart; so many batches that were not synced survive.
    Crash(u64, usize),
}

#[derive(Clone, Debug)]
struct Replica {
    core: Node<Cmd>,
    now: Time,
    hard: HardState,
    entries: Vec<Entry<Cmd>>,
    batches: VecDeque<Persist<Cmd>>,
}

impl Replica {
    fn write(&mut self, batch: Persist<Cmd>) {
        self.hard = batch.hard_state.unwrap_or(self.hard);
        if let Some(first) = batch.entries.first() {
            self.entries.truncate((first.index - 1) as usize);
            self.entries.extend(batch.entries);
        }
    }
}

/// A state. Parts that an action does not touch are shared.
#[derive(Clone)]
pub struct State {
    replicas: BTreeMap<u64, (Rc<Replica>, u64)>,
    /// By fingerprint: the message, and how many of it are on the way.
    wire: BTreeMap<u64, (Rc<Envelope<Cmd>>, u32)>,
    checker: Rc<Checker<Cmd>>,
    budget: Budget,
    first: Rc<Membership>,
    pub start_commit: u64,
}

/// Hashes what a value shows, without building the text.
struct Shown(DefaultHasher);

impl std::fmt::Write for Shown {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

fn shown(value: &impl Debug) -> u64 {
    let mut shown = Shown(DefaultHasher::new());
    let _ = write!(shown, "{value:?}");
    shown.0.finish()
}

fn config(id: u64) -> Config {
    let mut config = Config::new(NodeId(id), 1);
    config.election_timeout_min_us = 200_000;
    config.election_timeout_max_us = 200_000;
    config.append_gap_us = 0;
    config.auto_promote = false;
    config
}

fn membership(scope: &Scope) -> Membership {
    let info: Arc<[u8]> = Arc::from(&b""[..]);
    let mut first = Membership::of_voters((1..=scope.voters).map(|id| (NodeId(id), info.clone())));
    for _ in 0..scope.learners {
        let member = Member { suffrage: Suffrage::Learner, info: info.clone() };
        first.members.insert(NodeId(first.next_id), member);
        first.next_id += 1;
    }
    first
}

impl State {
    pub fn new(scope: &Scope) -> Result<State, Violation> {
        let first = membership(scope);
        let ids: Vec<u64> = first.members.keys().map(|id| id.0).collect();
        let mut state = State {
            replicas: BTreeMap::new(),
            wire: BTreeMap::new(),
            checker: Rc::new(Checker::new()),
            budget: Budget::default(),
            first: Rc::new(first),
            start_commit: 0,
        };
        for &id in &ids {
            state.start(id, 0, HardState::default(), Vec::new(), scope)?;
        }
        if scope.led {
            state = state.lead(scope)?;
        }
        state.start_commit = state.cores().map(|core| core.commit()).max().unwrap_or(0);
        state.budget = scope.budget;
        Ok(state)
    }

    /// Server 1 is elected, and everything comes to rest.
    fn lead(mut self, scope: &Scope) -> Result<State, Violation> {
        self.budget.hints = 1;
        let mut state = self.after(&Action::Hint(1), scope)?;
        loop {
            let quiet = |action: &Action| matches!(action, Action::Deliver(..) | Action::Sync(_));
            let Some(action) = state.actions(scope).into_iter().find(quiet) else { break };
            state = state.after(&action, scope)?;
        }
        Ok(state)
    }

    pub fn cores(&self) -> impl Iterator<Item = &Node<Cmd>> {
        self.replicas.values().map(|(replica, _)| &replica.core)
    }

    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (_, fingerprint) in self.replicas.values() {
            hasher.write_u64(*fingerprint);
        }
        for (message, (_, count)) in &self.wire {
            hasher.write_u64(*message);
            hasher.write_u32(*count);
        }
        hasher.write_u64(shown(&*self.checker));
        let Budget { hints, timeouts, proposals, changes, crashes, duplicates } = self.budget;
        hasher.write(&[hints, timeouts, proposals, changes, crashes, duplicates]);
        hasher.finish()
    }

    /// Everything that can happen next.
    pub fn actions(&self, scope: &Scope) -> Vec<Action> {
        let mut actions = Vec::new();
        for (&message, (envelope, _)) in &self.wire {
            if self.budget.duplicates > 0 {
                actions.push(Action::Duplicate(envelope.clone(), message));
            }
            actions.push(Action::Deliver(envelope.clone(), message));
        }
        for (&id, (replica, _)) in &self.replicas {
            let waiting = replica.batches.len();
            if waiting > 0 {
                actions.push(Action::Sync(id));
            }
            if self.budget.crashes > 0 {
                actions.extend((0..=waiting).map(|survive| Action::Crash(id, survive)));
            }
            if self.budget.hints > 0 && !replica.core.is_leader() {
                actions.push(Action::Hint(id));
            }
            if self.budget.timeouts > 0 {
                actions.push(Action::Timeout(id));
            }
            if self.budget.proposals > 0 && replica.core.is_leader() {
                actions.push(Action::Propose(id));
            }
            if self.budget.changes > 0 && replica.core.is_leader() {
                actions.extend(scope.changes.iter().map(|c| Action::Change(id, c.clone())));
            }
        }
        actions
    }

    /// The state after `action`.
    pub fn after(&self, action: &Action, scope: &Scope) -> Result<State, Violation> {
        let mut state = self.clone();
        match action {
            Action::Deliver(envelope, message) | Action::Duplicate(envelope, message) => {
                if matches!(action, Action::Duplicate(..)) {
                    state.budget.duplicates -= 1;
                } else {
                    state.take(*message);
                }
                let envelope = Envelope::clone(envelope);
                state.with(envelope.to.0, scope, |core, now| core.step(now, envelope))?;
            }
            Action::Hint(id) => {
                state.budget.hints -= 1;
                state.with(*id, scope, |core, now| core.campaign(now))?;
            }
            Action::Timeout(id) => {
                state.budget.timeouts -= 1;
                let replica = Rc::make_mut(&mut state.replicas.get_mut(id).expect("it is there").0);
                replica.now = replica.now.max(replica.core.next_deadline());
                state.with(*id, scope, |core, now| core.tick(now))?;
            }
            Action::Propose(id) => {
                state.budget.proposals -= 1;
                let number = state.budget.proposals;
                state.with(*id, scope, |core, now| {
                    let _ = core.propose(now, Cmd(number));
                })?;
            }
            Action::Change(id, change) => {
                state.budget.changes -= 1;
                state.with(*id, scope, |core, now| {
                    // What is refused leads to a state that is known.
                    let _ = core.change(now, change.clone());
                })?;
            }
            Action::Sync(id) => state.sync(*id, scope)?,
            Action::Crash(id, survive) => {
                state.budget.crashes -= 1;
                state.crash(*id, *survive, scope)?;
            }
        }
        Ok(state)
    }

    fn take(&mut self, message: u64) {
        if let Some((_, count)) = self.wire.get_mut(&message) {
            *count -= 1;
            if *count == 0 {
                self.wire.remove(&message);
            }
        }
    }

    fn with(
        &mut self,
        id: u64,
        scope: &Scope,
        call: impl FnOnce(&mut Node<Cmd>, Time),
    ) -> Result<(), Violation> {
        let replica = Rc::make_mut(&mut self.replicas.get_mut(&id).expect("it is there").0);
        call(&mut replica.core, replica.now);
        self.turn(id, scope)
    }

    /// Takes the output of a replica, and checks all rules.
    fn turn(&mut self, id: u64, scope: &Scope) -> Result<(), Violation> {
        let (shared, fingerprint) = self.replicas.get_mut(&id).expect("it is there");
        let replica = Rc::make_mut(shared);
        let mut out = Output::default();
        replica.core.take_output(replica.now, &mut out);
        Rc::make_mut(&mut self.checker).observe(&replica.core, &out)?;
        assert!(out.fetch.is_empty() && out.snapshots.is_empty(), "logs here are short");
        if let Some(batch) = out.persist.take() {
            let mark = batch.mark;
            replica.batches.push_back(batch);
            if scope.lying_disk {
                replica.core.synced(replica.now, mark);
            }
        }
        *fingerprint = shown(replica);
        for envelope in out.send {
            if self.first.members.contains_key(&envelope.to) {
                let message = shown(&envelope);
                self.wire.entry(message).or_insert_with(|| (Rc::new(envelope), 0)).1 += 1;
            }
        }
        if scope.lying_disk && self.replicas[&id].0.core.has_output() {
            return self.turn(id, scope);
        }
        Ok(())
    }

    /// The oldest batch becomes durable.
    fn sync(&mut self, id: u64, scope: &Scope) -> Result<(), Violation> {
        let replica = Rc::make_mut(&mut self.replicas.get_mut(&id).expect("it is there").0);
        let Some(batch) = replica.batches.pop_front() else { return Ok(()) };
        let mark = batch.mark;
        replica.write(batch);
        Rc::make_mut(&mut self.checker).synced(NodeId(id), &mark);
        replica.core.synced(replica.now, mark);
        self.turn(id, scope)
    }

    fn crash(&mut self, id: u64, survive: usize, scope: &Scope) -> Result<(), Violation> {
        let mut replica = (*self.replicas[&id].0).clone();
        let survivors: Vec<_> = replica.batches.drain(..survive).collect();
        for batch in survivors {
            replica.write(batch);
        }
        self.start(id, replica.now, replica.hard, replica.entries, scope)
    }

    fn start(
        &mut self,
        id: u64,
        now: Time,
        hard: HardState,
        entries: Vec<Entry<Cmd>>,
        scope: &Scope,
    ) -> Result<(), Violation> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut memberships = Vec::new();
        for entry in &entries {
            if runs.last().is_none_or(|&(_, term)| term != entry.term) {
                runs.push((entry.index, entry.term));
            }
            if let Body::Membership(membership) = &entry.body {
                memberships.push((entry.index, membership.clone()));
            }
        }
        let snapshot = SnapshotMeta { index: 0, term: 0, membership: (*self.first).clone() };
        let restored = Restored {
            hard_state: hard,
            snapshot,
            runs,
            memberships,
            entries: entries.clone(),
            commit: 0,
            floor: None,
        };
        let core = Node::new(now, config(id), restored.clone());
        Rc::make_mut(&mut self.checker).started(&core, &restored)?;
        let replica = Replica { core, now, hard, entries, batches: VecDeque::new() };
        self.replicas.insert(id, (Rc::new(replica), 0));
        self.turn(id, scope)
    }
}
