//! Links: opened, closed, refused, and closed when there is nothing left to say.

use std::net::SocketAddr;
use std::time::Duration;

use common::control::{Hello, Party, ToServer};
use common::ids::FolderId;

use super::{Balancer, Output};
use crate::events::Severity;
use crate::registry::{Contact, LinkId};

/// How long a refused server has to read the reason and go, before its link
/// is closed; and how long a link may stay open without a report.
const LINGER: Duration = Duration::from_millis(1000);
const SPEECHLESS: Duration = Duration::from_secs(5);

/// Links that are kept open. Each has shown the cluster key.
const MAX_LINKS: usize = 2048;

/// An open link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) remote: SocketAddr,
    pub(super) folder: FolderId,
    opened: Duration,
    pub(super) first_report: Option<Duration>,
    pub(super) phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Open,
    /// Said goodbye, or was refused: nothing from it counts any more.
    Over {
        since: Duration,
    },
}

impl Balancer {
    pub(super) fn opened(&mut self, link: LinkId, remote: SocketAddr, hello: Hello) {
        let folder = match hello.from {
            Party::Member { folder, .. } | Party::Fresh { folder } => folder,
            Party::Operator { .. } => return self.operator_opened(link),
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

    pub(super) fn goodbye(&mut self, link: LinkId) {
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

    pub(super) fn closed(&mut self, link: LinkId, reason: &str) {
        self.operator_link_closed(link);
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

    pub(super) fn refuse(&mut self, link: LinkId, who: &str, why: String) {
        self.turn_away(link, who, why, false);
    }

    /// An operator has removed the process at the other end: it is to stop.
    pub(super) fn stop_dismissed(&mut self, link: LinkId, name: &str) {
        let why = format!(
            "an operator has removed {name} from the cluster. Its data stays: \
             `store addsrv --name {name}` brings it back as a learner"
        );
        self.turn_away(link, name, why, true);
    }

    fn turn_away(&mut self, link: LinkId, who: &str, why: String, dismissed: bool) {
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
        let cluster = self.memory.cluster;
        self.send(link, ToServer::Refused { why, cluster, dismissed });
    }

    pub(super) fn drop_link(&mut self, link: LinkId, reason: String) {
        self.links.remove(&link);
        self.outputs.push(Output::Close { link, reason });
    }

    /// Closes the links that are over, and those that never began.
    pub(super) fn close_overdue(&mut self) {
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
    }
}
