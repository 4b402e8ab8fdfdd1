//! What a request went through so far, and how long to wait before the next try.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;

use crate::error::{Error, Role, Tried};

const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// When every address refuses the connection at once and none ever answered,
/// most likely nothing runs there: somebody at a prompt should not wait for
/// the whole deadline to learn it.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// The history of one request.
#[derive(Debug)]
pub(crate) struct Trouble {
    started: Instant,
    deadline: Instant,
    tried: Vec<Tried>,
    cause: Option<String>,
    only_refused: bool,
}

impl Trouble {
    pub(crate) fn new(deadline: Duration, reached_before: bool) -> Self {
        let started = Instant::now();
        Trouble {
            started,
            deadline: started + deadline,
            tried: Vec::new(),
            cause: None,
            only_refused: !reached_before,
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// `wait`, but not past the deadline.
    pub(crate) fn cap(&self, wait: Duration) -> Duration {
        wait.min(self.deadline.saturating_duration_since(Instant::now()))
    }

    /// What the last try ended with.
    pub(crate) fn note(&mut self, cause: String) {
        self.cause = Some(cause);
    }

    /// What a server said instead of an answer, or that it is tried.
    pub(crate) fn says(&mut self, server: SocketAddr, said: &str) {
        self.put(server, Role::Server, said);
    }

    /// What was said when it was asked who serves.
    pub(crate) fn heard(&mut self, said: &[Tried], only_refused: bool) {
        self.only_refused &= only_refused;
        for tried in said {
            self.put(tried.address, tried.role, &tried.said);
        }
    }

    fn put(&mut self, address: SocketAddr, role: Role, said: &str) {
        match self.tried.iter_mut().find(|tried| tried.address == address) {
            Some(tried) => tried.said = said.to_owned(),
            None => self.tried.push(Tried { address, role, said: said.to_owned() }),
        }
    }

    pub(crate) fn note_connect(&mut self, server: SocketAddr, error: &io::Error) {
        self.only_refused &= error.kind() == io::ErrorKind::ConnectionRefused;
        self.says(server, &error.to_string());
        self.cause = Some(format!("{server}: {error}"));
    }

    pub(crate) fn reached(&mut self) {
        self.only_refused = false;
    }

    pub(crate) fn cause(&self) -> String {
        self.cause.clone().unwrap_or_else(|| "no address to connect to".into())
    }

    fn is_hopeless(&self) -> bool {
        self.only_refused && (self.tried.is_empty() || self.started.elapsed() >= REFUSED_FOR)
    }

    pub(crate) fn into_error(self, advice: &'static str) -> Error {
        Error::Unreachable { tried: self.tried, advice }
    }
}

/// Waits that double and are spread, so that clients that lost their leader
/// together do not return together.
#[derive(Debug)]
pub(crate) struct Backoff {
    wait: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { wait: FIRST_WAIT }
    }
}

impl Backoff {
    /// Waits before the next try; false if there is no time for one.
    pub(crate) async fn wait(&mut self, trouble: &Trouble) -> bool {
        if trouble.is_hopeless() {
            return false;
        }
        let wait = self.wait.mul_f64(rand::rng().random_range(0.5..1.0));
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        if Instant::now() + wait >= trouble.deadline {
            return false;
        }
        tokio::time::sleep(wait).await;
        true
    }
}
