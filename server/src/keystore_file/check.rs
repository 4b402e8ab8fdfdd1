//! Checking a checkpoint without loading it: before it is sent to a peer, and
//! when one that was being received is to be gone on with.

use std::io::{BufReader, Read};
use std::path::Path;

use super::blocks::Blocks;
use super::{CheckpointMeta, ITEMS, KeystoreFileError, SESSIONS, USES};
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

/// What a look at a whole checkpoint found out.
#[derive(Debug, Default)]
pub struct Checked {
    /// What it stands for, if that can be read.
    pub meta: Option<CheckpointMeta>,
    /// Items in it, by its first block.
    pub items: u64,
    /// What is wrong, in the order of the file.
    pub flaws: Vec<KeystoreFileError>,
}

/// As [`verify`], but goes on behind a bad block, as far as its length leads
/// to another one.
pub fn examine<R: Read>(path: &Path, file: R, size: u64) -> Checked {
    let mut blocks = Blocks::new(path, BufReader::with_capacity(READ_BYTES, file), size);
    let mut checked = Checked::default();
    match blocks.start() {
        Ok(start) => (checked.meta, checked.items) = (Some(start.meta), start.position.items),
        Err(error) => {
            // Its first block is bad, or nothing else can be told.
            let go_on = blocks.number > 0;
            checked.flaws.push(error);
            if !go_on {
                return checked;
            }
        }
    }
    let mut buffer = Vec::new();
    loop {
        let (count, digest) = (blocks.number, blocks.digest);
        let block = match blocks.next(std::mem::take(&mut buffer)) {
            Ok(block) => block,
            Err(error) => {
                checked.flaws.push(error);
                return checked;
            }
        };
        if block.kind == ITEMS || !block.is_whole() {
            checked.flaws.extend(blocks.check(&block).err());
            buffer = block.body;
            if blocks.at == size && !checked.flaws.is_empty() {
                // The bad one was the footer, or nobody can tell.
                return checked;
            }
            continue;
        }
        match blocks.beside_items(block, count, digest) {
            Ok(None) => {}
            Ok(Some(_)) => return checked,
            Err(error) => {
                // A footer does not match what is before it if that is bad.
                if checked.flaws.is_empty() {
                    checked.flaws.push(error);
                }
                return checked;
            }
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
        && matches!(block.kind, ITEMS | SESSIONS | USES)
        && block.is_whole()
    {
        whole = blocks.at;
        buffer = block.body;
    }
    Some((start.meta, whole))
}
