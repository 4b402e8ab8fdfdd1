//! What can go wrong, and whether the request may have taken effect.

use std::fmt;
use std::net::SocketAddr;

/// Why a request has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answered within the deadline. The request was certainly not
    /// executed (or was only a read).
    #[error("cannot reach the store: {}; {advice}", list(tried))]
    Unreachable {
        /// Everybody who was tried, in the order of the first try.
        tried: Vec<Tried>,
        /// What to do about it.
        advice: &'static str,
    },

    /// A write was handed over, and no answer came back: it may or may not
    /// have taken effect, now or a little later. Read the key to find out.
    #[error(
        "outcome unknown: {cause}; the write may or may not have taken effect, read the key to find out"
    )]
    OutcomeUnknown {
        /// What happened instead of an answer.
        cause: String,
    },

    /// The server refused or failed: the text behind `SERVER_ERROR`.
    #[error("the server answered: {0}")]
    ServerError(String),

    /// The server found fault with the request: the text behind `CLIENT_ERROR`.
    #[error("the request was refused: {0}")]
    ClientError(String),

    /// The key cannot be sent. Nothing was sent.
    #[error(
        "invalid key `{key}`: {why}; a key has 1 to 250 bytes, no blanks and no control characters"
    )]
    InvalidKey {
        /// The key, escaped and cut to a readable length.
        key: String,
        /// Which rule it breaks.
        why: &'static str,
    },

    /// The value is over the limit of the server or of this client. An older
    /// value under the key is unchanged.
    #[error(
        "the value of {bytes} bytes is too large; the limit is {}; store it in parts or raise the limit (`-I` of the server)",
        limit_text(*limit)
    )]
    TooLarge {
        /// Size of the value.
        bytes: usize,
        /// The limit in bytes, where this side knows it.
        limit: Option<usize>,
    },
}

/// What somebody is asked as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It tells where servers are.
    LoadBalancer,
    /// It does what is asked.
    Server,
}

/// Somebody who was tried in vain, or who named others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tried {
    /// Where.
    pub address: SocketAddr,
    /// As what.
    pub role: Role,
    /// What came of it the last time.
    pub said: String,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::LoadBalancer => "load balancer",
            Role::Server => "server",
        };
        write!(f, "{role} {}: {}", self.address, self.said)
    }
}

/// What to do when a load balancer or its servers do not answer.
pub(crate) const ADVICE_LB: &str = "start a cluster with `store up`, see its state with `store status`, \
     or name the right load balancer with --lbip and --lbport";

/// What to do when servers that were named directly do not answer.
pub(crate) const ADVICE_SERVER: &str =
    "check that the server runs (`store status`) and that --server names its client address";

fn list(tried: &[Tried]) -> String {
    if tried.is_empty() {
        return "no address is known".into();
    }
    let texts: Vec<String> = tried.iter().map(Tried::to_string).collect();
    texts.join("; ")
}

fn limit_text(limit: Option<usize>) -> String {
    limit.map_or_else(|| "set by the server".into(), |bytes| format!("{bytes} bytes"))
}
