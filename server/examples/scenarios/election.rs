//! Elections: leaders that are killed, and a leader that is cut off.

use std::time::{Duration, Instant};

use store_server::embed::{Index, ProposeError, RestoreError, StateMachine};

use crate::cluster::{Cluster, Result, Settings, text};

/// Counts its commands.
#[derive(Default)]
pub(crate) struct Count(u64);

impl StateMachine for Count {
    type Reply = u64;

    fn apply(&mut self, _index: Index, _command: &[u8]) -> u64 {
        self.0 += 1;
        self.0
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }

    fn restore(&mut self, snapshot: &[u8]) -> std::result::Result<(), RestoreError> {
        self.0 = u64::from_le_bytes(snapshot.try_into().map_err(|_| "not eight bytes")?);
        Ok(())
    }
}

/// Five replicas; the leader is killed `rounds` times, then cut off once.
///
/// # Errors
/// When an election took too long, two led in one term, or a command
/// was lost.
pub(crate) async fn run(rounds: u32, settings: Settings) -> Result<()> {
    let cluster: Cluster<Count> = Cluster::start(5, settings, Duration::from_secs(2))?;
    let mut leader = cluster.elected(|_| true).await?;
    let mut slowest = Duration::ZERO;
    for round in 1..=rounds {
        let killed = leader.id();
        drop(leader);
        cluster.timeline.say(format_args!("-- round {round}: kill the leader {killed}"));
        let began = Instant::now();
        cluster.kill(killed).await?;
        leader = cluster.elected(|_| true).await?;
        let took = began.elapsed();
        slowest = slowest.max(took);
        let (id, term) = (leader.id(), leader.status().term);
        let count = leader.propose("round").await.map_err(text)?;
        cluster.timeline.say(format_args!(
            "-- round {round}: {id} elected in term {term} after {} ms, {count} commands applied",
            took.as_millis()
        ));
        if count != u64::from(round) {
            return Err(format!("round {round} sees {count} commands: one was lost or doubled"));
        }
        cluster.revive(killed)?;
    }
    drop(leader);
    partition(&cluster, u64::from(rounds)).await?;
    let leaders = cluster.end().await?;
    println!(
        "{leaders} terms had a leader, none had two; slowest round {} ms",
        slowest.as_millis()
    );
    Ok(())
}

/// The leader is cut off. It goes on believing that it leads for a while, and
/// the others elect another one: two leaders, legally, in different terms. What
/// the old one is given then must not be executed.
async fn partition(cluster: &Cluster<Count>, before: u64) -> Result<()> {
    let old = cluster.elected(|_| true).await?;
    let (old_id, old_term) = (old.id(), old.status().term);
    cluster.timeline.say(format_args!("-- cut the leader {old_id} off"));
    cluster.network.isolate(old_id);
    let doomed = tokio::spawn({
        let old = std::sync::Arc::clone(&old);
        async move { old.propose("given to a leader without followers").await }
    });
    let new = cluster.elected(|id| id != old_id).await?;
    let term = new.status().term;
    let state = old.state();
    cluster.timeline.say(format_args!(
        "-- {} leads term {term}; {old_id} is {state:?} in term {}",
        new.id(),
        old.status().term,
    ));
    if term <= old_term {
        return Err(format!("{} leads in term {term}, not after term {old_term}", new.id()));
    }
    let count = new.propose("given to the new leader").await.map_err(text)?;
    if count != before + 1 {
        return Err(format!("the new leader sees {count} commands, not {}", before + 1));
    }
    cluster.timeline.say(format_args!("-- heal the links of {old_id}"));
    cluster.network.heal_all();
    match doomed.await.map_err(text)? {
        Err(ProposeError::NotExecuted | ProposeError::OutcomeUnknown) => {}
        other => return Err(format!("the command of the deposed leader ended as {other:?}")),
    }
    cluster.elected(|_| true).await?;
    for replica in cluster.alive() {
        let count = replica.read(|count| count.0).await.map_err(text)?;
        if count != before + 1 {
            return Err(format!("{} has {count} commands, not {}", replica.id(), before + 1));
        }
    }
    Ok(())
}
