//! The handle of a running replica.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft::{Config, Index, Node, NodeId, Output};
use tokio::sync::{broadcast, oneshot, watch};

use super::config::{ReplicaConfig, State, Status, Timings};
use super::disk::{Disk, Done, Found};
use super::engine::{Engine, Shared};
use super::error::{Failure, ProposeError, ReadError, StartError};
use super::inbox::{Inbox, Input};
use super::network::Frame;
use super::snapshot_file;
use super::waiting::{Proposals, Reads};
use super::{Applied, StateMachine};

/// Between two attempts to find a leader, when nothing tells that there is one.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A running replica of the state machine `M`. When it is dropped it stops.
pub struct Replica<M: StateMachine> {
    id: NodeId,
    timings: Timings,
    inbox: Arc<Inbox<M>>,
    shared: Arc<Shared>,
    ended: watch::Receiver<Option<Result<(), Failure>>>,
}

impl<M: StateMachine> Replica<M> {
    /// Starts the replica `id` of the network's members. `machine` is the
    /// state before the first command; a folder with a snapshot replaces it.
    ///
    /// # Errors
    /// [`StartError`]; nothing is running then.
    pub fn start(id: NodeId, config: ReplicaConfig, mut machine: M) -> Result<Self, StartError> {
        check(&config.timings)?;
        let inbox: Arc<Inbox<M>> = Inbox::new();
        let disk_inbox = Arc::clone(&inbox);
        let notify = Arc::new(move |done: Done| disk_inbox.push(Input::Disk(done)));
        let dir = config.dir.as_deref();
        let network = &config.network;
        if !network.members().contains(&id) {
            return Err(StartError::NotAMember(id));
        }
        let Found { disk, restored, snapshot } = Disk::open(dir, network.membership(), notify)?;
        if snapshot.meta.index > 0 {
            machine.restore(&snapshot.state).map_err(|error| StartError::Snapshot {
                path: snapshot_file::path_in(dir.unwrap_or(Path::new(""))),
                what: format!("the state machine cannot take it: {error}"),
            })?;
        }
        let port_inbox = Arc::clone(&inbox);
        let deliver = Arc::new(move |frame: Frame| port_inbox.push(Input::Frame(frame)));
        let port = network.open(id, dir.is_none(), deliver)?;
        let applied = snapshot.meta.index;
        let term = restored.hard_state.term;
        let shared = Arc::new(Shared {
            status: watch::Sender::new(Status { state: State::Follower, term, leader: None }),
            applied: broadcast::Sender::new(config.applied_buffer.max(1)),
            applied_index: AtomicU64::new(applied),
        });
        let engine = Engine {
            node: Node::new(0, raft_config(id, &config, disk.is_durable()), restored),
            machine,
            port,
            disk,
            inbox: Arc::clone(&inbox),
            shared: Arc::clone(&shared),
            observer: config.observer,
            snapshot_entries: config.snapshot_entries.max(1),
            deadline_us: micros(config.timings.deadline),
            output: Output::default(),
            applied,
            proposals: Proposals::new(),
            reads: Reads::new(),
            snapshot,
            saving: false,
            incoming: None,
            started: Instant::now(),
        };
        let (end, ended) = watch::channel(None);
        std::thread::Builder::new()
            .name(format!("replica-{id}"))
            .spawn(move || play(engine, &end))
            .map_err(|source| StartError::Io { path: "a thread".into(), source })?;
        Ok(Replica { id, timings: config.timings, inbox, shared, ended })
    }

    /// Its id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// What it is right now.
    pub fn state(&self) -> State {
        self.status().state
    }

    /// Whom it takes for the leader; itself when it leads.
    pub fn leader(&self) -> Option<NodeId> {
        self.status().leader
    }

    /// State, term and leader, as of one moment.
    pub fn status(&self) -> Status {
        *self.shared.status.borrow()
    }

    /// For waiting until the status changes. Changes that follow each other
    /// quickly are seen as one; see
    /// [`ReplicaConfig::observer`](super::ReplicaConfig::observer) for all.
    pub fn changes(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// The index of the last entry that was applied here.
    pub fn applied_index(&self) -> Index {
        self.shared.applied_index.load(Ordering::Acquire)
    }

    /// The commands that are applied here from now on, in order. A reader that
    /// is more than `applied_buffer` commands behind loses the oldest, and is
    /// told how many ([`broadcast::error::RecvError::Lagged`]). A
    /// snapshot of the leader shows as a gap in the indexes.
    pub fn applied(&self) -> broadcast::Receiver<Applied> {
        self.shared.applied.subscribe()
    }

    /// Has the command replicated, if this replica leads, and gives the state
    /// machine's reply once a majority has it and it is applied here.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`] names the leader to ask; see there for
    /// which errors say that nothing was done.
    pub async fn propose(&self, command: impl Into<Bytes>) -> Result<M::Reply, ProposeError> {
        let within = tokio::time::Instant::now() + self.timings.deadline;
        self.propose_once(command.into(), false, within).await
    }

    /// As [`propose`](Self::propose), on any replica: waits for a leader,
    /// forwards to it, and gives this replica's own reply once the command is
    /// applied here.
    ///
    /// # Errors
    /// Never [`ProposeError::NotLeader`] before the deadline.
    pub async fn propose_anywhere(
        &self,
        command: impl Into<Bytes>,
    ) -> Result<M::Reply, ProposeError> {
        let command = command.into();
        let within = tokio::time::Instant::now() + self.timings.deadline;
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            let outcome = self.propose_once(command.clone(), true, within).await;
            let again = matches!(
                outcome,
                Err(ProposeError::NotLeader { .. }
                    | ProposeError::Busy
                    | ProposeError::NotExecuted)
            );
            if !again || tokio::time::Instant::now() >= within {
                return outcome;
            }
            let _ = tokio::time::timeout(RETRY_PAUSE, changes.changed()).await;
        }
    }

    async fn propose_once(
        &self,
        command: Bytes,
        forward: bool,
        within: tokio::time::Instant,
    ) -> Result<M::Reply, ProposeError> {
        let (reply, outcome) = oneshot::channel();
        self.inbox.push(Input::Propose { command, forward, reply });
        match tokio::time::timeout_at(within, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::OutcomeUnknown),
        }
    }

    /// Asks the state machine something, without an entry in the log. The
    /// answer reflects every command whose reply anybody had before the call:
    /// the leader has a majority confirm that it still leads, and this replica
    /// waits until it has applied what the leader had committed. `query` runs
    /// on the replica's thread: it should be quick.
    ///
    /// # Errors
    /// [`ReadError`], when no leader was found before the deadline.
    pub async fn read<R: Send + 'static>(
        &self,
        query: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<R, ReadError> {
        self.ask(true, query).await
    }

    /// As [`read`](Self::read), of the state as it is here, which may be old.
    ///
    /// # Errors
    /// [`ReadError::Stopped`].
    pub async fn read_local<R: Send + 'static>(
        &self,
        query: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<R, ReadError> {
        self.ask(false, query).await
    }

    async fn ask<R: Send + 'static>(
        &self,
        linearizable: bool,
        query: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<R, ReadError> {
        let (answer, outcome) = oneshot::channel();
        let query = Box::new(move |machine: Result<&M, ReadError>| {
            let _ = answer.send(machine.map(query));
        });
        self.inbox.push(Input::Read { linearizable, query });
        match tokio::time::timeout(self.timings.deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::NoLeader),
        }
    }

    /// Asks the replica to stop, at once and without a word to the others, as
    /// if it had crashed: what it has acknowledged is safe, and if it led the
    /// others elect. Everything that waits hears that it has stopped.
    pub fn stop(&self) {
        self.inbox.push(Input::Stop);
    }

    /// Waits until the replica has stopped, by [`stop`](Self::stop) or by
    /// itself, and has let go of its folder, address and threads.
    ///
    /// # Errors
    /// [`Failure`], if it stopped by itself.
    pub async fn stopped(&self) -> Result<(), Failure> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
            Err(_) => Err(Failure::Panicked),
        }
    }
}

impl<M: StateMachine> Drop for Replica<M> {
    fn drop(&mut self) {
        self.stop();
    }
}

impl<M: StateMachine> std::fmt::Debug for Replica<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("id", &self.id).field("status", &self.status()).finish()
    }
}

/// The replica's thread.
fn play<M: StateMachine>(mut engine: Engine<M>, end: &watch::Sender<Option<Result<(), Failure>>>) {
    let run = std::panic::AssertUnwindSafe(|| engine.run());
    let outcome = std::panic::catch_unwind(run).unwrap_or(Err(Failure::Panicked));
    if let Err(failure) = &outcome {
        tracing::error!(%failure, "replica stopped");
    }
    let id = engine.node.id();
    let Engine { port, disk, inbox, shared, observer, proposals, reads, .. } = engine;
    inbox.close();
    port.close();
    drop(disk);
    let term = shared.status.borrow().term;
    let status = Status { state: State::Stopped, term, leader: None };
    shared.status.send_replace(status);
    if let Some(observer) = observer {
        observer(id, status);
    }
    // Those who wait are told last, when everything has been let go of.
    drop((proposals, reads));
    end.send_replace(Some(outcome));
}

fn check(timings: &Timings) -> Result<(), StartError> {
    let (shortest, longest) = timings.election_timeout;
    let sound = timings.heartbeat < shortest && shortest <= longest && !timings.heartbeat.is_zero();
    if sound { Ok(()) } else { Err(StartError::Timings) }
}

fn raft_config(id: NodeId, config: &ReplicaConfig, durable: bool) -> Config {
    let defaults = Config::new(id, rand::random());
    Config {
        election_timeout_min_us: micros(config.timings.election_timeout.0),
        election_timeout_max_us: micros(config.timings.election_timeout.1),
        heartbeat_us: micros(config.timings.heartbeat),
        // Without a disk, what the core keeps is all there is.
        cache_bytes: if durable { defaults.cache_bytes } else { usize::MAX },
        ..defaults
    }
}

/// Far from where adding to the present would overflow.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).min(u64::MAX / 4)
}
