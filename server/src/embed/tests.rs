//! Replicas of one process.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use common::memcached::{Reply, StoreVerb};

use super::*;
use crate::command::{Command, Operation};

/// More than any test should ever need, less than anybody waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// Remembers its commands.
#[derive(Default)]
struct Words(Vec<String>);

impl StateMachine for Words {
    type Reply = usize;

    fn apply(&mut self, _index: Index, command: &[u8]) -> usize {
        self.0.push(String::from_utf8_lossy(command).into_owned());
        self.0.len()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.join(" ").into_bytes()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let text = std::str::from_utf8(snapshot).map_err(|error| error.to_string())?;
        self.0 = text.split_whitespace().map(str::to_owned).collect();
        Ok(())
    }
}

fn network(size: u64) -> Network {
    Network::in_process((1..=size).map(NodeId))
}

fn config(network: &Network) -> ReplicaConfig {
    let timings = Timings { deadline: PATIENCE, ..Timings::default() };
    ReplicaConfig { timings, snapshot_entries: 16, ..ReplicaConfig::new(network.clone()) }
}

fn start(network: &Network, id: u64, dir: Option<&Path>) -> Replica<Words> {
    let dir = dir.map(|dir| dir.join(id.to_string()));
    let config = ReplicaConfig { dir, ..config(network) };
    Replica::start(NodeId(id), config, Words::default()).unwrap()
}

/// Waits until `replica` sees what `wanted` says.
async fn wait<M: StateMachine>(replica: &Replica<M>, wanted: impl Fn(&Status) -> bool) -> Status {
    let mut changes = replica.changes();
    let waited = tokio::time::timeout(PATIENCE, changes.wait_for(wanted)).await;
    *waited.expect("in time").expect("the replica runs")
}

/// The leader that all of them follow.
async fn leader_of<'a>(replicas: &[&'a Replica<Words>]) -> &'a Replica<Words> {
    loop {
        let leader = replicas.iter().find(|replica| replica.state() == State::Leader);
        let id = leader.map(|leader| leader.id());
        if let Some(leader) = leader
            && replicas.iter().all(|replica| replica.leader() == id)
        {
            return leader;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn words(replica: &Replica<Words>) -> Vec<String> {
    replica.read(|words| words.0.clone()).await.unwrap()
}

async fn stop(replica: Replica<Words>) {
    replica.stop();
    replica.stopped().await.unwrap();
    assert_eq!(replica.state(), State::Stopped);
}

#[tokio::test]
async fn a_follower_names_the_leader_and_forwards_to_it() {
    let network = network(3);
    let replicas = [1, 2, 3].map(|id| start(&network, id, None));
    let [a, b, c] = &replicas;
    let leader = leader_of(&[a, b, c]).await;
    let follower = replicas.iter().find(|replica| replica.id() != leader.id()).unwrap();
    let refused = follower.propose("no").await.unwrap_err();
    assert_eq!(refused, ProposeError::NotLeader { leader: Some(leader.id()) });
    assert!(refused.to_string().contains(&leader.id().to_string()), "{refused}");
    assert_eq!(leader.propose("one").await, Ok(1));
    assert_eq!(follower.propose_anywhere("two").await, Ok(2));
    for replica in &replicas {
        assert_eq!(words(replica).await, ["one", "two"]);
    }
}

#[tokio::test]
async fn applied_commands_are_told_in_order_and_lost_ones_counted() {
    let network = network(1);
    let config = ReplicaConfig { applied_buffer: 4, ..config(&network) };
    let replica = Replica::start(NodeId(1), config, Words::default()).unwrap();
    let mut applied = replica.applied();
    wait(&replica, |status| status.state == State::Leader).await;
    for number in 0..3 {
        replica.propose(number.to_string()).await.unwrap();
    }
    for number in 0..3 {
        let command = applied.recv().await.unwrap();
        assert_eq!(command.command, Bytes::from(number.to_string()));
        // The leader's own first entry is no command.
        assert_eq!(command.index, number + 2);
    }
    for number in 0..9 {
        replica.propose(number.to_string()).await.unwrap();
    }
    let lagged = applied.recv().await.unwrap_err();
    assert!(matches!(lagged, tokio::sync::broadcast::error::RecvError::Lagged(5)), "{lagged}");
    assert_eq!(applied.recv().await.unwrap().command, "5");
}

#[tokio::test]
async fn who_was_cut_off_for_long_gets_a_snapshot() {
    let network = network(3);
    let replicas = [1, 2, 3].map(|id| start(&network, id, None));
    let [a, b, c] = &replicas;
    let leader = leader_of(&[a, b, c]).await;
    let away = replicas.iter().find(|replica| replica.id() != leader.id()).unwrap();
    network.isolate(away.id());
    // Far more than `snapshot_entries`: what it misses is gone from memory.
    for number in 0..100 {
        leader.propose(number.to_string()).await.unwrap();
    }
    assert!(away.applied_index() < 16);
    network.heal_all();
    let expected: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    assert_eq!(words(away).await, expected);
}

#[tokio::test]
async fn a_link_can_be_cut_one_way() {
    let network = network(2);
    let replicas = [1, 2].map(|id| start(&network, id, None));
    let [a, b] = &replicas;
    let leader = leader_of(&[a, b]).await;
    let follower = if leader.id() == a.id() { b } else { a };
    // The follower hears its leader, which hears nothing and so steps down.
    network.cut_one_way(follower.id(), leader.id());
    wait(leader, |status| status.state != State::Leader).await;
    network.heal(leader.id(), follower.id());
    leader_of(&[a, b]).await;
    assert_eq!(follower.propose_anywhere("again").await, Ok(1));
}

#[tokio::test]
async fn a_folder_brings_everything_back() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(3);
    let mut expected = Vec::new();
    for life in 0..3 {
        let replicas = [1, 2, 3].map(|id| start(&network, id, Some(folder.path())));
        for number in 0..20 {
            let word = format!("{life}-{number}");
            replicas[number % 3].propose_anywhere(word.clone()).await.unwrap();
            expected.push(word);
        }
        for replica in &replicas {
            assert_eq!(words(replica).await, expected);
        }
        for replica in replicas {
            stop(replica).await;
        }
    }
    // Sixty commands, so that there were snapshots.
    assert!(folder.path().join("1/snapshot").exists());
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(1);
    let replica = start(&network, 1, Some(folder.path()));
    for number in 0..20 {
        replica.propose_anywhere(number.to_string()).await.unwrap();
    }
    stop(replica).await;
    let path = folder.path().join("1/snapshot");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let config = ReplicaConfig { dir: Some(folder.path().join("1")), ..config(&network) };
    let error = Replica::start(NodeId(1), config, Words::default()).unwrap_err().to_string();
    assert!(error.contains("1/snapshot") && error.contains("damaged"), "{error}");
}

#[tokio::test]
async fn an_id_runs_once_and_is_not_used_again_without_a_folder() {
    let network = network(1);
    let error = |id| Replica::start(NodeId(id), config(&network), Words::default()).unwrap_err();
    assert!(matches!(error(2), StartError::NotAMember(NodeId(2))));
    let replica = start(&network, 1, None);
    assert!(matches!(error(1), StartError::Running(NodeId(1))));
    stop(replica).await;
    assert!(matches!(error(1), StartError::Forgotten(NodeId(1))));
}

#[tokio::test]
async fn whoever_waits_hears_of_the_end() {
    let network = network(2);
    let replica = start(&network, 1, None);
    let proposed = replica.propose_anywhere("never");
    let read = replica.read(|words| words.0.len());
    let stop = async {
        tokio::task::yield_now().await;
        replica.stop();
    };
    let (proposed, read, ()) = tokio::join!(proposed, read, stop);
    assert_eq!(proposed, Err(ProposeError::Stopped));
    assert!(read.is_err());
    replica.stopped().await.unwrap();
}

#[tokio::test]
async fn the_keystore_is_a_state_machine_as_well() {
    let network = network(3);
    let start = |id| Replica::start(NodeId(id), config(&network), KeystoreMachine::new()).unwrap();
    let replicas = [1, 2, 3].map(start);
    let set = |value: &str| {
        let mut out = Vec::new();
        let (verb, key) = (StoreVerb::Set, b"k".as_slice());
        let operation =
            Operation::Store { verb, key, flags: 7, deadline_ms: 0, value: value.as_bytes() };
        Command { clock_ms: 1, id: None, operation }.encode(&mut out);
        out
    };
    for number in 0..40 {
        let replica = &replicas[number % 3];
        let reply = replica.propose_anywhere(set(&number.to_string())).await.unwrap();
        assert_eq!(reply, Reply::Stored);
    }
    for replica in &replicas {
        let value = replica
            .read(|machine| machine.keystore().get(b"k").map(|item| item.value.to_vec()))
            .await
            .unwrap();
        assert_eq!(value.as_deref(), Some(b"39".as_slice()));
    }
}

#[test]
fn a_keystore_survives_its_snapshot_and_nothing_less() {
    let mut machine = KeystoreMachine::new();
    for number in 0..50_u64 {
        let (key, value) = (format!("key{number}"), "v".repeat(number as usize));
        let mut command = Vec::new();
        let operation = Operation::Store {
            verb: StoreVerb::Set,
            key: key.as_bytes(),
            flags: number as u32,
            deadline_ms: 0,
            value: value.as_bytes(),
        };
        Command { clock_ms: number, id: None, operation }.encode(&mut command);
        machine.apply(number + 1, &command);
    }
    let snapshot = machine.snapshot();
    let mut copy = KeystoreMachine::new();
    copy.restore(&snapshot).unwrap();
    assert_eq!(copy.keystore().applied(), 50);
    for item in machine.keystore().freeze().items() {
        assert_eq!(copy.keystore().get(item.key), Some(item));
    }
    for cut in [0, 39, snapshot.len() - 1] {
        assert!(KeystoreMachine::new().restore(&snapshot[..cut]).is_err());
    }
}
