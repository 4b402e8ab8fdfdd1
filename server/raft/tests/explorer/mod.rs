//! Every order in which things can happen to a small cluster, breadth first.
//!
//! A state is what the replicas, their disks and the wire hold, and what the
//! checker has seen. The wire is a bag of messages: any of them may arrive
//! next, so that they overtake each other, and one that never arrives is lost.
//! States that show the same are one state. Clocks stand still except when an
//! action lets one go on, and election timeouts are all the same, so that
//! nothing is left to chance.

mod world;

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Instant;

use raft::invariants::Violation;
use store_raft as raft;

pub use world::{Action, Budget, State};

/// What is explored.
#[derive(Clone, Debug)]
pub struct Scope {
    pub name: &'static str,
    pub voters: u64,
    pub learners: u64,
    /// Server 1 leads, and all have its first entry, before anything counts.
    pub led: bool,
    /// How often each action may be taken, in all.
    pub budget: Budget,
    pub changes: Vec<raft::Change>,
    pub depth: usize,
    /// A disk that says that it is done before it is: must be caught.
    pub lying_disk: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Actions taken, those that led to a known state included.
    pub steps: usize,
    /// Actions one behind the other.
    pub depth: usize,
    /// Nothing new was left: this is the whole space.
    pub complete: bool,
    pub with_leader: usize,
    /// Two replicas lead at once, in different terms.
    pub with_two_leaders: usize,
    /// Somebody knows that an entry behind the start is committed.
    pub with_commit: usize,
    pub max_term: u64,
    pub seconds: f64,
}

impl Report {
    fn note(&mut self, state: &State) {
        self.states += 1;
        let leaders = state.cores().filter(|core| core.is_leader()).count();
        self.with_leader += usize::from(leaders > 0);
        self.with_two_leaders += usize::from(leaders > 1);
        let commit = state.cores().map(|core| core.commit()).max().unwrap_or(0);
        self.with_commit += usize::from(commit > state.start_commit);
        let term = state.cores().map(|core| core.term()).max().unwrap_or(0);
        self.max_term = self.max_term.max(term);
    }
}

/// How a state was reached, for the report of a violation.
struct Path {
    action: Action,
    before: Option<Rc<Path>>,
}

fn story(path: Option<&Rc<Path>>) -> String {
    let mut lines = Vec::new();
    let mut at = path;
    while let Some(step) = at {
        lines.push(format!("{:?}", step.action));
        at = step.before.as_ref();
    }
    lines.reverse();
    lines.join("\n")
}

/// Explores all of `scope`.
///
/// # Errors
/// A rule that was broken, with the shortest way there.
pub fn explore(scope: &Scope) -> Result<Report, (Violation, String)> {
    let begin = Instant::now();
    let first = State::new(scope).map_err(|violation| (violation, String::new()))?;
    let mut report = Report::default();
    let mut seen = HashSet::from([first.fingerprint()]);
    report.note(&first);
    let mut frontier: Vec<(State, Option<Rc<Path>>)> = vec![(first, None)];
    while report.depth < scope.depth && !frontier.is_empty() {
        // The last states are checked, and lead nowhere: they are most of all.
        let is_last = report.depth + 1 == scope.depth;
        let mut next = Vec::new();
        let mut grows = false;
        for (state, path) in frontier {
            for action in state.actions(scope) {
                report.steps += 1;
                let step = || Rc::new(Path { action: action.clone(), before: path.clone() });
                let after = match state.after(&action, scope) {
                    Ok(after) => after,
                    Err(violation) => return Err((violation, story(Some(&step())))),
                };
                if seen.insert(after.fingerprint()) {
                    report.note(&after);
                    grows = true;
                    if !is_last {
                        next.push((after, Some(step())));
                    }
                }
            }
        }
        frontier = next;
        report.depth += 1;
        report.complete = !grows;
    }
    report.seconds = begin.elapsed().as_secs_f64();
    Ok(report)
}
