//! What becomes of requests when a load balancer stops.

use super::*;

#[test]
fn one_that_stops_answers_what_it_has() {
    let mut world = World::new(Policy::Leader);
    let sent = world.ask(SET);
    let late = world.ask(SET);
    world.nobody_leads();
    let parked = world.ask(SET);
    world.router.stop(world.now);
    world.settle();
    assert_eq!(parked.answer().unwrap(), "SERVER_ERROR shutting down, not executed\r\n");
    let seen = world.seen(0);
    world.reply(0, seen[0].number, done("STORED\r\n"));
    assert_eq!(sent.answer().unwrap(), "STORED\r\n");
    world.pass(ANSWER_WITHIN);
    assert_eq!(late.answer().unwrap(), UNKNOWN_LINE);
    world.assert_empty();
}

#[test]
fn one_that_stops_waits_no_longer_when_a_server_is_lost_meanwhile() {
    let mut world = World::new(Policy::Leader);
    let sent = world.ask(SET);
    let second_run_is_late = world.ask("get a\r\nstats\r\nget b\r\n");
    world.router.stop(world.now);
    world.pass(ANSWER_WITHIN / 2);
    let read = world.seen(0)[1].number;
    world.reply(0, read, done("A\r\n"));
    world.lose(0);
    world.nobody_leads();
    assert_eq!(sent.answer(), None, "another leader may know");
    world.pass(ANSWER_WITHIN / 2);
    assert_eq!(sent.answer().unwrap(), UNKNOWN_LINE);
    assert_eq!(second_run_is_late.answer().unwrap().lines().last(), Some(SHUTTING_DOWN));
    world.assert_empty();
}
