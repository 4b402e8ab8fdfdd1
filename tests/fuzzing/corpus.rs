//! Valid inputs of every decoder, the same in each run.

use std::net::SocketAddr;

use bytes::Bytes;
use common::control::{
    Hello, MemberInfo, MemberRecord, Party, Reached, Report, Role, Run, ToLb, ToServer,
};
use common::forward::{self, WriteIds};
use common::ids::{ClusterId, FolderId, ServerId};
use common::memcached::{Arithmetic, StoreVerb, encode_requests};
use raft::{Body, Entry, Envelope, Member, Membership, Message, NodeId, SnapshotMeta, Suffrage};
use server::command::{Command, Operation, Payload, RequestId};

pub(crate) fn membership() -> Membership {
    let mut membership = Membership::of_voters([
        (NodeId(1), b"one".as_slice().into()),
        (NodeId(2), b"".as_slice().into()),
    ]);
    let learner = Member { suffrage: Suffrage::Learner, info: b"{}".as_slice().into() };
    membership.members.insert(NodeId(3), learner);
    membership.next_id = 5;
    membership.dismissed.insert(NodeId(4), b"{}".as_slice().into());
    membership
}

pub(crate) fn commands() -> Vec<Vec<u8>> {
    let verbs = [
        StoreVerb::Set,
        StoreVerb::Add,
        StoreVerb::Replace,
        StoreVerb::Append,
        StoreVerb::Prepend,
        StoreVerb::Cas(7),
    ];
    let mut operations: Vec<Operation<'_>> = verbs
        .into_iter()
        .map(|verb| Operation::Store { verb, key: b"key", flags: 3, deadline_ms: 5, value: b"12" })
        .collect();
    operations.push(Operation::Delete { key: b"key" });
    for operation in [Arithmetic::Incr, Arithmetic::Decr] {
        operations.push(Operation::Arithmetic { operation, key: b"key", delta: 9 });
    }
    operations.push(Operation::Check { algorithm: 1 });
    operations.push(Operation::Verdict { index: 7, digest: 0x0123_4567_89ab_cdef });
    operations.push(Operation::OpenSession { session: 5 });
    let encode = |id, operation| {
        let mut out = Vec::new();
        Command { clock_ms: 1_700_000_000_000, id, operation }.encode(&mut out);
        out
    };
    let named = Some(RequestId { session: 5, sequence: 8, done_below: 6 });
    let both = operations.into_iter().flat_map(|operation| [(None, operation), (named, operation)]);
    both.map(|(id, operation)| encode(id, operation)).collect()
}

pub(crate) fn entries(first: u64) -> Vec<Entry<Payload>> {
    let mut bodies = vec![Body::Noop, Body::Membership(membership())];
    bodies.extend(commands().into_iter().map(|bytes| Body::Command(Payload(bytes.into()))));
    (first..).zip(bodies).map(|(index, body)| Entry { index, term: 2, body }).collect()
}

pub(crate) fn messages() -> Vec<Message<Payload>> {
    let meta = SnapshotMeta { index: 9, term: 2, membership: membership() };
    vec![
        Message::PreVote { last_index: 4, last_term: 1 },
        Message::PreVoteReply { granted: true },
        Message::Vote { last_index: 4, last_term: 1, transfer: true },
        Message::VoteReply { granted: false },
        Message::Append {
            prev_index: 3,
            prev_term: 1,
            commit: 2,
            read_round: 1,
            entries: entries(4),
        },
        Message::Append { prev_index: 3, prev_term: 1, commit: 2, read_round: 1, entries: vec![] },
        Message::AppendReply { match_index: 4, read_round: 1 },
        Message::AppendReject { prev_index: 4, hint_index: 3, hint_term: 1 },
        Message::Heartbeat { commit: 2, read_round: 1 },
        Message::HeartbeatReply { read_round: 1, last_index: 4 },
        Message::ReadIndex { request: 5 },
        Message::ReadIndexReply { request: 5, index: Some(4) },
        Message::ReadIndexReply { request: 5, index: None },
        Message::TimeoutNow,
        Message::SnapshotChunk { meta, offset: 100, data: vec![1, 2, 3], done: true },
        Message::SnapshotReply { index: 9, next_offset: 103, installed: false },
    ]
}

pub(crate) fn envelopes() -> Vec<Vec<u8>> {
    let encode = |message| {
        let mut out = Vec::new();
        let envelope = Envelope { from: NodeId(1), to: NodeId(2), term: 3, message };
        server::wire::encode(&envelope, &mut out);
        out
    };
    messages().into_iter().map(encode).collect()
}

/// What clients send.
pub(crate) fn streams() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 13] = [
        b"get key\r\n",
        b"gets a b c d\r\n",
        b"set key 3 60 5\r\nhello\r\nget key\r\n",
        b"add key 0 0 0 noreply\r\n\r\n",
        b"cas key 1 -1 2 42\r\nhi\r\n",
        b"append key 0 0 1\r\nx\r\nprepend key 0 0 1\r\ny\r\n",
        b"delete key\r\nincr key 5\r\ndecr key 18446744073709551615 noreply\r\n",
        b"version\r\nstats\r\nstats raft\r\nverbosity 1\r\nquit\r\n",
        b"get-servers\r\nconfig get cluster\r\n",
        b"get-servers",
        b"set key 0 0 99999999999\r\nwhatever\r\n",
        b"session 1f\r\nset k 0 0 1 @1f.1.1\r\nx\r\nincr n 1 @1f.2.1!\r\ndelete k @1f.3.2\r\n",
        b"mg key v\r\nms key 2\r\nhi\r\nbogus\r\n",
    ];
    let mut streams: Vec<_> = texts.iter().map(|text| text.to_vec()).collect();
    streams.push(format!("get {}\r\n", "k".repeat(251)).into_bytes());
    streams.push(vec![b'x'; 3000]);
    streams.push(vec![0x80, 0, 0, 3]);
    streams
}

/// Batches of requests as servers forward them.
pub(crate) fn batches() -> Vec<Vec<u8>> {
    let parse = |stream: Vec<u8>| {
        let mut parser = common::memcached::Parser::new(1024);
        let mut input = stream.as_slice().into();
        let mut requests = Vec::new();
        while let common::memcached::Parsed::Request(request) = parser.next(&mut input) {
            requests.push(request);
        }
        let mut out = Vec::new();
        encode_requests(&requests, &mut out);
        out
    };
    streams().into_iter().map(parse).collect()
}

pub(crate) fn forwards() -> Vec<Bytes> {
    let mut frames = vec![Vec::new(); 8];
    let ids = WriteIds { session: 3, first_sequence: 5, done_below: 4, again: false };
    forward::encode_requests_head(7, &ids, &mut frames[0]);
    frames[0].extend_from_slice(&batches()[1]);
    forward::encode_done(7, b"STORED\r\n", &mut frames[1]);
    forward::encode_not_leader(7, &mut frames[2]);
    forward::encode_session_unknown(7, &mut frames[3]);
    forward::encode_open_session(7, 3, &mut frames[4]);
    forward::encode_lost(7, &mut frames[5]);
    forward::encode_requests_head(8, &WriteIds { again: true, ..ids }, &mut frames[6]);
    frames[6].extend_from_slice(&batches()[2]);
    forward::encode_digest(7, 9, &mut frames[7]);
    frames.into_iter().map(Bytes::from).collect()
}

pub(crate) fn answers() -> Vec<Vec<u8>> {
    let texts =
        ["end\r\n", "127.0.0.1:7001\r\nend\r\n", "[::1]:1\n10.0.0.1:65535\r\nend\r\n", "ERROR\r\n"];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Every control message, as JSON.
pub(crate) fn controls() -> Vec<Vec<u8>> {
    let address: SocketAddr = "127.0.0.1:6001".parse().expect("an address");
    let (folder, cluster, id) = (FolderId(5), ClusterId(6), ServerId(1));
    let info = || MemberInfo {
        folder,
        name: "srv-1".to_owned(),
        peer: address,
        client: address,
        run: None,
    };
    let record = MemberRecord { id, voter: true, info: info() };
    let report = Report {
        info: info(),
        member: Some((cluster, id)),
        role: Role::Leader,
        term: 3,
        leader: Some(id),
        last_index: 10,
        commit_index: 9,
        applied_index: 8,
        members: vec![record.clone()],
        keys: 7,
        memory_bytes: 6,
        uptime_secs: 5,
        reads: 4,
        writes: 3,
        connections: 2,
        pid: 1,
        may_found: true,
        heard_of: Some(ClusterId(9)),
        unheard: vec![address],
        trouble: Some(common::control::Trouble::DiskFull),
        gone_leader: Some((ServerId(2), 2)),
        dismissed: vec![record.clone()],
        runs: vec![Run { count: 1, nonce: 7 }],
    };
    let parties = [
        Party::LoadBalancer { name: "lb-1".to_owned() },
        Party::Member {
            cluster,
            id,
            folder,
            peer: address,
            runs: vec![Run { count: 1, nonce: 7 }],
            disk: Some(Reached { term: 2, index: 9 }),
        },
        Party::Fresh { folder },
        Party::Operator { name: "backup".to_owned() },
    ];
    let mut all: Vec<Vec<u8>> = parties
        .into_iter()
        .map(|from| serde_json::to_vec(&Hello { version: 1, from }).expect("is JSON"))
        .collect();
    let to_lb = [
        ToLb::Report(Box::new(report)),
        ToLb::Goodbye,
        ToLb::Admitted { folder, result: Ok(id) },
        ToLb::Admitted { folder, result: Err("no".to_owned()) },
    ];
    all.extend(to_lb.iter().map(|message| serde_json::to_vec(message).expect("is JSON")));
    let to_server = [
        ToServer::Campaign { term: 3 },
        ToServer::Registered { lb: "lb-1".to_owned(), cluster: None, waiting_for: None },
        ToServer::Refused { why: "no".to_owned(), cluster: Some(ClusterId(5)), dismissed: true },
        ToServer::Whereabouts { members: vec![(ServerId(1), ([127, 0, 0, 1], 6001).into())] },
        ToServer::Adopt { cluster, id, voters: vec![record], campaign: true },
        ToServer::Admit { info: info(), runs: vec![Run { count: 7, nonce: 1 }] },
    ];
    all.extend(to_server.iter().map(|message| serde_json::to_vec(message).expect("is JSON")));
    all
}

pub(crate) fn configs() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"object": {"total": 2, "Servers": [
            {"mypid": 1, "url": "127.0.0.1:6001"},
            {"mypid": 2, "url": "[::1]:6002", "client": "0.0.0.0:11211"}]}}"#,
        r#"{"Ser": {"1": "127.0.0.1:6001", "10": "127.0.0.1:6010"}}"#,
        r#"{"Ser": {}, "object": null, "x": [1e999, -0, "\ud800"]}"#,
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
