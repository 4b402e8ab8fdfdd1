//! Checking a checkpoint without loading it: before it is sent to a peer, and
//! when one that was being received is to be gone on with.

use std::io::{BufReader, Read};
use std::path::Path;

use super::blocks::Blocks;
use super::{CheckpointMeta, ITEMS, KeystoreFileError, SESSIONS};
use crate::files::File;

const READ_BYTES: usize = 64 * 1024;

/// Reads all of a checkpoint of `size` bytes and gives what it stands for;
/// `path` is only its name, for errors.
///
/// # Errors
/// [`KeystoreFileError`], when a single bit is not as it was written.
pub fn verify<R: Read>(
    path: &Path,
    file: R,
    size: u64,
) -> Result<CheckpointMeta, KeystoreFileError> {
    let mut blocks = Blocks::new(path, BufReader::with_capacity(READ_BYTES, file), size);
    let start = blocks.start()?;
    let mut buffer = Vec::new();
    loop {
        let (count, digest) = (blocks.number, blocks.digest);
        let block = blocks.next(buffer)?;
        if block.kind == ITEMS {
            blocks.check(&block)?;
            buffer = block.body;
        } else if blocks.beside_items(block, count, digest)?.is_some() {
            return Ok(start.meta);
        } else {
            buffer = Vec::new();
        }
    }
}

/// How far the beginning of a checkpoint that has arrived so far is whole: what
/// it stands for, and the end of its last whole block. `None`: nothing of it
/// can be used.
pub fn verified_prefix(path: &Path) -> Option<(CheckpointMeta, u64)> {
    let file = File::open(path).ok()?;
    let size = file.len().ok()?;
    let mut blocks = Blocks::new(path, BufReader::with_capacity(READ_BYTES, file), size);
    let start = blocks.start().ok()?;
    let mut whole = blocks.at;
    let mut buffer = Vec::new();
    while let Ok(block) = blocks.next(buffer)
        && matches!(block.kind, ITEMS | SESSIONS)
        && block.is_whole()
    {
        whole = blocks.at;
        buffer = block.body;
    }
    Some((start.meta, whole))
}
