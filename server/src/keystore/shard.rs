//! One part of the keystore's hash table.

use hashbrown::HashTable;

use super::hash::KeyHasher;
use super::item::Item;

/// Cloned as a whole when it is written while somebody holds it frozen: the
/// table is copied, the items are shared.
#[derive(Clone, Default)]
pub(super) struct Shard {
    table: HashTable<Item>,
}

impl Shard {
    #[inline]
    pub(super) fn get(&self, hash: u64, key: &[u8]) -> Option<&Item> {
        self.table.find(hash, |item| item.key() == key)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, hash: u64, key: &[u8]) -> Option<&mut Item> {
        self.table.find_mut(hash, |item| item.key() == key)
    }

    /// The key must not be there yet.
    pub(super) fn insert(&mut self, hash: u64, item: Item, hasher: &KeyHasher) {
        self.table.insert_unique(hash, item, |item| hasher.hash(item.key()));
    }

    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) -> Option<Item> {
        let entry = self.table.find_entry(hash, |item| item.key() == key).ok()?;
        Some(entry.remove().0)
    }

    pub(super) fn reserve(&mut self, items: usize, hasher: &KeyHasher) {
        self.table.reserve(items, |item| hasher.hash(item.key()));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.table.iter()
    }
}
