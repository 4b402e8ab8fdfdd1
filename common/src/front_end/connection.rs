//! One client connection.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::batch::Batch;
use super::link::Link;
use super::{FrontEndConfig, INITIAL_BYTES, KEEP_BYTES, Service};
use crate::forward::WriteIds;
use crate::limits::{MAX_BATCH_BYTES, MAX_BATCH_REQUESTS};
use crate::memcached::{Parsed, Parser, Request};

/// How long a connection that was closed for an error goes on reading, so
/// that its client gets to see the reply instead of a reset.
const LINGER: Duration = Duration::from_secs(1);

/// The connection's half of the loop that the module page describes.
pub(super) struct Connection {
    socket: OwnedReadHalf,
    link: Arc<Link>,
    service: Arc<dyn Service>,
    config: FrontEndConfig,
    parser: Parser,
    input: BytesMut,
    /// How much room a read is given: grows while reads fill it, so that bulk
    /// takes few reads and an idle connection little memory.
    read_bytes: usize,
    /// When the input was read; looked up only once it makes a second batch.
    read_at: Option<Instant>,
    requests: Vec<Request>,
    /// What names them, if their client did; session 0: it did not.
    ids: WriteIds,
    /// Was parsed, and begins the next batch.
    held: Option<Held>,
    out: BytesMut,
}

/// A request that does not go on with the batch before it.
struct Held {
    request: Request,
    ids: Option<WriteIds>,
    bytes: usize,
}

/// What goes on after the requests at hand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// All whole requests were taken: read.
    Read,
    /// The batch is full, and there may be more in the input.
    Parse,
    /// The client said quit.
    Close,
    /// Nothing that follows can be understood.
    CloseOnError,
    /// Not our protocol.
    Binary,
}

impl Connection {
    pub(super) fn new(
        socket: TcpStream,
        config: FrontEndConfig,
        service: Arc<dyn Service>,
    ) -> Self {
        let (read, write) = socket.into_split();
        Connection {
            socket: read,
            link: Arc::new(Link::new(write, config.counters.clone())),
            service,
            parser: Parser::new(config.max_value_bytes),
            config,
            input: BytesMut::with_capacity(INITIAL_BYTES),
            read_bytes: INITIAL_BYTES,
            read_at: None,
            requests: Vec::new(),
            ids: WriteIds::default(),
            held: None,
            out: BytesMut::new(),
        }
    }

    /// Serves until the client goes, an error closes the connection or the
    /// front end is shut down. A batch that is out is always waited for.
    pub(super) async fn serve(mut self, shutdown: CancellationToken) {
        let mut shutdown = pin!(shutdown.cancelled());
        let mut stopped = false;
        loop {
            let (next, bytes) = self.parse();
            if !self.requests.is_empty() {
                match self.exchange(next, bytes, shutdown.as_mut(), &mut stopped).await {
                    Ok(true) => {}
                    Ok(false) | Err(_) => return,
                }
            }
            match next {
                _ if stopped => return,
                Next::Parse => {}
                Next::Read => match self.read(shutdown.as_mut()).await {
                    Ok(0) | Err(_) => return,
                    Ok(bytes) => self.config.counters.read(bytes),
                },
                Next::Close => return,
                Next::CloseOnError => return self.linger().await,
                Next::Binary => {
                    let peer = self.socket.peer_addr().map(|peer| peer.to_string());
                    tracing::info!(
                        peer = peer.unwrap_or_default(),
                        "closed a connection that speaks memcached's binary protocol; \
                         set the client to the text protocol"
                    );
                    return;
                }
            }
        }
    }

    /// Takes as many whole requests as make a batch; their bytes, too.
    fn parse(&mut self) -> (Next, usize) {
        let mut bytes = 0;
        if let Some(held) = self.held.take() {
            bytes = held.bytes;
            if let Some(next) = self.add(held.request, held.ids) {
                return (next, bytes);
            }
        }
        let mut left = self.input.len();
        let next = loop {
            if self.requests.len() >= MAX_BATCH_REQUESTS || bytes >= MAX_BATCH_BYTES {
                break Next::Parse;
            }
            let parsed = self.parser.next(&mut self.input);
            let taken = left - self.input.len();
            left = self.input.len();
            match parsed {
                Parsed::Incomplete => break Next::Read,
                Parsed::Binary => break Next::Binary,
                Parsed::Request(request) => {
                    let ids = self.parser.ids();
                    if !self.goes_on(ids.as_ref()) {
                        self.held = Some(Held { request, ids, bytes: taken });
                        break Next::Parse;
                    }
                    bytes += taken;
                    if let Some(next) = self.add(request, ids) {
                        break next;
                    }
                }
            }
        };
        (next, bytes)
    }

    /// Whether a request with these ids belongs to the batch at hand: all of a
    /// batch is named as one run of writes, or nothing of it is.
    fn goes_on(&self, ids: Option<&WriteIds>) -> bool {
        match ids {
            _ if self.requests.is_empty() => true,
            None => self.ids.session == 0,
            Some(ids) => {
                let sequence = self.ids.first_sequence + self.requests.len() as u64;
                (ids.session, ids.first_sequence, ids.again)
                    == (self.ids.session, sequence, self.ids.again)
            }
        }
    }

    /// Adds a request to the batch; what is next, if it is its last one.
    fn add(&mut self, request: Request, ids: Option<WriteIds>) -> Option<Next> {
        if let Some(ids) = ids {
            if self.requests.is_empty() {
                self.ids = ids;
            }
            self.ids.done_below = self.ids.done_below.max(ids.done_below);
        }
        let next = match &request {
            Request::Quit => Some(Next::Close),
            Request::Invalid { close: true, .. } => Some(Next::CloseOnError),
            _ => None,
        };
        self.requests.push(request);
        next
    }

    /// Hands the batch over and waits for it; false: it was dropped unanswered.
    async fn exchange(
        &mut self,
        next: Next,
        bytes: usize,
        mut shutdown: Pin<&mut WaitForCancellationFuture<'_>>,
        stopped: &mut bool,
    ) -> io::Result<bool> {
        if self.input.is_empty() && bytes.max(self.input.capacity()) > KEEP_BYTES {
            // The requests own the large buffer now, and it goes with them.
            self.input = BytesMut::new();
        }
        self.config.counters.handed_over(self.requests.len());
        let requests = std::mem::take(&mut self.requests);
        let out = std::mem::take(&mut self.out);
        let ids = std::mem::take(&mut self.ids);
        let waited = self.waited(next);
        let batch = Batch::new(requests, out, bytes, self.link.clone()).named(ids).after(waited);
        self.service.call(batch);

        // With nothing to do but read, the next bytes may wake this task, not
        // the batch. If they come while the batch is still out, it may not be
        // read yet, and from then on the batch must wake.
        let mut wanted = next != Next::Read;
        let mut finished = poll_fn(|cx| {
            if let Poll::Ready(finished) = self.link.poll_back(cx, wanted) {
                return Poll::Ready(finished);
            }
            if wanted {
                return Poll::Pending;
            }
            *stopped |= shutdown.as_mut().poll(cx).is_ready();
            if *stopped || self.socket.as_ref().poll_read_ready(cx).is_ready() {
                wanted = true;
                return self.link.poll_back(cx, wanted);
            }
            Poll::Pending
        })
        .await;
        if finished.complete {
            self.link.write_all(&mut finished.out).await?;
        }
        self.requests = finished.requests;
        if finished.out.capacity() <= KEEP_BYTES {
            self.out = finished.out;
        }
        Ok(finished.complete)
    }

    /// How long the batch at hand has waited since it was read, if it was not
    /// the first of its read. A read that makes one batch costs no clock.
    fn waited(&mut self, next: Next) -> Duration {
        let waited = self.read_at.map_or(Duration::ZERO, |read_at| read_at.elapsed());
        if next == Next::Parse && self.read_at.is_none() {
            // Nothing but parsing has happened since the read.
            self.read_at = Some(Instant::now());
        }
        waited
    }

    /// Reads what there is; 0: the client has gone, or the front end is shut down.
    async fn read(
        &mut self,
        mut shutdown: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> io::Result<usize> {
        // What is left is a part of a request: it arrives with its rest.
        self.read_at = None;
        let spare = self.input.capacity() - self.input.len();
        if self.parser.missing_bytes(&self.input) == 0 && spare < self.read_bytes / 2 {
            self.input.reserve(self.read_bytes);
        }
        let spare = self.input.capacity() - self.input.len();
        let mut bytes = poll_fn(|cx: &mut Context<'_>| {
            // First, or a client that always has more to send would delay it.
            if shutdown.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(0));
            }
            // The read is polled anew each time; it keeps nothing in between.
            pin!(self.socket.read_buf(&mut self.input)).poll(cx)
        })
        .await?;
        if bytes == spare {
            self.read_bytes = (self.read_bytes * 2).min(KEEP_BYTES);
            bytes += self.read_more();
        } else if bytes < self.read_bytes / 4 {
            self.read_bytes = (self.read_bytes / 2).max(INITIAL_BYTES);
        }
        Ok(bytes)
    }

    /// There may be more than there was room for. What came together is read
    /// together, within bounds: what stays in the socket while batches wait for
    /// a leader could not be told from what comes later.
    fn read_more(&mut self) -> usize {
        let mut more = 0;
        while self.parser.missing_bytes(&self.input) == 0
            && self.input.len() == self.input.capacity()
            && self.input.len() < KEEP_BYTES
        {
            self.input.reserve(self.read_bytes.min(KEEP_BYTES - self.input.len()));
            // An end or an error is found again by the next read.
            match self.socket.try_read_buf(&mut self.input) {
                Ok(bytes) if bytes > 0 => more += bytes,
                _ => break,
            }
            self.read_bytes = (self.read_bytes * 2).min(KEEP_BYTES);
        }
        more
    }

    /// Says that nothing more comes and throws away what the client still
    /// sends: closing with unread bytes would reset the connection, and the
    /// reply could be lost on the way.
    async fn linger(mut self) {
        let socket: &TcpStream = self.socket.as_ref();
        if socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Write).is_err() {
            return;
        }
        let drain = async {
            loop {
                self.input.clear();
                self.input.reserve(KEEP_BYTES);
                match self.socket.read_buf(&mut self.input).await {
                    Ok(0) | Err(_) => return,
                    Ok(bytes) => self.config.counters.read(bytes),
                }
            }
        };
        // Whether the client closed or the time is up: it closes now.
        let _ = tokio::time::timeout(LINGER, drain).await;
    }
}
