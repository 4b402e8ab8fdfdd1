//! One connection: one request out, one reply in, never waiting past an
//! instant and never holding more than a reply may be large.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use common::limits::MAX_DISCOVERY_LINES;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::protocol::{Line, MAX_REPLY_LINE_BYTES};

/// Lines of one `stats` reply that are read before the peer counts as broken.
const MAX_STATS_LINES: usize = 10_000;

/// Lines of a discovery answer that are read before the peer counts as
/// broken: more than a load balancer of ours sends, as others may send more.
const MAX_SERVER_LINES: usize = MAX_DISCOVERY_LINES * 20;

/// A connection that was idle for so long is looked at before it is written
/// to: a request on a connection that the server has closed meanwhile would
/// end in an unknown outcome for no reason.
const LOOK_BEFORE_USE_AFTER: Duration = Duration::from_millis(20);

/// One hit of a get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// The key as it was asked for.
    pub key: Vec<u8>,
    /// What set was given; opaque to the store.
    pub flags: u32,
    /// The token for cas; only `gets` fills it.
    pub cas: Option<u64>,
    /// The value.
    pub value: Vec<u8>,
}

/// Which replies a request may get.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    /// `STORED`, `NOT_STORED`, `EXISTS`, `NOT_FOUND`
    Store,
    /// `DELETED`, `NOT_FOUND`
    Delete,
    /// a number, `NOT_FOUND`
    Number,
    /// At most so many values, then `END`.
    Values { at_most: usize, max_value_bytes: usize },
    /// `OK`
    Session,
    /// `VERSION ...`
    Version,
    /// `STAT` lines, then `END`.
    Stats,
}

/// A whole reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Stored,
    NotStored,
    Exists,
    NotFound,
    Deleted,
    Ok,
    Number(u64),
    Values(Vec<Value>),
    Version(String),
    Stats(Vec<(String, String)>),
    ClientError(String),
    ServerError(Vec<u8>),
}

/// No reply. The connection is of no more use.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Whether the last byte of the request was handed to the kernel: if not,
    /// nobody can have executed it.
    pub(crate) sent: bool,
    pub(crate) cause: String,
}

/// One connection to a server or a load balancer.
#[derive(Debug)]
pub(crate) struct Connection<S = TcpStream> {
    stream: S,
    input: BytesMut,
    used_at: Instant,
}

impl Connection<TcpStream> {
    pub(crate) async fn open(address: SocketAddr, wait: Duration) -> io::Result<Self> {
        let stream = timeout(wait, TcpStream::connect(address)).await.map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no connection within {} ms", wait.as_millis()),
            )
        })??;
        stream.set_nodelay(true)?;
        Ok(Connection::new(stream))
    }

    /// Whether a request can be sent on it: still open as far as this side
    /// knows, and no stray bytes of an earlier reply.
    pub(crate) async fn is_usable(&mut self) -> bool {
        if !self.input.is_empty() {
            return false;
        }
        if self.used_at.elapsed() < LOOK_BEFORE_USE_AFTER {
            return true;
        }
        // The runtime learns of a close only when it looks at its sockets.
        tokio::task::yield_now().await;
        let mut byte = [0u8; 1];
        matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) fn new(stream: S) -> Self {
        Connection { stream, input: BytesMut::with_capacity(4096), used_at: Instant::now() }
    }

    /// Sends `request` and reads its reply, until the instant `until`.
    pub(crate) async fn call(
        &mut self,
        request: &[u8],
        expect: Expect,
        until: Instant,
    ) -> Result<Answer, Failure> {
        self.send(request, until).await?;
        let answer = match timeout_at(until, self.read_answer(expect)).await {
            Ok(answer) => answer,
            Err(_) => Err("no answer in time".into()),
        };
        self.used_at = Instant::now();
        answer.map_err(|cause| Failure { sent: true, cause })
    }

    /// Asks a load balancer who serves; leader first, empty without a leader.
    pub(crate) async fn discover(&mut self, until: Instant) -> Result<Vec<SocketAddr>, Failure> {
        self.send(b"get-servers\r\n", until).await?;
        match timeout_at(until, self.read_servers()).await {
            Ok(servers) => servers,
            Err(_) => Err("no answer to get-servers in time".into()),
        }
        .map_err(|cause| Failure { sent: true, cause })
    }

    async fn send(&mut self, request: &[u8], until: Instant) -> Result<(), Failure> {
        let cause = match timeout_at(until, self.stream.write_all(request)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => format!("connection lost: {error}"),
            Err(_) => "the request could not be sent in time".into(),
        };
        Err(Failure { sent: false, cause })
    }

    async fn read_servers(&mut self) -> Result<Vec<SocketAddr>, String> {
        let mut servers = Vec::new();
        loop {
            let line = self.read_line().await?;
            if line.eq_ignore_ascii_case(b"end") {
                return Ok(servers);
            }
            let address = std::str::from_utf8(&line).ok().and_then(|text| text.trim().parse().ok());
            match address {
                Some(address) if servers.len() < MAX_SERVER_LINES => servers.push(address),
                Some(_) => return Err("get-servers answered without end".into()),
                None => return Err(unexpected("get-servers", &line)),
            }
        }
    }

    async fn read_answer(&mut self, expect: Expect) -> Result<Answer, String> {
        let mut values = Vec::new();
        let mut stats = Vec::new();
        loop {
            let text = self.read_line().await?;
            let line = Line::parse(&text);
            match (expect, line) {
                (Expect::Store, Line::Stored) => return Ok(Answer::Stored),
                (Expect::Store, Line::NotStored) => return Ok(Answer::NotStored),
                (Expect::Store, Line::Exists) => return Ok(Answer::Exists),
                (Expect::Store | Expect::Delete | Expect::Number, Line::NotFound) => {
                    return Ok(Answer::NotFound);
                }
                (Expect::Session, Line::Ok) => return Ok(Answer::Ok),
                (Expect::Delete, Line::Deleted) => return Ok(Answer::Deleted),
                (Expect::Number, Line::Number(number)) => return Ok(Answer::Number(number)),
                (Expect::Version, Line::Version(text)) => return Ok(Answer::Version(lossy(text))),
                (Expect::Values { .. }, Line::End) => return Ok(Answer::Values(values)),
                (Expect::Stats, Line::End) => return Ok(Answer::Stats(stats)),
                (Expect::Stats, Line::Stat { name, value }) if stats.len() < MAX_STATS_LINES => {
                    stats.push((lossy(name), lossy(value)));
                }
                (
                    Expect::Values { at_most, max_value_bytes },
                    Line::Value { key, flags, bytes, cas },
                ) if values.len() < at_most => {
                    if bytes > max_value_bytes {
                        return Err(format!(
                            "a value of {bytes} bytes was announced, the limit here is {max_value_bytes}"
                        ));
                    }
                    let value = self.read_block(bytes).await?;
                    values.push(Value { key: key.to_vec(), flags, cas, value });
                }
                (_, Line::ServerError(text)) => return Ok(Answer::ServerError(text.to_vec())),
                (_, Line::ClientError(text)) => return Ok(Answer::ClientError(lossy(text))),
                (_, Line::Error(text)) => {
                    let text =
                        format!("the server does not know this command: ERROR {}", lossy(text));
                    return Ok(Answer::ClientError(text.trim_end().into()));
                }
                _ => return Err(unexpected("the request", &text)),
            }
        }
    }

    /// The next line without its end, CRLF or LF.
    async fn read_line(&mut self) -> Result<BytesMut, String> {
        let mut searched = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.input[searched..]) {
                let mut line = self.input.split_to(searched + at + 1);
                line.truncate(line.len() - 1);
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                return Ok(line);
            }
            searched = self.input.len();
            if searched > MAX_REPLY_LINE_BYTES {
                return Err(unexpected("the request", &self.input));
            }
            self.fill().await?;
        }
    }

    /// A data block and its line end. Memory grows with what arrives, not
    /// with what was announced.
    async fn read_block(&mut self, bytes: usize) -> Result<Vec<u8>, String> {
        let mut block = Vec::with_capacity(bytes.min(64 * 1024));
        while block.len() < bytes {
            if self.input.is_empty() {
                self.fill().await?;
            }
            let part = self.input.len().min(bytes - block.len());
            block.extend_from_slice(&self.input[..part]);
            self.input.advance(part);
        }
        match self.read_line().await? {
            line if line.is_empty() => Ok(block),
            line => Err(unexpected("the request (behind a value)", &line)),
        }
    }

    async fn fill(&mut self) -> Result<(), String> {
        self.input.reserve(4096);
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => Err("the server closed the connection".into()),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("connection lost: {error}")),
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn unexpected(what: &str, line: &[u8]) -> String {
    let cut = &line[..line.len().min(80)];
    format!("unexpected answer to {what}: `{}`", cut.escape_ascii())
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
