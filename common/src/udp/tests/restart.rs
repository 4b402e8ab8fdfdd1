use std::net::{SocketAddr, UdpSocket};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Endpoint, Events, Lane, accept, address, endpoint, hello, key, start};
use crate::udp::{ConnectError, KEEP_ALIVE_INTERVAL, Link, SILENCE_LIMIT};

/// What the product promises: a restarted peer is talked to again so soon.
const PROMISE: Duration = Duration::from_millis(200);

const RESTARTED: &str = "the peer no longer knows the link: it was restarted";

/// An endpoint that can die without a word: its runtime is dropped with all
/// its tasks, so that nothing is sent any more.
struct Process {
    addr: SocketAddr,
    kill: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Process {
    /// Starts one that accepts links and echoes frames; with `dial`, it also
    /// dials that address until it is connected.
    fn start(addr: SocketAddr, dial: Option<SocketAddr>) -> Self {
        let socket = UdpSocket::bind(addr).expect("the address is free");
        let addr = socket.local_addr().unwrap();
        let (kill, killed) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let endpoint = Endpoint::new(socket, &key(), hello("process")).unwrap();
                tokio::select! {
                    _ = killed => {}
                    () = run(&endpoint, dial) => {}
                }
            });
        });
        Self { addr, kill, thread }
    }

    fn kill(self) {
        self.kill.send(()).expect("it runs");
        self.thread.join().expect("it ends");
    }
}

async fn run(endpoint: &Endpoint, dial: Option<SocketAddr>) {
    let mut links = Vec::new();
    if let Some(peer) = dial {
        let link = endpoint.connect(peer).await.expect("the peer runs").0;
        echo(&link);
        links.push(link);
    }
    while let Some((link, _)) = endpoint.accept().await {
        echo(&link);
        links.push(link);
    }
}

fn echo(link: &Link) {
    struct Echo(Link);
    impl super::Receive for Echo {
        fn frame(&self, lane: Lane, frame: bytes::Bytes) {
            let _ = self.0.send(lane, &frame);
        }

        fn closed(&self, _: String) {}
    }
    link.start(std::sync::Arc::new(Echo(link.clone())));
}

fn anywhere() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

async fn exchange(link: &Link, events: &mut Events) {
    link.send(Lane::Urgent, b"ping").unwrap();
    assert_eq!(events.frame().await, (Lane::Urgent, "ping".into()));
}

/// The survivor's old link ends, and a new one works, each within the promise.
async fn survive(survivor: &Endpoint, old: &Link, mut events: Events, peer: SocketAddr) {
    let begin = Instant::now();
    old.send(Lane::Urgent, b"are you there?").unwrap();
    assert_eq!(events.closed().await, RESTARTED);
    let noticed = begin.elapsed();
    let (link, _) = survivor.connect(peer).await.expect("the new process answers");
    let mut events = start(&link);
    exchange(&link, &mut events).await;
    let works = begin.elapsed() - noticed;
    assert!(noticed < PROMISE, "noticed after {noticed:?}");
    assert!(works < PROMISE, "works after {works:?}");
}

#[tokio::test]
async fn a_restarted_peer_that_was_dialled_is_noticed_at_the_next_send() {
    let survivor = endpoint("survivor");
    let process = Process::start(anywhere(), None);
    let addr = process.addr;
    let (link, _) = survivor.connect(addr).await.unwrap();
    let mut events = start(&link);
    exchange(&link, &mut events).await;
    process.kill();
    let process = Process::start(addr, None);
    survive(&survivor, &link, events, addr).await;
    process.kill();
}

#[tokio::test]
async fn a_restarted_peer_that_had_dialled_is_noticed_at_the_next_send() {
    let survivor = endpoint("survivor");
    let process = Process::start(anywhere(), Some(address(&survivor)));
    let addr = process.addr;
    let (link, _) = accept(&survivor).await;
    let mut events = start(&link);
    exchange(&link, &mut events).await;
    process.kill();
    let process = Process::start(addr, None);
    survive(&survivor, &link, events, addr).await;
    process.kill();
}

#[tokio::test]
async fn all_peers_of_a_restarted_process_notice() {
    let survivors: Vec<_> = (0..4).map(|_| endpoint("survivor")).collect();
    let process = Process::start(anywhere(), None);
    let addr = process.addr;
    let mut links = Vec::new();
    for survivor in &survivors {
        let (link, _) = survivor.connect(addr).await.unwrap();
        let mut events = start(&link);
        exchange(&link, &mut events).await;
        links.push((link, events));
    }
    process.kill();
    let process = Process::start(addr, None);
    let begin = Instant::now();
    for (link, _) in &links {
        link.send(Lane::Urgent, b"are you there?").unwrap();
    }
    for (_, events) in &mut links {
        assert_eq!(events.closed().await, RESTARTED);
    }
    assert!(begin.elapsed() < PROMISE, "after {:?}", begin.elapsed());
    process.kill();
}

#[tokio::test]
async fn a_peer_that_was_down_for_long_is_reached_once_it_is_up() {
    let survivor = endpoint("survivor");
    let process = Process::start(anywhere(), None);
    let addr = process.addr;
    process.kill();
    // Down for longer than one connect lasts.
    let reopened = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_millis(1300));
        (Process::start(addr, None), Instant::now())
    });
    let (mut link, mut failures) = (None, 0);
    while link.is_none() {
        match survivor.connect_with_timeout(addr, Duration::from_millis(600)).await {
            Ok((connected, _)) => link = Some(connected),
            Err(error) => {
                assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
                assert_eq!(error.retry_after(), Duration::ZERO);
                failures += 1;
            }
        }
    }
    let connected = Instant::now();
    assert!(failures > 0, "it was down");
    let (process, up) = reopened.await.unwrap();
    let waited = connected.saturating_duration_since(up);
    assert!(waited < PROMISE, "connected {waited:?} after the peer was up");
    process.kill();
}

#[tokio::test]
async fn a_peer_that_wakes_up_late_gets_one_link_of_many_attempts() {
    let warnings = super::Warnings::default();
    let _guard = warnings.collect();
    let dialler = endpoint("dialler");
    let socket = super::socket();
    let addr = socket.local_addr().unwrap();
    let begin = Instant::now();
    let late = async {
        // The attempts of this time wait in the socket.
        tokio::time::sleep(Duration::from_millis(450)).await;
        let late = Endpoint::new(socket, &key(), hello("late")).unwrap();
        let link = accept(&late).await;
        (late, link)
    };
    let (dialled, (late, accepted)) = tokio::join!(dialler.connect(addr), late);
    let (link, _) = dialled.unwrap();
    assert!(begin.elapsed() < Duration::from_millis(450) + PROMISE, "{:?}", begin.elapsed());
    let (mut here, _there) = (start(&link), start(&accepted.0));
    accepted.0.send(Lane::Control, b"welcome").unwrap();
    assert_eq!(here.frame().await.1, "welcome");
    let more = tokio::time::timeout(PROMISE, late.accept()).await;
    assert!(more.is_err(), "one link");
    assert!(!link.is_closed());
    assert_eq!(warnings.take(), [""; 0]);
}

#[tokio::test]
async fn a_peer_that_vanishes_is_noticed_by_silence() {
    let survivor = endpoint("survivor");
    let process = Process::start(anywhere(), None);
    let (link, _) = survivor.connect(process.addr).await.unwrap();
    let mut events = start(&link);
    exchange(&link, &mut events).await;
    process.kill();
    let begin = Instant::now();
    assert_eq!(events.closed().await, "nothing heard for 1000 ms");
    let noticed = begin.elapsed();
    let slack = Duration::from_millis(50);
    assert!(noticed <= SILENCE_LIMIT + KEEP_ALIVE_INTERVAL + slack, "after {noticed:?}");
}

#[tokio::test]
async fn an_idle_link_stays_open() {
    let (a, b) = (endpoint("a"), endpoint("b"));
    let (dialled, accepted) = super::pair(&a, &b).await;
    tokio::time::sleep(SILENCE_LIMIT * 3 / 2).await;
    let mut events = start(&accepted);
    dialled.send(Lane::Request, b"good morning").unwrap();
    assert_eq!(events.frame().await.1, "good morning");
}
