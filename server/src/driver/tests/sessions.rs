//! Who gets a session while the table is full, and whose goes: by the order of
//! use, whatever the clocks say.

use super::*;
use crate::keystore::sessions::{Limits, MAX_SESSIONS};

const OK: &str = "OK\r\n";
const REFUSED: &str = "SERVER_ERROR too many sessions, not executed\r\n";
const AN_HOUR_MS: u64 = 3_600_000;

/// How long a session is spared, and a step more.
const SPARED_MS: u64 = 11_100;

/// The first of three servers leads, and the table has room for so many.
fn with_room_for(sessions: usize) -> Cluster {
    let mut cluster = Cluster::led(3);
    for id in 1..=3 {
        cluster.driver(id).keystore.limit_sessions(Limits { sessions, ..Limits::default() });
    }
    cluster.play(1, &set("n", "0")).expect("STORED\r\n");
    cluster
}

fn open(sessions: impl IntoIterator<Item = u64>) -> String {
    sessions.into_iter().map(|id| format!("session {id:x}\r\n")).collect()
}

fn incr(session: u64, sequence: u64) -> String {
    format!("incr n 1 @{session:x}.{sequence:x}.1\r\n")
}

/// The clock of the entries is an hour ahead of every clock on the wall.
fn leave_the_clock_ahead(cluster: &mut Cluster) {
    let wall_ms = cluster.now().wall_ms;
    cluster.set_wall_clock(wall_ms + AN_HOUR_MS);
    cluster.play(1, &set("hour", "1")).expect("STORED\r\n");
    cluster.set_wall_clock(wall_ms);
}

#[test]
fn a_clock_that_stands_still_refuses_nobody() {
    let mut cluster = Cluster::led(3);
    cluster.play(1, &set("n", "0")).expect("STORED\r\n");
    leave_the_clock_ahead(&mut cluster);
    let all: Vec<u64> = (1..=MAX_SESSIONS as u64).collect();
    for some in all.chunks(256) {
        cluster.play(1, &open(some.iter().copied())).expect(&OK.repeat(some.len()));
    }
    cluster.play(1, &open([0xf00d])).expect(REFUSED);
    // The one that would be first by its id.
    cluster.play(1, &incr(1, 1)).expect("1\r\n");
    cluster.advance_ms(SPARED_MS);
    cluster.play(1, &incr(2, 1)).expect("2\r\n");
    cluster.play(1, &open([0xf00d])).expect(OK);
    cluster.play(1, &incr(3, 1)).expect("SERVER_ERROR session unknown, not executed\r\n");
    cluster.play(1, "incr n 1 @1.1.1!\r\n").expect("1\r\n");
    cluster.play(1, "incr n 1 @2.1.1!\r\n").expect("2\r\n");
}

#[test]
fn a_pipeline_gets_as_many_as_were_not_used_lately() {
    let mut cluster = with_room_for(4);
    cluster.play(1, &open(1..=3)).expect(&OK.repeat(3));
    cluster.advance_ms(SPARED_MS);
    cluster.play(1, &incr(2, 1)).expect("1\r\n");
    // One place is free, and 1 and 3 rest.
    cluster.play(1, &open(11..=15)).expect(&[&OK.repeat(3), REFUSED, REFUSED].concat());
    cluster.play(1, "incr n 1 @2.1.1!\r\n").expect("1\r\n");
    // One that is open needs no place.
    cluster.play(1, &open([2, 16, 12])).expect(&[OK, REFUSED, OK].concat());
}

#[test]
fn what_is_under_way_counts_as_there() {
    let mut cluster = with_room_for(3);
    cluster.slow_disk(1);
    cluster.slow_disk(2);
    cluster.slow_disk(3);
    let first = cluster.play(1, &open([1, 2]));
    let second = cluster.play(1, &open([3, 4]));
    first.expect_none();
    second.expect_none();
    for _ in 0..20 {
        for id in 1..=3 {
            cluster.play_slowly(id);
        }
    }
    first.expect(&OK.repeat(2));
    second.expect(&[OK, REFUSED].concat());
}

#[test]
fn a_new_leader_spares_all_for_a_while() {
    let mut cluster = with_room_for(2);
    cluster.play(1, &open([1, 2])).expect(&OK.repeat(2));
    cluster.advance_ms(60_000);
    cluster.elect(2);
    cluster.play(2, &open([3])).expect(REFUSED);
    cluster.advance_ms(9_000);
    cluster.play(2, &open([3])).expect(REFUSED);
    cluster.advance_ms(2_000);
    cluster.play(2, &open([3])).expect(OK);
    cluster.play(2, &incr(1, 1)).expect("SERVER_ERROR session unknown, not executed\r\n");
    cluster.play(2, &incr(2, 1)).expect("1\r\n");
}

#[test]
fn sessions_that_a_jump_of_the_clock_has_ended_leave_room() {
    let mut cluster = with_room_for(2);
    cluster.play(1, &open([1, 2])).expect(&OK.repeat(2));
    cluster.play(1, &open([3])).expect(REFUSED);
    let wall_ms = cluster.now().wall_ms;
    cluster.set_wall_clock(wall_ms + AN_HOUR_MS);
    cluster.play(1, &open([3, 4, 5])).expect(&[&OK.repeat(2), REFUSED].concat());
    assert_eq!(cluster.driver(1).keystore.sessions().len(), 2);
}

#[test]
fn a_clock_that_is_far_behind_shows() {
    let mut cluster = with_room_for(2);
    let shows = |cluster: &mut Cluster, text: &str| {
        cluster.advance_ms(100);
        let answer = cluster.play(2, "stats raft\r\n").text().expect("an answer");
        assert!(answer.contains(&format!("STAT clock_behind_ms {text}")), "{answer}");
    };
    shows(&mut cluster, "0\r\n");
    leave_the_clock_ahead(&mut cluster);
    shows(&mut cluster, "3599");
    assert_eq!(cluster.driver(2).trouble(), None);
}
