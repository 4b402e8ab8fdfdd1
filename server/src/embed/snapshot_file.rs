//! A replica's newest snapshot on disk.
//!
//! ```text
//! 0   8  "STORESNA"
//! 8   4  version (1)
//! 12  4  CRC32C of everything behind it
//! 16  8  index
//! 24  8  term
//! 32  8  length of the state machine's part
//! 40  .  the membership as of that index, as in a log-file; then the state
//!        machine's part
//! ```
//! Integers are little-endian. `snapshot.tmp` is one that was being written.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes};
use raft::SnapshotMeta;

use super::Snapshot;
use super::error::StartError;
use crate::files::{self, File};
use crate::log_file::{put_membership, take_membership};

const MAGIC: &[u8; 8] = b"STORESNA";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;

pub(super) fn path_in(dir: &Path) -> PathBuf {
    dir.join("snapshot")
}

/// Writes the snapshot durably, in place of the one before.
pub(super) fn write(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let mut head = Vec::new();
    head.put_u64_le(snapshot.meta.index);
    head.put_u64_le(snapshot.meta.term);
    head.put_u64_le(snapshot.state.len() as u64);
    put_membership(&mut head, &snapshot.meta.membership);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head), &snapshot.state);
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.put_slice(MAGIC);
    header.put_u32_le(VERSION);
    header.put_u32_le(crc);
    let side = path.with_extension("tmp");
    let mut file = File::create(&side)?;
    file.write_all(&header)?;
    file.write_all(&head)?;
    file.write_all(&snapshot.state)?;
    file.sync_all()?;
    files::rename(&side, path)?;
    files::sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Reads the snapshot; `None`: there is none.
pub(super) fn read(path: &Path) -> Result<Option<Snapshot>, StartError> {
    let bytes = match files::read(path) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StartError::Io { path: path.to_owned(), source }),
    };
    let bad = |what: &str| StartError::Snapshot { path: path.to_owned(), what: what.to_owned() };
    let mut rest = bytes;
    if rest.len() < HEADER_BYTES || rest.split_to(8) != MAGIC[..] {
        return Err(bad("this is no snapshot of a replica"));
    }
    if rest.get_u32_le() != VERSION {
        return Err(bad("the snapshot has another format version: start the newer program again"));
    }
    if rest.get_u32_le() != crc32c::crc32c(&rest) {
        return Err(bad("the snapshot is damaged: its checksum does not match"));
    }
    let decoded = (|| {
        let (index, term) = (rest.try_get_u64_le().ok()?, rest.try_get_u64_le().ok()?);
        let length = rest.try_get_u64_le().ok()?;
        let membership = take_membership(&mut rest)?;
        let state = (rest.len() as u64 == length).then(|| rest.clone())?;
        Some(Snapshot { meta: SnapshotMeta { index, term, membership }, state })
    })();
    decoded.map(Some).ok_or_else(|| bad("the snapshot is cut short"))
}
