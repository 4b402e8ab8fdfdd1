//! Log lines about refused peers, not more than anybody wants to read.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One address is mentioned so often at most.
const INTERVAL: Duration = Duration::from_secs(10);

/// Addresses remembered. When as many are refused within one interval, the
/// rest goes unmentioned.
const MAX_ADDRESSES: usize = 256;

/// Remembers who was mentioned when.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<SocketAddr, Instant>>);

impl Refusals {
    /// Logs that a peer was refused, unless it was mentioned a moment ago.
    pub(super) fn warn(&self, remote: SocketAddr, why: &str) {
        if self.is_due(remote, Instant::now()) {
            tracing::warn!(%remote, "refused a peer: {why}");
        }
    }

    fn is_due(&self, remote: SocketAddr, now: Instant) -> bool {
        let mut mentioned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if mentioned.len() >= MAX_ADDRESSES {
            mentioned.retain(|_, at| now.duration_since(*at) < INTERVAL);
        }
        let room = mentioned.len() < MAX_ADDRESSES;
        match mentioned.get_mut(&remote) {
            Some(at) if now.duration_since(*at) < INTERVAL => false,
            Some(at) => {
                *at = now;
                true
            }
            None if room => {
                mentioned.insert(remote, now);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mentions_an_address_once_per_interval_and_not_too_many() {
        let refusals = Refusals::default();
        let now = Instant::now();
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert!(refusals.is_due(at(1), now));
        assert!(!refusals.is_due(at(1), now + INTERVAL / 2));
        assert!(refusals.is_due(at(1), now + INTERVAL));
        for port in 2..5000 {
            refusals.is_due(at(port), now + INTERVAL);
        }
        assert_eq!(refusals.0.lock().unwrap().len(), MAX_ADDRESSES);
        assert!(!refusals.is_due(at(6000), now + INTERVAL));
        assert!(refusals.is_due(at(6000), now + INTERVAL * 2));
    }
}
