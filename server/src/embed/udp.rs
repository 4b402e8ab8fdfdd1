//! Replicas that reach each other over UDP: the same authenticated QUIC links
//! and frames as between store servers.
//!
//! Of two replicas the one with the smaller id dials. A link that comes up
//! replaces an older one, since a peer only dials again when it has lost that.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use common::control::{Hello, PROTOCOL_VERSION, Party};
use common::ids::{ClusterId, FolderId, ServerId};
use common::udp::{ClusterKey, Endpoint, Lane, Link, Receive};
use raft::NodeId;
use tokio_util::task::AbortOnDropHandle;

use super::error::StartError;
use super::network::{Deliver, Frame, Network};
use crate::command::Payload;
use crate::wire;

/// Pause after a link was lost.
const REDIAL_PAUSE: Duration = Duration::from_millis(20);

/// How long an end waits for the peers to hear of it, and for the socket.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Between two looks whether the socket is gone.
const CLOSE_POLL: Duration = Duration::from_millis(5);

/// First byte of a frame of the request lane.
const FORWARD: u8 = 1;
const REFUSED: u8 = 2;

/// A replica's socket and links.
pub(super) struct Udp {
    peers: Arc<Peers>,
    endpoint: Endpoint,
    runtime: tokio::runtime::Handle,
    tasks: Vec<AbortOnDropHandle<()>>,
}

struct Peers {
    id: NodeId,
    cluster: ClusterId,
    known: Vec<NodeId>,
    network: Network,
    deliver: Deliver,
    links: Mutex<Links>,
}

#[derive(Default)]
struct Links {
    last_number: u64,
    up: BTreeMap<NodeId, (u64, Link)>,
}

impl Udp {
    pub(super) fn open(
        id: NodeId,
        key: &ClusterKey,
        members: &BTreeMap<NodeId, SocketAddr>,
        network: Network,
        deliver: Deliver,
    ) -> Result<Udp, StartError> {
        let address = *members.get(&id).ok_or(StartError::NotAMember(id))?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let cluster = cluster_id(members);
        let from = Party::Member {
            cluster,
            id: ServerId(id.0),
            folder: FolderId(id.0.into()),
            peer: address,
            runs: Vec::new(),
            disk: None,
        };
        let hello = Hello { version: PROTOCOL_VERSION, from };
        let failed = |source| StartError::Socket { address, source };
        let socket = UdpSocket::bind(address).map_err(failed)?;
        let endpoint = Endpoint::new(socket, key, hello).map_err(failed)?;
        let known = members.keys().copied().collect();
        let links = Mutex::default();
        let peers = Arc::new(Peers { id, cluster, known, network, deliver, links });
        let mut tasks = vec![spawn(accept(endpoint.clone(), Arc::clone(&peers)))];
        for (_, address) in members.range(NodeId(id.0 + 1)..) {
            tasks.push(spawn(dial(endpoint.clone(), Arc::clone(&peers), *address)));
        }
        Ok(Udp { peers, endpoint, runtime, tasks })
    }

    pub(super) fn send(&self, to: NodeId, frame: &Frame) {
        if self.peers.network.is_cut(self.peers.id, to) {
            return;
        }
        let Some(link) = self.peers.lock().up.get(&to).map(|(_, link)| link.clone()) else {
            return;
        };
        let sent = match frame {
            Frame::Raft(envelope) => link.send_with(wire::lane_of(&envelope.message), |out| {
                out.reserve(wire::size_hint(&envelope.message));
                wire::encode(envelope, out);
            }),
            Frame::Forward { number, payload, .. } => link.send_with(Lane::Request, |out| {
                out.put_u8(FORWARD);
                out.put_u64_le(*number);
                out.put_slice(&payload.0);
            }),
            Frame::Refused { number } => link.send_with(Lane::Request, |out| {
                out.put_u8(REFUSED);
                out.put_u64_le(*number);
            }),
        };
        if let Err(error) = sent {
            tracing::debug!(to = to.0, %error, "message shed");
        }
    }

    /// Ends the links and lets go of the socket, so that the address can be
    /// used again.
    pub(super) fn close(self) {
        let Udp { peers, endpoint, runtime, tasks } = self;
        drop(tasks);
        let (done, closed) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let address = endpoint.local_addr();
            endpoint.close().await;
            peers.lock().up.clear();
            drop(endpoint);
            // The socket belongs to a task that ends a moment after its links.
            while address.as_ref().is_ok_and(|address| UdpSocket::bind(address).is_err()) {
                tokio::time::sleep(CLOSE_POLL).await;
            }
            let _ = done.send(());
        });
        // When the runtime ends first, nobody is left to wait for.
        let _ = closed.recv_timeout(CLOSE_WITHIN);
    }
}

impl Peers {
    fn lock(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a new link, if it is of a member.
    fn take(self: &Arc<Self>, link: &Link, hello: &Hello) {
        let from = match &hello.from {
            Party::Member { cluster, id, .. } if *cluster == self.cluster => NodeId(id.0),
            _ => return self.refuse(link, "not a member of this cluster"),
        };
        if from == self.id || !self.known.contains(&from) {
            return self.refuse(link, "not another member of this cluster");
        }
        let mut links = self.lock();
        links.last_number += 1;
        let number = links.last_number;
        if let Some((_, old)) = links.up.insert(from, (number, link.clone())) {
            old.close("replaced by a newer link");
        }
        drop(links);
        link.start(Arc::new(Receiver {
            peers: Arc::clone(self),
            from,
            number,
            link: link.clone(),
        }));
    }

    fn refuse(&self, link: &Link, why: &str) {
        tracing::warn!(address = %link.remote(), why, "link refused");
        link.close(why);
    }
}

/// Takes what arrives over one link.
struct Receiver {
    peers: Arc<Peers>,
    from: NodeId,
    number: u64,
    link: Link,
}

impl Receiver {
    fn decode(&self, lane: Lane, mut bytes: Bytes) -> Result<Frame, String> {
        match lane {
            Lane::Urgent | Lane::Bulk | Lane::Snapshot => {
                let envelope = wire::decode(&bytes).map_err(|error| error.to_string())?;
                if envelope.from != self.from || envelope.to != self.peers.id {
                    return Err(format!("a message from {} to {}", envelope.from, envelope.to));
                }
                Ok(Frame::Raft(envelope))
            }
            Lane::Request => {
                let kind = bytes.try_get_u8().map_err(|_| "an empty frame".to_owned())?;
                let number = bytes.try_get_u64_le().map_err(|_| "a short frame".to_owned())?;
                match kind {
                    FORWARD => {
                        let payload = Payload(Bytes::copy_from_slice(&bytes));
                        Ok(Frame::Forward { from: self.from, number, payload })
                    }
                    REFUSED => Ok(Frame::Refused { number }),
                    other => Err(format!("unknown frame {other}: of a newer version?")),
                }
            }
            Lane::Control => Err("replicas have no control messages".to_owned()),
        }
    }
}

impl Receive for Receiver {
    fn frame(&self, lane: Lane, bytes: Bytes) {
        match self.decode(lane, bytes) {
            Ok(_) if self.peers.network.is_cut(self.from, self.peers.id) => {}
            Ok(frame) => (self.peers.deliver)(frame),
            Err(why) => {
                tracing::warn!(peer = self.from.0, why, "frame refused, link closed");
                self.link.close(&format!("frame refused: {why}"));
            }
        }
    }

    fn closed(&self, reason: String) {
        tracing::debug!(peer = self.from.0, reason, "link lost");
        let mut links = self.peers.lock();
        if links.up.get(&self.from).is_some_and(|(number, _)| *number == self.number) {
            links.up.remove(&self.from);
        }
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

async fn accept(endpoint: Endpoint, peers: Arc<Peers>) {
    while let Some((link, hello)) = endpoint.accept().await {
        peers.take(&link, &hello);
    }
}

/// Dials until the link is up, and again when it is lost.
async fn dial(endpoint: Endpoint, peers: Arc<Peers>, address: SocketAddr) {
    loop {
        match endpoint.connect(address).await {
            Ok((link, hello)) => {
                peers.take(&link, &hello);
                link.closed().await;
                // A link that is refused again and again must not spin.
                tokio::time::sleep(REDIAL_PAUSE).await;
            }
            Err(error) => {
                tracing::debug!(%address, %error, "dialling failed");
                tokio::time::sleep(error.retry_after()).await;
            }
        }
    }
}

/// Tells clusters of the same key apart when their members differ.
fn cluster_id(members: &BTreeMap<NodeId, SocketAddr>) -> ClusterId {
    let text: String = members.iter().map(|(id, address)| format!("{id}={address} ")).collect();
    ClusterId(crc32c::crc32c(text.as_bytes()).into())
}
