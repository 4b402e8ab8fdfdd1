//! What must hold of a cluster at all times, as code.
//!
//! A [`Checker`] watches every node of a simulated cluster: the outputs that
//! they produce, and what their disks have made durable. It keeps its own
//! record of both and compares. The simulator calls it after each step:
//!
//! | when | call |
//! | --- | --- |
//! | a node was made by `Node::new` | [`Checker::started`] |
//! | after each `take_output` | [`Checker::observe`], with this turn's output |
//! | before each `Node::synced` | [`Checker::synced`] |
//! | before `snapshot_written(.., Some(meta))` | [`Checker::installed`] |
//!
//! The list, by the names that a [`Violation`] gives: the five of the paper's
//! figure 3 (election safety, leader append-only, log matching, leader
//! completeness, state machine safety) and, beside them: term, vote, commit
//! and applied index only move on; one membership in flight; term and vote
//! durable before told; an acknowledged entry is on the disk; a committed
//! entry is on the disks of a majority; only entries of the leader's own term
//! are committed by counting, and no membership changes before one is; a
//! restart brings back all that was durable, or a floor that stands for what
//! it lost; below it no vote goes to a log that ends before it, and nobody
//! campaigns; a turn leaves nothing to be done.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

mod watched;

use watched::{Batch, Disk, Lost, Watched};

use crate::config::Restored;
use crate::message::{Envelope, Message};
use crate::node::{Node, Role};
use crate::output::{DurableMark, Event, Output, Persist};
use crate::quorum::is_majority;
use crate::types::{
    Body, Entry, HardState, Index, Membership, NodeId, Payload, Position, SnapshotMeta, Term,
};

/// A rule that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which rule.
    pub rule: &'static str,
    /// Where, and how.
    pub detail: String,
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

impl core::error::Error for Violation {}

fn ensure(
    holds: bool,
    rule: &'static str,
    detail: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { rule, detail: detail() }) }
}

/// Rules for one node at one moment, whatever its peers say.
///
/// # Errors
/// The first rule that is broken.
pub fn check_node<P: Payload>(node: &Node<P>) -> Result<(), Violation> {
    let id = node.id();
    node.log.check().map_err(|why| Violation {
        rule: "the log is sound",
        detail: format!("{id}: {why}: {:?}", node.status()),
    })?;
    let (applied, commit, last) = (node.applied, node.commit, node.log.last().index);
    let ordered = applied <= commit && commit <= last && node.log.cache_first() <= applied + 1;
    ensure(ordered, "applied <= commit <= last", || format!("{id}: {:?}", node.status()))?;
    let voted = !node.is_leader() || node.ballot.durable.vote == Some(id);
    ensure(voted, "a leader's own vote is durable", || format!("{id}: {:?}", node.status()))?;
    ensure(node.log.last().term <= node.term(), "no entry is of a later term", || {
        format!("{id}: {:?}", node.status())
    })
}

/// A turn does all that its inputs led to, but for what waits for the disk to
/// take a batch: a driver may play turns for as long as there is output.
fn check_quiet<P: Payload>(node: &Node<P>, output: &Output<P>) -> Result<(), Violation> {
    let more = match output.persist {
        Some(_) => node.has_output_beside_batch(),
        None => node.has_output(),
    };
    ensure(!more, "a turn leaves nothing to be done", || format!("{:?}", node.status()))
}

/// Watches a cluster.
#[derive(Clone, Debug)]
pub struct Checker<P> {
    /// Who led in each term.
    leaders: BTreeMap<Term, NodeId>,
    /// Every entry that was ever written, with its predecessor's term.
    written: BTreeMap<(Index, Term), (Term, Body<P>)>,
    /// What was handed out to be applied, and in which term first.
    committed: BTreeMap<Index, (Term, Term)>,
    /// Where the log of each candidate ended.
    candidates: BTreeMap<(Term, NodeId), Position>,
    nodes: BTreeMap<NodeId, Watched>,
}

impl<P> Default for Checker<P> {
    fn default() -> Self {
        Checker {
            leaders: BTreeMap::new(),
            written: BTreeMap::new(),
            committed: BTreeMap::new(),
            candidates: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }
}

impl<P: Payload + PartialEq> Checker<P> {
    /// A checker of a cluster that has not done anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// `node` was made from `restored`, for the first time or after a crash.
    ///
    /// # Errors
    /// When something is missing that had been durable, and no floor stands
    /// for it.
    pub fn started(&mut self, node: &Node<P>, restored: &Restored<P>) -> Result<(), Violation> {
        const RULE: &str = "a restart brings back all that was durable";
        let id = node.id();
        let mut disk = Disk {
            hard: restored.hard_state,
            base: restored.snapshot.index,
            base_term: restored.snapshot.term,
            ..Disk::default()
        };
        disk.terms.extend(restored.entries.iter().map(|entry| entry.term));
        let mut lost = None;
        if let Some(before) = self.nodes.get(&id) {
            let had = &before.disk;
            let same_term = disk.hard.term == had.hard.term;
            let kept = disk.hard.term > had.hard.term
                || disk.hard == had.hard
                || (same_term && had.hard.vote.is_none());
            ensure(kept, RULE, || format!("{id}: {:?} became {:?}", had.hard, disk.hard))?;
            lost = before.lost_by(&disk);
            if let Some(Lost { floor, .. }) = lost {
                let told = disk.last().covers(floor)
                    || restored.floor.is_some_and(|told| told.covers(floor));
                ensure(told, RULE, || {
                    let (last, told) = (disk.last(), restored.floor);
                    format!("{id}: it ended at {floor:?}, now at {last:?} with the floor {told:?}")
                })?;
            }
        }
        let seen = Watched {
            hard: node.ballot.current,
            commit: node.commit,
            applied: node.applied,
            leads: None,
            membership: node.memberships.current().clone(),
            disk,
            lost,
        };
        self.nodes.insert(id, seen);
        self.check_node(node)
    }

    /// The disk of node `id` reached `mark`.
    pub fn synced(&mut self, id: NodeId, mark: &DurableMark) {
        let Some(disk) = self.nodes.get_mut(&id).map(|node| &mut node.disk) else { return };
        let Some(at) = disk.batches.iter().position(|batch| batch.mark == *mark) else { return };
        let written: Vec<Batch> = disk.batches.drain(..=at).collect();
        for batch in &written {
            disk.write(batch);
        }
        self.forget_lost(id);
    }

    /// What was lost is on the disk again.
    fn forget_lost(&mut self, id: NodeId) {
        let Some(seen) = self.nodes.get_mut(&id) else { return };
        seen.lost.take_if(|lost| seen.disk.last().covers(lost.floor));
    }

    /// The state machine and the log of node `id` are replaced by a snapshot.
    ///
    /// # Errors
    /// When the node had newer state, or what it drops may be committed.
    pub fn installed(&mut self, id: NodeId, meta: &SnapshotMeta) -> Result<(), Violation> {
        const RULE: &str = "a snapshot replaces nothing newer";
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let (index, applied) = (meta.index, node.applied);
        ensure(index > applied, RULE, || format!("{id}: {index} replaces {applied}"))?;
        // Whoever has the entry that the snapshot ends with has no use for it,
        // and may have acknowledged what comes behind it.
        let held = index > node.disk.base && node.disk.holds(index, meta.term);
        ensure(!held, RULE, || format!("{id} had all up to {index}, and perhaps more"))?;
        node.disk.base = index;
        node.disk.base_term = meta.term;
        node.disk.terms.clear();
        node.applied = index;
        for batch in &mut node.disk.batches {
            batch.terms.clear();
            batch.first = index + 1;
        }
        self.forget_lost(id);
        Ok(())
    }

    /// `node` produced `output` in this turn.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn observe(&mut self, node: &Node<P>, output: &Output<P>) -> Result<(), Violation> {
        self.check_node(node)?;
        check_quiet(node, output)?;
        self.check_progress(node, output)?;
        if let Some(persist) = &output.persist {
            self.check_written(node, persist)?;
        }
        self.check_committed(node, &output.committed)?;
        for envelope in &output.send {
            if let Message::Vote { last_index: index, last_term: term, .. } = envelope.message {
                let last = Position { index, term };
                self.candidates.insert((envelope.term, envelope.from), last);
            }
            self.check_message(node, envelope)?;
        }
        Ok(())
    }

    fn check_node(&self, node: &Node<P>) -> Result<(), Violation> {
        check_node(node)?;
        // A node that restarted does not know yet what is committed.
        let known = self.committed.keys().next_back().copied().unwrap_or(0);
        let in_flight = node.memberships.uncommitted(node.commit.max(known));
        ensure(!node.is_leader() || in_flight <= 1, "one membership in flight", || {
            format!("leader {} has {in_flight} uncommitted memberships", node.id())
        })
    }

    /// Rules between a node's past and present.
    fn check_progress(&mut self, node: &Node<P>, output: &Output<P>) -> Result<(), Violation> {
        let (id, term, last) = (node.id(), node.term(), node.log.last().index);
        let Some(seen) = self.nodes.get_mut(&id) else {
            return Err(Violation { rule: "known nodes", detail: format!("{id} was not started") });
        };
        let hard = node.ballot.current;
        let forward = hard.term > seen.hard.term
            || (hard.term == seen.hard.term && (seen.hard.vote.is_none() || hard == seen.hard));
        ensure(forward, "term and vote only move on", || {
            format!("{id}: {:?} became {hard:?}", seen.hard)
        })?;
        ensure(node.commit >= seen.commit, "the commit index only moves on", || {
            format!("{id}: {} became {}", seen.commit, node.commit)
        })?;
        if let Some((led, before)) = seen.leads
            && led == term
            && node.is_leader()
        {
            let cut = output.events.iter().any(|event| matches!(event, Event::Truncated { .. }));
            ensure(last >= before && !cut, "leader append-only", || {
                format!("leader {id} of term {term} went from {before} to {last}")
            })?;
        }
        let moved = node.commit > seen.commit;
        let newly = node.is_leader() && seen.leads.is_none_or(|(led, _)| led != term);
        let own = node.log.term_at(node.commit) == Some(term);
        ensure(
            own || newly || !moved || !node.is_leader(),
            "a leader counts its own term",
            || format!("leader {id} of term {term} committed {}, of an earlier term", node.commit),
        )?;
        if let Some(lost) = &mut seen.lost {
            lost.reached |= node.log.last().covers(lost.floor);
            let follows = matches!(node.role, Role::Follower(_));
            ensure(lost.reached || follows, "nobody campaigns below its floor", || {
                format!("{id} at {:?}, floor {:?}", node.log.last(), lost.floor)
            })?;
        }
        seen.hard = hard;
        seen.commit = node.commit;
        seen.leads = node.is_leader().then_some((term, last));
        if newly {
            self.check_new_leader(node)?;
        }
        if let Role::Leader(_) = node.role
            && moved
        {
            self.check_majority(node)?;
        }
        if let Some(seen) = self.nodes.get_mut(&id)
            && seen.membership != *node.memberships.current()
        {
            seen.membership.clone_from(node.memberships.current());
        }
        Ok(())
    }

    fn check_new_leader(&mut self, node: &Node<P>) -> Result<(), Violation> {
        let (id, term) = (node.id(), node.term());
        let first = *self.leaders.entry(term).or_insert(id);
        ensure(first == id, "election safety", || {
            format!("{first} and {id} both lead in term {term}")
        })?;
        for (&index, &(entry_term, commit_term)) in self.committed.iter().rev() {
            if index <= node.log.base().index {
                break;
            }
            let has = node.log.term_at(index) == Some(entry_term);
            ensure(has || commit_term >= term, "leader completeness", || {
                format!(
                    "{id} leads in term {term} without entry {index} of term {entry_term}, \
                     committed in term {commit_term}"
                )
            })?;
        }
        Ok(())
    }

    /// What a leader takes for committed is on the disks of a majority: of the
    /// membership now, or of the one before, if this turn also changed it.
    fn check_majority(&self, node: &Node<P>) -> Result<(), Violation> {
        let (index, now) = (node.commit, node.memberships.current());
        let term = node.log.term_at(index).unwrap_or(0);
        let holds = |id: &NodeId| self.nodes.get(id).is_some_and(|node| node.vouches(index, term));
        let suffices = |membership: &Membership| {
            is_majority(membership.voters().filter(holds).count(), membership.voter_count())
        };
        let before = self.nodes.get(&node.id()).map(|seen| &seen.membership);
        let rule = "a committed entry is on the disks of a majority";
        ensure(suffices(now) || before.is_some_and(suffices), rule, || {
            let holders: Vec<NodeId> = now.members.keys().copied().filter(|id| holds(id)).collect();
            let voters: Vec<NodeId> = now.voters().collect();
            let id = node.id();
            format!(
                "{id} committed {index} of term {term}, on {holders:?} of the voters {voters:?}"
            )
        })
    }

    fn check_written(&mut self, node: &Node<P>, persist: &Persist<P>) -> Result<(), Violation> {
        let id = node.id();
        let Some(seen) = self.nodes.get_mut(&id) else { return Ok(()) };
        if seen.disk.batches.back().is_some_and(|batch| batch.mark == persist.mark) {
            return Ok(());
        }
        let first = persist.entries.first().map_or(persist.mark.index + 1, |entry| entry.index);
        let terms = persist.entries.iter().map(|entry| entry.term).collect();
        seen.disk.batches.push_back(Batch { mark: persist.mark, first, terms });
        // The first entry of all carries the first membership.
        let changes = persist.entries.iter().any(|entry| {
            entry.index > 1
                && entry.term == node.term()
                && matches!(entry.body, Body::Membership(_))
        });
        let own = node.log.term_at(node.commit) == Some(node.term());
        ensure(own || !changes || !node.is_leader(), "no change before an own commit", || {
            format!("leader {id} of term {} changed the membership", node.term())
        })?;
        let mut before = node.log.term_at(first - 1).unwrap_or(0);
        for Entry { index, term, body } in &persist.entries {
            let (known_before, known_body) =
                self.written.entry((*index, *term)).or_insert_with(|| (before, body.clone()));
            ensure(*known_before == before && known_body == body, "log matching", || {
                format!("{id}: entry {index} of term {term} differs from what another node has")
            })?;
            before = *term;
        }
        Ok(())
    }

    fn check_committed(&mut self, node: &Node<P>, committed: &[Entry<P>]) -> Result<(), Violation> {
        let id = node.id();
        let Some(seen) = self.nodes.get_mut(&id) else { return Ok(()) };
        for entry in committed {
            let (index, term) = (entry.index, entry.term);
            ensure(index == seen.applied + 1, "each entry is applied once, in order", || {
                format!("{id} applies {index} after {}", seen.applied)
            })?;
            seen.applied = index;
            let applicable = node.is_leader() || seen.disk.holds(index, term);
            ensure(applicable, "only a leader is ahead of its disk", || {
                format!("{id} applies {index} of term {term}")
            })?;
            let (known, _) = *self.committed.entry(index).or_insert((term, node.term()));
            ensure(known == term, "state machine safety", || {
                format!("{id} applies {index} of term {term}, another node of term {known}")
            })?;
        }
        Ok(())
    }

    fn check_message(&self, node: &Node<P>, envelope: &Envelope<P>) -> Result<(), Violation> {
        let Some(Watched { disk, lost, .. }) = self.nodes.get(&node.id()) else { return Ok(()) };
        let Envelope { from, to, term, message } = envelope;
        let told = |vote: NodeId| {
            disk.hard.term > *term || disk.hard == HardState { term: *term, vote: Some(vote) }
        };
        let durable = match message {
            Message::PreVote { .. } | Message::PreVoteReply { .. } => true,
            Message::Vote { .. } => told(*from),
            Message::VoteReply { granted: true } => told(*to),
            _ => disk.hard.term >= *term,
        };
        ensure(durable, "term and vote are durable before told", || {
            format!("{from} told {to} in term {term} while its disk has {:?}", disk.hard)
        })?;
        if let Message::VoteReply { granted: true } = message
            && let Some(Lost { floor, reached: false, .. }) = lost
            && let Some(last) = self.candidates.get(&(*term, *to))
        {
            ensure(last.covers(*floor), "no vote for a log that ends below the floor", || {
                format!("{from} votes for {to} at {last:?}, its floor is {floor:?}")
            })?;
        }
        if let Message::AppendReply { match_index, .. } = message {
            let known = node.log.term_at(*match_index);
            let held = known.is_none_or(|known| disk.holds(*match_index, known));
            ensure(held, "an acknowledged entry is on the disk", || {
                format!("{from} acknowledged {match_index} of term {known:?}")
            })?;
        }
        Ok(())
    }
}
