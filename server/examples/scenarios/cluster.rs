//! Replicas of one process that a scenario kills, restarts and cuts off, and
//! the record of everything that they said about themselves.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::udp::ClusterKey;
use store_server::embed::{
    Network, NodeId, Replica, ReplicaConfig, State, StateMachine, Status, Term, Timings,
};
use tokio::sync::Notify;

/// How a scenario is played.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    /// Over UDP, on free ports of this host; otherwise within this process.
    pub(crate) udp: bool,
    /// No election may take longer.
    pub(crate) elected_within: Duration,
}

pub(crate) type Result<T> = std::result::Result<T, String>;

/// Any error as a text.
pub(crate) fn text(error: impl Display) -> String {
    error.to_string()
}

/// What the replicas have said, printed as it comes.
pub(crate) struct Timeline {
    started: Instant,
    seen: Mutex<Seen>,
    changed: Notify,
}

#[derive(Default)]
struct Seen {
    leaders: BTreeMap<Term, NodeId>,
    /// Two leaders in one term: must never be.
    violation: Option<String>,
}

impl Timeline {
    pub(crate) fn say(&self, what: impl Display) {
        println!("{:7.3} s  {what}", self.started.elapsed().as_secs_f64());
    }

    fn note(&self, id: NodeId, status: Status) {
        let Status { state, term, .. } = status;
        match state {
            State::Leader => self.say(format_args!("term {term:<3} {id} leads")),
            State::Candidate => self.say(format_args!("term {term:<3} {id} asks for votes")),
            State::Stopped => self.say(format_args!("term {term:<3} {id} is dead")),
            State::Follower => {}
        }
        if state == State::Leader {
            let mut seen = self.lock();
            let first = *seen.leaders.entry(term).or_insert(id);
            if first != id {
                seen.violation = Some(format!("{first} and {id} both led in term {term}"));
            }
        }
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cluster.
pub(crate) struct Cluster<M: StateMachine> {
    pub(crate) network: Network,
    pub(crate) timeline: Arc<Timeline>,
    replicas: Mutex<BTreeMap<NodeId, Arc<Replica<M>>>>,
    folder: tempfile::TempDir,
    settings: Settings,
    deadline: Duration,
}

impl<M: StateMachine + Default> Cluster<M> {
    /// Starts `size` replicas, each with a folder of its own. `deadline` is
    /// that of a proposal.
    pub(crate) fn start(size: u64, settings: Settings, deadline: Duration) -> Result<Self> {
        let ids = (1..=size).map(NodeId);
        let network = if settings.udp { over_udp(ids)? } else { Network::in_process(ids) };
        let timeline =
            Timeline { started: Instant::now(), seen: Mutex::default(), changed: Notify::new() };
        let cluster = Cluster {
            network,
            timeline: Arc::new(timeline),
            replicas: Mutex::default(),
            folder: tempfile::tempdir().map_err(text)?,
            settings,
            deadline,
        };
        for id in cluster.network.members() {
            cluster.revive(id)?;
        }
        Ok(cluster)
    }

    /// Starts a replica, with what is in its folder.
    pub(crate) fn revive(&self, id: NodeId) -> Result<()> {
        let timeline = Arc::clone(&self.timeline);
        let config = ReplicaConfig {
            dir: Some(self.folder.path().join(id.to_string())),
            timings: Timings { deadline: self.deadline, ..Timings::default() },
            snapshot_entries: 100,
            observer: Some(Arc::new(move |id, status| timeline.note(id, status))),
            ..ReplicaConfig::new(self.network.clone())
        };
        let replica = Replica::start(id, config, M::default()).map_err(text)?;
        self.lock().insert(id, Arc::new(replica));
        Ok(())
    }

    /// Stops a replica without a word to the others.
    pub(crate) async fn kill(&self, id: NodeId) -> Result<()> {
        let replica = self.lock().remove(&id).ok_or_else(|| format!("{id} does not run"))?;
        replica.stop();
        replica.stopped().await.map_err(text)
    }

    /// Those that run, in order.
    pub(crate) fn alive(&self) -> Vec<Arc<Replica<M>>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Replica<M>>>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all those that `include` names follow one leader among them.
    pub(crate) async fn elected(
        &self,
        include: impl Fn(NodeId) -> bool,
    ) -> Result<Arc<Replica<M>>> {
        let until = Instant::now() + self.settings.elected_within;
        loop {
            if let Some(violation) = &self.timeline.lock().violation {
                return Err(violation.clone());
            }
            let mut alive = self.alive();
            alive.retain(|replica| include(replica.id()));
            let leader = alive.iter().find(|replica| replica.state() == State::Leader);
            if let Some(leader) = leader {
                let (id, term) = (leader.id(), leader.status().term);
                let agrees = |status: Status| (status.leader, status.term) == (Some(id), term);
                if alive.iter().all(|replica| agrees(replica.status())) {
                    return Ok(Arc::clone(leader));
                }
            }
            if Instant::now() >= until {
                return Err(format!(
                    "no leader within {} s",
                    self.settings.elected_within.as_secs()
                ));
            }
            // A follower learns of its leader a moment after the last event.
            let changed = self.timeline.changed.notified();
            let _ = tokio::time::timeout(Duration::from_millis(10), changed).await;
        }
    }

    /// Stops everything; fails if two ever led in one term.
    pub(crate) async fn end(self) -> Result<usize> {
        for replica in self.alive() {
            self.kill(replica.id()).await?;
        }
        let seen = std::mem::take(&mut *self.timeline.lock());
        seen.violation.map_or(Ok(seen.leaders.len()), Err)
    }
}

/// Free UDP addresses of this host. Another program could take one before the
/// replica does; then its start says so.
fn over_udp(ids: impl Iterator<Item = NodeId>) -> Result<Network> {
    let bind = |id| Ok((id, UdpSocket::bind(("127.0.0.1", 0)).map_err(text)?));
    let sockets = ids.map(bind).collect::<Result<Vec<_>>>()?;
    let address =
        |(id, socket): &(NodeId, UdpSocket)| Ok((*id, socket.local_addr().map_err(text)?));
    let addresses = sockets.iter().map(address).collect::<Result<Vec<_>>>()?;
    drop(sockets);
    Ok(Network::udp(ClusterKey::generate(), addresses))
}
