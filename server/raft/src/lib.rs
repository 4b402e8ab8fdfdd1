//! The Raft consensus algorithm as a pure state machine.
#![no_std]

extern crate alloc;

mod candidate;
mod config;
mod error;
mod follower;
pub mod invariants;
mod leader;
mod log;
mod membership;
mod message;
mod node;
mod outbox;
mod output;
mod progress;
mod quorum;
mod reads;
mod replicate;
mod rng;
mod snapshot;
mod status;
mod step;
mod transfer;
mod turn;
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
