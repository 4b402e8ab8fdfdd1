//! The scenarios of the examples, in short.

use std::time::Duration;

#[path = "../examples/scenarios/cluster.rs"]
mod cluster;
#[path = "../examples/scenarios/election.rs"]
mod election;
#[path = "../examples/scenarios/records.rs"]
mod records;
#[path = "../examples/scenarios/students.rs"]
mod students;

/// Tests share a machine with others: how soon there is a leader is for the
/// examples to say.
fn patiently(udp: bool) -> cluster::Settings {
    cluster::Settings { udp, elected_within: Duration::from_secs(30) }
}

#[tokio::test]
async fn leaders_are_killed_and_one_is_cut_off() {
    election::run(2, patiently(false)).await.unwrap();
}

#[tokio::test]
async fn the_same_over_udp() {
    election::run(2, patiently(true)).await.unwrap();
}

#[tokio::test]
async fn student_records_survive_trouble() {
    students::run(60, patiently(false), 1).await.unwrap();
}
