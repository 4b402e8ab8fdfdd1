//! The vocabulary of the wire, and the two edges that servers and load
//! balancers share.
//!
//! Pure parts, without IO: [`limits`], [`ids`], [`config`], [`control`],
//! [`discovery`], [`forward`] and the [`memcached`] codec. Edges: [`front_end`], the TCP
//! side that faces clients, and [`udp`], the authenticated QUIC side that
//! faces other servers. Nothing in here knows what a server or a load
//! balancer does with a request.

pub mod config;
pub mod control;
pub mod discovery;
pub mod folder;
pub mod forward;
pub mod front_end;
pub mod ids;
pub mod limits;
pub mod memcached;
pub mod runs;
pub mod udp;
