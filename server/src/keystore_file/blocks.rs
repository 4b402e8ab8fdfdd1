//! The blocks of a checkpoint as they come out of a file.

use std::io::Read;
use std::path::Path;

use bytes::{Buf, Bytes};

use super::{
    BLOCK_HEADER_BYTES, CheckpointMeta, FOOTER, HEADER_BYTES, KeystoreFileError, MAGIC, OPTIONAL,
    POSITION, SESSIONS, USES, VERSION, digest_of,
};
use crate::keystore::sessions::Sessions;
use crate::keystore::{KeyHasher, Position};
use crate::log_file::{REJOIN, take_membership};

pub(super) const BAD_CRC: &str = "the checksum of the block does not match";

/// What the first block says.
pub(super) struct Start {
    pub(super) position: Position,
    pub(super) hasher: KeyHasher,
    pub(super) meta: CheckpointMeta,
}

pub(super) struct Footer {
    pub(super) items: u64,
    pub(super) contents: u64,
    pub(super) block: Block,
}

fn take_start(mut body: Bytes) -> Option<Start> {
    let mut number = || body.try_get_u64_le().ok();
    let (index, term) = (number()?, number()?);
    let position = Position {
        applied: index,
        cas_counter: number()?,
        clock_ms: number()?,
        items: number()?,
        ..Position::default()
    };
    let hasher = KeyHasher::with_seed(number()?);
    let _id = number()?;
    let membership = take_membership(&mut body)?;
    let meta = CheckpointMeta { index, term, membership };
    body.is_empty().then_some(Start { position, hasher, meta })
}

fn take_footer(mut body: &[u8]) -> Option<[u64; 4]> {
    let mut numbers = [0; 4];
    for number in &mut numbers {
        *number = body.try_get_u64_le().ok()?;
    }
    body.is_empty().then_some(numbers)
}

/// A block as it was read, not checked yet.
pub(super) struct Block {
    number: u64,
    pub(super) offset: u64,
    header: [u8; BLOCK_HEADER_BYTES],
    pub(super) kind: u32,
    pub(super) body: Vec<u8>,
}

impl Block {
    pub(super) fn is_whole(&self) -> bool {
        let sum = crc32c::crc32c_append(self.number as u32, &self.header[4..]);
        self.header[..4] == crc32c::crc32c_append(sum, &self.body).to_le_bytes()
    }
}

/// The blocks of a file.
pub(super) struct Blocks<'a, R> {
    path: &'a Path,
    file: R,
    pub(super) size: u64,
    /// Bytes read.
    pub(super) at: u64,
    /// Blocks read.
    pub(super) number: u64,
    pub(super) digest: u64,
    /// Those that were among the blocks.
    pub(super) sessions: Option<Sessions>,
}

impl<'a, R: Read> Blocks<'a, R> {
    pub(super) fn new(path: &'a Path, file: R, size: u64) -> Self {
        Blocks { path, file, size, at: 0, number: 0, digest: 0, sessions: None }
    }

    /// Reads up to the first items.
    pub(super) fn start(&mut self) -> Result<Start, KeystoreFileError> {
        self.header()?;
        let first = self.next(Vec::new())?;
        self.check(&first)?;
        let start = (first.kind == POSITION).then(|| take_start(first.body.clone().into()));
        start.flatten().ok_or_else(|| self.damaged(&first, "it does not begin with its position"))
    }

    /// Judges a block that holds no items, given how many blocks are before it
    /// and their digest. The footer is given back.
    pub(super) fn beside_items(
        &mut self,
        block: Block,
        count: u64,
        digest: u64,
    ) -> Result<Option<Footer>, KeystoreFileError> {
        self.check(&block)?;
        match block.kind {
            FOOTER => {
                let footer = take_footer(&block.body);
                let Some([_, items, contents, _]) =
                    footer.filter(|footer| (footer[0], footer[3]) == (count, digest))
                else {
                    let what = "the footer does not match what is before it";
                    return Err(self.damaged(&block, what));
                };
                if self.at != self.size {
                    return Err(self.damaged(&block, "there are bytes behind the footer"));
                }
                Ok(Some(Footer { items, contents, block }))
            }
            USES => {
                let sessions = self.sessions.as_mut();
                match sessions.and_then(|sessions| sessions.decode_uses(&block.body)) {
                    Some(()) => Ok(None),
                    None => Err(self.damaged(&block, "these are no uses of its sessions")),
                }
            }
            kind if kind & OPTIONAL != 0 => Ok(None),
            SESSIONS if self.sessions.is_none() => match Sessions::decode(&block.body) {
                None => Err(self.damaged(&block, "these are no sessions")),
                sessions => {
                    self.sessions = sessions;
                    Ok(None)
                }
            },
            SESSIONS => Err(self.damaged(&block, "its sessions come twice")),
            POSITION => Err(self.damaged(&block, "its position comes twice")),
            kind => {
                let (file, offset) = (self.path.to_owned(), block.offset);
                Err(KeystoreFileError::NewerBlock { file, offset, kind })
            }
        }
    }

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

    /// Reads the next block into `body`, whatever is in there.
    pub(super) fn next(&mut self, mut body: Vec<u8>) -> Result<Block, KeystoreFileError> {
        let (number, offset) = (self.number, self.at);
        let mut header = [0; BLOCK_HEADER_BYTES];
        self.read(&mut header)?;
        let mut rest = &header[4..];
        let (kind, length) = (rest.get_u32_le(), rest.get_u32_le());
        if u64::from(length) > self.size - self.at {
            return Err(self.truncated());
        }
        body.resize(length as usize, 0);
        self.read(&mut body)?;
        self.digest = digest_of(&header, self.digest);
        self.number += 1;
        Ok(Block { number, offset, header, kind, body })
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), KeystoreFileError> {
        if bytes.len() as u64 > self.size - self.at {
            return Err(self.truncated());
        }
        let read = self.file.read_exact(bytes);
        read.map_err(|error| KeystoreFileError::io(self.path, error))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn check(&self, block: &Block) -> Result<(), KeystoreFileError> {
        if block.is_whole() { Ok(()) } else { Err(self.damaged(block, BAD_CRC)) }
    }

    pub(super) fn truncated(&self) -> KeystoreFileError {
        let (file, offset) = (self.path.to_owned(), self.size);
        KeystoreFileError::Truncated { file, offset, way_out: REJOIN }
    }

    pub(super) fn damaged(&self, block: &Block, what: &'static str) -> KeystoreFileError {
        KeystoreFileError::damaged(self.path, block.offset, what)
    }
}
