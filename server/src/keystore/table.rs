//! The keystore's hash table: copy-on-write at three levels.
//!
//! The table is 1024 groups of 32 shards of items, each level behind counted
//! references. Whoever holds the table frozen holds the groups. A write copies
//! what it passes through and somebody else holds: 32 references of a group,
//! and the slots of one shard. With 32,768 shards that is a shard of 300 slots
//! at ten million items, some microseconds, once for each shard; one big copy
//! would hold up the sets behind it. Empty groups and shards are all the same
//! one, so that an empty keystore costs next to nothing.

use hashbrown::HashTable;
use triomphe::Arc;

use super::hash::KeyHasher;
use super::item::Item;

const GROUP_BITS: u32 = 10;
pub(crate) const GROUPS: usize = 1 << GROUP_BITS;
const SHARD_BITS: u32 = 5;
const SHARDS_PER_GROUP: usize = 1 << SHARD_BITS;

/// The shards of one group.
pub(super) type Shards = [Arc<Shard>; SHARDS_PER_GROUP];

/// A slice of the table at one instant.
#[derive(Clone)]
pub(crate) struct Group(Arc<Shards>);

impl Group {
    pub(crate) fn items(&self) -> impl Iterator<Item = &Item> {
        self.0.iter().flat_map(|shard| shard.table.iter())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|shard| shard.table.is_empty())
    }
}

pub(super) struct Table {
    groups: Vec<Group>,
    hasher: KeyHasher,
}

impl Table {
    pub(super) fn new(hasher: KeyHasher) -> Self {
        let shard = Arc::new(Shard::default());
        let group = Group(Arc::new(std::array::from_fn(|_| shard.clone())));
        Table { groups: vec![group; GROUPS], hasher }
    }

    pub(super) fn hasher(&self) -> KeyHasher {
        self.hasher
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash(key)
    }

    #[inline]
    pub(super) fn get(&self, hash: u64, key: &[u8]) -> Option<&Item> {
        self.groups[group_of(hash)].0[shard_of(hash)].get(hash, key)
    }

    /// The shard that is to be written; copied if somebody holds it frozen.
    #[inline]
    pub(super) fn shard_mut(&mut self, hash: u64) -> &mut Shard {
        let shards = Arc::make_mut(&mut self.groups[group_of(hash)].0);
        Arc::make_mut(&mut shards[shard_of(hash)])
    }

    pub(super) fn put_group(&mut self, number: usize, shards: Vec<Shard>) {
        debug_assert_eq!(shards.len(), SHARDS_PER_GROUP);
        let mut shards = shards.into_iter();
        let shards = std::array::from_fn(|_| Arc::new(shards.next().unwrap_or_default()));
        self.groups[number] = Group(Arc::new(shards));
    }
}

/// Cloned as a whole when it is written while somebody holds it frozen: the
/// slots are copied, the items are shared.
#[derive(Clone, Default)]
pub(super) struct Shard {
    table: HashTable<Item>,
}

impl Shard {
    /// The shards of a group whose items are still to come, with room for its
    /// share of `items` in the whole table.
    pub(super) fn group(items: u64) -> Vec<Shard> {
        let share = items as usize / (GROUPS * SHARDS_PER_GROUP);
        // Chance gives some shards more than their share.
        let room = share + share / 4;
        let shard = || Shard { table: HashTable::with_capacity(room) };
        (0..SHARDS_PER_GROUP).map(|_| shard()).collect()
    }

    #[inline]
    pub(super) fn get(&self, hash: u64, key: &[u8]) -> Option<&Item> {
        self.table.find(hash, |item| item.key() == key)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, hash: u64, key: &[u8]) -> Option<&mut Item> {
        self.table.find_mut(hash, |item| item.key() == key)
    }

    /// The key must not be there yet.
    pub(super) fn insert(&mut self, hash: u64, item: Item, hasher: KeyHasher) {
        self.table.insert_unique(hash, item, |item| hasher.hash(item.key()));
    }

    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) -> Option<Item> {
        let entry = self.table.find_entry(hash, |item| item.key() == key).ok()?;
        Some(entry.remove().0)
    }
}

/// The table inside a shard places by the lowest bits and tells apart by the
/// highest seven: group and shard take bits in between.
#[inline]
pub(super) fn group_of(hash: u64) -> usize {
    (hash >> (57 - GROUP_BITS)) as usize & (GROUPS - 1)
}

#[inline]
pub(super) fn shard_of(hash: u64) -> usize {
    (hash >> (57 - GROUP_BITS - SHARD_BITS)) as usize & (SHARDS_PER_GROUP - 1)
}
