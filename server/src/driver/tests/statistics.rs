//! `stats` and `get-servers`.

use super::*;

/// The values of a `stats` answer.
fn stats(answer: &Answer) -> Vec<(String, String)> {
    let text = answer.text().expect("an answer");
    let lines = text.strip_suffix("END\r\n").expect("END").split_terminator("\r\n");
    lines
        .map(|line| {
            let (name, value) = line.strip_prefix("STAT ")?.split_once(' ')?;
            Some((name.to_owned(), value.to_owned()))
        })
        .map(|line| line.expect("STAT name value"))
        .collect()
}

#[track_caller]
fn expect(stats: &[(String, String)], name: &str, value: &str) {
    let found: Vec<_> = stats.iter().filter(|(have, _)| have == name).collect();
    assert!(matches!(found.as_slice(), [(_, have)] if have == value), "{name}: {found:?}");
}

#[test]
fn the_leader_is_named_first_on_every_server() {
    let mut cluster = Cluster::led(3);
    let leader_first = "127.0.0.1:11001\r\n127.0.0.1:11002\r\n127.0.0.1:11003\r\nend\r\n";
    cluster.play(1, "get-servers\r\n").expect(leader_first);
    cluster.play(2, "get-servers\r\n").expect(leader_first);
    cluster.elect(3);
    let leader_first = "127.0.0.1:11003\r\n127.0.0.1:11001\r\n127.0.0.1:11002\r\nend\r\n";
    cluster.play(2, "get-servers\r\n").expect(leader_first);
}

#[test]
fn nobody_is_named_without_a_leader() {
    let mut cluster = Cluster::new(3);
    cluster.ask(1, "get-servers\r\n").expect("end\r\n");
    let nobody = "CONFIG cluster 0 3\r\n0\n\n\r\nEND\r\n";
    cluster.ask(1, "config get cluster\r\n").expect(nobody);
}

#[test]
fn clients_with_auto_discovery_get_the_term_as_version() {
    let mut cluster = Cluster::led(1);
    let body = "1\n127.0.0.1|127.0.0.1|11001\n";
    let answer = format!("CONFIG cluster 0 {}\r\n{body}\r\nEND\r\n", body.len());
    cluster.play(1, "config get cluster\r\n").expect(&answer);
}

#[test]
fn general_statistics_count_what_was_done() {
    let mut cluster = Cluster::led(1);
    cluster.play(1, &[&set("a", "1"), &set("b", "2"), "delete b\r\n"].concat());
    cluster.play(1, "get a b c\r\nget a\r\n");
    let stats = stats(&cluster.play(1, "stats\r\n"));
    expect(&stats, "pid", "4711");
    expect(&stats, "cmd_set", "3");
    expect(&stats, "cmd_get", "4");
    expect(&stats, "get_hits", "2");
    expect(&stats, "get_misses", "2");
    expect(&stats, "curr_items", "1");
    expect(&stats, "raft_role", "leader");
}

#[test]
fn raft_statistics_tell_roles_apart() {
    let mut cluster = Cluster::new(3);
    let lost = stats(&cluster.ask(2, "stats raft\r\n"));
    expect(&lost, "name", "srv-2");
    expect(&lost, "raft_role", "follower");
    expect(&lost, "raft_leader", "0");
    cluster.elect(1);
    let leader = stats(&cluster.play(1, "stats raft\r\n"));
    expect(&leader, "raft_role", "leader");
    expect(&leader, "raft_leader", "1");
    expect(&leader, "raft_id", "1");
    expect(&leader, "raft_voters", "3");
    let follower = stats(&cluster.play(2, "stats raft\r\n"));
    expect(&follower, "raft_role", "follower");
    expect(&follower, "raft_leader", "1");
    expect(&follower, "raft_term", "1");
}

#[test]
fn statistics_show_what_waits() {
    let mut cluster = Cluster::new(1);
    let waits = cluster.play(1, &set("k", "v"));
    expect(&stats(&cluster.ask(1, "stats raft\r\n")), "waiting_parked", "1");
    cluster.slow_disk(1);
    let now = cluster.now();
    cluster.driver(1).campaign(now);
    cluster.run();
    cluster.sync(1);
    waits.expect_none();
    expect(&stats(&cluster.ask(1, "stats raft\r\n")), "waiting_parked", "0");
    expect(&stats(&cluster.ask(1, "stats raft\r\n")), "waiting_proposed", "1");
}

#[test]
fn forms_without_effect_are_answered_empty_and_unknown_ones_refused() {
    let mut cluster = Cluster::new(1);
    let forms = "stats items\r\nstats settings\r\nstats reset\r\nstats bogus\r\n";
    cluster.ask(1, forms).expect("END\r\nEND\r\nRESET\r\nERROR\r\n");
}
