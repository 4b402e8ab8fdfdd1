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

/// A server that lost its disk comes back at its address as another member,
/// while the old one still is a member, too.
#[tokio::test]
async fn a_peer_that_became_another_member_keeps_its_link() {
    let (own, peer) = (endpoint(1), endpoint(4));
    let address = peer.local_addr().unwrap();
    let inbox = Arc::new(Inbox::default());
    let me = Me { cluster: CLUSTER, id: NodeId(1) };
    let mut transport = Transport::new(me, own, Arc::clone(&inbox));
    transport.set_members(&[record(2, address), record(4, address)]);

    // Member 4 is dialled once, and 2 again and again.
    let mut kept = Vec::new();
    let mut inputs = Vec::new();
    let mut found = Vec::new();
    while kept.len() < 4 && found.len() < 2 {
        tokio::select! {
            link = peer.accept() => kept.extend(link),
            () = inbox.wait() => {}
        }
        inbox.take(&mut inputs);
        found.extend(inputs.drain(..).filter_map(|input| match input {
            Input::Link { hello, .. } => Some(hello),
            _ => None,
        }));
    }
    assert_eq!(found, [party(4, address)]);
}
