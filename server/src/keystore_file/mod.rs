//! The keystore-file: the keystore as of one index of the log.
//!
//! [`write_paced`] streams a [`Frozen`] keystore to a side file, syncs it, renames
//! it into place and syncs the folder: there is always a whole checkpoint under
//! the name, the old one or the new one. [`read()`] puts it back.
//!
//! # Format, version 1
//!
//! Integers are little-endian. `NAME.tmp` is a checkpoint that was being
//! written; it means nothing.
//!
//! ```text
//! file      header block* (kinds: one 1, any number of others, one 3 at the end)
//! header    0   8  "STOREKEY"
//!           8   4  version (1)
//!           12  4  CRC32C of bytes 0..12
//! block     0   4  CRC32C of bytes 4.. of the block, started from its number
//!                  (0, 1, ...), so that blocks cannot change places
//!           4   4  kind
//!           8   4  length of the body
//!           12  .  body
//! kind 1    position: index:u64 term:u64 cas counter:u64 clock_ms:u64
//!           items:u64 seed:u64 id:u64, then the membership as of that index,
//!           as in a log-file
//! kind 2    items of one group: group:u32, then each length:u32 and so many
//!           bytes of cas:u64 deadline_ms:u64 flags:u32 klen:u8 key value
//! kind 4    sessions, when there are any; once, right behind the position:
//!           the table of `keystore/sessions.rs`, as described there
//! kind 1    with the highest bit set: the index of each session's last use, right
//!           behind them, as described there; earlier versions wrote none
//! kind 3    footer: blocks before it:u64 items:u64 contents:u64 digest:u64;
//!           the file ends behind it
//! ```
//!
//! - **Kinds to come.** A reader that does not know a kind refuses the file as
//!   one of a newer version, unless the kind has its highest bit set: that says
//!   that the block may be passed over.
//! - **`id`** is random for each checkpoint.
//! - **Groups.** XXH3-64 of a key with `seed` places it: bits 47 to 56 are the
//!   group. The blocks of one group can be read independently of all others, so
//!   that several threads read a file. The items of a group come in no
//!   particular order.
//! - **`contents`** is the wrapping sum of XXH3-64 of each item's bytes. The
//!   keystore keeps that sum while it applies entries; the writer computes it
//!   anew from the items. If they differ, memory has changed by itself, and no
//!   checkpoint is made of it.
//! - **`digest`** stands for all blocks before: from 0 on, for each block, XXH3-64
//!   of its first 12 bytes with the digest so far as seed.

mod blocks;
mod check;
mod growth;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::io;
use std::path::{Path, PathBuf};

use crate::log_file::REJOIN;

pub use check::{Checked, examine, verified_prefix, verify};
pub use growth::Growth;
pub use raft::SnapshotMeta as CheckpointMeta;
pub use read::{load, read, read_from};
pub use write::{
    CHECKPOINT_BYTES_PER_SECOND, Progress, WriteError, Written, at_rate, place, write, write_paced,
    write_to,
};

#[cfg(doc)]
use crate::keystore::Frozen;

const MAGIC: &[u8; 8] = b"STOREKEY";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const BLOCK_HEADER_BYTES: usize = 12;

const POSITION: u32 = 1;
const ITEMS: u32 = 2;
const FOOTER: u32 = 3;
const SESSIONS: u32 = 4;

/// Set in the kinds that a reader may pass over.
const OPTIONAL: u32 = 1 << 31;

/// When the sessions were used last.
const USES: u32 = OPTIONAL | 1;

/// The digest of all blocks so far and one more, given its first bytes.
fn digest_of(header: &[u8], before: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(header, before)
}

/// Why a checkpoint cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreFileError {
    /// The operating system refused.
    #[error("cannot read {file}: {source}", file = file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// Bytes have changed.
    #[error("{file} is damaged at byte {offset}: {what}; {way_out}", file = file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where the bad block begins.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
        /// What to do.
        way_out: &'static str,
    },
    /// Its end is missing.
    #[error("{file} ends at byte {offset}, before its footer; {way_out}", file = file.display())]
    Truncated {
        /// The file.
        file: PathBuf,
        /// Its length.
        offset: u64,
        /// What to do.
        way_out: &'static str,
    },
    /// It is something else.
    #[error("{file} is no keystore-file; move it away, or give another name", file = file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// A later version of this program wrote it.
    #[error(
        "{file} has format version {version}, this program reads up to {known}: \
         start the newer program again", file = file.display()
    )]
    NewerVersion {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u32,
        /// The newest version that is understood here.
        known: u32,
    },
    /// A later version of this program wrote a part of it.
    #[error(
        "{file} holds at byte {offset} a block of kind {kind}, which this program does not know: \
         start the newer program again", file = file.display()
    )]
    NewerBlock {
        /// The file.
        file: PathBuf,
        /// Where the block begins.
        offset: u64,
        /// Its kind.
        kind: u32,
    },
}

impl KeystoreFileError {
    fn io(file: &Path, source: io::Error) -> Self {
        KeystoreFileError::Io { file: file.to_owned(), source }
    }

    fn damaged(file: &Path, offset: u64, what: &'static str) -> Self {
        KeystoreFileError::Damaged { file: file.to_owned(), offset, what, way_out: REJOIN }
    }
}

/// Where a checkpoint is written before it gets its name.
fn side_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}
