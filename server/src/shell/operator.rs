//! What operators ask of a member, over links of their own.
//!
//! A backup is taken at a linearizable point: the operator's wish goes through
//! the driver as a read does, and the keystore is frozen once that read would
//! be answered. So it holds everything that was acknowledged before.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use common::control::MemberInfo;
use common::front_end::{Batch, Finish, Finished};
use common::memcached::Request;
use common::udp::Link;

use super::inbox::{Inbox, Input};
use super::member::Member;
use super::unix_ms;
use crate::backup::{About, serve};
use crate::driver::Now;
use crate::keystore_file::CheckpointMeta;

/// How far an operator's wish has got.
pub(crate) enum Step {
    /// It has arrived.
    Asked(serve::Asked),
    /// A read that came after it is answered; or why not.
    Confirmed(serve::Asked, Result<(), String>),
}

/// Listens to what an operator wants.
pub(super) fn listen(link: &Link, inbox: &Arc<Inbox>) {
    let inbox = Arc::clone(inbox);
    serve::listen(link, move |asked| inbox.push(Input::Operator(Step::Asked(asked))));
}

/// The read that stands for an operator's wish.
struct Confirmation {
    asked: serve::Asked,
    inbox: Arc<Inbox>,
}

impl Finish for Confirmation {
    fn finish(&self, finished: Finished) {
        let answered = finished.complete && finished.out.ends_with(b"END\r\n");
        let result = match answered {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&finished.out).trim_end().to_owned()),
        };
        self.inbox.push(Input::Operator(Step::Confirmed(self.asked.clone(), result)));
    }
}

impl Member {
    pub(super) fn operator(&mut self, now: Now, step: Step) {
        match step {
            Step::Asked(asked) => {
                let inbox = Arc::clone(&self.shell.inbox);
                let origin = Arc::new(Confirmation { asked, inbox });
                let read = Request::Get { keys: vec![Bytes::from_static(b"-")], with_cas: false };
                self.driver.client(now, Batch::new(vec![read], BytesMut::new(), 0, origin));
            }
            Step::Confirmed(asked, Ok(())) => self.back_up(asked),
            Step::Confirmed(asked, Err(why)) => asked.refuse(&why, true),
        }
    }

    fn back_up(&self, asked: serve::Asked) {
        let frozen = self.driver.keystore().freeze();
        let Some(meta) = self.driver.node().snapshot_meta(frozen.applied()) else {
            return asked.refuse("it has just taken over a snapshot", true);
        };
        let meta = CheckpointMeta {
            index: frozen.applied(),
            term: meta.term,
            membership: meta.membership,
        };
        let MemberInfo { name, .. } = &self.shell.info;
        let about = About {
            cluster: Some(self.cluster),
            server: name.clone(),
            id: Some(common::ids::ServerId(self.id.0)),
            ..About::new(&frozen, &meta, unix_ms())
        };
        tracing::info!(index = about.index, items = about.items, "a backup begins");
        tokio::spawn(asked.send(frozen, meta, about));
    }
}
