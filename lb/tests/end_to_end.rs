//! A load balancer over real links and a real client port; the servers are
//! stand-ins that report what the test tells them to.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::control::{
    Hello, MemberInfo, MemberRecord, PROTOCOL_VERSION, Party, Report, Role, ToLb, ToServer,
};
use common::ids::{ClusterId, FolderId, ServerId};
use common::udp::{ClusterKey, Endpoint, Lane, Link, Receive};
use store_lb as lb;
use store_lb::config::{LbConfig, Policy, Sockets};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Nothing in here takes longer, unless it never happens.
const LIMIT: Duration = Duration::from_secs(10);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(done) => done,
        Err(_) => panic!("{what} took more than {LIMIT:?}"),
    }
}

/// A load balancer that must not start.
async fn lb_on(dir: &Path) -> anyhow::Result<()> {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let sockets = Sockets { client: TcpListener::bind(free)?, server: UdpSocket::bind(free)? };
    let ready = || panic!("it serves");
    within("a refusal", lb::run(config(dir), sockets, ready, CancellationToken::new())).await
}

fn config(dir: &Path) -> LbConfig {
    LbConfig {
        name: "lb-1".to_owned(),
        dir: dir.to_owned(),
        key_file: dir.join("cluster.key"),
        expect: 2,
        policy: Policy::Leader,
        max_connections: 16,
        max_value_bytes: 1024,
    }
}

struct Running {
    client: SocketAddr,
    server: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Starts a load balancer on `dir` and any free port, or the ports of an earlier one.
    async fn start(dir: &Path, before: Option<(SocketAddr, SocketAddr)>) -> Running {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let (client, server) = before.unwrap_or((free, free));
        let sockets = Sockets {
            client: TcpListener::bind(client).unwrap(),
            server: UdpSocket::bind(server).unwrap(),
        };
        let (client, server) =
            (sockets.client.local_addr().unwrap(), sockets.server.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(lb::run(
            config(dir),
            sockets,
            move || {
                let _ = ready.send(());
            },
            shutdown.clone(),
        ));
        within("the start", is_ready).await.unwrap();
        Running { client, server, shutdown, task }
    }

    async fn stop(self) -> (SocketAddr, SocketAddr) {
        self.shutdown.cancel();
        within("the end", self.task).await.unwrap().unwrap();
        (self.client, self.server)
    }

    /// Asks on a connection of its own; the answer ends with `end`.
    async fn ask(&self, question: &str, end: &str) -> String {
        let mut socket = TcpStream::connect(self.client).await.unwrap();
        socket.write_all(question.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(end.as_bytes()) {
            let read = within("an answer", socket.read_buf(&mut answer)).await.unwrap();
            assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        }
        String::from_utf8(answer).unwrap()
    }

    async fn rotation_becomes(&self, servers: &[&Server]) {
        let mut expected = String::new();
        for server in servers {
            expected += &format!("{}\r\n", server.report.lock().unwrap().info.client);
        }
        expected += "end\r\n";
        self.answer_becomes("get-servers\r\n", "end\r\n", |answer| answer == expected).await;
    }

    async fn answer_becomes(&self, question: &str, end: &str, accept: impl Fn(&str) -> bool) {
        let last = Mutex::new(String::new());
        let wait = async {
            loop {
                let answer = self.ask(question, end).await;
                if accept(&answer) {
                    return;
                }
                *last.lock().unwrap() = answer;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(LIMIT, wait).await.is_err() {
            panic!("{question:?} is still answered with {:?}", last.lock().unwrap());
        }
    }
}

/// A stand-in: keeps a link to the load balancer, reports, and collects what
/// it is told.
struct Server {
    report: Arc<Mutex<Report>>,
    told: mpsc::UnboundedReceiver<ToServer>,
    endpoint: Endpoint,
    task: JoinHandle<()>,
}

struct Collect(mpsc::UnboundedSender<ToServer>);

impl Receive for Collect {
    fn frame(&self, lane: Lane, frame: Bytes) {
        // The stand-ins execute no requests, and open no sessions for them.
        if lane == Lane::Request {
            return;
        }
        assert_eq!(lane, Lane::Control);
        let _ = self.0.send(serde_json::from_slice(&frame).unwrap());
    }

    fn closed(&self, _reason: String) {}
}

impl Server {
    fn start(number: u16, key: &ClusterKey, lb: SocketAddr) -> Server {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let folder = FolderId(u128::from(number));
        let info = MemberInfo {
            folder,
            name: format!("srv-{number}"),
            peer: socket.local_addr().unwrap(),
            client: ([127, 0, 0, 1], 7000 + number).into(),
            run: None,
        };
        let report = Report::fresh(info, 1000 + u32::from(number));
        let report = Arc::new(Mutex::new(report));
        let hello = Hello { version: PROTOCOL_VERSION, from: Party::Fresh { folder } };
        let endpoint = Endpoint::new(socket, key, hello).unwrap();
        let (sender, told) = mpsc::unbounded_channel();
        let task = tokio::spawn(keep_reporting(endpoint.clone(), lb, report.clone(), sender));
        Server { report, told, endpoint, task }
    }

    fn change(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap());
    }

    async fn told<T>(&mut self, what: &str, take: impl Fn(ToServer) -> Option<T>) -> T {
        within(what, async {
            loop {
                let message = self.told.recv().await.expect("the stand-in goes on");
                if let Some(taken) = take(message) {
                    return taken;
                }
            }
        })
        .await
    }

    /// Waits for an `Adopt` and does what it says.
    async fn adopted(&mut self) -> (ClusterId, ServerId, Vec<MemberRecord>, bool) {
        let adopt = |message| match message {
            ToServer::Adopt { cluster, id, voters, campaign } => {
                Some((cluster, id, voters, campaign))
            }
            _ => None,
        };
        let adoption = self.told("an adoption", adopt).await;
        self.change(|report| {
            report.member = Some((adoption.0, adoption.1));
            report.role = Role::Follower;
            report.members.clone_from(&adoption.2);
        });
        adoption
    }

    fn lead(&self, term: u64) {
        self.change(|report| {
            report.role = Role::Leader;
            report.term = term;
        });
    }

    /// As a process that dies, except that its socket says goodbye to QUIC.
    async fn die(self) {
        self.task.abort();
        self.endpoint.close().await;
    }
}

async fn keep_reporting(
    endpoint: Endpoint,
    lb: SocketAddr,
    report: Arc<Mutex<Report>>,
    told: mpsc::UnboundedSender<ToServer>,
) {
    loop {
        let Ok((link, hello)) = endpoint.connect(lb).await else { continue };
        assert_eq!(hello.from, Party::LoadBalancer { name: "lb-1".to_owned() });
        link.start(Arc::new(Collect(told.clone())));
        while send(&link, &ToLb::Report(Box::new(report.lock().unwrap().clone()))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn send(link: &Link, message: &ToLb) -> bool {
    link.send(Lane::Control, &serde_json::to_vec(message).unwrap()).is_ok()
}

#[tokio::test]
async fn a_cluster_forms_fails_over_survives_the_load_balancer_and_grows() {
    let dir = tempfile::tempdir().unwrap();
    let key = ClusterKey::load_or_create(&dir.path().join("cluster.key")).unwrap();
    let lb = Running::start(dir.path(), None).await;
    lb.rotation_becomes(&[]).await;

    // Bootstrap.
    let mut one = Server::start(1, &key, lb.server);
    let registered = |message| match message {
        ToServer::Registered { lb, waiting_for, .. } => Some((lb, waiting_for)),
        _ => None,
    };
    let (name, waiting_for) = one.told("the registration", registered).await;
    assert_eq!(
        (&*name, waiting_for.map(|waiting| waiting.what).as_deref()),
        ("lb-1", Some("1 more server"))
    );
    let mut two = Server::start(2, &key, lb.server);
    let (cluster, id, voters, campaign) = one.adopted().await;
    assert_eq!((id, voters.len(), campaign), (ServerId(1), 2, true));
    assert_eq!(two.adopted().await, (cluster, ServerId(2), voters, false));
    assert!(dir.path().join("lb-memory").exists());

    // Rotation.
    one.lead(1);
    lb.rotation_becomes(&[&one, &two]).await;
    two.lead(2);
    lb.rotation_becomes(&[&two, &one]).await;
    one.change(|report| report.role = Role::Follower);

    // The load balancer restarts: no second cluster, the same view.
    let addresses = lb.stop().await;
    let lb = Running::start(dir.path(), Some(addresses)).await;
    lb.rotation_becomes(&[&two, &one]).await;
    let stats = lb.ask("stats\r\n", "END\r\n").await;
    assert!(stats.contains(&format!("STAT lb.cluster {cluster}\r\n")), "{stats}");
    assert!(stats.contains("STAT server.srv-2.role leader\r\n"), "{stats}");

    // A late server joins.
    let mut three = Server::start(3, &key, lb.server);
    let admit = |message| match message {
        ToServer::Admit { info, .. } => Some(info),
        _ => None,
    };
    let info = two.told("the request to admit", admit).await;
    assert_eq!(info.folder, FolderId(3));
    let record = MemberRecord { id: ServerId(3), voter: false, info };
    one.change(|report| report.members.push(record.clone()));
    two.change(|report| report.members.push(record));
    assert_eq!(three.adopted().await, (cluster, ServerId(3), Vec::new(), false));
    lb.rotation_becomes(&[&two, &one, &three]).await;

    // The leader dies.
    two.die().await;
    lb.rotation_becomes(&[]).await;
    one.lead(3);
    lb.rotation_becomes(&[&one, &three]).await;
    lb.stop().await;
}

#[tokio::test]
async fn the_client_port_answers_what_it_can() {
    let dir = tempfile::tempdir().unwrap();
    ClusterKey::load_or_create(&dir.path().join("cluster.key")).unwrap();
    let lb = Running::start(dir.path(), None).await;
    let pipeline = "version\r\nverbosity 1\r\nset k 0 0 1\r\nv\r\nget k\r\nset k 0 0 1 noreply\r\n\
                    v\r\nnonsense\r\nconfig get cluster\r\nget-servers\r\n";
    let answer = lb.ask(pipeline, "\r\nend\r\n").await;
    let lines: Vec<_> = answer.split("\r\n").collect();
    assert!(lines[0].starts_with("VERSION 1."), "{answer}");
    assert_eq!(lines[1], "OK");
    assert_eq!(lines[2], "SERVER_ERROR no leader, not executed");
    assert_eq!(lines[3], lines[2]);
    assert_eq!(lines[4], "ERROR");
    assert!(lines[5].starts_with("CONFIG cluster 0 "), "{answer}");

    let second = lb_on(dir.path()).await.unwrap_err().to_string();
    assert!(second.contains("in use by process"), "{second}");

    let mut socket = TcpStream::connect(lb.client).await.unwrap();
    socket.write_all(b"quit\r\n").await.unwrap();
    let read = within("the end of a connection", socket.read(&mut [0; 16])).await;
    assert_eq!(read.unwrap(), 0);
    lb.stop().await;
}

#[tokio::test]
async fn a_missing_key_and_a_damaged_memory_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = format!("{:#}", lb_on(dir.path()).await.unwrap_err());
    assert!(error.contains("cluster.key"), "{error}");
    ClusterKey::load_or_create(&dir.path().join("cluster.key")).unwrap();
    std::fs::write(dir.path().join("lb-memory"), b"{").unwrap();
    let error = format!("{:#}", lb_on(dir.path()).await.unwrap_err());
    assert!(error.contains("lb-memory"), "{error}");
}
