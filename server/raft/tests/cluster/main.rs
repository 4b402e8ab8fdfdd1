//! Whole clusters in memory: one test for each rule that made the algorithm
//! famous, and many short lives under faults.

mod damage;
mod dismissed;
mod elections;
mod faults;
mod garbage;
mod leader_gone;
mod membership;
mod reads;
mod replication;
mod silence;
mod snapshots;
mod support;
