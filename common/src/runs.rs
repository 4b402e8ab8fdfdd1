//! The runs of a folder.
//!
//! Each start of a server on a folder is a run, with a count and a nonce. The
//! folder keeps them as a chain. Two copies of a folder have the same chain up to
//! where they part, and runs of other nonces from there on; a folder that was put
//! back to what it was earlier lacks the newest ones.

use serde::{Deserialize, Serialize};

use crate::control::Run;

/// So many confirmed runs a folder keeps: a member that knows a membership
/// which is up to so many starts old can still tell a copy.
pub const MAX_CONFIRMED: usize = 32;

/// So many unconfirmed runs a folder keeps. Starts that follow draw no new run:
/// those that are refused must not push out the point where two copies part.
pub const MAX_UNCONFIRMED: usize = 16;

/// The runs of one folder, oldest first.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Runs {
    /// The last ones up to the newest that this server has seen in the committed
    /// membership; at most [`MAX_CONFIRMED`].
    confirmed: Vec<Run>,
    /// Those after it; at most [`MAX_UNCONFIRMED`].
    unconfirmed: Vec<Run>,
}

impl Runs {
    /// The newest one.
    pub fn last(&self) -> Option<Run> {
        self.unconfirmed.last().or(self.confirmed.last()).copied()
    }

    /// All of them, oldest first: what the folder claims to be.
    pub fn chain(&self) -> Vec<Run> {
        self.confirmed.iter().chain(&self.unconfirmed).copied().collect()
    }

    /// Begins a run with this nonce, or, when too many are unconfirmed, goes on
    /// with the newest one. To be durable before the process talks to anybody.
    pub fn begin(&mut self, nonce: u64) -> Run {
        let last = self.last();
        match last {
            Some(last) if self.unconfirmed.len() >= MAX_UNCONFIRMED => last,
            _ => {
                let run = Run { count: last.map_or(1, |last| last.count + 1), nonce };
                self.unconfirmed.push(run);
                run
            }
        }
    }

    /// The committed membership has this run of the folder. Whether that is news.
    pub fn confirm(&mut self, run: Run) -> bool {
        let Some(place) = self.unconfirmed.iter().position(|known| *known == run) else {
            return false;
        };
        self.confirmed.extend(self.unconfirmed.drain(..=place));
        let extra = self.confirmed.len().saturating_sub(MAX_CONFIRMED);
        self.confirmed.drain(..extra);
        true
    }
}

#[cfg(test)]
mod tests;
