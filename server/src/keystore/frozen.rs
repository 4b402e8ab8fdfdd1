//! The keystore at one instant.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::hash::KeyHasher;
use super::item::{Item, ItemView};
use super::sessions::Sessions;
use super::table::Group;
use super::{Keystore, Position};

/// A keystore at one instant; cheap to make, can go to another thread.
///
/// It keeps alive what it was made of: an item that is overwritten meanwhile
/// takes its memory twice. Whoever only passes through it once should consume
/// it group by group, which gives each group back as soon as it is done.
#[derive(Clone)]
pub struct Frozen {
    groups: Vec<Group>,
    position: Position,
    sessions: Sessions,
    hasher: KeyHasher,
    kept: Kept,
}

impl Frozen {
    pub(super) fn of(keystore: &Keystore) -> Self {
        Frozen {
            groups: keystore.table.groups().to_vec(),
            position: keystore.position,
            sessions: keystore.frozen_sessions(),
            hasher: keystore.table.hasher(),
            kept: Kept {
                before: keystore.kept.load(Ordering::Relaxed),
                counter: Arc::clone(&keystore.kept),
            },
        }
    }

    /// Index of the last entry that it contains.
    pub fn applied(&self) -> u64 {
        self.position.applied
    }

    /// Number of items.
    pub fn len(&self) -> u64 {
        self.position.items
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every item, in no particular order.
    pub fn items(&self) -> impl Iterator<Item = ItemView<'_>> {
        self.groups.iter().flat_map(|group| group.items().map(Item::view))
    }

    /// The groups with their numbers, without those that are empty. Each one
    /// is given away: what it kept alive goes when it is dropped.
    pub(crate) fn into_groups(self) -> impl Iterator<Item = (usize, Group)> {
        self.groups.into_iter().enumerate().filter(|(_, group)| !group.is_empty())
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn hasher(&self) -> KeyHasher {
        self.hasher
    }

    /// Counts the bytes of items that were overwritten or deleted since, and
    /// live on for whoever holds this or another frozen keystore. It only
    /// grows.
    pub(crate) fn kept(&self) -> Kept {
        self.kept.clone()
    }
}

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frozen").field("position", &self.position).finish_non_exhaustive()
    }
}

/// See [`Frozen::kept`].
#[derive(Clone)]
pub(crate) struct Kept {
    counter: Arc<AtomicU64>,
    before: u64,
}

impl Kept {
    pub(crate) fn bytes(&self) -> u64 {
        self.counter.load(Ordering::Relaxed) - self.before
    }
}
