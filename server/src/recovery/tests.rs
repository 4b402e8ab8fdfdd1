//! What is decided: by hand for each outcome, and against a model that knows
//! what really stood in the stream.

use std::sync::Arc;

use raft::{Body, Payload};

use super::*;

mod model;

/// A command that is told from others.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Cmd(u64);

impl Payload for Cmd {
    fn size(&self) -> usize {
        8
    }
}

fn entry(index: Index, term: Term) -> Entry<Cmd> {
    Entry { index, term, body: Body::Command(Cmd(index * 1_000 + term)) }
}

fn at(index: Index, term: Term) -> Position {
    Position { index, term }
}

fn voters(ids: &[u64]) -> Membership {
    Membership::of_voters(ids.iter().map(|id| (NodeId(*id), Arc::from(&b"info"[..]))))
}

/// A stretch with entries of these terms from `first` on; those behind
/// `after` are kept.
fn stretch(first: Index, terms: &[Term], after: Index) -> Stretch<Cmd> {
    let entries: Vec<_> = (first..).zip(terms).map(|(index, term)| entry(index, *term)).collect();
    let mut runs: Vec<(Index, Term)> = Vec::new();
    for entry in &entries {
        if runs.last().is_none_or(|(_, term)| *term != entry.term) {
            runs.push((entry.index, entry.term));
        }
    }
    Stretch {
        anew: false,
        first,
        prev_term: None,
        runs,
        last: first - 1 + terms.len() as u64,
        memberships: Vec::new(),
        entries: entries.into_iter().filter(|entry| entry.index > after).collect(),
        commit: 0,
    }
}

fn begin(stretch: Stretch<Cmd>) -> Stretch<Cmd> {
    Stretch { anew: true, ..stretch }
}

fn some_damage() -> Damage {
    let file = PathBuf::from("srv-1/log-file/0000000001.segment");
    Damage { file, offset: 4711, bytes: 64, what: "a record does not check".to_owned() }
}

fn scan(stretches: Vec<Stretch<Cmd>>, end: Position) -> LogScan<Cmd> {
    let damage = if stretches.len() > 1 { vec![some_damage()] } else { Vec::new() };
    let hard_state = HardState { term: 9, vote: Some(NodeId(2)) };
    LogScan { hard_state, hard_state_certain: true, stretches, end, floor: None, damage }
}

fn checkpoint(index: Index, term: Term) -> FoundCheckpoint {
    FoundCheckpoint::Whole(SnapshotMeta { index, term, membership: voters(&[1, 2, 3]) })
}

fn lost_checkpoint() -> FoundCheckpoint {
    FoundCheckpoint::Missing(PathBuf::from("srv-1/keystore-file"))
}

fn found(checkpoint: FoundCheckpoint, scan: LogScan<Cmd>) -> Found<Cmd> {
    Found { id: NodeId(1), checkpoint, log: FoundLog::Read(scan) }
}

fn start(checkpoint: FoundCheckpoint, scan: LogScan<Cmd>) -> Recovery<Cmd> {
    match decide(found(checkpoint, scan)) {
        Decision::Start(recovery) => *recovery,
        other => panic!("{other:?}"),
    }
}

fn indexes(recovery: &Recovery<Cmd>) -> Vec<Index> {
    recovery.restored.entries.iter().map(|entry| entry.index).collect()
}

#[test]
fn an_undamaged_log_is_taken_as_it_is() {
    let log = Stretch { commit: 5, ..begin(stretch(3, &[1, 1, 2, 2], 4)) };
    let recovery = start(checkpoint(4, 1), scan(vec![log], at(6, 2)));
    assert_eq!(recovery.repair, LogRepair::Keep);
    assert_eq!(recovery.restored.floor, None);
    assert_eq!(recovery.restored.commit, 5);
    assert_eq!(recovery.restored.runs, [(3, 1), (5, 2)]);
    assert_eq!(indexes(&recovery), [5, 6]);
    assert_eq!(recovery.restored.hard_state, HardState { term: 9, vote: Some(NodeId(2)) });
    assert!(recovery.notes.is_empty() && !recovery.checkpoint_lost);
}

#[test]
fn an_empty_log_behind_a_snapshot_is_whole() {
    // The first record need not say the term that the snapshot ends with.
    let recovery = start(checkpoint(4, 3), scan(vec![begin(stretch(5, &[], 4))], at(4, 0)));
    assert_eq!((recovery.repair, recovery.restored.floor), (LogRepair::Keep, None));
    let fresh = FoundCheckpoint::Whole(SnapshotMeta::default());
    let recovery = start(fresh, scan(vec![begin(stretch(1, &[], 0))], at(0, 0)));
    assert_eq!((recovery.repair, recovery.restored.floor), (LogRepair::Keep, None));
}

#[test]
fn a_state_machine_ahead_of_its_log_begins_a_new_one() {
    let log = begin(stretch(1, &[1, 1], 4));
    let recovery = start(checkpoint(4, 1), scan(vec![log], at(2, 1)));
    assert_eq!(recovery.repair, LogRepair::Restart(4));
    assert_eq!((recovery.restored.floor, recovery.restored.commit), (None, 4));
    assert!(recovery.restored.runs.is_empty() && recovery.restored.entries.is_empty());
}

#[test]
fn a_log_that_contradicts_the_snapshot_gives_way() {
    // An installed snapshot; the crash came before the log was begun anew. The
    // log ended in a later term than the snapshot: a floor, to be on the safe side.
    let log = begin(stretch(1, &[1, 1, 3, 3], 2));
    let recovery = start(checkpoint(2, 2), scan(vec![log], at(4, 3)));
    assert_eq!(recovery.repair, LogRepair::Restart(2));
    assert_eq!(recovery.restored.floor, Some(at(4, 3)));
}

#[test]
fn damage_before_the_checkpoint_loses_nothing() {
    let log = vec![begin(stretch(1, &[1, 1], 5)), stretch(4, &[1, 2, 2, 2], 5)];
    let recovery = start(checkpoint(5, 2), scan(log, at(7, 2)));
    assert_eq!(recovery.repair, LogRepair::Cut { first: 4, last: 7 });
    assert_eq!((recovery.restored.floor, indexes(&recovery)), (None, vec![6, 7]));
    assert_eq!(recovery.restored.runs, [(4, 1), (5, 2)]);
    assert!(recovery.notes[0].contains("0000000001.segment at offset 4711"), "{recovery:?}");
}

#[test]
fn damage_right_before_the_first_entry_that_is_needed() {
    // Entry 5 is damaged, and the checkpoint ends with it.
    let log = |prev_term| {
        let next = Stretch { prev_term, ..stretch(6, &[3], 5) };
        vec![begin(stretch(1, &[1, 1, 1, 1], 5)), next]
    };
    let recovery = start(checkpoint(5, 2), scan(log(Some(2)), at(6, 3)));
    assert_eq!(recovery.repair, LogRepair::Cut { first: 6, last: 6 });
    assert_eq!((recovery.restored.floor, indexes(&recovery)), (None, vec![6]));
    // It may be another entry 5, unless the stream says so.
    let recovery = start(checkpoint(5, 2), scan(log(None), at(6, 3)));
    assert_eq!(recovery.repair, LogRepair::Restart(5));
    assert_eq!(recovery.restored.floor, Some(at(6, 3)));
}

#[test]
fn damage_behind_the_checkpoint_cuts_the_log_below_a_floor() {
    let first = Stretch { commit: 4, ..begin(stretch(1, &[1, 1, 1, 1], 2)) };
    let next = Stretch { commit: 7, ..stretch(6, &[1, 1, 1], 2) };
    let recovery = start(checkpoint(2, 1), scan(vec![first, next], at(8, 1)));
    assert_eq!(recovery.repair, LogRepair::Cut { first: 1, last: 4 });
    assert_eq!((recovery.restored.floor, indexes(&recovery)), (Some(at(8, 1)), vec![3, 4]));
    assert_eq!(recovery.restored.commit, 4, "what comes behind says nothing of this log");
    assert!(recovery.notes.last().is_some_and(|note| note.contains("entries 5 to 8")));
}

#[test]
fn damage_that_hides_no_entry_costs_nothing() {
    let log = vec![begin(stretch(1, &[1, 1, 2], 0)), stretch(4, &[2, 3], 0)];
    let fresh = FoundCheckpoint::Whole(SnapshotMeta::default());
    let recovery = start(fresh, scan(log, at(5, 3)));
    assert_eq!(recovery.repair, LogRepair::Cut { first: 1, last: 5 });
    assert_eq!((recovery.restored.floor, indexes(&recovery)), (None, vec![1, 2, 3, 4, 5]));
    assert_eq!(recovery.restored.runs, [(1, 1), (3, 2), (5, 3)]);
}

#[test]
fn entries_of_another_term_behind_damage_may_not_belong_to_what_is_before() {
    // The damage may hide that entry 3 was replaced by one of term 3 or 4.
    let log = |prev_term| {
        let next = Stretch { commit: 3, prev_term, ..stretch(4, &[4], 0) };
        vec![begin(stretch(1, &[1, 1, 2], 0)), next]
    };
    let recovery = start(checkpoint(0, 0), scan(log(None), at(4, 4)));
    assert_eq!(indexes(&recovery), [1, 2, 3]);
    assert_eq!((recovery.restored.floor, recovery.restored.commit), (Some(at(4, 4)), 0));
    let recovery = start(checkpoint(0, 0), scan(log(Some(3)), at(4, 4)));
    assert_eq!((recovery.restored.floor, recovery.restored.commit), (Some(at(4, 4)), 0));
    let recovery = start(checkpoint(0, 0), scan(log(Some(2)), at(4, 4)));
    assert_eq!(indexes(&recovery), [1, 2, 3, 4]);
    assert_eq!((recovery.restored.floor, recovery.restored.commit), (None, 3));
}

#[test]
fn entries_replaced_behind_damage_are_replaced() {
    let truncated = Stretch { prev_term: Some(1), ..stretch(3, &[2], 0) };
    let log = vec![begin(stretch(1, &[1, 1, 1, 1], 0)), truncated];
    let recovery = start(checkpoint(0, 0), scan(log, at(3, 2)));
    assert_eq!((recovery.restored.floor, indexes(&recovery)), (None, vec![1, 2, 3]));
    assert_eq!(recovery.restored.entries[2].term, 2);
    assert_eq!(recovery.restored.runs, [(1, 1), (3, 2)]);
    // A truncation alone, which says what the log ends with.
    let truncated = Stretch { prev_term: Some(1), ..stretch(3, &[], 0) };
    let log = vec![begin(stretch(1, &[1, 1, 1, 1], 0)), truncated];
    let recovery = start(checkpoint(0, 0), scan(log, at(2, 1)));
    assert_eq!((recovery.restored.floor, indexes(&recovery)), (None, vec![1, 2]));
}

#[test]
fn a_repair_that_was_interrupted_is_decided_again() {
    // Floor and truncation are recorded, the damage is not filled yet.
    let end = Stretch { prev_term: Some(1), ..stretch(3, &[], 0) };
    let log = vec![begin(stretch(1, &[1, 1], 0)), stretch(4, &[1], 0), end];
    let again = LogScan { floor: Some(at(4, 1)), ..scan(log.clone(), at(2, 1)) };
    let recovery = start(checkpoint(0, 0), again);
    assert_eq!(recovery.restored.floor, Some(at(4, 1)));
    assert_eq!(recovery.repair, LogRepair::Cut { first: 1, last: 2 });
    // Filled: nothing is damaged any more, the floor is still in force.
    let filled = LogScan { floor: Some(at(4, 1)), damage: Vec::new(), ..scan(log, at(2, 1)) };
    assert_eq!(start(checkpoint(0, 0), filled).restored.floor, Some(at(4, 1)));
}

#[test]
fn a_floor_in_force_survives_more_damage() {
    let log = vec![begin(stretch(1, &[1], 0)), stretch(3, &[1], 0)];
    let again = LogScan { floor: Some(at(9, 1)), ..scan(log, at(3, 1)) };
    assert_eq!(start(checkpoint(0, 0), again).restored.floor, Some(at(9, 1)));
    // One that the log has reached is over.
    let whole = vec![begin(stretch(1, &[1, 2], 0))];
    let over = LogScan { floor: Some(at(9, 1)), ..scan(whole, at(2, 2)) };
    assert_eq!(start(checkpoint(0, 0), over).restored.floor, None);
}

#[test]
fn a_log_begun_anew_needs_nothing_of_before() {
    let log = vec![begin(stretch(1, &[1], 5)), begin(stretch(6, &[3], 5))];
    let recovery = start(checkpoint(5, 2), scan(log, at(6, 3)));
    assert_eq!(recovery.repair, LogRepair::Cut { first: 6, last: 6 });
    assert_eq!((recovery.restored.floor, indexes(&recovery)), (None, vec![6]));
}

#[test]
fn without_its_checkpoint_a_server_starts_empty_below_a_floor() {
    let log = vec![begin(stretch(3, &[1, 1], 0))];
    let recovery = start(lost_checkpoint(), scan(log, at(4, 1)));
    assert!(recovery.checkpoint_lost);
    assert_eq!(recovery.repair, LogRepair::Restart(0));
    assert_eq!(recovery.restored.snapshot, SnapshotMeta::default());
    assert_eq!((recovery.restored.floor, recovery.restored.commit), (Some(at(4, 1)), 0));
    assert!(recovery.notes[0].contains("keystore-file is missing"), "{recovery:?}");
}

#[test]
fn a_log_from_the_very_first_entry_on_needs_no_checkpoint() {
    let first = Body::Membership(voters(&[1, 2, 3]));
    let mut log = Stretch { commit: 2, ..begin(stretch(1, &[1, 1, 1], 0)) };
    log.entries[0].body = first;
    log.memberships.push((1, voters(&[1, 2, 3])));
    let recovery = start(FoundCheckpoint::Damaged(some_damage()), scan(vec![log], at(3, 1)));
    assert_eq!((recovery.repair, recovery.restored.floor), (LogRepair::Keep, None));
    assert_eq!((indexes(&recovery), recovery.restored.commit), (vec![1, 2, 3], 2));
    assert!(recovery.checkpoint_lost);
}

#[test]
fn an_old_checkpoint_before_the_log_is_a_loss() {
    let log = vec![begin(stretch(8, &[2, 2], 4))];
    let recovery = start(checkpoint(4, 1), scan(log, at(9, 2)));
    assert_eq!(recovery.repair, LogRepair::Restart(4));
    assert_eq!((recovery.restored.floor, recovery.restored.commit), (Some(at(9, 2)), 4));
}

#[test]
fn a_vote_in_doubt_is_amnesia() {
    let log = vec![begin(stretch(1, &[1], 0)), stretch(3, &[1], 0)];
    let doubt = LogScan { hard_state_certain: false, ..scan(log, at(3, 1)) };
    let Decision::Amnesia(why) = decide(found(checkpoint(0, 0), doubt)) else { panic!() };
    assert!(why.contains("0000000001.segment at offset 4711"), "{why}");
    let log = FoundLog::Missing(PathBuf::from("srv-1/log-file"));
    let gone = Found::<Cmd> { id: NodeId(1), checkpoint: checkpoint(4, 1), log };
    let Decision::Amnesia(why) = decide(gone) else { panic!() };
    assert!(why.contains("srv-1/log-file is missing"), "{why}");
}

#[test]
fn the_only_voter_has_nobody_to_ask() {
    let alone = || {
        let membership = voters(&[1]);
        FoundCheckpoint::Whole(SnapshotMeta { index: 2, term: 1, membership })
    };
    let log = || vec![begin(stretch(1, &[1, 1, 1], 2)), stretch(5, &[1], 2)];
    let Decision::Refuse(why) = decide(found(alone(), scan(log(), at(5, 1)))) else { panic!() };
    assert!(why.contains("offset 4711") && why.contains("up to entry 5"), "{why}");
    // Others may have come since, as a later part says.
    let mut later = log();
    later[1].memberships.push((5, voters(&[1, 2])));
    assert_eq!(start(alone(), scan(later, at(5, 1))).restored.floor, Some(at(5, 1)));
    // Nothing lost, nobody needed.
    let harmless = vec![begin(stretch(1, &[1], 2)), stretch(2, &[1, 1], 2)];
    assert_eq!(start(alone(), scan(harmless, at(3, 1))).restored.floor, None);
}
