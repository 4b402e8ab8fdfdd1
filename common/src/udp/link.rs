//! A link: an authenticated connection to one peer, with frames in lanes.

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use tokio::sync::Notify;

use super::error::SendError;
use super::lanes::{LANES, Lane, Outgoing};
use super::read::{self, Fault};
use super::settings::SILENCE_LIMIT;

/// Takes what comes in on a link. Called on the link's task, so it must not
/// block: frames of a lane in the order in which they were sent.
pub trait Receive: Send + Sync {
    /// A frame. It may be a slice of the datagrams that it came in, up to
    /// 64 KiB of them: copy what is to be kept for long.
    fn frame(&self, lane: Lane, frame: Bytes);

    /// The link is closed; the last call, made once.
    fn closed(&self, reason: String);
}

/// Why a link is closed, for the other side's code path; people read the text.
pub(super) const CODE_CLOSED: VarInt = VarInt::from_u32(0);
/// The peers speak different versions.
pub(super) const CODE_VERSION: VarInt = VarInt::from_u32(1);
/// The peer broke the rules of the wire.
pub(super) const CODE_RULES: VarInt = VarInt::from_u32(2);
/// Another handshake of the same dial was faster.
pub(super) const CODE_SUPERSEDED: VarInt = VarInt::from_u32(3);
/// The peer must not take part as who it is.
pub(super) const CODE_TURNED_AWAY: VarInt = VarInt::from_u32(4);

/// How long [`Link::close_after_sending`] waits for the peer.
const LINGER: Duration = Duration::from_millis(250);

/// One authenticated connection to a peer. Cheap to clone.
///
/// A link that was started lives until either side closes it. One that was
/// never started is closed when its last clone is dropped.
#[derive(Clone)]
pub struct Link(Arc<Handle>);

struct Handle(Arc<Inner>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close(CODE_CLOSED, "dropped");
    }
}

/// What the link's own tasks share with its handles.
pub(super) struct Inner {
    connection: Connection,
    remote: SocketAddr,
    lanes: [Mutex<Outgoing>; LANES],
    /// Wakes the writer's task; set once it has run.
    writer: OnceLock<Waker>,
    /// Signalled whenever the writer has emptied all queues.
    emptied: Notify,
    /// The peer's control stream, after its hello, until the link is started.
    control: Mutex<Option<RecvStream>>,
    /// Lanes that the peer has opened, one bit each.
    opened: AtomicU8,
    /// Why this side closed the link.
    reason: OnceLock<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere ends the process in a release build; in a test the
    // queue is still whole, because bytes are only ever appended to it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Sends the hello. Must be called within the runtime.
    pub(super) fn new(connection: Connection, streams: [SendStream; LANES], hello: &[u8]) -> Self {
        let mut lanes = Lane::ALL.into_iter();
        let lanes = streams.map(|stream| {
            Mutex::new(Outgoing::new(lanes.next().expect("as many lanes as streams"), stream))
        });
        let inner = Arc::new(Inner {
            remote: connection.remote_address(),
            connection,
            lanes,
            writer: OnceLock::new(),
            emptied: Notify::new(),
            control: Mutex::new(None),
            opened: AtomicU8::new(1 << Lane::Control.index()),
            reason: OnceLock::new(),
        });
        let link = Self(Arc::new(Handle(inner.clone())));
        // A fresh link takes any frame; a closed one says so to the reader.
        let _ = link.send(Lane::Control, hello);
        tokio::spawn(write(inner));
        link
    }

    /// Lets frames flow to `receive` from here on. What has come in before
    /// was held back, not lost. Only the first call counts. Must be called
    /// within the runtime.
    pub fn start(&self, receive: Arc<dyn Receive>) {
        let Some(control) = locked(&self.0.0.control).take() else {
            return;
        };
        tokio::spawn(deliver(self.clone(), control, receive));
    }

    /// Queues a frame. Never blocks.
    ///
    /// # Errors
    /// [`SendError`]; nothing of the frame is sent then.
    pub fn send(&self, lane: Lane, frame: &[u8]) -> Result<(), SendError> {
        self.send_with(lane, |out| out.extend_from_slice(frame))
    }

    /// Queues a frame that is encoded straight into the lane's buffer.
    /// `encode` may only append; what is already there is not its own. Never
    /// blocks.
    ///
    /// The frame leaves with this turn of the runtime, together with all that
    /// is sent in the same turn.
    ///
    /// # Errors
    /// [`SendError`]; nothing of the frame is sent then.
    pub fn send_with(
        &self,
        lane: Lane,
        encode: impl FnOnce(&mut BytesMut),
    ) -> Result<(), SendError> {
        let inner = &*self.0.0;
        let was_idle = locked(&inner.lanes[lane.index()]).append(encode)?;
        // Otherwise the writer is on its way, or QUIC wakes it when it can go
        // on. One that has never run looks at all lanes when it does.
        if was_idle && let Some(writer) = inner.writer.get() {
            writer.wake_by_ref();
        }
        Ok(())
    }

    /// The peer's address.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.0.0.remote
    }

    /// Closes the link at once: what is queued or under way may be lost. The
    /// reason reaches the peer's [`Receive::closed`], and our own.
    pub fn close(&self, reason: &str) {
        self.0.0.close(CODE_CLOSED, reason);
    }

    /// Closes the link for good: the peer is to stop with this reason, see
    /// [`Link::is_turned_away`].
    pub fn turn_away(&self, reason: &str) {
        self.0.0.close(CODE_TURNED_AWAY, reason);
    }

    /// Whether the peer has closed the link by [`Link::turn_away`].
    #[must_use]
    pub fn is_turned_away(&self) -> bool {
        let reason = self.0.0.connection.close_reason();
        matches!(reason, Some(ConnectionError::ApplicationClosed(close))
            if close.error_code == CODE_TURNED_AWAY)
    }

    /// Closes the link once the peer's machine has all that was sent before,
    /// or after a quarter of a second. Nothing can be sent any more.
    pub async fn close_after_sending(&self, reason: &str) {
        let inner = &*self.0.0;
        let sent = async {
            inner.emptied().await;
            for lane in &inner.lanes {
                let finished = locked(lane).finish();
                finished.await;
            }
        };
        let _ = tokio::time::timeout(LINGER, sent).await;
        self.close(reason);
    }

    /// Waits until the link is closed; says why.
    pub async fn closed(&self) -> String {
        let inner = &*self.0.0;
        let error = inner.connection.closed().await;
        inner.reason_of(&error)
    }

    /// Whether the link is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.0.connection.close_reason().is_some()
    }

    /// Round trip time as QUIC estimates it.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.0.0.connection.rtt()
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0.0
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({}, {})", self.remote(), if self.is_closed() { "closed" } else { "open" })
    }
}

impl Inner {
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Keeps the peer's control stream for [`Link::start`].
    pub(super) fn keep_control(&self, stream: RecvStream) {
        *locked(&self.control) = Some(stream);
    }

    /// Whether this is the first stream of its lane.
    pub(super) fn first_of(&self, lane: Lane) -> bool {
        let bit = 1 << lane.index();
        self.opened.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Only the first close counts, as in QUIC.
    pub(super) fn close(&self, code: VarInt, reason: &str) {
        if self.connection.close_reason().is_none() {
            let reason = self.reason.get_or_init(|| reason.to_owned());
            self.connection.close(code, reason.as_bytes());
            self.shut();
        }
    }

    fn shut(&self) {
        for lane in &self.lanes {
            locked(lane).shut();
        }
        self.emptied.notify_waiters();
    }

    fn reason_of(&self, error: &ConnectionError) -> String {
        match error {
            ConnectionError::LocallyClosed => {
                self.reason.get().cloned().unwrap_or_else(|| "this process ends".to_owned())
            }
            other => describe(other),
        }
    }

    /// Writes what waits in any lane, most urgent first.
    fn flush(&self, cx: &mut Context<'_>) {
        let mut idle = true;
        for lane in [Lane::Urgent, Lane::Control, Lane::Request, Lane::Bulk, Lane::Snapshot] {
            let mut out = locked(&self.lanes[lane.index()]);
            // An error is the end of the link, which ends the writer too.
            idle &= out.flush(cx).is_ok() && out.is_idle();
        }
        if idle {
            self.emptied.notify_waiters();
        }
    }

    async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.lanes.iter().all(|lane| locked(lane).is_idle()) {
                return;
            }
            emptied.await;
        }
    }
}

/// What a link ended with, in words.
pub(super) fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            String::from_utf8_lossy(&close.reason).into_owned()
        }
        ConnectionError::TimedOut => {
            format!("nothing heard for {} ms", SILENCE_LIMIT.as_millis())
        }
        // A reset says no more than that. A close that finds the window full is
        // never sent by QUIC; the peer then hears a reset in its place.
        ConnectionError::Reset => "the peer no longer knows the link: it was restarted".to_owned(),
        other => other.to_string(),
    }
}

/// The task that hands the queues to QUIC. Measured against writing from
/// `send` itself: as fast for one frame (QUIC's own task has to run in either
/// case), and a tenth less CPU when a turn sends several, which become one
/// write.
async fn write(inner: Arc<Inner>) {
    let closed = inner.connection.clone();
    let mut closed = std::pin::pin!(closed.closed());
    poll_fn(|cx| {
        // The same waker for the task's whole life.
        inner.writer.get_or_init(|| cx.waker().clone());
        if closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        inner.flush(cx);
        Poll::Pending
    })
    .await;
    inner.shut();
}

/// The task that delivers what comes in. All lanes are read within one task,
/// so that `closed` comes after the last frame of each.
async fn deliver(link: Link, mut control: RecvStream, receive: Arc<dyn Receive>) {
    let inner = link.inner();
    let checked = |end: Result<(), Fault>| {
        if let Err(Fault::Rules(reason)) = end {
            tracing::warn!(remote = %inner.remote, reason, "link closed: the peer broke the rules");
            inner.close(CODE_RULES, &reason);
        }
    };
    tokio::join!(
        async { checked(read::frames(Lane::Control, &mut control, &*receive).await) },
        async { checked(read::next_lane(inner, &*receive).await) },
        async { checked(read::next_lane(inner, &*receive).await) },
        async { checked(read::next_lane(inner, &*receive).await) },
        async { checked(read::next_lane(inner, &*receive).await) },
    );
    receive.closed(link.closed().await);
}
