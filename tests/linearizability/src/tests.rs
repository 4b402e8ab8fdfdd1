//! Histories that are known to be good or bad, and all small ones against
//! every order.

use proptest::prelude::*;

use super::{Call, Object, Verdict, search};

/// What is asked of a number, and what was answered, if anything was.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Read(Option<u32>),
    Write(u32),
    /// Adds one and answers the sum.
    Add(Option<u32>),
}

struct Number<'a>(&'a [Asked]);

impl Object for Number<'_> {
    type State = u32;

    fn initial(&self) -> u32 {
        0
    }

    fn step(&mut self, call: usize, state: &u32) -> Option<u32> {
        let fits = |told: Option<u32>, is: u32| told.is_none_or(|told| told == is);
        match self.0[call] {
            Asked::Read(told) => fits(told, *state).then_some(*state),
            Asked::Write(value) => Some(value),
            Asked::Add(told) => fits(told, state + 1).then_some(state + 1),
        }
    }
}

const NEVER: u64 = 0;

/// Calls as (what, call, return).
fn check(history: &[(Asked, u64, u64)]) -> Verdict {
    let asked: Vec<_> = history.iter().map(|(asked, ..)| *asked).collect();
    let times = |&(_, call, ret): &(Asked, u64, u64)| Call {
        call,
        ret: (ret != NEVER).then_some(ret),
        after: None,
    };
    let calls: Vec<_> = history.iter().map(times).collect();
    search(&calls, &mut Number(&asked), 100_000)
}

#[test]
fn what_overlaps_may_be_seen_or_not() {
    use Asked::{Read, Write};
    let early = [(Write(1), 1, 6), (Read(Some(0)), 2, 3), (Read(Some(1)), 4, 5)];
    assert_eq!(check(&early), Verdict::Linearizable);
    let back = [(Write(1), 1, 6), (Read(Some(1)), 2, 3), (Read(Some(0)), 4, 5)];
    assert_eq!(check(&back), Verdict::Impossible { stuck: 2 });
}

#[test]
fn a_stale_read_has_no_order() {
    use Asked::{Read, Write};
    let history = [(Write(1), 1, 2), (Write(2), 3, 4), (Read(Some(1)), 5, 6), (Write(3), 7, 8)];
    assert_eq!(check(&history), Verdict::Impossible { stuck: 2 });
}

#[test]
fn a_lost_or_doubled_addition_has_no_order() {
    use Asked::{Add, Read};
    let lost = [(Add(Some(1)), 1, 4), (Add(Some(1)), 2, 3)];
    assert!(matches!(check(&lost), Verdict::Impossible { .. }));
    let doubled = [(Add(Some(1)), 1, 2), (Read(Some(2)), 3, 4)];
    assert_eq!(check(&doubled), Verdict::Impossible { stuck: 1 });
}

#[test]
fn what_has_no_answer_may_take_effect_late_or_never_but_once() {
    use Asked::{Add, Read};
    let open = |reads: &[u32]| {
        let mut history = vec![(Add(None), 1, NEVER)];
        for (number, read) in (1..).zip(reads) {
            history.push((Read(Some(*read)), number * 10, number * 10 + 1));
        }
        check(&history)
    };
    assert_eq!(open(&[0, 0]), Verdict::Linearizable);
    assert_eq!(open(&[0, 1, 1]), Verdict::Linearizable);
    assert_eq!(open(&[0, 1, 2]), Verdict::Impossible { stuck: 3 });
    assert_eq!(open(&[0, 1, 0]), Verdict::Impossible { stuck: 3 });
    // Not before it was asked for.
    let before = [(Read(Some(1)), 1, 2), (Add(None), 3, NEVER)];
    assert_eq!(check(&before), Verdict::Impossible { stuck: 0 });
}

#[test]
fn a_pipeline_keeps_its_order() {
    let asked = [Asked::Write(1), Asked::Write(2), Asked::Read(Some(1))];
    let mut calls = [(1, 4, None), (1, 4, Some(0)), (5, 6, None)].map(|(call, ret, after)| Call {
        call,
        ret: Some(ret),
        after,
    });
    let impossible = Verdict::Impossible { stuck: 2 };
    assert_eq!(search(&calls, &mut Number(&asked), 1000), impossible);
    calls[1].after = None;
    assert_eq!(search(&calls, &mut Number(&asked), 1000), Verdict::Linearizable);
}

#[test]
fn a_long_history_with_many_open_calls_is_quick() {
    let mut history = Vec::new();
    let mut value = 0;
    for step in 0..20_000 {
        let at = step * 10;
        match step % 500 {
            7 => history.push((Asked::Write(1_000_000 + step as u32), at, NEVER)),
            _ => {
                value += 1;
                history.push((Asked::Add(Some(value)), at, at + 25));
            }
        }
    }
    assert_eq!(check(&history), Verdict::Linearizable);
    history.push((Asked::Read(Some(0)), 300_000, 300_001));
    assert!(!matches!(check(&history), Verdict::Linearizable));
}

/// Whether any order explains the rest, by trying them all.
fn any_order(history: &[(Asked, u64, u64)], rest: &mut Vec<usize>, state: u32) -> bool {
    let asked: Vec<_> = history.iter().map(|(asked, ..)| *asked).collect();
    let is_open = |call: usize| history[call].2 == NEVER;
    if rest.iter().all(|call| is_open(*call)) {
        return true;
    }
    for place in 0..rest.len() {
        let call = rest[place];
        let waits = |other: &usize| !is_open(*other) && history[*other].2 < history[call].1;
        if rest.iter().any(waits) {
            continue;
        }
        if let Some(after) = Number(&asked).step(call, &state) {
            rest.remove(place);
            let found = any_order(history, rest, after);
            rest.insert(place, call);
            if found {
                return true;
            }
        }
    }
    false
}

fn histories() -> impl Strategy<Value = Vec<(Asked, u64, u64)>> {
    let asked = (0..3_u8, 0..4_u32);
    let one =
        (asked, 1..20_u64, 0..8_u64, 0..4_u8).prop_map(|((kind, value), call, took, open)| {
            let open = open == 0;
            let told = (!open).then_some(value);
            let asked = match kind {
                0 => Asked::Read(told),
                1 => Asked::Write(value),
                _ => Asked::Add(told),
            };
            (asked, call, if open { NEVER } else { call + took })
        });
    prop::collection::vec(one, 1..7)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_search_finds_an_order_if_there_is_one(history in histories()) {
        let all = &mut (0..history.len()).collect();
        let exists = any_order(&history, all, 0);
        prop_assert_eq!(check(&history) == Verdict::Linearizable, exists);
    }
}
