//! Memberships in force, and what a change makes of one.

use alloc::vec::Vec;

use crate::error::ChangeError;
use crate::types::{Change, Index, MAX_DISMISSED, Member, Membership, NodeId, Suffrage};

/// The memberships in the log, from the one of the newest checkpoint on. The
/// last is in force as soon as it is appended, committed or not
/// (dissertation, section 4.1); truncation brings back the one before.
#[derive(Clone, Debug)]
pub(crate) struct Memberships(Vec<(Index, Membership)>);

impl Memberships {
    pub(crate) fn new(index: Index, membership: Membership) -> Self {
        let mut all = Vec::with_capacity(2);
        all.push((index, membership));
        Memberships(all)
    }

    pub(crate) fn push(&mut self, index: Index, membership: Membership) {
        self.0.push((index, membership));
    }

    pub(crate) fn current(&self) -> &Membership {
        &self.0[self.0.len() - 1].1
    }

    /// The index of the entry that carries the current one.
    pub(crate) fn index(&self) -> Index {
        self.0[self.0.len() - 1].0
    }

    /// The one in force at `index`.
    pub(crate) fn at(&self, index: Index) -> Option<&Membership> {
        self.0.iter().rev().find(|(at, _)| *at <= index).map(|(_, membership)| membership)
    }

    /// Whether `id` votes in any that may turn out to be the committed one. A
    /// server whose removal is not committed yet may still be needed as a
    /// leader: nobody else may have a log that is long enough (dissertation,
    /// section 4.2.2 and figure 4.6).
    pub(crate) fn may_need(&self, id: NodeId, commit: Index) -> bool {
        let (mut reached, mut possible) = (false, self.0.iter().rev());
        possible.any(|(index, membership)| {
            let asked = !reached;
            reached |= *index <= commit;
            asked && membership.is_voter(id)
        })
    }

    /// How many are not committed.
    pub(crate) fn uncommitted(&self, commit: Index) -> usize {
        self.0.iter().skip(1).filter(|(at, _)| *at > commit).count()
    }

    /// The log lost everything from `from` on. Whether that changed the
    /// membership in force.
    pub(crate) fn truncate(&mut self, from: Index) -> bool {
        let before = self.0.len();
        while self.0.len() > 1 && self.index() >= from {
            self.0.pop();
        }
        self.0.len() < before
    }

    /// Nothing before `index` will be asked for again.
    pub(crate) fn forget_before(&mut self, index: Index) {
        let keep_from = self.0.partition_point(|(at, _)| *at <= index).saturating_sub(1);
        self.0.drain(..keep_from);
    }
}

impl Membership {
    /// What `change` makes of this membership.
    pub(crate) fn changed(&self, change: Change) -> Result<Membership, ChangeError> {
        let mut next = self.clone();
        match change {
            Change::AddLearner { info } => {
                let member = Member { suffrage: Suffrage::Learner, info };
                next.members.insert(NodeId(next.next_id), member);
                next.next_id += 1;
            }
            Change::Promote(id) => {
                let member = next.members.get_mut(&id).ok_or(ChangeError::Unknown(id))?;
                if member.suffrage == Suffrage::Voter {
                    return Err(ChangeError::AlreadyVoter(id));
                }
                member.suffrage = Suffrage::Voter;
            }
            Change::Remove(id) => next.drop_member(id)?,
            Change::Dismiss { id, info } => {
                next.drop_member(id)?;
                next.dismissed.insert(id, info);
                while next.dismissed.len() > MAX_DISMISSED {
                    next.dismissed.pop_first();
                }
            }
            Change::Update { id, info } => {
                let member = next.members.get_mut(&id).ok_or(ChangeError::Unknown(id))?;
                member.info = info;
            }
        }
        Ok(next)
    }

    fn drop_member(&mut self, id: NodeId) -> Result<(), ChangeError> {
        self.members.remove(&id).ok_or(ChangeError::Unknown(id))?;
        match self.voters().next() {
            Some(_) => Ok(()),
            None => Err(ChangeError::LastVoter(id)),
        }
    }

    /// Whether a membership from outside can be one at all.
    pub(crate) fn is_sound(&self) -> bool {
        self.voters().next().is_some()
            && self.members.keys().next().is_some_and(|id| id.0 > 0)
            && self.members.keys().next_back().is_some_and(|id| id.0 < self.next_id)
            && self.next_id < u64::MAX / 2
            && self.dismissed.len() <= MAX_DISMISSED
            && self.dismissed.keys().all(|id| id.0 < self.next_id && !self.members.contains_key(id))
    }

    /// How many vote.
    pub(crate) fn voter_count(&self) -> usize {
        self.voters().count()
    }
}
