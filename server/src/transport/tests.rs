use std::net::UdpSocket;

use common::control::{MemberInfo, PROTOCOL_VERSION};
use common::ids::ServerId;
use common::udp::ClusterKey;

use super::*;

const CLUSTER: ClusterId = ClusterId(7);

fn party(id: u64, peer: SocketAddr) -> Hello {
    let from =
        Party::Member { cluster: CLUSTER, id: ServerId(id), folder: FolderId(id.into()), peer };
    Hello { version: PROTOCOL_VERSION, from }
}

fn endpoint(id: u64) -> Endpoint {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let hello = party(id, socket.local_addr().unwrap());
    Endpoint::new(socket, &ClusterKey::from_bytes([1; 32]), hello).unwrap()
}

fn record(id: u64, peer: SocketAddr) -> MemberRecord {
    let name = format!("srv-{id}");
    let info = MemberInfo { folder: FolderId(id.into()), name, peer, client: peer };
    MemberRecord { id: ServerId(id), voter: true, info }
}

/// Links that came up, until `count` have reached the other end.
async fn links(peer: &Endpoint, inbox: &Inbox, count: usize) -> Vec<Hello> {
    let mut accepted = Vec::new();
    let mut inputs = Vec::new();
    let mut found = Vec::new();
    while accepted.len() < count || found.is_empty() {
        tokio::select! {
            link = peer.accept() => accepted.extend(link),
            () = inbox.wait() => {}
        }
        inbox.take(&mut inputs);
        found.extend(inputs.drain(..).filter_map(|input| match input {
            Input::Link { hello, .. } => Some(hello),
            _ => None,
        }));
    }
    found
}

fn transport(inbox: &Arc<Inbox>) -> Transport {
    let me = Me { cluster: CLUSTER, id: NodeId(1) };
    Transport::new(me, endpoint(1), Arc::clone(inbox))
}

/// A server that lost its disk comes back at its address as another member,
/// while the old one still is a member, too.
#[tokio::test]
async fn a_peer_that_became_another_member_keeps_its_link() {
    let peer = endpoint(4);
    let address = peer.local_addr().unwrap();
    let inbox = Arc::new(Inbox::default());
    let mut transport = transport(&inbox);
    transport.set_members(&[record(2, address), record(4, address)]);
    assert_eq!(links(&peer, &inbox, 1).await, [party(4, address)]);
    assert!(transport.peers[&NodeId(2)].dialler.is_none(), "its link would replace that one");
}

/// The membership here is older than the change, and the new member, which has
/// the higher id, waits to be dialled.
#[tokio::test]
async fn a_member_that_is_not_known_yet_is_taken_for_what_it_says() {
    let peer = endpoint(4);
    let address = peer.local_addr().unwrap();
    let inbox = Arc::new(Inbox::default());
    let mut transport = transport(&inbox);
    transport.set_members(&[record(2, address)]);
    assert_eq!(links(&peer, &inbox, 1).await, [party(4, address)]);
}
