//! What lies between the replicas, and the links in it that a test cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use common::udp::ClusterKey;
use raft::{Envelope, Membership, NodeId};

use super::error::StartError;
use super::udp::Udp;
use crate::command::Payload;

/// A cluster's members and what lies between them. Clones are the same
/// network.
///
/// Any link can be cut and healed, for tests. Over UDP a cut concerns what the
/// replicas that were started with (a clone of) this value send and take.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    kind: Kind,
    /// From whom, to whom.
    cuts: RwLock<BTreeSet<(NodeId, NodeId)>>,
    /// How many; looked at for each message, so without a lock.
    cut_count: AtomicUsize,
}

enum Kind {
    InProcess { members: BTreeSet<NodeId>, ports: Mutex<Ports> },
    Udp { key: ClusterKey, members: BTreeMap<NodeId, SocketAddr> },
}

#[derive(Default)]
struct Ports {
    open: BTreeMap<NodeId, Deliver>,
    /// Those in memory that have ended.
    forgotten: BTreeSet<NodeId>,
}

/// What replicas send each other.
#[derive(Debug)]
pub(super) enum Frame {
    Raft(Envelope<Payload>),
    /// A command for the leader, under the sender's number.
    Forward {
        from: NodeId,
        number: u64,
        payload: Payload,
    },
    /// The answer of one that does not lead.
    Refused {
        number: u64,
    },
}

/// Takes what arrives for a replica.
pub(super) type Deliver = Arc<dyn Fn(Frame) + Send + Sync>;

/// A replica's access to the network.
pub(super) enum Port {
    InProcess { network: Network, id: NodeId, in_memory: bool },
    Udp(Udp),
}

impl Network {
    /// Replicas of one process, with these ids, which exchange messages
    /// through queues.
    pub fn in_process(members: impl IntoIterator<Item = NodeId>) -> Self {
        let members = members.into_iter().collect();
        Self::of(Kind::InProcess { members, ports: Mutex::default() })
    }

    /// Replicas at these UDP addresses, of one process or of several. Links
    /// are QUIC, and whoever does not have the key is refused.
    pub fn udp(key: ClusterKey, members: impl IntoIterator<Item = (NodeId, SocketAddr)>) -> Self {
        Self::of(Kind::Udp { key, members: members.into_iter().collect() })
    }

    fn of(kind: Kind) -> Self {
        Network(Arc::new(Inner { kind, cuts: RwLock::default(), cut_count: AtomicUsize::new(0) }))
    }

    /// The ids of the members, in order.
    pub fn members(&self) -> Vec<NodeId> {
        match &self.0.kind {
            Kind::InProcess { members, .. } => members.iter().copied().collect(),
            Kind::Udp { members, .. } => members.keys().copied().collect(),
        }
    }

    /// Cuts the link between two replicas, both ways.
    pub fn cut(&self, a: NodeId, b: NodeId) {
        self.change(|cuts| cuts.extend([(a, b), (b, a)]));
    }

    /// What `from` sends does not reach `to` any more; the way back stays.
    pub fn cut_one_way(&self, from: NodeId, to: NodeId) {
        self.change(|cuts| cuts.extend([(from, to)]));
    }

    /// Cuts all links of a replica.
    pub fn isolate(&self, id: NodeId) {
        for other in self.members() {
            self.cut(id, other);
        }
    }

    /// Heals the link between two replicas, both ways.
    pub fn heal(&self, a: NodeId, b: NodeId) {
        self.change(|cuts| cuts.retain(|link| *link != (a, b) && *link != (b, a)));
    }

    /// Heals every link.
    pub fn heal_all(&self) {
        self.change(BTreeSet::clear);
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<(NodeId, NodeId)>)) {
        let mut cuts = self.0.cuts.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut cuts);
        self.0.cut_count.store(cuts.len(), Ordering::Release);
    }

    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.0.cut_count.load(Ordering::Acquire) > 0
            && self.0.cuts.read().unwrap_or_else(PoisonError::into_inner).contains(&(from, to))
    }

    /// The members as the core wants them.
    pub(super) fn membership(&self) -> Membership {
        Membership::of_voters(self.members().into_iter().map(|id| (id, [].into())))
    }

    /// Gives the replica `id` access.
    pub(super) fn open(
        &self,
        id: NodeId,
        in_memory: bool,
        deliver: Deliver,
    ) -> Result<Port, StartError> {
        match &self.0.kind {
            Kind::InProcess { members, .. } if !members.contains(&id) => {
                Err(StartError::NotAMember(id))
            }
            Kind::InProcess { ports, .. } => {
                let mut ports = locked(ports);
                if ports.open.contains_key(&id) {
                    return Err(StartError::Running(id));
                }
                if ports.forgotten.contains(&id) {
                    return Err(StartError::Forgotten(id));
                }
                ports.open.insert(id, deliver);
                Ok(Port::InProcess { network: self.clone(), id, in_memory })
            }
            Kind::Udp { key, members } => {
                Ok(Port::Udp(Udp::open(id, key, members, self.clone(), deliver)?))
            }
        }
    }

    fn deliver(&self, to: NodeId, frame: Frame) {
        if let Kind::InProcess { ports, .. } = &self.0.kind {
            let deliver = locked(ports).open.get(&to).cloned();
            if let Some(deliver) = deliver {
                deliver(frame);
            }
        }
    }
}

impl Port {
    /// Sends, or sheds: who needs an answer asks again.
    pub(super) fn send(&self, to: NodeId, frame: Frame) {
        match self {
            Port::InProcess { network, id, .. } if !network.is_cut(*id, to) => {
                network.deliver(to, frame);
            }
            Port::InProcess { .. } => {}
            Port::Udp(udp) => udp.send(to, &frame),
        }
    }

    /// Nothing is sent or delivered any more.
    pub(super) fn close(self) {
        match self {
            Port::InProcess { network, id, in_memory } => {
                if let Kind::InProcess { ports, .. } = &network.0.kind {
                    let mut ports = locked(ports);
                    ports.open.remove(&id);
                    if in_memory {
                        ports.forgotten.insert(id);
                    }
                }
            }
            Port::Udp(udp) => udp.close(),
        }
    }
}

fn locked(ports: &Mutex<Ports>) -> MutexGuard<'_, Ports> {
    ports.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.0.kind {
            Kind::InProcess { .. } => "in process",
            Kind::Udp { .. } => "UDP",
        };
        f.debug_struct("Network").field("kind", &kind).field("members", &self.members()).finish()
    }
}
