//! Bugs of the sessions and their clock, to be brought back one at a time by
//! whoever tests the tests. Without the feature `planted-bugs` none of this can
//! be reached, and [`Keystore::has`] is `false` at compile time.

use super::Keystore;
use super::sessions::Sessions;

/// A bug that can be planted in a keystore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(feature = "planted-bugs"), allow(unreachable_pub, dead_code))]
pub enum PlantedBug {
    /// Checkpoints and snapshots are without the sessions.
    SnapshotWithoutSessions,
    /// Checkpoints and snapshots are without the indexes of the sessions' last
    /// uses.
    SnapshotWithoutUses,
    /// Which session was used lately is judged by the replicated clock.
    JudgedByClock,
    /// A write that comes again is applied again.
    AppliedAgain,
    /// A write whose session is unknown is applied.
    NoSessionNeeded,
    /// A leader proposes what a client has named without its name.
    NamesDropped,
    /// A new leader stamps entries without a look at those in its log that are
    /// not applied yet.
    StampGoesBack,
    /// What a load balancer sends to a server that does not lead is refused.
    NoRelay,
    /// Such a batch is relayed under ids that this server gives it.
    RelayRenames,
}

impl Keystore {
    /// Plants `bug`.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&mut self, bug: PlantedBug) {
        self.planted = Some(bug);
    }

    /// Whether `bug` is planted.
    #[inline]
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn has(&self, bug: PlantedBug) -> bool {
        self.planted == Some(bug)
    }

    /// Whether `bug` is planted: never.
    #[inline]
    #[cfg(not(feature = "planted-bugs"))]
    #[expect(clippy::unused_self, reason = "the same call with and without the feature")]
    pub(crate) const fn has(&self, _bug: PlantedBug) -> bool {
        false
    }

    /// The sessions, for a checkpoint.
    #[cfg(feature = "planted-bugs")]
    pub(super) fn frozen_sessions(&self) -> Sessions {
        match self.planted {
            Some(PlantedBug::SnapshotWithoutSessions) => Sessions::default(),
            Some(PlantedBug::SnapshotWithoutUses) => self.sessions.clone().without_uses(),
            _ => self.sessions.clone(),
        }
    }

    /// The sessions, for a checkpoint.
    #[cfg(not(feature = "planted-bugs"))]
    pub(super) fn frozen_sessions(&self) -> Sessions {
        self.sessions.clone()
    }
}
