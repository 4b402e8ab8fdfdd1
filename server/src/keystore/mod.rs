//! The state machine: the keystore in memory.
//!
//! [`Keystore::apply`] is a function of the state and the entry alone: no
//! local clock, no limits of this process, no order of a hash table can reach
//! a reply or an item, so that all replicas stay the same.
//!
//! - **Items** are one allocation each (see `item`).
//! - **Shards** are copy-on-write hash tables. [`Keystore::freeze`] takes a
//!   reference to each of them, which is one instant of the whole store; a
//!   later write copies the shard that it touches, once, without its items.
//!   1024 shards keep that copy below a millisecond for ten million items.
//! - **Hashing**: keys come from strangers, so the hash is seeded from the
//!   operating system for each process.
//! - **cas** is one counter for the whole store: each successful change takes
//!   the next number. It starts at 1, so that 0 never occurs.
//!
//! Two limits concern memory. An append or prepend whose result would exceed
//! [`MAX_CONCATENATED_BYTES`] is answered `TOO_LARGE`; that is a constant
//! because apply must decide it alike everywhere (all other values are checked
//! before they are proposed). `KeystoreLimits::memory_bytes` is this server's
//! own setting and therefore never consulted by apply: the leader asks
//! [`Keystore::has_room`] before it proposes.

mod hash;
mod item;
pub mod sessions;
mod shard;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use common::memcached::{Arithmetic, NON_NUMERIC, Reply, StoreVerb, TOO_LARGE};

use crate::command::{Command, Operation};
use hash::KeyHasher;
use item::Item;
pub use item::{ITEM_OVERHEAD_BYTES, ItemView};
use shard::Shard;

/// Largest value that append and prepend may produce, in bytes.
pub const MAX_CONCATENATED_BYTES: usize = common::limits::DEFAULT_MAX_VALUE_BYTES;

/// Digits of the largest 64-bit number: a longer value is no number for incr
/// and decr (memcached's `MAX_INCR_LEN`).
const MAX_DIGITS: usize = 20;

const SHARD_BITS: u32 = 10;
const SHARDS: usize = 1 << SHARD_BITS;

/// Settings of this server that concern its keystore.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct KeystoreLimits {
    /// Bytes that items may take, as [`Keystore::memory_bytes`] counts them.
    pub memory_bytes: Option<u64>,
}

/// Counters that belong to the replicated state.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Position {
    /// Index of the last entry applied.
    pub(crate) applied: u64,
    /// The last cas token given out.
    pub(crate) cas_counter: u64,
    /// The replicated clock: the highest that any entry carried.
    pub(crate) clock_ms: u64,
    /// Items stored.
    pub(crate) items: u64,
    /// What they count for.
    pub(crate) memory_bytes: u64,
}

/// The keystore.
pub struct Keystore {
    shards: Vec<Arc<Shard>>,
    hasher: KeyHasher,
    position: Position,
    limits: KeystoreLimits,
    scratch: Vec<u8>,
}

impl Keystore {
    /// An empty keystore: nothing applied.
    pub fn new(limits: KeystoreLimits) -> Self {
        Keystore {
            shards: (0..SHARDS).map(|_| Arc::new(Shard::default())).collect(),
            hasher: KeyHasher::random(),
            position: Position::default(),
            limits,
            scratch: Vec::new(),
        }
    }

    /// Applies the command of the entry at `index` and gives its reply.
    pub fn apply(&mut self, index: u64, command: &Command<'_>) -> Reply {
        self.advance(index);
        self.position.clock_ms = self.position.clock_ms.max(command.clock_ms);
        match command.operation {
            Operation::Store { verb: StoreVerb::Append, key, value, .. } => {
                self.concatenate(key, value, false)
            }
            Operation::Store { verb: StoreVerb::Prepend, key, value, .. } => {
                self.concatenate(key, value, true)
            }
            Operation::Store { verb, key, flags, deadline_ms, value } => {
                let cas = self.position.cas_counter + 1;
                self.store(verb, ItemView { key, flags, cas, deadline_ms, value })
            }
            Operation::Delete { key } => self.delete(key),
            Operation::Arithmetic { operation, key, delta } => {
                self.arithmetic(operation, key, delta)
            }
        }
    }

    /// Passes an entry that carries no command (a no-op, a membership).
    pub fn advance(&mut self, index: u64) {
        debug_assert!(index > self.position.applied, "entries are applied once, in order");
        self.position.applied = index;
    }

    /// The item under `key`.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<ItemView<'_>> {
        let hash = self.hasher.hash(key);
        self.shards[shard_of(hash)].get(hash, key).map(Item::view)
    }

    /// Number of items.
    pub fn len(&self) -> u64 {
        self.position.items
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the items count for: keys, values and [`ITEM_OVERHEAD_BYTES`]
    /// each. The same on all replicas.
    pub fn memory_bytes(&self) -> u64 {
        self.position.memory_bytes
    }

    /// Whether a value of `value_bytes` may be stored under `key` within this
    /// server's memory limit. For the leader, before it proposes.
    pub fn has_room(&self, key: &[u8], value_bytes: usize) -> bool {
        let Some(limit) = self.limits.memory_bytes else { return true };
        let old = self.get(key).map_or(0, |item| item.memory_bytes());
        let new = ITEM_OVERHEAD_BYTES + key.len() as u64 + value_bytes as u64;
        new <= old || self.memory_bytes() - old + new <= limit
    }

    /// Index of the last entry applied.
    pub fn applied(&self) -> u64 {
        self.position.applied
    }

    /// The last cas token given out; 0: none yet.
    pub fn cas_counter(&self) -> u64 {
        self.position.cas_counter
    }

    /// The replicated clock in unix milliseconds; a new leader starts from
    /// at least this.
    pub fn clock_ms(&self) -> u64 {
        self.position.clock_ms
    }

    /// Replaces this server's own limits.
    pub fn set_limits(&mut self, limits: KeystoreLimits) {
        self.limits = limits;
    }

    /// The store as of this instant, while writes go on. Costs a reference
    /// per shard, not per item.
    pub fn freeze(&self) -> Frozen {
        Frozen { shards: self.shards.clone(), position: self.position }
    }

    /// Sets everything but the items, before [`Keystore::restore_item`].
    pub(crate) fn restored(position: Position, limits: KeystoreLimits) -> Self {
        let mut keystore = Keystore::new(limits);
        // A shard gets its share and some room for chance; a count that came
        // from a file must not be able to ask for all memory.
        let share = (position.items.min(1 << 30) as usize / SHARDS) * 5 / 4;
        if share > 0 {
            let hasher = &keystore.hasher;
            for shard in &mut keystore.shards {
                Arc::make_mut(shard).reserve(share, hasher);
            }
        }
        keystore.position = Position { items: 0, memory_bytes: 0, ..position };
        keystore
    }

    /// Puts back an item of a checkpoint, with its cas token. False: the key
    /// is there already.
    pub(crate) fn restore_item(&mut self, item: ItemView<'_>) -> bool {
        let hash = self.hasher.hash(item.key);
        let shard = Arc::make_mut(&mut self.shards[shard_of(hash)]);
        if shard.get(hash, item.key).is_some() {
            return false;
        }
        shard.insert(hash, Item::build(&mut self.scratch, item, b""), &self.hasher);
        self.position.items += 1;
        self.position.memory_bytes += item.memory_bytes();
        true
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    fn store(&mut self, verb: StoreVerb, new: ItemView<'_>) -> Reply {
        let hash = self.hasher.hash(new.key);
        let shard = &mut self.shards[shard_of(hash)];
        // What is refused must not copy a frozen shard: look before writing.
        // A plain set depends on nothing and skips the extra look.
        if verb != StoreVerb::Set {
            let old = shard.get(hash, new.key);
            match (verb, old) {
                (StoreVerb::Add, Some(_)) | (StoreVerb::Replace, None) => return Reply::NotStored,
                (StoreVerb::Cas(_), None) => return Reply::NotFound,
                (StoreVerb::Cas(token), Some(old)) if old.view().cas != token => {
                    return Reply::Exists;
                }
                _ => {}
            }
        }
        let shard = Arc::make_mut(shard);
        match shard.get_mut(hash, new.key) {
            Some(item) => {
                self.position.memory_bytes -= item.view().memory_bytes();
                if !item.overwrite(new) {
                    *item = Item::build(&mut self.scratch, new, b"");
                }
            }
            None => {
                self.position.items += 1;
                shard.insert(hash, Item::build(&mut self.scratch, new, b""), &self.hasher);
            }
        }
        self.position.memory_bytes += new.memory_bytes();
        self.position.cas_counter = new.cas;
        Reply::Stored
    }

    /// append, or prepend when `in_front`.
    fn concatenate(&mut self, key: &[u8], value: &[u8], in_front: bool) -> Reply {
        let hash = self.hasher.hash(key);
        let shard = &mut self.shards[shard_of(hash)];
        let Some(old) = shard.get(hash, key).cloned() else { return Reply::NotStored };
        let old = old.view();
        let (first, second) = if in_front { (value, old.value) } else { (old.value, value) };
        let length = first.len() + second.len();
        if length > MAX_CONCATENATED_BYTES {
            return Reply::Error(TOO_LARGE);
        }
        self.position.cas_counter += 1;
        let head = ItemView { cas: self.position.cas_counter, value: first, ..old };
        let item = Item::build(&mut self.scratch, head, second);
        if let Some(slot) = Arc::make_mut(shard).get_mut(hash, key) {
            *slot = item;
        }
        self.position.memory_bytes += (length - old.value.len()) as u64;
        Reply::Stored
    }

    fn delete(&mut self, key: &[u8]) -> Reply {
        let hash = self.hasher.hash(key);
        let shard = &mut self.shards[shard_of(hash)];
        if shard.get(hash, key).is_none() {
            return Reply::NotFound;
        }
        if let Some(item) = Arc::make_mut(shard).remove(hash, key) {
            self.position.items -= 1;
            self.position.memory_bytes -= item.view().memory_bytes();
        }
        Reply::Deleted
    }

    fn arithmetic(&mut self, operation: Arithmetic, key: &[u8], delta: u64) -> Reply {
        let hash = self.hasher.hash(key);
        let shard = &mut self.shards[shard_of(hash)];
        let Some(item) = shard.get(hash, key) else { return Reply::NotFound };
        let Some(number) = parse_number(item.view().value) else {
            return Reply::Error(NON_NUMERIC);
        };
        let number = match operation {
            Arithmetic::Incr => number.wrapping_add(delta),
            Arithmetic::Decr => number.saturating_sub(delta),
        };
        self.position.cas_counter += 1;
        let mut digits = itoa::Buffer::new();
        let value = digits.format(number).as_bytes();
        let cas = self.position.cas_counter;
        if let Some(item) = Arc::make_mut(shard).get_mut(hash, key) {
            let old = item.view();
            let grown = value.len() as u64;
            self.position.memory_bytes += grown;
            self.position.memory_bytes -= old.value.len() as u64;
            let (flags, deadline_ms) = (old.flags, old.deadline_ms);
            let new = ItemView { key, flags, cas, deadline_ms, value };
            if !item.overwrite(new) {
                *item = Item::build(&mut self.scratch, new, b"");
            }
        }
        Reply::Number(number)
    }
}

impl std::fmt::Debug for Keystore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keystore").field("position", &self.position).finish_non_exhaustive()
    }
}

/// A keystore at one instant; cheap to make, can go to another thread.
pub struct Frozen {
    shards: Vec<Arc<Shard>>,
    position: Position,
}

impl Frozen {
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
        self.shards.iter().flat_map(|shard| shard.iter().map(Item::view))
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }
}

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frozen").field("position", &self.position).finish_non_exhaustive()
    }
}

/// The table inside a shard places by the lowest bits and tells apart by the
/// highest seven: the shard takes bits in between.
#[inline]
fn shard_of(hash: u64) -> usize {
    (hash >> (57 - SHARD_BITS)) as usize & (SHARDS - 1)
}

/// A value as incr and decr see it: one to twenty digits, within 64 bits.
fn parse_number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > MAX_DIGITS {
        return None;
    }
    value.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}
