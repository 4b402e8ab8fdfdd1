//! The client port: answers questions about the cluster from the balancer's
//! view, there and then.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use common::front_end::{Batch, Counters, Service, answer_local};
use common::memcached::{Reply, Request, write_end};
use tokio::time::Instant;

use crate::balancer::Balancer;
use crate::stats;

/// The answer to every command that needs the keystore, until the client port
/// routes them to the leader ([`ClientPort::answer`] is the place).
const NO_ROUTING: &str =
    "SERVER_ERROR this load balancer does not route yet, ask get-servers for the leader";

/// Answers what clients ask a load balancer.
#[derive(Debug)]
pub(crate) struct ClientPort {
    pub(crate) balancer: Arc<Mutex<Balancer>>,
    /// The balancer's time zero.
    pub(crate) started: Instant,
    pub(crate) counters: Arc<Counters>,
}

impl Service for ClientPort {
    fn call(&self, mut batch: Batch) {
        for request in &batch.requests {
            self.answer(request, &mut batch.out);
        }
        batch.finish();
    }
}

impl ClientPort {
    fn answer(&self, request: &Request, out: &mut BytesMut) {
        if answer_local(request, out) {
            return;
        }
        match request {
            Request::Discover { elasticache } => {
                let balancer = self.balancer.lock().unwrap_or_else(PoisonError::into_inner);
                let view = balancer.view();
                out.extend_from_slice(if *elasticache { &view.config } else { &view.get_servers });
            }
            Request::Stats { what } => self.stats(what, out),
            _ if request.noreply() => {}
            _ => Reply::Error(NO_ROUTING).write(out),
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
                let counters = &self.counters;
                let lines = [
                    ("curr_connections", counters.current_connections()),
                    ("total_connections", counters.total_connections()),
                    ("rejected_connections", counters.rejected_connections()),
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
        let port = ClientPort {
            balancer: Arc::new(Mutex::new(Balancer::new(settings, Memory::default()))),
            started: Instant::now(),
            counters: Arc::default(),
        };
        let mut out = BytesMut::new();
        port.answer(request, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn answers_what_it_knows_and_refuses_what_it_does_not_do() {
        assert_eq!(answer(&Request::Discover { elasticache: false }), "end\r\n");
        let config = "CONFIG cluster 0 3\r\n7\n\n\r\nEND\r\n";
        assert_eq!(answer(&Request::Discover { elasticache: true }), config);
        assert!(answer(&Request::Version).starts_with("VERSION 1."));
        assert_eq!(answer(&Request::Verbosity { noreply: false }), "OK\r\n");
        assert_eq!(answer(&Request::Quit), "");

        let get = Request::Get { keys: vec![Bytes::from_static(b"k")], with_cas: false };
        assert_eq!(answer(&get), format!("{NO_ROUTING}\r\n"));
        let delete = |noreply| Request::Delete { key: Bytes::from_static(b"k"), noreply };
        assert_eq!(answer(&delete(false)), format!("{NO_ROUTING}\r\n"));
        assert_eq!(answer(&delete(true)), "");
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
