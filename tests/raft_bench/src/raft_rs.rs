//! raft-rs, the core of TiKV.

use std::collections::VecDeque;

use bytes::Bytes;
use raft_rs::eraftpb::{Entry, Message};
use raft_rs::storage::MemStorage;
use raft_rs::{Config, RawNode, StateRole};

use super::{Cluster, KEPT_ENTRIES, MAX_APPEND_BYTES, PAYLOAD_BYTES};

struct Replica {
    node: RawNode<MemStorage>,
    applied: u64,
    applied_bytes: u64,
    applied_index: u64,
    compacted: u64,
}

/// Three nodes of raft-rs.
pub struct RaftRs {
    replicas: Vec<Replica>,
    queue: VecDeque<Message>,
}

impl Replica {
    fn new(id: u64) -> Self {
        let storage = MemStorage::new_with_conf_state((vec![1, 2, 3], vec![]));
        let config = Config {
            id,
            election_tick: 10,
            heartbeat_tick: 1,
            max_size_per_msg: MAX_APPEND_BYTES as u64,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            // Proposals of a turn leave in one message; without it each is
            // sent alone, which is several times slower.
            batch_append: true,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, storage, &logger).expect("the settings are sound");
        Replica { node, applied: 0, applied_bytes: 0, applied_index: 0, compacted: 0 }
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.applied_index = entry.index;
            // What a new leader begins with is empty.
            if !entry.data.is_empty() {
                self.applied += 1;
                self.applied_bytes += entry.data.len() as u64;
            }
        }
    }

    /// One turn, again while there is more to do.
    fn turn(&mut self, queue: &mut VecDeque<Message>) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            queue.extend(ready.take_messages());
            self.apply(ready.take_committed_entries());
            {
                let mut disk = self.node.raft.raft_log.store.wl();
                disk.append(ready.entries()).expect("entries are consecutive");
                if let Some(state) = ready.hs() {
                    disk.set_hardstate(state.clone());
                }
            }
            queue.extend(ready.take_persisted_messages());
            let mut light = self.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.node.raft.raft_log.store.wl().mut_hard_state().commit = commit;
            }
            queue.extend(light.take_messages());
            self.apply(light.take_committed_entries());
            self.node.advance_apply();
        }
        let kept = KEPT_ENTRIES as u64;
        if self.applied_index > self.compacted + 2 * kept {
            self.compacted = self.applied_index - kept;
            let mut disk = self.node.raft.raft_log.store.wl();
            disk.compact(self.compacted).expect("what goes was applied");
        }
    }
}

impl RaftRs {
    fn run(&mut self) {
        self.replicas[0].turn(&mut self.queue);
        while let Some(message) = self.queue.pop_front() {
            let at = message.to as usize - 1;
            self.replicas[at].node.step(message).expect("messages of peers are welcome");
            self.replicas[at].turn(&mut self.queue);
        }
    }
}

impl Cluster for RaftRs {
    fn new() -> Self {
        let replicas = (1..=3).map(Replica::new).collect();
        let mut cluster = RaftRs { replicas, queue: VecDeque::new() };
        cluster.replicas[0].node.campaign().expect("a voter may campaign");
        cluster.run();
        assert_eq!(cluster.replicas[0].node.raft.state, StateRole::Leader);
        cluster
    }

    fn replicate(&mut self, count: u64, batch: u64) {
        let goal = self.replicas[0].applied + count;
        let payload = Bytes::from(vec![7; PAYLOAD_BYTES]);
        for _ in 0..count / batch {
            for _ in 0..batch {
                propose(&mut self.replicas[0].node, payload.clone());
            }
            self.run();
        }
        for replica in &self.replicas {
            assert_eq!(replica.applied, goal, "every node has every entry");
            assert_eq!(replica.applied_bytes, goal * PAYLOAD_BYTES as u64);
        }
    }
}

/// As `RawNode::propose`, but without its copy of the payload.
fn propose(node: &mut RawNode<MemStorage>, data: Bytes) {
    let mut message = Message::default();
    message.set_msg_type(raft_rs::eraftpb::MessageType::MsgPropose);
    message.from = node.raft.id;
    let entry = Entry { data, ..Entry::default() };
    message.set_entries(vec![entry].into());
    node.raft.step(message).expect("the leader accepts");
}
