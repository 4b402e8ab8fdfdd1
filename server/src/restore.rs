//! From a state to the first server of a new cluster, and from the last server
//! of a lost one.
//!
//! [`found`] makes a folder that holds a state, as the only voter of a cluster
//! with an id of its own. [`Survivor`] turns the folder of a server whose
//! majority is lost into the same, with everything that its log holds: the
//! other members belong to another cluster from then on and are refused.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, ensure};
use common::control::MemberInfo;
use common::ids::{ClusterId, ServerId};
use raft::{Body, Entry, HardState, Index, Member, Membership, NodeId, Suffrage, Term};

use crate::command::Command;
use crate::identity::{Folder, Identity};
use crate::keystore_file::{self, CheckpointMeta};
use crate::log_file::{LogFile, LogOptions, Recovered, look};
use crate::offline::{OfflineError, State, command, each};

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
    keystore_file::write(&dir.join("keystore-file"), &state.keystore.freeze(), &meta)?;
    let (mut log, _) = LogFile::open(&dir.join("log-file"), LogOptions::default(), 0)?;
    if index > 0 {
        log.append(Some(HardState { term, vote: None }), &[], 0)?;
        log.reset(index)?;
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
    let (reader, commit) = look(log_file)?;
    let (first, _) = reader.range();
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
    let result = each(&reader, begin + 1, to, |entry| {
        match &entry.body {
            Body::Command(payload) if command(entry.index, payload)?.clock_ms > latest => {
                return Err(Stop::Reached);
            }
            _ => state.apply(entry)?,
        }
        Ok(())
    });
    match result {
        Ok(()) | Err(Stop::Reached) => Ok(state.meta.index - begin),
        Err(Stop::Failed(error)) => Err(error.into()),
    }
}

/// Why a replay ends.
enum Stop {
    Reached,
    Failed(OfflineError),
}

impl<E: Into<OfflineError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Failed(error.into())
    }
}

fn info_of(identity: &Identity) -> std::sync::Arc<[u8]> {
    let Identity { folder, peer, client, .. } = *identity;
    let info = MemberInfo { folder, name: identity.name.clone(), peer, client };
    serde_json::to_vec(&info).unwrap_or_default().into()
}

/// The folder of a server whose cluster has lost its majority, locked.
#[derive(Debug)]
pub struct Survivor {
    folder: Folder,
    identity: Identity,
    log: LogFile,
    hard_state: HardState,
    last: (Index, Term),
    commit: Index,
    clock_ms: u64,
    items: u64,
    membership: Membership,
}

impl Survivor {
    /// Opens the folder `dir` of a stopped server.
    ///
    /// # Errors
    /// It is in use, is not a member's, or is damaged.
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
        let path = dir.join("keystore-file");
        let (keystore, meta) = keystore_file::read(&path)?
            .with_context(|| format!("{} is missing: it cannot be recovered", path.display()))?;
        let log_file = dir.join("log-file");
        ensure!(log_file.is_dir(), "{} is missing: it cannot be recovered", log_file.display());
        let (log, recovered) = LogFile::open(&log_file, LogOptions::default(), meta.index)?;
        let Recovered { hard_state, entries, memberships, commit, .. } = recovered;
        let last = entries.last().map_or((meta.index, meta.term), |e| (e.index, e.term));
        let clock = entries.iter().rev().find_map(|entry| match &entry.body {
            Body::Command(payload) => Command::decode(&payload.0).ok().map(|c| c.clock_ms),
            _ => None,
        });
        let membership = memberships.into_iter().next_back().map_or(meta.membership, |(_, m)| m);
        Ok(Survivor {
            folder,
            identity,
            log,
            hard_state,
            last,
            commit: commit.max(meta.index),
            clock_ms: clock.unwrap_or(0).max(keystore.clock_ms()),
            items: keystore.len(),
            membership,
        })
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Index and term of the last entry in its log.
    pub fn last(&self) -> (Index, Term) {
        self.last
    }

    /// The highest index that it knows to be committed.
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// When its last command was proposed, unix milliseconds; 0: never.
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    /// Items in its checkpoint.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// Names of the other members, as far as they can be read.
    pub fn others(&self) -> Vec<String> {
        let own = self.identity.server.map(|id| NodeId(id.0));
        let others = self.membership.members.iter().filter(|(id, _)| Some(**id) != own);
        others
            .map(|(id, member)| match serde_json::from_slice::<MemberInfo>(&member.info) {
                Ok(info) => info.name,
                Err(_) => format!("server {id}"),
            })
            .collect()
    }

    /// Makes it the only voter of a new cluster. Everything in its log counts
    /// from then on, committed or not: what is there may have been
    /// acknowledged.
    ///
    /// # Errors
    /// Those of the disk; it may be called again.
    pub fn recover(mut self) -> anyhow::Result<ClusterId> {
        let cluster = ClusterId(rand::random());
        let server = self.identity.server.context("the server has no id")?;
        let id = NodeId(server.0);
        // The identity first: with the membership alone it could go on without
        // the others inside the old cluster, beside them.
        self.folder.save(Identity { cluster: Some(cluster), ..self.identity.clone() })?;
        let term = self.hard_state.term.max(self.last.1) + 1;
        let member = Member { suffrage: Suffrage::Voter, info: info_of(&self.identity) };
        let next_id = self.membership.next_id.max(id.0 + 1);
        let membership = Membership { members: [(id, member)].into(), next_id };
        let entry = Entry { index: self.last.0 + 1, term, body: Body::Membership(membership) };
        self.log.append(Some(HardState { term, vote: Some(id) }), &[entry], self.commit)?;
        self.log.sync()?;
        Ok(cluster)
    }
}
