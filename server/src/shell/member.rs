//! A member of a cluster: the loop around its driver.

use std::time::{Duration, Instant};

use common::control::{Party, Report};
use common::forward;
use common::ids::{ClusterId, ServerId};
use common::limits::REPORT_INTERVAL;
use raft::{Fetch, Index, NodeId};
use tokio::time::Instant as TokioInstant;

use super::checkpoint::Checkpoints;
use super::disk_trouble::{BeginAgain, DiskTrouble};
use super::inbox::Input;
use super::install::Install;
use super::joining::Joining;
use super::log_writer::LogWriter;
use super::restore::Disk;
use super::routed::LbLinks;
use super::snapshots::Snapshots;
use super::watch::LeaderWatch;
use super::{Shell, hello_of, runs_of};
use crate::config::Progress;
use crate::driver::{Actions, Driver, Facts, Now};
use crate::log_file::{LogError, LogReader};
use crate::membership::{Members, Rules, reached, stale_here};
use crate::transport::{Me, Transport};

/// A stopping server waits for its successor and its last answers so long.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// A leader that is to stop hands over first, and goes on serving until its
/// successor does, or for so long.
const HAND_OVER_WITHIN: Duration = Duration::from_millis(500);

/// How often the driver looks at deadlines of requests while any wait.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);

pub(super) struct Member {
    pub(super) shell: Shell,
    pub(super) cluster: ClusterId,
    pub(super) id: NodeId,
    pub(super) driver: Driver,
    pub(super) members: Members,
    pub(super) transport: Transport,
    pub(super) watch: LeaderWatch,
    pub(super) lbs: LbLinks,
    pub(super) log: LogWriter,
    pub(super) checkpoints: Checkpoints,
    pub(super) snapshots: Snapshots,
    pub(super) install: Install,
    pub(super) disk: DiskTrouble,
    reader: LogReader,
    pub(super) actions: Actions,
    reported: Instant,
    /// The entry of the membership in force, as long as it is not committed.
    open_membership: Option<Index>,
    pub(super) joining: Joining,
    /// It is to stop once another server leads, and at this time at the latest.
    hand_over_by: Option<Instant>,
    pub(super) stop_by: Option<Instant>,
    pub(super) failed: Option<anyhow::Error>,
    /// The cluster has removed this server and admitted it under a new id.
    pub(super) rejoins_as: Option<ServerId>,
}

impl Member {
    pub(super) fn start(
        shell: Shell,
        cluster: ClusterId,
        id: ServerId,
        disk: Disk,
    ) -> anyhow::Result<Self> {
        let facts = Facts {
            info: shell.info.clone(),
            cluster,
            pid: std::process::id(),
            counters: std::sync::Arc::clone(&shell.counters),
            started_ms: shell.started_ms,
            session_seed: rand::random(),
        };
        let driver = Driver::new(disk.node, disk.keystore, facts);
        let id = NodeId(id.0);
        let mut transport = Transport::new(
            Me { cluster, id },
            shell.endpoint.clone(),
            std::sync::Arc::clone(&shell.inbox),
        );
        transport.set_noted(&driver.committed_members());
        transport.set_members(&driver.members(), driver.node().membership().next_id, &[]);
        if let Some(why) = stale_here(&driver, &runs_of(&shell.folder)) {
            anyhow::bail!("its own log says: {why}");
        }
        // Nobody was answered before: the runtime was busy with the disk.
        let mut hello = hello_of(&shell.folder, &shell.info);
        if let Party::Member { disk, .. } = &mut hello.from {
            *disk = reached(&driver);
        }
        shell.endpoint.set_hello(hello);
        (shell.progress)(Progress::Serving {
            client: shell.info.client,
            peer: shell.info.peer,
            replayed: disk.replayed,
        });
        let reader = disk.log.reader();
        let log =
            LogWriter::start(disk.log, disk.replayed_bytes, std::sync::Arc::clone(&shell.inbox))?;
        let path = shell.config.keystore_file.clone();
        let snapshots = Snapshots::new(path.clone(), std::sync::Arc::clone(&shell.inbox));
        let joining = Joining::new(snapshots.arrival());
        let mut checkpoints = Checkpoints::new(
            path,
            disk.checkpoint,
            driver.keystore().memory_bytes(),
            shell.config.checkpoint_after_bytes,
        );
        if disk.checkpoint_lost {
            checkpoints.renew();
        }
        Ok(Member {
            cluster,
            id,
            driver,
            members: Members::new(Rules::new(shell.config.dead_after)),
            transport,
            watch: LeaderWatch::default(),
            lbs: LbLinks::default(),
            log,
            checkpoints,
            snapshots,
            install: Install::default(),
            disk: DiskTrouble::default(),
            reader,
            actions: Actions::default(),
            reported: shell.started,
            open_membership: None,
            joining,
            hand_over_by: None,
            stop_by: None,
            failed: None,
            rejoins_as: None,
            shell,
        })
    }

    /// Plays turns until asked to stop. After a stall everything that has
    /// arrived is taken before timers are looked at, so that a pause of this
    /// process looks like no silence of the others.
    pub(super) async fn serve(&mut self) -> anyhow::Result<()> {
        let mut inputs = Vec::new();
        let sleep = tokio::time::sleep_until(self.wake_at());
        tokio::pin!(sleep);
        self.report();
        loop {
            let timer = tokio::select! {
                biased;
                () = self.shell.inbox.wait() => false,
                () = &mut sleep => true,
            };
            let now = self.shell.now();
            self.shell.inbox.take(&mut inputs);
            for input in inputs.drain(..) {
                self.input(now, input);
            }
            if timer {
                self.timer(now)?;
            }
            let synced_inline = self.turn(now)?;
            self.stop_if_handed_over(now);
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            if self.is_stopped() || self.rejoins_as.is_some() {
                return Ok(());
            }
            let wake_at = self.wake_at();
            if timer || wake_at < sleep.deadline() {
                sleep.as_mut().reset(wake_at);
            }
            if synced_inline {
                // Acknowledgements leave before the next inputs are looked at.
                tokio::task::yield_now().await;
            }
        }
    }

    fn timer(&mut self, now: Now) -> anyhow::Result<()> {
        self.driver.tick(now);
        self.mind_membership(now);
        self.let_go_of_removed();
        self.note_commit()?;
        self.hand_over_if_full(now);
        self.end_if_data_differ();
        self.tell_joining();
        if self.reported.elapsed() >= REPORT_INTERVAL - Duration::from_millis(25) {
            self.report();
        }
        self.consider_checkpoint();
        Ok(())
    }

    fn wake_at(&self) -> TokioInstant {
        let deadline = self.shell.started + Duration::from_micros(self.driver.next_deadline());
        TokioInstant::from_std(deadline.min(Instant::now() + LONGEST_SLEEP))
    }

    /// One turn of the driver; true when it has waited for the disk.
    fn turn(&mut self, mut now: Now) -> anyhow::Result<bool> {
        let mut synced_inline = false;
        loop {
            self.driver.flush(now, &mut self.actions);
            self.send(now);
            if !self.log.is_busy()
                && let Some(persist) = self.actions.persist.take()
            {
                let commit = self.driver.node().commit();
                if self.log.prefers_thread(self.driver.is_leader()) {
                    self.log.write_in_thread(persist, commit);
                } else {
                    let written = self.log.write_inline(persist, commit);
                    let mark = written.map_err(BeginAgain::disk_failed)?;
                    synced_inline = true;
                    if let Some(mark) = mark {
                        now = self.shell.now();
                        self.driver.synced(now, mark);
                        continue;
                    }
                }
            }
            self.driver.apply(now);
            if !self.driver.wants_flush(&self.actions) {
                break;
            }
        }
        self.consider_install();
        if std::mem::take(&mut self.actions.changed) {
            self.take_up_members(now);
            self.watch_leader();
            let status = self.driver.node().status();
            let is_open = status.membership_index > status.commit;
            self.open_membership = is_open.then_some(status.membership_index);
            self.confirm_run();
            self.report();
        } else if self.open_membership.is_some_and(|at| at <= self.driver.node().commit()) {
            // Load balancers act on what is committed: whoever joins waits for it.
            self.open_membership = None;
            self.take_up_members(now);
            self.confirm_run();
            self.report();
        }
        Ok(synced_inline)
    }

    /// Carries out everything of a flush but the disk's part.
    fn send(&mut self, now: Now) {
        for envelope in self.actions.send.drain(..) {
            self.transport.send(&envelope);
        }
        for forward in self.actions.forward.drain(..) {
            if !self.transport.request(forward.to, |out| forward.encode(out)) {
                self.driver.forward_failed(now, forward.to, forward.number);
            }
        }
        for refused in std::mem::take(&mut self.actions.refuse) {
            self.tell(refused);
        }
        for (leader, report) in self.actions.digests.drain(..) {
            self.transport.request(leader, |out| {
                forward::encode_digest(report.index, report.digest, out);
            });
        }
        if let Some(failure) = self.actions.integrity_failure.take() {
            self.data_differ(failure);
        }
        if let Some(leader) = self.actions.contradicted_by.take() {
            self.history_differs(leader);
        }
        for task in std::mem::take(&mut self.actions.snapshots) {
            self.snapshot_task(now, task);
        }
        for fetch in std::mem::take(&mut self.actions.fetch) {
            self.fetch(fetch);
        }
    }

    /// Reads old entries beside the loop.
    fn fetch(&self, fetch: Fetch) {
        let reader = self.reader.clone();
        let inbox = std::sync::Arc::clone(&self.shell.inbox);
        tokio::task::spawn_blocking(move || {
            let read = reader.read(fetch.from, fetch.to, fetch.max_bytes);
            let entries = read.unwrap_or_else(|error| {
                tracing::warn!(from = fetch.from, %error, "entries for a slow peer cannot be read");
                if matches!(error, LogError::Damaged { .. }) {
                    inbox.push(Input::LogDamaged);
                }
                Vec::new()
            });
            inbox.push(Input::Fetched { peer: fetch.peer, entries });
        });
    }

    /// Publishes what the load balancers are to know.
    pub(super) fn report(&mut self) {
        self.reported = Instant::now();
        let runs = runs_of(&self.shell.folder);
        let report = Report { runs, ..self.driver.report(self.shell.uptime_secs()) };
        self.shell.reports.send_replace(report);
    }

    /// Begins to stop. A leader hands over first: what it is asked meanwhile
    /// waits for its successor and goes there, and nobody is to believe that
    /// its process is gone while it still leads.
    pub(super) fn begin_stop(&mut self, now: Now) {
        if self.hand_over_by.is_some() {
            return;
        }
        if self.driver.begin_hand_over(now) {
            tracing::info!("is to stop, hands over first");
            self.hand_over_by = Some(Instant::now() + HAND_OVER_WITHIN);
        } else {
            self.stop(now);
        }
    }

    fn stop_if_handed_over(&mut self, now: Now) {
        if let Some(by) = self.hand_over_by
            && (self.driver.has_handed_over() || Instant::now() >= by)
        {
            self.stop(now);
        }
    }

    /// From now on nothing new is taken.
    fn stop(&mut self, now: Now) {
        if self.stop_by.is_none() {
            tracing::info!("stopping");
            self.stop_by = Some(Instant::now() + STOP_WITHIN);
            self.shell.front_end.cancel();
            self.driver.begin_stop(now);
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop_by.is_some_and(|by| {
            (self.driver.is_idle() && !self.log.is_busy()) || Instant::now() >= by
        })
    }

    /// The last checkpoint, then goodbye.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.shell.refuse_routed().await;
        self.close().end().await
    }

    /// Lets go of the files, after a last checkpoint.
    pub(super) fn close(self) -> Shell {
        let Member { shell, driver, mut log, checkpoints, install, .. } = self;
        // So that whoever reads the files sees all that was acknowledged.
        if let Err(error) = log.note_commit(driver.node().commit()) {
            tracing::warn!(%error, "the log-file does not say how far it is committed");
        }
        drop(log);
        // A snapshot that took the place of the checkpoint is newer.
        let finished = if install.is_under_way() { Ok(()) } else { checkpoints.finish(&driver) };
        if let Err(error) = finished {
            tracing::warn!(%error, "no checkpoint at the end; the next start replays the log");
        }
        tracing::info!(applied = driver.keystore().applied(), "stopped");
        shell
    }
}
