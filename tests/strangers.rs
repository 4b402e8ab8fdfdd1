//! Peers that must not take part: of another version, of another cluster, with
//! somebody else's id, at an address where they are not. Each is refused, and
//! both sides are told why.

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::control::{
    Hello, MemberInfo, PROTOCOL_VERSION, Party, Report, Role, ToLb, ToServer, Waiting,
};
use common::ids::{ClusterId, FolderId, ServerId};
use common::udp::{ClusterKey, Endpoint, Lane, Receive};
use support::cluster::{PATIENCE, TestCluster};
use support::eventually;
use support::ports::free_port;
use support::process::{STORE, run};
use tokio::sync::mpsc;

const OWN_FOLDER: FolderId = FolderId(0xF0);

/// A peer of this test: it has the key, and says whatever it likes.
struct Stranger {
    runtime: tokio::runtime::Runtime,
    key: ClusterKey,
    address: SocketAddr,
    socket: Option<UdpSocket>,
}

struct Messages(mpsc::UnboundedSender<ToServer>);

impl Receive for Messages {
    fn frame(&self, _lane: Lane, frame: Bytes) {
        let _ = self.0.send(serde_json::from_slice(&frame).unwrap());
    }

    fn closed(&self, _reason: String) {}
}

impl Stranger {
    fn new(cluster: &TestCluster) -> Stranger {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let key = ClusterKey::load(&cluster.home().join("cluster.key")).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        Stranger { runtime, key, address, socket: Some(socket) }
    }

    fn info(&self) -> MemberInfo {
        let client = SocketAddr::from(([127, 0, 0, 1], free_port()));
        MemberInfo {
            folder: OWN_FOLDER,
            name: "stranger".to_owned(),
            peer: self.address,
            client,
            run: None,
        }
    }

    /// Why there is no link to `to`.
    fn connect(&mut self, hello: Hello, to: SocketAddr) -> Result<(), String> {
        let socket = self.socket.as_ref().unwrap().try_clone().unwrap();
        self.runtime.block_on(async {
            let endpoint = Endpoint::new(socket, &self.key, hello).unwrap();
            let error = endpoint.connect(to).await.map(|_| ()).map_err(|error| error.to_string());
            endpoint.close().await;
            error
        })
    }

    /// Registers with a load balancer and reports until it is refused: why.
    fn report(&mut self, party: Party, lb: SocketAddr, report: &Report) -> String {
        let socket = self.socket.take().unwrap();
        let hello = Hello { version: PROTOCOL_VERSION, from: party };
        let text = serde_json::to_vec(&ToLb::Report(Box::new(report.clone()))).unwrap();
        self.runtime.block_on(async {
            let endpoint = Endpoint::new(socket, &self.key, hello).unwrap();
            let (link, _) = endpoint.connect(lb).await.unwrap();
            let (sender, mut messages) = mpsc::unbounded_channel();
            link.start(Arc::new(Messages(sender)));
            let refused = async {
                loop {
                    // Fails once the link is closed, with the reason on its way.
                    let _ = link.send(Lane::Control, &text);
                    let wait = tokio::time::timeout(Duration::from_millis(100), messages.recv());
                    match wait.await {
                        Ok(Some(ToServer::Refused { why, .. })) => return why,
                        Ok(Some(ToServer::Adopt { .. })) => panic!("it was taken in"),
                        Ok(Some(_)) | Err(_) => {}
                        Ok(None) => panic!("the link was closed without a reason"),
                    }
                }
            };
            let why = tokio::time::timeout(PATIENCE, refused).await.expect("a refusal");
            endpoint.close().await;
            why
        })
    }
}

/// Waits until a log says something.
fn wait_for_log(cluster: &TestCluster, name: &str, texts: &[&str]) {
    eventually("the refusal is logged", PATIENCE, || {
        let log = cluster.home().join(name).join("server.log");
        let log = std::fs::read_to_string(log).unwrap();
        let said = |line: &str| texts.iter().all(|text| line.contains(text));
        if log.lines().any(said) { Ok(()) } else { Err(log) }
    });
}

fn peer_address(cluster: &TestCluster, name: &str) -> SocketAddr {
    cluster.stat(&format!("server.{name}.peer")).parse().unwrap()
}

fn serves(cluster: &TestCluster) {
    let leader = cluster.wait_for_servers(2);
    cluster.wait_for_members(&["srv-1", "srv-2"]);
    assert_eq!(cluster.connect(&leader).set("k", "v").unwrap(), "STORED");
}

#[test]
fn a_newer_protocol_version_is_refused_by_load_balancers_and_servers() {
    let cluster = TestCluster::start(2);
    let (lb, server) = (cluster.lb_server(), peer_address(&cluster, "srv-1"));
    for (to, name) in [(lb, "lb-1"), (server, "srv-1")] {
        let mut stranger = Stranger::new(&cluster);
        let from = Party::Fresh { folder: OWN_FOLDER };
        let newer = Hello { version: PROTOCOL_VERSION + 1, from };
        let why = stranger.connect(newer, to).unwrap_err();
        assert!(why.contains("protocol version"), "{why}");
        assert!(why.contains("update the older one"), "{why}");
        let remote = stranger.address.to_string();
        wait_for_log(&cluster, name, &["WARN", "protocol version", &remote]);
    }
    serves(&cluster);
}

#[test]
fn an_address_that_does_not_answer_back_is_refused() {
    let cluster = TestCluster::start(2);
    let mut stranger = Stranger::new(&cluster);
    let nowhere = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let info = MemberInfo { peer: nowhere, ..stranger.info() };
    let party = Party::Fresh { folder: OWN_FOLDER };
    let why = stranger.report(party, cluster.lb_server(), &Report::fresh(info, 1));
    for text in [&*nowhere.to_string(), "does not answer", "--sip"] {
        assert!(why.contains(text), "no `{text}` in {why}");
    }
    wait_for_log(&cluster, "lb-1", &["refused stranger", "does not answer"]);
    serves(&cluster);
}

#[test]
fn ids_and_addresses_that_are_alive_elsewhere_are_refused() {
    let cluster = TestCluster::start(2);
    let id: ClusterId = cluster.stat("lb.cluster").parse().unwrap();
    // Somebody's id, with another folder.
    let mut stranger = Stranger::new(&cluster);
    let member = (id, ServerId(1));
    let mut report = Report::fresh(stranger.info(), 1);
    (report.member, report.role) = (Some(member), Role::Follower);
    let (cluster_id, peer) = (id, stranger.address);
    let (folder, runs) = (OWN_FOLDER, Vec::new());
    let party =
        Party::Member { cluster: cluster_id, id: ServerId(1), folder, peer, runs, disk: None };
    let why = stranger.report(party, cluster.lb_server(), &report);
    assert!(why.contains("the id 1") && why.contains("an empty folder"), "{why}");
    wait_for_log(&cluster, "lb-1", &["refused stranger", "the id 1"]);

    // The addresses of a server that lives, and its name.
    let owner = peer_address(&cluster, "srv-1");
    for (peer, name, text) in
        [(Some(owner), "stranger", "UDP address"), (None, "srv-1", "the name srv-1")]
    {
        let mut stranger = Stranger::new(&cluster);
        let info = stranger.info();
        let info = MemberInfo { peer: peer.unwrap_or(info.peer), name: name.to_owned(), ..info };
        let party = Party::Fresh { folder: OWN_FOLDER };
        let why = stranger.report(party, cluster.lb_server(), &Report::fresh(info, 1));
        assert!(why.contains(text) && why.contains("is taken by the live server"), "{why}");
        wait_for_log(&cluster, "lb-1", &["refused", text]);
    }
    serves(&cluster);
}

#[test]
fn a_server_of_another_cluster_is_refused() {
    let mut cluster = TestCluster::start(2);
    // Another cluster of one server, with the same key.
    let (client, server) = (free_port(), free_port());
    let home = cluster.home().display().to_string();
    let dir = cluster.cwd().join("other");
    std::fs::create_dir(&dir).unwrap();
    std::fs::copy(cluster.home().join("cluster.key"), dir.join("cluster.key")).unwrap();
    let dir = dir.display().to_string();
    let store = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        run(STORE, std::path::Path::new(&home), &words)
    };
    let other = Other(&dir);
    store(&format!("addlb --dir {dir} --cport {client} --sport {server} --expect 1")).expect(0);
    let ports = format!("--cport {} --sport {}", free_port(), free_port());
    store(&format!("addsrv --dir {dir} --name other-1 {ports}")).expect(0).says("is a voter");
    store(&format!("stop other-1 --dir {dir}")).expect(0);

    let lb = cluster.lb_server();
    store(&format!("addsrv --dir {dir} --name other-1 --lb {lb}"))
        .expect(1)
        .complains("belongs to cluster")
        .complains("register it with a load balancer of its own cluster");
    wait_for_log(&cluster, "lb-1", &["refused other-1", "belongs to cluster"]);
    let log = std::fs::read_to_string(format!("{dir}/other-1/server.log")).unwrap();
    assert!(log.contains("refused this server"), "{log}");

    // A server without data that knows load balancers of both is told by one of them.
    let lbs = format!("--lb {lb},127.0.0.1:{server}");
    let ports = format!("--cport {} --sport {}", free_port(), free_port());
    store(&format!("addsrv --dir {dir} --name other-2 {lbs} {ports}"));
    eventually("it ends, or is in one of them", PATIENCE, || {
        let log = std::fs::read_to_string(format!("{dir}/other-2/server.log")).unwrap();
        let told = log.contains("name load balancers of one cluster only");
        let told = told || log.contains("register it with a load balancer of its own cluster");
        told.then_some(()).ok_or(log)
    });

    // A member does not end because of one that cannot know it.
    cluster.stop("srv-1");
    cluster.start_server_with("srv-1", &lbs);
    wait_for_log(&cluster, "srv-1", &["a load balancer of another cluster, not listened to"]);
    eventually("it serves", PATIENCE, || {
        match cluster.connect("srv-1").set("k", "v").map_err(|error| error.to_string())?.as_str() {
            "STORED" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    drop(other);
    // Nothing of it came here, or it was a server without data.
    let leader = cluster.wait_for_leader(PATIENCE);
    assert_eq!(cluster.connect(&leader).set("k", "v").unwrap(), "STORED");
    assert!(cluster.server("srv-1").pid() > 0);
}

/// Stops what runs on the folder of another cluster, however the test ends.
struct Other<'a>(&'a str);

impl Drop for Other<'_> {
    fn drop(&mut self) {
        run(STORE, std::path::Path::new(self.0), &["down", "--dir", self.0]);
    }
}

#[test]
fn fresh_servers_wait_and_say_for_what_while_an_old_member_lives() {
    let mut cluster = TestCluster::start(2);
    let leader = cluster.wait_for_leader(PATIENCE);
    assert_eq!(cluster.connect(&leader).set("before", "1").unwrap(), "STORED");
    let survivor = cluster.running().into_iter().find(|name| *name != leader).unwrap();
    // The load balancer forgets everything, and nobody leads.
    cluster.kill_lb();
    cluster.kill9(&leader);
    std::fs::remove_file(cluster.home().join("lb-1").join("lb-memory")).unwrap();
    cluster.start_lb();
    let mut waiting = Vec::new();
    for name in ["srv-8", "srv-9"] {
        cluster.start_server(name);
        waiting.push(cluster.server(name).wait_for("the reason", |line| {
            let waiting = line["progress"]["waiting_for"].clone();
            let waiting: Waiting = serde_json::from_value(waiting).ok()?;
            waiting.what.starts_with("a leader of cluster").then_some(waiting.what)
        }));
    }
    let id = cluster.stat("lb.cluster");
    assert!(waiting.iter().all(|what| what.ends_with(&id)), "{waiting:?} in {id}");
    cluster.start_server(&leader);
    let mut all = [leader.as_str(), &survivor, "srv-8", "srv-9"];
    all.sort_unstable();
    cluster.wait_for_members(&all);
    let leader = cluster.wait_for_leader(PATIENCE);
    assert_eq!(cluster.connect(&leader).get("before").unwrap().as_deref(), Some("1"));
}
