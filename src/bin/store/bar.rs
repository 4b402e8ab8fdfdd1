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
}

impl Bar {
    pub(crate) fn new(voice: Voice) -> Self {
        let drawn = voice == Voice::People && stderr().is_terminal();
        Bar { bar: drawn.then(bar), voice, said: None }
    }

    pub(crate) fn show(
        &mut self,
        name: &str,
        applied: u64,
        commit: u64,
        snapshot: Option<Arriving>,
    ) {
        let (permille, what) = match snapshot {
            Some(Arriving { bytes, permille }) => {
                (u64::from(permille), format!("{} of a snapshot", table::bytes(bytes)))
            }
            None => (applied * 1000 / commit.max(1), format!("entry {applied} of {commit}")),
        };
        if let Some(bar) = &self.bar {
            bar.update(|state| state.set_pos(permille));
            return bar.set_message(format!("{name} syncs: {what}"));
        }
        if self.said.is_none_or(|said| said.elapsed() >= LINES) {
            self.said = Some(Instant::now());
            self.voice.tell(|| format!("{name} syncs: {what}, {} %.", permille / 10));
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
