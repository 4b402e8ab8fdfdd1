//! What an operator's command and a server tell each other, on a link of their
//! own.
//!
//! The operator speaks JSON on [`Lane::Control`](common::udp::Lane::Control).
//! The server answers on [`Lane::Bulk`](common::udp::Lane::Bulk), so that data
//! and what is said about it stay in order; the first byte of a frame says
//! which it is. Data flows only as far as the operator has asked for it: a
//! slow one holds back its own backup and nothing else.

use serde::{Deserialize, Serialize};

use super::About;

/// The name of the command in the operator's hello.
pub(crate) const OPERATOR: &str = "backup";

/// A frame of data.
pub(crate) const DATA: u8 = b'D';
/// A frame of JSON, a [`ToOperator`].
pub(crate) const MESSAGE: u8 = b'M';

/// Bytes of a backup in one frame.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;

/// Bytes that may be under way.
pub(crate) const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// What is asked of a server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "operation")]
pub(crate) enum ToMember {
    /// A backup; `room` bytes of it may come at once.
    Backup {
        /// In bytes.
        room: u64,
    },
    /// So many more bytes may come.
    More {
        /// In bytes.
        bytes: u64,
    },
}

/// What a server answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "operation")]
pub(crate) enum ToOperator {
    /// The backup begins.
    Begins {
        /// What it is of.
        about: About,
    },
    /// The backup is complete.
    Done {
        /// Its length.
        bytes: u64,
        /// CRC32C of all of it.
        crc32c: u32,
    },
    /// There will be none.
    Refused {
        /// Why, and what to do.
        why: String,
        /// Whether it may be asked again in a moment.
        again: bool,
    },
}
