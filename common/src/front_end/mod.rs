//! The TCP side that faces clients.
//!
//! A connection is a loop: read, parse all whole requests into one
//! [`Batch`], hand it to the [`Service`], wait for it to come back with the
//! replies, write them at once, go on. While a batch is out nothing more is read: the kernel's socket
//! buffers hold a pipelining client back, and a slow reader can make nothing
//! grow. One read, one hand-over and one write for each batch.
//!
//! The batch itself travels: requests and the reply buffer go to the service
//! and come back, and both are used again, so that a busy connection does
//! not allocate.

mod batch;

pub use batch::{Batch, Finish, Finished};

/// What answers the requests of the clients: a server's driver, or a load
/// balancer's router.
pub trait Service: Send + Sync + 'static {
    /// Takes over a batch. Called on the connection's task, so it must not
    /// block; the batch is finished there and then, or later from anywhere.
    fn call(&self, batch: Batch);
}
