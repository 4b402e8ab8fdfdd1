//! The state machine: the keystore in memory.
//!
//! [`Keystore::apply`] is a function of the state and the entry alone: no
//! local clock, no limits of this process, no order of a hash table can reach
//! a reply or an item, so that all replicas stay the same.
//!
//! - **Items** are one allocation each (see `item`).
//! - **The table** is copy-on-write in small parts (see `table`).
//!   [`Keystore::freeze`] takes references, which is one instant of the whole
//!   store; a later write copies the part that it touches, once, without its
//!   items.
//! - **Hashing**: keys come from strangers, so the hash has a seed from the
//!   operating system.
//! - **Contents hash**: every change also keeps a sum of hashes of all items up
//!   to date, so that replicas can compare themselves at any entry
//!   ([`Keystore::digest`]), and a checkpoint can tell that the items are
//!   still those that were applied.
//! - **cas** is one counter for the whole store: each successful change takes
//!   the next number. It starts at 1, so that 0 never occurs.
//!
//! Two limits concern memory. An append or prepend whose result would exceed
//! [`MAX_CONCATENATED_BYTES`] is answered `TOO_LARGE`; that is a constant
//! because apply must decide it alike everywhere (all other values are checked
//! before they are proposed). `KeystoreLimits::memory_bytes` is this server's
//! own setting and therefore never consulted by apply: the leader asks
//! [`Keystore::has_room`] before it proposes.

mod frozen;
mod hash;
mod item;
mod planted;
mod restore;
pub mod sessions;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::memcached::{Arithmetic, NON_NUMERIC, Reply, StoreVerb, TOO_LARGE, UNKNOWN};

use crate::command::{Command, Operation};
pub use frozen::Frozen;
pub(crate) use frozen::Kept;
pub(crate) use hash::{KeyHasher, contents_of};
use item::Item;
pub use item::{ITEM_OVERHEAD_BYTES, ItemView};
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
#[cfg(not(feature = "planted-bugs"))]
pub(crate) use planted::PlantedBug;
pub(crate) use restore::Restorer;
use sessions::{Known, Sessions};
pub(crate) use table::GROUPS;
use table::Table;

/// Largest value that append and prepend may produce, in bytes.
pub const MAX_CONCATENATED_BYTES: usize = common::limits::DEFAULT_MAX_VALUE_BYTES;

/// Digits of the largest 64-bit number: a longer value is no number for incr
/// and decr (memcached's `MAX_INCR_LEN`).
const MAX_DIGITS: usize = 20;

/// The reply to a write whose session is unknown or has expired: it was not
/// applied, but one with the same id may have been long ago.
pub const SESSION_UNKNOWN: Reply = Reply::Error(common::memcached::SESSION_UNKNOWN);

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
    /// The wrapping sum of the items' hashes.
    pub(crate) contents: u64,
}

impl Position {
    #[inline]
    fn add(&mut self, item: &Item) {
        self.memory_bytes += item.view().memory_bytes();
        self.contents = self.contents.wrapping_add(contents_of(item.bytes()));
    }

    #[inline]
    fn subtract(&mut self, item: &Item) {
        self.memory_bytes -= item.view().memory_bytes();
        self.contents = self.contents.wrapping_sub(contents_of(item.bytes()));
    }
}

/// The keystore.
pub struct Keystore {
    table: Table,
    position: Position,
    sessions: Sessions,
    limits: KeystoreLimits,
    scratch: Vec<u8>,
    /// Counts the bytes of items that were replaced or removed while somebody
    /// held them frozen.
    kept: Arc<AtomicU64>,
    #[cfg(feature = "planted-bugs")]
    planted: Option<PlantedBug>,
}

impl Keystore {
    /// An empty keystore: nothing applied.
    pub fn new(limits: KeystoreLimits) -> Self {
        Keystore::with(Table::new(KeyHasher::random()), Position::default(), limits)
    }

    /// As [`Keystore::new`], with a given place for each key: whoever plays a
    /// run once more gets the same checkpoints, byte by byte.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub fn seeded(limits: KeystoreLimits, seed: u64) -> Self {
        Keystore::with(Table::new(KeyHasher::with_seed(seed)), Position::default(), limits)
    }

    fn with(table: Table, position: Position, limits: KeystoreLimits) -> Self {
        let (sessions, scratch, kept) = (Sessions::default(), Vec::new(), Arc::default());
        Keystore {
            table,
            position,
            sessions,
            limits,
            scratch,
            kept,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }

    /// Applies the command of the entry at `index` and gives its reply. One
    /// that was applied before is not applied again and gives the same reply;
    /// [`SESSION_UNKNOWN`] says that nobody can tell, and it was not applied
    /// now.
    pub fn apply(&mut self, index: u64, command: &Command<'_>) -> Reply {
        self.advance(index);
        self.position.clock_ms = self.position.clock_ms.max(command.clock_ms);
        let clock_ms = self.position.clock_ms;
        let Some(id) = command.id else { return self.execute(command) };
        match self.sessions.look(id, command.clock_ms, clock_ms) {
            Known::New => {
                if matches!(command.operation, Operation::OpenSession { .. }) {
                    // Or this one might be the one that it pushes out.
                    self.sessions.touch(id.session, clock_ms, index);
                }
                let reply = self.execute(command);
                self.sessions.record(id, &reply, clock_ms, index);
                reply
            }
            Known::Applied(_) if self.has(PlantedBug::AppliedAgain) => self.execute(command),
            Known::Applied(reply) => reply,
            Known::NoSession if self.has(PlantedBug::NoSessionNeeded) => self.execute(command),
            Known::NoSession => SESSION_UNKNOWN,
            Known::Forgotten => Reply::Error(UNKNOWN),
        }
    }

    /// Whether the command will be applied for the first time, if it is the
    /// next one.
    pub fn is_new(&self, command: &Command<'_>) -> bool {
        let clock_ms = self.position.clock_ms.max(command.clock_ms);
        let look = |id| self.sessions.look(id, command.clock_ms, clock_ms);
        command.id.is_none_or(|id| look(id) == Known::New)
    }

    fn execute(&mut self, command: &Command<'_>) -> Reply {
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
            Operation::OpenSession { session } => {
                let Position { applied, clock_ms, .. } = self.position;
                match self.sessions.open(session, command.clock_ms, clock_ms, applied) {
                    true => Reply::Ok,
                    false => SESSION_UNKNOWN,
                }
            }
            Operation::Check { .. } | Operation::Verdict { .. } => Reply::Ok,
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
        self.table.get(self.table.hash(key), key).map(Item::view)
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

    /// This server's own limits.
    pub fn limits(&self) -> KeystoreLimits {
        self.limits
    }

    /// The sessions of those who forward writes.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// As if the table of sessions held less; on all replicas the same.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub fn limit_sessions(&mut self, limits: sessions::Limits) {
        self.sessions.set_limits(limits);
    }

    /// Puts back the sessions of a checkpoint.
    pub(crate) fn restore_sessions(&mut self, sessions: Sessions) {
        self.sessions = sessions;
    }

    /// Replaces this server's own limits.
    pub fn set_limits(&mut self, limits: KeystoreLimits) {
        self.limits = limits;
    }

    /// The store as of this instant, while writes go on. Costs a reference
    /// per part of the table, not per item.
    pub fn freeze(&self) -> Frozen {
        Frozen::of(self)
    }

    /// One number for everything that replicas agree on after the same entry:
    /// index, items, cas counter, clock and sessions.
    pub fn digest(&self) -> u64 {
        let Position { applied, cas_counter, clock_ms, items, contents, .. } = self.position;
        let sessions = self.sessions.digest();
        hash::digest([applied, cas_counter, clock_ms, items, contents, sessions])
    }

    /// Memory changes by itself: a bit of the item under `key` flips, and
    /// nobody notices. False: there is no such item.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub fn rot(&mut self, key: &[u8]) -> bool {
        let hash = self.table.hash(key);
        let Some(item) = self.table.shard_mut(hash).get_mut(hash, key) else { return false };
        *item = item.rotten();
        true
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    fn store(&mut self, verb: StoreVerb, new: ItemView<'_>) -> Reply {
        let hash = self.table.hash(new.key);
        // What is refused must not copy a frozen shard: look before writing.
        // A plain set depends on nothing and skips the extra look.
        if verb != StoreVerb::Set {
            let old = self.table.get(hash, new.key);
            match (verb, old) {
                (StoreVerb::Add, Some(_)) | (StoreVerb::Replace, None) => return Reply::NotStored,
                (StoreVerb::Cas(_), None) => return Reply::NotFound,
                (StoreVerb::Cas(token), Some(old)) if old.view().cas != token => {
                    return Reply::Exists;
                }
                _ => {}
            }
        }
        self.put(hash, new);
        Reply::Stored
    }

    fn put(&mut self, hash: u64, new: ItemView<'_>) {
        let hasher = self.table.hasher();
        let shard = self.table.shard_mut(hash);
        match shard.get_mut(hash, new.key) {
            Some(item) => {
                self.position.subtract(item);
                if !item.overwrite(new) {
                    keep(&self.kept, item);
                    *item = Item::build(&mut self.scratch, new, b"");
                }
                self.position.add(item);
            }
            None => {
                let item = Item::build(&mut self.scratch, new, b"");
                self.position.items += 1;
                self.position.add(&item);
                shard.insert(hash, item, hasher);
            }
        }
        self.position.cas_counter = new.cas;
    }

    /// append, or prepend when `in_front`.
    fn concatenate(&mut self, key: &[u8], value: &[u8], in_front: bool) -> Reply {
        let hash = self.table.hash(key);
        let Some(old) = self.table.get(hash, key) else { return Reply::NotStored };
        let old = old.view();
        let (first, second) = if in_front { (value, old.value) } else { (old.value, value) };
        if first.len() + second.len() > MAX_CONCATENATED_BYTES {
            return Reply::Error(TOO_LARGE);
        }
        self.position.cas_counter += 1;
        let head = ItemView { cas: self.position.cas_counter, value: first, ..old };
        let item = Item::build(&mut self.scratch, head, second);
        if let Some(slot) = self.table.shard_mut(hash).get_mut(hash, key) {
            self.position.subtract(slot);
            keep(&self.kept, slot);
            *slot = item;
            self.position.add(slot);
        }
        Reply::Stored
    }

    fn delete(&mut self, key: &[u8]) -> Reply {
        let hash = self.table.hash(key);
        if self.table.get(hash, key).is_none() {
            return Reply::NotFound;
        }
        if let Some(item) = self.table.shard_mut(hash).remove(hash, key) {
            self.position.items -= 1;
            self.position.subtract(&item);
            keep(&self.kept, &item);
        }
        Reply::Deleted
    }

    fn arithmetic(&mut self, operation: Arithmetic, key: &[u8], delta: u64) -> Reply {
        let hash = self.table.hash(key);
        let Some(item) = self.table.get(hash, key) else { return Reply::NotFound };
        let old = item.view();
        let Some(number) = parse_number(old.value) else {
            return Reply::Error(NON_NUMERIC);
        };
        let number = match operation {
            Arithmetic::Incr => number.wrapping_add(delta),
            Arithmetic::Decr => number.saturating_sub(delta),
        };
        let (flags, deadline_ms) = (old.flags, old.deadline_ms);
        let cas = self.position.cas_counter + 1;
        let mut digits = itoa::Buffer::new();
        let value = digits.format(number).as_bytes();
        self.put(hash, ItemView { key, flags, cas, deadline_ms, value });
        Reply::Number(number)
    }
}

/// Counts an item that is replaced or removed, if it lives on elsewhere.
#[inline]
fn keep(kept: &AtomicU64, item: &Item) {
    if item.is_shared() {
        kept.fetch_add(item.bytes().len() as u64, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Keystore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keystore").field("position", &self.position).finish_non_exhaustive()
    }
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
