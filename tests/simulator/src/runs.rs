//! Runs of folders, and disks that are put back to what they were.
//!
//! A server whose disk was put back says so to nobody: it has to be told from what
//! it was by the run that the others have noted. Here it comes to the others before
//! it starts: the first that it reaches, and that takes it, lets it start, and then
//! the rules of the disk are broken at once. Otherwise it is turned away, and its
//! folder removed, as it is told.
//!
//! This is inflicted only where the note can protect: all others run, agree on
//! who is a member, and have the note on their disks. Without that, what only the
//! lost runs and one other server knew can be lost, whatever anybody does.

use common::runs::stale;
use raft::NodeId;
use server::membership::info_of;

use crate::bugs::Bug;
use crate::queue::Micros;
use crate::world::{Event, World};

/// Between two attempts of a server that reaches nobody.
const RETRY: Micros = 300_000;

impl World {
    /// A link is there: one end hears which run the other one is.
    pub(crate) fn tell_runs(&mut self, at: usize, of: usize) {
        let run = self.hosts[of].member_info().run;
        let Some(peer) = self.hosts[of].process.as_ref().map(|process| process.id) else { return };
        if let Some(process) = &mut self.hosts[at].process {
            process.members.heard_run(peer, run);
        }
    }

    /// The membership has changed: perhaps this run is noted now.
    pub(crate) fn confirm_run(&mut self, host: usize) {
        let at = &mut self.hosts[host];
        let Some(driver) = at.driver() else { return };
        let folder = at.member_info().folder;
        let members = driver.committed_members();
        let noted = members.iter().find(|member| member.info.folder == folder);
        if let Some(run) = noted.and_then(|noted| noted.info.run) {
            at.disk.runs.confirm(run);
        }
    }

    /// A process has ended: somebody may keep a copy of its disk.
    pub(crate) fn keep_for_later(&mut self, host: usize) {
        let at = &mut self.hosts[host];
        let is_older = |kept: &crate::disk::Disk| kept.id == at.disk.id;
        if at.disk.is_damaged() || at.put_back || at.earlier.as_ref().is_some_and(is_older) {
            return;
        }
        at.earlier = Some(at.disk.saved());
    }

    /// Puts the disk of `host` back, or that of the next one that may be; where
    /// none may be, `host` ends, so that there is an earlier state of it.
    pub(crate) fn put_one_back(&mut self, host: usize, length: Micros) {
        let count = self.hosts.len();
        let mut hosts = (0..count).map(|more| (host + more) % count);
        match hosts.find(|host| self.may_put_back(*host)) {
            Some(host) => self.put_back(host, length),
            None => self.crash(host, length),
        }
    }

    /// Whether a disk may be put back to what is kept of it.
    fn may_put_back(&self, host: usize) -> bool {
        let at = &self.hosts[host];
        let Some(kept) = &at.earlier else { return false };
        let folder = at.member_info().folder;
        let tells = |other: &crate::host::Host| {
            let member = at.disk.id.and_then(|id| other.disk.membership().members.get(&id));
            let noted = member.and_then(|member| info_of(&member.info));
            noted.is_some_and(|noted| {
                noted.folder == folder
                    && noted.run.map(|run| run.count) > kept.runs.last().map(|run| run.count)
            })
        };
        let is_member = |other: &&crate::host::Host| {
            other.number != host && other.disk.id.is_some_and(|id| self.is_member(id))
        };
        kept.id == at.disk.id
            && !at.unlisted
            && self.can_spare(host)
            && self.hosts.iter().filter(is_member).all(tells)
    }

    /// The disk is what it was at an earlier stop.
    fn put_back(&mut self, host: usize, length: Micros) {
        self.crash(host, length);
        let at = &mut self.hosts[host];
        let Some(kept) = at.earlier.take() else { return };
        at.disk = kept;
        at.put_back = true;
        let runs = at.disk.runs.last();
        self.out.watch.trace.note(|| format!("h{host} has its disk of run {runs:?} again"));
    }

    /// Whether one of the others takes the server whose disk was put back for who
    /// it was.
    pub(crate) fn is_taken(&mut self, host: usize, id: NodeId) -> bool {
        let chain = self.hosts[host].disk.runs.chain();
        let folder = self.hosts[host].member_info().folder;
        let mut turned_away = false;
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            let is_cut = self.network.is_cut(host, other) || self.network.is_cut(other, host);
            // One that was removed, and has not heard of it, elects nobody.
            let counts = !is_cut && self.hosts[other].disk.id.is_some_and(|id| self.is_member(id));
            let Some(driver) = self.hosts[other].driver().filter(|_| counts) else { continue };
            let known = driver.member_info(id).filter(|known| known.folder == folder);
            // One that does not know it as a member takes no link from it.
            let Some(known) = known else { continue };
            if self.bug == Some(Bug::CopiesAccepted) || stale(known.run, &chain).is_none() {
                self.hosts[host].put_back = false;
                self.out
                    .watch
                    .trace
                    .note(|| format!("h{host} is taken for who it was by h{other}"));
                return true;
            }
            turned_away = true;
        }
        if turned_away || !self.is_member(id) {
            self.out.watch.trace.note(|| format!("h{host} is turned away"));
            self.wipe(host);
        } else {
            let life = self.hosts[host].life;
            self.queue.push(self.now + RETRY, Event::Start { host, life });
        }
        false
    }
}
