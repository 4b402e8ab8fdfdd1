use std::net::UdpSocket;

use common::control::{MemberInfo, PROTOCOL_VERSION, Reached, Run};
use common::ids::ServerId;
use common::udp::ClusterKey;

use super::*;

const CLUSTER: ClusterId = ClusterId(7);

/// Between two looks at what has arrived.
const OFTEN: Duration = Duration::from_millis(5);

fn party(id: u64, peer: SocketAddr) -> Hello {
    let folder = FolderId(id.into());
    let from = Party::Member {
        cluster: CLUSTER,
        id: ServerId(id),
        folder,
        peer,
        runs: Vec::new(),
        disk: None,
    };
    Hello { version: PROTOCOL_VERSION, from }
}

fn endpoint(id: u64) -> Endpoint {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let hello = party(id, socket.local_addr().unwrap());
    Endpoint::new(socket, &ClusterKey::from_bytes([1; 32]), hello).unwrap()
}

fn record(id: u64, peer: SocketAddr) -> MemberRecord {
    let name = format!("srv-{id}");
    let info = MemberInfo { folder: FolderId(id.into()), name, peer, client: peer, run: None };
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

fn transport(id: u64, inbox: &Arc<Inbox>) -> Transport {
    let me = Me { cluster: CLUSTER, id: NodeId(id) };
    Transport::new(me, endpoint(id), Arc::clone(inbox))
}

/// A server that lost its disk comes back at its address as another member,
/// while the old one still is a member, too.
#[tokio::test]
async fn a_peer_that_became_another_member_keeps_its_link() {
    let peer = endpoint(4);
    let address = peer.local_addr().unwrap();
    let inbox = Arc::new(Inbox::default());
    let mut transport = transport(1, &inbox);
    transport.set_members(&[record(2, address), record(4, address)], 5, &[]);
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
    let mut transport = transport(1, &inbox);
    transport.set_members(&[record(2, address)], 3, &[]);
    assert_eq!(links(&peer, &inbox, 1).await, [party(4, address)]);
}

/// The other one was away when this server came, so it does not dial it, though
/// its id is smaller.
#[tokio::test]
async fn a_member_that_does_not_know_this_one_is_dialled_by_it() {
    let peer = endpoint(1);
    let address = peer.local_addr().unwrap();
    let inbox = Arc::new(Inbox::default());
    let mut transport = transport(4, &inbox);
    let here = transport.endpoint.local_addr().unwrap();
    transport.set_members(&[record(1, address), record(4, here)], 5, &[]);
    assert_eq!(links(&peer, &inbox, 1).await, [party(1, address)]);
}

#[tokio::test]
async fn nobody_is_dialled_while_there_is_a_link() {
    let peer = endpoint(1);
    let address = peer.local_addr().unwrap();
    let inbox = Arc::new(Inbox::default());
    let mut transport = transport(4, &inbox);
    let here = transport.endpoint.local_addr().unwrap();
    let members = [record(1, address), record(4, here)];
    transport.set_members(&members, 5, &[]);
    let is_dialled = |transport: &Transport| transport.peers[&NodeId(1)].dialler.as_ref().is_some();
    assert!(is_dialled(&transport));

    let (dialled, accepted) = tokio::join!(peer.connect(here), transport.endpoint.accept());
    let (_dialled, _) = dialled.unwrap();
    let (link, hello) = accepted.unwrap();
    assert_eq!(transport.accept(&link, &hello, None), Some((NodeId(1), false)));
    assert!(!is_dialled(&transport));
    transport.set_members(&members, 5, &[]);
    assert!(!is_dialled(&transport));

    let number = transport.link(NodeId(1)).unwrap().0;
    assert!(transport.lost(NodeId(1), number));
    assert!(is_dialled(&transport));
}

/// Both dial at the same time, and each keeps what the other lets go of.
#[tokio::test]
async fn two_that_dial_at_once_end_with_one_link() {
    let inboxes = [Arc::new(Inbox::default()), Arc::new(Inbox::default())];
    let mut both = [transport(1, &inboxes[0]), transport(4, &inboxes[1])];
    let at = [0, 1].map(|this: usize| both[this].endpoint.local_addr().unwrap());
    let members = [record(1, at[0]), record(4, at[1])];
    let (dialled, accepted) =
        tokio::join!(both[0].endpoint.connect(at[1]), both[1].endpoint.accept());
    let first = [dialled.unwrap(), accepted.unwrap()];
    let (dialled, accepted) =
        tokio::join!(both[1].endpoint.connect(at[0]), both[0].endpoint.accept());
    let second = [accepted.unwrap(), dialled.unwrap()];
    both[0].accept(&first[0].0, &first[0].1, None).unwrap();
    both[0].accept(&second[0].0, &second[0].1, None).unwrap();
    both[1].accept(&second[1].0, &second[1].1, None).unwrap();
    both[1].accept(&first[1].0, &first[1].1, None).unwrap();
    for transport in &mut both {
        transport.set_members(&members, 5, &[]);
    }

    let mut heard = [false; 2];
    while heard != [true; 2] {
        for (this, to) in [(0, NodeId(4)), (1, NodeId(1))] {
            both[this].request(to, |out| out.extend_from_slice(b"hello"));
            let accepting = tokio::time::timeout(OFTEN, both[this].endpoint.accept());
            if let Ok(Some((link, hello))) = accepting.await {
                both[this].accept(&link, &hello, None);
            }
            heard[this] |= take(&mut both[this], &inboxes[this]);
        }
    }
}

/// Takes what has arrived; whether a frame over the current link is among it.
fn take(transport: &mut Transport, inbox: &Inbox) -> bool {
    let mut inputs = Vec::new();
    inbox.take(&mut inputs);
    let mut heard = false;
    for input in inputs {
        match input {
            Input::Link { link, hello } => {
                transport.accept(&link, &hello, None);
            }
            Input::LinkClosed { from, link, .. } => {
                transport.lost(from, link);
            }
            Input::Frame { from, link, .. } => heard |= transport.is_current(from, link),
            _ => {}
        }
    }
    heard
}

#[tokio::test]
async fn who_was_removed_is_turned_away_and_who_came_later_is_not() {
    let inbox = Arc::new(Inbox::default());
    let mut transport = transport(1, &inbox);
    let here = transport.endpoint.local_addr().unwrap();
    transport.set_members(&[record(1, here)], 5, &[]);
    let judge = async |id: u64| {
        let peer = endpoint(id);
        let (dialled, accepted) = tokio::join!(peer.connect(here), transport.endpoint.accept());
        let _dialled = dialled.unwrap();
        let (link, hello) = accepted.unwrap();
        transport.check(link.remote(), &hello, None).map_err(|_| link.close("refused"))
    };
    assert_eq!(judge(4).await, Err(()));
    assert_eq!(judge(5).await, Ok(NodeId(5)));
}

/// The leader goes on supplying whom it removes for a moment, so that it knows.
#[tokio::test]
async fn who_is_removed_keeps_its_link_while_it_is_supplied() {
    let peer = endpoint(4);
    let (there, inbox) = (peer.local_addr().unwrap(), Arc::new(Inbox::default()));
    let mut transport = transport(1, &inbox);
    let here = record(1, transport.endpoint.local_addr().unwrap());
    transport.set_members(&[here.clone(), record(4, there)], 5, &[NodeId(4)]);
    let (dialled, hello) = tokio::join!(transport.endpoint.connect(there), peer.accept());
    let (link, _) = dialled.unwrap();
    let (other_end, _) = hello.unwrap();
    transport.accept(&link, &party(4, there), None);
    assert!(!transport.keeps_removed());

    transport.set_members(std::slice::from_ref(&here), 5, &[NodeId(4)]);
    assert!(transport.keeps_removed() && transport.link_to(NodeId(4)).is_some());
    assert!(transport.check(there, &party(4, there), None).is_err(), "it gets no new one");
    transport.let_go(&[NodeId(4)]);
    assert!(transport.keeps_removed());
    transport.let_go(&[]);
    assert!(!transport.keeps_removed() && transport.link_to(NodeId(4)).is_none());
    other_end.closed().await;
}

#[tokio::test]
async fn a_copy_is_turned_away_and_knows_it() {
    let inbox = Arc::new(Inbox::default());
    let mut transport = transport(4, &inbox);
    let here = transport.endpoint.local_addr().unwrap();
    let run = |count, nonce| Run { count, nonce };
    let peer = endpoint(2);
    let there = peer.local_addr().unwrap();
    let noted = |run| {
        let mut members = [record(2, there), record(4, here)];
        members[0].info.run = run;
        members
    };
    let Party::Member { cluster, id, folder, peer: at, .. } = party(2, there).from else {
        panic!()
    };
    let runs = vec![run(4, 1), run(5, 1)];
    let from = Party::Member { cluster, id, folder, peer: at, runs, disk: None };
    peer.set_hello(Hello { version: PROTOCOL_VERSION, from });
    assert!(transport.set_members(&noted(Some(run(4, 1))), 5, &[]).is_empty());
    let (dialled, accepted) = tokio::join!(peer.connect(here), transport.endpoint.accept());
    let (dialled, (link, hello)) = (dialled.unwrap().0, accepted.unwrap());
    assert_eq!(transport.accept(&link, &hello, None), Some((NodeId(2), false)));
    assert_eq!(transport.run_of(NodeId(2)), Some(run(5, 1)));

    // What comes into force says that another copy has run, which may be taken back.
    let another = noted(Some(run(5, 2)));
    assert_eq!(transport.set_members(&another, 5, &[]), [NodeId(2)]);
    let why = dialled.closed().await;
    assert!(!dialled.is_turned_away() && why.contains("not committed yet"), "{why}");
    let (dialled, accepted) = tokio::join!(peer.connect(here), transport.endpoint.accept());
    let (dialled, (link, hello)) = (dialled.unwrap().0, accepted.unwrap());
    assert_eq!(transport.accept(&link, &hello, None), None);
    dialled.closed().await;
    assert!(!dialled.is_turned_away());
    transport.set_members(&noted(Some(run(4, 1))), 5, &[]);
    let (dialled, accepted) = tokio::join!(peer.connect(here), transport.endpoint.accept());
    let (dialled, (link, hello)) = (dialled.unwrap().0, accepted.unwrap());
    assert!(transport.accept(&link, &hello, None).is_some());

    // Once it is committed it is for good.
    transport.set_noted(&another);
    assert_eq!(transport.set_members(&another, 5, &[]), [NodeId(2)]);
    let why = dialled.closed().await;
    assert!(dialled.is_turned_away() && why.contains("a copy of the folder"), "{why}");
    assert!(!link.is_turned_away(), "this end is not meant");

    // Nor is it taken again.
    let (dialled, accepted) = tokio::join!(peer.connect(here), transport.endpoint.accept());
    let (dialled, (link, hello)) = (dialled.unwrap().0, accepted.unwrap());
    assert_eq!(transport.accept(&link, &hello, None), None);
    dialled.closed().await;
    assert!(dialled.is_turned_away());
}

/// A start of server 2: its count and nonce, and how far its disk had come.
fn start_of_two(peer: SocketAddr, count: u64, nonce: u64, disk: Option<(u64, u64)>) -> Hello {
    let mut hello = party(2, peer);
    if let Party::Member { runs, disk: at_start, .. } = &mut hello.from {
        *runs = (1..count).map(|count| Run { count, nonce: 1 }).collect();
        runs.push(Run { count, nonce });
        *at_start = disk.map(|(term, index)| Reached { term, index });
    }
    hello
}

/// Dials `transport` from `peer`, which says `hello`: its end of the link, and whether
/// it is taken.
async fn is_taken(
    transport: &mut Transport,
    peer: &Endpoint,
    hello: Hello,
    acknowledged: Option<Reached>,
) -> (Link, bool) {
    peer.set_hello(hello);
    let here = transport.endpoint.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(peer.connect(here), transport.endpoint.accept());
    let (link, hello) = accepted.unwrap();
    (dialled.unwrap().0, transport.accept(&link, &hello, acknowledged).is_some())
}

/// It was put back to a moment of its newest run, or copied then.
#[tokio::test]
async fn who_starts_with_less_than_it_has_acknowledged_is_turned_away() {
    let inbox = Arc::new(Inbox::default());
    let mut transport = transport(1, &inbox);
    let (peer, here) = (endpoint(2), transport.endpoint.local_addr().unwrap());
    let there = peer.local_addr().unwrap();
    let mut members = [record(1, here), record(2, there)];
    members[1].info.run = Some(Run { count: 5, nonce: 1 });
    transport.set_noted(&members);
    transport.set_members(&members, 5, &[]);
    let acknowledged = Some(Reached { term: 7, index: 90 });
    let mut comes = async |hello| is_taken(&mut transport, &peer, hello, acknowledged).await;
    let first = start_of_two(there, 5, 1, Some((6, 40)));
    assert!(comes(first.clone()).await.1, "nobody else was heard before");
    assert!(comes(first).await.1, "the process goes on, and has got further since");
    for disk in [(7, 89), (6, 95)] {
        let (link, taken) = comes(start_of_two(there, 6, 1, Some(disk))).await;
        assert!(!taken, "{disk:?}");
        let why = link.closed().await;
        assert!(link.is_turned_away(), "{disk:?}: {why}");
        assert!(why.contains("an older state of the folder"), "{why}");
    }
    // It has all of it; a later leader has changed it; it is known to have lost something.
    for (count, disk) in (6..).zip([Some((7, 90)), Some((8, 10)), None]) {
        assert!(comes(start_of_two(there, count, 1, disk)).await.1, "{disk:?}");
    }
}

/// A copy is started while the original runs.
#[tokio::test]
async fn a_second_process_waits_until_the_first_is_silent() {
    let inbox = Arc::new(Inbox::default());
    let mut transport = transport(1, &inbox);
    let (peer, copy) = (endpoint(2), endpoint(2));
    let here = transport.endpoint.local_addr().unwrap();
    let [there, elsewhere] = [&peer, &copy].map(|end| end.local_addr().unwrap());
    transport.set_members(&[record(1, here), record(2, there)], 5, &[]);
    let original = start_of_two(there, 5, 1, None);
    let (first, taken) = is_taken(&mut transport, &peer, original, None).await;
    assert!(taken);
    let copied = start_of_two(elsewhere, 6, 2, None);
    let (link, taken) = is_taken(&mut transport, &copy, copied.clone(), None).await;
    assert!(!taken, "the original is still heard");
    let why = link.closed().await;
    assert!(!link.is_turned_away() && why.contains("alive at"), "{why}");
    assert_eq!(transport.run_of(NodeId(2)), Some(Run { count: 5, nonce: 1 }));

    // Who has its address has come in its place, also if its end was not noticed yet.
    let (second, taken) =
        is_taken(&mut transport, &peer, start_of_two(there, 6, 1, None), None).await;
    assert!(taken);
    first.closed().await;
    second.close("ends");
    transport.link_to(NodeId(2)).unwrap().closed().await;
    assert!(is_taken(&mut transport, &copy, start_of_two(elsewhere, 7, 2, None), None).await.1);
}
