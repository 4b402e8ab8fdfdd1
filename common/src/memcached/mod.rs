//! The memcached text protocol: bytes to typed requests and replies, and back.
//!
//! Source: memcached `doc/protocol.txt` (1.6). Pure: no IO, no clock.

mod parse;
mod reply;
mod request;

pub use parse::{Parsed, Parser};
pub use reply::{
    BUSY, NO_LEADER, NON_NUMERIC, Reply, SHUTTING_DOWN, TOO_LARGE, UNKNOWN, write_end, write_value,
};
pub use request::{Arithmetic, Request, StoreVerb};
