//! The socket's owner: dials, is dialled, and ends.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::accept;
use super::dial;
use super::error::ConnectError;
use super::key::ClusterKey;
use super::link::{CODE_CLOSED, Link};
use super::refusals::Refusals;
use super::settings;
use crate::control::Hello;

/// How long [`Endpoint::connect`] tries.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);

/// How long [`Endpoint::close`] waits for the peers to hear of it.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(250);

/// The UDP side of one process. Cheap to clone; when the last clone is
/// dropped, its links are closed.
#[derive(Clone)]
pub struct Endpoint(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
    accepted: tokio::sync::Mutex<mpsc::Receiver<(Link, Hello)>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// What dialling and accepting have in common.
pub(super) struct Shared {
    pub(super) quinn: quinn::Endpoint,
    pub(super) refusals: Refusals,
    pub(super) fingerprint: String,
    hello: Mutex<Arc<Hello>>,
}

impl Shared {
    pub(super) fn hello(&self) -> Arc<Hello> {
        self.hello.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn close(&self) {
        self.quinn.close(CODE_CLOSED, b"the peer's process ends");
    }
}

impl Endpoint {
    /// Takes over a bound socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the system says about the socket.
    pub fn new(socket: UdpSocket, key: &ClusterKey, hello: Hello) -> io::Result<Self> {
        settings::enlarge_buffers(&socket);
        let local = socket.local_addr()?;
        let (client, server) = settings::sides(key);
        let mut quinn = quinn::Endpoint::new(
            settings::endpoint(key, local),
            Some(server),
            socket,
            Arc::new(quinn::TokioRuntime),
        )?;
        quinn.set_default_client_config(client);
        let shared = Arc::new(Shared {
            quinn,
            refusals: Refusals::default(),
            fingerprint: key.fingerprint(),
            hello: Mutex::new(Arc::new(hello)),
        });
        let (sender, accepted) = mpsc::channel(accept::BACKLOG);
        tokio::spawn(accept::run(shared.clone(), sender));
        Ok(Self(Arc::new(Owner { shared, accepted: tokio::sync::Mutex::new(accepted) })))
    }

    /// What links made from now on say first.
    pub fn set_hello(&self, hello: Hello) {
        *self.0.shared.hello.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(hello);
    }

    /// The address of the socket.
    ///
    /// # Errors
    /// What the system says about the socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.shared.quinn.local_addr()
    }

    /// Dials a peer for up to a second; returns the link and what the peer
    /// said.
    ///
    /// # Errors
    /// [`ConnectError`]; after [`ConnectError::retry_after`] it may be tried
    /// again.
    pub async fn connect(&self, addr: SocketAddr) -> Result<(Link, Hello), ConnectError> {
        self.connect_with_timeout(addr, CONNECT_TIMEOUT).await
    }

    /// As [`connect`](Self::connect), for another time.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub async fn connect_with_timeout(
        &self,
        addr: SocketAddr,
        timeout: Duration,
    ) -> Result<(Link, Hello), ConnectError> {
        dial::connect(&self.0.shared, addr, timeout).await
    }

    /// The next peer that dialled us, proved its key and said hello; `None`
    /// once the endpoint is closed.
    pub async fn accept(&self) -> Option<(Link, Hello)> {
        self.0.accepted.lock().await.recv().await
    }

    /// Closes all links and waits, briefly, until the peers have heard.
    pub async fn close(&self) {
        self.0.shared.close();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.0.shared.quinn.wait_idle()).await;
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({:?})", self.local_addr())
    }
}
