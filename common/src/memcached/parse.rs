//! Bytes to requests.

use bytes::BytesMut;

use super::request::Request;

/// What a step of the parser found.
#[derive(Debug)]
pub enum Parsed {
    /// A whole request.
    Request(Request),
    /// More bytes are needed.
    Incomplete,
}

/// Turns a stream of bytes into requests.
#[derive(Debug)]
pub struct Parser {
    max_value_bytes: usize,
}

impl Parser {
    /// A parser that refuses values above `max_value_bytes`.
    pub fn new(max_value_bytes: usize) -> Self {
        Parser { max_value_bytes }
    }

    /// Takes the next request off the front of `input`.
    pub fn next(&mut self, input: &mut BytesMut) -> Parsed {
        let _ = (self.max_value_bytes, input);
        Parsed::Incomplete
    }
}
