//! The side that is dialled.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionError, Incoming};
use tokio::sync::{Semaphore, mpsc};

use super::endpoint::Shared;
use super::handshake::{self, Setback};
use super::link::{Link, describe};
use super::tls;
use crate::control::Hello;

/// Links that are ready and not yet taken by the caller.
pub(super) const BACKLOG: usize = 64;

/// Handshakes at a time. Beyond half of them a peer must first show that it
/// receives at the address it sends from; beyond all it is not heard, and
/// repeats itself.
const MAX_HANDSHAKES: usize = 64;

/// Connections at a time, of all kinds.
const MAX_CONNECTIONS: usize = 1024;

/// From the first packet to a link that the caller has taken.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(1000);

/// Accepts until the endpoint is closed. Each handshake is a task of its own,
/// so that a peer which stops halfway delays nobody.
pub(super) async fn run(shared: Arc<Shared>, links: mpsc::Sender<(Link, Hello)>) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    while let Some(incoming) = shared.quinn.accept().await {
        if shared.quinn.open_connections() >= MAX_CONNECTIONS {
            shared.refusals.warn(incoming.remote_address(), "too many connections");
            incoming.refuse();
            continue;
        }
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.ignore();
            continue;
        };
        let is_busy = handshakes.available_permits() < MAX_HANDSHAKES / 2;
        if is_busy && !incoming.remote_address_validated() {
            if let Err(error) = incoming.retry() {
                error.into_incoming().ignore();
            }
            continue;
        }
        let (shared, links) = (shared.clone(), links.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let remote = incoming.remote_address();
            let link = answer(&shared, incoming);
            let done = async {
                if let Some(link) = link.await {
                    // Fails when the endpoint is gone, and the link with it.
                    let _ = links.send(link).await;
                }
            };
            if tokio::time::timeout(HANDSHAKE_TIMEOUT, done).await.is_err() {
                tracing::debug!(%remote, "a peer did not finish its handshake in time");
            }
        });
    }
}

async fn answer(shared: &Shared, incoming: Incoming) -> Option<(Link, Hello)> {
    let remote = incoming.remote_address();
    let connection = match incoming.await {
        Ok(connection) => connection,
        Err(error) => {
            refused(shared, remote, &error);
            return None;
        }
    };
    match handshake::exchange(connection, &shared.hello()).await {
        Ok(link) => Some(link),
        Err(Setback::Refused(reason)) => {
            shared.refusals.warn(remote, &reason);
            None
        }
        Err(Setback::Lost(error)) => {
            tracing::debug!(%remote, reason = describe(&error), "a peer left before its hello");
            None
        }
    }
}

fn refused(shared: &Shared, remote: SocketAddr, error: &ConnectionError) {
    match error {
        error if tls::is_key_refusal(error) => {
            let why = format!(
                "it has a different cluster.key (ours has fingerprint {})",
                shared.fingerprint
            );
            shared.refusals.warn(remote, &why);
        }
        error if tls::alert(error).is_some() => {
            shared
                .refusals
                .warn(remote, &format!("it does not prove that it has our key: {error}"));
        }
        // A dialler lets go of its other attempts once one has succeeded.
        other => tracing::debug!(%remote, reason = describe(other), "a handshake came to nothing"),
    }
}
