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

/// A folder that was started so often, each time noted by the cluster.
fn folder(starts: u64) -> Runs {
    let mut runs = Runs::default();
    for nonce in 1..=starts {
        let run = runs.begin(nonce);
        runs.confirm(run);
    }
    runs
}

#[test]
fn a_folder_that_nobody_copied_is_taken_by_those_who_lag() {
    let mut runs = folder(100);
    runs.begin(1_000);
    let chain = runs.chain();
    assert_eq!(stale(None, &chain), None);
    for count in 1..=100 {
        // Further back than the chain reaches nothing can be said.
        assert_eq!(stale(Some(Run { count, nonce: count }), &chain), None, "{count}");
    }
    assert_eq!(stale(Some(Run { count: 101, nonce: 1_000 }), &chain), None);
    assert_eq!(stale(None, &[]), None, "an older program");
}

#[test]
fn of_two_copies_only_the_one_that_was_noted_is_taken() {
    for starts in [1, 5, 60] {
        let (mut one, mut other) = (folder(starts), folder(starts));
        let noted = one.begin(1_000);
        other.begin(2_000);
        assert_eq!(stale(Some(noted), &one.chain()), None);
        assert_eq!(stale(Some(noted), &other.chain()), Some(Stale::Copy));
        // Starting it often does not help it, nor does it push out where they parted.
        for nonce in 3_000..3_100 {
            other.begin(nonce);
            assert_eq!(stale(Some(noted), &other.chain()), Some(Stale::Copy));
        }
        // Nor that the other one has run on.
        for nonce in 4_000..4_100 {
            let noted = one.begin(nonce);
            one.confirm(noted);
            assert!(stale(Some(noted), &other.chain()).is_some());
        }
        // A copy of the one that was noted is as good, until they part again.
        let (mut copy, noted) = (one.clone(), one.begin(5_000));
        assert_eq!(stale(Some(noted), &copy.chain()), Some(Stale::Older));
        copy.begin(6_000);
        assert_eq!(stale(Some(noted), &copy.chain()), Some(Stale::Copy));
    }
}

#[test]
fn a_folder_that_was_put_back_is_turned_away() {
    let mut before = folder(3);
    let mut runs = before.clone();
    for nonce in 100..110 {
        let noted = runs.begin(nonce);
        runs.confirm(noted);
    }
    let noted = runs.last();
    assert_eq!(stale(noted, &before.chain()), Some(Stale::Older));
    before.begin(200);
    assert_eq!(stale(noted, &before.chain()), Some(Stale::Older));
    assert_eq!(stale(noted, &[]), Some(Stale::Older), "one that knows of no runs");
}

#[test]
fn only_so_much_of_a_chain_is_looked_at_and_its_gaps_are_no_runs() {
    let chain: Vec<_> = (1..=1_000).map(|count| Run { count, nonce: count }).collect();
    assert_eq!(newest(&chain).len(), MAX_CHAIN);
    assert_eq!(newest(&chain).last(), chain.last());
    let (first, third) = (Run { count: 1, nonce: 1 }, Run { count: 3, nonce: 3 });
    assert_eq!(stale(Some(Run { count: 2, nonce: 2 }), &[first, third]), Some(Stale::Copy));
}

#[test]
fn what_is_noted_never_goes_back() {
    let run = |count, nonce| Run { count, nonce };
    assert!(is_newer(run(1, 1), None) && is_newer(run(3, 1), Some(run(2, 9))));
    assert!(!is_newer(run(2, 1), Some(run(2, 9))) && !is_newer(run(1, 1), Some(run(2, 9))));
}

#[test]
fn who_is_turned_away_is_told_what_leads_on_without_load_balancers_too() {
    for stale in [Stale::Copy, Stale::Older] {
        let why = stale.explain("srv-2", ServerId(2));
        let told =
            ["server 2 (srv-2)", "move this folder away", "`store backup`", "`store restore`"];
        assert!(told.iter().all(|words| why.contains(words)), "{why}");
    }
}
