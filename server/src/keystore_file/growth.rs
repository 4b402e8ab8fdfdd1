//! How much of a keystore-file is there while it arrives.

use std::path::Path;

use bytes::Buf;

use super::{BLOCK_HEADER_BYTES, HEADER_BYTES, ITEMS};
use crate::files::File;
use crate::keystore::GROUPS;

/// A block's header, and the number of its group if it holds items.
const HEAD_BYTES: usize = BLOCK_HEADER_BYTES + 4;

/// Follows a file that is being written from its beginning on.
///
/// Its size is known at its end only, but it holds one group of items after
/// the other, about equally large, and each block says of which group it is.
/// Nothing is checked here: that is for whoever reads the whole file.
#[derive(Debug)]
pub struct Growth {
    /// Where the next block begins.
    next: u64,
    permille: u16,
}

impl Default for Growth {
    fn default() -> Self {
        Growth { next: HEADER_BYTES as u64, permille: 0 }
    }
}

impl Growth {
    /// Thousandths that are there, of the file at `path`, now `length` long.
    pub fn look(&mut self, path: &Path, length: u64) -> u16 {
        if let Ok(file) = File::open(path) {
            while self.next + HEAD_BYTES as u64 <= length && self.pass(&file) {}
        }
        self.permille
    }

    /// Passes one block; `false` if it cannot be read.
    fn pass(&mut self, file: &File) -> bool {
        let mut head = [0; HEAD_BYTES];
        if file.read_exact_at(&mut head, self.next).is_err() {
            return false;
        }
        let mut rest = &head[4..];
        let (kind, length, group) = (rest.get_u32_le(), rest.get_u32_le(), rest.get_u32_le());
        if kind == ITEMS {
            let passed = (group as usize).min(GROUPS) * 1000 / GROUPS;
            self.permille = self.permille.max(passed as u16);
        }
        self.next += BLOCK_HEADER_BYTES as u64 + u64::from(length);
        true
    }
}
