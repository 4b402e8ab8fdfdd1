//! This repository's core.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::{
    Body, Config, Entry, Envelope, HardState, Membership, Node, NodeId, Output, Payload, Restored,
    SnapshotMeta,
};

use super::{Cluster, KEPT_ENTRIES, MAX_APPEND_BYTES, PAYLOAD_BYTES};

#[derive(Clone, Debug)]
struct Command(Bytes);

impl Payload for Command {
    fn size(&self) -> usize {
        self.0.len()
    }
}

struct Replica {
    node: Node<Command>,
    output: Output<Command>,
    disk: VecDeque<Entry<Command>>,
    applied: u64,
    applied_bytes: u64,
}

/// Three nodes of this repository's core.
pub struct Ours {
    replicas: Vec<Replica>,
    queue: VecDeque<Envelope<Command>>,
    now: u64,
}

impl Replica {
    fn new(id: u64) -> Self {
        let voters = (1..=3).map(|id| (NodeId(id), b"".as_slice().into()));
        let membership = Membership::of_voters(voters);
        let config = Config {
            cache_bytes: KEPT_ENTRIES * PAYLOAD_BYTES,
            max_append_bytes: MAX_APPEND_BYTES,
            ..Config::new(NodeId(id), id)
        };
        let restored = Restored {
            hard_state: HardState::default(),
            snapshot: SnapshotMeta { membership, ..SnapshotMeta::default() },
            runs: Vec::new(),
            memberships: Vec::new(),
            entries: Vec::new(),
            commit: 0,
            floor: None,
        };
        Replica {
            node: Node::new(0, config, restored),
            output: Output::default(),
            disk: VecDeque::new(),
            applied: 0,
            applied_bytes: 0,
        }
    }

    /// One turn, again while the disk makes more possible.
    fn turn(&mut self, now: u64, queue: &mut VecDeque<Envelope<Command>>) {
        loop {
            let out = &mut self.output;
            self.node.take_output(now, out);
            queue.extend(out.send.drain(..));
            for entry in out.committed.drain(..) {
                if let Body::Command(command) = &entry.body {
                    self.applied += 1;
                    self.applied_bytes += command.0.len() as u64;
                }
            }
            out.events.clear();
            let Some(persist) = out.persist.take() else { return };
            self.disk.extend(persist.entries);
            if self.disk.len() > 2 * KEPT_ENTRIES {
                self.disk.drain(..KEPT_ENTRIES);
            }
            self.node.synced(now, persist.mark);
        }
    }
}

impl Ours {
    fn settle(&mut self) {
        while let Some(envelope) = self.queue.pop_front() {
            let at = envelope.to.0 as usize - 1;
            self.replicas[at].node.step(self.now, envelope);
            self.replicas[at].turn(self.now, &mut self.queue);
        }
    }

    /// Whatever node 1 has been told to do, done.
    fn run(&mut self) {
        self.replicas[0].turn(self.now, &mut self.queue);
        self.settle();
    }
}

impl Cluster for Ours {
    fn new() -> Self {
        let replicas = (1..=3).map(Replica::new).collect();
        let mut cluster = Ours { replicas, queue: VecDeque::new(), now: 0 };
        cluster.replicas[0].node.campaign(0);
        cluster.run();
        assert!(cluster.replicas[0].node.is_leader(), "the only candidate wins");
        cluster
    }

    fn replicate(&mut self, count: u64, batch: u64) {
        let goal = self.replicas[0].applied + count;
        let payload = Command(Bytes::from(vec![7; PAYLOAD_BYTES]));
        for _ in 0..count / batch {
            self.now += 10;
            for _ in 0..batch {
                let accepted = self.replicas[0].node.propose(self.now, payload.clone());
                assert!(accepted.is_ok(), "the leader accepts");
            }
            self.run();
        }
        // The others learn of the last commits with a heartbeat.
        self.now += self.replicas[0].node.config().heartbeat_us;
        self.replicas[0].node.tick(self.now);
        self.run();
        for replica in &self.replicas {
            assert_eq!(replica.applied, goal, "every node has every entry");
            assert_eq!(replica.applied_bytes, goal * PAYLOAD_BYTES as u64);
        }
    }
}
