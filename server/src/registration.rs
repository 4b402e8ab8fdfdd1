//! Registering with the load balancers, and reporting to them.
//!
//! One task for each load balancer: it dials, reports at once, on every
//! change and each [`REPORT_INTERVAL`], and dials again when the link is lost.
//! What the load balancer says goes to the driver's queue. A load balancer that is
//! away stops nobody.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::control::{Hello, Party, Report, ToLb, ToServer};
use common::limits::REPORT_INTERVAL;
use common::udp::{ConnectError, Endpoint, Lane, Link, Receive};
use tokio::sync::{mpsc, watch};

use crate::config::Progress;
use crate::shell::ProgressFn;
use crate::shell::inbox::{Inbox, Input, LbLink};

/// Pause after a link was lost or an attempt failed.
const REDIAL_PAUSE: Duration = Duration::from_millis(50);

/// Without an answer for so long, whoever started the server is told. A
/// little under the five seconds after which `addsrv` gives up.
const TELL_AFTER: Duration = Duration::from_millis(4000);

/// Links to load balancers so far, for their numbers.
static LINKS: AtomicU64 = AtomicU64::new(0);

struct LbReceiver {
    inbox: Arc<Inbox>,
    lb: SocketAddr,
    link: LbLink,
}

impl Receive for LbReceiver {
    fn frame(&self, lane: Lane, frame: Bytes) {
        match lane {
            Lane::Control => {}
            Lane::Request => {
                let link = self.link.clone();
                return self.inbox.push(Input::Routed { link, frame });
            }
            Lane::Urgent | Lane::Bulk | Lane::Snapshot => {
                return self.link.link.close("a load balancer has nothing to say on this lane");
            }
        }
        match serde_json::from_slice::<ToServer>(&frame) {
            Ok(message) => self.inbox.push(Input::FromLb { lb: self.lb, message }),
            Err(error) => {
                tracing::warn!(lb = %self.lb, %error, "message of a load balancer refused");
            }
        }
    }

    fn closed(&self, reason: String) {
        tracing::info!(lb = %self.lb, reason, "load balancer lost");
        self.inbox.push(Input::LbLost(self.link.number));
    }
}

/// A load balancer of this server.
#[derive(Clone)]
pub(crate) struct Lb {
    pub(crate) address: SocketAddr,
    /// Only one of a server's list may found a cluster: [`crate::config::founder`].
    pub(crate) may_found: bool,
    /// Where the key is kept that it must have as well.
    pub(crate) key_file: PathBuf,
}

/// Keeps the server registered at `lb` for as long as it runs.
pub(crate) async fn keep_registered(
    lb: Lb,
    endpoint: Endpoint,
    inbox: Arc<Inbox>,
    mut reports: watch::Receiver<Report>,
    mut messages: mpsc::UnboundedReceiver<ToLb>,
    progress: ProgressFn,
) {
    let Lb { address: lb, may_found, key_file } = lb;
    let started = Instant::now();
    let mut told = false;
    loop {
        match endpoint.connect(lb).await {
            Ok((link, hello)) if is_lb(&hello) => {
                told = true;
                tracing::info!(%lb, "load balancer reached");
                let number = LINKS.fetch_add(1, Ordering::Relaxed);
                let known = LbLink { number, link: link.clone() };
                link.start(Arc::new(LbReceiver { inbox: Arc::clone(&inbox), lb, link: known }));
                report_while_open(&link, may_found, &mut reports, &mut messages).await;
            }
            Ok((link, _)) => {
                link.close("a load balancer was expected at this address");
                tell(&progress, &mut told, lb, true, format!("{lb} is no load balancer"));
            }
            Err(error) => {
                tracing::debug!(%lb, %error, "load balancer not reached");
                if let Some(why) = refusal(&error, &key_file) {
                    tell(&progress, &mut told, lb, true, why);
                } else if started.elapsed() > TELL_AFTER {
                    let why = format!("load balancer {lb} did not answer: {error}");
                    tell(&progress, &mut told, lb, false, why);
                }
            }
        }
        tokio::time::sleep(REDIAL_PAUSE).await;
    }
}

fn is_lb(hello: &Hello) -> bool {
    matches!(hello.from, Party::LoadBalancer { .. })
}

/// Why a load balancer that answers is none for this server; to wait for it
/// would be in vain.
fn refusal(error: &ConnectError, key_file: &Path) -> Option<String> {
    match error {
        ConnectError::DifferentKey { addr, fingerprint } => Some(format!(
            "load balancer {addr} has another cluster key than {} (fingerprint {fingerprint}): copy \
             cluster.key from a host of the cluster",
            key_file.display()
        )),
        ConnectError::Refused { .. } => Some(format!("load balancer {error}")),
        _ => None,
    }
}

fn tell(progress: &ProgressFn, told: &mut bool, lb: SocketAddr, refuses: bool, why: String) {
    if !*told {
        *told = true;
        tracing::warn!(why, "not registered");
        progress(Progress::NotRegistered { lb, refuses, why });
    }
}

async fn report_while_open(
    link: &Link,
    may_found: bool,
    reports: &mut watch::Receiver<Report>,
    messages: &mut mpsc::UnboundedReceiver<ToLb>,
) {
    let report = |report: &Report| ToLb::Report(Box::new(Report { may_found, ..report.clone() }));
    let mut message = report(&reports.borrow_and_update());
    loop {
        if let Err(error) = send(link, &message) {
            return tracing::warn!(lb = %link.remote(), %error, "report not sent");
        }
        message = tokio::select! {
            Some(message) = messages.recv() => message,
            Ok(()) = reports.changed() => report(&reports.borrow_and_update()),
            () = tokio::time::sleep(REPORT_INTERVAL) => report(&reports.borrow()),
            _ = link.closed() => return,
        };
    }
}

fn send(link: &Link, message: &ToLb) -> Result<(), common::udp::SendError> {
    let json = serde_json::to_vec(message).unwrap_or_default();
    link.send(Lane::Control, &json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_key_is_told_with_its_file_and_silence_is_not() {
        let lb = SocketAddr::from(([127, 0, 0, 1], 5001));
        let key = Path::new("/data/cluster.key");
        let wrong = ConnectError::DifferentKey { addr: lb, fingerprint: "abcd".to_owned() };
        let why = refusal(&wrong, key).unwrap();
        for text in ["127.0.0.1:5001", "/data/cluster.key", "abcd", "another cluster key"] {
            assert!(why.contains(text), "no `{text}` in {why}");
        }
        let old = ConnectError::Refused { addr: lb, why: "update the older one".to_owned() };
        assert!(refusal(&old, key).unwrap().contains("update the older one"));
        let silent = ConnectError::Timeout { addr: lb, after: Duration::from_secs(1) };
        assert_eq!(refusal(&silent, key), None);
    }
}
