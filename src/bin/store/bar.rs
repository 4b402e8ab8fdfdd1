//! How far a server is with what it lacks, drawn or said.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use server::config::Arriving;

use crate::following::Voice;
use crate::table;

/// Between two lines about the same, where no bar can be drawn.
const LINES: Duration = Duration::from_secs(2);

/// How far a server is with what it lacks: a bar on a terminal, otherwise a
/// line now and then.
pub(crate) struct Bar {
    bar: Option<ProgressBar>,
    voice: Voice,
    said: Option<Instant>,
    way: Way,
}

/// What arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// A snapshot, of which so many bytes were there at last.
    Snapshot { bytes: u64 },
    /// Entries of the log, behind the one that was applied when they began.
    Entries { behind: u64 },
}

/// How far it is in what arrives at the moment: a snapshot, or the entries
/// behind it. The one says nothing about the other, so each has a bar of its
/// own, which never goes back.
#[derive(Default)]
struct Way {
    phase: Option<Phase>,
    permille: u64,
}

impl Way {
    /// Takes in how far it is; whether something else arrives than before.
    fn advance(&mut self, applied: u64, commit: u64, snapshot: Option<Arriving>) -> bool {
        let (phase, permille, begins) = match (snapshot, self.phase) {
            (Some(Arriving { bytes, permille }), before) => {
                // Fewer bytes than before are those of another one.
                let goes_on =
                    matches!(before, Some(Phase::Snapshot { bytes: was }) if was <= bytes);
                (Phase::Snapshot { bytes }, u64::from(permille), !goes_on)
            }
            (None, before) => {
                let (behind, begins) = match before {
                    Some(Phase::Entries { behind }) => (behind, false),
                    _ => (applied, true),
                };
                let (done, all) = (applied.saturating_sub(behind), commit.saturating_sub(behind));
                (Phase::Entries { behind }, done * 1000 / all.max(1), begins)
            }
        };
        self.phase = Some(phase);
        let permille = permille.min(1000);
        self.permille = if begins { permille } else { permille.max(self.permille) };
        begins
    }

    /// What arrives, for people.
    fn what(&self, applied: u64, commit: u64) -> String {
        match self.phase {
            Some(Phase::Snapshot { bytes }) => format!("a snapshot, {}", table::bytes(bytes)),
            _ => format!("entries, {applied} of {commit}"),
        }
    }
}

impl Bar {
    pub(crate) fn new(voice: Voice) -> Self {
        let drawn = voice == Voice::People && stderr().is_terminal();
        Bar { bar: drawn.then(bar), voice, said: None, way: Way::default() }
    }

    pub(crate) fn show(
        &mut self,
        name: &str,
        applied: u64,
        commit: u64,
        snapshot: Option<Arriving>,
    ) {
        let begins = self.way.advance(applied, commit, snapshot);
        let (what, permille) = (self.way.what(applied, commit), self.way.permille);
        if let Some(bar) = &self.bar {
            bar.update(|state| state.set_pos(permille));
            return bar.set_message(format!("{name} fetches {what}"));
        }
        if begins || self.said.is_none_or(|said| said.elapsed() >= LINES) {
            self.said = Some(Instant::now());
            self.voice.tell(|| format!("{name} fetches {what}, {} %.", permille / 10));
        }
    }

    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(1000);
    // A template that cannot be read is a mistake in this line: the plain bar
    // will do then.
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {percent} %") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_goes_only_forwards_and_says_what_it_is() {
        let snapshot = |bytes, permille| Some(Arriving { bytes, permille });
        let mut way = Way::default();
        let mut seen = Vec::new();
        for (applied, commit, snapshot) in [
            (0, 9000, None),
            (0, 9100, snapshot(10, 100)),
            (0, 9200, snapshot(90, 900)),
            (0, 9900, snapshot(100, 1000)),
            (9000, 10_000, None),
            (9500, 10_000, None),
            // More was committed meanwhile.
            (9600, 11_000, None),
            (11_000, 11_000, None),
        ] {
            let begins = way.advance(applied, commit, snapshot);
            seen.push((begins, way.permille));
        }
        let snapshots = [(true, 100), (false, 900), (false, 1000)];
        let entries = [(true, 0), (false, 500), (false, 500), (false, 1000)];
        assert_eq!(seen[0], (true, 0));
        assert_eq!(seen[1..4], snapshots);
        assert_eq!(seen[4..], entries);
        assert_eq!(way.what(11_000, 11_000), "entries, 11000 of 11000");
        // A leader that takes over sends another one.
        assert!(way.advance(11_000, 12_000, snapshot(5, 50)));
        assert!(way.what(1, 1).starts_with("a snapshot, 5 B"));
        assert!(way.advance(11_000, 12_000, snapshot(4, 40)));
        assert_eq!(way.permille, 40);
    }
}
