//! The TCP side that faces clients.
//!
//! A connection is a loop: read, parse all whole requests, up to a bound, into one
//! [`Batch`], hand it to the [`Service`], wait for it to come back with the
//! replies, write them at once, go on. While a batch is out nothing more is
//! read: the kernel's socket buffers hold a pipelining client back, and a slow
//! reader can make nothing grow. One read, one hand-over and one write for
//! each batch.
//!
//! The batch itself travels: requests and the reply buffer go to the service
//! and come back, and both are used again, so that a busy connection does
//! not allocate. Whoever finishes a batch writes its replies to the socket
//! (see `link.rs`), and the connection's task sleeps on until the client's
//! next bytes.
//!
//! # Memory of a connection
//!
//! Idle: at most [`KEEP_BYTES`] each for input and output, a few KiB as a
//! rule. Busy: one request that is not complete (a get line of
//! [`MAX_GET_LINE_BYTES`](crate::limits::MAX_GET_LINE_BYTES), or a line and
//! the largest value), or what was read of a pipeline, and the replies of one
//! batch. How large those may become is up to the service, which alone knows
//! what a get finds.

mod answer;
mod batch;
mod connection;
mod counters;
mod link;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use answer::{VERSION_REPLY, answer_local};
pub use batch::{Batch, Finish, Finished};
pub use counters::Counters;

use crate::limits::{DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_VALUE_BYTES};
use crate::memcached::TOO_MANY_CONNECTIONS;
use connection::Connection;

/// Buffers start with so much...
const INITIAL_BYTES: usize = 4 * 1024;
/// ...and one that has grown above this is not kept once it is empty.
pub const KEEP_BYTES: usize = 64 * 1024;

/// How long batches that are out may take to come back after a shutdown.
const DRAIN: Duration = Duration::from_secs(1);

/// A pause after an accept that failed, most likely for want of file
/// descriptors: without one the loop would spin until some are free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What answers the requests of the clients: a server's driver, or a load
/// balancer's router.
pub trait Service: Send + Sync + 'static {
    /// Takes over a batch. Called on the connection's task, so it must not
    /// block; the batch is finished there and then, or later from anywhere.
    fn call(&self, batch: Batch);
}

/// What a front end may be told.
#[derive(Clone, Debug)]
pub struct FrontEndConfig {
    /// Connections above are told so and closed.
    pub max_connections: usize,
    /// Longest value; longer ones are refused and their data swallowed.
    pub max_value_bytes: usize,
    /// What happened so far; keep a copy to show it.
    pub counters: Arc<Counters>,
}

impl Default for FrontEndConfig {
    fn default() -> Self {
        FrontEndConfig {
            max_connections: DEFAULT_MAX_CONNECTIONS,
            max_value_bytes: DEFAULT_MAX_VALUE_BYTES,
            counters: Arc::default(),
        }
    }
}

/// Accepts connections and serves them.
#[derive(Debug)]
pub struct FrontEnd;

impl FrontEnd {
    /// Serves clients of `listener` until `shutdown` is cancelled: then no
    /// more are accepted or read from, batches that are out have a second to
    /// come back, and all connections are closed.
    ///
    /// Connections are tasks of the runtime that runs this future, which must
    /// have IO and time enabled. To drop the future closes everything at once.
    pub async fn serve(
        listener: TcpListener,
        config: FrontEndConfig,
        service: Arc<dyn Service>,
        shutdown: CancellationToken,
    ) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                // Shutdown first: a flood of connections must not delay it.
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((socket, _)) => {
                        if connections.len() >= config.max_connections {
                            reject(&socket, &config);
                        } else {
                            connections.spawn(serve_one(
                                socket,
                                config.clone(),
                                service.clone(),
                                shutdown.clone(),
                            ));
                        }
                    }
                    Err(error) => pause(&error).await,
                },
            }
        }
        drop(listener);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("closed connections whose requests were not answered in time");
        }
    }
}

async fn serve_one(
    socket: TcpStream,
    config: FrontEndConfig,
    service: Arc<dyn Service>,
    shutdown: CancellationToken,
) {
    /// Counts the connection out however its task ends.
    struct Open(Arc<Counters>);

    impl Drop for Open {
        fn drop(&mut self) {
            self.0.closed();
        }
    }

    // Without it small replies wait for the client's delayed acknowledgement.
    // Where it fails the connection is broken, and reading will show it.
    let _ = socket.set_nodelay(true);
    config.counters.opened();
    let _open = Open(config.counters.clone());
    Connection::new(socket, config, service).serve(shutdown).await;
}

/// Tells a client that there are too many, if it listens at once.
fn reject(socket: &TcpStream, config: &FrontEndConfig) {
    config.counters.rejected();
    let mut line = TOO_MANY_CONNECTIONS.as_bytes().to_vec();
    line.extend_from_slice(b"\r\n");
    // A new socket's buffer has room for it; a client that is gone already
    // misses nothing.
    let _ = socket.try_write(&line);
}

async fn pause(error: &io::Error) {
    tracing::warn!(
        %error,
        "could not accept a client connection; trying again. If files are the problem, \
         raise the limit (ulimit -n) or lower the number of connections"
    );
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
