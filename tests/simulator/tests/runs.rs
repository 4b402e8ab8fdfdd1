//! A few dozen seeds with every `cargo test`; many more with `cargo simulate`.

use simulator::{Bug, Hunt, Options, catch, on_a_runner};

fn hunt(options: Options, runs: u64) -> Vec<String> {
    let hunt = Hunt { options, runs, within: None, jobs: 2, first_only: false };
    let tally = hunt.play(|_, _| {});
    assert_eq!(tally.runs, runs);
    let failures = tally.failures.iter();
    failures
        .filter_map(|(options, report)| {
            let violation = report.violation.as_ref()?;
            Some(format!("cargo simulate --seed {}: {violation}", options.seed))
        })
        .collect()
}

#[test]
fn a_few_dozen_seeds_break_no_rule() {
    assert_eq!(hunt(Options::of_seed(1), 36), Vec::<String>::new());
}

#[test]
fn a_minute_of_churn_in_one_run() {
    let options = Options { churn_us: Some(60_000_000), ..Options::of_seed(1) };
    let report = on_a_runner(options);
    assert_eq!(report.violation, None);
    assert!(report.simulated_us >= 60_000_000 && report.rounds >= 2, "{report:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 12] {
        let options = Options { trace: true, ..Options::of_seed(seed) };
        let (one, other) = (on_a_runner(options), on_a_runner(options));
        assert!(!one.trace.is_empty());
        assert_eq!(one.trace, other.trace);
        assert_eq!(one.fingerprint, other.fingerprint);
        let untraced = on_a_runner(Options { trace: false, ..options });
        assert_eq!(untraced.fingerprint, one.fingerprint, "looking changes nothing");
    }
    let fingerprint = |seed| on_a_runner(Options::of_seed(seed)).fingerprint;
    assert_ne!(fingerprint(3), fingerprint(4));
}

#[test]
fn planted_bugs_are_caught() {
    for name in [
        "ack-before-sync",
        "vote-not-synced",
        "truncate-always",
        "learner-counts",
        "damage-for-tear",
        "learner-votes",
        "founds-unasked",
        "resent-under-other-ids",
        "lost-is-refused",
        "parked-dropped",
    ] {
        let bug = Bug::named(name).expect("a bug of that name");
        assert!(catch(bug, &[1], 2).median().is_some(), "{name} was missed");
    }
}

#[test]
fn names_of_bugs_are_unique() {
    for (name, bug, _) in simulator::BUGS {
        assert_eq!(Bug::named(name), Some(bug));
        assert_eq!(bug.name(), name);
    }
    assert_eq!(Bug::named("none such"), None);
}
