//! Finds the server that a load balancer names first (the leader, unless its
//! policy is another; every server takes every command), stays with it, finds
//! the next one, and repeats a request exactly when that is safe.
//!
//! | what happened | a read | a write |
//! | --- | --- | --- |
//! | no connection, or the request was not sent to its end | repeated | repeated |
//! | `SERVER_ERROR ..., not executed` | repeated | repeated |
//! | no answer, connection lost, `... outcome unknown` | repeated | [`Error::OutcomeUnknown`] |
//! | deadline over | [`Error::Unreachable`] | [`Error::Unreachable`]: not executed |

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::connection::{Answer, Connection, Expect, Failure};
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

/// Where servers are learned from.
#[derive(Debug)]
pub(crate) enum Source {
    Lbs(Vec<SocketAddr>),
    Servers(Vec<SocketAddr>),
}

/// One connection to the cluster and the way to the next.
#[derive(Debug)]
pub(crate) struct Router {
    source: Source,
    options: Options,
    connection: Option<(SocketAddr, Connection)>,
    /// The server that failed last: tried last, as the load balancer may not
    /// have noticed yet.
    avoid: Option<SocketAddr>,
    /// Whether anything ever answered.
    reached: bool,
}

impl Router {
    pub(crate) fn new(source: Source, options: Options) -> Self {
        Router { source, options, connection: None, avoid: None, reached: false }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn connected_to(&self) -> Option<SocketAddr> {
        self.connection.as_ref().map(|(address, _)| *address)
    }

    pub(crate) async fn discover(&mut self) -> Result<Vec<SocketAddr>, Error> {
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

    /// Runs one request to its end by the table at the top.
    pub(crate) async fn run(
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
