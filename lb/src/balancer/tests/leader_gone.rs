//! The leader's process ends, and the servers say so.

use super::*;

/// A leader, 1, and its followers.
fn led(world: &mut World, count: u16) -> Vec<Server> {
    let members = voters(count);
    let mut servers = vec![Server::leader(1, 3, &members)];
    servers.extend((2..=count).map(|number| Server::follower(number, 3, &members)));
    for server in &mut servers {
        server.report.leader = Some(ServerId(1));
        server.report.last_index = 10;
        world.connect(server);
    }
    servers
}

fn loses_its_leader(world: &mut World, server: &mut Server) {
    server.report.leader = None;
    server.report.gone_leader = Some((ServerId(1), 3));
    world.report(server);
}

/// The hints that were given to whom since the last look.
fn hints(world: &mut World, servers: &[Server]) -> Vec<(u16, u64)> {
    let mut hints = Vec::new();
    for (number, server) in (1..).zip(servers) {
        for message in world.received(server) {
            if let ToServer::Campaign { term } = message {
                hints.push((number, term));
            }
        }
    }
    hints
}

#[test]
fn a_majority_is_believed_and_the_longest_log_is_told() {
    let mut world = World::new(2);
    let mut servers = led(&mut world, 3);
    servers[2].report.last_index = 11;
    loses_its_leader(&mut world, &mut servers[1]);
    assert_eq!(world.rotation(), [1, 2, 3], "one of three may err");
    assert_eq!(hints(&mut world, &servers), []);
    loses_its_leader(&mut world, &mut servers[2]);
    assert_eq!(hints(&mut world, &servers), [(3, 3)]);
    assert!(world.rotation().is_empty());
    assert_eq!(world.balancer.routes(), Routes::default());
    assert_eq!(world.closed, [servers[0].link]);
    // Once is enough.
    let alive = [servers[1].clone(), servers[2].clone()];
    world.pass(1000, &[&alive[0], &alive[1]]);
    assert_eq!(hints(&mut world, &servers), []);
}

#[test]
fn of_equal_logs_the_smallest_id_is_told() {
    let mut world = World::new(2);
    let mut servers = led(&mut world, 5);
    for number in [4, 2, 3] {
        loses_its_leader(&mut world, &mut servers[number]);
    }
    assert_eq!(hints(&mut world, &servers), [(3, 3)]);
}

#[test]
fn who_only_lost_sight_of_it_counts_once_somebody_has_seen_it() {
    let mut world = World::new(2);
    let mut servers = led(&mut world, 3);
    for server in &mut servers[1..] {
        server.report.leader = None;
        world.report(server);
    }
    assert_eq!(hints(&mut world, &servers), []);
    assert_eq!(world.rotation(), [1, 2, 3]);
    loses_its_leader(&mut world, &mut servers[2]);
    assert_eq!(hints(&mut world, &servers), [(2, 3)]);
}

#[test]
fn neither_the_dead_nor_learners_nor_the_silent_count() {
    let mut world = World::new(2);
    let mut members = voters(4);
    members.push(record(5, 5, false));
    let mut servers: Vec<_> = (1..=5)
        .map(|number| {
            let role = [Role::Leader, Role::Follower][usize::from(number > 1)];
            let mut server = Server::member(number, role, 3, &members);
            server.report.leader = Some(ServerId(1));
            world.connect(&mut server);
            server
        })
        .collect();
    // Of the dead one nothing but what it said while it led.
    loses_its_leader(&mut world, &mut servers[1]);
    loses_its_leader(&mut world, &mut servers[4]);
    loses_its_leader(&mut world, &mut servers[2]);
    let gone = servers[3].clone();
    loses_its_leader(&mut world, &mut servers[3]);
    assert_eq!(hints(&mut world, &servers), [(2, 3)], "three of four voters");
    world.break_link(&gone);

    let mut world = World::new(2);
    let mut servers = led(&mut world, 3);
    loses_its_leader(&mut world, &mut servers[1]);
    let silent = servers[1].clone();
    world.break_link(&silent);
    loses_its_leader(&mut world, &mut servers[2]);
    assert_eq!(hints(&mut world, &servers), []);
}

#[test]
fn those_who_campaign_already_need_no_hint_but_the_dead_one_is_out() {
    let mut world = World::new(2);
    let mut servers = led(&mut world, 3);
    servers[1].report.role = Role::Candidate;
    servers[1].report.term = 4;
    loses_its_leader(&mut world, &mut servers[1]);
    loses_its_leader(&mut world, &mut servers[2]);
    assert_eq!(hints(&mut world, &servers), []);
    assert!(world.rotation().is_empty());
    // The election goes on among them.
    for server in &mut servers[1..] {
        server.report.term = 5;
        loses_its_leader(&mut world, server);
    }
    assert_eq!(hints(&mut world, &servers), []);
    servers[1].report = Report {
        role: Role::Leader,
        leader: Some(ServerId(2)),
        gone_leader: None,
        dismissed: Vec::new(),
        ..servers[1].report.clone()
    };
    world.report(&servers[1]);
    assert_eq!(world.rotation(), [2, 3]);
}

#[test]
fn the_next_leader_that_goes_is_another_case_and_who_comes_back_is_back() {
    let mut world = World::new(2);
    let mut servers = led(&mut world, 3);
    loses_its_leader(&mut world, &mut servers[1]);
    loses_its_leader(&mut world, &mut servers[2]);
    assert_eq!(hints(&mut world, &servers), [(2, 3)]);
    // A false alarm: it registers again, and leads on.
    let mut one = servers[0].clone();
    world.connect(&mut one);
    for server in &mut servers[1..] {
        server.report.leader = Some(ServerId(1));
        server.report.gone_leader = None;
        world.report(server);
    }
    assert_eq!(world.rotation(), [1, 2, 3]);
    for server in &mut servers[1..] {
        server.report.term = 5;
        server.report.leader = None;
        server.report.gone_leader = Some((ServerId(1), 5));
        world.report(server);
    }
    assert_eq!(hints(&mut world, &servers), [(2, 5)]);
}
