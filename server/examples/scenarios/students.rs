//! Seven replicas of the student records, two clients, and trouble.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use store_server::embed::NodeId;

use crate::cluster::{Cluster, Result, Settings, text};
use crate::records::{Answer, Operation, Record, Request, Students};

const REPLICAS: u64 = 7;

/// Students that each client has to itself.
const STUDENTS: u32 = 20;

/// A proposal is given up after this, and proposed again elsewhere.
const DEADLINE: Duration = Duration::from_secs(1);

/// A client that gets no answer for so long gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two kills.
const PEACE: Duration = Duration::from_millis(300);

/// One client: what it does, and what it expects.
struct Client {
    number: u32,
    cluster: Arc<Cluster<Students>>,
    random: StdRng,
    requests: u64,
    /// What the records of its own students must be.
    expected: Students,
    /// Requests that had to be proposed again.
    repeated: u64,
}

/// Two clients do `requests` operations each, on replicas chosen at random,
/// while leaders and others are killed and restarted; then more are killed
/// than a majority can spare.
///
/// # Errors
/// When any answer differs from what was to be expected, something is written
/// without a majority, or the replicas differ in the end.
pub(crate) async fn run(requests: u64, settings: Settings, seed: u64) -> Result<()> {
    let cluster: Arc<Cluster<Students>> = Arc::new(Cluster::start(REPLICAS, settings, DEADLINE)?);
    cluster.elected(|_| true).await?;
    let clients = [1, 2].map(|number| {
        let client = Client {
            number,
            cluster: Arc::clone(&cluster),
            random: StdRng::seed_from_u64(seed + u64::from(number)),
            requests: 0,
            expected: Students::default(),
            repeated: 0,
        };
        tokio::spawn(client.work(requests))
    });
    let kills = trouble(&cluster, || clients.iter().all(|client| client.is_finished())).await?;
    let mut expected = Students::default();
    let mut repeated = 0;
    for client in clients {
        let client = client.await.map_err(text)??;
        expected.records.extend(client.expected.records);
        repeated += client.repeated;
    }
    cluster.timeline.say(format_args!(
        "-- both clients are done: {} requests, {kills} replicas killed meanwhile, {repeated} \
         requests proposed again, {} students",
        2 * requests,
        expected.records.len()
    ));
    without_majority(&cluster).await?;
    compare(&cluster, &expected).await?;
    let cluster = Arc::into_inner(cluster).ok_or("somebody still uses the cluster")?;
    cluster.end().await?;
    Ok(())
}

/// Kills the leader, and replicas 1 and 3 as well, in turns, and restarts them.
async fn trouble(cluster: &Cluster<Students>, done: impl Fn() -> bool) -> Result<u32> {
    let mut kills = 0;
    while !done() {
        tokio::time::sleep(PEACE).await;
        let leader = cluster.elected(|_| true).await?.id();
        let victims = match kills % 3 {
            0 => vec![leader],
            _ => vec![NodeId(1), NodeId(3)],
        };
        for &victim in &victims {
            cluster.timeline.say(format_args!("-- kill {victim}"));
            cluster.kill(victim).await?;
            kills += 1;
        }
        tokio::time::sleep(PEACE).await;
        for victim in victims {
            cluster.revive(victim)?;
        }
    }
    Ok(kills)
}

impl Client {
    async fn work(mut self, requests: u64) -> Result<Client> {
        for _ in 0..requests {
            let student = self.number * 1_000 + self.random.random_range(0..STUDENTS);
            let operation = self.operation();
            let expected = self.expected.execute(student, &operation);
            let answer = self.request(student, operation.clone()).await?;
            if answer != expected {
                return Err(format!(
                    "client {}: {operation:?} of {student} gave {answer:?}, not {expected:?}",
                    self.number
                ));
            }
        }
        Ok(self)
    }

    fn operation(&mut self) -> Operation {
        let random = &mut self.random;
        let roll = random.random_range(1..100_000);
        match random.random_range(0..10) {
            0 | 1 => Operation::Create,
            2 => Operation::Fill(Record {
                roll,
                address: format!("{roll} College Road"),
                phone: format!("+91 {roll}"),
            }),
            3 => Operation::ChangeRoll(roll),
            4 => Operation::ChangeAddress(format!("{roll} Station Road")),
            5 => Operation::ChangePhone(format!("+44 {roll}")),
            6 => Operation::Delete,
            _ => Operation::Get,
        }
    }

    /// Proposes to one replica after the other until one answers.
    async fn request(&mut self, student: u32, operation: Operation) -> Result<Answer> {
        self.requests += 1;
        let request = Request { client: self.number, number: self.requests, student, operation };
        let until = Instant::now() + PATIENCE;
        loop {
            let alive = self.cluster.alive();
            let replica = &alive[self.random.random_range(0..alive.len())];
            match replica.propose_anywhere(request.encode()).await {
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() >= until => {
                    return Err(format!("client {}: {request:?}: {error}", self.number));
                }
                Err(_) => self.repeated += 1,
            }
        }
    }
}

/// Kills four of seven: nothing can be written until one is back.
async fn without_majority(cluster: &Cluster<Students>) -> Result<()> {
    let leader = cluster.elected(|_| true).await?.id();
    let others = cluster.network.members().into_iter().filter(|id| *id != leader);
    let victims: Vec<NodeId> = others.take(3).chain([leader]).collect();
    cluster.timeline.say(format_args!("-- kill {victims:?}: three of seven are left"));
    for &victim in &victims {
        cluster.kill(victim).await?;
    }
    // A number that no client has: the command itself changes nothing.
    let request = Request { client: 3, number: 1, student: 0, operation: Operation::Delete };
    let mut attempts = tokio::task::JoinSet::new();
    for replica in cluster.alive() {
        let command = request.encode();
        attempts.spawn(async move { (replica.id(), replica.propose_anywhere(command).await) });
    }
    while let Some(attempt) = attempts.join_next().await {
        if let (id, Ok(answer)) = attempt.map_err(text)? {
            return Err(format!("{id} wrote without a majority: {answer:?}"));
        }
    }
    cluster.timeline.say("-- nothing could be written; restart the dead");
    for victim in victims {
        cluster.revive(victim)?;
    }
    Ok(())
}

/// All replicas must have the same records, and those that the clients expect.
async fn compare(cluster: &Cluster<Students>, expected: &Students) -> Result<()> {
    cluster.elected(|_| true).await?;
    for replica in cluster.alive() {
        let until = Instant::now() + PATIENCE;
        let records = loop {
            // A replica that was restarted last may still have much to fetch.
            match replica.read(|students| students.records.clone()).await {
                Ok(records) => break records,
                Err(error) if Instant::now() >= until => return Err(text(error)),
                Err(_) => {}
            }
        };
        if records != expected.records {
            let id = replica.id();
            return Err(format!("{id} has {records:?}, not {:?}", expected.records));
        }
    }
    cluster.timeline.say("-- all seven have the same records, and the right ones");
    Ok(())
}
