//! From an authenticated QUIC connection to a link: both sides say hello.

use quinn::{Connection, ConnectionError};
use serde::Deserialize;

use super::lanes::Lane;
use super::link::{CODE_RULES, CODE_VERSION, Link};
use super::read::{self, Fault};
use crate::control::Hello;

/// Longest hello in bytes.
const MAX_HELLO_BYTES: usize = 16 * 1024;

/// Why two authenticated peers have no link.
pub(super) enum Setback {
    /// The connection ended first.
    Lost(ConnectionError),
    /// We have closed it with this reason.
    Refused(String),
}

/// What every version of a hello starts from.
#[derive(Deserialize)]
struct AnyHello {
    version: u32,
}

/// Says hello and waits for the peer's. Neither side waits for the other
/// before it speaks.
pub(super) async fn exchange(
    connection: Connection,
    ours: &Hello,
) -> Result<(Link, Hello), Setback> {
    let open = || async { connection.open_uni().await.map_err(Setback::Lost) };
    // In the order of `Lane::ALL`: the peer takes the first for control.
    let streams = [open().await?, open().await?, open().await?, open().await?, open().await?];
    let text = serde_json::to_vec(ours).expect("a hello is plain data");
    let link = Link::new(connection.clone(), streams, &text);
    let (code, reason) = match listen(&connection, &link, ours).await {
        Ok(theirs) => return Ok((link, theirs)),
        Err(Refusal::Version(reason)) => (CODE_VERSION, reason),
        Err(Refusal::Fault(Fault::Rules(reason))) => (CODE_RULES, reason),
        Err(Refusal::Fault(Fault::Lost)) => {
            return Err(Setback::Lost(connection.closed().await));
        }
    };
    link.inner().close(code, &reason);
    Err(Setback::Refused(reason))
}

enum Refusal {
    Version(String),
    Fault(Fault),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

async fn listen(connection: &Connection, link: &Link, ours: &Hello) -> Result<Hello, Refusal> {
    let mut control = connection.accept_uni().await.map_err(|_| Fault::Lost)?;
    let lane = read::lane(&mut control).await?;
    if lane != Lane::Control {
        return Err(Fault::Rules(format!("the first stream is lane {lane:?}, not Control")).into());
    }
    let text = read::frame(&mut control, MAX_HELLO_BYTES).await?;
    let unreadable = |error: serde_json::Error| {
        Refusal::Fault(Fault::Rules(format!("the hello is unreadable: {error}")))
    };
    // The version first: another one may have another form.
    let AnyHello { version } = serde_json::from_slice(&text).map_err(unreadable)?;
    if version != ours.version {
        return Err(Refusal::Version(format!(
            "one side speaks protocol version {version}, the other {}: update the older one",
            ours.version
        )));
    }
    let theirs = serde_json::from_slice(&text).map_err(unreadable)?;
    link.inner().keep_control(control);
    Ok(theirs)
}
