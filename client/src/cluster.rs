//! The commands of the store, as calls.

use std::net::SocketAddr;

use common::memcached::{Arithmetic, StoreVerb};

use crate::connection::{Answer, Expect, Value};
use crate::error::Error;
use crate::finder::Finder;
use crate::protocol;
use crate::router::{Options, Router};

/// What became of a store command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is stored.
    Stored,
    /// The condition of add, replace, append or prepend did not hold.
    NotStored,
    /// cas: somebody changed it since `gets`.
    Exists,
    /// cas: there is no such key.
    NotFound,
}

/// A client of the cluster: one connection, made when it is first needed, and
/// made again, to whoever leads then, when it is lost.
///
/// Requests run one at a time. For requests side by side make several, with
/// [`another`](Cluster::another).
///
/// The first write opens a session, which costs as much as a write. From then
/// on a write whose server was lost is sent to the next one, until its
/// deadline, and takes effect once.
#[derive(Debug)]
pub struct Cluster {
    router: Router,
}

impl Cluster {
    /// A client that asks `lbs` who leads: the first, and the next one when
    /// that has not answered for a moment. Once it knows servers it asks them,
    /// too, so that it goes on when all load balancers are gone.
    pub fn new(lbs: Vec<SocketAddr>, options: Options) -> Self {
        Cluster { router: Router::new(Finder::of_lbs(lbs), options) }
    }

    /// A client of fixed servers, the first preferred: nobody is asked for others.
    pub fn with_servers(servers: Vec<SocketAddr>, options: Options) -> Self {
        Cluster { router: Router::new(Finder::of_servers(servers), options) }
    }

    /// A client for requests beside those of this one. It has a connection of
    /// its own; what one of them learns of who serves, and who does not answer,
    /// all of them know, and only one of them asks at a time.
    pub fn another(&self) -> Self {
        self.another_with(self.router.options().clone())
    }

    pub(crate) fn another_with(&self, options: Options) -> Self {
        Cluster { router: self.router.another(options) }
    }

    /// The server that this client is connected to.
    pub fn connected_to(&self) -> Option<SocketAddr> {
        self.router.connected_to()
    }

    /// Waits until there is a server to send to and gives all that are known, in
    /// the load balancer's order: the leader first, unless its policy is another.
    pub async fn discover(&mut self) -> Result<Vec<SocketAddr>, Error> {
        self.router.discover().await
    }

    /// The values of those `keys` that exist; several keys are one snapshot.
    pub async fn get(&mut self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Value>, Error> {
        self.read_keys("get", keys).await
    }

    /// As [`get`](Cluster::get), each value with its token for [`cas`](Cluster::cas).
    pub async fn gets(&mut self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Value>, Error> {
        self.read_keys("gets", keys).await
    }

    /// Stores `value` under `key`, whatever was there.
    pub async fn set(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        match self.store(StoreVerb::Set, key.as_ref(), 0, 0, value.as_ref()).await? {
            Outcome::Stored => Ok(()),
            other => Err(Error::ServerError(format!("{other:?} in answer to set"))),
        }
    }

    /// Stores if the key is absent; whether it did.
    pub async fn add(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool, Error> {
        self.store_if(StoreVerb::Add, key.as_ref(), value.as_ref()).await
    }

    /// Stores if the key is present; whether it did.
    pub async fn replace(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool, Error> {
        self.store_if(StoreVerb::Replace, key.as_ref(), value.as_ref()).await
    }

    /// Adds to the end of a present value; false without one.
    pub async fn append(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool, Error> {
        self.store_if(StoreVerb::Append, key.as_ref(), value.as_ref()).await
    }

    /// Adds to the front of a present value; false without one.
    pub async fn prepend(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool, Error> {
        self.store_if(StoreVerb::Prepend, key.as_ref(), value.as_ref()).await
    }

    /// Stores if nobody changed the key since `gets` gave `token`.
    pub async fn cas(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        token: u64,
    ) -> Result<Outcome, Error> {
        self.store(StoreVerb::Cas(token), key.as_ref(), 0, 0, value.as_ref()).await
    }

    /// The general form of the commands that carry a value. `exptime` as on
    /// the wire: 0 never, up to 30 days relative seconds, above a unix time.
    pub async fn store(
        &mut self,
        verb: StoreVerb,
        key: &[u8],
        flags: u32,
        exptime: i64,
        value: &[u8],
    ) -> Result<Outcome, Error> {
        let limit = self.router.options().max_value_bytes;
        if value.len() > limit {
            return Err(Error::TooLarge { bytes: value.len(), limit: Some(limit) });
        }
        let request = protocol::encode_store(verb, key, flags, exptime, value)?;
        match self.router.write(request, Expect::Store).await {
            Ok(Answer::Stored) => Ok(Outcome::Stored),
            Ok(Answer::NotStored) => Ok(Outcome::NotStored),
            Ok(Answer::Exists) => Ok(Outcome::Exists),
            Ok(Answer::NotFound) => Ok(Outcome::NotFound),
            Ok(other) => Err(misfit(&other)),
            Err(Error::ServerError(text)) if protocol::is_too_large(text.as_bytes()) => {
                Err(Error::TooLarge { bytes: value.len(), limit: None })
            }
            Err(error) => Err(error),
        }
    }

    /// Removes `key`; whether it was there.
    pub async fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        let request = protocol::encode_delete(key.as_ref())?;
        match self.router.write(request, Expect::Delete).await? {
            Answer::Deleted => Ok(true),
            Answer::NotFound => Ok(false),
            other => Err(misfit(&other)),
        }
    }

    /// Adds to a decimal number, wrapping at 2^64; the new number, or none without the key.
    pub async fn incr(&mut self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>, Error> {
        self.arithmetic(Arithmetic::Incr, key.as_ref(), delta).await
    }

    /// Subtracts from a decimal number, stopping at 0; the new number, or none without the key.
    pub async fn decr(&mut self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>, Error> {
        self.arithmetic(Arithmetic::Decr, key.as_ref(), delta).await
    }

    /// What the server calls itself.
    pub async fn version(&mut self) -> Result<String, Error> {
        match self.router.read(b"version\r\n", Expect::Version).await? {
            Answer::Version(text) => Ok(text),
            other => Err(misfit(&other)),
        }
    }

    /// The server's counters in its order; `what` may be empty.
    pub async fn stats(&mut self, what: &str) -> Result<Vec<(String, String)>, Error> {
        match self.router.read(&protocol::encode_stats(what)?, Expect::Stats).await? {
            Answer::Stats(stats) => Ok(stats),
            other => Err(misfit(&other)),
        }
    }

    async fn read_keys(
        &mut self,
        verb: &str,
        keys: &[impl AsRef<[u8]>],
    ) -> Result<Vec<Value>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let request = protocol::encode_get(verb, keys)?;
        let max_value_bytes = self.router.options().max_value_bytes;
        let expect = Expect::Values { at_most: keys.len(), max_value_bytes };
        match self.router.read(&request, expect).await? {
            Answer::Values(values) => Ok(values),
            other => Err(misfit(&other)),
        }
    }

    async fn store_if(&mut self, verb: StoreVerb, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        match self.store(verb, key, 0, 0, value).await? {
            Outcome::Stored => Ok(true),
            Outcome::NotStored | Outcome::NotFound => Ok(false),
            Outcome::Exists => Err(misfit(&Answer::Exists)),
        }
    }

    async fn arithmetic(
        &mut self,
        operation: Arithmetic,
        key: &[u8],
        delta: u64,
    ) -> Result<Option<u64>, Error> {
        let request = protocol::encode_arithmetic(operation, key, delta)?;
        match self.router.write(request, Expect::Number).await? {
            Answer::Number(number) => Ok(Some(number)),
            Answer::NotFound => Ok(None),
            other => Err(misfit(&other)),
        }
    }
}

/// An answer that the connection let through and that no caller expects.
fn misfit(answer: &Answer) -> Error {
    Error::ServerError(format!("an answer that does not fit the request: {answer:?}"))
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
