//! A client of the whole cluster: finds the leader, stays with it, finds the
//! next one, and repeats a request exactly when that is safe.
//!
//! | what happened | a read | a write |
//! | --- | --- | --- |
//! | no connection, or the request was not sent to its end | repeated | repeated |
//! | `SERVER_ERROR ..., not executed` | repeated | repeated |
//! | no answer, connection lost, `... outcome unknown` | repeated | [`Error::OutcomeUnknown`] |
//! | deadline over | [`Error::Unreachable`] | [`Error::Unreachable`]: not executed |

use std::net::SocketAddr;
use std::time::Duration;

use common::memcached::{Arithmetic, StoreVerb};
use tokio::time::Instant;

use crate::connection::{Answer, Connection, Expect, Failure, Value};
use crate::error::Error;
use crate::protocol;
use crate::retry::{Backoff, Trouble};

/// How long, how large.
#[derive(Clone, Debug)]
pub struct Options {
    /// One request, with all its repetitions, ends within this time.
    pub deadline: Duration,
    /// One try of a request. Longer than the 1.5 s within which a server
    /// answers or refuses, so that a slow answer is not taken for none.
    pub attempt_timeout: Duration,
    /// One connection to one address.
    pub connect_timeout: Duration,
    /// Largest value that is sent or accepted, in bytes. It bounds memory;
    /// the limit that counts is the server's.
    pub max_value_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            deadline: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_millis(500),
            max_value_bytes: 128 * 1024 * 1024,
        }
    }
}

/// What became of a store command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is stored.
    Stored,
    /// The condition of add, replace, append or prepend did not hold.
    NotStored,
    /// cas: somebody changed it since `gets`.
    Exists,
    /// cas: there is no such key.
    NotFound,
}

/// Where servers are learned from.
#[derive(Debug)]
enum Source {
    Lbs(Vec<SocketAddr>),
    Servers(Vec<SocketAddr>),
}

/// A client of the cluster: one connection, made when it is first needed.
///
/// Requests run one at a time. For requests side by side make several.
#[derive(Debug)]
pub struct Cluster {
    source: Source,
    options: Options,
    connection: Option<(SocketAddr, Connection)>,
    /// The server that failed last: tried last, as the load balancer may not
    /// have noticed yet.
    avoid: Option<SocketAddr>,
    /// Whether anything ever answered.
    reached: bool,
}

impl Cluster {
    /// A client that asks one of `lbs`, in turn, who leads.
    pub fn new(lbs: Vec<SocketAddr>, options: Options) -> Self {
        Self::from_source(Source::Lbs(lbs), options)
    }

    /// A client of fixed servers, the first preferred: no load balancer is asked.
    pub fn with_servers(servers: Vec<SocketAddr>, options: Options) -> Self {
        Self::from_source(Source::Servers(servers), options)
    }

    fn from_source(source: Source, options: Options) -> Self {
        Cluster { source, options, connection: None, avoid: None, reached: false }
    }

    /// The server that this client is connected to.
    pub fn connected_to(&self) -> Option<SocketAddr> {
        self.connection.as_ref().map(|(address, _)| *address)
    }

    /// Waits until there is a server to send to and gives all that are known,
    /// the leader first.
    pub async fn discover(&mut self) -> Result<Vec<SocketAddr>, Error> {
        let mut trouble = Trouble::new(self.options.deadline, self.reached);
        let mut backoff = Backoff::default();
        loop {
            let servers = self.servers(&mut trouble).await;
            if !servers.is_empty() {
                return Ok(servers);
            }
            if !backoff.wait(&trouble).await {
                return Err(self.unreachable(trouble));
            }
        }
    }

    /// The values of those `keys` that exist; several keys are one snapshot.
    pub async fn get(&mut self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Value>, Error> {
        self.read_keys("get", keys).await
    }

    /// As [`get`](Cluster::get), each value with its token for [`cas`](Cluster::cas).
    pub async fn gets(&mut self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Value>, Error> {
        self.read_keys("gets", keys).await
    }

    /// Stores `value` under `key`, whatever was there.
    pub async fn set(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        match self.store(StoreVerb::Set, key.as_ref(), 0, 0, value.as_ref()).await? {
            Outcome::Stored => Ok(()),
            other => Err(Error::ServerError(format!("{other:?} in answer to set"))),
        }
    }

    /// Stores if the key is absent; whether it did.
    pub async fn add(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool, Error> {
        self.store_if(StoreVerb::Add, key.as_ref(), value.as_ref()).await
    }

    /// Stores if the key is present; whether it did.
    pub async fn replace(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool, Error> {
        self.store_if(StoreVerb::Replace, key.as_ref(), value.as_ref()).await
    }

    /// Adds to the end of a present value; false without one.
    pub async fn append(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool, Error> {
        self.store_if(StoreVerb::Append, key.as_ref(), value.as_ref()).await
    }

    /// Adds to the front of a present value; false without one.
    pub async fn prepend(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool, Error> {
        self.store_if(StoreVerb::Prepend, key.as_ref(), value.as_ref()).await
    }

    /// Stores if nobody changed the key since `gets` gave `token`.
    pub async fn cas(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        token: u64,
    ) -> Result<Outcome, Error> {
        self.store(StoreVerb::Cas(token), key.as_ref(), 0, 0, value.as_ref()).await
    }

    /// The general form of the commands that carry a value. `exptime` as on
    /// the wire: 0 never, up to 30 days relative seconds, above a unix time.
    pub async fn store(
        &mut self,
        verb: StoreVerb,
        key: &[u8],
        flags: u32,
        exptime: i64,
        value: &[u8],
    ) -> Result<Outcome, Error> {
        let limit = self.options.max_value_bytes;
        if value.len() > limit {
            return Err(Error::TooLarge { bytes: value.len(), limit: Some(limit) });
        }
        let request = protocol::encode_store(verb, key, flags, exptime, value)?;
        match self.run(&request, Expect::Store, false).await {
            Ok(Answer::Stored) => Ok(Outcome::Stored),
            Ok(Answer::NotStored) => Ok(Outcome::NotStored),
            Ok(Answer::Exists) => Ok(Outcome::Exists),
            Ok(Answer::NotFound) => Ok(Outcome::NotFound),
            Ok(other) => Err(misfit(&other)),
            Err(Error::ServerError(text)) if protocol::is_too_large(text.as_bytes()) => {
                Err(Error::TooLarge { bytes: value.len(), limit: None })
            }
            Err(error) => Err(error),
        }
    }

    /// Removes `key`; whether it was there.
    pub async fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        let request = protocol::encode_delete(key.as_ref())?;
        match self.run(&request, Expect::Delete, false).await? {
            Answer::Deleted => Ok(true),
            Answer::NotFound => Ok(false),
            other => Err(misfit(&other)),
        }
    }

    /// Adds to a decimal number, wrapping at 2^64; the new number, or none without the key.
    pub async fn incr(&mut self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>, Error> {
        self.arithmetic(Arithmetic::Incr, key.as_ref(), delta).await
    }

    /// Subtracts from a decimal number, stopping at 0; the new number, or none without the key.
    pub async fn decr(&mut self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>, Error> {
        self.arithmetic(Arithmetic::Decr, key.as_ref(), delta).await
    }

    /// What the server calls itself.
    pub async fn version(&mut self) -> Result<String, Error> {
        match self.run(b"version\r\n", Expect::Version, true).await? {
            Answer::Version(text) => Ok(text),
            other => Err(misfit(&other)),
        }
    }

    /// The server's counters in its order; `what` may be empty.
    pub async fn stats(&mut self, what: &str) -> Result<Vec<(String, String)>, Error> {
        match self.run(&protocol::encode_stats(what)?, Expect::Stats, true).await? {
            Answer::Stats(stats) => Ok(stats),
            other => Err(misfit(&other)),
        }
    }

    async fn read_keys(
        &mut self,
        verb: &str,
        keys: &[impl AsRef<[u8]>],
    ) -> Result<Vec<Value>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let request = protocol::encode_get(verb, keys)?;
        let max_value_bytes = self.options.max_value_bytes;
        let expect = Expect::Values { at_most: keys.len(), max_value_bytes };
        match self.run(&request, expect, true).await? {
            Answer::Values(values) => Ok(values),
            other => Err(misfit(&other)),
        }
    }

    async fn store_if(&mut self, verb: StoreVerb, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        match self.store(verb, key, 0, 0, value).await? {
            Outcome::Stored => Ok(true),
            Outcome::NotStored | Outcome::NotFound => Ok(false),
            Outcome::Exists => Err(misfit(&Answer::Exists)),
        }
    }

    async fn arithmetic(
        &mut self,
        operation: Arithmetic,
        key: &[u8],
        delta: u64,
    ) -> Result<Option<u64>, Error> {
        let request = protocol::encode_arithmetic(operation, key, delta)?;
        match self.run(&request, Expect::Number, false).await? {
            Answer::Number(number) => Ok(Some(number)),
            Answer::NotFound => Ok(None),
            other => Err(misfit(&other)),
        }
    }

    /// Runs one request to its end by the table at the top.
    async fn run(
        &mut self,
        request: &[u8],
        expect: Expect,
        is_read: bool,
    ) -> Result<Answer, Error> {
        let mut trouble = Trouble::new(self.options.deadline, self.reached);
        let mut backoff = Backoff::default();
        loop {
            match self.attempt(request, expect, &mut trouble).await {
                Ok(Answer::ServerError(text)) => {
                    let shown = String::from_utf8_lossy(&text).into_owned();
                    if protocol::is_not_executed(&text) {
                        self.lose_server_unless_busy(&text);
                    } else if protocol::is_outcome_unknown(&text) {
                        self.lose_server();
                        if !is_read {
                            return Err(Error::OutcomeUnknown {
                                cause: format!("the server answered: {shown}"),
                            });
                        }
                    } else {
                        return Err(Error::ServerError(shown));
                    }
                    trouble.note(format!("the server answered: {shown}"));
                }
                Ok(Answer::ClientError(text)) => return Err(Error::ClientError(text)),
                Ok(answer) => return Ok(answer),
                Err(failure) => {
                    if failure.sent && !is_read {
                        return Err(Error::OutcomeUnknown { cause: failure.cause });
                    }
                    trouble.note(failure.cause);
                }
            }
            if !backoff.wait(&trouble).await {
                return Err(self.unreachable(trouble));
            }
        }
    }

    async fn attempt(
        &mut self,
        request: &[u8],
        expect: Expect,
        trouble: &mut Trouble,
    ) -> Result<Answer, Failure> {
        let (address, mut connection) = self.take_connection(trouble).await?;
        let until = trouble.deadline().min(Instant::now() + self.options.attempt_timeout);
        match connection.call(request, expect, until).await {
            Ok(answer) => {
                self.reached = true;
                self.avoid = None;
                // After a CLIENT_ERROR or ERROR to a store command the peer may have
                // taken the data block for commands: out of step.
                if !matches!(answer, Answer::ClientError(_)) {
                    self.connection = Some((address, connection));
                }
                Ok(answer)
            }
            Err(failure) => {
                self.avoid = Some(address);
                let cause = format!("{address}: {}", failure.cause);
                Err(Failure { sent: failure.sent, cause })
            }
        }
    }

    /// The connection at hand, or a new one to the first server that takes one.
    async fn take_connection(
        &mut self,
        trouble: &mut Trouble,
    ) -> Result<(SocketAddr, Connection), Failure> {
        if let Some((address, mut connection)) = self.connection.take()
            && connection.is_usable().await
        {
            trouble.tried(address);
            return Ok((address, connection));
        }
        let mut servers = self.servers(trouble).await;
        servers.sort_by_key(|server| Some(*server) == self.avoid);
        for server in servers {
            trouble.tried(server);
            match Connection::open(server, trouble.cap(self.options.connect_timeout)).await {
                Ok(connection) => {
                    trouble.reached();
                    return Ok((server, connection));
                }
                Err(error) => trouble.note_connect(server, &error),
            }
            if trouble.is_over() {
                break;
            }
        }
        Err(Failure { sent: false, cause: trouble.cause() })
    }

    /// Who serves, by the first load balancer that answers; empty without an answer or a leader.
    async fn servers(&mut self, trouble: &mut Trouble) -> Vec<SocketAddr> {
        let lbs = match &self.source {
            Source::Servers(servers) => return servers.clone(),
            Source::Lbs(lbs) => lbs,
        };
        for lb in lbs {
            trouble.tried(*lb);
            let wait = trouble.cap(self.options.connect_timeout);
            let mut connection = match Connection::open(*lb, wait).await {
                Ok(connection) => connection,
                Err(error) => {
                    trouble.note_connect(*lb, &error);
                    continue;
                }
            };
            let until = Instant::now() + trouble.cap(self.options.connect_timeout);
            match connection.discover(until).await {
                Ok(servers) if !servers.is_empty() => {
                    self.reached = true;
                    trouble.reached();
                    return servers;
                }
                Ok(_) => {
                    trouble.reached();
                    trouble.note(format!("the load balancer {lb} knows no leader"));
                }
                Err(failure) => trouble.note(format!("load balancer {lb}: {}", failure.cause)),
            }
        }
        Vec::new()
    }

    fn lose_server(&mut self) {
        self.avoid = self.connection.take().map(|(address, _)| address);
    }

    /// A busy server is still the right one; one that stops or has no leader
    /// is left, as the load balancer may know better.
    fn lose_server_unless_busy(&mut self, text: &[u8]) {
        if !text.starts_with(b"busy") {
            self.lose_server();
        }
    }

    fn unreachable(&self, trouble: Trouble) -> Error {
        let advice = match self.source {
            Source::Lbs(_) => crate::error::ADVICE_LB,
            Source::Servers(_) => crate::error::ADVICE_SERVER,
        };
        trouble.into_error(advice)
    }
}

/// An answer that the connection let through and that no caller expects.
fn misfit(answer: &Answer) -> Error {
    Error::ServerError(format!("an answer that does not fit the request: {answer:?}"))
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
