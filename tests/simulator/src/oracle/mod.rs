//! Whether what the clients were told can be true.
//!
//! Two checkers look at the same history and share nothing but the model of
//! one key:
//!
//! - [`witness`] takes the order of the replicated log at its word and checks
//!   everything against it, multi-key gets and cas tokens included, in
//!   O(n log n);
//! - [`search`] knows no log. For each key it searches for any order that
//!   explains the answers. Linearizability is local (Herlihy and Wing 1990,
//!   theorem 1), so keys may be searched one by one.

mod model;
pub(crate) mod search;
mod sessions;
#[cfg(test)]
mod tests;
pub(crate) mod witness;

pub(crate) use model::Model;

use std::fmt;

/// A rule was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which rule, in a few words that are the same for every occurrence.
    pub rule: &'static str,
    /// Who, what, when.
    pub detail: String,
}

impl Violation {
    pub(crate) fn new(rule: &'static str, detail: impl Into<String>) -> Self {
        Violation { rule, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}
