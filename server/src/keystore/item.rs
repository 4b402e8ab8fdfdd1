//! One item: a single shared allocation.
//!
//! ```text
//! cas:u64 deadline_ms:u64 flags:u32 klen:u8 key value
//! ```
//! Shared, so that a frozen keystore keeps the old bytes while a write puts
//! new ones beside them; a write to an item that nobody else holds and whose
//! size stays the same happens in place.

use std::sync::Arc;

const CAS: usize = 0;
const DEADLINE: usize = 8;
const FLAGS: usize = 16;
const KEY_LENGTH: usize = 20;
const KEY: usize = 21;

/// What an item costs besides its key and value: the header above, the
/// counters of the shared allocation, the allocator's rounding and its slot in
/// the table. A constant, so that replicas agree on it.
pub const ITEM_OVERHEAD_BYTES: u64 = 72;

/// Scratch buffers that grew beyond this are given back.
const SCRATCH_BYTES: usize = 64 * 1024;

/// An item as readers see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ItemView<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// Opaque to the store.
    pub flags: u32,
    /// Changes with every change of the item; never 0.
    pub cas: u64,
    /// Unix milliseconds; 0: never expires.
    pub deadline_ms: u64,
    /// Its value.
    pub value: &'a [u8],
}

impl ItemView<'_> {
    /// What it counts for in [`Keystore::memory_bytes`](super::Keystore::memory_bytes).
    pub(crate) fn memory_bytes(&self) -> u64 {
        ITEM_OVERHEAD_BYTES + self.key.len() as u64 + self.value.len() as u64
    }
}

#[derive(Clone)]
pub(crate) struct Item(Arc<[u8]>);

impl Item {
    /// Assembles an item; its value is `first` followed by `second`.
    /// `scratch` is only a buffer to assemble it in.
    pub(crate) fn build(scratch: &mut Vec<u8>, head: ItemView<'_>, second: &[u8]) -> Self {
        scratch.clear();
        scratch.reserve(KEY + head.key.len() + head.value.len() + second.len());
        scratch.extend_from_slice(&head.cas.to_le_bytes());
        scratch.extend_from_slice(&head.deadline_ms.to_le_bytes());
        scratch.extend_from_slice(&head.flags.to_le_bytes());
        scratch.push(head.key.len() as u8);
        scratch.extend_from_slice(head.key);
        scratch.extend_from_slice(head.value);
        scratch.extend_from_slice(second);
        let item = Item(Arc::from(scratch.as_slice()));
        if scratch.capacity() > SCRATCH_BYTES {
            *scratch = Vec::new();
        }
        item
    }

    /// Overwrites everything but the key, if the size stays the same and
    /// nobody else holds this item.
    pub(crate) fn overwrite(&mut self, new: ItemView<'_>) -> bool {
        if self.0.len() != KEY + new.key.len() + new.value.len() {
            return false;
        }
        let Some(bytes) = Arc::get_mut(&mut self.0) else { return false };
        bytes[CAS..DEADLINE].copy_from_slice(&new.cas.to_le_bytes());
        bytes[DEADLINE..FLAGS].copy_from_slice(&new.deadline_ms.to_le_bytes());
        bytes[FLAGS..KEY_LENGTH].copy_from_slice(&new.flags.to_le_bytes());
        bytes[KEY + new.key.len()..].copy_from_slice(new.value);
        true
    }

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        &self.0[KEY..KEY + usize::from(self.0[KEY_LENGTH])]
    }

    #[inline]
    pub(crate) fn view(&self) -> ItemView<'_> {
        let (header, rest) = self.0.split_at(KEY);
        let (key, value) = rest.split_at(usize::from(header[KEY_LENGTH]));
        ItemView {
            key,
            flags: u32::from_le_bytes(fixed(&header[FLAGS..KEY_LENGTH])),
            cas: u64::from_le_bytes(fixed(&header[CAS..DEADLINE])),
            deadline_ms: u64::from_le_bytes(fixed(&header[DEADLINE..FLAGS])),
            value,
        }
    }
}

#[inline]
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}
