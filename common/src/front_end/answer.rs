//! Requests that every service answers in the same way.

use bytes::BytesMut;

use crate::memcached::{Reply, Request};

/// The answer to `version`. The major number is 1 because clients refuse 0
/// and anything above 255; the rest is ours.
pub const VERSION_REPLY: &str =
    concat!("VERSION 1.", env!("CARGO_PKG_VERSION_MINOR"), ".", env!("CARGO_PKG_VERSION_PATCH"));

/// Answers a request that needs neither data nor cluster: version, verbosity,
/// quit and what the parser refused. False: `request` is none of them, and
/// nothing was written.
pub fn answer_local(request: &Request, out: &mut BytesMut) -> bool {
    let reply = match request {
        Request::Version => Some(Reply::Error(VERSION_REPLY)),
        Request::Verbosity { noreply } => (!noreply).then_some(Reply::Ok),
        Request::Invalid { reply, silent, .. } => (!silent).then_some(Reply::Error(reply)),
        Request::Quit => None,
        _ => return false,
    };
    if let Some(reply) = reply {
        reply.write(out);
    }
    true
}
