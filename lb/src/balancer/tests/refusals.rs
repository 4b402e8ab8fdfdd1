use super::*;
use common::control::Run;

/// What is wrong with a server, and words of the refusal.
type Case = (fn(&mut MemberInfo), &'static str);

/// A refusal says why, counts for nothing, and ends the link.
fn assert_refused(world: &mut World, server: &Server, words: &[&str]) {
    let why = world.refusal(server).expect("it was not refused");
    for word in words {
        assert!(why.contains(word), "{why:?} lacks {word:?}");
    }
    assert!(
        world.balancer.events().iter().any(|event| event.text.contains(&why)),
        "the reason is on both sides"
    );
    world.report(server);
    assert_eq!(world.refusal(server), None, "said once");
    world.pass(1000, &[]);
    assert!(world.closed.contains(&server.link));
}

#[test]
fn a_server_of_another_cluster() {
    let mut world = World::new(2);
    let mut one = Server::leader(1, 3, &voters(2));
    world.connect(&mut one);
    let mut stray = Server::leader(4, 9, &voters(2));
    stray.report.member = Some((OTHER_CLUSTER, ServerId(4)));
    world.connect(&mut stray);
    assert_eq!(world.rotation(), [1]);
    assert_refused(&mut world, &stray, &[&CLUSTER.to_string(), &OTHER_CLUSTER.to_string()]);
    assert_eq!(world.disk.cluster, Some(CLUSTER));
}

#[test]
fn an_id_that_belongs_to_another_folder() {
    let mut world = World::new(2);
    let mut one = Server::leader(1, 3, &voters(2));
    world.connect(&mut one);
    // Server 2 is not even running.
    let mut impostor = Server::follower(2, 3, &voters(2));
    impostor.report.info = info(8);
    world.connect(&mut impostor);
    assert_refused(&mut world, &impostor, &["id 2", "srv-2", "empty folder"]);
}

#[test]
fn an_id_that_is_alive_elsewhere_without_a_leader_to_ask() {
    let mut world = World::new(2);
    let mut two = Server::follower(2, 3, &voters(2));
    world.connect(&mut two);
    let mut impostor = Server::follower(2, 3, &voters(2));
    impostor.report.info = info(8);
    world.connect(&mut impostor);
    assert_eq!(world.refusal(&impostor), None, "two might have died a moment ago");
    world.pass(500, &[&two, &impostor]);
    assert_refused(&mut world, &impostor, &["the id 2", "live server srv-2"]);
    assert_eq!(world.balancer.registry().len(), 1);
}

#[test]
fn a_copied_folder() {
    let mut world = World::new(2);
    let mut one = Server::leader(1, 3, &voters(2));
    world.connect(&mut one);
    let mut copy = one.clone();
    copy.report.info.peer = "127.0.0.1:6999".parse().unwrap();
    copy.report.info.client = "127.0.0.1:7999".parse().unwrap();
    world.connect(&mut copy);
    world.pass(500, &[&one, &copy]);
    assert_refused(&mut world, &copy, &["copy", "srv-1", "127.0.0.1:6001"]);
    world.report(&one);
    assert_eq!(world.rotation(), [1]);
}

#[test]
fn a_server_that_moved_is_taken_in_once_its_ghost_is_silent() {
    let mut world = World::new(2);
    let mut one = Server::leader(1, 3, &voters(2));
    world.connect(&mut one);
    one.report.info.peer = "127.0.0.1:6999".parse().unwrap();
    one.report.info.client = "127.0.0.1:7999".parse().unwrap();
    world.connect(&mut one);
    assert_eq!(world.received(&one), []);
    world.pass(1250, &[&one]);
    assert_eq!(world.refusal(&one), None);
    assert_eq!(world.rotation(), [999]);
    assert_eq!(world.balancer.registry().len(), 1);
}

#[test]
fn names_and_addresses_of_live_servers() {
    let cases: [Case; 3] = [
        (|info| info.name = "srv-1".to_owned(), "name srv-1"),
        (|info| info.peer = "127.0.0.1:6001".parse().unwrap(), "UDP address 127.0.0.1:6001"),
        (|info| info.client = "127.0.0.1:7001".parse().unwrap(), "client address 127.0.0.1:7001"),
    ];
    for (change, words) in cases {
        let mut world = World::new(3);
        let mut one = Server::fresh(1);
        world.connect(&mut one);
        let mut later = Server::fresh(2);
        change(&mut later.report.info);
        world.connect(&mut later);
        world.pass(500, &[&one, &later]);
        assert_refused(&mut world, &later, &[words, "srv-1"]);
        assert_eq!(world.balancer.registry().len(), 1);
    }
}

#[test]
fn a_wiped_server_at_the_old_address_is_taken_in_once_its_ghost_is_silent() {
    let mut world = World::new(2);
    let mut one = Server::fresh(1);
    world.connect(&mut one);
    let mut wiped = one.clone();
    wiped.report.info.folder = FolderId(77);
    world.connect(&mut wiped);
    world.pass(1250, &[&wiped]);
    assert_eq!(world.waiting_for(&wiped).as_deref(), Some("1 more server"));
    assert_eq!(world.stat("server.srv-1.state").as_deref(), Some("fresh"));
    assert_eq!(world.balancer.registry().len(), 1, "its ghost does not come back");
}

#[test]
fn names_and_addresses_that_nobody_can_use() {
    let cases: [Case; 5] = [
        (|info| info.name = String::new(), "--name"),
        (|info| info.name = "two words".to_owned(), "--name"),
        (|info| info.name = "n".repeat(65), "64"),
        (|info| info.client = "0.0.0.0:7001".parse().unwrap(), "0.0.0.0:7001"),
        (|info| info.peer = "127.0.0.1:0".parse().unwrap(), "127.0.0.1:0"),
    ];
    for (change, words) in cases {
        let mut world = World::new(2);
        let mut server = Server::fresh(1);
        change(&mut server.report.info);
        world.connect(&mut server);
        assert_refused(&mut world, &server, &[words]);
    }
}

#[test]
fn a_link_for_two_folders() {
    let mut world = World::new(2);
    let mut one = Server::fresh(1);
    world.connect(&mut one);
    let mut two = Server::fresh(2);
    two.link = one.link;
    world.report(&two);
    assert_refused(&mut world, &two, &["a link for each folder"]);
    assert_eq!(world.stat("server.srv-1.state").as_deref(), Some("stopped"));
}

#[test]
fn another_load_balancer_is_turned_away() {
    let mut world = World::new(2);
    let from = Party::LoadBalancer { name: "lb-2".to_owned() };
    let hello = Hello { version: PROTOCOL_VERSION, from };
    let remote = "127.0.0.1:5001".parse().unwrap();
    world.handle(Input::Opened { link: LinkId(5), remote, hello });
    assert_eq!(world.closed, [LinkId(5)]);
}

#[test]
fn a_folder_that_is_a_copy_or_older_than_what_has_run() {
    let run = |count, nonce| Run { count, nonce };
    let mut members = voters(3);
    members[1].info.run = Some(run(5, 1));
    for (chain, words) in [
        (vec![run(4, 1), run(5, 2)], "a copy of the folder"),
        (vec![run(3, 1), run(4, 1)], "an older state of the folder"),
        (Vec::new(), "an older state of the folder"),
    ] {
        let mut world = World::new(3);
        // Whether or not the other one is alive.
        world.connect(&mut Server::leader(1, 3, &members));
        let mut copy = Server::follower(2, 3, &members);
        copy.report.runs = chain;
        world.connect(&mut copy);
        assert_refused(&mut world, &copy, &[words, "server 2 (srv-2)", "move this folder away"]);
    }
    // The one that was noted, restarted since, is taken, and not asked after again.
    let mut world = World::new(3);
    let mut leader = Server::leader(1, 3, &members);
    world.connect(&mut leader);
    let mut two = Server::follower(2, 3, &members);
    two.report.runs = vec![run(4, 1), run(5, 1), run(6, 3)];
    two.report.info.run = Some(run(6, 3));
    world.connect(&mut two);
    assert_eq!(world.refusal(&two), None);
    world.pass(3_000, &[&leader, &two]);
    let admissions = world.received(&leader);
    assert!(!admissions.iter().any(|message| matches!(message, ToServer::Admit { .. })));
}

/// Followers report with what is committed who has run last.
#[test]
fn a_copied_folder_while_the_leader_is_not_seen() {
    let run = |count, nonce| Run { count, nonce };
    let mut members = voters(3);
    members[1].info.run = Some(run(5, 1));
    let mut world = World::new(3);
    let mut three = Server::follower(3, 3, &members);
    three.report.leader = Some(ServerId(1));
    world.connect(&mut three);
    let mut copy = Server::follower(2, 3, &voters(3));
    copy.report.info.peer.set_port(6999);
    copy.report.runs = vec![run(4, 1), run(5, 2), run(6, 2)];
    world.connect(&mut copy);
    assert_refused(&mut world, &copy, &["a copy of the folder", "server 2 (srv-2)"]);
    assert!(world.received(&three).iter().all(|told| !matches!(told, ToServer::Admit { .. })));
}
