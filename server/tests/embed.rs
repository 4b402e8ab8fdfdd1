//! The scenarios of the examples, in short.

#[path = "../examples/scenarios/cluster.rs"]
mod cluster;
#[path = "../examples/scenarios/election.rs"]
mod election;
#[path = "../examples/scenarios/records.rs"]
mod records;
#[path = "../examples/scenarios/students.rs"]
mod students;

#[tokio::test]
async fn leaders_are_killed_and_one_is_cut_off() {
    election::run(2, false).await.unwrap();
}

#[tokio::test]
async fn the_same_over_udp() {
    election::run(2, true).await.unwrap();
}

#[tokio::test]
async fn student_records_survive_trouble() {
    students::run(300, false, 1).await.unwrap();
}
