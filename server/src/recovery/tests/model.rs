//! Random histories of a stream, damaged at random, against the truth.
//!
//! The truth is made as Raft makes it: each leader begins with an entry that
//! says the term before it, keeps what is committed and replaces the rest.

use proptest::prelude::*;

use super::*;

/// A record of the stream.
#[derive(Clone, Debug)]
enum Record {
    Entry { index: Index, term: Term, prev_term: Option<Term> },
    Commit(Index),
    HardState,
}

/// What a follower's stream went through.
#[derive(Clone, Debug)]
struct History {
    records: Vec<Record>,
    /// The terms of the log as it stood at the end.
    log: Vec<Term>,
    committed: Index,
}

/// One step.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A leader of a later term, whose log has some of what was there.
    Leader {
        keep: usize,
        skip: u64,
    },
    Append(usize),
    Commit(usize),
    HardState,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0_usize..100, 1_u64..3).prop_map(|(keep, skip)| Step::Leader { keep, skip }),
        (1_usize..4).prop_map(Step::Append),
        (0_usize..100).prop_map(Step::Commit),
        Just(Step::HardState),
    ];
    prop::collection::vec(step, 1..25)
}

fn play(steps: &[Step]) -> History {
    let mut history = History { records: Vec::new(), log: Vec::new(), committed: 0 };
    let mut term = 0;
    for step in std::iter::once(&Step::Leader { keep: 0, skip: 1 }).chain(steps) {
        let History { records, log, committed } = &mut history;
        match *step {
            Step::Leader { keep, skip } => {
                let range = log.len() - *committed as usize + 1;
                log.truncate(*committed as usize + keep % range);
                term += skip;
                push(records, log, term, true);
            }
            Step::Append(count) => (0..count).for_each(|_| push(records, log, term, false)),
            Step::Commit(some) => {
                let range = log.len() - *committed as usize + 1;
                *committed += (some % range) as u64;
                records.push(Record::Commit(*committed));
            }
            Step::HardState => records.push(Record::HardState),
        }
    }
    history
}

fn push(records: &mut Vec<Record>, log: &mut Vec<Term>, term: Term, leads: bool) {
    let prev_term = leads.then(|| log.last().copied().unwrap_or(0));
    log.push(term);
    records.push(Record::Entry { index: log.len() as u64, term, prev_term });
}

/// Reads the records that are not damaged, as a scan has to.
fn read(history: &History, damaged: &[bool], after: Index) -> LogScan<Cmd> {
    let mut stretches = Vec::new();
    let mut open: Option<Stretch<Cmd>> = Some(begin(stretch(1, &[], 0)));
    let mut hidden = false;
    for (at, record) in history.records.iter().enumerate() {
        if damaged.get(at) == Some(&true) {
            stretches.extend(open.take());
            hidden |= matches!(record, Record::HardState);
            continue;
        }
        match *record {
            Record::Entry { index, term, prev_term } => {
                let open = open.get_or_insert_with(|| stretch(index, &[], 0));
                if index <= open.first {
                    (open.first, open.prev_term) = (index, prev_term);
                }
                open.runs.retain(|(first, _)| *first < index);
                if open.runs.last().is_none_or(|(_, last)| *last != term) {
                    open.runs.push((index, term));
                }
                open.entries.retain(|entry| entry.index < index);
                if index > after {
                    open.entries.push(entry(index, term));
                }
                open.last = index;
            }
            Record::Commit(commit) => {
                if let Some(open) = &mut open {
                    open.commit = open.commit.max(commit);
                }
            }
            Record::HardState => hidden = false,
        }
    }
    stretches.extend(open);
    let end = at(history.log.len() as u64, *history.log.last().expect("a leader began"));
    let damage = damaged.contains(&true).then(some_damage).into_iter().collect();
    LogScan { hard_state_certain: !hidden, damage, ..scan(stretches, end) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whatever is damaged: nothing wrong is taken for committed, what is kept
    /// is the log or is below a floor at its end, and the node takes it.
    #[test]
    fn nothing_is_lost_unnoticed(
        steps in steps(),
        damaged in prop::collection::vec(prop::bool::weighted(0.15), 0..40),
        checkpoint_at in 0_usize..100,
        whole in prop::bool::weighted(0.8),
    ) {
        let history = play(&steps);
        let index = checkpoint_at as u64 % (history.committed + 1);
        let true_term =
            |index: Index| index.checked_sub(1).and_then(|at| history.log.get(at as usize)).copied();
        let term = true_term(index).unwrap_or(0);
        let checkpoint = if whole { checkpoint(index, term) } else { lost_checkpoint() };
        let scan = read(&history, &damaged, if whole { index } else { 0 });
        let (certain, end) = (scan.hard_state_certain, scan.end);
        let recovery = match decide(found(checkpoint, scan)) {
            Decision::Start(recovery) => *recovery,
            Decision::Amnesia(_) => {
                prop_assert!(!certain);
                return Ok(());
            }
            Decision::Refuse(why) => panic!("there are others: {why}"),
        };
        prop_assert!(certain);
        let restored = &recovery.restored;
        prop_assert!(restored.commit <= history.committed);
        let settled = |entry: &&Entry<Cmd>| restored.floor.is_none() || entry.index <= restored.commit;
        for entry in restored.entries.iter().filter(settled) {
            prop_assert_eq!(Some(entry.term), true_term(entry.index));
        }
        let last = restored.entries.last().map(|entry| at(entry.index, entry.term));
        let last = last.unwrap_or(at(restored.snapshot.index, restored.snapshot.term));
        if restored.floor.is_none() {
            prop_assert_eq!(last, end, "nothing is missing");
        } else {
            prop_assert_eq!(restored.floor, Some(end));
            prop_assert!(!last.covers(end));
            prop_assert!(damaged.contains(&true));
        }
        if let LogRepair::Cut { first, last } = recovery.repair {
            prop_assert!(restored.runs.first().is_none_or(|(begin, _)| *begin == first));
            prop_assert!(restored.entries.last().is_none_or(|entry| entry.index == last));
        }
        // The core takes it: entries without a gap, that connect.
        prop_assert!(!restored.clone().discard_unconnected());
        let node = raft::Node::new(0, raft::Config::new(NodeId(1), 7), restored.clone());
        prop_assert_eq!(node.floor(), restored.floor);
    }
}
