//! The load balancer without sockets, clock and disk: inputs in, outputs out.
//!
//! [`Balancer::handle`] takes one [`Input`] and the time since the process
//! started, and returns what to do about it. After each input the same
//! questions are asked of the state that it left, so that no rule hangs on
//! the order in which things arrive:
//!
//! 1. Is it time to form a cluster ([`bootstrap`](crate::bootstrap))?
//! 2. What does each fresh server need: to be adopted, to be admitted by the
//!    leader, or only to wait? Requests are repeated until the server's own
//!    report shows their effect, so each of them may get lost, and a load
//!    balancer that starts anew goes on where the last one was.
//! 3. Is the leader gone, by the word of a majority? Then nothing goes to it
//!    any more, and the best of the others is told to campaign.
//! 4. Whom do clients go to ([`discovery`])?

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use common::control::{Report, ToLb, ToServer};
use common::discovery::write_get_servers;
use common::ids::{ClusterId, FolderId, ServerId};

use crate::config::Policy;
use crate::discovery::{self, View};
use crate::events::{Events, Severity};
use crate::health::Health;
use crate::leading::leading;
use crate::memory::Memory;
use crate::registration::{self, Verdict};
use crate::registry::{Change, Entry, LinkId, Registry};
use crate::routing::Routes;

mod formation;
mod fresh;
mod hint;
mod io;
mod links;
mod operator;
mod planted;
mod returning;
#[cfg(test)]
mod tests;

use hint::Hints;
pub use io::{Input, Output, Settings};
use links::{Link, Phase};
use operator::Operators;
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
#[cfg(not(feature = "planted-bugs"))]
use planted::PlantedBug;

/// A server that is gone and in no membership is forgotten after this.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Who was said last to lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Named {
    id: ServerId,
    term: u64,
    /// It reports here itself.
    is_seen: bool,
}

/// The whole state.
#[derive(Debug)]
pub struct Balancer {
    settings: Settings,
    registry: Registry,
    links: BTreeMap<LinkId, Link>,
    operators: Operators,
    hints: Hints,
    memory: Memory,
    /// What is being written right now.
    saving: Option<Memory>,
    /// When to write next: the memory is not durable, or a cluster that was
    /// to be formed could not be written down.
    save_at: Option<Duration>,
    health: Health,
    events: Events,
    view: View,
    /// Answers to `get-servers` that were made by a policy.
    turn: usize,
    leader: Option<Named>,
    now: Duration,
    outputs: Vec<Output>,
    #[cfg(feature = "planted-bugs")]
    planted: Option<PlantedBug>,
}

impl Balancer {
    /// A balancer that starts with what `memory` says.
    pub fn new(settings: Settings, memory: Memory) -> Self {
        let view = View::empty(settings.config_version);
        Balancer {
            settings,
            registry: Registry::default(),
            links: BTreeMap::new(),
            operators: Operators::default(),
            hints: Hints::default(),
            memory,
            saving: None,
            save_at: None,
            health: Health::default(),
            events: Events::default(),
            view,
            turn: 0,
            leader: None,
            now: Duration::ZERO,
            outputs: Vec::new(),
            #[cfg(feature = "planted-bugs")]
            planted: None,
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

    /// Appends the answer to `get-servers` for one client.
    pub fn get_servers(&mut self, policy: Policy, out: &mut BytesMut) {
        let cluster = match (policy, self.memory.cluster) {
            (Policy::RoundRobin | Policy::LeastLoaded, Some(cluster)) => cluster,
            _ => return out.extend_from_slice(&self.view.get_servers),
        };
        let servers = discovery::by_policy(&self.registry, cluster, policy, self.turn);
        if let Some(&first) = servers.first() {
            self.turn = self.turn.wrapping_add(1);
            let is_first = |entry: &&mut Entry| entry.report.info.client == first;
            if let Some(entry) = self.registry.iter_mut().find(is_first) {
                entry.sent_there += 1;
            }
        }
        let mut text = Vec::new();
        write_get_servers(&servers, &mut text);
        out.extend_from_slice(&text);
    }

    /// Where requests of clients may go: the servers that follow the leader
    /// and have its log, by id.
    pub fn routes(&self) -> Routes {
        let leading = self.memory.cluster.and_then(|cluster| leading(&self.registry, cluster));
        let Some(leading) = leading else { return Routes::default() };
        let mut readers = leading.followers.clone();
        let led = |leader: &&Entry| leader.report.leader == Some(leading.id);
        readers.extend(leading.seen.filter(led).map(|leader| (leading.id, leader)));
        readers.sort_unstable_by_key(|(id, _)| *id);
        Routes {
            led: Some((leading.id, leading.term)),
            leader: leading.seen.and_then(|leader| leader.link),
            relays: leading.relays().into_iter().filter_map(|relay| relay.link).collect(),
            readers: readers.into_iter().filter_map(|(_, reader)| reader.link).collect(),
        }
    }

    /// Who is told what only the leader can do: itself, or while it is not seen
    /// from here somebody who hands that on.
    fn link_to_leader(&self) -> Option<LinkId> {
        leading(&self.registry, self.memory.cluster?)?.link()
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
            Input::Probed { folder, peer, result } => self.probed(folder, peer, result),
            Input::Persisted(result) => self.persisted(result),
            Input::Tick => self.tick(),
        }
        self.form_cluster();
        self.save();
        self.care_for_fresh();
        self.care_for_returning();
        self.replace_gone_leader();
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

    fn message(&mut self, link: LinkId, message: ToLb) {
        if self.operator_message(link, &message) {
            return;
        }
        match self.links.get(&link) {
            Some(known) if known.phase == Phase::Open => {}
            _ => return,
        }
        match message {
            ToLb::Report(report) => self.report(link, *report),
            ToLb::Goodbye => self.goodbye(link),
            ToLb::Admitted { folder, result } => self.admitted(link, folder, result),
            ToLb::Operated { number, outcome } => self.operated(link, number, outcome),
            // Servers give no orders.
            ToLb::Operate(_) => {}
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
        self.tell_whereabouts(link, folder);
    }

    /// A member needs nothing but the answer to its first report on a link.
    fn register_member(&mut self, folder: FolderId, link: LinkId) {
        let Some(entry) = self.registry.get_mut(folder) else { return };
        if entry.is_fresh() || entry.told.is_some() {
            return;
        }
        entry.told = Some(None);
        let lb = self.settings.name.clone();
        let cluster = self.memory.cluster;
        self.send(link, ToServer::Registered { lb, cluster, waiting_for: None });
    }

    fn tick(&mut self) {
        for name in self.health.tick(self.now, &mut self.registry) {
            self.log(Severity::Warning, format!("{name} is silent"));
        }
        self.close_overdue();
        self.close_overdue_operators();
        self.forget();
    }

    fn forget(&mut self) {
        let now = self.now;
        let members: Vec<FolderId> = self.memory.cluster.map_or(Vec::new(), |cluster| {
            self.registry.membership(cluster).iter().map(|member| member.info.folder).collect()
        });
        // Another server has the address of one that is gone: it is not coming back.
        let live = self.registry.iter().filter(|entry| entry.is_live());
        let taken: Vec<_> = live.map(|entry| entry.report.info.peer).collect();
        self.registry.retain(|entry| {
            let is_recent = now.saturating_sub(entry.last_heard) < FORGET_AFTER;
            entry.is_live()
                || members.contains(&entry.report.info.folder)
                || (is_recent && !taken.contains(&entry.report.info.peer))
        });
    }

    fn publish(&mut self) {
        let Some(cluster) = self.memory.cluster else { return };
        let leading = leading(&self.registry, cluster);
        let named = leading.as_ref().map(|leading| Named {
            id: leading.id,
            term: leading.term,
            is_seen: leading.seen.is_some(),
        });
        let text = match &leading {
            Some(leading) => leading.to_string(),
            None => "no leader".to_owned(),
        };
        self.view.update(discovery::in_order(&self.registry, cluster));
        if named != self.leader {
            self.leader = named;
            let is_well = named.is_some_and(|named| named.is_seen);
            let severity = if is_well { Severity::Info } else { Severity::Warning };
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
