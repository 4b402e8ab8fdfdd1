//! Client of the store: a library, a command line and a load generator.
//!
//! - [`Cluster`] asks load balancers who leads, talks to the leader, finds
//!   the next one when it is gone, by the servers it knows if there is no load
//!   balancer any more, and repeats a request until its deadline. A
//!   write has a name that lets it take effect once, however often it is sent;
//!   where servers know no names, as another memcached, it is repeated only
//!   when it was certainly not executed.
//! - [`run`] is the command `client`, from arguments to exit code.
//! - [`mod@bench`] measures a server: closed or open loop, on one thread.
//!
//! ```no_run
//! # async fn example() -> Result<(), store_client::Error> {
//! let lbs = vec!["127.0.0.1:5002".parse().unwrap()];
//! let mut cluster = store_client::Cluster::new(lbs, store_client::Options::default());
//! cluster.set("greeting", "hello").await?;
//! for hit in cluster.get(&["greeting"]).await? {
//!     println!("{} bytes, flags {}", hit.value.len(), hit.flags);
//! }
//! # Ok(())
//! # }
//! ```

pub mod bench;
mod cli;
mod cluster;
mod connection;
mod error;
mod finder;
mod names;
mod protocol;
pub mod race;
mod retry;
mod router;
mod search;
#[cfg(test)]
mod testing;

pub use cli::{Console, run};
pub use cluster::{Cluster, Outcome};
pub use connection::Value;
pub use error::{Error, Role, Tried};
pub use router::Options;
