//! The keystore as an embedded state machine.

use bytes::{Buf, BufMut};
use common::memcached::Reply;
use raft::Index;

use super::{RestoreError, StateMachine};
use crate::command::Command;
use crate::keystore::{KeyHasher, Keystore, KeystoreLimits, Position, Restorer};

/// The store's own keystore: commands are encoded [`Command`]s, replies those
/// of memcached. Items are read with
/// [`Replica::read`](super::Replica::read) and [`KeystoreMachine::keystore`].
///
/// Its snapshot: applied:u64 cas counter:u64 clock_ms:u64 items:u64 contents
/// hash:u64, then each item as length:u32 and as the keystore-file has it;
/// integers are little-endian.
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
        out.put_u64_le(position.contents);
        for (_, group) in frozen.into_groups() {
            for item in group.items() {
                out.put_u32_le(item.bytes().len() as u32);
                out.put_slice(item.bytes());
            }
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
        contents: bytes.try_get_u64_le().ok()?,
        memory_bytes: 0,
    };
    let hasher = KeyHasher::random();
    let mut restorer = Restorer::new(hasher, 0);
    while !bytes.is_empty() {
        let length = bytes.try_get_u32_le().ok()? as usize;
        let (item, rest) = bytes.split_at_checked(length)?;
        restorer.put(None, item).ok()?;
        bytes = rest;
    }
    let keystore = Restorer::finish(hasher, position, [restorer]);
    let restored = keystore.position();
    let whole = (restored.items, restored.contents) == (position.items, position.contents);
    whole.then_some(keystore)
}
