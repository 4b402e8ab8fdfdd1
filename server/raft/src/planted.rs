//! Famous bugs, to be brought back one at a time by whoever tests the tests.
//! Without the feature `planted-bugs` none of this can be reached, and
//! [`Config::has`] is `false` at compile time.

use crate::config::Config;

/// A bug that can be planted in a replica; see `Config::planted`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(feature = "planted-bugs"), allow(unreachable_pub, dead_code))]
pub enum PlantedBug {
    /// The next change of the membership forgets who was dismissed.
    DismissalForgotten,
    /// Entries of earlier terms are committed by counting replicas (paper,
    /// figure 8).
    CommitEarlierTerm,
    /// What is durable is known by index alone, not by index and term.
    AckByIndex,
    /// A membership change before an entry of the current term is committed.
    EarlyChange,
    /// Every append drops what the log holds behind it.
    TruncateAlways,
    /// A snapshot is installed over a newer state.
    StaleSnapshot,
    /// A lease is counted from the answers, not from the questions.
    LeaseFromReply,
    /// Reads are served without asking whether this replica still leads.
    ReadWithoutRound,
    /// Learners count in commits.
    LearnerCounts,
    /// Learners campaign, are asked for their votes, and those count.
    LearnerVotes,
    /// No pre-vote, and voters who hear a leader vote for others.
    NoPreVote,
    /// An acknowledgement that says nothing new is answered with another
    /// append, which is acknowledged.
    AnswerRepeated,
    /// A replica that lost entries votes by what it still has.
    FloorForgotten,
    /// A replica that lost entries campaigns with what it still has.
    CampaignBelowFloor,
    /// A leader believes for ever what a peer once acknowledged, though the
    /// peer has lost it.
    LossUnnoticed,
}

impl Config {
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
}
