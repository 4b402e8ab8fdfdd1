//! The load balancer: knows which servers live and who leads, forms the
//! cluster, lets fresh servers in, and tells clients where to go.
//!
//! Raft alone elects. The load balancer observes and asks: all it knows comes
//! from the reports that servers push to it (each 250 ms and on every
//! change), and it can lose all of it at any time. What it must not do is
//! form a second cluster where one exists; [`bootstrap`] and [`memory`] are
//! about that.
//!
//! [`Balancer`] is what it knows and decides, as a pure state machine: no socket,
//! no clock, no disk, nothing random. [`routing::Router`] is another one, for the
//! requests of clients; the balancer's [`routes`](Balancer::routes) are where it sends them. Their parts:
//!
//! | module | decides |
//! | --- | --- |
//! | [`registry`] | what is known of each server, by its folder; who leads |
//! | `leading` | who leads, and by whom the leader is reached while it is not seen |
//! | `registration` | whether a server that reports is taken in, held or refused |
//! | `health` | who is in contact |
//! | [`bootstrap`] | when a cluster is formed, and of whom |
//! | [`discovery`] | whom clients go to, and the text of the answers |
//! | [`routing`] | the way of a client's requests to the servers and back |
//! | [`stats`] | the view as text, for `store status` |
//! | [`events`] | what happened |
//!
//! [`run`] gives it links (QUIC over UDP), a clock, a disk for its
//! [`memory`], and the client port.

pub mod balancer;
pub mod bootstrap;
mod client_port;
pub mod config;
pub mod discovery;
pub mod events;
mod health;
mod leading;
pub mod memory;
mod registration;
pub mod registry;
pub mod routing;
mod shell;
pub mod stats;

pub use balancer::Balancer;
pub use shell::run;
