//! Batches that others send here: servers that do not lead, and load balancers
//! that route their clients' requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::forward::{self, ForwardFrame};
use common::front_end::{Batch, Finish, Finished};
use common::memcached::{self, Request};
use common::udp::{Lane, Link};
use raft::NodeId;

use super::Shell;
use super::inbox::{Input, LbLink};
use super::member::Member;
use crate::driver::{DigestReport, ForwardId, Forwarder, Now, Refused};

/// Sends the replies of a forwarded batch back.
struct ForwardOrigin {
    link: Link,
    number: u64,
}

impl Finish for ForwardOrigin {
    fn finish(&self, finished: Finished) {
        // A batch that was dropped was refused, and the driver says so itself.
        if finished.complete {
            send(&self.link, |out| forward::encode_done(self.number, &finished.out, out));
        }
    }
}

/// An answer that cannot leave is lost with its link, and the link's other end
/// notices that.
fn send(link: &Link, encode: impl FnOnce(&mut BytesMut)) {
    if let Err(error) = link.send_with(Lane::Request, encode) {
        tracing::debug!(remote = %link.remote(), %error, "an answer to a forwarder was lost");
    }
}

/// Links to load balancers that have routed something here.
#[derive(Default)]
pub(super) struct LbLinks(BTreeMap<u64, Link>);

impl LbLinks {
    pub(super) fn lost(&mut self, number: u64) {
        self.0.remove(&number);
    }
}

/// How long load balancers may take to hear that another server leads, or a goodbye.
const NEWS: Duration = Duration::from_millis(25);

/// Says of what a load balancer has routed here that it is not executed.
fn refuse(LbLink { link, .. }: &LbLink, frame: &Bytes) {
    if let Ok(ForwardFrame::Requests { number, .. } | ForwardFrame::OpenSession { number, .. }) =
        forward::decode_forward(frame)
    {
        send(link, |out| forward::encode_not_leader(number, out));
    }
}

impl Shell {
    /// Refuses what load balancers route to a server that ends, until they have
    /// heard of it: a request without an answer would have an unknown outcome.
    pub(super) async fn refuse_routed(&self) {
        let until = tokio::time::Instant::now() + NEWS;
        let mut inputs = Vec::new();
        loop {
            self.inbox.take(&mut inputs);
            for input in inputs.drain(..) {
                if let Input::Routed { link, frame } = input {
                    refuse(&link, &frame);
                }
            }
            if tokio::time::timeout_at(until, self.inbox.wait()).await.is_err() {
                return;
            }
        }
    }
}

impl Member {
    /// A frame of another server on the request lane.
    pub(super) fn request_frame(
        &mut self,
        now: Now,
        from: NodeId,
        frame: &Bytes,
    ) -> Result<(), String> {
        match forward::decode_forward(frame).map_err(|error| error.to_string())? {
            ForwardFrame::Reply { number, reply } => {
                self.driver.forward_reply(now, from, number, &reply);
                Ok(())
            }
            ForwardFrame::Digest { index, digest } => {
                self.driver.digest_reported(now, from, DigestReport { index, digest });
                Ok(())
            }
            request => match self.transport.link_to(from) {
                Some(link) => self.execute(now, &link, Forwarder::Peer(from), request),
                None => Ok(()),
            },
        }
    }

    /// A frame of a load balancer on the request lane.
    pub(super) fn routed(&mut self, now: Now, lb: LbLink, frame: &Bytes) {
        let LbLink { number, link } = lb;
        let done = match forward::decode_forward(frame) {
            Ok(ForwardFrame::Reply { .. } | ForwardFrame::Digest { .. }) => {
                Err("nothing was asked".to_owned())
            }
            Ok(request) => self.execute(now, &link, Forwarder::LoadBalancer(number), request),
            Err(error) => Err(error.to_string()),
        };
        match done {
            Ok(()) => {
                self.lbs.0.entry(number).or_insert(link);
            }
            Err(why) => {
                tracing::warn!(lb = %link.remote(), why, "frame refused, link closed");
                link.close(&format!("frame refused: {why}"));
            }
        }
    }

    fn execute(
        &mut self,
        now: Now,
        link: &Link,
        from: Forwarder,
        request: ForwardFrame,
    ) -> Result<(), String> {
        match request {
            ForwardFrame::OpenSession { number, session } => {
                let batch = batch(link, number, Vec::new(), 0);
                self.driver.open_session_for(now, ForwardId { from, number }, session, batch);
            }
            ForwardFrame::Requests { number, ids, requests } => {
                let bytes = requests.len();
                let requests =
                    memcached::decode_requests(requests).map_err(|error| error.to_string())?;
                let batch = batch(link, number, requests, bytes);
                self.driver.forwarded(now, ForwardId { from, number }, ids, batch);
            }
            ForwardFrame::Reply { .. } | ForwardFrame::Digest { .. } => {}
        }
        Ok(())
    }

    /// Leaves nothing without an answer that load balancers have routed here: this
    /// server begins anew, which may take long, while its links to them stay.
    pub(super) fn leave_routed(&mut self) {
        let now = self.shell.now();
        for refused in self.driver.abandon_forwarded(now) {
            self.tell(refused);
        }
        for (link, frame) in self.shell.inbox.take_routed() {
            refuse(&link, &frame);
        }
    }

    /// Tells a forwarder that its batch was not executed here.
    pub(super) fn tell(&self, refused: Refused) {
        let link = match refused.id.from {
            Forwarder::Peer(peer) => self.transport.link_to(peer),
            Forwarder::LoadBalancer(number) => self.lbs.0.get(&number).cloned(),
        };
        if let Some(link) = link {
            send(&link, |out| refused.encode(out));
        }
    }
}

fn batch(link: &Link, number: u64, requests: Vec<Request>, bytes: usize) -> Batch {
    let origin = Arc::new(ForwardOrigin { link: link.clone(), number });
    Batch::new(requests, BytesMut::new(), bytes, origin)
}
