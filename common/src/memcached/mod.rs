//! The memcached text protocol: bytes to typed requests and replies, and back.
//!
//! Source: memcached `doc/protocol.txt` (1.6). Pure: no IO, no clock.

mod ids;
mod parse;
mod reply;
mod request;
mod texts;
mod wire;
mod words;

pub use ids::{write_open_session, write_token};
pub use parse::{Parsed, Parser};
pub use reply::{
    BUSY, DATA_DIFFER, DISK_FULL, NO_LEADER, NON_NUMERIC, OUT_OF_MEMORY, REPLY_TOO_LARGE, Reply,
    SESSION_OVER, SESSION_UNKNOWN, SHUTTING_DOWN, TOO_LARGE, TOO_MANY_SESSIONS, UNKNOWN, write_end,
    write_value,
};
pub use request::{Arithmetic, Request, StoreVerb};
pub use texts::{
    BAD_CHUNK, BAD_DELTA, BAD_FORMAT, BAD_WRITE_ID, DELETE_USAGE, ERROR, LINE_TOO_LONG,
    TOO_MANY_CONNECTIONS,
};
pub use wire::{DecodeError, decode_requests, encode_requests};
