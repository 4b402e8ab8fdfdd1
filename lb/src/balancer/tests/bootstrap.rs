use super::*;

#[test]
fn expected_servers_become_the_first_voters_in_their_order() {
    let mut world = World::new(2);
    let mut one = Server::fresh(1);
    let mut two = Server::fresh(2);
    // Registration order counts, not names or folders.
    world.connect(&mut two);
    assert_eq!(world.waiting_for(&two).as_deref(), Some("1 more server"));
    world.pass(250, &[&two]);
    world.connect(&mut one);
    assert!(world.waiting_for(&one).unwrap().contains("a second"));
    assert!(world.waiting_for(&two).unwrap().contains("a second"), "it is told of the change");

    world.pass(700, &[&one, &two]);
    assert_eq!(world.sent, [], "too early");
    world.pass(50, &[&one, &two]);
    let expected = vec![record(1, 2, true), record(2, 1, true)];
    assert_eq!(
        world.sent.iter().map(|(link, _)| *link).collect::<Vec<_>>(),
        [one.link, two.link],
        "nothing else is said, and the one that campaigns is told last"
    );
    assert_eq!(
        world.adoption(&two),
        Some(ToServer::Adopt {
            cluster: CLUSTER,
            id: ServerId(1),
            voters: expected.clone(),
            campaign: true
        })
    );
    assert_eq!(
        world.adoption(&one),
        Some(ToServer::Adopt {
            cluster: CLUSTER,
            id: ServerId(2),
            voters: expected.clone(),
            campaign: false
        })
    );
    assert_eq!(world.disk, Memory { cluster: Some(CLUSTER), voters: expected });
}

#[test]
fn registering_twice_is_registering_once() {
    let mut world = World::new(2);
    let mut one = Server::fresh(1);
    world.connect(&mut one);
    let first_link = one.link;
    world.connect(&mut one);
    assert_eq!(world.closed, [first_link], "the newer link replaces the older one");
    world.pass(3000, &[&one]);
    assert_eq!(world.balancer.cluster(), None, "one server twice is not two servers");
    assert_eq!(world.waiting_for(&one).as_deref(), Some("1 more server"));
}

#[test]
fn a_server_that_left_does_not_count() {
    let mut world = World::new(2);
    let mut one = Server::fresh(1);
    let mut two = Server::fresh(2);
    world.connect(&mut one);
    world.connect(&mut two);
    world.break_link(&one);
    world.pass(2000, &[&two]);
    assert_eq!(world.balancer.cluster(), None);
    world.connect(&mut one);
    assert!(world.adoption(&one).is_some());
    assert!(world.adoption(&two).is_some());
}

#[test]
fn an_adoption_that_got_lost_is_repeated_until_the_report_shows_it() {
    let mut world = World::new(2);
    let mut one = Server::fresh(1);
    let mut two = Server::fresh(2);
    world.connect(&mut one);
    world.connect(&mut two);
    world.pass(1000, &[&one, &two]);
    let adopt = world.adoption(&one).unwrap();
    one.adopt(&adopt);
    assert!(world.adoption(&two).is_some());
    world.pass(450, &[&one, &two]);
    assert_eq!(world.adoption(&two), None);
    world.pass(50, &[&one, &two]);
    let again = world.adoption(&two).unwrap();
    two.adopt(&again);
    world.pass(2000, &[&one, &two]);
    assert_eq!(world.adoption(&one), None);
    assert_eq!(world.adoption(&two), None);
}

#[test]
fn a_restart_in_the_middle_finishes_the_same_bootstrap() {
    let mut world = World::new(2);
    let mut one = Server::fresh(1);
    let mut two = Server::fresh(2);
    world.connect(&mut one);
    world.connect(&mut two);
    world.pass(1000, &[&one, &two]);
    let before = (world.adoption(&one), world.adoption(&two));

    // Neither adoption arrived; the other server is the first to be back, and
    // a third one is quicker than both.
    let mut world = world.restart(2);
    let mut three = Server::fresh(3);
    world.connect(&mut three);
    world.connect(&mut two);
    world.connect(&mut one);
    assert_eq!((world.adoption(&one), world.adoption(&two)), before);
    world.pass(3000, &[&one, &two, &three]);
    assert_eq!(world.adoption(&three), None);
}

#[test]
fn a_restart_between_two_adoptions_completes_the_second() {
    let mut world = World::new(2);
    let mut one = Server::fresh(1);
    let mut two = Server::fresh(2);
    world.connect(&mut one);
    world.connect(&mut two);
    world.pass(1000, &[&one, &two]);
    let adopt = world.adoption(&one).unwrap();
    one.adopt(&adopt);

    for memory in [world.disk.clone(), Memory::default()] {
        let mut world = World::with_memory(2, memory);
        let mut two = two.clone();
        let mut one = one.clone();
        world.connect(&mut one);
        world.connect(&mut two);
        let expected = ToServer::Adopt {
            cluster: CLUSTER,
            id: ServerId(2),
            voters: voters(2),
            campaign: false,
        };
        assert_eq!(world.adoption(&two), Some(expected), "with or without its memory");
    }
}

#[test]
fn nobody_is_adopted_before_the_memory_is_durable() {
    let mut world = World::new(2);
    world.disk_works = false;
    let mut one = Server::fresh(1);
    let mut two = Server::fresh(2);
    world.connect(&mut one);
    world.connect(&mut two);
    world.pass(3000, &[&one, &two]);
    assert_eq!(world.adoption(&one), None);
    assert!(world.waiting_for(&two).unwrap().contains("disk"));
    assert!(
        world.balancer.events().iter().any(|event| event.text.contains("no space left")),
        "{:?}",
        world.balancer.events()
    );
    world.disk_works = true;
    world.pass(1000, &[&one, &two]);
    assert!(world.adoption(&one).is_some());
    assert_eq!(world.disk.voters, voters(2));
}

#[test]
fn a_cluster_that_could_not_be_written_down_gives_way_to_one_that_exists() {
    let mut world = World::new(2);
    world.disk_works = false;
    let mut one = Server::fresh(11);
    let mut two = Server::fresh(12);
    world.connect(&mut one);
    world.connect(&mut two);
    world.pass(2000, &[&one, &two]);
    let mut old = Server::leader(1, 5, &voters(3));
    old.report.member = Some((OTHER_CLUSTER, ServerId(1)));
    world.connect(&mut old);
    world.disk_works = true;
    world.pass(2000, &[&one, &two, &old]);
    assert_eq!(world.refusal(&old), None);
    let expected = Memory { cluster: Some(OTHER_CLUSTER), voters: Vec::new() };
    assert_eq!(world.disk, expected);
    assert_eq!(world.rotation(), [1]);
}

#[test]
fn a_member_that_reports_within_the_second_prevents_a_second_cluster() {
    let mut world = World::new(2);
    let mut one = Server::fresh(11);
    let mut two = Server::fresh(12);
    world.connect(&mut one);
    world.connect(&mut two);
    world.pass(900, &[&one, &two]);
    let mut old = Server::follower(1, 5, &voters(3));
    old.report.member = Some((OTHER_CLUSTER, ServerId(1)));
    world.connect(&mut old);
    world.pass(5000, &[&one, &two, &old]);
    assert_eq!(world.balancer.cluster(), Some(OTHER_CLUSTER));
    assert_eq!(world.disk.cluster, Some(OTHER_CLUSTER), "and it is remembered");
    let waiting_for = world.waiting_for(&one).unwrap();
    assert!(waiting_for.contains("a leader of cluster"), "{waiting_for}");
    assert!(world.sent.iter().all(|(_, message)| !matches!(message, ToServer::Adopt { .. })));
}

#[test]
fn a_remembered_cluster_is_never_replaced() {
    let memory = Memory { cluster: Some(OTHER_CLUSTER), voters: voters(2) };
    let mut world = World::with_memory(2, memory.clone());
    let mut three = Server::fresh(3);
    let mut four = Server::fresh(4);
    world.connect(&mut three);
    world.connect(&mut four);
    world.pass(60_000, &[&three, &four]);
    assert!(world.sent.iter().all(|(_, message)| !matches!(message, ToServer::Adopt { .. })));
    assert_eq!(world.balancer.cluster(), Some(OTHER_CLUSTER));
    assert_eq!(world.disk, memory);
    let waiting_for = world.waiting_for(&three).unwrap();
    assert!(waiting_for.contains(&OTHER_CLUSTER.to_string()), "{waiting_for}");
}

#[test]
fn a_first_voter_that_was_removed_meanwhile_is_not_adopted_as_one() {
    let memory = Memory { cluster: Some(CLUSTER), voters: voters(3) };
    let mut world = World::with_memory(3, memory);
    let mut one = Server::follower(1, 4, &voters(2));
    let mut three = Server::fresh(3);
    world.connect(&mut one);
    world.connect(&mut three);
    world.pass(1000, &[&one, &three]);
    assert_eq!(world.adoption(&three), None, "the members no longer know it");
}

#[test]
fn one_server_is_enough_when_one_is_expected() {
    let mut world = World::new(1);
    let mut one = Server::fresh(1);
    world.connect(&mut one);
    world.pass(1000, &[&one]);
    let adopt = world.adoption(&one);
    assert!(matches!(adopt, Some(ToServer::Adopt { campaign: true, .. })), "{adopt:?}");
}
