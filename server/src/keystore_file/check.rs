//! Checking a checkpoint without loading it: before it is sent to a peer, and
//! when one that was being received is to be gone on with.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::read::{Blocks, take_footer, take_position};
use super::{CheckpointMeta, FOOTER, ITEMS, KeystoreFileError, POSITION};

/// Reads all of the checkpoint in `file` and gives what it stands for and its
/// size; `path` is only its name, for errors.
///
/// # Errors
/// [`KeystoreFileError`], when a single bit is not as it was written.
pub fn verify(path: &Path, file: &File) -> Result<(CheckpointMeta, u64), KeystoreFileError> {
    let size = file.metadata().map_err(|error| KeystoreFileError::io(path, error))?.len();
    let mut blocks = Blocks::new(path, BufReader::with_capacity(1 << 16, file), size);
    let meta = begin(&mut blocks)?;
    loop {
        let (kind, crc_before) = blocks.next()?;
        match kind {
            ITEMS => {}
            FOOTER => {
                let footer = take_footer(&blocks.buffer);
                let matches = footer.is_some_and(|(count, _, crc)| {
                    (count, crc) == (blocks.blocks - 1, crc_before) && blocks.at == size
                });
                if !matches {
                    return Err(blocks.damaged("the footer does not match what is before it"));
                }
                return Ok((meta, size));
            }
            _ => return Err(blocks.damaged("a block of unknown kind")),
        }
    }
}

/// How far the beginning of a checkpoint that has arrived so far is whole: what
/// it stands for, and the end of its last whole block. `None`: nothing of it
/// can be used.
pub fn verified_prefix(path: &Path) -> Option<(CheckpointMeta, u64)> {
    let file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    let mut blocks = Blocks::new(path, BufReader::with_capacity(1 << 16, &file), size);
    let meta = begin(&mut blocks).ok()?;
    let mut whole = blocks.at;
    while let Ok((ITEMS, _)) = blocks.next() {
        whole = blocks.at;
    }
    Some((meta, whole))
}

fn begin<R: std::io::Read>(
    blocks: &mut Blocks<'_, R>,
) -> Result<CheckpointMeta, KeystoreFileError> {
    blocks.header()?;
    let (kind, _) = blocks.next()?;
    let position = (kind == POSITION).then(|| take_position(blocks.buffer.clone().into()));
    match position.flatten() {
        Some((_, meta)) => Ok(meta),
        None => Err(blocks.damaged("it does not begin with its position")),
    }
}
