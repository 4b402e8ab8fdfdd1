//! The dumb twin of the keystore: what a store of memcached's commands must
//! do, written down without regard to speed.

use std::collections::BTreeMap;

use bytes::Bytes;
use common::memcached::{Arithmetic, NON_NUMERIC, Reply, StoreVerb};

use crate::history::{Key, OpId, Write, delta_of};

/// An item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Item {
    pub(crate) value: Bytes,
    pub(crate) flags: u32,
    pub(crate) cas: u64,
}

/// What a write does to its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    Nothing,
    Put { value: Bytes, flags: u32 },
    Remove,
}

/// What `write` answers and does, when the key holds `old`.
pub(crate) fn step(
    old: Option<(&Bytes, u32)>,
    op: OpId,
    write: &Write,
    cas_matches: bool,
) -> (Reply, Effect) {
    match write {
        Write::Store { verb, value, .. } => store(old, op, *verb, value, cas_matches),
        Write::Delete if old.is_some() => (Reply::Deleted, Effect::Remove),
        Write::Delete => (Reply::NotFound, Effect::Nothing),
        Write::Arithmetic { operation } => {
            let Some((value, flags)) = old else { return (Reply::NotFound, Effect::Nothing) };
            let Some(number) = number(value) else {
                return (Reply::Error(NON_NUMERIC), Effect::Nothing);
            };
            let number = match operation {
                Arithmetic::Incr => number.wrapping_add(delta_of(op)),
                Arithmetic::Decr => number.saturating_sub(delta_of(op)),
            };
            let value = Bytes::from(number.to_string());
            (Reply::Number(number), Effect::Put { value, flags })
        }
    }
}

fn store(
    old: Option<(&Bytes, u32)>,
    op: OpId,
    verb: StoreVerb,
    value: &Bytes,
    cas_matches: bool,
) -> (Reply, Effect) {
    let refused = |reply| (reply, Effect::Nothing);
    let (value, flags) = match (verb, old) {
        (StoreVerb::Set, _) | (StoreVerb::Add, None) | (StoreVerb::Replace, Some(_)) => {
            (value.clone(), op)
        }
        (StoreVerb::Append, Some((old, flags))) => ([&old[..], value].concat().into(), flags),
        (StoreVerb::Prepend, Some((old, flags))) => ([&value[..], old].concat().into(), flags),
        (StoreVerb::Cas(_), Some(_)) if cas_matches => (value.clone(), op),
        (StoreVerb::Cas(_), Some(_)) => return refused(Reply::Exists),
        (StoreVerb::Cas(_), None) => return refused(Reply::NotFound),
        _ => return refused(Reply::NotStored),
    };
    (Reply::Stored, Effect::Put { value, flags })
}

fn number(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten()
}

/// A whole store.
#[derive(Clone, Default, Debug)]
pub(crate) struct Model {
    pub(crate) items: BTreeMap<Key, Item>,
    /// Successful changes so far: the token of the last one.
    pub(crate) cas: u64,
}

impl Model {
    /// Executes `write` and gives its reply.
    pub(crate) fn apply(&mut self, op: OpId, key: Key, write: &Write) -> Reply {
        let old = self.items.get(&key);
        let cas_matches = match (write, old) {
            (Write::Store { verb: StoreVerb::Cas(token), .. }, Some(item)) => item.cas == *token,
            _ => false,
        };
        let old = old.map(|item| (&item.value, item.flags));
        let (reply, effect) = step(old, op, write, cas_matches);
        match effect {
            Effect::Nothing => {}
            Effect::Put { value, flags } => {
                self.cas += 1;
                self.items.insert(key, Item { value, flags, cas: self.cas });
            }
            Effect::Remove => {
                self.items.remove(&key);
            }
        }
        reply
    }
}
