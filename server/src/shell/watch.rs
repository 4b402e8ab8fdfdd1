//! Notices at once when the leader's process ends.
//!
//! Over UDP a process that was killed is as silent as one that is slow. So a
//! member that follows keeps a TCP connection to the leader's client address,
//! over which nothing is ever said: the kernel ends it the moment the process
//! is gone, however that came about. What ends it can also be something in
//! between, so the address is dialled again at once. *Refused* means that the
//! host is there and nobody listens: the leader's process is gone. Anything
//! else proves nothing, and the election timeout remains.
//!
//! For the leader a watch is one more idle client connection. If it takes no
//! more of them, or cannot be reached at that address from here, there is no
//! watch, and only the timeout.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use raft::{NodeId, Term};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::inbox::{Inbox, Input};
use super::member::Member;
use crate::driver::Now;

/// A dial that takes longer proves nothing.
const DIAL_WITHIN: Duration = Duration::from_secs(1);

/// A connection that lasted so long was a watch. One that ends sooner was
/// turned away, is cut by something on the way, or reached a process in the
/// middle of its end: its connections may be closed before its listener is.
const STEADY_AFTER: Duration = Duration::from_millis(500);

/// So many of those in a row are replaced after a moment, twice as long each
/// time, of 1 to 64 ms: the end of a process takes no longer.
const QUICK_DIALS: u32 = 7;

/// Pauses before an address is tried again where no watch came about; doubled
/// each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Whom this member follows, and since which term.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Leader {
    id: NodeId,
    term: Term,
    client: SocketAddr,
}

/// The watch of a member; none while it leads, or follows nobody.
#[derive(Default)]
pub(super) struct LeaderWatch {
    task: Option<(Leader, AbortOnDropHandle<()>)>,
}

impl LeaderWatch {
    fn follow(&mut self, leader: Option<Leader>, inbox: &Arc<Inbox>) {
        if self.task.as_ref().map(|(watched, _)| *watched) == leader {
            return;
        }
        self.task = leader.map(|leader| {
            let inbox = Arc::clone(inbox);
            let watching = async move {
                until_refused(leader.client).await;
                inbox.push(Input::LeaderGone { leader: leader.id, term: leader.term });
            };
            (leader, AbortOnDropHandle::new(tokio::spawn(watching)))
        });
    }
}

impl Member {
    /// Watches whom this member follows now. With lease reads the core would
    /// not listen.
    pub(super) fn watch_leader(&mut self) {
        let node = self.driver.node();
        let leader = node.leader().filter(|id| *id != self.id && !node.config().lease_reads);
        let leader = leader.and_then(|id| {
            let client = self.driver.member_info(id)?.client;
            let is_one_place = !client.ip().is_unspecified();
            is_one_place.then_some(Leader { id, term: node.term(), client })
        });
        self.watch.follow(leader, &self.shell.inbox);
    }

    /// The process that led in `term` has ended.
    pub(super) fn leader_gone(&mut self, now: Now, leader: NodeId, term: Term) {
        if !self.driver.leader_gone(now, leader, term) {
            return;
        }
        tracing::warn!(leader = leader.0, term, "the leader's process is gone");
        // What was sent over this link gets no answer, and what still lies in
        // a queue was said before the end. A process that takes the old one's
        // place is dialled anew.
        if self.transport.drop_link(leader, "the process at the other end is gone") {
            self.driver.link_lost(now, leader);
        }
    }
}

/// Returns once a connection to `address` was lost and the next one was
/// refused; never, if that does not happen.
async fn until_refused(address: SocketAddr) {
    let mut pause = FIRST_PAUSE;
    let mut watched = false;
    let mut short_ones = 0;
    loop {
        let may_hurry = short_ones < QUICK_DIALS;
        let hurries = match timeout(DIAL_WITHIN, TcpStream::connect(address)).await {
            Ok(Ok(connection)) => {
                let since = Instant::now();
                until_closed(connection).await;
                watched = true;
                if since.elapsed() >= STEADY_AFTER {
                    (short_ones, pause) = (0, FIRST_PAUSE);
                    continue;
                }
                may_hurry
            }
            Ok(Err(error)) if watched && error.kind() == ErrorKind::ConnectionRefused => return,
            // Taken by the listener, and ended with it.
            Ok(Err(error)) if may_hurry && error.kind() == ErrorKind::ConnectionReset => true,
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "the leader cannot be watched");
                watched = false;
                false
            }
            Err(_) => {
                watched = false;
                false
            }
        };
        if hurries {
            sleep(Duration::from_millis(1 << short_ones)).await;
            short_ones += 1;
        } else {
            sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }
}

/// Waits for the end of a connection. What is said over it, such as that there
/// are too many connections, does not matter.
async fn until_closed(mut connection: TcpStream) {
    let mut said = [0; 256];
    while let Ok(1..) = connection.read(&mut said).await {}
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::net::TcpListener;

    /// As long as a test waits for what must come.
    const LONG: Duration = Duration::from_secs(20);

    /// Long enough for a wrong conclusion to show: loopback takes microseconds.
    const A_WHILE: Duration = Duration::from_millis(100);

    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn a_process_that_is_gone_is_noticed_at_once() {
        let (listener, address) = listen().await;
        let watching = tokio::spawn(until_refused(address));
        let (connection, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
        assert!(!watching.is_finished());
        drop(listener);
        drop(connection);
        timeout(LONG, watching).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_lost_connection_alone_proves_nothing() {
        let (listener, address) = listen().await;
        let watching = tokio::spawn(until_refused(address));
        let (connection, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
        drop(connection);
        // It dials again, and goes on watching over the new connection.
        let (connection, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
        tokio::time::sleep(A_WHILE).await;
        assert!(!watching.is_finished());
        drop(listener);
        drop(connection);
        timeout(LONG, watching).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_process_in_the_middle_of_its_end_is_noticed_too() {
        let (listener, address) = listen().await;
        let watching = tokio::spawn(until_refused(address));
        let began = Instant::now();
        for _ in 0..3 {
            let (connection, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
            drop(connection);
        }
        drop(listener);
        timeout(LONG, watching).await.unwrap().unwrap();
        assert!(began.elapsed() < FIRST_PAUSE, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn an_address_that_was_never_reached_proves_nothing() {
        let (listener, address) = listen().await;
        drop(listener);
        let watching = tokio::spawn(until_refused(address));
        tokio::time::sleep(A_WHILE).await;
        assert!(!watching.is_finished());
    }

    #[tokio::test]
    async fn being_turned_away_is_not_answered_with_a_storm() {
        let (listener, address) = listen().await;
        let watching = tokio::spawn(until_refused(address));
        let mut turned_away = 0;
        let counting = async {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                connection.try_write(b"ERROR Too many open connections\r\n").unwrap();
                turned_away += 1;
            }
        };
        assert!(timeout(2 * FIRST_PAUSE, counting).await.is_err());
        assert!(!watching.is_finished());
        let most = 3 + QUICK_DIALS;
        assert!((2..=most).contains(&turned_away), "{turned_away} connections");
    }
}
