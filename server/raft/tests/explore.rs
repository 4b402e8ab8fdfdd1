//! Exhaustive small scopes: every interleaving of an election, of a change of
//! leaders with one entry, and of a membership change, to a stated depth, with
//! all invariants checked in every state.
//!
//! The depths of `cargo test` take a few seconds without optimisation.
//! `EXPLORE=deep cargo test --release -p store-raft --test explore --
//! --nocapture` goes as deep as the table in docs/testing.md says.
#![allow(dead_code, unreachable_pub, reason = "the explorer is a part of this test alone")]

mod explorer;

use explorer::{Budget, Report, Scope, explore};
use raft::{Change, NodeId};
use store_raft as raft;

fn scope(name: &'static str, budget: Budget, shallow: usize, deep: usize) -> Scope {
    let is_deep = std::env::var("EXPLORE").is_ok_and(|how| how == "deep");
    Scope {
        name,
        voters: 3,
        learners: 0,
        led: false,
        budget,
        changes: Vec::new(),
        depth: if is_deep { deep } else { shallow },
        lying_disk: false,
    }
}

fn run(scope: &Scope) -> Report {
    let report = explore(scope).unwrap_or_else(|(violation, story)| {
        panic!("{}: {violation}\nafter:\n{story}", scope.name);
    });
    let Report { states, steps, depth, complete, with_leader, with_two_leaders, .. } = report;
    println!(
        "{}: {states} states, {steps} steps, depth {depth}{}, {with_leader} with a leader, \
         {with_two_leaders} with two, {} with a commit, terms to {}, {:.1} s",
        scope.name,
        if complete { " (all there is)" } else { "" },
        report.with_commit,
        report.max_term,
        report.seconds,
    );
    report
}

/// Two elections at any two servers, a crash, a message that arrives twice.
#[test]
fn election() {
    let budget = Budget { hints: 2, crashes: 1, duplicates: 1, ..Budget::default() };
    let report = run(&scope("election", budget, 8, 11));
    assert!(report.with_leader > 0);
}

/// The same with timers, pre-votes and stickiness instead of hints.
#[test]
fn election_by_timeout() {
    let budget = Budget { timeouts: 3, crashes: 1, ..Budget::default() };
    let report = run(&scope("election by timeout", budget, 8, 12));
    assert!(report.max_term > 0);
}

/// A leader with one entry to replicate, and somebody else who campaigns.
#[test]
fn leader_change() {
    let budget = Budget { hints: 1, proposals: 1, crashes: 1, ..Budget::default() };
    let scope = Scope { led: true, ..scope("leader change", budget, 8, 12) };
    let report = run(&scope);
    assert!(report.with_commit > 0 && report.max_term > 1);
}

/// A voter is removed while another one campaigns.
#[test]
fn removal() {
    let budget = Budget { hints: 1, changes: 1, crashes: 1, ..Budget::default() };
    let changes = (1..=3).map(|id| Change::Remove(NodeId(id))).collect();
    let scope = Scope { led: true, changes, ..scope("removal", budget, 7, 10) };
    assert!(run(&scope).with_commit > 0);
}

/// A learner becomes the fourth voter while another one campaigns.
#[test]
fn promotion() {
    let budget = Budget { hints: 1, changes: 1, ..Budget::default() };
    let changes = vec![Change::Promote(NodeId(4))];
    let scope = Scope { led: true, learners: 1, changes, ..scope("promotion", budget, 9, 13) };
    assert!(run(&scope).max_term > 1);
}

/// The explorer finds what is wrong: a disk that lies about its sync.
#[test]
fn a_lying_disk_is_caught() {
    let budget = Budget { hints: 1, ..Budget::default() };
    let scope = Scope { lying_disk: true, ..scope("lying disk", budget, 4, 4) };
    let (violation, story) = explore(&scope).expect_err("a rule is broken");
    assert_eq!(violation.rule, "term and vote are durable before told");
    assert!(story.starts_with("Hint("), "the shortest way: {story}");
}
