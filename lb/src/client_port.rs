//! The client port: answers questions about the cluster from the balancer's
//! view, there and then, and routes what needs the keystore.

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use common::front_end::{Batch, Counters, Service};
use common::memcached::{Request, write_end};
use common::udp::Link;
use tokio::time::Instant;

use crate::balancer::Balancer;
use crate::config::Policy;
use crate::routing::{Job, Router, proceed};
use crate::stats;

/// Answers what clients ask a load balancer.
pub(crate) struct ClientPort {
    pub(crate) balancer: Arc<Mutex<Balancer>>,
    router: Mutex<Router<Link>>,
    policy: Policy,
    /// The balancer's time zero.
    started: Instant,
    counters: Arc<Counters>,
}

impl Service for ClientPort {
    fn call(&self, batch: Batch) {
        let now = self.now();
        let deadline = now + batch.time_left();
        self.proceed(now, Some(Job::new(batch, deadline)));
    }
}

impl ClientPort {
    pub(crate) fn new(
        balancer: Arc<Mutex<Balancer>>,
        policy: Policy,
        started: Instant,
        counters: Arc<Counters>,
    ) -> Self {
        let router = Mutex::new(Router::new(policy, rand::random()));
        ClientPort { balancer, router, policy, started, counters }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Tells the router something, and gives everybody who is answered by
    /// that the answer.
    pub(crate) fn with_router(&self, act: impl FnOnce(Duration, &mut Router<Link>)) {
        let now = self.now();
        let mut router = self.router();
        act(now, &mut router);
        let ready = router.pop_ready();
        drop(router);
        self.proceed(now, ready);
    }

    /// Goes on with a job, and with all others whose run was answered
    /// meanwhile. Clients get their answers outside the lock.
    fn proceed(&self, now: Duration, next: Option<Job>) {
        let own = |request: &Request, out: &mut BytesMut| self.answer(request, out);
        proceed(next, own, |job| self.router().exchange(now, job));
    }

    fn router(&self) -> MutexGuard<'_, Router<Link>> {
        self.router.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What only a load balancer can answer.
    fn answer(&self, request: &Request, out: &mut BytesMut) {
        match request {
            Request::Discover { elasticache } => {
                let mut balancer = self.balancer.lock().unwrap_or_else(PoisonError::into_inner);
                match elasticache {
                    true => out.extend_from_slice(&balancer.view().config),
                    false => balancer.get_servers(self.policy, out),
                }
            }
            Request::Stats { what } => self.stats(what, out),
            _ => {}
        }
    }

    fn stats(&self, what: &[u8], out: &mut BytesMut) {
        let balancer = self.balancer.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.started.elapsed();
        match what {
            b"" | b"cluster" => {
                let text = stats::stats(&balancer, now);
                drop(balancer);
                out.extend_from_slice(text.as_bytes());
            }
            b"events" => {
                let text = stats::events(&balancer, now);
                out.extend_from_slice(text.as_bytes());
            }
            b"connections" => {
                drop(balancer);
                let counters = &self.counters;
                let router = self.router();
                let (routed, (sent, parked)) = (router.routed, router.waiting());
                drop(router);
                let lines = [
                    ("curr_connections", counters.current_connections()),
                    ("total_connections", counters.total_connections()),
                    ("rejected_connections", counters.rejected_connections()),
                    ("routed_reads", routed.reads),
                    ("routed_writes", routed.writes),
                    ("retried", routed.retries),
                    ("waiting_sent", sent as u64),
                    ("waiting_parked", parked as u64),
                ];
                for (key, value) in lines {
                    // A buffer in memory takes everything.
                    let _ = write!(out, "STAT {key} {value}\r\n");
                }
                write_end(out);
            }
            _ => write_end(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::Settings;
    use crate::memory::Memory;
    use bytes::Bytes;
    use common::ids::ClusterId;

    fn answer(request: &Request) -> String {
        let settings = Settings {
            name: "lb-1".to_owned(),
            pid: 1,
            expect: 2,
            cluster_to_form: ClusterId(1),
            config_version: 7,
        };
        let balancer = Arc::new(Mutex::new(Balancer::new(settings, Memory::default())));
        let port = ClientPort::new(balancer, Policy::Leader, Instant::now(), Arc::default());
        let mut out = BytesMut::new();
        port.answer(request, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn answers_what_it_knows() {
        assert_eq!(answer(&Request::Discover { elasticache: false }), "end\r\n");
        let config = "CONFIG cluster 0 3\r\n7\n\n\r\nEND\r\n";
        assert_eq!(answer(&Request::Discover { elasticache: true }), config);
    }

    #[test]
    fn stats_by_what_is_asked() {
        let stats = |what: &'static str| {
            answer(&Request::Stats { what: Bytes::from_static(what.as_bytes()) })
        };
        assert!(stats("").starts_with("STAT lb.name lb-1\r\n"));
        assert_eq!(stats("cluster"), stats(""));
        assert_eq!(stats("events"), "END\r\n");
        assert!(stats("connections").starts_with("STAT curr_connections 0\r\n"));
        assert_eq!(stats("unheard of"), "END\r\n");
    }
}
