//! The Raft consensus algorithm as a pure state machine.
#![no_std]

extern crate alloc;

mod config;
mod message;
mod output;
mod types;

pub use config::{Config, Restored};
pub use message::{Envelope, Message};
pub use output::{DurableMark, Event, Fetch, Output, Persist, ReadReady, RoleKind, SnapshotTask};
pub use types::{
    Body, Change, Entry, HardState, Index, Member, Membership, NodeId, Payload, SnapshotMeta,
    Suffrage, Term, Time,
};
