//! The side that dials.

use std::net::SocketAddr;
use std::time::Duration;

use quinn::{Connection, ConnectionError};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};

use super::endpoint::Shared;
use super::error::ConnectError;
use super::handshake::{self, Setback};
use super::link::{CODE_SUPERSEDED, CODE_VERSION, Link, describe};
use super::settings::SILENCE_LIMIT;
use super::tls::{self, SERVER_NAME};
use crate::control::Hello;

/// A fresh handshake is started so often until one is answered. QUIC itself
/// repeats the first packet ever more slowly, and a handshake that was under
/// way when the peer restarted is never answered. In between, QUIC's own first
/// repetition falls: the peer hears something at least every 60 ms.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(100);

/// Handshakes under way at a time: as many as start before the first one is
/// given up.
const MAX_ATTEMPTS: usize = (SILENCE_LIMIT.as_millis() / ATTEMPT_INTERVAL.as_millis()) as usize;

/// At least so long for the hellos once the handshake is done.
const HELLO_TIMEOUT: Duration = Duration::from_millis(500);

/// Dials until there is a link or the time is over.
pub(super) async fn connect(
    shared: &Shared,
    addr: SocketAddr,
    timeout: Duration,
) -> Result<(Link, Hello), ConnectError> {
    let deadline = Instant::now() + timeout;
    let result = match dial(shared, addr, deadline, timeout).await {
        Ok(connection) => greet(shared, addr, connection, deadline, timeout).await,
        Err(error) => Err(error),
    };
    if let Err(error @ (ConnectError::DifferentKey { .. } | ConnectError::Refused { .. })) = &result
    {
        shared.refusals.warn(addr, &error.to_string());
    }
    result
}

/// Authenticated QUIC: staggered attempts, the first to succeed wins. The
/// others have said nothing yet, so the peer never hands them to its caller.
async fn dial(
    shared: &Shared,
    addr: SocketAddr,
    deadline: Instant,
    timeout: Duration,
) -> Result<Connection, ConnectError> {
    let mut attempts = JoinSet::new();
    let mut starts = interval(ATTEMPT_INTERVAL);
    starts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        tokio::select! {
            _ = starts.tick(), if attempts.len() < MAX_ATTEMPTS => {
                let connecting = shared
                    .quinn
                    .connect(addr, SERVER_NAME)
                    .map_err(|error| unusable(addr, &error))?;
                attempts.spawn(connecting);
            }
            Some(done) = attempts.join_next() => match done {
                Ok(Ok(connection)) => {
                    supersede(attempts);
                    return Ok(connection);
                }
                Ok(Err(error)) => match failure(shared, addr, &error) {
                    Some(failure @ ConnectError::Broken { .. }) => last = Some(failure),
                    Some(final_failure) => return Err(final_failure),
                    None => {}
                },
                // Tasks are neither cancelled nor do they panic before that.
                Err(_) => {}
            },
            () = sleep_until(deadline) => {
                return Err(last.unwrap_or(ConnectError::Timeout { addr, after: timeout }));
            }
        }
    }
}

/// Ends the attempts that came second. Those that are still under way are
/// dropped, which tells the peer as well.
fn supersede(mut attempts: JoinSet<Result<Connection, ConnectionError>>) {
    while let Some(done) = attempts.try_join_next() {
        if let Ok(Ok(connection)) = done {
            connection.close(CODE_SUPERSEDED, b"another attempt was faster");
        }
    }
}

async fn greet(
    shared: &Shared,
    addr: SocketAddr,
    connection: Connection,
    deadline: Instant,
    timeout: Duration,
) -> Result<(Link, Hello), ConnectError> {
    let deadline = deadline.max(Instant::now() + HELLO_TIMEOUT);
    match timeout_at(deadline, handshake::exchange(connection, &shared.hello())).await {
        Ok(Ok(link)) => Ok(link),
        Ok(Err(Setback::Refused(why))) => Err(ConnectError::Refused { addr, why }),
        Ok(Err(Setback::Lost(error))) => {
            Err(failure(shared, addr, &error)
                .unwrap_or(ConnectError::Timeout { addr, after: timeout }))
        }
        Err(_) => Err(ConnectError::Timeout { addr, after: timeout }),
    }
}

/// What a failed connection means for the caller; `None` if nobody answered.
fn failure(shared: &Shared, addr: SocketAddr, error: &ConnectionError) -> Option<ConnectError> {
    match error {
        ConnectionError::TimedOut => None,
        ConnectionError::LocallyClosed => Some(ConnectError::Closed),
        error if tls::is_key_refusal(error) => {
            Some(ConnectError::DifferentKey { addr, fingerprint: shared.fingerprint.clone() })
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == CODE_VERSION => {
            Some(ConnectError::Refused { addr, why: describe(error) })
        }
        other => Some(ConnectError::Broken { addr, why: describe(other) }),
    }
}

fn unusable(addr: SocketAddr, error: &quinn::ConnectError) -> ConnectError {
    match error {
        quinn::ConnectError::EndpointStopping => ConnectError::Closed,
        other => ConnectError::Unusable { addr, why: other.to_string() },
    }
}
