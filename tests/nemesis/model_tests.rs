//! The checks against histories that are known to be good or bad.

use super::history::{Action, Answer, Op};
use super::model::{check, check_counter};

/// On one key: what, from when, until when, what was answered.
fn history(ops: Vec<(Action, u64, u64, Answer)>) -> Vec<Op> {
    let op = |(number, (action, call, ret, answer)): (usize, _)| Op {
        client: number,
        batch: number as u64,
        key: "k".to_owned(),
        action,
        call,
        ret,
        answer,
    };
    ops.into_iter().enumerate().map(op).collect()
}

fn set(value: &str) -> Action {
    Action::Set(value.to_owned())
}

fn value(value: &str) -> Answer {
    Answer::Value(Some(value.to_owned()))
}

fn lost() -> Answer {
    Answer::Unknown("lost".to_owned())
}

fn refused() -> Answer {
    Answer::NotExecuted("SERVER_ERROR no leader, not executed".to_owned())
}

fn cas(expected: &str, value: &str) -> Action {
    Action::Cas { value: value.to_owned(), expected: expected.to_owned(), token: 1 }
}

#[track_caller]
fn good(ops: Vec<(Action, u64, u64, Answer)>) {
    assert_eq!(check(&history(ops)), Ok(1));
}

#[track_caller]
fn bad(ops: Vec<(Action, u64, u64, Answer)>, at: &str) {
    let why = check(&history(ops)).expect_err("this cannot be explained");
    assert!(why.starts_with("not linearizable") && why.contains(at), "{why}");
}

#[test]
fn stale_reads_are_found() {
    let writes = || vec![(set("a"), 1, 2, Answer::Stored), (set("b"), 3, 4, Answer::Stored)];
    let with = |read| [writes(), vec![read]].concat();
    good(with((Action::Get, 5, 6, value("b"))));
    good(with((Action::Get, 3, 6, value("a"))));
    bad(with((Action::Get, 5, 6, value("a"))), "Get -> Value(Some(\"a\"))");
    bad(with((Action::Get, 5, 6, Answer::Value(None))), "Get -> Value(None)");
}

#[test]
fn lost_updates_are_found() {
    let cas_twice = |second: Answer| {
        vec![
            (set("a"), 1, 2, Answer::Stored),
            (cas("a", "b"), 3, 6, Answer::Stored),
            (cas("a", "c"), 4, 5, second),
        ]
    };
    good(cas_twice(Answer::Exists));
    bad(cas_twice(Answer::Stored), "Cas");
    let append = |seen: &str| {
        vec![
            (set("a"), 1, 2, Answer::Stored),
            (Action::Append(".b".to_owned()), 3, 4, Answer::Stored),
            (Action::Append(".c".to_owned()), 5, 6, Answer::Stored),
            (Action::Get, 7, 8, value(seen)),
        ]
    };
    good(append("a.b.c"));
    bad(append("a.c"), "Get");
    bad(append("a.b.c.c"), "Get");
}

#[test]
fn an_increment_that_took_effect_twice_is_found() {
    let counted = |seen: u64| {
        vec![
            (set("0"), 1, 2, Answer::Stored),
            (Action::Incr(1), 3, 4, lost()),
            (Action::Incr(1), 5, 6, Answer::Number(seen)),
        ]
    };
    good(counted(1));
    good(counted(2));
    bad(counted(3), "Incr");
}

#[test]
fn what_is_not_known_may_have_taken_effect_or_not() {
    let then = |reads: [&str; 2]| {
        let mut ops = vec![
            (set("a"), 1, 2, Answer::Stored),
            (set("b"), 3, 4, lost()),
            (set("c"), 3, 5, lost()),
        ];
        for (number, read) in (0..).zip(reads) {
            ops.push((Action::Get, 10 + number * 2, 11 + number * 2, value(read)));
        }
        ops
    };
    for reads in [["a", "a"], ["a", "b"], ["b", "c"], ["c", "b"], ["c", "c"]] {
        good(then(reads));
    }
    bad(then(["b", "a"]), "Get");
}

#[test]
fn what_was_refused_must_not_take_effect() {
    let ops = |seen: &str| {
        vec![
            (set("a"), 1, 2, Answer::Stored),
            (set("b"), 3, 4, refused()),
            (Action::Get, 5, 6, value(seen)),
        ]
    };
    good(ops("a"));
    bad(ops("b"), "Get");
}

#[test]
fn a_token_names_one_value() {
    let ops = |second: &str| {
        history(vec![
            (set("a"), 1, 2, Answer::Stored),
            (set("b"), 1, 9, Answer::Stored),
            (Action::Gets, 3, 4, Answer::Token("a".to_owned(), 7)),
            (Action::Gets, 5, 6, Answer::Token(second.to_owned(), 7)),
        ])
    };
    assert_eq!(check(&ops("a")), Ok(1));
    assert!(check(&ops("b")).unwrap_err().contains("one token for two values"));
}

#[test]
fn a_counter_counts_every_number_once() {
    let count = |ops: &[(u64, u64, Answer)], last| {
        let ops: Vec<_> = ops.to_vec();
        let incr = |(call, ret, answer)| (Action::Incr(1), call, ret, answer);
        let ops = history(ops.into_iter().map(incr).collect());
        check_counter(&ops.iter().collect::<Vec<_>>(), last)
    };
    let number = Answer::Number;
    let known = [(1, 2, number(1)), (3, 4, number(2))];
    assert_eq!(count(&known, 2), Ok((2, 0)));
    assert!(count(&known, 1).unwrap_err().contains("the counter is 1"), "an update is lost");
    assert!(count(&known, 3).unwrap_err().contains("the counter is 3"), "one counts twice");
    let open = [(1, 2, number(1)), (3, 4, lost()), (5, 6, refused())];
    assert_eq!(count(&open, 1), Ok((1, 1)));
    assert_eq!(count(&open, 2), Ok((1, 1)));
    assert!(count(&open, 3).is_err());
    assert!(count(&[(1, 2, number(1)), (3, 4, number(1))], 2).unwrap_err().contains("twice"));
    assert!(count(&[(1, 2, number(2)), (3, 4, number(1))], 2).unwrap_err().contains("backwards"));
}
