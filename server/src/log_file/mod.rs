//! The log-file: one write-ahead stream of entries, terms, votes and commit
//! marks, in a folder of segments.
//!
//! # Contract
//!
//! One owner writes: [`LogFile::append`] puts a batch into the file with one
//! write, [`LogFile::sync`] makes everything before it durable with one
//! fdatasync. Group commit is the owner's: append all that waits, then sync
//! once. `LogFile` is `Send`: it may live on a thread of its own or be called
//! inline. [`LogReader`]s read from any thread meanwhile.
//!
//! After a failed write or sync nothing is known about the disk, so the
//! `LogFile` refuses everything from then on and its owner ends the process;
//! it never retries (a second fsync may report success for pages that the
//! first one dropped). [`LogError::NoRoom`] is the exception: the next segment
//! could not be made, nothing was written, the call may be repeated.
//!
//! # Format, version 1
//!
//! A folder of files `NNNNNNNNNN.segment`, numbered from 1 (or from later on, once
//! early ones are no longer needed). A file `*.segment.tmp` is one that was
//! being made; it means nothing. Integers are little-endian. Files are filled
//! with zeros and synced before they get their name, by a thread that is one
//! segment ahead: overwriting blocks that exist syncs faster than growing.
//! The first segment is small so that a new server starts at once, each next
//! one is twice as large up to [`LogOptions::segment_bytes`].
//!
//! ```text
//! segment   header record* zeros
//! header    0   8  "STORELOG"
//!           8   4  version (1)
//!           12  4  length of the header (64)
//!           16  16 id of the log: random, the same in all of its segments
//!           32  8  number of the segment, as in its name
//!           40  8  salt: random
//!           48  12 zeros
//!           60  4  CRC32C of bytes 0..60; also the seed of the records
//! record    0   4  CRC32C of bytes 4.. of the record, started from
//!                  seed XOR (offset of the record in the file)
//!           4   4  length of the body
//!           8   4  durable: everything before this offset of the file was
//!                  known to be on disk when the record was written
//!           12  1  kind
//!           13  .  body
//! kind 1    start: last index:u64 term:u64 vote:u64 (0: none) commit:u64.
//!           The first record of a segment, and only there: the state at that
//!           point of the stream
//! kind 2    hard state: term:u64 vote:u64 (0: none)
//! kind 3    entry, no-op: index:u64 term:u64
//! kind 4    entry, command: index:u64 term:u64 payload (crate::command)
//! kind 5    entry, membership: index:u64 term:u64 next_id:u64 count:u32,
//!           then each member: id:u64 voter:u8 length:u32 info
//! kind 6    commit mark: index:u64; everything up to it is committed
//! kind 7    reset: index:u64; the log is empty and goes on behind it
//! kind 8    seal: the segment is complete; records go on in the next one
//! ```
//!
//! An entry replaces every entry from its index on, so truncation costs
//! nothing. A batch never spans segments; a segment is made larger for a batch
//! that would not fit.
//!
//! **Old bytes never come back.** The salt makes a record of another use of a
//! file invalid, the offset one that was copied elsewhere: with another seed
//! the checksum of the same bytes always differs. A tail that is cut is
//! overwritten with zeros before anything is appended.
//!
//! **Torn tail or damage?** A write that was under way when the machine
//! stopped may have reached the disk in any part: later pages without earlier
//! ones too, so "valid records follow" proves nothing. But a record says how
//! much was durable when it was written. A bad place is damage if any later
//! record says that this place was durable, or if a later segment holds
//! records: a segment is only begun once the one before is sealed and synced.
//! Otherwise it is a torn tail, which nobody was promised, and it is cut.

mod error;
mod reader;
mod record;
mod recovery;
mod segment;
mod spare;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex};

use raft::Index;

pub use error::LogError;
pub(crate) use error::REJOIN;
pub use reader::LogReader;
pub(crate) use record::{put_membership, take_membership};
pub use recovery::{Recovered, TornTail};
pub use writer::LogFile;

/// Settings of a log-file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogOptions {
    /// Size of a segment, in bytes.
    pub segment_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { segment_bytes: 16 * 1024 * 1024 }
    }
}

/// A log as somebody sees it who only looks, while its owner may be writing:
/// a reader, and the highest index that the log says is committed.
///
/// A file is not read in one instant: the owner may have finished one write
/// and begun another meanwhile, which looks like damage. Real damage stays
/// where it is, so it is believed once it was seen twice in the same place.
///
/// # Errors
/// As [`LogFile::open`]; also when there is no log.
pub fn look(dir: &Path) -> Result<(LogReader, Index), LogError> {
    let mut seen = String::new();
    loop {
        match recovery::scan(dir, None, false) {
            Ok(scan) => {
                let reader = LogReader::new(Arc::new(Mutex::new(scan.index)));
                return Ok((reader, scan.recovered.commit));
            }
            Err(error) if error.to_string() == seen => return Err(error),
            Err(error) => seen = error.to_string(),
        }
    }
}
