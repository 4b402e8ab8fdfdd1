//! From a state to the first server of a new cluster, and from the last server
//! of a lost one.
//!
//! [`found`] makes a folder that holds a state, as the only voter of a cluster
//! with an id of its own. [`Survivor`] turns the folder of a server whose
//! majority is lost into the same, with everything that its log holds: the
//! other members belong to another cluster from then on and are refused.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use common::control::MemberInfo;
use common::ids::{ClusterId, ServerId};
use raft::{
    Body, Entry, HardState, Index, Member, Membership, NodeId, Position, Restored, Suffrage,
};

use crate::command::{Command, Payload};
use crate::identity::{Folder, Identity};
use crate::keystore::{Keystore, KeystoreLimits};
use crate::keystore_file::{self, CheckpointMeta, KeystoreFileError};
use crate::log_file::{LogArchive, LogFile, LogOpener, LogOptions};
use crate::offline::{State, command};
use crate::recovery::{
    self, Damage, Decision, Found, FoundCheckpoint, FoundLog, LogRepair, Recovery,
};
use crate::shell::restore::write_members;

/// Where a replay stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// Behind this entry.
    Index(Index),
    /// Before the first entry whose clock is later, in unix milliseconds.
    ClockMs(u64),
}

/// The only server of a new cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Founder {
    /// Its name, e.g. `srv-1`.
    pub name: String,
    /// UDP address for servers and load balancers.
    pub peer: SocketAddr,
    /// TCP address for clients.
    pub client: SocketAddr,
}

/// Makes the folder `dir`, which must not exist, of the first server of a new
/// cluster that holds `state`. Its identity comes last: without it, a folder
/// that was not finished is never taken for a server's.
///
/// # Errors
/// The folder exists, or the disk refuses.
pub fn found(dir: &Path, founder: &Founder, state: &State) -> anyhow::Result<ClusterId> {
    ensure!(!dir.exists(), "{} exists already: choose another folder", dir.display());
    fill(dir, founder, state).with_context(|| format!("cannot make the folder {}", dir.display()))
}

fn fill(dir: &Path, founder: &Founder, state: &State) -> anyhow::Result<ClusterId> {
    let cluster = ClusterId(rand::random());
    let id = NodeId(1);
    let mut folder = Folder::open(dir)?;
    let identity = Identity::new(&founder.name, founder.peer, founder.client, Vec::new());
    let info = info_of(&identity);
    let membership = Membership::of_voters([(id, info)]);
    let CheckpointMeta { index, term, .. } = state.meta;
    let meta = CheckpointMeta { index, term, membership };
    let keystore_file = dir.join("keystore-file");
    keystore_file::write(&keystore_file, &state.keystore.freeze(), &meta)?;
    write_members(&keystore_file, &meta.membership)?;
    let (mut log, _) = LogFile::open(&dir.join("log-file"), LogOptions::default(), 0)?;
    if index > 0 {
        log.append(Some(HardState { term, vote: None }), &[], 0)?;
        log.reset(Position { index, term })?;
    }
    log.sync()?;
    let server = Some(ServerId(id.0));
    folder.save(Identity { cluster: Some(cluster), server, ..identity })?;
    Ok(cluster)
}

/// Applies the entries of the log in `log_file` that follow on `state`, up to
/// `until` or to the last that is committed; gives their number.
///
/// # Errors
/// The log does not connect to the state, does not reach that far, or is
/// damaged.
pub fn replay(state: &mut State, log_file: &Path, until: Option<Until>) -> anyhow::Result<u64> {
    let archive = LogArchive::open(log_file)?;
    let (first, commit) = archive.range();
    let begin = state.meta.index;
    ensure!(
        first <= begin + 1,
        "{} begins at entry {first}, but the backup ends at entry {begin}: the entries between are \
         not there; use a later backup, or a log that was kept with --keep-log",
        log_file.display()
    );
    let to = match until {
        Some(Until::Index(index)) => {
            ensure!(
                index >= begin,
                "the backup already holds everything up to entry {begin}: use an earlier one to go \
                 back to entry {index}"
            );
            ensure!(
                index <= commit,
                "{} knows entries up to {commit} to be committed, not {index} (write @{index} if \
                 this was meant as a time)",
                log_file.display()
            );
            index
        }
        Some(Until::ClockMs(clock_ms)) => {
            let held = state.keystore.clock_ms();
            ensure!(
                clock_ms >= held,
                "the backup already holds everything up to {held} ms since 1970: use an earlier one \
                 to go back to {clock_ms} ms"
            );
            commit
        }
        None => commit,
    };
    let latest = match until {
        Some(Until::ClockMs(clock_ms)) => clock_ms,
        _ => u64::MAX,
    };
    for entry in archive.entries(begin + 1..=to) {
        let entry = entry?;
        match &entry.body {
            Body::Command(payload) if command(entry.index, payload)?.clock_ms > latest => break,
            _ => state.apply(&entry)?,
        }
    }
    Ok(state.meta.index - begin)
}

fn info_of(identity: &Identity) -> std::sync::Arc<[u8]> {
    let Identity { folder, peer, client, .. } = *identity;
    let (name, run) = (identity.name.clone(), identity.runs.last());
    let info = MemberInfo { folder, name, peer, client, run };
    serde_json::to_vec(&info).unwrap_or_default().into()
}

/// The folder of a server whose cluster has lost its majority, locked and read.
#[derive(Debug)]
pub struct Survivor {
    folder: Folder,
    identity: Identity,
    opener: LogOpener,
    recovery: Box<Recovery<Payload>>,
    clock_ms: u64,
    items: u64,
}

impl Survivor {
    /// Opens the folder `dir` of a stopped server and reads its files, without
    /// changing them. What is damaged is left out: see [`Survivor::losses`].
    ///
    /// # Errors
    /// It is in use, is not a member's, or nothing in it can be used.
    pub fn open(dir: &Path) -> anyhow::Result<Survivor> {
        let folder = Folder::open(dir)?;
        let identity = folder.identity().cloned().with_context(|| {
            format!("{} holds no server: give the folder of one that survived", dir.display())
        })?;
        ensure!(
            identity.cluster.is_some() && identity.server.is_some(),
            "{} was in no cluster yet: it holds nothing to recover",
            identity.name
        );
        let (keystore, checkpoint) = checkpoint(&dir.join("keystore-file"))?;
        let after = match &checkpoint {
            FoundCheckpoint::Whole(meta) => meta.index,
            FoundCheckpoint::Missing(_) | FoundCheckpoint::Damaged(_) => 0,
        };
        let log_file = dir.join("log-file");
        let (mut scan, opener) = LogFile::scan(&log_file, after)?;
        ensure!(
            !opener.is_fresh(),
            "{} is missing: make a new cluster of a backup with `store restore`",
            log_file.display()
        );
        // What it has voted binds it in the old cluster only, and of that it
        // will be no part; nor is anybody there to supply what it lost.
        scan.hard_state_certain = true;
        let found = Found { id: NodeId(0), checkpoint, log: FoundLog::Read(scan) };
        let recovery = match recovery::decide(found) {
            Decision::Start(recovery) => recovery,
            Decision::Amnesia(why) | Decision::Refuse(why) => bail!("{why}"),
        };
        ensure!(
            !recovery.checkpoint_lost || !matches!(recovery.repair, LogRepair::Restart(_)),
            "{}: the entries that are left begin too late to be of use; recover another server, or \
             make a new cluster of a backup with `store restore`",
            recovery.notes.join("; ")
        );
        let clock = recovery.restored.entries.iter().rev().find_map(|entry| match &entry.body {
            Body::Command(payload) => Command::decode(&payload.0).ok().map(|c| c.clock_ms),
            _ => None,
        });
        Ok(Survivor {
            clock_ms: clock.unwrap_or(0).max(keystore.clock_ms()),
            items: keystore.len(),
            folder,
            identity,
            opener,
            recovery,
        })
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its last entry.
    pub fn last(&self) -> Position {
        let Restored { snapshot, entries, .. } = &self.recovery.restored;
        let behind = Position { index: snapshot.index, term: snapshot.term };
        entries.last().map_or(behind, |entry| Position { index: entry.index, term: entry.term })
    }

    /// The highest index that it knows to be committed.
    pub fn commit(&self) -> Index {
        let Restored { snapshot, commit, .. } = &self.recovery.restored;
        snapshot.index.max(*commit)
    }

    /// When its last command was proposed, unix milliseconds; 0: never.
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    /// Items in its checkpoint.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// What of its files is damaged, and what becomes of it.
    pub fn losses(&self) -> Vec<String> {
        let Recovery { restored, notes, .. } = &*self.recovery;
        let mut losses = notes.clone();
        if restored.floor.is_some() {
            // The last note speaks of others that have what is lost.
            losses.pop();
        }
        if let Some(floor) = restored.floor {
            let (from, to) = (self.last().index + 1, floor.index);
            losses
                .push(format!("entries {from} to {to}, or some of them, were there and are lost"));
        }
        losses
    }

    /// Names of the other members, as far as they can be read.
    pub fn others(&self) -> Vec<String> {
        let own = self.identity.server.map(|id| NodeId(id.0));
        let others = self.membership().members.iter().filter(|(id, _)| Some(**id) != own);
        others
            .map(|(id, member)| match serde_json::from_slice::<MemberInfo>(&member.info) {
                Ok(info) => info.name,
                Err(_) => format!("server {id}"),
            })
            .collect()
    }

    fn membership(&self) -> &Membership {
        let Restored { memberships, snapshot, .. } = &self.recovery.restored;
        memberships.last().map_or(&snapshot.membership, |(_, membership)| membership)
    }

    /// Makes it the only voter of a new cluster. Everything in its log counts
    /// from then on, committed or not: what is there may have been
    /// acknowledged.
    ///
    /// # Errors
    /// Those of the disk; it may be called again.
    pub fn recover(self) -> anyhow::Result<ClusterId> {
        let cluster = ClusterId(rand::random());
        let server = self.identity.server.context("the server has no id")?;
        let id = NodeId(server.0);
        let (last, commit) = (self.last(), self.commit());
        let member = Member { suffrage: Suffrage::Voter, info: info_of(&self.identity) };
        let next_id = self.membership().next_id.max(id.0 + 1);
        let membership =
            Membership { members: [(id, member)].into(), next_id, ..Membership::default() };
        let Survivor { mut folder, identity, opener, recovery, .. } = self;
        let Recovery { mut restored, checkpoint_lost, repair, .. } = *recovery;
        // The identity first: with the membership alone it could go on without
        // the others inside the old cluster, beside them.
        folder.save(Identity { cluster: Some(cluster), ..identity })?;
        let keystore_file = folder.dir().join("keystore-file");
        if checkpoint_lost {
            let empty = State::empty();
            let meta = CheckpointMeta { membership: membership.clone(), ..empty.meta };
            keystore_file::write(&keystore_file, &empty.keystore.freeze(), &meta)?;
        }
        write_members(&keystore_file, &membership)?;
        // A later term than any ends every floor, too.
        let terms = [restored.hard_state.term, last.term, restored.floor.map_or(0, |f| f.term)];
        let term = terms.into_iter().max().unwrap_or(0) + 1;
        let mut log = opener.repair(LogOptions::default(), repair, &mut restored)?;
        let entry = Entry { index: last.index + 1, term, body: Body::Membership(membership) };
        log.append(Some(HardState { term, vote: Some(id) }), &[entry], commit)?;
        log.sync()?;
        Ok(cluster)
    }
}

/// The checkpoint at `path`; an empty keystore if it is lost.
fn checkpoint(path: &Path) -> anyhow::Result<(Keystore, FoundCheckpoint)> {
    let empty = || Keystore::new(KeystoreLimits::default());
    let damaged = |file, offset, what: &str| {
        let damage = Damage { file, offset, bytes: 0, what: what.to_owned() };
        Ok((empty(), FoundCheckpoint::Damaged(damage)))
    };
    match keystore_file::read(path) {
        Ok(Some((keystore, meta))) => Ok((keystore, FoundCheckpoint::Whole(meta))),
        Ok(None) => Ok((empty(), FoundCheckpoint::Missing(path.to_owned()))),
        Err(KeystoreFileError::Damaged { file, offset, what, .. }) => damaged(file, offset, what),
        Err(KeystoreFileError::Truncated { file, offset, .. }) => {
            damaged(file, offset, "it ends before its footer")
        }
        Err(error) => Err(error.into()),
    }
}
