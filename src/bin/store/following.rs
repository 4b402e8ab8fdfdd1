//! What `addsrv` tells of a server that starts: each step of its way to its
//! vote, for people, or as JSON for programs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::control::{Role, Waiting};
use common::ids::ServerId;
use serde::Serialize;
use serde_json::json;
use server::config::{Progress, founder};

use crate::announce::Announcement;
use crate::background::Background;
use crate::bar::Bar;
use crate::failure::{Failure, Outcome, say};
use crate::home::Home;
use crate::standing::Standing;

/// Reading the log-file of a large server takes long, and says so.
const RECOVERY: Duration = Duration::from_secs(600);

/// How long a registered server may take to learn its role.
const ROLE: Duration = Duration::from_secs(5);

/// A member that is registered hears its leader sooner than this, or there is none.
const QUIET: Duration = Duration::from_millis(700);

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
pub(crate) struct Following {
    process: Background,
    name: String,
    voice: Voice,
    /// Its load balancer that may found a cluster: what that one says counts.
    founder: Option<SocketAddr>,
    standing: Standing,
    /// How long it may take from its membership to its vote.
    patience: Duration,
    began: Instant,
    until: Instant,
    /// When to say that there is no leader.
    quiet: Option<Instant>,
    registered: Option<Option<Waiting>>,
    member: Option<(ServerId, Role)>,
    bar: Bar,
}

impl Following {
    pub(crate) fn new(
        process: Background,
        voice: Voice,
        home: &Home,
        lbs: &[SocketAddr],
        was_registered: bool,
        patience: Duration,
    ) -> Self {
        let (name, now) = (process.node.name.clone(), Instant::now());
        Following {
            process,
            name,
            voice,
            founder: founder(lbs),
            standing: Standing::new(home, lbs, was_registered),
            patience,
            began: now,
            until: now,
            quiet: None,
            registered: None,
            member: None,
            bar: Bar::new(voice),
        }
    }

    /// To its vote, to something that only others can bring, or until it takes
    /// too long.
    ///
    /// # Errors
    /// It ends, or is not registered.
    pub(crate) fn follow(mut self) -> Outcome {
        loop {
            let until = match self.standing.is_registered() {
                true => self.until,
                false => self.standing.until(),
            };
            match self.process.next(self.quiet.map_or(until, |quiet| quiet.min(until))) {
                // Said again once a cluster has taken it in.
                Ok(Some(Announcement::Server { progress: Progress::Serving { .. } })) => {}
                Ok(Some(Announcement::Server { progress })) => {
                    self.voice.step(&self.name, &progress);
                    self.standing.note(&progress);
                    if self.step(progress) {
                        return Ok(());
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) if self.quiet.take().is_some_and(|quiet| quiet < until) => {
                    let (name, seconds) = (&self.name, ROLE.as_secs());
                    self.voice.tell(|| {
                        format!("No server leads: {name} waits up to {seconds} s for a leader.")
                    });
                }
                Ok(None) => return self.too_long(),
                Err(failure) => {
                    self.bar.clear();
                    return Err(failure);
                }
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
                self.quiet = None;
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
        let is_quiet = waiting_for.is_none() && self.member.is_none();
        self.quiet = is_quiet.then_some(now + QUIET);
        self.registered = Some(waiting_for);
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
            (None, Some(_)) => {
                format!("no load balancer has registered it: {}", self.standing.missing())
            }
            (None, _) => return Err(self.standing.give_up(self.process)),
            (Some(_), Some(_)) => format!("it has no vote after {waited} s"),
            (Some(Some(waiting)), None) => format!("it waits for {}", waiting.what),
            (Some(None), None) => "it hears no leader".to_owned(),
        };
        let pid = self.process.pid();
        self.voice.own_step(name, "goes-on", json!({ "pid": pid, "why": why }));
        self.voice.tell(|| match &self.registered {
            None => format!("{name} serves (pid {pid}), its peers know it, but {why}."),
            Some(_) => format!(
                "{name} goes on in the background (pid {pid}): {why}. `store status` shows how far \
                 it is."
            ),
        });
        Ok(())
    }
}
