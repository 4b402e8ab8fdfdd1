//! The leader is not seen from here, but servers that follow it are.

use super::*;

/// What the clock brings.
const TICK: Duration = Duration::from_millis(50);

/// Server 0 leads, and `relays` hand on to it.
fn unseen(world: &mut World, relays: &[u64]) {
    let relays: Vec<_> = relays.iter().copied().map(LinkId).collect();
    let led = Some((ServerId(0), 1));
    let routes = Routes { led, leader: None, readers: relays.clone(), relays };
    world.router.set_routes(world.now, routes);
    world.settle();
}

/// The leader has a new link.
fn is_back(world: &mut World) {
    world.links[0].closed.set(false);
    world.router.link_up(LinkId(0), world.links[0].clone());
    world.leads(0);
    world.settle();
}

fn frames(world: &World) -> usize {
    (0..3).map(|server| world.seen(server).len()).sum()
}

#[test]
fn writes_go_to_one_that_hands_them_on_and_then_back() {
    let mut world = World::new(Policy::Leader);
    let client = world.ask(SET);
    let first = world.only(0);
    world.lose(0);
    unseen(&mut world, &[1, 2]);
    let again = world.only(1);
    assert_eq!(again.ids, WriteIds { again: true, ..first.ids });
    world.reply(1, again.number, done("STORED\r\n"));
    assert_eq!(client.answer().unwrap(), "STORED\r\n");

    // It stays with that one, whoever is further along now.
    unseen(&mut world, &[2, 1]);
    let (write, read) = (world.ask(SET), world.ask("get k\r\n"));
    let seen = world.seen(1);
    assert_eq!(seen.len(), 2);

    is_back(&mut world);
    assert_eq!(frames(&world), 0, "what is on its way that way is answered that way");
    world.reply(1, seen[0].number, done("STORED\r\n"));
    world.reply(1, seen[1].number, done("END\r\n"));
    assert_eq!(write.answer().unwrap(), "STORED\r\n");
    assert_eq!(read.answer().unwrap(), "END\r\n");
    world.ask(SET);
    assert_eq!(world.only(0).ids.first_sequence, 3);
}

#[test]
fn who_does_not_hand_on_is_left_but_nobody_is_asked_without_a_pause() {
    let mut world = World::new(Policy::Leader);
    world.lose(0);
    unseen(&mut world, &[1, 2]);
    let clients = [world.ask(SET), world.ask("get k\r\n")];
    for seen in world.seen(1) {
        world.reply(1, seen.number, ForwardReply::NotLeader);
    }
    assert_eq!(frames(&world), 0);
    world.pass(TICK);
    let seen = world.seen(2);
    assert!(seen.len() == 2 && !seen[0].ids.again);
    for seen in &seen {
        world.reply(2, seen.number, ForwardReply::Lost);
    }
    assert_eq!(frames(&world), 0);
    world.pass(TICK);
    let seen = world.seen(1);
    assert!(seen.len() == 2 && seen[0].ids.again);
    world.reply(1, seen[0].number, done("STORED\r\n"));
    world.reply(1, seen[1].number, done("END\r\n"));
    assert!(clients.iter().all(|client| client.answer().is_some()));

    // All of them refuse for as long as the client waits.
    let client = world.ask(SET);
    let mut sent = 0;
    while client.answer().is_none() {
        for server in [1, 2] {
            for seen in world.seen(server) {
                sent += 1;
                world.reply(server, seen.number, ForwardReply::NotLeader);
            }
        }
        world.pass(TICK);
    }
    assert!((10..=31).contains(&sent), "{sent} frames in 1.5 s");
    world.assert_empty();
}

#[test]
fn the_next_one_is_asked_at_once_when_a_relay_is_lost() {
    let mut world = World::new(Policy::Leader);
    world.lose(0);
    unseen(&mut world, &[1, 2]);
    let client = world.ask("incr n 1\r\n");
    let first = world.only(1);
    world.lose(1);
    let again = world.only(2);
    assert_eq!(again.ids, WriteIds { again: true, ..first.ids });
    world.reply(2, again.number, done("1\r\n"));
    assert_eq!(client.answer().unwrap(), "1\r\n");
    world.assert_empty();
}

#[test]
fn a_new_leader_is_sent_what_went_to_the_old_one_by_a_relay() {
    let mut world = World::new(Policy::Leader);
    world.lose(0);
    unseen(&mut world, &[1, 2]);
    world.ask("incr n 1\r\n");
    let first = world.only(1);
    world.leads(2);
    assert_eq!(world.only(2).ids, WriteIds { again: true, ..first.ids });
}

#[test]
fn a_session_is_the_leaders_whichever_way_it_was_opened() {
    let mut world = World::new(Policy::Leader);
    world.router.session = Session::new(78);
    world.lose(0);
    unseen(&mut world, &[1, 2]);
    let client = world.ask(SET);
    world.open(1, ForwardReply::NotLeader);
    world.pass(TICK);
    is_back(&mut world);
    assert!(world.links[0].frames.borrow().is_empty(), "it is being opened");
    world.open(2, OPENED);
    let seen = world.only(0);
    world.reply(0, seen.number, done("STORED\r\n"));
    assert_eq!(client.answer().unwrap(), "STORED\r\n");
}

#[test]
fn a_write_that_is_refused_goes_to_the_leader_that_is_seen_by_now() {
    let mut world = World::new(Policy::Leader);
    world.lose(0);
    unseen(&mut world, &[1, 2]);
    let client = world.ask(SET);
    let first = world.only(1);
    is_back(&mut world);
    world.reply(1, first.number, ForwardReply::NotLeader);
    let again = world.only(0);
    assert_eq!(again.ids, first.ids, "nobody has executed it");
    world.reply(0, again.number, done("STORED\r\n"));
    assert_eq!(client.answer().unwrap(), "STORED\r\n");
}

#[test]
fn what_the_old_leader_has_not_answered_goes_on_when_it_hands_on_to_the_new_one() {
    let mut world = World::new(Policy::Leader);
    world.ask("incr n 1\r\n");
    let first = world.only(0);
    // Server 2 leads now, by the word of server 0.
    let (led, relays) = (Some((ServerId(2), 2)), vec![LinkId(0)]);
    let routes = Routes { led, leader: None, readers: relays.clone(), relays };
    world.router.set_routes(world.now, routes);
    let again = WriteIds { again: true, ..first.ids };
    assert_eq!(world.only(0).ids, again);
    world.leads(2);
    assert_eq!(world.only(2).ids, again);
}

#[test]
fn a_session_is_asked_for_at_once_when_the_way_is_another_one() {
    let mut world = World::new(Policy::Leader);
    world.router.session = Session::new(78);
    let client = world.ask(SET);
    assert_eq!(world.links[0].frames.borrow().len(), 1, "it is asked for and not answered");
    unseen(&mut world, &[1]);
    world.open(1, OPENED);
    let seen = world.only(1);
    world.reply(1, seen.number, done("STORED\r\n"));
    assert_eq!(client.answer().unwrap(), "STORED\r\n");
}
