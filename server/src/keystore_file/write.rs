//! Writing a checkpoint.

use std::io::{self, Write};
use std::path::Path;

use bytes::BufMut;

use super::{
    BLOCK_HEADER_BYTES, CheckpointMeta, FOOTER, ITEM_HEADER_BYTES, ITEMS, MAGIC, POSITION, VERSION,
    side_path,
};
use crate::files::{self, File};
use crate::keystore::{Frozen, ItemView};
use crate::log_file::put_membership;

/// A block is written once it holds so much.
const BLOCK_BYTES: usize = 256 * 1024;

/// What a checkpoint came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Size of the file.
    pub bytes: u64,
    /// Items in it.
    pub items: u64,
}

/// Writes `frozen` as the checkpoint at `path`, durably, replacing the one
/// that is there. `meta.index` must be `frozen.applied()`. Takes long for
/// large stores: call it on a thread of its own.
///
/// # Errors
/// Those of the file system; the old checkpoint is untouched then.
pub fn write(path: &Path, frozen: &Frozen, meta: &CheckpointMeta) -> io::Result<Written> {
    let side = side_path(path);
    let result = File::create(&side).and_then(|file| {
        let (file, written) = write_to(file, frozen, meta)?;
        file.sync_all()?;
        files::rename(&side, path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        files::sync_dir(dir.unwrap_or(Path::new(".")))?;
        Ok(written)
    });
    if result.is_err() {
        // A disk that is full must not stay full of this. If it cannot be
        // removed either, the next start does it.
        let _ = files::remove_file(&side);
    }
    result
}

/// Writes `frozen` in the format of the keystore-file to `file`, whatever that
/// is, and gives it back. `meta.index` must be `frozen.applied()`.
///
/// # Errors
/// Those of `file`.
pub fn write_to<W: Write>(
    file: W,
    frozen: &Frozen,
    meta: &CheckpointMeta,
) -> io::Result<(W, Written)> {
    if meta.index != frozen.applied() {
        let what = format!("a checkpoint at {} of a keystore at {}", meta.index, frozen.applied());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let mut out = Blocks { file, bytes: 0, blocks: 0, crc: 0 };
    let mut header = Vec::with_capacity(super::HEADER_BYTES);
    header.put_slice(MAGIC);
    header.put_u32_le(VERSION);
    header.put_u32_le(crc32c::crc32c(&header));
    out.write(&header)?;

    let position = frozen.position();
    let mut block = vec![0; BLOCK_HEADER_BYTES];
    for number in [meta.index, meta.term, position.cas_counter, position.clock_ms] {
        block.put_u64_le(number);
    }
    for number in [position.items, position.memory_bytes, rand::random()] {
        block.put_u64_le(number);
    }
    put_membership(&mut block, &meta.membership);
    out.block(POSITION, &mut block)?;

    let mut items = 0;
    for item in frozen.items() {
        put_item(&mut block, item);
        items += 1;
        if block.len() >= BLOCK_BYTES {
            out.block(ITEMS, &mut block)?;
        }
    }
    if block.len() > BLOCK_HEADER_BYTES {
        out.block(ITEMS, &mut block)?;
    }
    block.put_u64_le(out.blocks);
    block.put_u64_le(items);
    block.put_u32_le(out.crc);
    out.block(FOOTER, &mut block)?;
    let written = Written { bytes: out.bytes, items };
    Ok((out.file, written))
}

fn put_item(block: &mut Vec<u8>, item: ItemView<'_>) {
    block.reserve(ITEM_HEADER_BYTES + item.key.len() + item.value.len());
    block.put_u32_le(item.flags);
    block.put_u64_le(item.cas);
    block.put_u64_le(item.deadline_ms);
    block.put_u8(item.key.len() as u8);
    block.put_u32_le(item.value.len() as u32);
    block.put_slice(item.key);
    block.put_slice(item.value);
}

struct Blocks<W> {
    file: W,
    bytes: u64,
    blocks: u64,
    /// Of everything written.
    crc: u32,
}

impl<W: Write> Blocks<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Completes the head that `block` has room for, writes it, and leaves
    /// room for the next one's.
    fn block(&mut self, kind: u32, block: &mut Vec<u8>) -> io::Result<()> {
        let length = (block.len() - BLOCK_HEADER_BYTES) as u32;
        block[4..8].copy_from_slice(&kind.to_le_bytes());
        block[8..12].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c_append(self.blocks as u32, &block[4..]);
        block[..4].copy_from_slice(&crc.to_le_bytes());
        self.write(block)?;
        self.blocks += 1;
        block.truncate(BLOCK_HEADER_BYTES);
        Ok(())
    }
}
