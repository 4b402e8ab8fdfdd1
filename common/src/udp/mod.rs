//! The UDP side that faces other servers and load balancers: QUIC links with
//! mutual authentication from the cluster key.
//!
//! One [`Endpoint`] per process, on one bound socket, dials and accepts. Each
//! [`Link`] carries frames in five [`Lane`]s; a lane is a QUIC stream of its
//! own in each direction, so that an acknowledgement never queues behind a
//! snapshot. What comes in goes to a [`Receive`], called on the link's task.
//!
//! # Dialling, and dialling again
//!
//! [`Endpoint::connect`] starts a fresh QUIC handshake every 100 ms until
//! one is answered, because a handshake that began while the peer was down backs
//! off for longer and longer. A caller that keeps a peer connected therefore
//! needs no cleverness of its own:
//!
//! ```text
//! loop {
//!     match endpoint.connect(addr).await {
//!         Ok((link, hello)) => {
//!             link.start(receive);
//!             link.closed().await;                 // then dial again, at once
//!         }
//!         Err(error) => sleep(error.retry_after()).await,   // zero when nobody answered
//!     }
//! }
//! ```
//!
//! A restarted peer is noticed at the next send: its process cannot read the
//! packets of the old link and answers with a stateless reset, which is
//! recognised because the reset key is derived from the cluster key and the
//! address instead of drawn per process. A peer that is gone without a trace
//! is noticed by silence, see [`SILENCE_LIMIT`].
//!
//! # On the wire
//!
//! A stream starts with one byte that names its lane. Then frames: a
//! little-endian `u32` with the length, then as many bytes. The first frame on
//! [`Lane::Control`] is the sender's [`Hello`](crate::control::Hello) as JSON;
//! a [`Link`] exists once both have been read and their versions agree.
//!
//! # What is not here
//!
//! No datagrams, no 0-RTT (a replayed request would be executed twice), no
//! session resumption (a restarted process could not resume anyway), no
//! migration to another address: a link that changes address is dialled again.

mod accept;
mod dial;
mod endpoint;
mod error;
mod handshake;
mod key;
mod lanes;
mod link;
mod read;
mod refusals;
mod settings;
mod tls;

#[cfg(test)]
mod tests;

pub use endpoint::Endpoint;
pub use error::{ConnectError, KeyError, SendError};
pub use key::ClusterKey;
pub use lanes::Lane;
pub use link::{Link, Receive};
pub use settings::{KEEP_ALIVE_INTERVAL, SILENCE_LIMIT};
