//! Bugs of the routing, to be brought back one at a time by whoever tests the
//! tests. Without the feature `planted-bugs` none of this can be reached, and
//! [`Router::has`] is `false` at compile time.

use super::Router;

/// A bug that can be planted in a router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(feature = "planted-bugs"), allow(unreachable_pub, dead_code))]
pub enum PlantedBug {
    /// A write whose leader is lost goes to the next one under other ids.
    OtherIds,
    /// A write whose link is lost after it was sent is said to be not executed.
    LostIsRefused,
    /// What is parked until its deadline is dropped without an answer.
    ParkedDropped,
}

impl<W> Router<W> {
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
