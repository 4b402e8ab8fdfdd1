//! The load balancer without sockets, clock and disk: inputs in, outputs out.
//!
//! [`Balancer::handle`] takes one [`Input`] and the time since the process
//! started, and returns what to do about it. After each input the same
//! questions are asked of the state that it left, so that no rule hangs on
//! the order in which things arrive:
//!
//! 1. Is it time to form a cluster ([`bootstrap`])?
//! 2. What does each fresh server need: to be adopted, to be admitted by the
//!    leader, or only to wait? Requests are repeated until the server's own
//!    report shows their effect, so each of them may get lost, and a load
//!    balancer that starts anew goes on where the last one was.
//! 3. Whom do clients go to ([`discovery`])?

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use common::control::{Hello, MemberRecord, Party, Report, ToLb, ToServer};
use common::ids::{ClusterId, FolderId, ServerId};

use crate::bootstrap::{self, Decision};
use crate::discovery::{self, View};
use crate::events::{Event, Events, Severity};
use crate::health::Health;
use crate::memory::Memory;
use crate::registration::{self, Verdict};
use crate::registry::{Asked, Change, Contact, Entry, LinkId, Registry};

#[cfg(test)]
mod tests;

/// How often a request that shows no effect is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(500);

/// How long a refused server has to read the reason and go, before its link
/// is closed; and how long a link may stay open without a report.
const LINGER: Duration = Duration::from_millis(1000);
const SPEECHLESS: Duration = Duration::from_secs(5);

/// A server that is gone and in no membership is forgotten after this.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// How often the memory is written again after the disk refused.
const SAVE_AGAIN: Duration = Duration::from_millis(1000);

/// Links that are kept open. Each has shown the cluster key.
const MAX_LINKS: usize = 2048;

/// What a balancer is made with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// Process id, for people.
    pub pid: u32,
    /// Fresh servers that make a new cluster.
    pub expect: usize,
    /// The id of the cluster, should one be formed: drawn at random.
    pub cluster_to_form: ClusterId,
    /// The rotation's version starts here; it must not go back over a
    /// restart, as clients of `config get cluster` take only higher ones.
    pub config_version: u64,
}

/// Something that happened outside.
#[derive(Debug)]
pub enum Input {
    /// A link is open.
    Opened {
        /// Its new name.
        link: LinkId,
        /// The other end.
        remote: SocketAddr,
        /// The other end's first frame. Its version is ours: a peer of
        /// another one gets no link.
        hello: Hello,
    },
    /// A message came.
    Message {
        /// On this link.
        link: LinkId,
        /// What.
        message: Box<ToLb>,
    },
    /// A link is gone.
    Closed {
        /// Which.
        link: LinkId,
        /// Why, in words.
        reason: String,
    },
    /// An [`Output::Persist`] has been carried out.
    Persisted(
        /// Durable, or why not.
        Result<(), String>,
    ),
    /// Time passes: to be given several times in a second.
    Tick,
}

/// Something to do outside, in the order given.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Send a message. If that fails nothing need be done.
    Send {
        /// On this link.
        link: LinkId,
        /// What.
        message: ToServer,
    },
    /// Make the memory durable, then say [`Input::Persisted`].
    Persist(Memory),
    /// Close a link.
    Close {
        /// Which.
        link: LinkId,
        /// Why, for the other end.
        reason: String,
    },
    /// Log what happened.
    Log(Event),
}

/// An open link.
#[derive(Debug)]
struct Link {
    remote: SocketAddr,
    folder: FolderId,
    opened: Duration,
    first_report: Option<Duration>,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Open,
    /// Said goodbye, or was refused: nothing from it counts any more.
    Over {
        since: Duration,
    },
}

/// What a fresh server needs.
#[derive(Debug, PartialEq)]
enum Need {
    Wait(String),
    Admission { leader: LinkId },
    Adoption(ToServer),
}

/// The whole state.
#[derive(Debug)]
pub struct Balancer {
    settings: Settings,
    registry: Registry,
    links: BTreeMap<LinkId, Link>,
    memory: Memory,
    /// When to write the memory (again), as long as it is not durable.
    save_at: Option<Duration>,
    /// It is being written right now.
    saving: bool,
    health: Health,
    events: Events,
    view: View,
    leader: Option<(ServerId, u64)>,
    now: Duration,
    outputs: Vec<Output>,
}

impl Balancer {
    /// A balancer that starts with what `memory` says.
    pub fn new(settings: Settings, memory: Memory) -> Self {
        let view = View::empty(settings.config_version);
        Balancer {
            settings,
            registry: Registry::default(),
            links: BTreeMap::new(),
            memory,
            save_at: None,
            saving: false,
            health: Health::default(),
            events: Events::default(),
            view,
            leader: None,
            now: Duration::ZERO,
            outputs: Vec::new(),
        }
    }

    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All servers.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The cluster that it has formed, seen or remembered.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.memory.cluster
    }

    /// The rotation.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// What happened lately.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Takes one input in, `now` after the start of the process.
    pub fn handle(&mut self, now: Duration, input: Input) -> Vec<Output> {
        self.now = now.max(self.now);
        match input {
            Input::Opened { link, remote, hello } => self.opened(link, remote, hello),
            Input::Message { link, message } => self.message(link, *message),
            Input::Closed { link, reason } => self.closed(link, &reason),
            Input::Persisted(result) => self.persisted(result),
            Input::Tick => self.tick(),
        }
        self.form_cluster();
        self.save();
        self.care_for_fresh();
        self.publish();
        std::mem::take(&mut self.outputs)
    }

    fn log(&mut self, severity: Severity, text: String) {
        let event = self.events.push(self.now, severity, text);
        self.outputs.push(Output::Log(event));
    }

    fn send(&mut self, link: LinkId, message: ToServer) {
        self.outputs.push(Output::Send { link, message });
    }

    fn opened(&mut self, link: LinkId, remote: SocketAddr, hello: Hello) {
        let folder = match hello.from {
            Party::Member { folder, .. } | Party::Fresh { folder } => folder,
            Party::LoadBalancer { name } => {
                let reason = format!("{} is a load balancer, not a server", self.settings.name);
                self.log(
                    Severity::Warning,
                    format!("load balancer {name} at {remote} turned away"),
                );
                self.outputs.push(Output::Close { link, reason });
                return;
            }
        };
        if self.links.len() >= MAX_LINKS {
            let reason = format!("{} has {MAX_LINKS} links open already", self.settings.name);
            self.outputs.push(Output::Close { link, reason });
            return;
        }
        let opened = self.now;
        let phase = Phase::Open;
        self.links.insert(link, Link { remote, folder, opened, first_report: None, phase });
    }

    fn message(&mut self, link: LinkId, message: ToLb) {
        match self.links.get(&link) {
            Some(known) if known.phase == Phase::Open => {}
            _ => return,
        }
        match message {
            ToLb::Report(report) => self.report(link, *report),
            ToLb::Goodbye => self.goodbye(link),
            ToLb::Admitted { folder, result } => self.admitted(link, folder, result),
        }
    }

    fn report(&mut self, link: LinkId, report: Report) {
        let now = self.now;
        let Some(known) = self.links.get_mut(&link) else { return };
        let first_report = *known.first_report.get_or_insert(now);
        let who = format!("{} at {}", report.info.name.escape_debug(), known.remote);
        if known.folder != report.info.folder {
            let why = format!(
                "{who} reports folder {} on a link that was opened for folder {}: \
                 open a link for each folder",
                report.info.folder, known.folder
            );
            return self.refuse(link, &who, why);
        }
        let context = registration::Context {
            registry: &self.registry,
            cluster: self.memory.cluster,
            first_report,
        };
        match registration::judge(&context, link, &report) {
            Verdict::Accept => {}
            Verdict::Hold => return,
            Verdict::Refuse(why) => return self.refuse(link, &who, why),
        }

        if let Some((cluster, _)) = report.member {
            self.see_cluster(cluster, &who);
        }
        let folder = report.info.folder;
        let taken = self.registry.take(now, link, report);
        if let Some(old) = taken.replaced_link {
            let reason = "replaced by a newer link of the same server".to_owned();
            self.drop_link(old, reason);
        }
        if let Some(change) = taken.change {
            self.log_change(folder, change);
        }
        self.register_member(folder, link);
    }

    /// A member needs nothing but the answer to its first report on a link.
    fn register_member(&mut self, folder: FolderId, link: LinkId) {
        let Some(entry) = self.registry.get_mut(folder) else { return };
        if entry.is_fresh() || entry.told.is_some() {
            return;
        }
        entry.told = Some(None);
        let lb = self.settings.name.clone();
        self.send(link, ToServer::Registered { lb, waiting_for: None });
    }

    /// A member of a cluster reports: from now on that is the cluster of this
    /// load balancer, if it had none.
    fn see_cluster(&mut self, cluster: ClusterId, who: &str) {
        if self.memory.cluster.is_some() {
            return;
        }
        self.memory = Memory { cluster: Some(cluster), voters: Vec::new() };
        self.save_at = Some(self.now);
        self.log(Severity::Info, format!("{who} belongs to cluster {cluster}: adopted it"));
    }

    fn goodbye(&mut self, link: LinkId) {
        let Some(known) = self.links.get_mut(&link) else { return };
        known.phase = Phase::Over { since: self.now };
        let folder = known.folder;
        if let Some(entry) = self.registry.get_mut(folder)
            && entry.link == Some(link)
        {
            entry.contact = Contact::Stopped;
            let text = format!("{} stopped", entry.name());
            self.log(Severity::Info, text);
        }
    }

    fn closed(&mut self, link: LinkId, reason: &str) {
        let Some(known) = self.links.remove(&link) else { return };
        if let Some(entry) = self.registry.get_mut(known.folder)
            && entry.link == Some(link)
        {
            entry.link = None;
            if entry.is_live() {
                entry.contact = Contact::Silent;
                let text = format!("{} lost contact: {reason}", entry.name());
                self.log(Severity::Warning, text);
            }
        }
    }

    fn admitted(&mut self, link: LinkId, folder: FolderId, result: Result<ServerId, String>) {
        // Only the leader that was asked has a say.
        let asked = |entry: &&mut Entry| entry.asked.is_some_and(|asked| asked.over == link);
        let Some(entry) = self.registry.get_mut(folder).filter(asked) else { return };
        let says = result.as_ref().err().cloned();
        if entry.leader_says == says {
            return;
        }
        entry.leader_says = says;
        if let Err(why) = result {
            let text = format!("the leader does not admit {}: {why}", entry.name());
            self.log(Severity::Warning, text);
        }
    }

    fn refuse(&mut self, link: LinkId, who: &str, why: String) {
        if let Some(known) = self.links.get_mut(&link) {
            known.phase = Phase::Over { since: self.now };
            let folder = known.folder;
            // Refused after it had been taken in: it is no longer there.
            if let Some(entry) = self.registry.get_mut(folder)
                && entry.link == Some(link)
            {
                entry.contact = Contact::Stopped;
            }
        }
        self.log(Severity::Warning, format!("refused {who}: {why}"));
        self.send(link, ToServer::Refused { why });
    }

    fn drop_link(&mut self, link: LinkId, reason: String) {
        self.links.remove(&link);
        self.outputs.push(Output::Close { link, reason });
    }

    fn tick(&mut self) {
        for name in self.health.tick(self.now, &mut self.registry) {
            self.log(Severity::Warning, format!("{name} is silent"));
        }
        let now = self.now;
        let overdue = |link: &Link| match (link.phase, link.first_report) {
            (Phase::Over { since }, _) => now.saturating_sub(since) >= LINGER,
            (Phase::Open, None) => now.saturating_sub(link.opened) >= SPEECHLESS,
            (Phase::Open, Some(_)) => false,
        };
        let over: Vec<_> =
            self.links.iter().filter(|(_, link)| overdue(link)).map(|(id, _)| *id).collect();
        for link in over {
            let reason = "nothing was said, or nothing is left to say".to_owned();
            self.outputs.push(Output::Close { link, reason });
            self.closed(link, "over");
        }
        self.forget();
    }

    fn forget(&mut self) {
        let now = self.now;
        let members: Vec<FolderId> = self.memory.cluster.map_or(Vec::new(), |cluster| {
            self.registry.membership(cluster).iter().map(|member| member.info.folder).collect()
        });
        self.registry.retain(|entry| {
            entry.is_live()
                || members.contains(&entry.report.info.folder)
                || now.saturating_sub(entry.last_heard) < FORGET_AFTER
        });
    }

    fn form_cluster(&mut self) {
        if self.memory.cluster.is_some() {
            return;
        }
        let fresh = self.registry.fresh();
        let infos = fresh.iter().map(|entry| &entry.report.info);
        let Decision::Form(voters) = bootstrap::decide(self.now, self.settings.expect, infos)
        else {
            return;
        };
        let cluster = self.settings.cluster_to_form;
        let names: Vec<_> = voters.iter().map(|voter| &*voter.info.name).collect();
        let text = format!("cluster {cluster} is formed by {}", names.join(", "));
        self.memory = Memory { cluster: Some(cluster), voters };
        self.save_at = Some(self.now);
        self.log(Severity::Info, text);
    }

    fn save(&mut self) {
        if let Some(at) = self.save_at
            && at <= self.now
            && !self.saving
        {
            self.saving = true;
            self.save_at = Some(self.now + SAVE_AGAIN);
            self.outputs.push(Output::Persist(self.memory.clone()));
        }
    }

    fn persisted(&mut self, result: Result<(), String>) {
        self.saving = false;
        match result {
            Ok(()) => self.save_at = None,
            Err(why) => self.log(Severity::Warning, format!("memory not written: {why}")),
        }
    }

    fn care_for_fresh(&mut self) {
        // What they need hangs on the outcome, which is a moment away.
        if self.saving {
            return;
        }
        let fresh: Vec<FolderId> =
            self.registry.fresh().iter().map(|entry| entry.report.info.folder).collect();
        // The one that campaigns is told last, so that those whose votes it
        // asks for are members by then.
        for folder in fresh.into_iter().rev() {
            let Some(entry) = self.registry.get(folder) else { continue };
            let need = self.need(entry);
            self.answer_fresh(folder, &need);
            self.provide(folder, need);
        }
    }

    /// What a fresh server needs, as things are.
    fn need(&self, entry: &Entry) -> Need {
        let folder = entry.report.info.folder;
        let Some(cluster) = self.memory.cluster else {
            let fresh = self.registry.fresh();
            let infos = fresh.iter().map(|entry| &entry.report.info);
            return match bootstrap::decide(self.now, self.settings.expect, infos) {
                Decision::Wait(what) => Need::Wait(what),
                Decision::Form(_) => Need::Wait("a cluster".to_owned()),
            };
        };
        let leader = self.registry.leader(cluster);
        let members = self.registry.membership(cluster);
        let place = members.iter().find(|member| member.info.folder == folder);
        let place = match (place, leader.and_then(|leader| leader.link)) {
            (Some(place), _) => place,
            (None, Some(leader)) => return Need::Admission { leader },
            // The memory knows the cluster best only as long as nobody has
            // reported from inside it.
            (None, None) => match self.memory.voter(folder) {
                Some(voter) if members.is_empty() => voter,
                _ => return Need::Wait(format!("a leader of cluster {cluster}")),
            },
        };

        let voters = self.first_voters(place, members);
        let starts = voters.first().is_some_and(|first| first.id == place.id);
        if !voters.is_empty() && self.save_at.is_some() {
            return Need::Wait("the disk of the load balancer".to_owned());
        }
        Need::Adoption(ToServer::Adopt {
            cluster,
            id: place.id,
            voters,
            campaign: starts && leader.is_none(),
        })
    }

    /// The first membership, for one of the first voters; empty for a server
    /// that joins. A voter that is still fresh can only be a first one whose
    /// `Adopt` got lost: joining servers vote only once they have caught up.
    /// If the memory got lost as well, the members know it.
    fn first_voters(&self, place: &MemberRecord, members: &[MemberRecord]) -> Vec<MemberRecord> {
        let remembered = self.memory.voter(place.info.folder);
        if remembered.is_some_and(|voter| voter.id == place.id) {
            self.memory.voters.clone()
        } else if place.voter {
            members.iter().filter(|member| member.voter).cloned().collect()
        } else {
            Vec::new()
        }
    }

    /// Tells a fresh server what it waits for, when that changes.
    fn answer_fresh(&mut self, folder: FolderId, need: &Need) {
        let Some(entry) = self.registry.get_mut(folder) else { return };
        let Some(link) = entry.link else { return };
        let waiting_for = match (need, &entry.leader_says) {
            (Need::Wait(what), _) => what.clone(),
            (Need::Admission { .. }, None) => "the leader to admit it".to_owned(),
            (Need::Admission { .. }, Some(why)) => {
                format!("the leader to admit it; the leader says: {why}")
            }
            (Need::Adoption(_), _) => "its place in the cluster, which is on the way".to_owned(),
        };
        // An adoption speaks for itself, unless the server has no answer at all yet.
        let known = match &entry.told {
            Some(_) if matches!(need, Need::Adoption(_)) => true,
            told => told.as_ref() == Some(&Some(waiting_for.clone())),
        };
        if !known {
            entry.told = Some(Some(waiting_for.clone()));
            let lb = self.settings.name.clone();
            self.send(link, ToServer::Registered { lb, waiting_for: Some(waiting_for) });
        }
    }

    /// Asks for what it needs: at once, and again as long as it is needed.
    fn provide(&mut self, folder: FolderId, need: Need) {
        let now = self.now;
        let Some(entry) = self.registry.get_mut(folder) else { return };
        let Some(own_link) = entry.link else { return };
        let (over, message) = match need {
            Need::Wait(_) => return,
            Need::Admission { leader } => {
                (leader, ToServer::Admit { info: entry.report.info.clone() })
            }
            Need::Adoption(adopt) => (own_link, adopt),
        };
        let waiting =
            entry.asked.is_some_and(|asked| asked.over == over && now < asked.at + REPEAT_AFTER);
        if !waiting {
            if entry.asked.is_some_and(|asked| asked.over != over) {
                entry.leader_says = None;
            }
            entry.asked = Some(Asked { at: now, over });
            self.send(over, message);
        }
    }

    fn publish(&mut self) {
        let Some(cluster) = self.memory.cluster else { return };
        let leader = self.registry.leader(cluster);
        let named = leader.and_then(|leader| Some((leader.id_in(cluster)?, leader.report.term)));
        let text = match leader {
            Some(leader) => format!("{} leads in term {}", leader.name(), leader.report.term),
            None => "no leader".to_owned(),
        };
        self.view.update(discovery::in_order(&self.registry, cluster));
        if named != self.leader {
            self.leader = named;
            let severity = if named.is_some() { Severity::Info } else { Severity::Warning };
            self.log(severity, text);
        }
    }

    fn log_change(&mut self, folder: FolderId, change: Change) {
        let Some(entry) = self.registry.get(folder) else { return };
        let (name, client) = (entry.name(), entry.report.info.client);
        let place = match entry.report.member {
            Some((_, id)) => format!("server {id}"),
            None => "a fresh server".to_owned(),
        };
        let text = match change {
            Change::New => format!("{name} registered for clients at {client} as {place}"),
            Change::Returned => format!("{name} is back for clients at {client} as {place}"),
            Change::Member => format!("{name} is now {place}"),
            Change::Role(before) => {
                format!("{name} went from {before:?} to {:?}", entry.report.role).to_lowercase()
            }
        };
        self.log(Severity::Info, text);
    }
}
