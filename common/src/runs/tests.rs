//! Chains of runs, and what is made of them.

use super::*;

#[test]
fn each_start_is_a_run_of_the_next_count() {
    let mut runs = Runs::default();
    assert_eq!(runs.last(), None);
    assert_eq!(runs.begin(7), Run { count: 1, nonce: 7 });
    assert_eq!(runs.begin(9), Run { count: 2, nonce: 9 });
    assert_eq!(runs.last(), Some(Run { count: 2, nonce: 9 }));
    assert_eq!(runs.chain(), [Run { count: 1, nonce: 7 }, Run { count: 2, nonce: 9 }]);
}

#[test]
fn a_confirmed_run_confirms_those_before_it() {
    let mut runs = Runs::default();
    let [first, second, third] = [1, 2, 3].map(|nonce| runs.begin(nonce));
    assert!(runs.confirm(second));
    assert!(!runs.confirm(second) && !runs.confirm(first), "no news");
    assert!(!runs.confirm(Run { nonce: 8, ..third }), "another folder's run");
    assert_eq!(runs, Runs { confirmed: vec![first, second], unconfirmed: vec![third] });
}

#[test]
fn what_is_kept_is_bounded_and_unconfirmed_runs_push_nothing_out() {
    let mut runs = Runs::default();
    for nonce in 1..=100 {
        let run = runs.begin(nonce);
        assert!(runs.confirm(run));
    }
    let parted = runs.last().unwrap();
    let counts = runs.chain().into_iter().map(|run| run.count);
    assert!(counts.eq(100 - MAX_CONFIRMED as u64 + 1..=100));
    for nonce in 200..300 {
        let begun = runs.begin(nonce);
        assert!(begun.count <= parted.count + MAX_UNCONFIRMED as u64);
        assert_eq!(runs.last(), Some(begun));
    }
    assert!(runs.chain().contains(&parted));
    assert_eq!(runs.chain().len(), MAX_CONFIRMED + MAX_UNCONFIRMED);
    // Once it is confirmed, runs are drawn again.
    let last = runs.last().unwrap();
    assert!(runs.confirm(last));
    assert_eq!(runs.begin(5).count, last.count + 1);
}
