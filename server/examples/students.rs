//! Student records, replicated: seven replicas, two clients, each asking
//! replicas at random, while leaders and others are killed and restarted.
//!
//! ```text
//! cargo run -p store-server --example students [-- REQUESTS [udp]]
//! ```
//!
//! Ends with code 0 only if every answer was the right one, nothing could be
//! written without a majority, and all replicas are the same in the end.

use std::process::ExitCode;
use std::time::Duration;

#[path = "scenarios/cluster.rs"]
mod cluster;
#[path = "scenarios/records.rs"]
mod records;
#[path = "scenarios/students.rs"]
mod students;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let requests = args.next().map_or(Ok(300), |requests| requests.parse());
    let transport = args.next();
    let (Ok(requests), transport @ (None | Some("udp"))) = (requests, transport.as_deref()) else {
        eprintln!("usage: students [REQUESTS [udp]]");
        return ExitCode::from(2);
    };
    let settings =
        cluster::Settings { udp: transport.is_some(), elected_within: Duration::from_secs(5) };
    match students::run(requests, settings, 1).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("failed: {why}");
            ExitCode::FAILURE
        }
    }
}
