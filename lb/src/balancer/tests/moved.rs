//! Members that come back at other addresses.

use super::*;

fn move_away(server: &mut Server) {
    server.report.info.peer.set_port(6500 + server.report.info.peer.port() % 100);
}

#[test]
fn the_leader_hears_where_a_member_is_now() {
    let mut world = World::new(2);
    let members = voters(2);
    let mut leader = Server::leader(1, 3, &members);
    let mut moved = Server::follower(2, 3, &members);
    moved.report.leader = Some(ServerId(1));
    move_away(&mut moved);
    let runs = vec![Run { count: 5, nonce: 1 }, Run { count: 6, nonce: 2 }];
    moved.report.runs.clone_from(&runs);
    world.connect(&mut leader);
    world.connect(&mut moved);
    let wanted = ToServer::Admit { info: moved.report.info.clone(), runs };
    assert!(world.received(&leader).contains(&wanted));

    leader.report.members[1].info = moved.report.info.clone();
    world.report(&leader);
    world.pass(5_000, &[&leader, &moved]);
    assert!(!world.received(&leader).contains(&wanted), "it knows");
    assert!(world.received(&moved).iter().all(|m| !matches!(m, ToServer::Whereabouts { .. })));
}

#[test]
fn members_without_a_leader_hear_where_the_others_are_now() {
    let mut world = World::new(2);
    let members = voters(3);
    let mut here = Server::follower(1, 3, &members);
    let mut moved = Server::follower(2, 3, &members);
    world.connect(&mut here);
    world.connect(&mut moved);
    let told = |world: &mut World, server: &Server| {
        let messages = world.received(server).into_iter();
        let told = messages.filter_map(|message| match message {
            ToServer::Whereabouts { members } => Some(members),
            _ => None,
        });
        told.reduce(|_, later| later)
    };
    assert_eq!(told(&mut world, &here), None, "nobody is astray");

    let back = moved.report.info.peer;
    world.break_link(&moved);
    move_away(&mut moved);
    world.connect(&mut moved);
    world.report(&here);
    assert_eq!(told(&mut world, &here), Some(vec![(ServerId(2), moved.report.info.peer)]));

    // What was said has to stay true.
    world.break_link(&moved);
    moved.report.info.peer = back;
    world.connect(&mut moved);
    world.report(&here);
    assert_eq!(told(&mut world, &here), Some(vec![(ServerId(2), back)]));
}
