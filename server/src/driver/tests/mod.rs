//! What the driver promises, one promise a test: up to three drivers in one
//! thread, with a clock that is moved by hand.

mod batches;
mod bounds;
mod cluster;
mod forwarding;
mod integrity;
mod leadership;
mod memory;
mod named;
mod once;
mod reads;
mod relaying;
mod sessions;
mod statistics;
mod stopping;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use common::forward::WriteIds;
use common::front_end::{Finish, Finished};
use common::limits::{DEFAULT_MAX_VALUE_BYTES, REQUEST_DEADLINE};
use common::memcached::{Parsed, Parser, Request};

use cluster::{Cluster, Kind};

const NO_LEADER: &str = "SERVER_ERROR no leader, not executed\r\n";
const UNKNOWN: &str = "SERVER_ERROR timeout, outcome unknown\r\n";
const BUSY: &str = "SERVER_ERROR busy, not executed\r\n";
const SHUTTING_DOWN: &str = "SERVER_ERROR shutting down, not executed\r\n";

/// Longer than any request is kept.
const PAST_THE_DEADLINE_MS: u64 = REQUEST_DEADLINE.as_millis() as u64 + 10;

/// What a client got for a batch.
#[derive(Clone, Default)]
struct Answer(Arc<Mutex<Vec<Finished>>>);

impl Finish for Answer {
    fn finish(&self, finished: Finished) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(finished);
    }
}

impl Answer {
    /// The replies; `None`: it still waits.
    fn text(&self) -> Option<String> {
        let answers = self.0.lock().unwrap();
        assert!(answers.len() <= 1, "a batch is answered once");
        answers.first().map(|finished| {
            assert!(finished.complete, "the batch was dropped without an answer");
            String::from_utf8(finished.out.to_vec()).expect("text")
        })
    }

    #[track_caller]
    fn expect(&self, replies: &str) {
        assert_eq!(self.text().as_deref(), Some(replies));
    }

    #[track_caller]
    fn expect_none(&self) {
        assert_eq!(self.text(), None);
    }
}

/// The requests that `text` holds.
fn requests(text: &str) -> Vec<Request> {
    let mut parser = Parser::new(DEFAULT_MAX_VALUE_BYTES);
    let mut input = BytesMut::from(text);
    let mut requests = Vec::new();
    while let Parsed::Request(request) = parser.next(&mut input) {
        requests.push(request);
    }
    assert!(input.is_empty(), "whole requests");
    requests
}

/// What names the requests that `text` holds, if they have tokens.
fn ids(text: &str) -> WriteIds {
    let mut parser = Parser::new(DEFAULT_MAX_VALUE_BYTES);
    parser.next(&mut BytesMut::from(text));
    parser.ids().unwrap_or_default()
}

/// A `set` line with its value.
fn set(key: &str, value: &str) -> String {
    format!("set {key} 0 0 {}\r\n{value}\r\n", value.len())
}

/// What a `get` of one key answers.
fn hit(key: &str, value: &str) -> String {
    format!("VALUE {key} 0 {}\r\n{value}\r\nEND\r\n", value.len())
}
