//! The log-file: one write-ahead stream of entries, terms, votes, commit and
//! compaction marks, in a folder of segments.
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
//! A start is three steps: [`LogFile::scan`] reads and reports, and changes
//! nothing; [`recovery::decide`](crate::recovery::decide) says what to make of
//! it; [`LogOpener::repair`] does that. [`LogFile::open`] is for logs that are
//! not to be repaired.
//!
//! # Format, version 1
//!
//! A folder of files `NNNNNNNNNN.segment`, numbered from 1, or from later on
//! once early ones are no longer needed. Beside them:
//!
//! - `*.segment.tmp` is one that was being made; it means nothing.
//! - `*.segment.free` was a segment once and waits to become another one; what
//!   is in it means nothing.
//! - `archive/` holds segments that are not needed any more and were kept
//!   ([`LogOptions::keep`]), under their names.
//!
//! Integers are little-endian. A segment is filled with zeros, or is a free one
//! that gets a new header, and is synced before it gets its name, by a thread
//! that is one segment ahead: overwriting blocks that exist syncs faster than
//! growing. The first segment is small so that a new server starts at once,
//! each next one is twice as large up to [`LogOptions::segment_bytes`].
//!
//! ```text
//! segment   header record* rest
//! header    0   8  "STORELOG"
//!           8   4  version (1)
//!           12  4  length of the header (64)
//!           16  16 id of the log: random, the same in all of its segments
//!           32  8  number of the segment, as in its name
//!           40  8  salt: random
//!           48  1  what the rest of the file is: 0 zeros, 1 of a past use
//!           49  11 zeros
//!           60  4  CRC32C of bytes 0..60; also the seed of the records
//! record    0   4  CRC32C of bytes 4..20, started from
//!                  seed XOR (offset of the record in the file)
//!           4   4  CRC32C of the body and the byte behind it, started from the
//!                  same
//!           8   4  length of the body
//!           12  4  durable: everything before this offset of the file was
//!                  known to be on disk when the record was written
//!           16  2  votes: records of kind 2 in the stream before, modulo 65536
//!           18  1  kind
//!           19  1  zero
//!           20  .  body
//!           .   1  0xa5: whatever of the end is lost, more than one bit is
//! position  index:u64 term:u64 of an entry
//! promise   term:u64 vote:u64 (0: none) floor:position (zeros: none)
//! kind 1    start: last:position promise commit:u64 first_segment:u64 turns:u64.
//!           The first record of a segment, and only there: the state at that
//!           point of the stream. Segments before `first_segment` are not
//!           needed. `turns` counts how often entries were replaced or dropped
//! kind 2    promise
//! kind 3    entry, no-op: position
//! kind 4    entry, command: position payload (crate::command)
//! kind 5    entry, membership: position next_id:u64 count:u32,
//!           then each member: id:u64 suffrage:u8 length:u32 info; suffrage is
//!           0 for learners, 1 for voters, 2 for who was dismissed by an
//!           operator and is no member any more
//! kind 6    commit mark: index:u64; everything up to it is committed
//! kind 7    reset: position; the log is empty and goes on behind it
//! kind 8    seal: the segment is complete; records go on in the next one
//! kind 9    compaction mark: first_segment:u64 base:position; the log begins
//!           behind `base` now
//! kind 10   stop: the process ended in good order
//! ```
//!
//! An entry replaces every entry from its index on, so truncation costs
//! nothing. A batch never spans segments; a segment is made larger for a batch
//! that would not fit.
//!
//! **Old bytes never come back.** The salt makes a record of another use of a
//! file invalid, the offset one that was copied elsewhere: with another seed
//! the checksum of the same bytes always differs. That is also why a free
//! segment needs no zeros. A tail that is cut is overwritten with zeros before
//! anything is appended.
//!
//! **Torn tail or damage?** A write that was under way when the machine
//! stopped may have reached the disk in any part: later pages without earlier
//! ones too, so "valid records follow" proves nothing. But a record says how
//! much was durable when it was written. A bad place is damage if any later
//! record says that this place was durable, or if a later segment holds
//! records: a segment is only begun once the one before is sealed and synced.
//! So it is if the disk refuses to read it, or if it is off by exactly one bit:
//! it was whole once. Otherwise it is a torn tail, which nobody was promised,
//! and it is cut. A stop record proves all that is before it.
//!
//! **What damage hides.** The record behind it tells: it counts the promises
//! before it, so a lost one is noticed, and where no other record could have
//! fitted, none was lost. A start or a promise behind the damage says all
//! again. Behind damage at the end of the stream nothing tells. The log's end
//! is then put behind every entry that could have fitted there; a promise is
//! certain only if the head of the damaged record says that it was none.
//!
//! **Repair** ([`LogOpener::rebuild`]) writes what is left (promise, floor,
//! entries behind the checkpoint) into a new segment whose start says that no
//! segment before it is needed. Giving it its name is the one step that
//! counts: before it nothing has changed, after it the damage is not part of
//! the log any more.
//!
//! **Compaction** ([`LogFile::compact`]) appends a compaction mark. Once that is
//! durable, segments before it are renamed to `*.segment.free` (a few, for
//! reuse), into the archive, or removed. A segment below the first one that is
//! needed is ignored, whatever is in it, and cleared away at the next start.
//!
//! **Starting** reads only what is needed: a segment whose entries the
//! checkpoint contains is known from its start and the next one's, if they show
//! that no entry was replaced in it and no term began. Damage in it is noticed
//! when it is read, or by [`verify`].

mod archive;
mod error;
mod frame;
mod index;
mod open;
mod reader;
mod record;
mod replay;
mod scan;
mod segment;
mod spare;
#[cfg(test)]
mod tests;
mod walk;
mod writer;

use std::path::Path;

use raft::Index;

pub use archive::LogArchive;
pub use error::LogError;
pub(crate) use error::REJOIN;
pub use open::{LogOpener, Recovered};
pub use reader::LogReader;
pub(crate) use record::{DISMISSED, put_membership, take_membership};
pub use scan::TornTail;
pub use writer::LogFile;

use crate::command::Payload;
use crate::recovery::LogScan;
use scan::Depth;

/// Settings of a log-file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogOptions {
    /// Size of a segment, in bytes.
    pub segment_bytes: usize,
    /// Segments that are not needed any more are archived, in the folder
    /// `archive` below that of the log, not recycled. See [`LogArchive`].
    pub keep: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { segment_bytes: 16 * 1024 * 1024, keep: false }
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
        let looked =
            scan::scan(dir, Index::MAX, Depth::Needed).and_then(|(found, scan)| {
                match found.damage.first() {
                    Some(damage) => {
                        Err(LogError::damaged(&damage.file, damage.offset, damage.what.as_str()))
                    }
                    None if scan.fresh => {
                        segment::list(dir)?;
                        Ok((LogReader::new(scan.index), 0))
                    }
                    None => Ok((LogReader::new(scan.index), scan.commit)),
                }
            });
        match looked {
            Err(error) if error.to_string() != seen => seen = error.to_string(),
            looked => return looked,
        }
    }
}

/// Reads every byte of the log in `dir`, checks all of it, and changes
/// nothing. For a log that nobody is writing.
///
/// # Errors
/// As [`LogFile::scan`].
pub fn verify(dir: &Path) -> Result<(LogScan<Payload>, Option<TornTail>), LogError> {
    let (found, scan) = scan::scan(dir, Index::MAX, Depth::Everything)?;
    Ok((found, scan.torn))
}
