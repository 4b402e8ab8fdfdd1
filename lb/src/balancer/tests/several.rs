//! Several load balancers, and servers that each of them sees.

use super::*;

/// What one load balancer tells a server, told to the other by its reports.
fn hear(server: &mut Server, other: &World) {
    server.report.heard_of = other.balancer.cluster();
}

#[test]
fn only_the_one_that_may_founds_a_cluster() {
    let (mut first, mut second) = (World::new(2), World::new(2));
    let mut servers = [Server::fresh(1), Server::fresh(2)];
    for server in &mut servers {
        let mut elsewhere = server.clone();
        elsewhere.report.may_found = false;
        second.connect(&mut elsewhere);
        second.pass(1100, &[&elsewhere]);
        let waiting_for = second.waiting_for(&elsewhere).unwrap();
        assert!(waiting_for.contains("only the load balancer with the smallest"), "{waiting_for}");
        first.connect(server);
    }
    second.pass(3000, &[]);
    assert_eq!(second.balancer.cluster(), None);
    first.pass(1500, &[&servers[0], &servers[1]]);
    assert_eq!(first.balancer.cluster(), Some(CLUSTER));

    // A member's report is all that the second one needs.
    let mut one = Server::leader(1, 1, &voters(2));
    second.connect(&mut one);
    assert_eq!(second.disk.cluster, Some(CLUSTER));
    assert_eq!(second.rotation(), [1]);
}

#[test]
fn none_is_founded_before_all_load_balancers_have_spoken() {
    let mut first = World::new(2);
    let mut servers = [Server::fresh(1), Server::fresh(2)];
    let silent = "127.0.0.1:5009".parse().unwrap();
    for server in &mut servers {
        server.report.unheard = vec![silent];
        first.connect(server);
    }
    first.pass(3000, &[&servers[0], &servers[1]]);
    assert_eq!(first.balancer.cluster(), None);
    let waiting_for = first.waiting_for(&servers[0]).unwrap();
    assert!(waiting_for.contains("load balancer 127.0.0.1:5009 to answer"), "{waiting_for}");
    servers[0].report.unheard.clear();
    first.pass(1000, &[&servers[0], &servers[1]]);
    assert_eq!(first.balancer.cluster(), None, "one server has not heard it yet");
    servers[1].report.unheard.clear();
    first.pass(1000, &[&servers[0], &servers[1]]);
    assert_eq!(first.balancer.cluster(), Some(CLUSTER));
}

/// It has lost its memory, and the members have yet to find it again.
#[test]
fn one_that_has_just_started_does_not_say_yet_that_it_knows_no_cluster() {
    let mut started = World::new(1);
    let mut fresh = Server::fresh(5);
    fresh.report.may_found = false;
    started.connect(&mut fresh);
    started.pass(900, &[&fresh]);
    assert!(started.received(&fresh).is_empty());
    let mut one = Server::leader(1, 1, &voters(1));
    started.connect(&mut one);
    let cluster = started.received(&fresh).into_iter().find_map(|told| match told {
        ToServer::Registered { cluster, .. } => Some(cluster),
        _ => None,
    });
    assert_eq!(cluster, Some(Some(CLUSTER)));

    // Nobody has found it in time; and the one that would found waits itself.
    let mut alone = World::new(1);
    alone.connect(&mut fresh);
    alone.pass(1100, &[&fresh]);
    assert!(alone.waiting_for(&fresh).is_some());
    let mut founder = World::new(2);
    fresh.report.may_found = true;
    founder.connect(&mut fresh);
    assert!(founder.waiting_for(&fresh).is_some(), "whoever starts it sees progress at once");
}

#[test]
fn one_without_memory_founds_nothing_where_another_knows_a_cluster() {
    let mut knows = World::new(1);
    let mut one = Server::leader(1, 1, &voters(1));
    knows.connect(&mut one);
    // Its only member does not know the one without memory, and no leader can
    // be asked: the fresh server waits, and says for what.
    let mut forgot = World::new(1);
    let mut fresh = Server::fresh(5);
    hear(&mut fresh, &knows);
    forgot.connect(&mut fresh);
    forgot.pass(5000, &[&fresh]);
    assert_eq!(forgot.balancer.cluster(), None);
    let waiting_for = forgot.waiting_for(&fresh).unwrap();
    assert!(waiting_for.contains(&CLUSTER.to_string()), "{waiting_for}");
    assert!(waiting_for.contains("another load balancer"), "{waiting_for}");
    // As soon as a member speaks up, it is admitted here, too.
    forgot.connect(&mut one);
    forgot.pass(500, &[&one, &fresh]);
    assert!(
        forgot.received(&one).iter().any(|told| matches!(told, ToServer::Admit { .. })),
        "the leader is asked"
    );
}

#[test]
fn load_balancers_of_two_clusters_do_not_share_a_server() {
    let mut world = World::new(1);
    let mut one = Server::leader(1, 1, &voters(1));
    world.connect(&mut one);
    let mut fresh = Server::fresh(5);
    fresh.report.heard_of = Some(OTHER_CLUSTER);
    world.connect(&mut fresh);
    let why = world.refusal(&fresh).unwrap();
    assert!(why.contains("load balancers of one cluster only"), "{why}");
}

#[test]
fn two_that_register_the_same_server_give_it_one_place() {
    let (mut first, mut second) = (World::new(1), World::new(1));
    let mut leader = Server::leader(1, 1, &voters(1));
    let mut late = Server::fresh(2);
    for world in [&mut first, &mut second] {
        let (mut leader, mut late) = (leader.clone(), late.clone());
        world.connect(&mut leader);
        world.connect(&mut late);
        let admit = ToServer::Admit { info: late.report.info.clone(), runs: Vec::new() };
        assert!(world.received(&leader).contains(&admit));
    }
    // Admission is idempotent by folder: whichever asked, the place is the same.
    leader.report.members.push(record(2, 2, false));
    let mut adoptions = Vec::new();
    for world in [&mut first, &mut second] {
        let (mut leader, mut late) = (leader.clone(), late.clone());
        world.connect(&mut leader);
        world.connect(&mut late);
        adoptions.push(world.adoption(&late).unwrap());
    }
    assert_eq!(adoptions[0], adoptions[1]);
    late.adopt(&adoptions[0]);
    first.connect(&mut late);
    assert_eq!(first.adoption(&late), None, "it has its place");
}

#[test]
fn a_fresh_server_that_nobody_can_reach_is_refused() {
    let mut world = World::new(1);
    let mut one = Server::leader(1, 1, &voters(1));
    world.connect(&mut one);
    let mut hidden = Server::fresh(2);
    world.unreachable.push(hidden.report.info.peer);
    world.connect(&mut hidden);
    let why = world.refusal(&hidden).unwrap();
    assert!(why.contains("127.0.0.1:6002") && why.contains("--sip"), "{why}");
    assert!(world.received(&one).iter().all(|told| !matches!(told, ToServer::Admit { .. })));

    // It comes back with an address that answers.
    hidden.report.info.peer = "127.0.0.1:6999".parse().unwrap();
    world.connect(&mut hidden);
    world.pass(2000, &[&one, &hidden]);
    assert!(world.received(&one).iter().any(|told| matches!(told, ToServer::Admit { .. })));
}
