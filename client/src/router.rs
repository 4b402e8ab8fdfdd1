//! Finds the server that a load balancer names first (the leader, unless its
//! policy is another; every server takes every command), stays with it, finds
//! the next one, and repeats a request exactly when that is safe.
//!
//! | what happened | a read | a write with a name | a write without |
//! | --- | --- | --- | --- |
//! | no connection, or the request was not sent to its end | repeated | repeated | repeated |
//! | `SERVER_ERROR ..., not executed` | repeated | repeated | repeated |
//! | no answer, connection lost, `... outcome unknown` | repeated | repeated under its name | [`Error::OutcomeUnknown`] |
//! | its session is not open, and it was sent once | | repeated under another name | |
//! | its session is not open, and it was sent before | | [`Error::OutcomeUnknown`] | |
//! | deadline over | [`Error::Unreachable`] | if it was sent [`Error::OutcomeUnknown`], else [`Error::Unreachable`] | [`Error::Unreachable`]: not executed |

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::connection::{Answer, Connection, Expect, Failure};
use crate::error::Error;
use crate::names::{Names, Write};
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
    names: Names,
}

impl Router {
    pub(crate) fn new(source: Source, options: Options) -> Self {
        Router {
            source,
            options,
            connection: None,
            avoid: None,
            reached: false,
            names: Names::new(),
        }
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

    /// Runs one read to its end by the table at the top.
    pub(crate) async fn read(&mut self, request: &[u8], expect: Expect) -> Result<Answer, Error> {
        let mut trouble = Trouble::new(self.options.deadline, self.reached);
        let mut backoff = Backoff::default();
        loop {
            match self.read_once(request, expect, &mut trouble).await {
                Ok(Answer::ServerError(text)) => {
                    if protocol::is_outcome_unknown(&text) {
                        self.lose_server();
                    } else {
                        self.refused(&text)?;
                    }
                    trouble.note(answered(&text));
                }
                Ok(answer) => return definite(answer),
                Err(failure) => trouble.note(failure.cause),
            }
            if !backoff.wait(&trouble).await {
                return Err(self.unreachable(trouble));
            }
        }
    }

    /// Runs one write to its end by the table at the top.
    pub(crate) async fn write(&mut self, bytes: Vec<u8>, expect: Expect) -> Result<Answer, Error> {
        self.names.begin();
        let mut write = Write::new(bytes);
        let mut trouble = Trouble::new(self.options.deadline, self.reached);
        let mut backoff = Backoff::default();
        loop {
            match self.write_once(&mut write, expect, &mut trouble).await {
                Ok(Answer::ServerError(text)) => {
                    let cause = answered(&text);
                    if protocol::is_session_unknown(&text) {
                        if let Some(ids) = write.ids() {
                            self.names.is_over(ids);
                        }
                        if write.is_exposed() {
                            return Err(Error::OutcomeUnknown { cause });
                        }
                        write.name(None);
                    } else if protocol::is_outcome_unknown(&text) {
                        self.lose_server();
                        if !write.expose() {
                            return Err(Error::OutcomeUnknown { cause });
                        }
                    } else {
                        self.refused(&text)?;
                    }
                    trouble.note(cause);
                }
                Ok(answer) => return definite(answer),
                Err(failure) => {
                    if failure.sent && !write.expose() {
                        return Err(Error::OutcomeUnknown { cause: failure.cause });
                    }
                    trouble.note(failure.cause);
                }
            }
            if !backoff.wait(&trouble).await {
                return Err(match write.is_exposed() {
                    true => Error::OutcomeUnknown { cause: trouble.cause() },
                    false => self.unreachable(trouble),
                });
            }
        }
    }

    /// A `SERVER_ERROR` that may be a refusal: then the request can go
    /// elsewhere, or here once more.
    fn refused(&mut self, text: &[u8]) -> Result<(), Error> {
        if !protocol::is_not_executed(text) {
            return Err(Error::ServerError(String::from_utf8_lossy(text).into_owned()));
        }
        // A busy server is still the right one; one that stops or has no leader
        // is left, as the load balancer may know better.
        if !text.starts_with(b"busy") {
            self.lose_server();
        }
        Ok(())
    }

    async fn read_once(
        &mut self,
        request: &[u8],
        expect: Expect,
        trouble: &mut Trouble,
    ) -> Result<Answer, Failure> {
        let (address, connection) = self.take_connection(trouble).await?;
        self.attempt(address, connection, request, expect, trouble).await
    }

    /// One sending of a write, which is given a name if there is a session.
    async fn write_once(
        &mut self,
        write: &mut Write,
        expect: Expect,
        trouble: &mut Trouble,
    ) -> Result<Answer, Failure> {
        let (address, mut connection) = self.take_connection(trouble).await?;
        if write.ids().is_none() {
            self.open_session(address, &mut connection, trouble).await?;
            write.name(self.names.assign());
        }
        self.attempt(address, connection, write.bytes(), expect, trouble).await
    }

    /// Opens a session if one is needed and the server knows how to. An error
    /// is no failure of the write, which was not sent.
    async fn open_session(
        &mut self,
        address: SocketAddr,
        connection: &mut Connection,
        trouble: &Trouble,
    ) -> Result<(), Failure> {
        let Some(line) = self.names.open(address) else { return Ok(()) };
        let cause = match connection.call(&line, Expect::Session, self.until(trouble)).await {
            Ok(Answer::Ok) => {
                self.names.opened();
                return Ok(());
            }
            Ok(Answer::ServerError(text)) if !protocol::is_too_many_sessions(&text) => {
                answered(&text)
            }
            Ok(_) => {
                self.names.without(address);
                return Ok(());
            }
            Err(failure) => failure.cause,
        };
        self.avoid = Some(address);
        Err(Failure { sent: false, cause: format!("{address}: {cause}") })
    }

    fn until(&self, trouble: &Trouble) -> Instant {
        trouble.deadline().min(Instant::now() + self.options.attempt_timeout)
    }

    async fn attempt(
        &mut self,
        address: SocketAddr,
        mut connection: Connection,
        request: &[u8],
        expect: Expect,
        trouble: &Trouble,
    ) -> Result<Answer, Failure> {
        match connection.call(request, expect, self.until(trouble)).await {
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

    fn unreachable(&self, trouble: Trouble) -> Error {
        let advice = match self.source {
            Source::Lbs(_) => crate::error::ADVICE_LB,
            Source::Servers(_) => crate::error::ADVICE_SERVER,
        };
        trouble.into_error(advice)
    }
}

/// An answer that the caller gets.
fn definite(answer: Answer) -> Result<Answer, Error> {
    match answer {
        Answer::ClientError(text) => Err(Error::ClientError(text)),
        answer => Ok(answer),
    }
}

fn answered(server_error: &[u8]) -> String {
    format!("the server answered: {}", String::from_utf8_lossy(server_error))
}
