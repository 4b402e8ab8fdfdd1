//! Five replicas elect a leader, again and again: each round kills the one
//! that leads. In the end the leader is cut off instead of killed.
//!
//! ```text
//! cargo run -p store-server --example election [-- ROUNDS [udp]]
//! ```
//!
//! Prints who leads in which term. Ends with code 0 only if every round had a
//! leader within five seconds, and no term ever had two.

use std::process::ExitCode;
use std::time::Duration;

#[path = "scenarios/cluster.rs"]
mod cluster;
#[path = "scenarios/election.rs"]
mod election;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let rounds = args.next().map_or(Ok(10), |rounds| rounds.parse());
    let transport = args.next();
    let (Ok(rounds), transport @ (None | Some("udp"))) = (rounds, transport.as_deref()) else {
        eprintln!("usage: election [ROUNDS [udp]]");
        return ExitCode::from(2);
    };
    let settings =
        cluster::Settings { udp: transport.is_some(), elected_within: Duration::from_secs(5) };
    match election::run(rounds, settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("failed: {why}");
            ExitCode::FAILURE
        }
    }
}
