//! One item: a single shared allocation.
//!
//! ```text
//! cas:u64 deadline_ms:u64 flags:u32 klen:u8 key value
//! ```
//! Integers are little-endian; the keystore-file holds items in this form, too.
//!
//! Shared, so that a frozen keystore keeps the old bytes while a write puts
//! new ones beside them; a write to an item that nobody else holds and whose
//! size stays the same happens in place.

use common::limits::MAX_KEY_BYTES;
use triomphe::{Arc, ThinArc};

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
pub(crate) struct Item(ThinArc<(), u8>);

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
        let item = Item(ThinArc::from_header_and_slice((), scratch));
        if scratch.capacity() > SCRATCH_BYTES {
            *scratch = Vec::new();
        }
        item
    }

    /// An item of its own [`bytes`](Self::bytes); `None`: they are none.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let key = usize::from(*bytes.get(KEY_LENGTH)?);
        let whole = (1..=MAX_KEY_BYTES).contains(&key) && KEY + key <= bytes.len();
        whole.then(|| Item(ThinArc::from_header_and_slice((), bytes)))
    }

    /// This item with a bit changed where no client looks: its deadline, if it
    /// has one, is some hundred million years off.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub(crate) fn rotten(&self) -> Self {
        let mut bytes = self.bytes().to_vec();
        bytes[FLAGS - 1] ^= 0x40;
        Item(ThinArc::from_header_and_slice((), &bytes))
    }

    /// Overwrites everything but the key, if the size stays the same and
    /// nobody else holds this item.
    pub(crate) fn overwrite(&mut self, new: ItemView<'_>) -> bool {
        if self.bytes().len() != KEY + new.key.len() + new.value.len() {
            return false;
        }
        self.0.with_arc_mut(|item| {
            let Some(item) = Arc::get_mut(item) else { return false };
            let bytes = item.slice_mut();
            bytes[CAS..DEADLINE].copy_from_slice(&new.cas.to_le_bytes());
            bytes[DEADLINE..FLAGS].copy_from_slice(&new.deadline_ms.to_le_bytes());
            bytes[FLAGS..KEY_LENGTH].copy_from_slice(&new.flags.to_le_bytes());
            bytes[KEY + new.key.len()..].copy_from_slice(new.value);
            true
        })
    }

    /// Whether somebody else holds it, too.
    pub(crate) fn is_shared(&self) -> bool {
        self.0.with_arc(|item| !item.is_unique())
    }

    /// All of it, as the module's page lays it out.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0.slice
    }

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        let bytes = self.bytes();
        &bytes[KEY..KEY + usize::from(bytes[KEY_LENGTH])]
    }

    #[inline]
    pub(crate) fn view(&self) -> ItemView<'_> {
        let (header, rest) = self.bytes().split_at(KEY);
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
