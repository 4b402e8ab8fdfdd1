//! Bugs of the founding, to be brought back one at a time by whoever tests the
//! tests. Without the feature `planted-bugs` none of this can be reached, and
//! [`Balancer::has`] is `false` at compile time.

use super::Balancer;

/// A bug that can be planted in a balancer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(feature = "planted-bugs"), allow(unreachable_pub, dead_code))]
pub enum PlantedBug {
    /// Whatever its place in the servers' lists, and whatever they have heard
    /// of, it founds a cluster if it knows none.
    FoundsUnasked,
    /// Members that report do not make it know their cluster.
    ClusterUnseen,
}

impl Balancer {
    /// Plants `bug`.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&mut self, bug: PlantedBug) {
        self.planted = Some(bug);
    }

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
