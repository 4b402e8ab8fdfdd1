//! Reading a checkpoint.

use std::io::{self, Read};
use std::path::Path;

use bytes::{Buf, Bytes};

use super::{
    BLOCK_HEADER_BYTES, CheckpointMeta, FOOTER, HEADER_BYTES, ITEM_HEADER_BYTES, ITEMS,
    KeystoreFileError, MAGIC, POSITION, VERSION, side_path,
};
use crate::files::{self, File};
use crate::keystore::{ItemView, Keystore, KeystoreLimits, Position};
use crate::log_file::{REJOIN, take_membership};

/// Reads the checkpoint at `path` at the start of its owner: removes what is
/// left of one that was never finished. `None`: there is none.
///
/// # Errors
/// [`KeystoreFileError`], each with file, offset and the way out. Nothing of a
/// damaged checkpoint is given back.
pub fn read(path: &Path) -> Result<Option<(Keystore, CheckpointMeta)>, KeystoreFileError> {
    let side = side_path(path);
    match files::remove_file(&side) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(KeystoreFileError::io(&side, error));
        }
        _ => {}
    }
    load(path)
}

/// Reads the checkpoint at `path` and changes nothing, for those who only look.
///
/// # Errors
/// As [`read`].
pub fn load(path: &Path) -> Result<Option<(Keystore, CheckpointMeta)>, KeystoreFileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(KeystoreFileError::io(path, error)),
    };
    let size = file.len().map_err(|error| KeystoreFileError::io(path, error))?;
    read_from(path, file, size).map(Some)
}

/// Reads a checkpoint of `size` bytes from `file`, whatever that is; `path`
/// is only its name, for errors.
///
/// # Errors
/// As [`read`].
pub fn read_from<R: Read>(
    path: &Path,
    file: R,
    size: u64,
) -> Result<(Keystore, CheckpointMeta), KeystoreFileError> {
    let mut blocks = Blocks { path, file, size, at: 0, crc: 0, blocks: 0, buffer: Vec::new() };
    blocks.header()?;

    let (kind, _) = blocks.next()?;
    let position = (kind == POSITION).then(|| take_position(blocks.buffer.clone().into()));
    let Some((position, meta)) = position.flatten() else {
        return Err(blocks.damaged("it does not begin with its position"));
    };
    let mut keystore = Keystore::restored(position, KeystoreLimits::default());
    loop {
        let (kind, crc_before) = blocks.next()?;
        match kind {
            ITEMS => {
                restore(&mut keystore, &blocks.buffer).map_err(|what| blocks.damaged(what))?;
            }
            FOOTER => {
                let footer = (blocks.blocks - 1, keystore.len(), crc_before);
                if take_footer(&blocks.buffer) != Some(footer) {
                    return Err(blocks.damaged("the footer does not match what is before it"));
                }
                break;
            }
            _ => return Err(blocks.damaged("a block of unknown kind")),
        }
    }
    if blocks.at != size {
        return Err(blocks.damaged("there are bytes behind the footer"));
    }
    if keystore.position() != position {
        return Err(blocks.damaged("the items are not those that the first block promises"));
    }
    Ok((keystore, meta))
}

fn take_position(mut body: Bytes) -> Option<(Position, CheckpointMeta)> {
    let mut number = || body.try_get_u64_le().ok();
    let (index, term) = (number()?, number()?);
    let position = Position {
        applied: index,
        cas_counter: number()?,
        clock_ms: number()?,
        items: number()?,
        memory_bytes: number()?,
    };
    let _id = number()?;
    let membership = take_membership(&mut body)?;
    body.is_empty().then_some((position, CheckpointMeta { index, term, membership }))
}

fn take_footer(mut body: &[u8]) -> Option<(u64, u64, u32)> {
    let footer =
        (body.try_get_u64_le().ok()?, body.try_get_u64_le().ok()?, body.try_get_u32_le().ok()?);
    body.is_empty().then_some(footer)
}

fn restore(keystore: &mut Keystore, mut body: &[u8]) -> Result<(), &'static str> {
    const SHORT: &str = "an item is cut short";
    while !body.is_empty() {
        let (mut head, rest) = body.split_at_checked(ITEM_HEADER_BYTES).ok_or(SHORT)?;
        let flags = head.get_u32_le();
        let cas = head.get_u64_le();
        let deadline_ms = head.get_u64_le();
        let key_bytes = usize::from(head.get_u8());
        let value_bytes = head.get_u32_le() as usize;
        let (key, rest) = rest.split_at_checked(key_bytes).ok_or(SHORT)?;
        let (value, rest) = rest.split_at_checked(value_bytes).ok_or(SHORT)?;
        if !keystore.restore_item(ItemView { key, flags, cas, deadline_ms, value }) {
            return Err("the same key twice");
        }
        body = rest;
    }
    Ok(())
}

/// The blocks of a file, each checked before it is looked into.
struct Blocks<'a, R> {
    path: &'a Path,
    file: R,
    size: u64,
    /// Bytes read.
    at: u64,
    /// Of everything read.
    crc: u32,
    blocks: u64,
    /// The body of the block.
    buffer: Vec<u8>,
}

impl<R: Read> Blocks<'_, R> {
    fn header(&mut self) -> Result<(), KeystoreFileError> {
        let mut header = [0; HEADER_BYTES];
        self.read(&mut header)?;
        if &header[..8] != MAGIC {
            return Err(KeystoreFileError::Foreign { file: self.path.to_owned() });
        }
        let mut rest = &header[8..];
        let version = rest.get_u32_le();
        if rest.get_u32_le() != crc32c::crc32c(&header[..12]) {
            let what = "the checksum of its header does not match";
            return Err(KeystoreFileError::damaged(self.path, 0, what));
        }
        if version != VERSION {
            let file = self.path.to_owned();
            return Err(KeystoreFileError::NewerVersion { file, version, known: VERSION });
        }
        Ok(())
    }

    /// Reads the next block; gives its kind and the checksum of everything
    /// before it.
    fn next(&mut self) -> Result<(u32, u32), KeystoreFileError> {
        let (begin, crc_before) = (self.at, self.crc);
        let mut header = [0; BLOCK_HEADER_BYTES];
        self.read(&mut header)?;
        let mut rest = &header[..];
        let (crc, kind, length) = (rest.get_u32_le(), rest.get_u32_le(), rest.get_u32_le());
        if u64::from(length) > self.size - self.at {
            return Err(self.truncated());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(length as usize, 0);
        self.read(&mut buffer)?;
        let sum = crc32c::crc32c_append(self.blocks as u32, &header[4..]);
        if crc != crc32c::crc32c_append(sum, &buffer) {
            let what = "the checksum of the block does not match";
            return Err(KeystoreFileError::damaged(self.path, begin, what));
        }
        self.blocks += 1;
        self.buffer = buffer;
        Ok((kind, crc_before))
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), KeystoreFileError> {
        if bytes.len() as u64 > self.size - self.at {
            return Err(self.truncated());
        }
        let read = self.file.read_exact(bytes);
        read.map_err(|error| KeystoreFileError::io(self.path, error))?;
        self.at += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        Ok(())
    }

    fn truncated(&self) -> KeystoreFileError {
        let (file, offset) = (self.path.to_owned(), self.size);
        KeystoreFileError::Truncated { file, offset, way_out: REJOIN }
    }

    /// Something is wrong in the block that was read last.
    fn damaged(&self, what: &'static str) -> KeystoreFileError {
        let begin = self.at - (self.buffer.len() + BLOCK_HEADER_BYTES) as u64;
        KeystoreFileError::damaged(self.path, begin, what)
    }
}
