//! Endpoints on loopback. A "process" is a thread with a runtime of its own,
//! so that it can die without a word.

mod authentication;
mod keys;
mod links;
mod restart;
mod wire;

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{ClusterKey, Endpoint, Lane, Link, Receive};
use crate::control::{Hello, PROTOCOL_VERSION, Party};

/// More than any test should ever need, less than anybody waits.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, PartialEq)]
enum Event {
    Frame(Lane, Bytes),
    Closed(String),
}

/// A receiver that hands everything to the test.
struct Recorder(mpsc::UnboundedSender<Event>);

impl Receive for Recorder {
    fn frame(&self, lane: Lane, frame: Bytes) {
        let _ = self.0.send(Event::Frame(lane, frame));
    }

    fn closed(&self, reason: String) {
        let _ = self.0.send(Event::Closed(reason));
    }
}

struct Events(mpsc::UnboundedReceiver<Event>);

impl Events {
    async fn next(&mut self) -> Event {
        let next = tokio::time::timeout(PATIENCE, self.0.recv()).await;
        next.expect("an event in time").expect("an event before the end")
    }

    async fn frame(&mut self) -> (Lane, Bytes) {
        match self.next().await {
            Event::Frame(lane, frame) => (lane, frame),
            Event::Closed(reason) => panic!("closed: {reason}"),
        }
    }

    /// Skips frames; checks that nothing comes after the end.
    async fn closed(&mut self) -> String {
        loop {
            if let Event::Closed(reason) = self.next().await {
                let after = tokio::time::timeout(PATIENCE, self.0.recv()).await;
                assert_eq!(after.expect("the receiver is let go"), None);
                return reason;
            }
        }
    }
}

fn start(link: &Link) -> Events {
    let (sender, events) = mpsc::unbounded_channel();
    link.start(Arc::new(Recorder(sender)));
    Events(events)
}

fn key() -> ClusterKey {
    ClusterKey::from_bytes([7; 32])
}

fn hello(name: &str) -> Hello {
    Hello { version: PROTOCOL_VERSION, from: Party::LoadBalancer { name: name.into() } }
}

fn socket() -> UdpSocket {
    UdpSocket::bind(("127.0.0.1", 0)).expect("a free port")
}

fn endpoint(name: &str) -> Endpoint {
    Endpoint::new(socket(), &key(), hello(name)).expect("an endpoint")
}

fn address(endpoint: &Endpoint) -> SocketAddr {
    endpoint.local_addr().expect("a bound socket")
}

async fn accept(endpoint: &Endpoint) -> (Link, Hello) {
    let accepted = tokio::time::timeout(PATIENCE, endpoint.accept()).await;
    accepted.expect("a link in time").expect("an open endpoint")
}

/// Two linked endpoints: the dialler's link, then the other's.
async fn pair(a: &Endpoint, b: &Endpoint) -> (Link, Link) {
    let (dialled, accepted) = tokio::join!(a.connect(address(b)), accept(b));
    (dialled.expect("a link").0, accepted.0)
}

/// Collects the warnings logged on this thread while it lives.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    fn collect(&self) -> tracing::subscriber::DefaultGuard {
        tracing::subscriber::set_default(self.clone())
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                use std::fmt::Write as _;
                write!(self.0, "{field}={value:?} ").unwrap();
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
