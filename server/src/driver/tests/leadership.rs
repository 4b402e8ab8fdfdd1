//! Batches whose leader is deposed while they wait for their entries.

use std::time::Duration;

use super::*;

/// Proposes on server 1, which is cut off from the others.
fn propose_alone(cluster: &mut Cluster, batches: &[&str]) -> Vec<Answer> {
    cluster.isolate(1);
    let answers: Vec<_> = batches.iter().map(|batch| cluster.play(1, batch)).collect();
    answers.iter().for_each(Answer::expect_none);
    answers
}

#[test]
fn an_entry_that_lost_is_routed_again_and_executed_once() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("n", "0")).expect("STORED\r\n");
    let answers = propose_alone(&mut cluster, &["incr n 1\r\nget n\r\n", "incr n 1\r\n"]);
    cluster.elect(2);
    cluster.play(2, "incr n 10\r\n").expect("10\r\n");
    cluster.heal();
    cluster.advance_ms(200);
    answers[0].expect(&["11\r\n", &hit("n", "11")].concat());
    answers[1].expect("12\r\n");
    cluster.play(1, "get n\r\n").expect(&hit("n", "12"));
}

#[test]
fn an_entry_that_a_new_leader_commits_is_answered_by_the_old_one() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("n", "0")).expect("STORED\r\n");
    let answer = cluster.ask(1, "incr n 1\r\n");
    cluster.turn(1);
    cluster.isolate(1);
    cluster.run();
    answer.expect_none();
    cluster.elect(2);
    cluster.heal();
    cluster.advance_ms(100);
    answer.expect("1\r\n");
    cluster.play(1, "get n\r\n").expect(&hit("n", "1"));
}

#[test]
fn the_rest_of_a_batch_whose_first_entries_survived_is_forwarded_and_appended() {
    // One entry is enough for an append, so that the second waits.
    let mut cluster = Cluster::with(3, |config| config.max_append_bytes = 1);
    cluster.elect(1);
    cluster.play(1, &set("n", "0")).expect("STORED\r\n");
    let answer = cluster.ask(1, "incr n 1\r\nget n\r\nincr n 1\r\nget n\r\n");
    cluster.turn(1);
    cluster.isolate(1);
    cluster.run();
    cluster.elect(2);
    cluster.heal();
    assert_eq!(cluster.take_sent(1, Kind::Requests), 0);
    cluster.advance_ms(200);
    answer.expect(&["1\r\n", &hit("n", "1"), "2\r\n", &hit("n", "2")].concat());
    assert_eq!(cluster.take_sent(1, Kind::Requests), 1, "the second entry was lost");
    cluster.play(3, "get n\r\n").expect(&hit("n", "2"));
}

#[test]
fn a_leader_that_was_deposed_and_elected_again_keeps_its_batches_apart() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("n", "0")).expect("STORED\r\n");
    let incr = "incr n 1\r\n";
    let answers = propose_alone(&mut cluster, &[incr; 6]);
    cluster.elect(2);
    let lost_from = cluster.last_index(2);
    assert!(cluster.last_index(1) > lost_from);
    // Server 1 takes the first entry of server 2 over, but has not applied it
    // when it is elected again: it proposes at indexes that lie before those
    // of its first term.
    cluster.slow_disk(1);
    cluster.heal();
    while cluster.last_index(1) > lost_from {
        cluster.play_slowly(1);
    }
    assert_eq!(cluster.driver(1).proposed.len(), 6, "nothing is decided yet");
    let now = cluster.now();
    cluster.driver(1).campaign(now);
    while !cluster.driver(1).is_leader() {
        cluster.play_slowly(1);
    }
    let again = cluster.play(1, incr);
    for _ in 0..20 {
        cluster.play_slowly(1);
    }
    let answers = answers.iter().chain([&again]);
    let mut replies: Vec<_> = answers.map(|a| a.text().expect("an answer")).collect();
    replies.sort();
    assert_eq!(replies, ["1", "2", "3", "4", "5", "6", "7"].map(|n| format!("{n}\r\n")));
    cluster.play(2, "get n\r\n").expect(&hit("n", "7"));
}

#[test]
fn a_forwarded_batch_that_lost_is_refused_so_that_its_sender_routes_it_again() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("n", "0")).expect("STORED\r\n");
    let answer = cluster.ask(3, "incr n 1\r\n");
    cluster.turn(3);
    // The requests arrive, and nothing leaves server 1 any more.
    cluster.isolate(1);
    cluster.run();
    assert_eq!(cluster.last_index(1), cluster.last_index(2) + 1);
    cluster.elect(2);
    cluster.heal();
    cluster.advance_ms(100);
    assert_eq!(cluster.take_sent(1, Kind::Refusal), 1);
    answer.expect("1\r\n");
    cluster.play(2, "get n\r\n").expect(&hit("n", "1"));
}

#[test]
fn an_outcome_that_is_unknown_at_the_deadline_is_said_to_be_and_stays_so() {
    let mut cluster = Cluster::led(1);
    cluster.slow_disk(1);
    let batch = ["get k\r\n", &set("k", "v"), "get k\r\nversion\r\n"].concat();
    let answer = cluster.play(1, &batch);
    cluster.advance_ms(1490);
    answer.expect_none();
    cluster.advance_ms(20);
    let version = common::front_end::VERSION_REPLY;
    let replies = [NO_LEADER, UNKNOWN, NO_LEADER, version, "\r\n"].concat();
    answer.expect(&replies);
    cluster.sync(1);
    answer.expect(&replies);
    cluster.play(1, "get k\r\n").expect(&hit("k", "v"));
    assert!(cluster.driver(1).proposed.is_empty());
}

#[test]
fn an_entry_that_loses_after_its_deadline_is_not_executed_again() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("n", "0")).expect("STORED\r\n");
    let answers = propose_alone(&mut cluster, &["incr n 1\r\n"]);
    cluster.elect(2);
    cluster.advance_ms(PAST_THE_DEADLINE_MS);
    answers[0].expect(UNKNOWN);
    cluster.heal();
    cluster.advance_ms(200);
    cluster.play(1, "get n\r\n").expect(&hit("n", "0"));
    assert!(cluster.driver(1).proposed.is_empty());
}

#[test]
fn a_write_without_leader_waits_for_one() {
    let mut cluster = Cluster::new(3);
    let here = cluster.play(1, &set("a", "1"));
    let there = cluster.play(2, &set("b", "2"));
    here.expect_none();
    cluster.elect(1);
    here.expect("STORED\r\n");
    there.expect("STORED\r\n");
}

#[test]
fn a_write_that_finds_no_leader_in_time_is_certainly_not_executed() {
    let mut cluster = Cluster::new(3);
    for id in [1, 2, 3] {
        cluster.isolate(id);
    }
    let answer = cluster.play(1, &[&set("k", "v"), "get k\r\nquit\r\n"].concat());
    cluster.advance_ms(PAST_THE_DEADLINE_MS);
    answer.expect(&[NO_LEADER, NO_LEADER].concat());
}

#[test]
fn the_time_behind_other_batches_counts() {
    let mut cluster = Cluster::new(3);
    for id in [1, 2, 3] {
        cluster.isolate(id);
    }
    let waited = Duration::from_millis(1000);
    let answers = [set("k", "v").as_str(), "get k\r\n"].map(|text| {
        let overdue = cluster.ask_after(1, REQUEST_DEADLINE, text);
        let late = cluster.ask_after(1, waited, text);
        cluster.run();
        overdue.expect(NO_LEADER);
        late
    });
    cluster.advance_ms(490);
    answers.iter().for_each(Answer::expect_none);
    cluster.advance_ms(20);
    answers.iter().for_each(|answer| answer.expect(NO_LEADER));
}

#[test]
fn where_somebody_leads_an_overdue_batch_is_still_executed() {
    let mut cluster = Cluster::led(3);
    let late = Duration::from_secs(60);
    let answers = [1, 2].map(|id| cluster.ask_after(id, late, &set("k", "v")));
    cluster.run();
    answers.iter().for_each(|answer| answer.expect("STORED\r\n"));
    let read = cluster.ask_after(2, late, "get k\r\n");
    cluster.run();
    read.expect(&hit("k", "v"));
    // But not waited for as long as another one.
    cluster.isolate(1);
    let answer = cluster.ask_after(1, late, &set("k", "v"));
    cluster.run();
    cluster.advance_ms(510);
    answer.expect(UNKNOWN);
}

#[test]
fn writes_wait_while_leadership_is_handed_over() {
    let mut cluster = Cluster::led(3);
    let now = cluster.now();
    cluster.driver(1).transfer(now, Some(raft::NodeId(3))).expect("a candidate");
    let answer = cluster.ask(1, &set("k", "v"));
    answer.expect_none();
    cluster.run();
    answer.expect("STORED\r\n");
    assert!(cluster.driver(3).is_leader());
}

#[test]
fn a_new_leader_does_not_stamp_behind_what_its_log_holds_unapplied() {
    let mut cluster = Cluster::led(3);
    let (late, early) = (cluster.now().wall_ms + 3_600_000, cluster.now().wall_ms);
    cluster.set_wall_clock(late);
    cluster.ask(1, &set("k", "1"));
    cluster.turn(1);
    cluster.isolate(1);
    cluster.run();
    cluster.set_wall_clock(early);
    // Server 2 leads on the vote of server 3, which does not get to its entries.
    cluster.slow_disk(3);
    let now = cluster.now();
    cluster.driver(2).campaign(now);
    cluster.run();
    cluster.sync(3);
    assert!(cluster.driver(2).is_leader());
    assert!(cluster.driver(2).keystore().clock_ms() < late, "nothing of it is applied");
    cluster.ask(2, &set("k", "2")).expect_none();
    assert_eq!(cluster.driver(2).clock_ms, late);
}
