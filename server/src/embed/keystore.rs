//! The keystore as an embedded state machine.

use bytes::{Buf, BufMut};
use common::memcached::Reply;
use raft::Index;

use super::{RestoreError, StateMachine};
use crate::command::Command;
use crate::keystore::{ItemView, Keystore, KeystoreLimits, Position};

/// The store's own keystore: commands are encoded [`Command`]s, replies those
/// of memcached. Items are read with
/// [`Replica::read`](super::Replica::read) and [`KeystoreMachine::keystore`].
///
/// Its snapshot: applied:u64 cas counter:u64 clock_ms:u64 items:u64
/// memory_bytes:u64, then each item cas:u64 deadline_ms:u64 flags:u32 klen:u8
/// vlen:u32 key value; integers are little-endian.
#[derive(Debug)]
pub struct KeystoreMachine {
    keystore: Keystore,
}

impl KeystoreMachine {
    /// An empty keystore.
    pub fn new() -> Self {
        KeystoreMachine { keystore: Keystore::new(KeystoreLimits::default()) }
    }

    /// The items.
    pub fn keystore(&self) -> &Keystore {
        &self.keystore
    }
}

impl Default for KeystoreMachine {
    fn default() -> Self {
        Self::new()
    }
}

impl StateMachine for KeystoreMachine {
    type Reply = Reply;

    fn apply(&mut self, index: Index, command: &[u8]) -> Reply {
        match Command::decode(command) {
            Ok(command) => self.keystore.apply(index, &command),
            // Every replica refuses it alike.
            Err(error) => {
                tracing::error!(index, %error, "command refused");
                self.keystore.advance(index);
                Reply::Error("SERVER_ERROR command of a newer version")
            }
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        let frozen = self.keystore.freeze();
        let position = frozen.position();
        let mut out = Vec::new();
        out.put_u64_le(position.applied);
        out.put_u64_le(position.cas_counter);
        out.put_u64_le(position.clock_ms);
        out.put_u64_le(position.items);
        out.put_u64_le(position.memory_bytes);
        for item in frozen.items() {
            out.put_u64_le(item.cas);
            out.put_u64_le(item.deadline_ms);
            out.put_u32_le(item.flags);
            out.put_u8(item.key.len() as u8);
            out.put_u32_le(item.value.len() as u32);
            out.put_slice(item.key);
            out.put_slice(item.value);
        }
        out
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let restored = decode(snapshot).ok_or("the keystore's snapshot is cut short")?;
        self.keystore = restored;
        Ok(())
    }
}

fn decode(mut bytes: &[u8]) -> Option<Keystore> {
    let position = Position {
        applied: bytes.try_get_u64_le().ok()?,
        cas_counter: bytes.try_get_u64_le().ok()?,
        clock_ms: bytes.try_get_u64_le().ok()?,
        items: bytes.try_get_u64_le().ok()?,
        memory_bytes: bytes.try_get_u64_le().ok()?,
    };
    let mut keystore = Keystore::restored(position, KeystoreLimits::default());
    while !bytes.is_empty() {
        let cas = bytes.try_get_u64_le().ok()?;
        let deadline_ms = bytes.try_get_u64_le().ok()?;
        let flags = bytes.try_get_u32_le().ok()?;
        let key_bytes = usize::from(bytes.try_get_u8().ok()?);
        let value_bytes = bytes.try_get_u32_le().ok()? as usize;
        let (key, rest) = bytes.split_at_checked(key_bytes)?;
        let (value, rest) = rest.split_at_checked(value_bytes)?;
        bytes = rest;
        let unique = keystore.restore_item(ItemView { key, flags, cas, deadline_ms, value });
        unique.then_some(())?;
    }
    (keystore.position() == position).then_some(keystore)
}
