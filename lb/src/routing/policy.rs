//! Which server a read goes to.

use std::collections::BTreeMap;

use crate::config::Policy;
use crate::registry::LinkId;

/// Chooses by the policy.
#[derive(Debug)]
pub(super) struct Chooser {
    policy: Policy,
    turn: usize,
    /// Runs that each server has not answered yet.
    unanswered: BTreeMap<LinkId, usize>,
}

impl Chooser {
    pub(super) fn new(policy: Policy) -> Self {
        Chooser { policy, turn: 0, unanswered: BTreeMap::new() }
    }

    /// One of `readers`; `None`: the leader, or nobody is there.
    pub(super) fn choose(&mut self, readers: &[LinkId]) -> Option<LinkId> {
        if self.policy == Policy::Leader || readers.is_empty() {
            return None;
        }
        self.turn = (self.turn + 1) % readers.len();
        if self.policy == Policy::RoundRobin {
            return Some(readers[self.turn]);
        }
        // Of several with the least to do, the next in turn: an idle load
        // balancer does not send everything to the first one.
        let load = |id: &LinkId| self.unanswered.get(id).copied().unwrap_or(0);
        let (before, from) = readers.split_at(self.turn);
        from.iter().chain(before).copied().min_by_key(load)
    }

    pub(super) fn sent(&mut self, over: LinkId) {
        *self.unanswered.entry(over).or_default() += 1;
    }

    pub(super) fn answered(&mut self, over: LinkId) {
        if let Some(unanswered) = self.unanswered.get_mut(&over) {
            *unanswered = unanswered.saturating_sub(1);
        }
    }

    pub(super) fn forget(&mut self, link: LinkId) {
        self.unanswered.remove(&link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(ids: impl IntoIterator<Item = u64>) -> Vec<LinkId> {
        ids.into_iter().map(LinkId).collect()
    }

    #[test]
    fn by_the_policy() {
        let readers = links(1..=3);
        assert_eq!(Chooser::new(Policy::Leader).choose(&readers), None);

        let mut chooser = Chooser::new(Policy::RoundRobin);
        let chosen: Vec<_> = (0..6).filter_map(|_| chooser.choose(&readers)).collect();
        assert_eq!(chosen, links([2, 3, 1, 2, 3, 1]));
        assert_eq!(chooser.choose(&[]), None);

        let mut chooser = Chooser::new(Policy::LeastLoaded);
        let idle: Vec<_> = (0..3).filter_map(|_| chooser.choose(&readers)).collect();
        assert_eq!(idle, links([2, 3, 1]), "those with equally much to do take turns");
        chooser.sent(LinkId(1));
        chooser.sent(LinkId(3));
        for _ in 0..3 {
            assert_eq!(chooser.choose(&readers), Some(LinkId(2)));
        }
        chooser.answered(LinkId(3));
        chooser.sent(LinkId(2));
        assert_eq!(chooser.choose(&readers), Some(LinkId(3)));
    }
}
