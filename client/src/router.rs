//! Talks to the server that is named first (the leader, unless the load
//! balancer's policy is another; every server takes every command), stays with
//! it, goes on to the next one, and repeats a request exactly when that is
//! safe. Who they are the finder knows.
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
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::connection::{Answer, Connection, Expect, Failure};
use crate::error::Error;
use crate::finder::Finder;
use crate::names::{Names, Write};
use crate::protocol;
use crate::race::first_good_after;
use crate::retry::{Backoff, Trouble};
use crate::search::Search;

/// How long the connection to one server may take before the next one is tried,
/// too: longer than the way to any but the farthest (RFC 8305 proposes as much).
const SERVER_HEAD_START: Duration = Duration::from_millis(250);

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

/// A connection to a server.
#[derive(Debug)]
struct Held {
    server: SocketAddr,
    connection: Connection,
    /// Lookups until then, and whether it was named first.
    lookups: u64,
    first: bool,
}

/// One connection to the cluster and the way to the next.
#[derive(Debug)]
pub(crate) struct Router {
    search: Arc<Search>,
    options: Options,
    held: Option<Held>,
    names: Names,
}

impl Router {
    pub(crate) fn new(finder: Finder, options: Options) -> Self {
        Router::with_search(Arc::new(Search::new(finder)), options)
    }

    /// Another connection that knows what this one knows, and learns with it.
    pub(crate) fn another(&self, options: Options) -> Self {
        Router::with_search(self.search.clone(), options)
    }

    fn with_search(search: Arc<Search>, options: Options) -> Self {
        Router { search, options, held: None, names: Names::new() }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn connected_to(&self) -> Option<SocketAddr> {
        self.held.as_ref().map(|held| held.server)
    }

    fn trouble(&self) -> Trouble {
        Trouble::new(self.options.deadline, self.search.finder().was_reached())
    }

    pub(crate) async fn discover(&mut self) -> Result<Vec<SocketAddr>, Error> {
        let mut trouble = self.trouble();
        let mut backoff = Backoff::default();
        loop {
            let servers = self.search.servers(&mut trouble, self.options.connect_timeout).await;
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
        let mut trouble = self.trouble();
        let mut backoff = Backoff::default();
        loop {
            match self.read_once(request, expect, &mut trouble).await {
                Ok(Answer::ServerError(text)) => {
                    let cause = answered(&text);
                    if protocol::is_outcome_unknown(&text) {
                        self.lose_server(&mut trouble, &cause);
                    } else {
                        self.refused(&text, &mut trouble)?;
                    }
                    trouble.note(cause);
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
        let mut trouble = self.trouble();
        let mut backoff = Backoff::default();
        loop {
            match self.write_once(&mut write, expect, &mut trouble).await {
                Ok(Answer::ServerError(text)) => {
                    let cause = answered(&text);
                    if protocol::is_session_unknown(&text) {
                        if let Some(ids) = write.ids() {
                            self.names.is_over(ids);
                        }
                        // Also if whoever forwards it has sent it more than once.
                        if write.is_exposed() || protocol::is_outcome_unknown(&text) {
                            return Err(Error::OutcomeUnknown { cause });
                        }
                        write.name(None);
                    } else if protocol::is_outcome_unknown(&text) {
                        self.lose_server(&mut trouble, &cause);
                        if !write.expose() {
                            return Err(Error::OutcomeUnknown { cause });
                        }
                    } else {
                        self.refused(&text, &mut trouble)?;
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
    fn refused(&mut self, text: &[u8], trouble: &mut Trouble) -> Result<(), Error> {
        if !protocol::is_not_executed(text) {
            return Err(Error::ServerError(String::from_utf8_lossy(text).into_owned()));
        }
        // A busy server is still the right one; one that stops or has no leader
        // is left, as others may know better.
        if text.starts_with(b"busy") {
            if let Some(held) = &self.held {
                trouble.says(held.server, &answered(text));
            }
        } else {
            self.lose_server(trouble, &answered(text));
        }
        Ok(())
    }

    async fn read_once(
        &mut self,
        request: &[u8],
        expect: Expect,
        trouble: &mut Trouble,
    ) -> Result<Answer, Failure> {
        let held = self.take_connection(trouble).await?;
        self.attempt(held, request, expect, trouble).await
    }

    /// One sending of a write, which is given a name if there is a session.
    async fn write_once(
        &mut self,
        write: &mut Write,
        expect: Expect,
        trouble: &mut Trouble,
    ) -> Result<Answer, Failure> {
        let mut held = self.take_connection(trouble).await?;
        if write.ids().is_none() {
            self.open_session(&mut held, trouble).await?;
            write.name(self.names.assign());
        }
        self.attempt(held, write.bytes(), expect, trouble).await
    }

    /// Opens a session if one is needed and the server knows how to. An error
    /// is no failure of the write, which was not sent.
    async fn open_session(
        &mut self,
        held: &mut Held,
        trouble: &mut Trouble,
    ) -> Result<(), Failure> {
        let Some(line) = self.names.open(held.server) else { return Ok(()) };
        let cause = match held.connection.call(&line, Expect::Session, self.until(trouble)).await {
            Ok(Answer::Ok) => {
                self.names.opened();
                return Ok(());
            }
            Ok(Answer::ServerError(text)) if !protocol::is_too_many_sessions(&text) => {
                answered(&text)
            }
            Ok(_) => {
                self.names.without(held.server);
                return Ok(());
            }
            Err(failure) => failure.cause,
        };
        Err(self.failed(held.server, &Failure { sent: false, cause }, trouble))
    }

    fn until(&self, trouble: &Trouble) -> Instant {
        trouble.deadline().min(Instant::now() + self.options.attempt_timeout)
    }

    async fn attempt(
        &mut self,
        mut held: Held,
        request: &[u8],
        expect: Expect,
        trouble: &mut Trouble,
    ) -> Result<Answer, Failure> {
        match held.connection.call(request, expect, self.until(trouble)).await {
            Ok(answer) => {
                self.search.finder().worked(held.server);
                // After a CLIENT_ERROR or ERROR to a store command the peer may have
                // taken the data block for commands: out of step.
                if !matches!(answer, Answer::ClientError(_)) {
                    self.held = Some(held);
                }
                Ok(answer)
            }
            Err(failure) => Err(self.failed(held.server, &failure, trouble)),
        }
    }

    /// `server` did not answer: everybody tries it last, for a while.
    fn failed(&self, server: SocketAddr, failure: &Failure, trouble: &mut Trouble) -> Failure {
        self.search.finder().failed(server, Instant::now());
        trouble.says(server, &failure.cause);
        Failure { sent: failure.sent, cause: format!("{server}: {}", failure.cause) }
    }

    /// The connection at hand, or a new one to the first server that takes one.
    async fn take_connection(&mut self, trouble: &mut Trouble) -> Result<Held, Failure> {
        let wait = self.options.connect_timeout;
        if let Some(mut held) = self.held.take() {
            self.search.recheck(held.server, wait);
            let now = Instant::now();
            let leave = self.search.finder().is_better(held.server, held.first, held.lookups, now);
            if !leave && held.connection.is_usable().await {
                trouble.reached();
                return Ok(held);
            }
        }
        let servers = self.search.servers(trouble, wait).await;
        let open = |server| Connection::open(server, trouble.cap(wait));
        match first_good_after(SERVER_HEAD_START, &servers, open).await {
            Ok((server, connection)) => {
                trouble.reached();
                let mut finder = self.search.finder();
                for other in servers.iter().take_while(|other| **other != server) {
                    finder.failed(*other, Instant::now());
                }
                let (lookups, first) = (finder.lookups(), finder.is_first(server));
                Ok(Held { server, connection, lookups, first })
            }
            Err(all) => {
                for (server, error) in &all {
                    self.search.finder().failed(*server, Instant::now());
                    trouble.note_connect(*server, error);
                }
                Err(Failure { sent: false, cause: trouble.cause() })
            }
        }
    }

    fn lose_server(&mut self, trouble: &mut Trouble, why: &str) {
        if let Some(held) = self.held.take() {
            self.search.finder().failed(held.server, Instant::now());
            trouble.says(held.server, why);
        }
    }

    fn unreachable(&self, trouble: Trouble) -> Error {
        let advice = match self.search.finder().is_fixed() {
            false => crate::error::ADVICE_LB,
            true => crate::error::ADVICE_SERVER,
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
