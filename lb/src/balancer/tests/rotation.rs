use super::*;

#[test]
fn the_leader_comes_first_then_the_others_and_learners_last() {
    let mut world = World::new(2);
    let mut members = voters(6);
    members[0].voter = false;
    let mut servers: Vec<Server> =
        (1..=6).map(|number| Server::follower(number, 3, &members)).collect();
    servers[0].report.role = Role::Learner;
    for server in &mut servers {
        world.connect(server);
    }
    assert!(world.rotation().is_empty(), "no leader, nobody");
    assert_eq!(world.balancer.view().version, 100);

    servers[3].report.role = Role::Leader;
    world.report(&servers[3]);
    assert_eq!(world.rotation(), [4, 2, 3, 5, 6], "five at most");
    world.break_link(&servers[2]);
    assert_eq!(world.rotation(), [4, 2, 5, 6, 1]);
    assert_eq!(world.balancer.view().version, 102);
    world.report(&servers[3]);
    assert_eq!(world.balancer.view().version, 102, "nothing new, no new version");
}

/// The numbers of the servers that a client is told of.
fn told(world: &mut World, policy: Policy) -> Vec<u16> {
    let mut out = BytesMut::new();
    world.balancer.get_servers(policy, &mut out);
    let servers = common::discovery::parse_get_servers(&out).unwrap();
    servers.unwrap().into_iter().map(|server| server.port() - 7000).collect()
}

#[test]
fn each_client_is_sent_to_the_next_server() {
    let mut world = World::new(2);
    let mut members = voters(7);
    members[6].voter = false;
    assert!(told(&mut world, Policy::RoundRobin).is_empty());
    let mut servers: Vec<Server> =
        (1..=7).map(|number| Server::follower(number, 3, &members)).collect();
    servers[6].report.role = Role::Learner;
    for server in &mut servers {
        world.connect(server);
    }
    assert!(told(&mut world, Policy::RoundRobin).is_empty(), "no leader, nobody");
    servers[2].report.role = Role::Leader;
    world.report(&servers[2]);
    let (version, config) = {
        let view = world.balancer.view();
        (view.version, view.config.clone())
    };
    let first: Vec<_> = (0..6).map(|_| told(&mut world, Policy::RoundRobin)[0]).collect();
    assert_eq!(first, [1, 2, 3, 4, 5, 6], "the leader is one of them, who catches up is not");
    assert_eq!(told(&mut world, Policy::RoundRobin), [1, 2, 3, 4, 5], "five at most");
    assert_eq!(told(&mut world, Policy::RoundRobin), [2, 3, 4, 5, 6]);
    assert_eq!(told(&mut world, Policy::Leader), [3, 1, 2, 4, 5]);
    world.break_link(&servers[3]);
    world.break_link(&servers[4]);
    let mut all = told(&mut world, Policy::RoundRobin);
    assert_eq!(all.last(), Some(&7), "who catches up is last");
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3, 6, 7]);
    assert_eq!(world.balancer.view().version, version + 2, "two have left, nothing else");
    assert_ne!(world.balancer.view().config, config);
}

#[test]
fn the_least_loaded_is_named_first() {
    let mut world = World::new(2);
    let mut servers: Vec<Server> =
        (1..=3).map(|number| Server::follower(number, 3, &voters(3))).collect();
    servers[0].report.role = Role::Leader;
    for (server, connections) in servers.iter_mut().zip([5, 2, 9]) {
        server.report.connections = connections;
        world.connect(server);
    }
    assert_eq!(told(&mut world, Policy::LeastLoaded), [2, 1, 3]);
    // Until it reports again, whom it was named to counts.
    let first: Vec<_> = (0..5).map(|_| told(&mut world, Policy::LeastLoaded)[0]).collect();
    assert_eq!(first[..2], [2, 2]);
    let later = [first[2], first[3], first[4]];
    assert!(later.contains(&1) && later.contains(&2), "{first:?}");
    servers[1].report.connections = 1;
    world.report(&servers[1]);
    assert_eq!(told(&mut world, Policy::LeastLoaded)[0], 2);
}

#[test]
fn a_leader_of_an_earlier_term_is_not_the_leader() {
    let mut world = World::new(2);
    let mut old = Server::leader(1, 3, &voters(3));
    let mut new = Server::leader(2, 4, &voters(3));
    world.connect(&mut new);
    world.connect(&mut old);
    assert_eq!(world.rotation(), [2, 1]);
    assert_eq!(world.stat("lb.leader").as_deref(), Some("srv-2"));
    // The new one is gone: the old one still claims to lead.
    world.break_link(&new);
    assert_eq!(world.rotation(), [1]);
}

#[test]
fn fresh_servers_are_not_in_the_rotation() {
    let mut world = World::new(2);
    world.connect(&mut Server::leader(1, 3, &voters(1)));
    world.connect(&mut Server::fresh(2));
    assert_eq!(world.rotation(), [1]);
}

#[test]
fn stats_tell_all_there_is_to_know() {
    let mut world = World::new(2);
    assert_eq!(world.stat("lb.cluster").as_deref(), Some("-"));
    assert_eq!(world.stat("lb.bootstrapped").as_deref(), Some("0"));

    let mut members = voters(3);
    members[1].voter = false;
    let mut one = Server::leader(1, 3, &members);
    one.report.last_index = 1000;
    one.report.keys = 42;
    let mut two = Server::member(2, Role::Learner, 3, &members);
    two.report.last_index = 900;
    two.report.leader = Some(ServerId(1));
    world.connect(&mut two);
    world.connect(&mut one);
    world.now += Duration::from_millis(90_120);

    let expected = [
        ("lb.name", "lb-1"),
        ("lb.uptime_secs", "90"),
        ("lb.cluster", "000000000000000000000000000000c1"),
        ("lb.leader", "srv-1"),
        ("lb.expect", "2"),
        ("lb.bootstrapped", "1"),
        ("server.srv-1.role", "leader"),
        ("server.srv-1.state", "live"),
        ("server.srv-1.voter", "1"),
        ("server.srv-1.lag", "0"),
        ("server.srv-1.keys", "42"),
        ("server.srv-1.leader", "-"),
        ("server.srv-1.heard_ms", "90120"),
        ("server.srv-2.lag", "100"),
        ("server.srv-2.leader", "1"),
        ("server.srv-2.voter", "0"),
        ("server.srv-2.client", "127.0.0.1:7002"),
        ("server.srv-2.peer", "127.0.0.1:6002"),
        ("server.srv-2.folder", "00000000000000000000000000000002"),
        // Never heard of but from the leader.
        ("server.srv-3.state", "silent"),
        ("server.srv-3.id", "3"),
        ("server.srv-3.role", "-"),
    ];
    for (key, value) in expected {
        assert_eq!(world.stat(key).as_deref(), Some(value), "{key}");
    }
    let text = world.stats();
    assert!(text.ends_with("\r\nEND\r\n"));
    let mut lines = text.lines().filter(|line| *line != "END");
    assert!(lines.all(|line| line.split(' ').count() == 3 && line.starts_with("STAT ")));

    let events = crate::stats::events(&world.balancer, world.now);
    assert!(events.contains("STAT event.1 90120 "), "{events}");
    assert!(events.contains("srv-1 leads in term 3"), "{events}");
}

#[test]
fn stats_tell_voters_learners_and_removed_servers_apart() {
    let mut world = World::new(2);
    let mut members = voters(3);
    members[2].voter = false;
    let mut one = Server::leader(1, 1, &members);
    // It has been away and does not know that it was removed.
    let mut four = Server::follower(4, 1, &voters(4));
    let mut fresh = Server::fresh(5);
    for server in [&mut one, &mut four, &mut fresh] {
        world.connect(server);
    }
    let vote = |number: u16| world.stat(&format!("server.srv-{number}.vote")).unwrap();
    let votes: Vec<_> = (1..=5).map(vote).collect();
    assert_eq!(votes, ["voter", "voter", "learner", "removed", "-"]);
}
