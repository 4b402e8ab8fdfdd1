//! Links to the other servers: who dials whom, which link counts, what is
//! sent over it.
//!
//! A pair of servers has one link, so that acknowledgements of one direction
//! travel with the data of the other. Who dials is decided by
//! [`crate::dialling`], and only while there is no link; a dialler goes on until
//! there is one. A link that comes up replaces an older one of the same peer,
//! since a peer only dials when it has lost the old one. Should both dial at
//! once, each may keep what the other lets go of; then the smaller id dials
//! again at once, and the other one waits.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use common::control::{Hello, MemberRecord, Party, Reached, Run};
use common::ids::{ClusterId, FolderId, ServerId};
use common::runs::{Stale, newest, stale};
use common::udp::{Endpoint, Lane, Link, Receive};
use raft::{Envelope, Index, Message, NodeId};

use crate::command::Payload;
use crate::dialling::dials_after;
use crate::shell::inbox::{Inbox, Input};
use crate::wire;

/// Pause after a link was lost.
const REDIAL_PAUSE: Duration = Duration::from_millis(20);

/// Longest pause after somebody else was found at a peer's address.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A chunk of a snapshot that was not answered for so long on a link that is
/// well was not taken; it is sent again.
const REPEAT_CHUNK_AFTER: Duration = Duration::from_secs(2);

/// Links so far in this process, for their numbers: late frames of one that was
/// closed must not be taken for those of a new one, whoever this server is then.
static LINKS: AtomicU64 = AtomicU64::new(1);

/// Who this server is, for checking who calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Me {
    pub(crate) cluster: ClusterId,
    pub(crate) id: NodeId,
}

/// The links of one server.
pub(crate) struct Transport {
    me: Me,
    endpoint: Endpoint,
    inbox: Arc<Inbox>,
    /// The first id that the membership in force has not given to anybody.
    next_id: u64,
    /// Where the members in force are, this server among them.
    addresses: BTreeMap<NodeId, SocketAddr>,
    /// Where they are by the word of a load balancer, which knows better while
    /// there is no leader. A link is only taken from whom it was meant for.
    whereabouts: BTreeMap<NodeId, SocketAddr>,
    /// The newest run of each member that the committed membership has noted.
    noted: BTreeMap<NodeId, Run>,
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Default)]
struct Peer {
    /// Its folder, as the membership has it; `None` for one that dialled before
    /// this server heard of it.
    known: Option<FolderId>,
    /// Its newest run that the membership in force has noted. That may not be
    /// committed, and be taken back: nobody is turned away for good by it.
    noted: Option<Run>,
    /// The runs that it claims over this link, or has claimed over the last one.
    claimed: Vec<Run>,
    /// And how far its disk had come at its start.
    disk: Option<Reached>,
    link: Option<(u64, Link)>,
    /// And where it dials.
    dialler: Option<(tokio_util::task::AbortOnDropHandle<()>, SocketAddr)>,
    /// The chunk of a snapshot that was sent last: on which link, which
    /// snapshot, from which byte on, when.
    chunk: Option<(u64, Index, u64, Instant)>,
}

impl Peer {
    /// Whether who says this of itself is another process than the one that was heard.
    fn is_another_process(&self, runs: &[Run], disk: Option<Reached>) -> bool {
        let is_known = self.claimed.last().is_some();
        is_known && (self.claimed.last(), self.disk) != (runs.last(), disk)
    }

    /// Where the process that was heard still is, if that is not `remote`: no two
    /// processes have one address. Its link ends when it does, or is silent for a
    /// second.
    fn lives_elsewhere(&self, remote: SocketAddr) -> Option<SocketAddr> {
        let (_, link) = self.link.as_ref()?;
        (!link.is_closed() && link.remote() != remote).then(|| link.remote())
    }
}

/// Why a link is refused.
#[derive(PartialEq, Eq, Debug)]
enum Refusal {
    /// The caller may come again.
    Now(String),
    /// It is to stop.
    ForGood(String),
}

/// Takes frames of one link to the driver.
struct PeerReceiver {
    inbox: Arc<Inbox>,
    from: NodeId,
    link: u64,
}

impl Receive for PeerReceiver {
    fn frame(&self, lane: Lane, frame: Bytes) {
        self.inbox.push(Input::Frame { from: self.from, link: self.link, lane, frame });
    }

    fn closed(&self, reason: String) {
        self.inbox.push(Input::LinkClosed { from: self.from, link: self.link, reason });
    }
}

impl Transport {
    pub(crate) fn new(me: Me, endpoint: Endpoint, inbox: Arc<Inbox>) -> Self {
        let (addresses, whereabouts, noted, peers) = Default::default();
        Transport { me, endpoint, inbox, next_id: 0, addresses, whereabouts, noted, peers }
    }

    /// Lets go of everybody.
    pub(crate) fn close(&self) {
        for (_, link) in self.peers.values().filter_map(|peer| peer.link.as_ref()) {
            link.close("this server goes");
        }
    }

    /// Takes up which runs are noted by the members as committed; before
    /// [`Self::set_members`].
    pub(crate) fn set_noted(&mut self, committed: &[MemberRecord]) {
        let noted = |member: &MemberRecord| Some((NodeId(member.id.0), member.info.run?));
        self.noted = committed.iter().filter_map(noted).collect();
    }

    /// Takes up the membership in force: dials whom it has to dial, lets go of
    /// who is no longer there, unless the core still supplies it: it is to learn
    /// of that. Lets go of those who are turned away by it, too, and gives these.
    /// Ids from `next_id` on are not given yet.
    pub(crate) fn set_members(
        &mut self,
        members: &[MemberRecord],
        next_id: u64,
        supplied: &[NodeId],
    ) -> Vec<NodeId> {
        self.next_id = next_id;
        let addresses =
            members.iter().map(|member| (NodeId(member.id.0), member.info.peer)).collect();
        if self.addresses != addresses {
            // What was said while nobody led is older than this entry of the log.
            self.whereabouts.clear();
            self.addresses = addresses;
        }
        self.let_go(supplied);
        let me = self.me.id.0;
        let mut turned_away = Vec::new();
        for member in members.iter().filter(|member| member.id.0 != me) {
            let id = NodeId(member.id.0);
            let peer = self.peers.entry(id).or_default();
            peer.known = Some(member.info.folder);
            peer.noted = member.info.run;
            let for_good = stale(self.noted.get(&id).copied(), &peer.claimed);
            if let Some((_, link)) = &peer.link
                && let Some(stale) = for_good.or_else(|| stale(peer.noted, &peer.claimed))
            {
                let why = stale.explain(&member.info.name, member.id);
                tracing::warn!(peer = id.0, why, for_good = for_good.is_some(), "link refused");
                match for_good {
                    Some(_) => link.turn_away(&why),
                    None => link.close(&not_committed(&why)),
                }
                peer.link = None;
                turned_away.push(id);
            }
            self.mind_dialler(id, Duration::ZERO);
        }
        turned_away
    }

    /// The run that a peer claims to be.
    pub(crate) fn run_of(&self, peer: NodeId) -> Option<Run> {
        self.peers.get(&peer)?.claimed.last().copied()
    }

    /// Lets go of who was removed and is not supplied by the core any more.
    pub(crate) fn let_go(&mut self, supplied: &[NodeId]) {
        let addresses = &self.addresses;
        self.peers.retain(|id, peer| {
            let stays = peer.known.is_none() || addresses.contains_key(id) || supplied.contains(id);
            if let (false, Some((_, link))) = (stays, &peer.link) {
                link.close(&no_member(*id));
            }
            stays
        });
    }

    /// Whether there is a link to somebody who was removed.
    pub(crate) fn keeps_removed(&self) -> bool {
        let removed =
            |(id, peer): (&NodeId, &Peer)| peer.known.is_some() && !self.addresses.contains_key(id);
        self.peers.iter().any(removed)
    }

    /// Looks for members where they are said to be.
    pub(crate) fn set_whereabouts(&mut self, members: &[(ServerId, SocketAddr)]) {
        let members = members.iter().map(|(id, at)| (NodeId(id.0), *at));
        self.whereabouts = members.filter(|(id, _)| self.addresses.contains_key(id)).collect();
        let ids: Vec<_> = self.peers.keys().copied().collect();
        for id in ids {
            self.mind_dialler(id, Duration::ZERO);
        }
    }

    /// Dials `peer` if this server is to, after a pause of at least `pause`, as
    /// long as there is no link.
    fn mind_dialler(&mut self, id: NodeId, pause: Duration) {
        let mut addresses = self.addresses.clone();
        addresses.extend(&self.whereabouts);
        let after = dials_after(self.me.id, id, &addresses);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (Some(after), Some(&address), None) = (after, addresses.get(&id), &peer.link) else {
            peer.dialler = None;
            return;
        };
        if peer.dialler.as_ref().is_none_or(|(_, dialled)| *dialled != address) {
            let (endpoint, inbox) = (self.endpoint.clone(), Arc::clone(&self.inbox));
            let dialling = dial(endpoint, inbox, id, address, after.max(pause));
            let task = tokio::spawn(dialling);
            peer.dialler = Some((tokio_util::task::AbortOnDropHandle::new(task), address));
        }
    }

    /// Takes a new link, if it is from a member of this cluster: whose, and
    /// whether it replaces an older one. `acknowledged` is how far the disk of the
    /// caller has come at least, as this server knows.
    pub(crate) fn accept(
        &mut self,
        link: &Link,
        hello: &Hello,
        acknowledged: Option<Reached>,
    ) -> Option<(NodeId, bool)> {
        match self.check(link.remote(), hello, acknowledged) {
            Ok(from) => {
                let number = LINKS.fetch_add(1, Ordering::Relaxed);
                let peer = self.peers.entry(from).or_default();
                peer.dialler = None;
                (peer.claimed, peer.disk) = match &hello.from {
                    Party::Member { runs, disk, .. } => (newest(runs).to_vec(), *disk),
                    _ => (Vec::new(), None),
                };
                let old = peer.link.replace((number, link.clone()));
                if let Some((_, old)) = &old {
                    old.close("replaced by a newer link");
                }
                tracing::info!(peer = from.0, address = %link.remote(), "link up");
                link.start(Arc::new(PeerReceiver {
                    inbox: Arc::clone(&self.inbox),
                    from,
                    link: number,
                }));
                Some((from, old.is_some()))
            }
            Err(Refusal::Now(why)) if matches!(hello.from, Party::LoadBalancer { .. }) => {
                // One that asks whether this address answers.
                link.close(&why);
                None
            }
            Err(Refusal::Now(why)) => {
                tracing::warn!(address = %link.remote(), why, "link refused");
                link.close(&why);
                None
            }
            Err(Refusal::ForGood(why)) => {
                tracing::warn!(address = %link.remote(), why, "link refused");
                link.turn_away(&why);
                None
            }
        }
    }

    fn check(
        &self,
        remote: SocketAddr,
        hello: &Hello,
        acknowledged: Option<Reached>,
    ) -> Result<NodeId, Refusal> {
        let now = |why| Err(Refusal::Now(why));
        match &hello.from {
            Party::Member { cluster, .. } if *cluster != self.me.cluster => {
                now(format!("this server belongs to cluster {}, not to {cluster}", self.me.cluster))
            }
            Party::Member { id: server, folder, runs, disk, .. } => {
                let id = NodeId(server.0);
                if id == self.me.id {
                    return now(format!("this server has the id {} itself", id.0));
                }
                let peer = self.peers.get(&id);
                match peer.and_then(|peer| peer.known) {
                    Some(known) if known != *folder => {
                        now(format!("id {} belongs to the folder {known}, not to {folder}", id.0))
                    }
                    // Ids are not used again. One that comes later may lead.
                    _ if id.0 < self.next_id && !self.addresses.contains_key(&id) => {
                        now(no_member(id))
                    }
                    _ => {
                        let noted = stale(self.noted.get(&id).copied(), runs);
                        let starts = peer.filter(|peer| peer.is_another_process(runs, *disk));
                        let lacks =
                            starts.is_some() && disk.is_some_and(|disk| Some(disk) < acknowledged);
                        if let Some(stale) = noted.or(lacks.then_some(Stale::Older)) {
                            let name = format!("folder {folder}");
                            return Err(Refusal::ForGood(stale.explain(&name, *server)));
                        }
                        if let Some(stale) = stale(peer.and_then(|peer| peer.noted), runs) {
                            let why = stale.explain(&format!("folder {folder}"), *server);
                            return now(not_committed(&why));
                        }
                        match starts.and_then(|peer| peer.lives_elsewhere(remote)) {
                            Some(at) => now(format!("server {id} is alive at {at}", id = id.0)),
                            None => Ok(id),
                        }
                    }
                }
            }
            Party::Fresh { .. } => now("the caller is no member yet".to_owned()),
            Party::LoadBalancer { .. } => {
                now("servers dial load balancers, not the reverse".to_owned())
            }
            Party::Operator { name } => now(format!("`{name}` is no peer")),
        }
    }

    /// Whether the peer has closed this link because this server must not take
    /// part.
    pub(crate) fn is_turned_away(&self, from: NodeId, link: u64) -> bool {
        self.link(from).is_some_and(|(number, known)| *number == link && known.is_turned_away())
    }

    /// Forgets a link that was lost. False: a newer one has replaced it.
    pub(crate) fn lost(&mut self, from: NodeId, link: u64) -> bool {
        match self.peers.get_mut(&from) {
            Some(peer) if peer.link.as_ref().is_some_and(|(number, _)| *number == link) => {
                peer.link = None;
                self.mind_dialler(from, REDIAL_PAUSE);
                true
            }
            _ => false,
        }
    }

    /// Lets the link to `peer` go, if there is one: whoever dials begins anew.
    pub(crate) fn drop_link(&mut self, peer: NodeId, why: &str) -> bool {
        let link = self.peers.get_mut(&peer).and_then(|peer| peer.link.take());
        if let Some((_, link)) = &link {
            link.close(why);
            self.mind_dialler(peer, REDIAL_PAUSE);
        }
        link.is_some()
    }

    /// Whether frames of this link still count.
    pub(crate) fn is_current(&self, from: NodeId, link: u64) -> bool {
        self.link(from).is_some_and(|(number, _)| *number == link)
    }

    fn link(&self, to: NodeId) -> Option<&(u64, Link)> {
        self.peers.get(&to)?.link.as_ref()
    }

    /// The link to `peer`, for answers that come later.
    pub(crate) fn link_to(&self, peer: NodeId) -> Option<Link> {
        self.link(peer).map(|(_, link)| link.clone())
    }

    /// Sends a Raft message. One that cannot leave is shed: Raft repeats it.
    pub(crate) fn send(&mut self, envelope: &Envelope<Payload>) {
        if self.is_under_way(envelope) {
            return;
        }
        if let Some((_, link)) = self.link(envelope.to) {
            let lane = wire::lane_of(&envelope.message);
            let sent = link.send_with(lane, |out| {
                out.reserve(wire::size_hint(&envelope.message));
                wire::encode(envelope, out);
            });
            if let Err(error) = sent {
                tracing::debug!(to = envelope.to.0, %error, "message shed");
            }
        }
    }

    /// Whether this chunk of a snapshot is on its way already. A link loses
    /// nothing, it is only slow: the core repeats a chunk much sooner than a
    /// large one may take, and each repetition would delay the rest.
    fn is_under_way(&mut self, envelope: &Envelope<Payload>) -> bool {
        let Message::SnapshotChunk { meta, offset, .. } = &envelope.message else { return false };
        let Some(peer) = self.peers.get_mut(&envelope.to) else { return false };
        let Some((link, _)) = peer.link else { return false };
        let this = (link, meta.index, *offset);
        if let Some((link, index, offset, at)) = peer.chunk
            && (link, index, offset) == this
            && at.elapsed() < REPEAT_CHUNK_AFTER
        {
            return true;
        }
        peer.chunk = Some((link, meta.index, *offset, Instant::now()));
        false
    }

    /// Sends a frame of the request lane; false: it did not leave.
    pub(crate) fn request(&self, to: NodeId, write: impl FnOnce(&mut BytesMut)) -> bool {
        self.link(to).is_some_and(|(_, link)| link.send_with(Lane::Request, write).is_ok())
    }
}

fn not_committed(why: &str) -> String {
    format!("what is in the log here, and is not committed yet, says: {why}")
}

fn no_member(id: NodeId) -> String {
    format!("server {} is no member any more", id.0)
}

/// Dials until there is a link to `peer`, which ends this task.
async fn dial(
    endpoint: Endpoint,
    inbox: Arc<Inbox>,
    peer: NodeId,
    address: SocketAddr,
    after: Duration,
) {
    tokio::time::sleep(after).await;
    let mut pause = REDIAL_PAUSE;
    loop {
        match endpoint.connect(address).await {
            // Perhaps another member than expected, which this server has not
            // heard of yet: then it may be the only one to tell it.
            Ok((link, hello)) if matches!(hello.from, Party::Member { .. }) => {
                inbox.push(Input::Link { link: link.clone(), hello });
                link.closed().await;
            }
            Ok((link, hello)) => {
                tracing::debug!(%address, peer = peer.0, found = ?hello.from, "no member is there");
                link.close("a member was to be there");
            }
            Err(error) => {
                tracing::debug!(%address, peer = peer.0, %error, "dialling failed");
                tokio::time::sleep(error.retry_after()).await;
                continue;
            }
        }
        // Refused, or not whom it looked for: that must not spin.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests;
