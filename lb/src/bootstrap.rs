//! When a cluster is formed, and of whom.
//!
//! There must never be two clusters where there was one. What protects from
//! it, in this order: a server that holds data never becomes a first voter;
//! a load balancer that has seen or remembers a cluster never forms another
//! one; and one that knows nothing waits [`BOOTSTRAP_WAIT`], in which every
//! live member of an existing cluster reports to it several times over.

use std::time::Duration;

use common::control::{MemberInfo, MemberRecord, Waiting};
use common::ids::ServerId;
use common::limits::REPORT_INTERVAL;

/// How long a load balancer that has just started listens for members of an
/// existing cluster before it forms one.
pub const BOOTSTRAP_WAIT: Duration = Duration::from_millis(1000);

// A member that lost the first reports to a link being built anew still gets
// its word in.
const _: () = assert!(BOOTSTRAP_WAIT.as_millis() >= 4 * REPORT_INTERVAL.as_millis());

/// What to do about a cluster that does not exist yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Not yet; the fresh servers wait for this.
    Wait(Waiting),
    /// These are the first voters; the first of them campaigns.
    Form(Vec<MemberRecord>),
}

/// Decides for a load balancer that neither sees nor remembers a cluster and
/// was started `up_for` ago. `fresh` are the live fresh servers whose addresses
/// answer and that leave the founding to this load balancer, in the order of
/// their registration; the first `expect` of them get the ids 1, 2, ...
pub fn decide<'a>(
    up_for: Duration,
    expect: usize,
    fresh: impl ExactSizeIterator<Item = &'a MemberInfo>,
) -> Decision {
    let expect = expect.max(1);
    let missing = expect.saturating_sub(fresh.len());
    if missing > 0 {
        let servers = if missing == 1 { "server" } else { "servers" };
        let what = format!("{missing} more {servers}");
        return Decision::Wait(Waiting { what, missing_servers: missing });
    }
    if up_for < BOOTSTRAP_WAIT {
        return Decision::Wait(Waiting::for_what(
            "a second to pass in which members of an existing cluster can report",
        ));
    }
    let voters = (1..).zip(fresh.take(expect)).map(|(id, info)| MemberRecord {
        id: ServerId(id),
        voter: true,
        info: info.clone(),
    });
    Decision::Form(voters.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::ids::FolderId;

    fn servers(count: u16) -> Vec<MemberInfo> {
        (1..=count)
            .map(|number| MemberInfo {
                folder: FolderId(u128::from(number)),
                name: format!("srv-{number}"),
                peer: ([127, 0, 0, 1], 6000 + number).into(),
                client: ([127, 0, 0, 1], 7000 + number).into(),
                run: None,
            })
            .collect()
    }

    #[test]
    fn waits_for_servers_and_for_the_second() {
        let text = |decision| match decision {
            Decision::Wait(waiting) => waiting.what,
            Decision::Form(voters) => panic!("formed {voters:?}"),
        };
        let late = BOOTSTRAP_WAIT * 10;
        assert_eq!(text(decide(late, 3, servers(1).iter())), "2 more servers");
        assert_eq!(text(decide(late, 3, servers(2).iter())), "1 more server");
        let early = BOOTSTRAP_WAIT - Duration::from_millis(1);
        assert!(text(decide(early, 3, servers(3).iter())).contains("a second"));
    }

    #[test]
    fn the_first_ones_get_ids_in_their_order() {
        let Decision::Form(voters) = decide(BOOTSTRAP_WAIT, 2, servers(3).iter()) else {
            panic!("did not form a cluster");
        };
        let ids: Vec<_> = voters.iter().map(|voter| (voter.id.0, &*voter.info.name)).collect();
        assert_eq!(ids, [(1, "srv-1"), (2, "srv-2")]);
        assert!(voters.iter().all(|voter| voter.voter));
    }

    #[test]
    fn nobody_expected_still_takes_one() {
        let waiting = Waiting { what: "1 more server".to_owned(), missing_servers: 1 };
        assert_eq!(decide(BOOTSTRAP_WAIT, 0, [].iter()), Decision::Wait(waiting));
        assert!(
            matches!(decide(BOOTSTRAP_WAIT, 0, servers(1).iter()), Decision::Form(v) if v.len() == 1)
        );
    }
}
