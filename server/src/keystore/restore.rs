//! Building a keystore from items that come back from a checkpoint.

use super::hash::contents_of;
use super::item::Item;
use super::table::{GROUPS, Shard, Table, group_of, shard_of};
use super::{Keystore, KeystoreLimits, Position};
use crate::keystore::hash::KeyHasher;

/// Takes the items of some groups; several of them work side by side, each on
/// groups of its own.
pub(crate) struct Restorer {
    groups: Vec<Option<Vec<Shard>>>,
    hasher: KeyHasher,
    expected: u64,
    sums: Sums,
}

/// What the items came to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Sums {
    items: u64,
    memory_bytes: u64,
    contents: u64,
}

impl Restorer {
    /// `expected`: about how many items the whole keystore will have. It only
    /// sizes tables, but it must be plausible.
    pub(crate) fn new(hasher: KeyHasher, expected: u64) -> Self {
        let groups = (0..GROUPS).map(|_| None).collect();
        Restorer { groups, hasher, expected, sums: Sums::default() }
    }

    /// Puts back one item, with its cas token.
    ///
    /// # Errors
    /// What is wrong with its bytes: they are no item, the key is there
    /// already, or it does not belong to `group`.
    pub(crate) fn put(&mut self, group: Option<usize>, bytes: &[u8]) -> Result<(), &'static str> {
        let item = Item::from_bytes(bytes).ok_or("these bytes are no item")?;
        let hash = self.hasher.hash(item.key());
        let number = group_of(hash);
        if group.is_some_and(|group| group != number) {
            return Err("an item in the wrong group");
        }
        let expected = self.expected;
        let shards = self.groups[number].get_or_insert_with(|| Shard::group(expected));
        let shard = &mut shards[shard_of(hash)];
        if shard.get(hash, item.key()).is_some() {
            return Err("the same key twice");
        }
        self.sums.items += 1;
        self.sums.memory_bytes += item.view().memory_bytes();
        self.sums.contents = self.sums.contents.wrapping_add(contents_of(bytes));
        shard.insert(hash, item, self.hasher);
        Ok(())
    }

    /// Puts the parts together. Index, clock and cas counter are those of
    /// `position`; the rest follows from the items.
    pub(crate) fn finish(
        hasher: KeyHasher,
        position: Position,
        parts: impl IntoIterator<Item = Restorer>,
    ) -> Keystore {
        let mut table = Table::new(hasher);
        let mut sums = Sums::default();
        for part in parts {
            sums.items += part.sums.items;
            sums.memory_bytes += part.sums.memory_bytes;
            sums.contents = sums.contents.wrapping_add(part.sums.contents);
            let groups = part.groups.into_iter().enumerate();
            for (number, shards) in groups.filter_map(|(number, group)| Some((number, group?))) {
                table.put_group(number, shards);
            }
        }
        let Sums { items, memory_bytes, contents } = sums;
        let position = Position { items, memory_bytes, contents, ..position };
        Keystore::with(table, position, KeystoreLimits::default())
    }
}
