//! The names of this client's writes: under a session of its own, so that a
//! write whose answer was lost can be sent again and takes effect once.
//!
//! The protocol is that of `common::memcached::write_token`. The session is
//! opened with the first write and serves on all connections. Where the server
//! knows no sessions, writes go without names.

use std::net::SocketAddr;
use std::time::Duration;

use common::forward::{ForwardReply, Session, WriteIds};
use common::memcached::{write_open_session, write_token};
use tokio::time::Instant;

/// A server that opens no session is asked for one again after this.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// The bytes of a token and of the blank in front of it, at the most.
pub(crate) const TOKEN_BYTES: usize = 64;

/// The session, and the write that is under way.
#[derive(Debug)]
pub(crate) struct Names {
    started: Instant,
    session: Session<()>,
    /// Of the write that is under way, or was given up.
    current: Option<WriteIds>,
    /// Who knows no sessions, or has no room for another one, and since when.
    without: Option<(SocketAddr, Instant)>,
}

impl Names {
    pub(crate) fn new() -> Self {
        Names {
            started: Instant::now(),
            session: Session::new(rand::random()),
            current: None,
            without: None,
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// A request begins. The one before it is over, also if it was dropped
    /// half-way: its caller does not want its answer any more.
    pub(crate) fn begin(&mut self) {
        self.session.link_lost(());
        if let Some(ids) = self.current.take() {
            self.session.answered(ids);
        }
    }

    /// The line that asks for a session, if one is needed before a write can
    /// be named at `server`.
    pub(crate) fn open(&mut self, server: SocketAddr) -> Option<Vec<u8>> {
        let now = self.now();
        if self.session.is_open(now) || self.goes_without(server) {
            return None;
        }
        // Nobody else is asked meanwhile: there is one request at a time.
        self.session.link_lost(());
        let id = self.session.open(now, (), 0)?;
        let mut line = Vec::with_capacity(32);
        write_open_session(id, &mut line);
        Some(line)
    }

    /// The session is open.
    pub(crate) fn opened(&mut self) {
        self.session.opened(self.now(), &ForwardReply::Done(bytes::Bytes::new()));
    }

    /// `server` opens no sessions.
    pub(crate) fn without(&mut self, server: SocketAddr) {
        self.without = Some((server, Instant::now()));
    }

    fn goes_without(&self, server: SocketAddr) -> bool {
        self.without
            .is_some_and(|(without, since)| without == server && since.elapsed() < ASK_AGAIN_AFTER)
    }

    /// A name for the write that begins now; none without a session.
    pub(crate) fn assign(&mut self) -> Option<WriteIds> {
        let now = self.now();
        if !self.session.is_open(now) {
            return None;
        }
        let ids = self.session.assign(now, 1)?;
        self.current = Some(ids);
        Some(self.session.with_done_below(ids))
    }

    /// The session of `ids` is not open any more.
    pub(crate) fn is_over(&mut self, ids: &WriteIds) {
        self.current = None;
        self.session.is_unknown(ids.session);
    }
}

/// A write, with its name in its place.
#[derive(Debug)]
pub(crate) struct Write {
    bytes: Vec<u8>,
    /// Where the token begins, with a blank, or would begin.
    token_at: usize,
    token_bytes: usize,
    ids: Option<WriteIds>,
}

impl Write {
    /// `bytes` are a command line, and its data block if it has one.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let token_at = memchr::memchr(b'\r', &bytes).unwrap_or(bytes.len());
        Write { bytes, token_at, token_bytes: 0, ids: None }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn ids(&self) -> Option<&WriteIds> {
        self.ids.as_ref()
    }

    /// Whether an earlier sending may have taken effect.
    pub(crate) fn is_exposed(&self) -> bool {
        self.ids.is_some_and(|ids| ids.again)
    }

    /// An earlier sending may have taken effect; false: it has no name, and
    /// cannot be sent again.
    pub(crate) fn expose(&mut self) -> bool {
        let Some(ids) = self.ids else { return false };
        self.name(Some(WriteIds { again: true, ..ids }));
        true
    }

    /// Gives it another name, or none.
    pub(crate) fn name(&mut self, ids: Option<WriteIds>) {
        let mut token = Vec::with_capacity(TOKEN_BYTES);
        if let Some(ids) = &ids {
            token.push(b' ');
            write_token(ids, &mut token);
        }
        let old = self.token_at..self.token_at + self.token_bytes;
        self.token_bytes = token.len();
        self.bytes.splice(old, token);
        self.ids = ids;
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
