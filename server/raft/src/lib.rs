//! The Raft consensus algorithm as a pure state machine.
#![no_std]

extern crate alloc;

mod config;
mod error;
mod message;
mod node;
mod output;
mod status;
mod types;

pub use config::{Config, Restored};
pub use error::{ChangeError, ProposeError, TransferError};
pub use message::{Envelope, Message};
pub use node::Node;
pub use output::{DurableMark, Event, Fetch, Output, Persist, ReadReady, RoleKind, SnapshotTask};
pub use status::{PeerState, PeerStatus, Status};
pub use types::{
    Body, Change, Entry, HardState, Index, Member, Membership, NodeId, Payload, SnapshotMeta,
    Suffrage, Term, Time,
};
