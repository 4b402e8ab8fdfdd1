//! The operator's side of a backup.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::control::{Hello, PROTOCOL_VERSION, Party};
use common::udp::{ClusterKey, Endpoint, Lane, Link, Receive};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::About;
use super::link::{DATA, MESSAGE, OPERATOR, ToMember, ToOperator, WINDOW_BYTES};

/// A server that says nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// How long a server may be without a leader.
const LEADERLESS: Duration = Duration::from_secs(10);

/// Room is given back in steps of this, not with each chunk.
const ROOM_STEP_BYTES: u64 = (WINDOW_BYTES / 4) as u64;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server cannot be reached, or was lost on the way.
    #[error("{peer}: {why}")]
    Lost {
        /// The server.
        peer: SocketAddr,
        /// What happened.
        why: String,
    },
    /// The server says no.
    #[error("{peer} gives no backup: {why}")]
    Refused {
        /// The server.
        peer: SocketAddr,
        /// Its reason.
        why: String,
    },
    /// What came is not what was sent.
    #[error("what {peer} sent is not complete: {why}; try again")]
    Incomplete {
        /// The server.
        peer: SocketAddr,
        /// What is wrong.
        why: String,
    },
    /// The output cannot be written.
    #[error("cannot write the backup: {0}")]
    Output(#[from] io::Error),
}

/// A backup that was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// What it is of.
    pub about: About,
    /// Its length.
    pub bytes: u64,
}

enum Event {
    Frame(Bytes),
    Closed(String),
}

/// Asks the server at `peer` for a backup and writes it to `out`; `progress`
/// is told what it is of and how many bytes are written. The backup is
/// consistent: it holds everything that was acknowledged before it was asked
/// for. Blocks until it is complete.
///
/// # Errors
/// [`FetchError`]; what was written so far is worth nothing then.
pub fn fetch(
    peer: SocketAddr,
    key: &ClusterKey,
    out: &mut dyn Write,
    mut progress: impl FnMut(&About, u64),
) -> Result<Fetched, FetchError> {
    let lost = |why: String| FetchError::Lost { peer, why };
    let (events_in, events) = channel();
    let (asks, asks_out) = unbounded_channel();
    let key = key.clone();
    // A thread of its own: a slow disk must not look like a dead operator.
    let thread = std::thread::spawn(move || converse(peer, &key, &events_in, asks_out));
    let until = Instant::now() + LEADERLESS;
    let mut room = WINDOW_BYTES as u64;
    let result = loop {
        // A link that is gone says so in the next event.
        let _ = asks.send(ToMember::Backup { room: std::mem::take(&mut room) });
        match receive(peer, &events, &asks, out, &mut progress) {
            Ok(Answer::Whole(fetched)) => break Ok(fetched),
            Ok(Answer::NotNow(why)) if Instant::now() > until => {
                break Err(FetchError::Refused { peer, why });
            }
            Ok(Answer::NotNow(_)) => std::thread::sleep(Duration::from_millis(100)),
            Err(error) => break Err(error),
        }
    };
    drop(asks);
    drop(events);
    match thread.join() {
        Ok(Err(why)) if !matches!(result, Ok(_) | Err(FetchError::Output(_))) => Err(lost(why)),
        _ => result,
    }
}

enum Answer {
    Whole(Fetched),
    /// A refusal that may pass.
    NotNow(String),
}

fn receive(
    peer: SocketAddr,
    events: &Receiver<Event>,
    asks: &UnboundedSender<ToMember>,
    out: &mut dyn Write,
    progress: &mut impl FnMut(&About, u64),
) -> Result<Answer, FetchError> {
    let incomplete = |why: &str| FetchError::Incomplete { peer, why: why.to_owned() };
    let mut about = None;
    let (mut bytes, mut crc, mut room) = (0u64, 0, 0);
    loop {
        let frame = match events.recv_timeout(SILENCE) {
            Ok(Event::Frame(frame)) => frame,
            Ok(Event::Closed(why)) => return Err(FetchError::Lost { peer, why }),
            Err(RecvTimeoutError::Timeout) => {
                let why = format!("nothing was heard for {} s", SILENCE.as_secs());
                return Err(FetchError::Lost { peer, why });
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(FetchError::Lost { peer, why: "the link ended".to_owned() });
            }
        };
        match (frame.first(), &about) {
            (Some(&DATA), Some(about)) => {
                let data = &frame[1..];
                out.write_all(data)?;
                crc = crc32c::crc32c_append(crc, data);
                bytes += data.len() as u64;
                room += data.len() as u64;
                progress(about, bytes);
                if room >= ROOM_STEP_BYTES {
                    // A link that is gone says so in the next event.
                    let _ = asks.send(ToMember::More { bytes: std::mem::take(&mut room) });
                }
            }
            (Some(&MESSAGE), _) => {
                match serde_json::from_slice(&frame[1..]) {
                    Ok(ToOperator::Begins { about: begun }) => about = Some(begun),
                    Ok(ToOperator::Refused { why, again: true }) => return Ok(Answer::NotNow(why)),
                    Ok(ToOperator::Refused { why, again: false }) => {
                        return Err(FetchError::Refused { peer, why });
                    }
                    Ok(ToOperator::Done { bytes: sent, crc32c }) => {
                        let about = about.ok_or_else(|| incomplete("it has no beginning"))?;
                        if (sent, crc32c) != (bytes, crc) {
                            return Err(incomplete("its checksum does not match"));
                        }
                        return Ok(Answer::Whole(Fetched { about, bytes }));
                    }
                    Err(error) => return Err(incomplete(&error.to_string())),
                };
            }
            _ => return Err(incomplete("a frame of unknown kind")),
        }
    }
}

/// The thread of the link: from `asks` to the server, from it to `events`.
fn converse(
    peer: SocketAddr,
    key: &ClusterKey,
    events: &Sender<Event>,
    asks: UnboundedReceiver<ToMember>,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    runtime.block_on(async {
        let endpoint = endpoint(peer, key).map_err(|error| format!("no UDP socket: {error}"))?;
        let (link, hello) = endpoint.connect(peer).await.map_err(|error| error.to_string())?;
        let outcome = match hello.from {
            Party::Member { .. } => {
                ask(&link, events.clone(), asks).await;
                Ok(())
            }
            Party::Fresh { .. } => Err("it is no member of a cluster yet".to_owned()),
            _ => Err("it is no server".to_owned()),
        };
        endpoint.close().await;
        outcome
    })
}

fn endpoint(peer: SocketAddr, key: &ClusterKey) -> io::Result<Endpoint> {
    let local: SocketAddr = match peer {
        SocketAddr::V4(address) if address.ip().is_loopback() => (Ipv4Addr::LOCALHOST, 0).into(),
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local)?;
    socket.set_nonblocking(true)?;
    let from = Party::Operator { name: OPERATOR.to_owned() };
    Endpoint::new(socket, key, Hello { version: PROTOCOL_VERSION, from })
}

/// Passes asks on until there are no more, or the link is gone.
async fn ask(link: &Link, events: Sender<Event>, mut asks: UnboundedReceiver<ToMember>) {
    link.start(Arc::new(Events(events)));
    loop {
        let message = tokio::select! {
            message = asks.recv() => message,
            _ = link.closed() => return,
        };
        let Some(message) = message else { return link.close("the operator is done") };
        let json = serde_json::to_vec(&message).unwrap_or_default();
        if link.send(Lane::Control, &json).is_err() {
            return;
        }
    }
}

struct Events(Sender<Event>);

impl Receive for Events {
    fn frame(&self, lane: Lane, frame: Bytes) {
        if lane == Lane::Bulk {
            // Whoever asked may have given up.
            let _ = self.0.send(Event::Frame(frame));
        }
    }

    fn closed(&self, reason: String) {
        let _ = self.0.send(Event::Closed(reason));
    }
}
