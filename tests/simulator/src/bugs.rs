//! Famous bugs, planted one at a time, to show that the simulator finds them.

use lb::balancer::PlantedBug as Founding;
use lb::routing::PlantedBug as Routing;
use raft::{Config, PlantedBug};
use server::keystore::{Keystore, PlantedBug as Sessions};
use server::membership::PlantedBug as Members;

/// A bug that can be planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// The disk is believed before it is done.
    AckBeforeSync,
    /// Term and vote are lost in a crash, though they were synced.
    VoteNotSynced,
    /// Damage in the log is taken for the torn end of a write.
    DamageForTear,
    /// Of two servers only that with the smaller id ever dials.
    OneDials,
    /// A folder that is a copy, or was put back, is taken for what it was.
    CopiesAccepted,
    /// One in the core.
    Core(PlantedBug),
    /// One in the keystore.
    Keystore(Sessions),
    /// One in what a leader does about the membership.
    Membership(Members),
    /// One in the load balancer.
    Balancer(Founding),
    /// One in how the load balancer routes.
    Routing(Routing),
}

/// Every bug, with the name that it has on the command line.
pub const BUGS: [(&str, Bug, &str); 35] = [
    (
        "commit-earlier-term",
        Bug::Core(PlantedBug::CommitEarlierTerm),
        "a leader commits entries of earlier terms by counting replicas (paper, figure 8)",
    ),
    ("vote-not-synced", Bug::VoteNotSynced, "term and vote do not survive a crash"),
    ("ack-before-sync", Bug::AckBeforeSync, "appends are acknowledged before fsync is done"),
    (
        "ack-by-index",
        Bug::Core(PlantedBug::AckByIndex),
        "what is durable is known by index alone, not by index and term",
    ),
    (
        "early-change",
        Bug::Core(PlantedBug::EarlyChange),
        "a membership change before an entry of the current term is committed",
    ),
    (
        "truncate-always",
        Bug::Core(PlantedBug::TruncateAlways),
        "every append truncates the log behind it, though nothing conflicts",
    ),
    (
        "stale-snapshot",
        Bug::Core(PlantedBug::StaleSnapshot),
        "a snapshot is installed though the state is newer",
    ),
    (
        "lease-from-reply",
        Bug::Core(PlantedBug::LeaseFromReply),
        "a lease counts from when the answers came, which a pause delays",
    ),
    (
        "read-without-round",
        Bug::Core(PlantedBug::ReadWithoutRound),
        "a leader serves reads without asking whether it still leads",
    ),
    (
        "learner-counts",
        Bug::Core(PlantedBug::LearnerCounts),
        "learners count in commits and read rounds",
    ),
    (
        "removed-disrupts",
        Bug::Core(PlantedBug::NoPreVote),
        "no pre-vote and no stickiness: a removed server deposes leader after leader",
    ),
    (
        "damage-for-tear",
        Bug::DamageForTear,
        "damage in the log is cut off like a torn write, and the server goes on as if whole",
    ),
    (
        "floor-forgotten",
        Bug::Core(PlantedBug::FloorForgotten),
        "a server that lost entries votes by what it still has",
    ),
    (
        "campaign-below-floor",
        Bug::Core(PlantedBug::CampaignBelowFloor),
        "a server that lost entries campaigns with what it still has",
    ),
    (
        "loss-unnoticed",
        Bug::Core(PlantedBug::LossUnnoticed),
        "a leader never sends again what a peer has acknowledged and lost",
    ),
    (
        "append-storm",
        Bug::Core(PlantedBug::AnswerRepeated),
        "a leader answers an acknowledgement that says nothing new with another append",
    ),
    (
        "snapshot-without-sessions",
        Bug::Keystore(Sessions::SnapshotWithoutSessions),
        "checkpoints and snapshots lack the sessions of those who forward writes",
    ),
    (
        "snapshot-without-uses",
        Bug::Keystore(Sessions::SnapshotWithoutUses),
        "checkpoints and snapshots lack the index of each session's last use",
    ),
    (
        "judged-by-clock",
        Bug::Keystore(Sessions::JudgedByClock),
        "which sessions were used lately is judged by the replicated clock, which may stand still",
    ),
    (
        "applied-again",
        Bug::Keystore(Sessions::AppliedAgain),
        "a forwarded write that comes again is applied again",
    ),
    (
        "no-session-needed",
        Bug::Keystore(Sessions::NoSessionNeeded),
        "a forwarded write whose session has expired is applied",
    ),
    (
        "names-dropped",
        Bug::Keystore(Sessions::NamesDropped),
        "a leader proposes a write that its client has named without the name",
    ),
    (
        "stamp-goes-back",
        Bug::Keystore(Sessions::StampGoesBack),
        "a new leader's clock begins behind entries in its log that it has not applied",
    ),
    (
        "no-relay",
        Bug::Keystore(Sessions::NoRelay),
        "a server that follows hands nothing on for load balancers, which may not reach the leader",
    ),
    (
        "relayed-under-other-ids",
        Bug::Keystore(Sessions::RelayRenames),
        "a server that follows hands on what a load balancer sends under ids of its own",
    ),
    (
        "few-voters",
        Bug::Membership(Members::FewVoters),
        "a voter is removed though only one is left then",
    ),
    (
        "dismissal-forgotten",
        Bug::Core(PlantedBug::DismissalForgotten),
        "the next change of the membership forgets whom operators have removed",
    ),
    (
        "learner-votes",
        Bug::Core(PlantedBug::LearnerVotes),
        "learners campaign, are asked for their votes, and those count",
    ),
    (
        "founds-unasked",
        Bug::Balancer(Founding::FoundsUnasked),
        "a load balancer founds a cluster though it is not the first of the servers' lists, or they know one",
    ),
    (
        "cluster-unseen",
        Bug::Balancer(Founding::ClusterUnseen),
        "a load balancer that has lost its memory takes no notice of the members that report",
    ),
    (
        "one-dials",
        Bug::OneDials,
        "a server with a larger id never dials, though the other one may not know of it",
    ),
    (
        "copies-accepted",
        Bug::CopiesAccepted,
        "servers take a folder that was put back to an earlier state for the one that ran later",
    ),
    (
        "resent-under-other-ids",
        Bug::Routing(Routing::OtherIds),
        "a load balancer sends a write that the last leader may have executed to the next one under other ids",
    ),
    (
        "lost-is-refused",
        Bug::Routing(Routing::LostIsRefused),
        "a load balancer says of a write whose link was lost that it was not executed",
    ),
    (
        "parked-dropped",
        Bug::Routing(Routing::ParkedDropped),
        "a load balancer drops what has waited for a leader until its deadline",
    ),
];

impl Bug {
    /// The bug of that name.
    pub fn named(name: &str) -> Option<Self> {
        BUGS.iter().find(|(known, ..)| *known == name).map(|(_, bug, _)| *bug)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        BUGS.iter().find(|(_, bug, _)| *bug == self).map_or("", |(name, ..)| name)
    }

    /// Plants it in the settings of a core, if it lives there.
    pub(crate) fn plant(self, config: &mut Config) {
        if let Bug::Core(bug) = self {
            config.planted = Some(bug);
        }
    }

    /// Plants it in a keystore, if it lives there.
    pub(crate) fn plant_in(self, keystore: &mut Keystore) {
        if let Bug::Keystore(bug) = self {
            keystore.plant(bug);
        }
    }
}
