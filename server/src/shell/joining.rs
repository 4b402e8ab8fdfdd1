//! The way of a server to its vote, told to whoever started it: that it is a
//! member, how far it is with what it lacks, and that it votes.
//!
//! Nothing hangs on this. It ends with the vote, and so does its cost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::control::{MemberRecord, Role};
use common::ids::ServerId;
use raft::{Index, Message};

use super::member::Member;
use super::snapshots::Arrival;
use crate::command::Payload;
use crate::config::{Arriving, Progress};

/// Shortest pause between two reports of progress.
const OFTEN: Duration = Duration::from_millis(100);

/// Between two looks at how far it is: one that catches up has thousands of
/// turns in a second, and a look costs allocations.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A pause is at least this part of what it took so far. So there are some
/// hundreds of reports at the most, which a pipe holds if nobody reads them:
/// a server must not wait for whoever started it.
const PART: u32 = 64;

/// How far a member is on its way to its vote.
pub(super) struct Joining {
    began: Instant,
    /// When to look again.
    look_at: Instant,
    arrival: Arc<Arrival>,
    /// When a leader was first heard, and the highest commit index that one
    /// has told.
    heard: Option<(Instant, Index)>,
    told_member: bool,
    told_progress: Option<(Instant, Progress)>,
    replaces: Vec<ServerId>,
    is_over: bool,
}

impl Joining {
    pub(super) fn new(arrival: Arc<Arrival>) -> Self {
        let now = Instant::now();
        Joining {
            began: now,
            look_at: now,
            arrival,
            heard: None,
            told_member: false,
            told_progress: None,
            replaces: Vec::new(),
            is_over: false,
        }
    }

    /// Looks at a message of a peer for what the leader has committed.
    pub(super) fn hear(&mut self, message: &Message<Payload>) {
        if self.is_over {
            return;
        }
        let (Message::Append { commit, .. } | Message::Heartbeat { commit, .. }) = message else {
            return;
        };
        let heard = self.heard.get_or_insert((Instant::now(), 0));
        heard.1 = heard.1.max(*commit);
    }

    /// Members with the addresses of this one, which has a higher id: each of
    /// them was a server whose data are lost.
    fn note_replaced(&mut self, own: &MemberRecord, members: &[MemberRecord]) {
        let gone = members.iter().filter(|member| member.id < own.id);
        let gone = gone.filter(|member| member.info.peer == own.info.peer).map(|member| member.id);
        for id in gone {
            if !self.replaces.contains(&id) {
                self.replaces.push(id);
            }
        }
    }

    fn is_progress_due(&self) -> bool {
        let pause = OFTEN.max(self.began.elapsed() / PART);
        self.told_progress.as_ref().is_none_or(|(at, _)| at.elapsed() >= pause)
    }
}

impl Member {
    /// Tells the next step, if there is one.
    pub(super) fn tell_joining(&mut self) {
        if self.joining.is_over {
            return;
        }
        let now = Instant::now();
        if now < self.joining.look_at {
            return;
        }
        self.joining.look_at = now + LOOK_EVERY;
        let (role, id) = (self.driver.role(), ServerId(self.id.0));
        let status = self.driver.node().status();
        if status.leader.is_none() || role == Role::Candidate {
            return;
        }
        if !self.joining.told_member {
            self.joining.told_member = true;
            (self.shell.progress)(Progress::Member { cluster: self.cluster, id, role });
        }
        let members = self.driver.committed_members();
        let own = members.iter().find(|member| member.id == id);
        if let Some(own) = own {
            self.joining.note_replaced(own, &members);
        }
        let applied = self.driver.keystore().applied();
        let heard = if role == Role::Leader {
            Some(status.commit)
        } else {
            // The first heartbeats may tell of less than the leader has: it
            // takes this server to be where it was, until that has answered.
            let settled = self.shell.config.heartbeat * 2;
            let heard = self.joining.heard.filter(|(since, _)| since.elapsed() >= settled);
            heard.map(|(_, commit)| commit)
        };
        let Some(commit) = heard else { return };
        if own.is_some_and(|own| own.voter) && applied >= commit {
            self.joining.is_over = true;
            let replaces = std::mem::take(&mut self.joining.replaces);
            return (self.shell.progress)(Progress::Voter { id, role, replaces });
        }
        self.tell_progress(applied, commit);
    }

    fn tell_progress(&mut self, applied: Index, commit: Index) {
        if !self.joining.is_progress_due() {
            return;
        }
        let snapshot = self.joining.arrival.get();
        let commit = commit.max(applied);
        let progress = Progress::Syncing { applied, commit, snapshot };
        if self.joining.told_progress.as_ref().is_none_or(|(_, told)| *told != progress) {
            (self.shell.progress)(progress.clone());
            self.joining.told_progress = Some((Instant::now(), progress));
        }
    }
}

impl Arrival {
    fn get(&self) -> Option<Arriving> {
        let (bytes, permille) = self.so_far()?;
        Some(Arriving { bytes, permille })
    }
}
