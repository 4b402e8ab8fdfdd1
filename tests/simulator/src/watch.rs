//! Sees every turn of every core: checks the invariants of Raft, and keeps
//! the one log that all replicas have to agree on.

use std::collections::BTreeMap;

use common::control::MemberInfo;
use common::ids::FolderId;
use raft::invariants::Checker;
use raft::{
    Body, DurableMark, Event, Index, Membership, NodeId, Output, Restored, RoleKind, SnapshotMeta,
    Term,
};
use server::command::Payload;
use server::driver::Node;
use server::membership::{MIN_VOTERS, info_of};

use crate::history::Moment;
use crate::oracle::Violation;
use crate::oracle::witness::Applied;
use crate::silence::Silence;
use crate::trace::{Trace, name};
use crate::votes::Votes;

/// See the module's page.
pub(crate) struct Watch {
    checker: Checker<Payload>,
    /// The first rule that was broken.
    pub(crate) violation: Option<Violation>,
    /// What was committed, from index 1 on, as it was first handed out.
    pub(crate) log: Vec<Applied>,
    /// The last committed membership and its index.
    pub(crate) membership: (Index, Membership),
    /// The last id of each folder that a committed membership has named.
    ids: BTreeMap<FolderId, NodeId>,
    /// Whoever was removed, and the term of the entry that did it.
    removed: BTreeMap<NodeId, Term>,
    /// The run of each folder that operators have removed.
    dismissed: BTreeMap<FolderId, u64>,
    moment: Moment,
    votes: Votes,
    pub(crate) silence: Silence,
    pub(crate) trace: Trace,
}

impl Watch {
    pub(crate) fn new(trace: Trace, first: Membership) -> Self {
        Watch {
            checker: Checker::new(),
            violation: None,
            log: Vec::new(),
            ids: ids_of(&first),
            removed: BTreeMap::new(),
            dismissed: BTreeMap::new(),
            membership: (0, first),
            moment: 0,
            votes: Votes::default(),
            silence: Silence::default(),
            trace,
        }
    }

    /// A cluster was formed, of these first voters; empty for who joins it.
    pub(crate) fn founded(&mut self, first: &Membership) {
        if self.membership.1.members.is_empty() && !first.members.is_empty() {
            self.ids = ids_of(first);
            self.membership = (0, first.clone());
        }
    }

    /// The next moment; each is later than all before.
    pub(crate) fn moment(&mut self) -> Moment {
        self.moment += 1;
        self.moment
    }

    pub(crate) fn fail(&mut self, violation: Violation) {
        self.trace.note(|| format!("VIOLATION {violation}"));
        self.violation.get_or_insert(violation);
    }

    fn judge(&mut self, result: Result<(), raft::invariants::Violation>) {
        if let Err(raft::invariants::Violation { rule, detail }) = result {
            self.fail(Violation { rule, detail });
        }
    }

    pub(crate) fn started(&mut self, node: &Node, restored: &Restored<Payload>) {
        let result = self.checker.started(node, restored);
        self.judge(result);
    }

    pub(crate) fn synced(&mut self, id: NodeId, mark: &DurableMark) {
        self.checker.synced(id, mark);
    }

    pub(crate) fn installed(&mut self, id: NodeId, meta: &SnapshotMeta) {
        let result = self.checker.installed(id, meta);
        self.judge(result);
    }

    /// A core has produced `output`.
    pub(crate) fn observe(&mut self, node: &Node, output: &Output<Payload>) {
        let result = self.checker.observe(node, output);
        self.judge(result);
        if let Err(violation) = self.silence.check(self.trace.now, node.id(), output) {
            self.fail(violation);
        }
        if self.trace.is_on() {
            for event in &output.events {
                self.note_event(node.id(), event);
            }
        }
        self.check_elected(node, output);
        if let Err(violation) = self.votes.check(node, output) {
            self.fail(violation);
        }
        for entry in &output.committed {
            self.committed(node.id(), entry);
        }
    }

    /// Whoever was removed can be elected only while it has seen its removal
    /// and does not know yet that it is committed: until then nobody else may
    /// have a log that is long enough (dissertation, section 4.2.2). One that
    /// has not seen it has too short a log; one that knows does not try. Votes
    /// of an earlier term may still arrive late and elect it in that term,
    /// which is over.
    fn check_elected(&mut self, node: &Node, output: &Output<Payload>) {
        let id = node.id();
        for event in &output.events {
            let Event::Role { role: RoleKind::Leader, term, .. } = event else { continue };
            let committed = node.snapshot_meta(node.commit());
            let knows = committed.is_some_and(|meta| !meta.membership.members.contains_key(&id));
            let since = self.removed.get(&id).is_some_and(|&removal| *term > removal);
            if since && (knows || node.membership().is_voter(id)) {
                let what = format!("{id} is elected in term {term}");
                self.fail(Violation::new("a removed server is never elected", what));
            }
        }
    }

    fn committed(&mut self, id: NodeId, entry: &raft::Entry<Payload>) {
        let moment = self.moment();
        let at = (entry.index - 1) as usize;
        if at > self.log.len() {
            let what =
                format!("{id} applies {} while {} are committed", entry.index, self.log.len());
            return self.fail(Violation::new("an entry was committed unseen", what));
        }
        match self.log.get(at) {
            Some(known) if known.term == entry.term && known.body == entry.body => {}
            Some(known) => {
                let what = format!(
                    "{id} applies {}@{}, another replica applied {}@{}",
                    entry.index, entry.term, entry.index, known.term
                );
                self.fail(Violation::new("replicas apply different entries", what));
            }
            None => {
                self.trace.here(|| format!("commits {}@{} first", entry.index, entry.term));
                if let Body::Membership(membership) = &entry.body {
                    self.change_membership(entry.index, entry.term, membership);
                }
                let (term, body) = (entry.term, entry.body.clone());
                self.log.push(Applied { term, body, moment });
            }
        }
    }

    fn change_membership(&mut self, index: Index, term: Term, membership: &Membership) {
        let gone = |id: &&NodeId| !membership.members.contains_key(id);
        let gone = self.membership.1.members.keys().filter(gone);
        self.removed.extend(gone.map(|id| (*id, term)));
        if let Some(id) = membership.members.keys().find(|id| self.removed.contains_key(id)) {
            let what = format!("{id}, in the membership {index}");
            self.fail(Violation::new("ids of removed servers are not used again", what));
        }
        // Once it was removed a folder may come back, under another id.
        let ids = ids_of(membership);
        if ids.len() < membership.members.len() {
            let what = format!("in the membership {index}: {membership:?}");
            self.fail(Violation::new("a folder has one id", what));
        }
        for (folder, id) in ids {
            let known = self.ids.insert(folder, id);
            if let Some(known) =
                known.filter(|known| *known != id && !self.removed.contains_key(known))
            {
                let what = format!("{known} and {id}, in the membership {index}");
                self.fail(Violation::new("a folder has one id", what));
            }
        }
        self.check_dismissed(index, membership);
        let (before, after) = (self.membership.1.voters().count(), membership.voters().count());
        if before >= MIN_VOTERS && after < MIN_VOTERS {
            let what = format!("{before} became {after}, in the membership {index}");
            self.fail(Violation::new("two voters remain", what));
        }
        self.membership = (index, membership.clone());
    }

    /// Whom an operator has removed comes back only in a later run than the one
    /// that was meant: nobody has started it before.
    fn check_dismissed(&mut self, index: Index, membership: &Membership) {
        let count = |info: &MemberInfo| info.run.map_or(0, |run| run.count);
        let before = &self.membership.1;
        let added = membership.members.iter().filter(|(id, _)| !before.members.contains_key(id));
        let infos = added.filter_map(|(id, member)| Some((*id, info_of(&member.info)?)));
        let back = infos.into_iter().find_map(|(id, info)| {
            let run = *self.dismissed.get(&info.folder)?;
            (count(&info) <= run).then(|| format!("{id} in run {}, {run} was", count(&info)))
        });
        if let Some(what) = back {
            let what = format!("{what}, in the membership {index}");
            self.fail(Violation::new("whoever was dismissed was started since", what));
        }
        for info in membership.dismissed.values().filter_map(|info| info_of(info)) {
            let run = self.dismissed.entry(info.folder).or_default();
            *run = count(&info).max(*run);
        }
    }

    fn note_event(&mut self, id: NodeId, event: &Event) {
        self.trace.here(|| match event {
            Event::Role { role, term, leader } => {
                format!("{id} is {role:?} in term {term}, leader {}", name(*leader)).to_lowercase()
            }
            Event::Membership { index, membership } => {
                let members = membership.members.keys().map(|id| {
                    format!("{id}{}", if membership.is_voter(*id) { "" } else { " (learner)" })
                });
                format!("{id} membership {index}: {}", members.collect::<Vec<_>>().join(", "))
            }
            Event::Truncated { from } => format!("{id} drops its log from {from} on"),
            Event::FloorReached { last } => {
                format!("{id} reaches its floor, with {}@{}", last.index, last.term)
            }
            Event::Rejected { from, why } => format!("{id} rejects a message of {from}: {why}"),
        });
    }
}

fn ids_of(membership: &Membership) -> BTreeMap<FolderId, NodeId> {
    let folder = |info: &[u8]| info_of(info).expect("a member's own info").folder;
    membership.members.iter().map(|(id, member)| (folder(&member.info), *id)).collect()
}
