//! A server's folder: whose it is, and which server it holds.
//!
//! The file `identity` is JSON: `{"crc32c": "…", "identity": {…}}`, where the
//! checksum covers the inner object as compact JSON with its keys in order.
//! It is written beside, synced and renamed into place; then the same again as
//! `identity.copy`. When one of them is damaged or missing the other counts
//! and both are written anew, because a server that does not know for certain
//! who it is must not vote.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use common::control::Run;
use common::folder::{FolderLock, FolderLockError, holder};
use common::ids::{ClusterId, FolderId, ServerId};
use common::runs::Runs;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{self, File, sync_dir};
use crate::log_file::REJOIN;

const IDENTITY: &str = "identity";
const COPY: &str = "identity.copy";

/// Version 2 has the runs: a program that does not know them would lose them. In
/// version 1 there were none.
const FORMAT: u32 = 2;

/// Which server a folder holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Version of this file.
    pub format: u32,
    /// Drawn when the folder is made; never changes.
    pub folder: FolderId,
    /// The server's name, e.g. `srv-1`.
    pub name: String,
    /// UDP address for servers and load balancers.
    pub peer: SocketAddr,
    /// TCP address for clients.
    pub client: SocketAddr,
    /// Load balancers that it registers with.
    pub lbs: Vec<SocketAddr>,
    /// The cluster that it belongs to, once it does.
    pub cluster: Option<ClusterId>,
    /// Its id there.
    pub server: Option<ServerId>,
    /// The runs of the folder.
    #[serde(default)]
    pub runs: Runs,
}

impl Identity {
    /// The identity of a new folder, with a folder id drawn at random.
    pub fn new(name: &str, peer: SocketAddr, client: SocketAddr, lbs: Vec<SocketAddr>) -> Self {
        Identity {
            format: FORMAT,
            folder: FolderId(rand::random()),
            name: name.to_owned(),
            peer,
            client,
            lbs,
            cluster: None,
            server: None,
            runs: Runs::default(),
        }
    }
}

/// Why a folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process has it, or it cannot be locked.
    #[error(transparent)]
    Lock(#[from] FolderLockError),
    /// The operating system refused.
    #[error("{what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// Neither copy of the identity can be what was written.
    #[error(
        "{file} is damaged: {what}; put a copy of it back, or {way_out}", file = file.display()
    )]
    Damaged {
        /// The identity's file.
        file: PathBuf,
        /// What is wrong.
        what: String,
        /// What to do.
        way_out: &'static str,
    },
    /// A later version of this program wrote it.
    #[error(
        "{file} has format version {version}, this program reads up to {FORMAT}: \
         start the newer program again", file = file.display()
    )]
    NewerVersion {
        /// The identity's file.
        file: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl FolderError {
    /// Whether nothing can be written for now, but what was there before can be read.
    pub fn is_want_of_room(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let FolderError::Io { source, .. } = self else { return false };
        matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
    }
}

/// A server's folder, locked by this process.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    identity: Option<Identity>,
    /// Before the lock: what is being written is there before that goes.
    saving: Saving,
    _lock: FolderLock,
}

/// A thread that writes the identity, waited for when this is dropped.
#[derive(Debug, Default)]
struct Saving(Option<JoinHandle<()>>);

impl Drop for Saving {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // It says itself what went wrong.
            let _ = thread.join();
        }
    }
}

impl Folder {
    /// Makes the folder `dir` if need be, locks it and reads its identity.
    ///
    /// # Errors
    /// [`FolderError`]: in use, damaged, of a newer version.
    pub fn open(dir: &Path) -> Result<Folder, FolderError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| FolderError::Io { what, path, source }
        };
        files::create_dir_all(dir).map_err(io("cannot make", dir))?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_dir(parent).map_err(io("cannot sync", parent))?;
        }
        let lock = FolderLock::acquire(dir)?;
        let copies = Copies::read(dir)?;
        let repair = copies.need_repair();
        let identity = copies.choose()?;
        if identity.is_none()
            && let Some(data) = ["log-file", "keystore-file"].iter().find(|d| dir.join(d).exists())
        {
            let what = format!("it is missing, although there is a {data}");
            return Err(damaged(&dir.join(IDENTITY), what));
        }
        if let (Some(identity), Some(why)) = (&identity, repair) {
            tracing::warn!(dir = %dir.display(), "{why}: both copies of the identity are written anew");
            replace(dir, identity).map_err(io("cannot write the identity in", dir))?;
        }
        Ok(Folder { dir: dir.to_owned(), identity, saving: Saving::default(), _lock: lock })
    }

    /// Reads the identity in `dir` without locking: for those who only look.
    /// `None`: there is none.
    ///
    /// # Errors
    /// As [`Folder::open`].
    pub fn look(dir: &Path) -> Result<Option<Identity>, FolderError> {
        Copies::read(dir)?.choose()
    }

    /// Reads each copy of the identity on its own, for those who check them.
    pub fn look_at_copies(dir: &Path) -> Vec<(PathBuf, Result<Option<Identity>, FolderError>)> {
        let copies = [IDENTITY, COPY].map(|name| (dir.join(name), Copies::read_one(dir, name)));
        copies.into()
    }

    /// The process that has the folder, if it is alive.
    pub fn read_pid(dir: &Path) -> Option<u32> {
        holder(dir)
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Which server it holds; `None`: a new folder.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Writes the identity, durably.
    ///
    /// # Errors
    /// Those of the file system; the old identity is untouched then.
    pub fn save(&mut self, identity: Identity) -> Result<(), FolderError> {
        if self.identity.as_ref() == Some(&identity) {
            return Ok(());
        }
        self.saving = Saving::default();
        replace(&self.dir, &identity).map_err(|source| FolderError::Io {
            what: "cannot write",
            path: self.dir.join(IDENTITY),
            source,
        })?;
        self.identity = Some(identity);
        Ok(())
    }

    /// The cluster has taken note of this run. That is written on a thread of its
    /// own: nothing waits for it, and if it is lost, only more runs are kept.
    pub(crate) fn confirm(&mut self, run: Run) {
        self.write_confirmed(|runs| runs.confirm(run));
    }

    /// An operator has removed this run: the cluster has taken note of it.
    pub(crate) fn confirm_last(&mut self) {
        self.write_confirmed(Runs::confirm_last);
    }

    fn write_confirmed(&mut self, confirm: impl FnOnce(&mut Runs) -> bool) {
        let Some(identity) = &mut self.identity else { return };
        if !confirm(&mut identity.runs) {
            return;
        }
        self.saving = Saving::default();
        let (dir, identity) = (self.dir.clone(), identity.clone());
        let write = move || {
            if let Err(error) = replace(&dir, &identity) {
                tracing::warn!(dir = %dir.display(), %error, "the confirmed run is not written down");
            }
        };
        match std::thread::Builder::new().name("identity".to_owned()).spawn(write) {
            Ok(thread) => self.saving = Saving(Some(thread)),
            Err(error) => tracing::warn!(%error, "the confirmed run is not written down"),
        }
    }

    /// What the folder held was set aside: it is a new one.
    pub(crate) fn forget(&mut self) {
        self.identity = None;
    }

    /// Notes the cluster that the server belongs to and its id there, durably.
    ///
    /// # Errors
    /// As [`Folder::save`]; also when the folder has no identity yet.
    pub fn adopt(&mut self, cluster: ClusterId, server: ServerId) -> Result<(), FolderError> {
        let Some(identity) = self.identity.clone() else {
            let what = "it was not written before the server joined a cluster".to_owned();
            return Err(damaged(&self.dir.join(IDENTITY), what));
        };
        self.save(Identity { cluster: Some(cluster), server: Some(server), ..identity })
    }
}

fn damaged(file: &Path, what: impl Into<String>) -> FolderError {
    FolderError::Damaged { file: file.to_owned(), what: what.into(), way_out: REJOIN }
}

fn checksum(identity: &Value) -> String {
    format!("{:08x}", crc32c::crc32c(identity.to_string().as_bytes()))
}

/// Writes both copies, one after the other: a crash leaves one of them whole.
/// The first one counts when they differ.
fn replace(dir: &Path, identity: &Identity) -> io::Result<()> {
    let identity = serde_json::to_value(identity)?;
    let outer = serde_json::json!({ "crc32c": checksum(&identity), "identity": identity });
    let mut bytes = serde_json::to_vec_pretty(&outer)?;
    bytes.push(b'\n');
    for name in [IDENTITY, COPY] {
        let side = dir.join("identity.tmp");
        let mut file = File::create(&side)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        files::rename(&side, &dir.join(name))?;
        sync_dir(dir)?;
    }
    Ok(())
}

/// The identity as it lies in the folder, twice.
struct Copies {
    first: Result<Option<Identity>, FolderError>,
    second: Result<Option<Identity>, FolderError>,
}

impl Copies {
    /// # Errors
    /// When one cannot be read, or a newer program wrote it.
    fn read(dir: &Path) -> Result<Copies, FolderError> {
        let read = |name| match Self::read_one(dir, name) {
            found @ (Ok(_) | Err(FolderError::Damaged { .. })) => Ok(found),
            Err(error) => Err(error),
        };
        Ok(Copies { first: read(IDENTITY)?, second: read(COPY)? })
    }

    fn read_one(dir: &Path, name: &str) -> Result<Option<Identity>, FolderError> {
        let file = dir.join(name);
        match files::read(&file) {
            Ok(bytes) => parse(&file, &bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FolderError::Io { what: "cannot read", path: file, source }),
        }
    }

    /// Why they must be written anew, if they must.
    fn need_repair(&self) -> Option<String> {
        match (&self.first, &self.second) {
            (Ok(first), Ok(second)) if first == second => None,
            (Ok(Some(_)), Ok(Some(_))) => Some("they differ".to_owned()),
            (Ok(_), Ok(_)) => Some("one is missing".to_owned()),
            (Err(error), _) | (_, Err(error)) => Some(error.to_string()),
        }
    }

    /// The one that counts.
    fn choose(self) -> Result<Option<Identity>, FolderError> {
        match (self.first, self.second) {
            (Ok(Some(identity)), _) | (Ok(None) | Err(_), Ok(Some(identity))) => Ok(Some(identity)),
            (Ok(None), second) => second,
            (first, _) => first,
        }
    }
}

fn parse(file: &Path, bytes: &[u8]) -> Result<Identity, FolderError> {
    let outer: Value =
        serde_json::from_slice(bytes).map_err(|error| damaged(file, error.to_string()))?;
    let inner = &outer["identity"];
    if outer["crc32c"].as_str() != Some(checksum(inner).as_str()) {
        return Err(damaged(file, "its checksum does not match"));
    }
    match inner["format"].as_u64() {
        Some(version) if version > u64::from(FORMAT) => {
            return Err(FolderError::NewerVersion {
                file: file.to_owned(),
                version: u32::try_from(version).unwrap_or(u32::MAX),
            });
        }
        _ => {}
    }
    Identity::deserialize(inner).map_err(|error| damaged(file, error.to_string()))
}

#[cfg(test)]
mod tests;
