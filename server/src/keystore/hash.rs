//! The two hashes of the keystore: where a key lies, and what it contains.

use xxhash_rust::xxh3;

/// A fast hash (XXH3-64) with a seed that nobody outside can know, so that
/// clients cannot choose keys that collide. The seed is drawn once per data
/// set and goes with it into checkpoints: what lies together in one process
/// lies together in the file and in the process that reads it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyHasher {
    seed: u64,
}

impl KeyHasher {
    pub(crate) fn random() -> Self {
        KeyHasher { seed: rand::random() }
    }

    pub(crate) fn with_seed(seed: u64) -> Self {
        KeyHasher { seed }
    }

    pub(crate) fn seed(self) -> u64 {
        self.seed
    }

    #[inline]
    pub(super) fn hash(self, key: &[u8]) -> u64 {
        xxh3::xxh3_64_with_seed(key, self.seed)
    }
}

/// What one item adds to the hash of the contents: XXH3-64 of its bytes as
/// [`item`](super::item) lays them out. The sum over all items, wrapping, does
/// not depend on their order.
#[inline]
pub(crate) fn contents_of(item: &[u8]) -> u64 {
    xxh3::xxh3_64(item)
}

/// One number for everything that replicas must agree on.
pub(super) fn digest(numbers: [u64; 6]) -> u64 {
    let mut bytes = [0; 48];
    for (slot, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        slot.copy_from_slice(&number.to_le_bytes());
    }
    xxh3::xxh3_64(&bytes)
}

/// One number for a sequence of byte strings: `before` stands for those so far.
pub(super) fn chained(bytes: &[u8], before: u64) -> u64 {
    xxh3::xxh3_64_with_seed(bytes, before)
}
