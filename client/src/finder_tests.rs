use super::*;
use crate::error::Role::LoadBalancer;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn ports(addresses: &[SocketAddr]) -> Vec<u16> {
    addresses.iter().map(SocketAddr::port).collect()
}

fn asked(finder: &mut Finder, now: Instant) -> Vec<u16> {
    finder.begin(now).iter().map(|(address, _)| address.port()).collect()
}

const MS: Duration = Duration::from_millis(1);

/// Load balancers 1 and 2; the first named 11, 12 and 13.
fn informed(now: Instant) -> Finder {
    let mut finder = Finder::of_lbs(vec![at(1), at(2)]);
    let whom = finder.begin(now);
    assert_eq!(whom, [(at(1), LoadBalancer), (at(2), LoadBalancer)]);
    assert!(finder.targets(now).len() + finder.lookups() as usize == 0);
    finder.named(&whom, at(1), vec![at(11), at(12), at(13)], now);
    finder
}

#[tokio::test]
async fn servers_that_are_known_are_asked_behind_the_load_balancers() {
    let now = Instant::now();
    let mut finder = informed(now);
    assert_eq!(ports(&finder.targets(now)), [11, 12, 13]);
    assert_eq!(asked(&mut finder, now), [1, 2, 11, 12, 13]);
    // The one that has just been lost is tried last, as long as that is news.
    finder.failed(at(11), now);
    assert_eq!(asked(&mut finder, now), [1, 2, 12, 13, 11]);
    assert_eq!(ports(&finder.targets(now)), [12, 13, 11]);
    let later = now + SHUN_SERVER;
    assert_eq!(ports(&finder.targets(later)), [11, 12, 13]);
    finder.failed(at(12), later);
    finder.worked(at(12));
    assert_eq!(ports(&finder.targets(later)), [11, 12, 13]);
}

#[tokio::test]
async fn who_was_passed_over_is_asked_later_until_it_may_be_well_again() {
    let now = Instant::now();
    let mut finder = informed(now);
    let whom = finder.begin(now);
    finder.asks(at(1), LoadBalancer);
    finder.named(&whom, at(2), vec![at(11), at(12)], now);
    assert_eq!(asked(&mut finder, now + SHUN_SOURCE - MS), [2, 11, 12, 1]);
    let now = now + SHUN_SOURCE;
    assert_eq!(asked(&mut finder, now), [1, 2, 11, 12]);
    // One that says at once that it knows nothing costs nothing.
    let whom = finder.begin(now);
    finder.asks(at(1), LoadBalancer);
    finder.is_not_silent(at(1));
    finder.named(&whom, at(2), vec![at(11), at(12)], now);
    assert_eq!(asked(&mut finder, now), [1, 2, 11, 12]);
}

#[tokio::test]
async fn a_server_without_a_leader_is_good_enough_and_a_load_balancer_is_not() {
    let now = Instant::now();
    let mut finder = informed(now);
    let whom = finder.begin(now);
    finder.named(&whom, at(12), Vec::new(), now);
    // The load balancers and 11 were asked before it and said nothing good.
    assert_eq!(ports(&finder.targets(now)), [12, 13, 11]);
    assert_eq!(ports(&finder.targets(now + SHUN_SERVER)), [12, 11, 13], "it stays the first");
    let whom = finder.begin(now);
    finder.nobody(&whom, now);
    assert!(finder.targets(now).is_empty());
    // What was known is not forgotten.
    assert_eq!(asked(&mut finder, now).len(), 5);
}

#[tokio::test]
async fn one_lookup_serves_all_who_want_to_know_at_that_moment() {
    let now = Instant::now();
    let mut finder = informed(now - STANDS);
    let seen = finder.lookups();
    assert!(!finder.stands(seen, now));
    let whom = finder.begin(now);
    finder.named(&whom, at(1), vec![at(12)], now);
    assert!(finder.stands(seen, now + STANDS), "it ended while they waited");
    assert!(finder.stands(finder.lookups(), now + STANDS - MS));
    assert!(!finder.stands(finder.lookups(), now + STANDS));
}

#[tokio::test]
async fn a_makeshift_is_looked_at_again_soon_and_left_for_a_better_one() {
    let now = Instant::now();
    let mut finder = informed(now);
    assert!(!finder.is_due(at(11), now + RECHECK - MS) && finder.is_due(at(11), now + RECHECK));
    assert!(finder.is_due(at(12), now + RECHECK_MAKESHIFT));
    let seen = finder.lookups();
    assert!(!finder.is_better(at(12), false, seen, now), "nothing is new");
    let whom = finder.begin(now);
    finder.named(&whom, at(13), vec![at(11), at(12)], now);
    assert!(finder.is_due(at(11), now + RECHECK_MAKESHIFT), "no load balancer named it");
    let now = now + SHUN_SERVER;
    assert!(finder.is_better(at(12), false, seen, now));
    assert!(!finder.is_better(at(12), true, seen, now), "a policy may name others first");
    assert!(finder.is_better(at(13), true, seen, now), "it is none any more");
    finder.failed(at(11), now);
    assert!(!finder.is_better(at(12), false, seen, now), "the better one has just failed");
}

#[tokio::test]
async fn of_fixed_servers_nobody_is_asked() {
    let now = Instant::now();
    let mut finder = Finder::of_servers(vec![at(11), at(12)]);
    finder.failed(at(11), now);
    assert_eq!(ports(&finder.targets(now)), [12, 11]);
    assert!(finder.is_fixed() && !finder.is_due(at(12), now + RECHECK));
    assert!(!finder.is_better(at(12), false, 7, now));
}
