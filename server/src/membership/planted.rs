//! Bugs of the membership, to be brought back one at a time by whoever tests
//! the tests. Without the feature `planted-bugs` none of this can be reached,
//! and [`Rules::has`] is `false` at compile time.

use super::Rules;

/// A bug that can be planted in the [`Rules`] of a leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(feature = "planted-bugs"), allow(unreachable_pub, dead_code))]
pub enum PlantedBug {
    /// A voter is removed though only one is left then, by the leader itself or
    /// at the wish of an operator who does not force it.
    FewVoters,
}

impl Rules {
    /// Whether `bug` is planted.
    #[inline]
    #[cfg(feature = "planted-bugs")]
    pub(super) fn has(&self, bug: PlantedBug) -> bool {
        self.planted == Some(bug)
    }

    /// Whether `bug` is planted: never.
    #[inline]
    #[cfg(not(feature = "planted-bugs"))]
    #[expect(clippy::unused_self, reason = "the same call with and without the feature")]
    pub(super) const fn has(&self, _bug: PlantedBug) -> bool {
        false
    }
}
