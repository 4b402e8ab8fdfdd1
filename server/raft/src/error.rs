//! Why the core refused something that its driver asked for. All of them are
//! answers, none is a fault: nothing was changed.

use core::fmt;

use crate::types::NodeId;

/// Why a proposal was not accepted; nothing was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProposeError {
    /// This replica does not lead.
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over; it ends within an election timeout.
    Transferring,
    /// `Config::max_uncommitted_bytes` are waiting to be committed.
    Full,
}

/// Why a membership change was not accepted; nothing was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeError {
    /// This replica does not lead.
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over.
    Transferring,
    /// The change before is not committed yet.
    InFlight,
    /// No entry of the leader's own term is committed yet: a change now could
    /// overlap with one of an earlier leader.
    NoCurrentTermCommit,
    /// No member has this id.
    Unknown(NodeId),
    /// The member votes already.
    AlreadyVoter(NodeId),
    /// The learner is not close enough behind the leader to be promoted.
    Lagging(NodeId),
    /// The last voter cannot be removed.
    LastVoter(NodeId),
}

/// Why leadership cannot be handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferError {
    /// This replica does not lead.
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<NodeId>,
    },
    /// Another transfer is under way.
    InProgress {
        /// To whom.
        to: NodeId,
    },
    /// The named replica is not a voter.
    NotVoter(NodeId),
    /// No other voter has been heard lately.
    NoCandidate,
}

fn write_leader(f: &mut fmt::Formatter<'_>, leader: Option<NodeId>) -> fmt::Result {
    match leader {
        Some(leader) => write!(f, "not the leader: ask {leader}"),
        None => f.write_str("not the leader, and no leader is known: try again later"),
    }
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProposeError::NotLeader { leader } => write_leader(f, *leader),
            ProposeError::Transferring => {
                f.write_str("leadership is being handed over: try again in a moment")
            }
            ProposeError::Full => {
                f.write_str("too many bytes wait to be committed: try again later")
            }
        }
    }
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeError::NotLeader { leader } => write_leader(f, *leader),
            ChangeError::Transferring => {
                f.write_str("leadership is being handed over: try again in a moment")
            }
            ChangeError::InFlight => {
                f.write_str("the membership change before is not committed yet: try again later")
            }
            ChangeError::NoCurrentTermCommit => {
                f.write_str("the leader has not committed an entry yet: try again in a moment")
            }
            ChangeError::Unknown(id) => write!(f, "{id} is not a member"),
            ChangeError::AlreadyVoter(id) => write!(f, "{id} is a voter already"),
            ChangeError::Lagging(id) => {
                write!(f, "{id} is too far behind to be made a voter: wait until it has caught up")
            }
            ChangeError::LastVoter(id) => {
                write!(f, "{id} is the last voter: add another one before removing it")
            }
        }
    }
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransferError::NotLeader { leader } => write_leader(f, *leader),
            TransferError::InProgress { to } => {
                write!(f, "leadership is being handed to {to} already: wait for the outcome")
            }
            TransferError::NotVoter(id) => write!(f, "{id} is not a voter, so it cannot lead"),
            TransferError::NoCandidate => {
                f.write_str("no other voter has been heard lately: nobody could take over")
            }
        }
    }
}

impl core::error::Error for ProposeError {}
impl core::error::Error for ChangeError {}
impl core::error::Error for TransferError {}
