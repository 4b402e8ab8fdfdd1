//! The UDP side that faces other servers and load balancers: QUIC links with
//! mutual authentication from the cluster key.
//!
//! The interface (to be implemented):
//!
//! ```text
//! ClusterKey::{generate, load(path), load_or_create(path), from_bytes}
//! Endpoint::new(socket: std::net::UdpSocket, key: &ClusterKey, hello: Hello) -> io::Result<Endpoint>   (Clone)
//! endpoint.set_hello(Hello); endpoint.local_addr(); endpoint.close().await
//! endpoint.connect(addr).await -> Result<(Link, Hello), ConnectError>     hello = what the peer said
//! endpoint.accept().await -> Option<(Link, Hello)>
//! link.start(Arc<dyn Receive>)          frames flow from here on
//! link.send(lane, &[u8]) -> Result<(), SendError>      never blocks
//! link.send_with(lane, |out: &mut BytesMut| ...) -> Result<(), SendError>
//! link.remote(); link.close(reason); link.closed().await -> String; link.is_closed()
//! trait Receive: Send + Sync { fn frame(&self, lane: Lane, frame: Bytes); fn closed(&self, reason: String); }
//! ```

/// What a frame is, so that urgent ones never queue behind large ones. Each
/// lane is a QUIC stream of its own in each direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Hello, and JSON messages between servers and load balancers.
    Control,
    /// Votes, heartbeats, acknowledgements, read indexes.
    Urgent,
    /// Log entries and snapshot chunks.
    Bulk,
    /// Forwarded client requests and their replies.
    Request,
}
