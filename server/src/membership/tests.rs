//! The leader's judgement of who is gone, and what a fresh server makes of
//! what it is told. Whole clusters are the simulator's part.

use super::operator::{FewVoters, few_voters};
use super::*;
use common::control::{Reached, Run};
use common::ids::FolderId;
use raft::PeerState;

mod dismissed;

const NOW: Now = Now { mono_us: 100_000_000, wall_ms: 0 };
const DEAD_AFTER: Duration = Duration::from_secs(5);

fn info(number: u16) -> MemberInfo {
    MemberInfo {
        folder: FolderId(u128::from(number)),
        name: format!("srv-{number}"),
        peer: ([127, 0, 0, 1], 6000 + number).into(),
        client: ([127, 0, 0, 1], 7000 + number).into(),
        run: None,
    }
}

/// Peers 2, 3, ... of the leader 1, by how long they have been silent.
fn peers(silent_ms: &[u64]) -> Vec<PeerStatus> {
    let peer = |(id, silent_ms): (u64, &u64)| PeerStatus {
        id: NodeId(id),
        suffrage: Suffrage::Voter,
        matched: 1,
        next: 2,
        state: PeerState::Probe,
        inflight_bytes: 0,
        last_contact: NOW.mono_us - silent_ms * 1000,
    };
    (2..).zip(silent_ms).map(peer).collect()
}

fn gone_after(dead_after: Duration, silent_ms: &[u64]) -> Option<u64> {
    let voters = silent_ms.len() + 1;
    gone(NOW, voters, &peers(silent_ms), &[], Rules::new(dead_after)).map(|id| id.0)
}

#[test]
fn one_whose_place_is_taken_leaves_at_once_if_the_others_can_do_without() {
    let gone = |silent_ms: &[u64], replaced: &[u64]| {
        let replaced: Vec<_> = replaced.iter().map(|id| NodeId(*id)).collect();
        let (voters, rules) = (silent_ms.len() + 1, Rules::new(DEAD_AFTER));
        gone(NOW, voters, &peers(silent_ms), &replaced, rules).map(|id| id.0)
    };
    assert_eq!(gone(&[1_100, 10], &[]), None);
    assert_eq!(gone(&[1_100, 10], &[2]), Some(2));
    assert_eq!(gone(&[900, 10], &[2]), None, "it is still there");
    assert_eq!(gone(&[1_100, 1_100], &[2]), None, "no majority without it");
    assert_eq!(gone(&[1_100], &[2]), None, "two voters stay");
    assert_eq!(gone(&[1_100, 10, 1_200, 10], &[2, 4]), Some(4));
    // Though the silent stay for ever.
    let rules = Rules::new(Duration::ZERO);
    let peers = peers(&[60_000, 10, 60_000]);
    assert_eq!(super::gone(NOW, 4, &peers, &[NodeId(2)], rules), Some(NodeId(2)));
    assert_eq!(super::gone(NOW, 4, &peers, &[], rules), None);
}

#[test]
fn the_longest_silent_voter_is_removed_first() {
    assert_eq!(gone_after(DEAD_AFTER, &[10, 4_000]), None);
    assert_eq!(gone_after(DEAD_AFTER, &[10, 6_000]), Some(3));
    assert_eq!(gone_after(DEAD_AFTER, &[10, 6_000, 9_000, 10]), Some(4));
    assert_eq!(gone_after(Duration::ZERO, &[10, 6_000]), None);
}

#[test]
fn a_silent_learner_goes_unless_the_leader_hears_nobody() {
    let with_learner = |silent_ms: &[u64], learner_ms: u64| {
        let mut peers = peers(silent_ms);
        let learner = PeerStatus {
            id: NodeId(9),
            suffrage: Suffrage::Learner,
            last_contact: NOW.mono_us - learner_ms * 1000,
            ..peers[0]
        };
        peers.push(learner);
        let gone = |dead_after| gone(NOW, silent_ms.len() + 1, &peers, &[], Rules::new(dead_after));
        let [usual, short] = [DEAD_AFTER, Duration::from_millis(20)].map(gone);
        assert!(
            usual.is_some() || silent_ms != [10] || short.is_none(),
            "it was admitted only now"
        );
        usual.map(|id| id.0)
    };
    assert_eq!(with_learner(&[10], 4_000), None);
    assert_eq!(with_learner(&[10], 6_000), Some(9), "though two vote");
    assert_eq!(with_learner(&[6_000], 6_000), None);
    assert_eq!(with_learner(&[10, 6_000], 9_000), Some(3), "the voter first");
}

#[test]
fn a_learner_that_was_never_heard_has_time_to_read_its_disk() {
    let mut peers = peers(&[10, 59_000]);
    peers[1].suffrage = Suffrage::Learner;
    let gone = |peers: &[PeerStatus]| gone(NOW, 2, peers, &[], Rules::new(DEAD_AFTER));
    assert_eq!(gone(&peers), Some(NodeId(3)));
    peers[1].matched = 0;
    assert_eq!(gone(&peers), None);
}

#[test]
fn a_later_server_at_the_address_of_a_silent_one_replaces_it() {
    const NOBODY: [u64; 0] = [];
    // Members by the number of the address that they give.
    let replaced = |own: u64, silent_ms: &[u64], addresses: &[u16]| -> Vec<u64> {
        let record = |(id, number): (u64, &u16)| MemberRecord {
            id: ServerId(id),
            voter: true,
            info: info(*number),
        };
        let members = (1..).zip(addresses).map(record).collect();
        let found = replaced(NodeId(own), NOW, &peers(silent_ms), || members);
        found.into_iter().map(|id| id.0).collect()
    };
    assert_eq!(replaced(1, &[1_100, 10, 10], &[1, 2, 3, 4]), NOBODY);
    assert_eq!(replaced(1, &[1_100, 10, 10], &[1, 2, 3, 2]), [2]);
    assert_eq!(replaced(1, &[10, 10, 10], &[1, 2, 3, 2]), NOBODY, "it is there");
    assert_eq!(replaced(1, &[1_100, 10, 1_100], &[1, 2, 3, 2]), NOBODY, "both are silent");
    assert_eq!(replaced(1, &[10, 10, 1_100], &[1, 2, 3, 2]), NOBODY, "the earlier one is there");
    // The one that took the place of 2 leads.
    assert_eq!(replaced(4, &[1_100, 10], &[1, 2, 3, 2]), [2]);
}

#[test]
fn two_voters_stay() {
    assert_eq!(gone_after(DEAD_AFTER, &[6_000]), None);
    assert_eq!(gone_after(DEAD_AFTER, &[]), None);
}

/// A leader that stood still for a while hears nobody at first. What it would
/// remove then could not be committed, and yet be in force here.
#[test]
fn nobody_is_removed_unless_those_who_stay_are_there() {
    assert_eq!(gone_after(DEAD_AFTER, &[6_000, 6_000]), None);
    assert_eq!(gone_after(DEAD_AFTER, &[6_000, 4_000]), None);
    assert_eq!(gone_after(DEAD_AFTER, &[6_000, 6_000, 10]), Some(2));
    assert_eq!(gone_after(DEAD_AFTER, &[6_000, 6_000, 6_000, 10]), None);
    // Shorter than the time within which a server counts as there.
    let short = Duration::from_millis(300);
    assert_eq!(gone_after(short, &[900, 600]), None);
    assert_eq!(gone_after(short, &[900, 200]), Some(2));
}

/// At its election a leader takes all peers for heard, the dead ones, too.
#[test]
fn an_operator_removes_nobody_from_a_majority_that_is_not_there() {
    let few = |leaving: u64, peers: &[PeerStatus]| {
        let voters = peers.len();
        few_voters(NOW, NodeId(leaving), voters, peers, Rules::new(DEAD_AFTER))
    };
    assert_eq!(few(2, &peers(&[10, 10])), None);
    assert_eq!(few(3, &peers(&[10, 6_000])), None, "the dead one may go");
    assert!(matches!(few(2, &peers(&[10, 6_000])), Some(FewVoters::For(_))));
    assert!(matches!(few(2, &peers(&[10])), Some(FewVoters::For(_))));
    let mut unheard = peers(&[10, 10]);
    unheard[1].matched = 0;
    assert_eq!(few(2, &unheard), Some(FewVoters::Perhaps));
    assert_eq!(few(3, &unheard), None);
    let rules = Rules::new(DEAD_AFTER);
    unheard[0].last_contact = NOW.mono_us - 6_000_000;
    assert_eq!(gone(NOW, 3, &unheard, &[], rules), None);
}

#[test]
fn a_fresh_server_takes_its_own_place_only() {
    let voter = |number: u16| MemberRecord {
        id: ServerId(u64::from(number)),
        voter: true,
        info: info(number),
    };
    let adopt = |id: u64, voters: Vec<MemberRecord>| ToServer::Adopt {
        cluster: ClusterId(1),
        id: ServerId(id),
        voters,
        campaign: false,
    };
    let heard = |message| heard_fresh(&info(2), message);
    assert!(matches!(heard(adopt(2, vec![voter(1), voter(2)])), Heard::Joins(_)));
    assert!(matches!(heard(adopt(9, Vec::new())), Heard::Joins(_)));
    let Heard::Stops(why) = heard(adopt(1, vec![voter(1), voter(2)])) else {
        panic!("took the place of another folder");
    };
    assert!(why.contains("nothing was changed"), "{why}");
    assert_eq!(heard(ToServer::Admit { info: info(3), runs: Vec::new() }), Heard::Nothing);
    let refused = |dismissed| ToServer::Refused { why: "no".to_owned(), cluster: None, dismissed };
    assert!(matches!(heard(refused(false)), Heard::Stops(_)));
    assert!(matches!(heard(refused(true)), Heard::Dismissed(_)), "its run was noted");
}

/// The leader of a cluster of one, whose disk is done when a test says so.
fn leader() -> (Driver, crate::driver::Actions) {
    leader_of_run(None)
}

fn leader_of_run(run: Option<Run>) -> (Driver, crate::driver::Actions) {
    let info = MemberInfo {
        folder: FolderId(1),
        name: "srv-1".to_owned(),
        peer: ([127, 0, 0, 1], 6001).into(),
        client: ([127, 0, 0, 1], 7001).into(),
        run: None,
    };
    let membership = raft::Membership::of_voters([(NodeId(1), info_bytes(&info))]);
    let mut driver = driver_of(MemberInfo { run, ..info }, membership);
    let mut actions = crate::driver::Actions::default();
    driver.campaign(NOW);
    settle(&mut driver, &mut actions);
    assert!(driver.is_leader());
    (driver, actions)
}

/// Server 1 of this membership, which it has from a snapshot.
fn driver_of(info: MemberInfo, membership: raft::Membership) -> Driver {
    let restored = raft::Restored {
        hard_state: raft::HardState::default(),
        snapshot: raft::SnapshotMeta { membership, ..raft::SnapshotMeta::default() },
        runs: Vec::new(),
        memberships: Vec::new(),
        entries: Vec::new(),
        floor: None,
        commit: 0,
    };
    let facts = crate::driver::Facts {
        info,
        cluster: ClusterId(1),
        pid: 1,
        counters: Arc::default(),
        started_ms: 0,
        session_seed: 1,
    };
    let node = crate::driver::Node::new(NOW.mono_us, raft::Config::new(NodeId(1), 1), restored);
    let keystore = crate::keystore::Keystore::new(crate::keystore::KeystoreLimits::default());
    Driver::new(node, keystore, facts)
}

fn settle(driver: &mut Driver, actions: &mut crate::driver::Actions) {
    for _ in 0..10 {
        driver.flush(NOW, actions);
        if let Some(persist) = actions.persist.take() {
            driver.synced(NOW, persist.mark);
        }
        driver.apply(NOW);
    }
}

/// The core has committed the admission in this very turn, and has not handed
/// it out yet, when the next load balancer asks.
#[test]
fn a_folder_is_admitted_once() {
    let (mut driver, mut actions) = leader();
    let members = Members::new(Rules::new(DEAD_AFTER));
    let info = MemberInfo { folder: FolderId(2), ..driver.info().clone() };
    assert_eq!(members.admit(&mut driver, NOW, &info, &[]), None);
    driver.flush(NOW, &mut actions);
    let persist = actions.persist.take().expect("the admission goes to the disk");
    driver.synced(NOW, persist.mark);
    assert_eq!(members.admit(&mut driver, NOW, &info, &[]), Some(Ok(ServerId(2))));
    settle(&mut driver, &mut actions);
    assert_eq!(members.admit(&mut driver, NOW, &info, &[]), Some(Ok(ServerId(2))));
    assert_eq!(driver.members().len(), 2);
}

fn run(count: u64) -> Option<Run> {
    Some(Run { count, nonce: count })
}

/// It was silent, and nobody meant it to go.
#[test]
fn whoever_was_removed_for_being_silent_comes_back_by_itself() {
    let (mut driver, mut actions) = leader();
    let mut members = Members::new(Rules::new(DEAD_AFTER));
    let info = MemberInfo { folder: FolderId(2), run: run(3), ..driver.info().clone() };
    let _ = members.admit(&mut driver, NOW, &info, &[]);
    settle(&mut driver, &mut actions);
    let silent = Now { mono_us: NOW.mono_us + 700_000_000, ..NOW };
    members.mind(&mut driver, silent);
    settle(&mut driver, &mut actions);
    assert_eq!(driver.members().len(), 1);
    assert_eq!(members.admit(&mut driver, silent, &info, &[]), None);
    settle(&mut driver, &mut actions);
    assert_eq!(members.admit(&mut driver, silent, &info, &[]), Some(Ok(ServerId(3))));
}

#[test]
fn the_leader_notes_its_own_run_and_newer_ones_of_its_peers_once() {
    let run = |count| Some(Run { count, nonce: count + 70 });
    let (mut driver, mut actions) = leader_of_run(run(4));
    let mut members = Members::new(Rules::new(DEAD_AFTER));
    let info = MemberInfo { folder: FolderId(2), run: run(2), ..driver.info().clone() };
    let _ = members.admit(&mut driver, NOW, &info, &[]);
    settle(&mut driver, &mut actions);
    let noted =
        |driver: &Driver| driver.members().iter().map(|member| member.info.run).collect::<Vec<_>>();
    assert_eq!(noted(&driver), [None, run(2)], "an admission brings the run along");
    let mut mind = |driver: &mut Driver, members: &mut Members| {
        let before = driver.node().status().last_index;
        for _ in 0..5 {
            members.mind(driver, NOW);
            settle(driver, &mut actions);
        }
        driver.node().status().last_index - before
    };
    assert_eq!(mind(&mut driver, &mut members), 1);
    assert_eq!(noted(&driver), [run(4), run(2)]);
    members.heard_run(NodeId(2), run(3));
    members.heard_run(NodeId(9), run(3));
    assert_eq!(mind(&mut driver, &mut members), 1, "the stranger is no member");
    assert_eq!(noted(&driver), [run(4), run(3)]);
    for late in [run(3), run(2), None] {
        members.heard_run(NodeId(2), late);
        let moved = MemberInfo { run: late, ..info.clone() };
        let _ = members.admit(&mut driver, NOW, &moved, &[]);
        assert_eq!(mind(&mut driver, &mut members), 0);
    }
    assert_eq!(noted(&driver), [run(4), run(3)]);
}

/// A load balancer may have heard the addresses before the newest run, or not know
/// what the membership has noted.
#[test]
fn a_member_that_has_moved_is_found_there_unless_its_folder_is_a_copy() {
    let (mut driver, mut actions) = leader();
    let members = Members::new(Rules::new(DEAD_AFTER));
    let run = |count, nonce| Run { count, nonce };
    let (noted, info) = (run(5, 1), driver.info().clone());
    let info = MemberInfo { folder: FolderId(2), run: Some(noted), ..info };
    let _ = members.admit(&mut driver, NOW, &info, &[noted]);
    settle(&mut driver, &mut actions);
    let mut moved = |port: u16, runs: &[Run], tells: &[Run]| {
        let peer = ([127, 0, 0, 1], port).into();
        let info = MemberInfo { peer, run: runs.last().copied(), ..info.clone() };
        let answer = members.admit(&mut driver, NOW, &info, tells).expect("it is known");
        settle(&mut driver, &mut actions);
        let found = &driver.members()[1].info;
        assert_eq!(found.run, Some(noted), "only a link brings another run");
        (answer.is_ok(), found.peer == peer)
    };
    let chains: [(&[Run], bool); 6] = [
        (&[run(4, 1), noted], true),
        (&[run(4, 1), noted, run(6, 1)], true),
        (&[run(3, 1), run(4, 1)], false),
        (&[run(4, 1), run(5, 2)], false),
        // Its second start since.
        (&[run(4, 1), run(5, 2), run(6, 2)], false),
        (&[run(4, 1), noted], true),
    ];
    for (port, (runs, taken)) in (1..).zip(chains) {
        assert_eq!(moved(port, runs, runs), (taken, taken), "{runs:?}");
    }
    // By way of a load balancer of an older program.
    assert_eq!(moved(7, &[noted], &[]), (true, true));
    assert_eq!(moved(8, &[run(5, 2)], &[]), (false, false));
}

#[test]
fn a_server_whose_log_knows_another_run_of_its_folder_is_stale() {
    let run = |count, nonce| Run { count, nonce };
    let (mut driver, mut actions) = leader_of_run(Some(run(2, 5)));
    assert_eq!(stale_here(&driver, &[]), None);
    Members::new(Rules::new(DEAD_AFTER)).mind(&mut driver, NOW);
    assert_eq!(driver.members()[0].info.run, Some(run(2, 5)));
    assert_eq!(stale_here(&driver, &[run(1, 4)]), None, "that may be taken back");
    settle(&mut driver, &mut actions);
    assert_eq!(stale_here(&driver, &[run(1, 4), run(2, 5), run(3, 9)]), None);
    let why = stale_here(&driver, &[run(1, 4), run(2, 6)]).unwrap();
    assert!(why.contains("a copy") && why.contains("server 1 (srv-1)"), "{why}");
    let why = stale_here(&driver, &[run(1, 4)]).unwrap();
    assert!(why.contains("an older state"), "{why}");
}

/// What a peer has acknowledged to this leader it has on its disk, with the term.
#[test]
fn the_leader_knows_how_far_a_disk_must_have_come() {
    let (mut driver, mut actions) = leader();
    let info = MemberInfo { folder: FolderId(2), ..driver.info().clone() };
    let mut members = Members::new(Rules::new(DEAD_AFTER));
    let _ = members.admit(&mut driver, NOW, &info, &[]);
    settle(&mut driver, &mut actions);
    let (peer, status) = (NodeId(2), driver.node().status());
    let at = |index| Reached { term: status.term, index };
    assert_eq!(reached(&driver), Some(at(status.last_index)));
    assert_eq!(members.acknowledged(&driver, peer), None, "it has said nothing in this leadership");
    let message = raft::Message::AppendReply { match_index: 2, read_round: 0 };
    let term = status.term;
    driver.message(NOW, raft::Envelope { from: peer, to: status.id, term, message });
    assert_eq!(members.acknowledged(&driver, peer), Some(at(2)));
    assert_eq!(members.acknowledged(&driver, NodeId(3)), None);
    // Somebody else leads.
    members.mind(&mut driver, NOW);
    settle(&mut driver, &mut actions);
    let message = raft::Message::Heartbeat { commit: 0, read_round: 0 };
    driver.message(NOW, raft::Envelope { from: peer, to: status.id, term: term + 1, message });
    assert!(!driver.is_leader());
    assert_eq!(members.acknowledged(&driver, peer), Some(at(2)));
    // A later leader may have taken it away.
    let later = Reached { term: term + 1, index: 1 };
    assert!(later > at(2) && at(1) < at(2) && Reached { term: term - 1, index: 9 } < at(2));
}
