//! The runs of a folder.
//!
//! Each start of a server on a folder is a run, with a count and a nonce. The
//! folder keeps them as a chain. Two copies of a folder have the same chain up to
//! where they part, and runs of other nonces from there on; a folder that was put
//! back to what it was earlier lacks the newest ones.

use serde::{Deserialize, Serialize};

use crate::control::Run;
use crate::ids::ServerId;

/// So many confirmed runs a folder keeps: a member that knows a membership
/// which is up to so many starts old can still tell a copy.
pub const MAX_CONFIRMED: usize = 32;

/// So many unconfirmed runs a folder keeps. Starts that follow draw no new run:
/// those that are refused must not push out the point where two copies part.
pub const MAX_UNCONFIRMED: usize = 16;

/// Longest chain that is looked at; of a longer one, the newest runs count.
const MAX_CHAIN: usize = MAX_CONFIRMED + MAX_UNCONFIRMED;

/// What leads on where nobody can join: nothing brings a server back to a fixed cluster
/// that has lost its files.
pub const FIXED_WAY_ON: &str = "In a cluster without load balancers nobody can join: take a \
     backup of a server that is well (`store backup`), and begin a new cluster, with load \
     balancers, from it (`store restore`)";

/// What a folder is that must not take part as the server that it says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stale {
    /// Another copy of it has run since they parted.
    Copy,
    /// It was put back to what it was before its last runs, or was copied then.
    Older,
}

impl Stale {
    /// Why the folder of this server is turned away, and what to do.
    pub fn explain(self, name: &str, id: ServerId) -> String {
        let what = match self {
            Stale::Copy => "a copy of the folder",
            Stale::Older => "an older state of the folder",
        };
        format!(
            "this folder is {what} that has run as server {id} ({name}) since they parted: it \
             may lack what that one has acknowledged, and is turned away. Start that one; if it \
             is gone and the other servers are well, move this folder away and start the server \
             again, and it joins as a new one and fetches everything from them. {FIXED_WAY_ON}"
        )
    }
}

/// What is wrong with a folder that claims the runs `chain`, oldest first, when
/// the membership has noted `noted` as its newest; `None`: nothing that can be
/// seen from here. A run older than the chain says nothing: whoever has noted
/// it lags, or nobody has taken note since.
pub fn stale(noted: Option<Run>, chain: &[Run]) -> Option<Stale> {
    let noted = noted?;
    let chain = newest(chain);
    match (chain.first(), chain.last()) {
        (Some(oldest), _) if noted.count < oldest.count => None,
        (_, Some(newest)) if noted.count <= newest.count => {
            (!chain.contains(&noted)).then_some(Stale::Copy)
        }
        _ => Some(Stale::Older),
    }
}

/// As much of a chain as is looked at.
pub fn newest(chain: &[Run]) -> &[Run] {
    &chain[chain.len().saturating_sub(MAX_CHAIN)..]
}

/// Whether `run` is to be noted where `noted` is: counts never go back.
pub fn is_newer(run: Run, noted: Option<Run>) -> bool {
    noted.is_none_or(|noted| noted.count < run.count)
}

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
