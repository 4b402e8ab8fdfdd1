//! How many entries a second the core replicates through three nodes in one
//! thread: `cargo run --release -p store-raft --example throughput`.
//!
//! Messages go from queue to queue, disks are instant. What is measured is
//! the core: every entry is proposed, sent to two peers, written and handed
//! out on three nodes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use store_raft::{
    Config, Envelope, HardState, Membership, Node, NodeId, Output, Payload, Restored, SnapshotMeta,
};

const ENTRIES: u64 = 4_000_000;
const PAYLOAD_BYTES: usize = 100;

#[derive(Clone, Debug)]
struct Bytes(Arc<[u8]>);

impl Payload for Bytes {
    fn size(&self) -> usize {
        self.0.len()
    }
}

struct Cluster {
    nodes: Vec<Node<Bytes>>,
    outputs: Vec<Output<Bytes>>,
    queue: VecDeque<Envelope<Bytes>>,
    now: u64,
    committed: [u64; 3],
}

impl Cluster {
    fn new() -> Self {
        let voters = (1..=3).map(|id| (NodeId(id), Arc::from(&b""[..])));
        let membership = Membership::of_voters(voters);
        let node = |id| {
            let mut config = Config::new(NodeId(id), id);
            config.cache_bytes = 1024 * 1024;
            let snapshot = SnapshotMeta { index: 0, term: 0, membership: membership.clone() };
            let restored = Restored {
                hard_state: HardState::default(),
                snapshot,
                runs: Vec::new(),
                memberships: Vec::new(),
                entries: Vec::new(),
                commit: 0,
                floor: None,
            };
            Node::new(0, config, restored)
        };
        Cluster {
            nodes: (1..=3).map(node).collect(),
            outputs: (0..3).map(|_| Output::default()).collect(),
            queue: VecDeque::new(),
            now: 0,
            committed: [0; 3],
        }
    }

    /// One turn of one node, again while its disk makes more possible.
    fn turn(&mut self, at: usize) {
        loop {
            let (node, out) = (&mut self.nodes[at], &mut self.outputs[at]);
            node.take_output(self.now, out);
            self.queue.extend(out.send.drain(..));
            self.committed[at] += out.committed.len() as u64;
            out.committed.clear();
            out.events.clear();
            let Some(persist) = out.persist.take() else { return };
            node.synced(self.now, persist.mark);
        }
    }

    fn settle(&mut self) {
        while let Some(envelope) = self.queue.pop_front() {
            let at = envelope.to.0 as usize - 1;
            self.nodes[at].step(self.now, envelope);
            self.turn(at);
        }
    }
}

fn measure(batch: u64) -> f64 {
    let mut cluster = Cluster::new();
    cluster.nodes[0].campaign(0);
    cluster.turn(0);
    cluster.settle();
    assert!(cluster.nodes[0].is_leader());
    let payload = Bytes(Arc::from(vec![7; PAYLOAD_BYTES]));
    let begun = Instant::now();
    let mut proposed = 0;
    while proposed < ENTRIES {
        cluster.now += 10;
        for _ in 0..batch {
            let accepted = cluster.nodes[0].propose(cluster.now, payload.clone());
            assert!(accepted.is_ok(), "the leader accepts");
        }
        proposed += batch;
        cluster.turn(0);
        cluster.settle();
    }
    // The followers learn of the last commits with a heartbeat.
    cluster.now += 60_000;
    cluster.nodes[0].tick(cluster.now);
    cluster.turn(0);
    cluster.settle();
    let seconds = begun.elapsed().as_secs_f64();
    assert!(cluster.committed.iter().all(|&count| count >= proposed), "all nodes have all");
    proposed as f64 / seconds
}

fn main() {
    for batch in [1, 16, 64, 256, 1024] {
        println!("batches of {batch:>4}: {:>10.0} entries/s", measure(batch));
    }
}
