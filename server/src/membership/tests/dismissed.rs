//! Whom operators remove, and who comes back.

use super::*;
use common::control::{Operation, Outcome};

fn removal(server: &str) -> Operation {
    Operation::Remove { server: server.to_owned(), force: false, only_look: false }
}

/// Server 2 is admitted, and removed by an operator's order; `recorded` is the
/// run that the membership knows, `heard` that which the load balancer does.
fn dismissed(recorded: Option<Run>, heard: Option<Run>) -> (Driver, Members, MemberInfo) {
    let (mut driver, mut actions) = leader();
    let members = Members::new(Rules::new(DEAD_AFTER));
    let info = MemberInfo { folder: FolderId(2), run: recorded, ..driver.info().clone() };
    let _ = members.admit(&mut driver, NOW, &info, &[]);
    settle(&mut driver, &mut actions);
    let runs: Vec<_> = heard.into_iter().map(|run| (info.folder, run)).collect();
    let outcome = members.operate(&mut driver, NOW, &removal("2"), &runs);
    assert!(matches!(outcome, Outcome::Removes { .. }), "{outcome:?}");
    settle(&mut driver, &mut actions);
    let again = members.operate(&mut driver, NOW, &removal("#2"), &runs);
    assert!(matches!(again, Outcome::Unknown(_)), "{again:?}");
    (driver, members, info)
}

#[test]
fn whom_an_operator_removed_is_admitted_once_it_was_started_again() {
    let cases = [
        // The run known to the membership, to the load balancer, and that asks.
        (run(3), None, run(3), false),
        (run(3), None, run(2), false),
        (run(3), None, run(4), true),
        (run(3), run(5), run(5), false),
        (run(3), run(5), run(6), true),
        (run(3), run(2), run(3), false),
        (None, run(3), run(3), false),
        (None, run(3), run(4), true),
        // Of an older program, which cannot say that it was started since.
        (run(3), None, None, false),
        (None, None, None, false),
        (None, None, run(1), true),
    ];
    for (recorded, heard, asks, admitted) in cases {
        let (mut driver, members, info) = dismissed(recorded, heard);
        let info = MemberInfo { run: asks, ..info };
        let far = Now { mono_us: NOW.mono_us + 3_600_000_000, ..NOW };
        match members.admit(&mut driver, far, &info, &[]) {
            None => assert!(admitted, "{recorded:?} {heard:?} {asks:?}"),
            Some(Err(why)) => {
                assert!(!admitted && why.contains("an operator has removed it"), "{why} {asks:?}");
            }
            Some(Ok(id)) => panic!("still a member as {id}"),
        }
    }
}

#[test]
fn load_balancers_hear_of_the_dismissed_and_others_are_admitted() {
    let (mut driver, members, info) = dismissed(run(3), None);
    let report = driver.report(0);
    let [record] = &report.dismissed[..] else { panic!("{:?}", report.dismissed) };
    assert_eq!((record.id, &record.info), (ServerId(2), &info));
    let other = MemberInfo { folder: FolderId(9), run: run(1), ..info };
    assert_eq!(members.admit(&mut driver, NOW, &other, &[]), None);
}

/// A load balancer may see nobody but followers.
#[test]
fn those_who_follow_report_the_dismissed_too() {
    let own = MemberInfo { folder: FolderId(1), ..info(1) };
    let mut membership = raft::Membership::of_voters([(NodeId(1), info_bytes(&own))]);
    membership.dismissed.insert(NodeId(2), info_bytes(&info(2)));
    let driver = driver_of(own, membership);
    assert!(!driver.is_leader());
    let report = driver.report(0);
    let record = MemberRecord { id: ServerId(2), voter: false, info: info(2) };
    assert_eq!(report.dismissed, [record]);
}

/// The answer to the removal was lost, and the command asks again.
#[test]
fn a_removal_that_is_done_is_found_by_name_and_ended_by_id() {
    let (mut driver, members, info) = dismissed(run(3), None);
    let removed = Outcome::Removes { id: ServerId(2), folder: info.folder, name: info.name };
    // Of two members called srv-1 the one that is there is meant.
    let own = members.operate(&mut driver, NOW, &removal("srv-1"), &[]);
    assert!(matches!(own, Outcome::Refused(_)), "{own:?}");
    assert_eq!(members.operate(&mut driver, NOW, &removal("2"), &[]), removed);
    let gone = members.operate(&mut driver, NOW, &removal("#2"), &[]);
    assert!(matches!(gone, Outcome::Unknown(_)), "{gone:?}");
    let stranger = members.operate(&mut driver, NOW, &removal("srv-9"), &[]);
    assert!(matches!(stranger, Outcome::Unknown(_)), "{stranger:?}");
}

/// It was started again meanwhile, under its name and another id.
#[test]
fn a_look_says_who_is_meant_and_a_removal_by_id_means_no_other() {
    let (mut driver, mut actions) = leader();
    let members = Members::new(Rules::new(DEAD_AFTER));
    let before = MemberInfo { run: run(3), ..info(2) };
    let look = |server: &str| Operation::Remove {
        server: server.to_owned(),
        force: false,
        only_look: true,
    };
    let means = |id| Outcome::Removes {
        id: ServerId(id),
        folder: before.folder,
        name: before.name.clone(),
    };
    let _ = members.admit(&mut driver, NOW, &before, &[]);
    settle(&mut driver, &mut actions);
    for _ in 0..2 {
        assert_eq!(members.operate(&mut driver, NOW, &look("srv-2"), &[]), means(2));
        settle(&mut driver, &mut actions);
        assert_eq!(driver.members().len(), 2, "nothing was changed");
    }
    assert_eq!(members.operate(&mut driver, NOW, &removal("#2"), &[]), means(2));
    settle(&mut driver, &mut actions);
    assert_eq!(members.operate(&mut driver, NOW, &look("srv-2"), &[]), means(2));
    assert_eq!(members.operate(&mut driver, NOW, &look("#2"), &[]), means(2));
    assert_eq!(
        members.admit(&mut driver, NOW, &MemberInfo { run: run(4), ..before.clone() }, &[]),
        None
    );
    settle(&mut driver, &mut actions);
    let again = members.operate(&mut driver, NOW, &removal("#2"), &[]);
    assert!(matches!(again, Outcome::Unknown(_)), "{again:?}");
    assert_eq!(driver.members().len(), 2, "the one that came since stays");
    assert_eq!(members.operate(&mut driver, NOW, &look("srv-2"), &[]), means(3));
}

/// A follower of an older program cannot read who was dismissed.
#[test]
fn nobody_is_dismissed_while_a_member_knows_no_runs() {
    let admit = |driver: &mut Driver, members: &Members, info: &MemberInfo| {
        let mut actions = crate::driver::Actions::default();
        let _ = members.admit(driver, NOW, info, &[]);
        settle(driver, &mut actions);
    };
    let heard = [(FolderId(3), Run { count: 1, nonce: 1 })];
    // The run of the one that stays in the membership, by the load balancer, by a link.
    let cases = [
        (None, &[][..], None, false),
        (run(1), &[][..], None, true),
        (None, &heard[..], None, true),
        (None, &[][..], run(1), true),
    ];
    for (noted, heard, linked, dismissed) in cases {
        let (mut driver, mut actions) = leader();
        let mut members = Members::new(Rules::new(DEAD_AFTER));
        admit(&mut driver, &members, &MemberInfo { run: run(3), ..info(2) });
        admit(&mut driver, &members, &MemberInfo { run: noted, ..info(3) });
        members.heard_run(NodeId(3), linked);
        let outcome = members.operate(&mut driver, NOW, &removal("#2"), heard);
        assert!(matches!(outcome, Outcome::Removes { .. }), "{outcome:?}");
        settle(&mut driver, &mut actions);
        assert_eq!(driver.members().len(), 2);
        assert_eq!(!driver.dismissed().is_empty(), dismissed, "{noted:?} {heard:?} {linked:?}");
    }
}
