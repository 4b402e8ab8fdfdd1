use super::*;

fn admissions(world: &mut World, leader: &Server) -> Vec<MemberInfo> {
    let received = world.received(leader).into_iter();
    received
        .filter_map(|message| match message {
            ToServer::Admit { info, .. } => Some(info),
            _ => None,
        })
        .collect()
}

#[test]
fn a_late_fresh_server_is_admitted_by_the_leader_and_then_adopted() {
    let mut world = World::new(2);
    let mut one = Server::leader(1, 3, &voters(2));
    let mut two = Server::follower(2, 3, &voters(2));
    let mut late = Server::fresh(3);
    world.connect(&mut one);
    world.connect(&mut two);
    world.connect(&mut late);
    assert_eq!(world.waiting_for(&late).as_deref(), Some("the leader to admit it"));
    assert_eq!(admissions(&mut world, &one), [info(3)]);
    world.pass(1000, &[&one, &two, &late]);
    assert_eq!(admissions(&mut world, &one).len(), 2, "asked again each 500 ms");
    assert_eq!(admissions(&mut world, &two).len(), 0);

    one.report.members.push(record(7, 3, false));
    world.report(&one);
    let expected =
        ToServer::Adopt { cluster: CLUSTER, id: ServerId(7), voters: Vec::new(), campaign: false };
    assert_eq!(world.adoption(&late), Some(expected.clone()));
    world.pass(500, &[&one, &two, &late]);
    assert_eq!(world.adoption(&late), Some(expected.clone()), "it still reports as fresh");
    late.adopt(&expected);
    world.pass(2000, &[&one, &two, &late]);
    assert_eq!(world.adoption(&late), None);
    assert_eq!(admissions(&mut world, &one).len(), 0);
    assert_eq!(world.rotation(), [1, 2, 3]);
}

#[test]
fn a_new_leader_is_asked_at_once() {
    let mut world = World::new(2);
    let mut one = Server::leader(1, 3, &voters(3));
    let mut two = Server::follower(2, 3, &voters(3));
    let mut late = Server::fresh(4);
    world.connect(&mut one);
    world.connect(&mut two);
    world.connect(&mut late);
    assert_eq!(admissions(&mut world, &one).len(), 1);
    world.pass(50, &[]);
    world.break_link(&one);
    let waiting_for = world.waiting_for(&late).unwrap();
    assert!(waiting_for.starts_with("a leader"), "{waiting_for}");
    two.report.role = Role::Leader;
    two.report.term = 4;
    world.report(&two);
    assert_eq!(admissions(&mut world, &two).len(), 1);
}

#[test]
fn what_the_leader_says_is_passed_on() {
    let mut world = World::new(2);
    let mut one = Server::leader(1, 3, &voters(2));
    let mut late = Server::fresh(3);
    world.connect(&mut late);
    world.connect(&mut one);
    let answer = |result| ToLb::Admitted { folder: FolderId(3), result };
    world.message(&one, answer(Err("a change is in flight".to_owned())));
    let waiting_for = world.waiting_for(&late).unwrap();
    assert!(waiting_for.ends_with("the leader says: a change is in flight"), "{waiting_for}");
    world.message(&one, answer(Ok(ServerId(3))));
    assert_eq!(world.waiting_for(&late).as_deref(), Some("the leader to admit it"));
    assert_eq!(world.adoption(&late), None, "only the leader's membership counts");
}

#[test]
fn a_load_balancer_that_lost_its_memory_learns_the_cluster_and_goes_on() {
    let mut world = World::new(2);
    let mut late = Server::fresh(3);
    let mut two = Server::follower(2, 3, &voters(2));
    let mut one = Server::leader(1, 3, &voters(2));
    world.connect(&mut late);
    world.connect(&mut two);
    assert_eq!(world.balancer.cluster(), Some(CLUSTER));
    world.connect(&mut one);
    assert_eq!(admissions(&mut world, &one).len(), 1);
    assert_eq!(world.disk, Memory { cluster: Some(CLUSTER), voters: Vec::new() });
}
