//! Servers that an operator has removed stop, and stay away until they are
//! started again.

use super::*;
use common::control::{Operation, Outcome};

const RUN: Run = Run { count: 3, nonce: 7 };
const NEXT: Run = Run { count: 4, nonce: 9 };

/// The leader 1 of a cluster that 3 has been removed from while it was at `RUN`,
/// and 3 as it is in `run`.
fn after_the_removal(run: Run) -> (Server, Server) {
    let members = voters(2);
    let mut leader = Server::leader(1, 3, &members);
    let mut removed = record(3, 3, false);
    removed.info.run = Some(RUN);
    leader.report.dismissed.push(removed);
    let mut third = Server::follower(3, 3, &voters(3));
    third.report.info.run = Some(run);
    (leader, third)
}

fn admissions(world: &mut World, leader: &Server, folder: FolderId) -> usize {
    let received = world.received(leader).into_iter();
    received
        .filter(|told| matches!(told, ToServer::Admit { info, .. } if info.folder == folder))
        .count()
}

#[test]
fn every_load_balancer_tells_it_to_stop_whether_it_remembers_or_not() {
    let (leader, third) = after_the_removal(RUN);
    // None of them brought the order to the leader.
    for _ in 0..2 {
        let (mut world, mut leader, mut third) = (World::new(2), leader.clone(), third.clone());
        world.connect(&mut leader);
        world.connect(&mut third);
        let told = world.received(&third).pop();
        let Some(ToServer::Refused { why, cluster, dismissed: true }) = told else {
            panic!("it is to stop, and to know that its run was noted: {told:?}");
        };
        assert_eq!(cluster, Some(CLUSTER));
        assert!(why.contains("an operator has removed srv-3"), "{why}");
        assert!(why.contains("store addsrv --name srv-3"), "{why}");
        world.pass(5_000, &[&leader]);
        assert_eq!(admissions(&mut world, &leader, third.report.info.folder), 0);
    }
}

/// The leader is beyond a cut: those who follow it have the same in mind.
#[test]
fn it_is_told_to_stop_though_the_leader_is_not_seen() {
    let (leader, mut third) = after_the_removal(RUN);
    let mut second = Server::follower(2, 3, &leader.report.members);
    second.report.leader = Some(ServerId(1));
    // The removed one has not heard of its removal.
    second.report.commit_index = third.report.commit_index + 1;
    second.report.dismissed = leader.report.dismissed;
    let mut world = World::new(2);
    world.connect(&mut second);
    world.connect(&mut third);
    assert!(world.refusal(&third).is_some());
    assert_eq!(admissions(&mut world, &second, third.report.info.folder), 0);
}

#[test]
fn it_is_told_again_whenever_it_reports() {
    let (mut leader, mut third) = after_the_removal(RUN);
    let mut world = World::new(2);
    world.connect(&mut leader);
    for _ in 0..3 {
        world.connect(&mut third);
        assert!(world.refusal(&third).is_some());
        world.pass(70_000, &[&leader]);
    }
    assert_eq!(admissions(&mut world, &leader, third.report.info.folder), 0);
}

#[test]
fn one_that_was_silent_at_its_removal_stops_when_it_is_back() {
    let mut world = World::new(2);
    let (mut after, mut third) = after_the_removal(RUN);
    let mut leader = Server::leader(1, 3, &voters(3));
    world.connect(&mut leader);
    world.connect(&mut third);
    world.pass(2_000, &[&leader]);
    assert_eq!(world.refusal(&third), None, "it is a member");
    after.link = leader.link;
    world.report(&after);
    world.pass(120_000, &[&after]);
    assert_eq!(world.refusal(&third), None, "it is not heard");
    world.connect(&mut third);
    assert!(world.refusal(&third).is_some());
}

#[test]
fn one_that_was_started_again_is_admitted_at_once() {
    let (mut leader, mut third) = after_the_removal(NEXT);
    let mut world = World::new(2);
    world.connect(&mut leader);
    world.connect(&mut third);
    assert_eq!(world.refusal(&third), None);
    assert_eq!(admissions(&mut world, &leader, third.report.info.folder), 1);
}

/// It was removed before it knew that it was a member.
#[test]
fn a_fresh_server_that_was_removed_stops_too() {
    for (run, stops) in [(RUN, true), (NEXT, false)] {
        let (mut leader, _) = after_the_removal(run);
        let mut fresh = Server::fresh(3);
        fresh.report.info.run = Some(run);
        let mut world = World::new(2);
        world.connect(&mut leader);
        world.connect(&mut fresh);
        world.pass(1_500, &[&leader, &fresh]);
        assert_eq!(world.refusal(&fresh).is_some(), stops);
        assert_eq!(admissions(&mut world, &leader, fresh.report.info.folder) == 0, stops);
    }
}

/// Asks for the removal of 3 and has the leader answer `says`.
fn ask(world: &mut World, leader: &Server, says: Outcome) -> (Vec<(FolderId, Run)>, Outcome) {
    ask_for("#3", world, leader, says)
}

fn ask_for(
    server: &str,
    world: &mut World,
    leader: &Server,
    says: Outcome,
) -> (Vec<(FolderId, Run)>, Outcome) {
    let from = Party::Operator { name: "orders".to_owned() };
    let hello = Hello { version: PROTOCOL_VERSION, from };
    world.links += 1;
    let link = LinkId(world.links);
    world.handle(Input::Opened { link, remote: "127.0.0.1:1".parse().unwrap(), hello });
    let wanted = Operation::Remove { server: server.to_owned(), force: false, only_look: false };
    world.handle(Input::Message { link, message: Box::new(ToLb::Operate(wanted)) });
    let order = world.received(leader).into_iter().find_map(|told| match told {
        ToServer::Operate { number, runs, .. } => Some((number, runs)),
        _ => None,
    });
    let (number, runs) = order.expect("the leader is asked");
    world.message(leader, ToLb::Operated { number, outcome: says });
    let (_, answer) = world.sent.pop().expect("the operator is answered");
    let ToServer::Operated(outcome) = answer else { panic!("{answer:?}") };
    (runs, outcome)
}

/// The order brings the runs along, since the membership may not know the newest.
#[test]
fn operators_hear_when_the_process_is_gone() {
    let (mut after, mut third) = after_the_removal(RUN);
    let mut world = World::new(2);
    let mut leader = Server::leader(1, 3, &voters(3));
    world.connect(&mut leader);
    world.connect(&mut third);
    let removes = Outcome::Pending("being committed".to_owned());
    let (runs, outcome) = ask(&mut world, &leader, removes.clone());
    assert_eq!((runs, outcome), (vec![(third.report.info.folder, RUN)], removes));

    let unknown = || Outcome::Unknown("no member is called #3".to_owned());
    after.link = leader.link;
    leader = after;
    world.report(&leader);
    assert!(world.refusal(&third).is_some());
    for server in ["#3", "3", "srv-3"] {
        let (_, outcome) = ask_for(server, &mut world, &leader, unknown());
        assert!(matches!(outcome, Outcome::Stops(_)), "{server}: {outcome:?}");
    }
    let (_, outcome) = ask_for("srv-4", &mut world, &leader, unknown());
    assert_eq!(outcome, unknown());
    world.message(&third, ToLb::Goodbye);
    world.break_link(&third);
    assert_eq!(ask(&mut world, &leader, unknown()).1, unknown());
}
