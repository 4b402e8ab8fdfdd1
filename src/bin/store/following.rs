//! What `addsrv` tells of a server that starts: each step of its way to its
//! vote, for people, or as JSON for programs.

use std::io::{IsTerminal, stderr};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::control::{Role, Waiting};
use common::ids::ServerId;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use server::config::{Arriving, Progress, founder};

use crate::announce::Announcement;
use crate::background::Background;
use crate::failure::{Failure, Outcome, say};
use crate::table;

/// Reading the log-file of a large server takes long, and says so.
const RECOVERY: Duration = Duration::from_secs(600);

/// How long a load balancer may take to answer, so that the whole command
/// fails within five seconds.
const REGISTRATION: Duration = Duration::from_millis(4500);

/// How long a registered server may take to learn its role.
const ROLE: Duration = Duration::from_secs(5);

/// Between two lines about the same, where no bar can be drawn.
const LINES: Duration = Duration::from_secs(2);

/// How steps are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Voice {
    /// In sentences, with a bar where there is a terminal.
    People,
    /// One JSON object per line.
    Json,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    #[serde(flatten)]
    progress: &'a Progress,
}

impl Voice {
    /// Says something to people.
    pub(crate) fn tell(self, text: impl FnOnce() -> String) {
        if self == Voice::People {
            say!("{}", text());
        }
    }

    /// A step that the command takes, not the server.
    pub(crate) fn own_step(self, name: &str, step: &str, mut more: serde_json::Value) {
        if self == Voice::Json {
            more["name"] = json!(name);
            more["step"] = json!(step);
            say!("{more}");
        }
    }

    fn step(self, name: &str, progress: &Progress) {
        if self == Voice::Json
            && let Ok(line) = serde_json::to_string(&Line { name, progress })
        {
            say!("{line}");
        }
    }
}

/// Waits until it has read its files; its addresses for clients and servers.
pub(crate) fn wait_serving(
    process: &mut Background,
    voice: Voice,
) -> Outcome<(SocketAddr, SocketAddr)> {
    let name = process.node.name.clone();
    let until = Instant::now() + RECOVERY;
    let mut patience = Instant::now() + Duration::from_secs(3);
    loop {
        match process.next(patience.min(until))? {
            Some(Announcement::Server { progress }) => {
                voice.step(&name, &progress);
                match progress {
                    Progress::Serving { client, peer, .. } => return Ok((client, peer)),
                    progress => tell_repair(voice, &name, &progress),
                }
            }
            Some(_) => {}
            None if Instant::now() < until => {
                voice.tell(|| format!("{name} still reads its files ..."));
                patience = Instant::now() + Duration::from_secs(10);
            }
            None => {
                return Err(Failure::refused(format!(
                    "{name} (pid {}) does not serve after {} s; its log: {}",
                    process.pid(),
                    RECOVERY.as_secs(),
                    process.node.log_path().display()
                )));
            }
        }
    }
}

/// Says what a start found damaged, and what becomes of it.
fn tell_repair(voice: Voice, name: &str, progress: &Progress) {
    match progress {
        Progress::Repairing { what } => {
            voice.tell(|| format!("{name} repairs its files: {what}"));
        }
        Progress::SetAside { why, aside } => voice.tell(|| {
            format!(
                "{name} joins as a new server, because its files are damaged: {why}\n\
                 What is left of them is in {}.",
                aside.display()
            )
        }),
        _ => {}
    }
}

/// Follows a server that serves to its vote.
pub(crate) struct Following<'a> {
    process: Background,
    name: String,
    voice: Voice,
    lbs: &'a [SocketAddr],
    /// Its load balancer that may found a cluster: what that one says counts.
    founder: Option<SocketAddr>,
    /// One of them has accepted this folder before.
    was_registered: bool,
    /// How long it may take from its membership to its vote.
    patience: Duration,
    began: Instant,
    until: Instant,
    registered: Option<(SocketAddr, Option<Waiting>)>,
    member: Option<(ServerId, Role)>,
    refused: Option<String>,
    bar: Bar,
}

impl<'a> Following<'a> {
    pub(crate) fn new(
        process: Background,
        voice: Voice,
        lbs: &'a [SocketAddr],
        was_registered: bool,
        patience: Duration,
    ) -> Self {
        let (name, now) = (process.node.name.clone(), Instant::now());
        let bar = Bar::new(voice);
        Following {
            process,
            name,
            voice,
            lbs,
            founder: founder(lbs),
            was_registered,
            patience,
            began: now,
            until: now + REGISTRATION,
            registered: None,
            member: None,
            refused: None,
            bar,
        }
    }

    /// To its vote, to something that only others can bring, or until it takes
    /// too long.
    ///
    /// # Errors
    /// It ends, or is not registered.
    pub(crate) fn follow(mut self) -> Outcome {
        loop {
            match self.process.next(self.until) {
                // Said again once a cluster has taken it in.
                Ok(Some(Announcement::Server { progress: Progress::Serving { .. } })) => {}
                Ok(Some(Announcement::Server { progress })) => {
                    self.voice.step(&self.name, &progress);
                    if self.step(progress) {
                        return Ok(());
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return self.too_long(),
                Err(failure) => {
                    self.bar.clear();
                    return Err(failure);
                }
            }
            if self.refused.is_some() && self.registered.is_none() {
                return self.too_long();
            }
        }
    }

    /// Takes in one step; whether it was the last one that is waited for.
    fn step(&mut self, progress: Progress) -> bool {
        let name = &self.name;
        match progress {
            Progress::Registered { lb, waiting_for } => return self.registered(lb, waiting_for),
            Progress::Member { id, role, .. } => {
                self.member = Some((id, role));
                if self.registered.is_some() {
                    self.until = Instant::now() + self.patience;
                }
                let role = role.name();
                self.voice.tell(|| format!("{name} is server {id}, {role}."));
                return self.registered.is_some() && self.patience.is_zero();
            }
            Progress::Rejoins { before, id } => self.voice.tell(|| {
                format!(
                    "{name} was removed from the cluster, as server {before}: it comes back as \
                     server {id} and keeps its data."
                )
            }),
            Progress::Syncing { applied, commit, snapshot } => {
                self.bar.show(name, applied, commit, snapshot);
            }
            Progress::Voter { id, role, replaces } => {
                self.bar.clear();
                let after = self.began.elapsed().as_secs_f64();
                let role = role.name();
                self.voice.tell(|| {
                    format!("{name} is a voter: server {id}, {role}, in sync after {after:.2} s.")
                });
                for before in replaces {
                    self.voice.tell(|| {
                        format!("It takes the place of server {before}, which had its address.")
                    });
                }
                self.member = Some((id, Role::Follower));
                self.patience = Duration::ZERO;
                return self.registered.is_some();
            }
            Progress::NotRegistered { why } => self.refused = Some(why),
            progress => tell_repair(self.voice, name, &progress),
        }
        false
    }

    fn registered(&mut self, lb: SocketAddr, waiting_for: Option<Waiting>) -> bool {
        if Some(lb) != self.founder && self.registered.is_some() {
            return false;
        }
        let (name, now) = (&self.name, Instant::now());
        let again = self.registered.is_some();
        self.voice.tell(|| match &waiting_for {
            Some(Waiting { what, .. }) if again => format!("It waits for {what}."),
            Some(Waiting { what, .. }) => {
                format!("{name} is registered with {lb} and waits for {what}.")
            }
            None => format!("{name} is registered with {lb}."),
        });
        // Nothing goes on until somebody adds servers; everything else that a
        // server waits for comes by itself, and soon.
        let missing = waiting_for.as_ref().map_or(0, |waiting| waiting.missing_servers);
        self.registered = Some((lb, waiting_for));
        if Some(lb) == self.founder && missing > 0 && self.member.is_none() {
            self.voice.tell(|| {
                let servers = if missing == 1 { "a server" } else { "servers" };
                format!("Add {servers} with `store addsrv`.")
            });
            return true;
        }
        let patience = if self.member.is_some() { self.patience } else { ROLE };
        self.until = now + patience;
        // It had its vote before a load balancer heard of it.
        self.member.is_some() && self.patience.is_zero()
    }

    fn too_long(mut self) -> Outcome {
        self.bar.clear();
        let (name, waited) = (&self.name, self.patience.as_secs());
        let why = match (&self.registered, self.member) {
            (None, _) => return self.not_registered(),
            (Some(_), Some(_)) => format!("it has no vote after {waited} s"),
            (Some((_, Some(waiting))), None) => format!("it waits for {}", waiting.what),
            (Some((_, None)), None) => "its role is not decided yet".to_owned(),
        };
        let pid = self.process.pid();
        self.voice.own_step(name, "goes-on", json!({ "pid": pid, "why": why }));
        self.voice.tell(|| {
            format!(
                "{name} goes on in the background (pid {pid}): {why}. `store status` shows how far \
                 it is."
            )
        });
        Ok(())
    }

    fn not_registered(self) -> Outcome {
        let name = &self.name;
        let why = self.refused.unwrap_or_else(|| {
            let lbs: Vec<_> = self.lbs.iter().map(ToString::to_string).collect();
            format!(
                "no load balancer answered at {} within {:.1} s: is one running there, with the \
                 same cluster.key? Add one with `store addlb`",
                lbs.join(", "),
                REGISTRATION.as_secs_f32()
            )
        });
        let log = self.process.node.log_path();
        if self.was_registered || self.member.is_some() {
            let pid = self.process.pid();
            return Err(Failure::unreachable(format!(
                "{name} is not registered: {why}.\nIt holds data, so it keeps running (pid {pid}) \
                 and trying; its log: {}",
                log.display()
            )));
        }
        self.process.terminate();
        Err(Failure::unreachable(format!(
            "{name} is not registered and stopped again: {why}.\nIts log: {}",
            log.display()
        )))
    }
}

/// How far a server is with what it lacks: a bar on a terminal, otherwise a
/// line now and then.
struct Bar {
    bar: Option<ProgressBar>,
    voice: Voice,
    said: Option<Instant>,
}

impl Bar {
    fn new(voice: Voice) -> Self {
        let drawn = voice == Voice::People && stderr().is_terminal();
        Bar { bar: drawn.then(bar), voice, said: None }
    }

    fn show(&mut self, name: &str, applied: u64, commit: u64, snapshot: Option<Arriving>) {
        let (permille, what) = match snapshot {
            Some(Arriving { bytes, permille }) => {
                (u64::from(permille), format!("{} of a snapshot", table::bytes(bytes)))
            }
            None => (applied * 1000 / commit.max(1), format!("entry {applied} of {commit}")),
        };
        if let Some(bar) = &self.bar {
            bar.update(|state| state.set_pos(permille));
            return bar.set_message(format!("{name} syncs: {what}"));
        }
        if self.said.is_none_or(|said| said.elapsed() >= LINES) {
            self.said = Some(Instant::now());
            self.voice.tell(|| format!("{name} syncs: {what}, {} %.", permille / 10));
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(1000);
    // A template that cannot be read is a mistake in this line: the plain bar
    // will do then.
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {percent} %") {
        bar.set_style(style);
    }
    bar
}
