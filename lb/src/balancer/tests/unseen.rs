//! The leader's link is lost, while other servers follow it happily.

use super::*;
use common::control::{Operation, Outcome};

/// Server 1 leads, as the others say; only they report.
fn unseen(world: &mut World, count: u16) -> Vec<Server> {
    let members = voters(count);
    let mut servers = vec![Server::leader(1, 3, &members)];
    servers.extend((2..=count).map(|number| Server::follower(number, 3, &members)));
    for server in &mut servers {
        server.report.leader = Some(ServerId(1));
        world.connect(server);
    }
    let leader = servers.remove(0);
    world.break_link(&leader);
    servers
}

fn led() -> Option<(ServerId, u64)> {
    Some((ServerId(1), 3))
}

fn links(servers: &[&Server]) -> Vec<LinkId> {
    servers.iter().map(|server| server.link).collect()
}

fn operator(world: &mut World, wanted: &Operation) -> LinkId {
    world.links += 1;
    let link = LinkId(world.links);
    let from = Party::Operator { name: "removesrv".to_owned() };
    let hello = Hello { version: PROTOCOL_VERSION, from };
    world.handle(Input::Opened { link, remote: info(9).peer, hello });
    let message = Box::new(ToLb::Operate(wanted.clone()));
    world.handle(Input::Message { link, message });
    link
}

fn outcome(world: &mut World, operator: LinkId) -> Option<Outcome> {
    let at = world.sent.iter().position(|(link, _)| *link == operator)?;
    match world.sent.remove(at).1 {
        ToServer::Operated(outcome) => Some(outcome),
        other => panic!("{other:?}"),
    }
}

#[test]
fn followers_hand_on_to_it_and_it_is_listed_first() {
    let mut world = World::new(2);
    let mut servers = unseen(&mut world, 3);
    servers[1].report.commit_index = 9;
    world.report(&servers[1]);
    let routes = world.balancer.routes();
    assert_eq!((routes.led, routes.leader), (led(), None));
    assert_eq!(routes.relays, links(&[&servers[1], &servers[0]]), "the one that is furthest along");
    assert_eq!(routes.readers, links(&[&servers[0], &servers[1]]));
    assert_eq!(world.rotation(), [1, 2, 3], "clients may reach it");
    assert_eq!(world.stat("lb.leader").unwrap(), "srv-1");
    assert_eq!(world.stat("lb.leader_seen").unwrap(), "0");
    assert_eq!(world.stat("lb.relay").unwrap(), "srv-3");
    let last = world.balancer.events().iter().last().unwrap();
    assert_eq!(last.severity, Severity::Warning);
    assert!(
        last.text.contains("srv-1 leads in term 3, but is not seen from here"),
        "{}",
        last.text
    );

    // One of two voters that are left is no majority, but knows the way.
    world.break_link(&servers[0]);
    assert_eq!(world.balancer.routes().relays, links(&[&servers[1]]));
    assert_eq!(world.rotation(), [3]);

    let mut leader = Server::leader(1, 3, &voters(3));
    leader.report.leader = Some(ServerId(1));
    world.connect(&mut leader);
    let routes = world.balancer.routes();
    assert_eq!((routes.led, routes.leader), (led(), Some(leader.link)));
    assert!(routes.relays.is_empty());
    assert_eq!(world.stat("lb.leader_seen").unwrap(), "1");
    assert_eq!(world.stat("lb.relay").unwrap(), "-");
}

#[test]
fn nobody_hands_on_to_a_leader_whose_end_somebody_has_seen() {
    let mut world = World::new(2);
    let mut servers = unseen(&mut world, 5);
    servers[0].report.leader = None;
    servers[0].report.gone_leader = Some((ServerId(1), 3));
    world.report(&servers[0]);
    assert_eq!(world.balancer.routes(), Routes::default());
    assert!(world.rotation().is_empty());
    // It was wrong.
    servers[0].report.leader = Some(ServerId(1));
    servers[0].report.gone_leader = None;
    world.report(&servers[0]);
    assert_eq!(world.balancer.routes().relays.len(), 4);
}

#[test]
fn the_newest_term_counts() {
    let members = voters(3);
    let mut world = World::new(2);
    let mut old = Server::leader(1, 3, &members);
    old.report.leader = Some(ServerId(1));
    world.connect(&mut old);
    assert_eq!(world.balancer.routes().leader, Some(old.link));
    // It leads nobody any more, which it does not know; who does is not seen.
    let mut follower = Server::follower(2, 4, &members);
    follower.report.leader = Some(ServerId(3));
    world.connect(&mut follower);
    let routes = world.balancer.routes();
    assert_eq!((routes.led, routes.leader), (Some((ServerId(3), 4)), None));
    assert_eq!(routes.relays, links(&[&follower]));
}

#[test]
fn orders_reach_it_over_a_server_that_follows() {
    let mut world = World::new(2);
    let servers = unseen(&mut world, 3);
    let wanted = Operation::Transfer { to: None };
    let asks = operator(&mut world, &wanted);
    let number = world
        .received(&servers[0])
        .into_iter()
        .find_map(|message| match message {
            ToServer::Operate { number, .. } => Some(number),
            _ => None,
        })
        .expect("the order");
    assert_eq!(outcome(&mut world, asks), None);
    let done = Outcome::HandsOver("srv-2".to_owned());
    let answer = ToLb::Operated { number, outcome: done.clone() };
    world.message(&servers[1], answer.clone());
    assert_eq!(outcome(&mut world, asks), None, "only who was asked has a say");
    world.message(&servers[0], answer);
    assert_eq!(outcome(&mut world, asks), Some(done));

    // An answer that got lost between the servers.
    let asks = operator(&mut world, &wanted);
    world.pass(3_100, &[&servers[0], &servers[1]]);
    assert!(matches!(outcome(&mut world, asks), Some(Outcome::Pending(_))));

    // A fresh server.
    let mut fresh = Server::fresh(4);
    world.connect(&mut fresh);
    let asked = world.received(&servers[0]);
    assert!(asked.iter().any(|message| matches!(message, ToServer::Admit { .. })), "{asked:?}");
}

#[test]
fn a_leader_that_says_itself_that_it_leads_no_more_is_not_believed_to() {
    let mut world = World::new(2);
    let members = voters(3);
    let mut servers = vec![Server::leader(1, 3, &members)];
    servers.extend((2..=3).map(|number| Server::follower(number, 3, &members)));
    for server in &mut servers {
        server.report.leader = Some(ServerId(1));
        world.connect(server);
    }
    // It has stepped down; the others have not heard yet.
    servers[0].report =
        Report { term: 4, leader: None, role: Role::Follower, ..servers[0].report.clone() };
    world.report(&servers[0]);
    let routes = world.balancer.routes();
    assert_eq!((routes.led, routes.relays), (None, vec![]));
}
