//! What servers and load balancers tell each other over UDP, as JSON frames
//! on [`Lane::Control`](crate::udp::Lane::Control): few, small, and worth reading in a trace.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, FolderId, ServerId};

/// Version of the messages between processes. A peer that speaks another one
/// is refused with a reason.
pub const PROTOCOL_VERSION: u32 = 1;

/// The first frame on every link, in both directions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub version: u32,
    /// Who speaks.
    pub from: Party,
}

/// One end of a link.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Party {
    /// A load balancer.
    LoadBalancer {
        /// Its name, for logs.
        name: String,
    },
    /// A server that is a member of a cluster.
    Member {
        /// Which cluster.
        cluster: ClusterId,
        /// Which server.
        id: ServerId,
        /// Which folder.
        folder: FolderId,
        /// The UDP address that it is reached at.
        peer: SocketAddr,
        /// The runs of the folder, oldest first, the sender's own last.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        runs: Vec<Run>,
        /// How far its disk had come when its process started. `None`: it is known to
        /// have lost something, or the sender is of an older program.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disk: Option<Reached>,
    },
    /// A server that is no member yet and only talks to load balancers.
    Fresh {
        /// Which folder.
        folder: FolderId,
    },
    /// A command of an operator: it asks one thing of one server, and is no
    /// part of the cluster.
    Operator {
        /// Which command, for logs.
        name: String,
    },
}

/// One start of a server's process on a folder. The folder keeps those of its
/// past ([`Runs`](crate::runs::Runs)), the membership the newest that the cluster
/// has taken note of: of two copies of a folder only one can have run last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Run {
    /// One more than that of the run before on the same folder; begins at 1.
    pub count: u64,
    /// Drawn at random: runs of two copies of a folder have the same counts.
    pub nonce: u64,
}

/// How far a server has come: the higher term counts, and in the same term the
/// longer log, since its leader only adds to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Reached {
    /// The highest term that it has written down.
    pub term: u64,
    /// The last index of its log.
    pub index: u64,
}

/// How a server is found; the `info` of a Raft member, as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its folder.
    pub folder: FolderId,
    /// Its name, e.g. `srv-1`.
    pub name: String,
    /// UDP address for servers and load balancers.
    pub peer: SocketAddr,
    /// TCP address for clients.
    pub client: SocketAddr,
    /// In the membership: its newest run that the cluster has taken note of. In
    /// a report: the run that reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
}

impl MemberInfo {
    /// Whether `other` names the same folder at the same addresses, whichever
    /// run of it.
    pub fn is_found_like(&self, other: &MemberInfo) -> bool {
        let MemberInfo { folder, name, peer, client, run: _ } = self;
        (folder, name, peer, client) == (&other.folder, &other.name, &other.peer, &other.client)
    }
}

/// A member as the replicated configuration has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Its id.
    pub id: ServerId,
    /// Whether it votes; otherwise it is a learner.
    pub voter: bool,
    /// How it is found.
    pub info: MemberInfo,
}

impl MemberRecord {
    /// Whether this dismissed member was the process that says `process` of
    /// itself: a run of that folder that is no later than the one that was
    /// dismissed. A later one was started afterwards, on purpose. A process that
    /// names no run is of an older program, and cannot show that it was.
    pub fn was(&self, process: &MemberInfo) -> bool {
        let later = match (self.info.run, process.run) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(dismissed), Some(run)) => run.count > dismissed.count,
        };
        self.info.folder == process.folder && !later
    }
}

/// What a server is right now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Registered, waiting for bootstrap or admission.
    Fresh,
    /// Receives the log without voting.
    Learner,
    /// Follows a leader, or waits for one.
    Follower,
    /// Campaigns.
    Candidate,
    /// Leads.
    Leader,
}

impl Role {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Role::Fresh => "fresh",
            Role::Learner => "learner",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
        }
    }
}

/// What is wrong with a server that runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// Its data are not those of the others: it serves nothing, and fetches
    /// them anew.
    DataDiffer,
    /// Its disk has no room for the log: a leader refuses writes.
    DiskFull,
    /// No checkpoint can be written: the log-file grows.
    NoCheckpoint,
    /// It lost a part of its data and is being sent it.
    Repairing,
}

impl Trouble {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Trouble::DataDiffer => "data-differ",
            Trouble::DiskFull => "disk-full",
            Trouble::NoCheckpoint => "no-checkpoint",
            Trouble::Repairing => "repairing",
        }
    }
}

/// Server to load balancer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "operation")]
pub enum ToLb {
    /// Registers, and from then on reports: on every change, and at least each
    /// [`REPORT_INTERVAL`](crate::limits::REPORT_INTERVAL).
    Report(Box<Report>),
    /// The sender stops on purpose.
    Goodbye,
    /// Answer of a leader to [`ToServer::Admit`].
    Admitted {
        /// Whom.
        folder: FolderId,
        /// Done under this id, or why not.
        result: Result<ServerId, String>,
    },
    /// An operator asks for something; for the leader.
    Operate(Operation),
    /// Answer of a leader to [`ToServer::Operate`].
    Operated {
        /// The load balancer's number.
        number: u64,
        /// What became of it.
        outcome: Outcome,
    },
}

/// What an operator wants done. Asked again until it is: all of them are
/// idempotent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum Operation {
    /// Take a server out of the membership.
    Remove {
        /// Its name or id; `#5` is an id in any case.
        server: String,
        /// Even if few voters are left.
        force: bool,
        /// Only say who is meant ([`Outcome::Removes`]), and change nothing. Whoever
        /// asks for `#ID` from then on means no other one, however often it asks.
        #[serde(default)]
        only_look: bool,
    },
    /// Hand leadership over.
    Transfer {
        /// To whom, by name or id; by default to the voter that is furthest along.
        to: Option<String>,
    },
}

/// What became of an [`Operation`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is", content = "text")]
pub enum Outcome {
    /// It is as it was to be.
    Done(String),
    /// Leadership goes to this server: ask for just that until it leads.
    HandsOver(String),
    /// This member is meant, and its removal is under way unless that was only a
    /// look, or is done already: ask for just that one, as `#ID`, until it is
    /// unknown. Its name may soon mean another member.
    Removes {
        /// Its id.
        id: ServerId,
        /// Its folder.
        folder: FolderId,
        /// Its name.
        name: String,
    },
    /// It is no member any more, and its process is told to stop: ask again
    /// until it is gone.
    Stops(String),
    /// Under way, or to be asked again.
    Pending(String),
    /// No member has that name or id.
    Unknown(String),
    /// It must not be, or cannot.
    Refused(String),
}

/// A server's view of itself and its cluster.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// How to find it.
    pub info: MemberInfo,
    /// Its cluster and id; `None` for a fresh server.
    pub member: Option<(ClusterId, ServerId)>,
    /// What it is.
    pub role: Role,
    /// Raft term.
    pub term: u64,
    /// Whom it follows (itself when it leads).
    pub leader: Option<ServerId>,
    /// Last index in its log.
    pub last_index: u64,
    /// Highest index known committed.
    pub commit_index: u64,
    /// Highest index applied.
    pub applied_index: u64,
    /// The configuration in force.
    pub members: Vec<MemberRecord>,
    /// Keys in the keystore.
    pub keys: u64,
    /// Bytes that the items take in memory.
    pub memory_bytes: u64,
    /// Seconds since the process started.
    pub uptime_secs: u64,
    /// Operations answered since the process started: reads.
    pub reads: u64,
    /// Operations answered since the process started: writes.
    pub writes: u64,
    /// Open client connections.
    pub connections: u64,
    /// Process id, for people.
    pub pid: u32,
    /// The receiver has the smallest address in the server's list of load
    /// balancers: only that one may found a cluster with it.
    pub may_found: bool,
    /// The cluster that another load balancer has told a fresh server of.
    pub heard_of: Option<ClusterId>,
    /// Of a fresh server: its other load balancers that have not said yet whether
    /// they know a cluster. Until they have, none is founded.
    #[serde(default)]
    pub unheard: Vec<SocketAddr>,
    /// What is wrong with it, if anything is.
    #[serde(default)]
    pub trouble: Option<Trouble>,
    /// The last leader and its term, if this server has seen that process end
    /// and knows no other leader yet. Without it, one that knows no leader may
    /// only have lost sight of it.
    #[serde(default)]
    pub gone_leader: Option<(ServerId, u64)>,
    /// Those whom operators have removed, as committed, like `members`. Their
    /// processes are to stop, and are not admitted ([`MemberRecord::was`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dismissed: Vec<MemberRecord>,
    /// The runs of its folder, oldest first, its own last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Run>,
}

impl Report {
    /// Of a server that is not in any cluster and holds nothing.
    pub fn fresh(info: MemberInfo, pid: u32) -> Self {
        Report {
            info,
            member: None,
            role: Role::Fresh,
            term: 0,
            leader: None,
            last_index: 0,
            commit_index: 0,
            applied_index: 0,
            members: Vec::new(),
            keys: 0,
            memory_bytes: 0,
            uptime_secs: 0,
            reads: 0,
            writes: 0,
            connections: 0,
            pid,
            may_found: true,
            heard_of: None,
            unheard: Vec::new(),
            trouble: None,
            gone_leader: None,
            dismissed: Vec::new(),
            runs: Vec::new(),
        }
    }
}

/// What a fresh server waits for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Waiting {
    /// In words, e.g. "1 more server".
    pub what: String,
    /// As many servers are to be added before anything goes on; 0: what it
    /// waits for comes by itself.
    pub missing_servers: usize,
}

impl Waiting {
    /// For something that comes by itself.
    pub fn for_what(what: impl Into<String>) -> Self {
        Waiting { what: what.into(), missing_servers: 0 }
    }
}

/// Load balancer to server.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "operation")]
pub enum ToServer {
    /// Answer to the first report of a link.
    Registered {
        /// The load balancer's name.
        lb: String,
        /// Its cluster, if it knows one.
        cluster: Option<ClusterId>,
        /// What the server waits for, when it is fresh.
        waiting_for: Option<Waiting>,
    },
    /// The registration is refused; the server stops with this reason.
    Refused {
        /// Why, and what to do.
        why: String,
        /// The cluster of the load balancer, if it has one: of another one it
        /// cannot know who belongs to it.
        #[serde(default)]
        cluster: Option<ClusterId>,
        /// An operator has removed this process: the cluster has taken note of its run.
        #[serde(default)]
        dismissed: bool,
    },
    /// Become a member of this cluster: sent to the first voters at bootstrap,
    /// and to a fresh server that the leader has admitted. Idempotent; refused
    /// by a server that holds another cluster's data.
    Adopt {
        /// Which cluster.
        cluster: ClusterId,
        /// The receiver's id.
        id: ServerId,
        /// The first membership, when this bootstraps a cluster; empty for a
        /// server that joins one and learns the membership from its log.
        voters: Vec<MemberRecord>,
        /// Campaign at once: sent to the one registered first.
        campaign: bool,
    },
    /// To the leader: an operator asks for something.
    Operate {
        /// The sender's number.
        number: u64,
        /// What.
        wanted: Operation,
        /// The runs that the load balancer has heard of last: the membership may
        /// not know the newest yet.
        #[serde(default)]
        runs: Vec<(FolderId, Run)>,
    },
    /// To an operator: what became of what it asked for.
    Operated(Outcome),
    /// The leader of this term is gone, and the receiver has the longest log
    /// of those that say so: it is to campaign at once, if it still follows
    /// nobody in that term.
    Campaign {
        /// The term of the leader that is gone.
        term: u64,
    },
    /// To the leader: admit a fresh server as a learner, or take note of the new
    /// addresses of a member. Idempotent by folder.
    Admit {
        /// Whom.
        info: MemberInfo,
        /// The runs of its folder, oldest first, as it has reported them: the
        /// leader may have taken note of one that the sender does not know of.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        runs: Vec<Run>,
    },
    /// To a member that follows nobody: where the others are that report here. It
    /// may know them at addresses that they have left.
    Whereabouts {
        /// Their ids and UDP addresses.
        members: Vec<(ServerId, SocketAddr)>,
    },
}

/// Server to server, on the same lane: orders of load balancers that cannot reach the
/// leader themselves. A server that follows it hands them on; none is handed
/// on twice.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "operation")]
pub enum ToPeer {
    /// To the leader: [`ToServer::Operate`] or [`ToServer::Admit`].
    Order {
        /// Whose it is: the sender knows it at this address.
        lb: SocketAddr,
        /// What.
        order: Box<ToServer>,
    },
    /// From the leader: what is to be told to that load balancer.
    Answer {
        /// Which.
        lb: SocketAddr,
        /// What.
        answer: Box<ToLb>,
    },
}
