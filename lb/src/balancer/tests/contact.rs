use super::*;

fn cluster_of_three(world: &mut World) -> (Server, Server, Server) {
    let members = voters(3);
    let mut one = Server::leader(1, 3, &members);
    let mut two = Server::follower(2, 3, &members);
    let mut three = Server::follower(3, 3, &members);
    world.connect(&mut one);
    world.connect(&mut two);
    world.connect(&mut three);
    (one, two, three)
}

#[test]
fn a_silent_server_is_out_after_a_second() {
    let mut world = World::new(2);
    let (one, two, three) = cluster_of_three(&mut world);
    world.pass(500, &[&one, &two, &three]);
    world.pass(950, &[&one, &two]);
    assert_eq!(world.rotation(), [1, 2, 3]);
    world.pass(50, &[&one, &two]);
    assert_eq!(world.rotation(), [1, 2]);
    assert_eq!(world.stat("server.srv-3.state").as_deref(), Some("silent"));
    assert_eq!(world.stat("server.srv-3.role").as_deref(), Some("-"));
    world.report(&three);
    assert_eq!(world.rotation(), [1, 2, 3]);
}

#[test]
fn a_closed_link_and_a_goodbye_work_at_once() {
    let mut world = World::new(2);
    let (one, two, three) = cluster_of_three(&mut world);
    world.break_link(&three);
    assert_eq!(world.rotation(), [1, 2]);
    world.message(&two, ToLb::Goodbye);
    assert_eq!(world.rotation(), [1]);
    assert_eq!(world.stat("server.srv-2.state").as_deref(), Some("stopped"));
    world.report(&two);
    assert_eq!(world.rotation(), [1], "a report from before the goodbye");
    world.break_link(&one);
    assert!(world.rotation().is_empty());
    assert_eq!(world.balancer.view().get_servers, "end\r\n");
}

#[test]
fn a_restarted_server_is_the_same_one() {
    let mut world = World::new(2);
    let (one, two, mut three) = cluster_of_three(&mut world);
    let old = three.clone();
    three.report.pid = 999;
    three.report.role = Role::Follower;
    // The new process is here before the end of the old one is noticed.
    world.connect(&mut three);
    assert_eq!(world.closed, [old.link]);
    let registered =
        ToServer::Registered { lb: "lb-1".to_owned(), cluster: Some(CLUSTER), waiting_for: None };
    assert_eq!(world.received(&three), [registered]);
    world.break_link(&old);
    assert_eq!(world.rotation(), [1, 2, 3], "the older link means nothing any more");
    world.pass(1000, &[&one, &two, &three]);
    assert_eq!(world.stat("server.srv-3.pid").as_deref(), Some("999"));
    assert_eq!(world.balancer.registry().len(), 3);
}

#[test]
fn a_flapping_server_comes_and_goes_and_nothing_grows() {
    let mut world = World::new(2);
    let (one, two, mut three) = cluster_of_three(&mut world);
    for _ in 0..300 {
        world.break_link(&three);
        assert_eq!(world.rotation(), [1, 2]);
        world.pass(250, &[&one, &two]);
        world.connect(&mut three);
        assert_eq!(world.rotation(), [1, 2, 3]);
    }
    assert_eq!(world.balancer.registry().len(), 3);
    assert_eq!(world.balancer.links.len(), 3);
    assert_eq!(world.balancer.events().iter().count(), crate::events::MAX_EVENTS);
    assert_eq!(world.balancer.view().version, 100 + 3 + 600, "each change counts");
}

#[test]
fn a_stall_of_the_load_balancer_silences_nobody() {
    let mut world = World::new(2);
    let (one, two, three) = cluster_of_three(&mut world);
    world.pass(500, &[&one, &two, &three]);
    world.now += Duration::from_secs(5);
    world.handle(Input::Tick);
    assert_eq!(world.rotation(), [1, 2, 3]);
    world.report(&one);
    world.report(&two);
    world.pass(300, &[&one, &two]);
    assert_eq!(world.rotation(), [1, 2], "but one that is really gone is noticed");
}

#[test]
fn who_is_gone_and_in_no_membership_is_forgotten() {
    let mut world = World::new(2);
    let (one, two, three) = cluster_of_three(&mut world);
    let mut guest = Server::fresh(9);
    world.connect(&mut guest);
    world.break_link(&guest);
    world.break_link(&three);
    world.pass(61_000, &[&one, &two]);
    assert_eq!(world.stat("server.srv-9.state"), None);
    assert_eq!(world.stat("server.srv-3.state").as_deref(), Some("silent"));
}

#[test]
fn links_that_have_nothing_to_say_are_closed() {
    let mut world = World::new(2);
    let mut mute = Server::fresh(1);
    world.open(&mut mute);
    world.pass(4950, &[]);
    assert!(world.closed.is_empty());
    world.pass(50, &[]);
    assert_eq!(world.closed, [mute.link]);
}
