//! Whether a server that reports is taken in.
//!
//! Two servers can claim what only one can have: a name, an address, an id,
//! even a folder (a copy of it). The one that was there first keeps it, but
//! only as long as it is really there: the newcomer is held, without an
//! answer, until the older one is heard again (then the newcomer is refused)
//! or falls silent (then it is taken in). So a server that was killed and
//! started anew a moment later is never refused because of its own ghost.

use std::time::Duration;

use common::control::{MemberInfo, MemberRecord, Report};
use common::ids::ClusterId;
use common::limits::REPORT_INTERVAL;
use common::runs::stale;

use crate::registry::{Entry, LinkId, MAX_SERVERS, Registry};

/// Longest name of a server, in bytes; it is a word in stats lines and tables.
const MAX_NAME_BYTES: usize = 64;

/// A report that was on its way when its sender died can arrive so long after
/// the first one of its successor.
const IN_FLIGHT: Duration = REPORT_INTERVAL.checked_div(2).expect("not divided by zero");

/// What to do with a report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It counts.
    Accept,
    /// Nothing for now: it contradicts a server that may be dead.
    Hold,
    /// The server must not register, with this reason.
    Refuse(String),
}

/// What the verdict is made from.
pub(crate) struct Context<'a> {
    pub(crate) registry: &'a Registry,
    /// The cluster of this load balancer.
    pub(crate) cluster: Option<ClusterId>,
    /// When the first report came over this link.
    pub(crate) first_report: Duration,
}

/// Judges `report`, which came over `link`.
pub(crate) fn judge(context: &Context<'_>, link: LinkId, report: &Report) -> Verdict {
    let registry = context.registry;
    if let Some(why) = malformed(&report.info) {
        return Verdict::Refuse(why);
    }
    if let (Some((cluster, _)), Some(ours)) = (report.member, context.cluster)
        && cluster != ours
    {
        return Verdict::Refuse(format!(
            "{} belongs to cluster {cluster}, this load balancer to cluster {ours}: \
             register it with a load balancer of its own cluster",
            report.info.name
        ));
    }
    if let (Some(heard_of), Some(ours)) = (report.heard_of, context.cluster)
        && heard_of != ours
    {
        return Verdict::Refuse(format!(
            "{} is also registered with a load balancer of cluster {heard_of}, this one belongs to \
             cluster {ours}: name load balancers of one cluster only",
            report.info.name
        ));
    }
    if let Some(why) = id_of_another(report, context).or_else(|| stale_folder(report, context)) {
        return Verdict::Refuse(why);
    }

    let own = registry.get(report.info.folder);
    match own {
        Some(own) if own.link == Some(link) => return Verdict::Accept,
        Some(own) if own.is_live() && own.report.info.peer != report.info.peer => {
            return contest(context, own, || {
                format!(
                    "folder {} is in use by the live server {} at {}: is this one a copy of it? \
                     Give each server a folder of its own",
                    report.info.folder,
                    own.name(),
                    own.report.info.peer
                )
            });
        }
        None if registry.len() >= MAX_SERVERS => {
            return Verdict::Refuse(format!(
                "this load balancer already knows {MAX_SERVERS} servers; \
                 those that are gone are forgotten after a minute"
            ));
        }
        _ => {}
    }
    match collision(registry, report) {
        Some((other, what)) => contest(context, other, || {
            format!("{what} is taken by the live server {}: choose another one", other.name())
        }),
        None => Verdict::Accept,
    }
}

/// The older server proves that it is alive by reporting after the newcomer did.
fn contest(context: &Context<'_>, older: &Entry, why: impl FnOnce() -> String) -> Verdict {
    if older.last_heard >= context.first_report + IN_FLIGHT {
        Verdict::Refuse(why())
    } else {
        Verdict::Hold
    }
}

/// A live server that has what `report` claims, and what that is. A member
/// that returns is not turned away because of a name.
fn collision<'a>(registry: &'a Registry, report: &Report) -> Option<(&'a Entry, String)> {
    let info = &report.info;
    let others = || registry.iter().filter(|e| e.is_live() && e.report.info.folder != info.folder);
    if let Some(member) = report.member {
        return others()
            .find(|entry| entry.report.member == Some(member))
            .map(|entry| (entry, format!("the id {} of cluster {}", member.1, member.0)));
    }
    others().find_map(|entry| {
        let other = &entry.report.info;
        if other.name == info.name {
            Some((entry, format!("the name {}", info.name)))
        } else if other.peer == info.peer {
            Some((entry, format!("the UDP address {}", info.peer)))
        } else if other.client == info.client {
            Some((entry, format!("the client address {}", info.client)))
        } else {
            None
        }
    })
}

/// The leader's membership is the authority on ids: an id that belongs to
/// another folder there is refused whether or not its owner is alive.
fn id_of_another(report: &Report, context: &Context<'_>) -> Option<String> {
    let (cluster, id) = report.member?;
    let members: &[MemberRecord] = &context.registry.leader(cluster)?.report.members;
    let owner = members.iter().find(|member| member.id == id)?;
    (owner.info.folder != report.info.folder).then(|| {
        format!(
            "the id {id} of cluster {cluster} belongs to {} with folder {}, not to folder {}: \
             start this server on an empty folder to join as a new one",
            owner.info.name, owner.info.folder, report.info.folder
        )
    })
}

/// The membership says which run of a folder was the last one that the cluster took
/// note of: a copy that does not have it, or an older state of the folder, is
/// refused whether or not the other one is alive. Servers report what is committed,
/// so that of a follower does as well while the leader is not seen from here.
fn stale_folder(report: &Report, context: &Context<'_>) -> Option<String> {
    let members = context.registry.membership(context.cluster?);
    let folder = report.info.folder;
    let member = members.iter().find(|member| member.info.folder == folder)?;
    Some(stale(member.info.run, &report.runs)?.explain(&member.info.name, member.id))
}

/// Names and addresses that nobody can use.
fn malformed(info: &MemberInfo) -> Option<String> {
    let name = &info.name;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(plain) {
        return Some(format!(
            "the name {name:?} is not 1 to {MAX_NAME_BYTES} letters, digits, dots, dashes \
             and underscores: choose another one with --name"
        ));
    }
    for (what, address) in [("UDP", info.peer), ("client", info.client)] {
        if address.port() == 0 || address.ip().is_unspecified() {
            return Some(format!(
                "{name} gives {address} as its {what} address, where nobody can reach it: \
                 name an address of one of its interfaces"
            ));
        }
    }
    None
}
