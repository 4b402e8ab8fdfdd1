//! Reading a checkpoint.

use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, Scope, ScopedJoinHandle};

use bytes::Buf;

use super::blocks::{BAD_CRC, Block, Blocks, Footer};
use super::{CheckpointMeta, ITEMS, KeystoreFileError, side_path};
use crate::files::{self, File};
use crate::keystore::{GROUPS, Keystore, Restorer};

/// A smaller file is read by one thread: starting others takes longer.
const PARALLEL_BYTES: u64 = 1024 * 1024;

/// More threads than this only wait for the one that reads the file.
const MAX_THREADS: usize = 6;

/// Blocks that wait for one thread: more than a group has in any store of
/// ordinary size, because consecutive blocks mostly go to the same one.
const QUEUED_BLOCKS: usize = 32;

/// The smallest item with its length, in bytes: bounds how many a file can hold.
const SMALLEST_ITEM_BYTES: u64 = 26;

/// Reads the checkpoint at `path` at the start of its owner: removes what is
/// left of one that was never finished. `None`: there is none.
///
/// # Errors
/// [`KeystoreFileError`], each with file, offset and the way out. Nothing of a
/// damaged checkpoint is given back.
pub fn read(path: &Path) -> Result<Option<(Keystore, CheckpointMeta)>, KeystoreFileError> {
    let side = side_path(path);
    match files::remove_file(&side) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(KeystoreFileError::io(&side, error));
        }
        _ => {}
    }
    load(path)
}

/// Reads the checkpoint at `path` and changes nothing, for those who only look.
///
/// # Errors
/// As [`read`].
pub fn load(path: &Path) -> Result<Option<(Keystore, CheckpointMeta)>, KeystoreFileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(KeystoreFileError::io(path, error)),
    };
    let size = file.len().map_err(|error| KeystoreFileError::io(path, error))?;
    read_from(path, file, size).map(Some)
}

/// Reads a checkpoint of `size` bytes from `file`, whatever that is; `path`
/// is only its name, for errors.
///
/// # Errors
/// As [`read`].
pub fn read_from<R: Read>(
    path: &Path,
    file: R,
    size: u64,
) -> Result<(Keystore, CheckpointMeta), KeystoreFileError> {
    let mut blocks = Blocks::new(path, file, size);
    let start = blocks.start()?;
    let expected = start.position.items.min(size / SMALLEST_ITEM_BYTES);
    let threads = match thread::available_parallelism() {
        Ok(cores) if size >= PARALLEL_BYTES => cores.get().min(MAX_THREADS),
        _ => 1,
    };
    thread::scope(|scope| {
        let mut crew = Crew::new(scope, threads, || Restorer::new(start.hasher, expected));
        let read = read_items(&mut blocks, &mut crew);
        // Whichever came first in the file is the cause of what follows.
        let (footer, parts) = match (read, crew.finish()) {
            (Ok(footer), Ok(parts)) => (footer, parts),
            (Err(error), Ok(_)) => return Err(error),
            (_, Err(flaw)) => return Err(KeystoreFileError::damaged(path, flaw.offset, flaw.what)),
        };
        let mut keystore = Restorer::finish(start.hasher, start.position, parts);
        keystore.restore_sessions(blocks.sessions.take().unwrap_or_default());
        let found = keystore.position();
        if found.items != footer.items || found.items != start.position.items {
            return Err(blocks.damaged(&footer.block, "there are more or fewer items than it says"));
        }
        if found.contents != footer.contents {
            let what = "the items are not those that were written";
            return Err(blocks.damaged(&footer.block, what));
        }
        Ok((keystore, start.meta))
    })
}

/// Hands out blocks up to the footer.
fn read_items<R: Read>(
    blocks: &mut Blocks<'_, R>,
    crew: &mut Crew<'_>,
) -> Result<Footer, KeystoreFileError> {
    loop {
        let (count, digest) = (blocks.number, blocks.digest);
        let block = blocks.next(crew.buffer())?;
        if block.kind == ITEMS {
            // A thread that found damage is gone; what it found is the error.
            if !crew.give(block) {
                return Err(blocks.truncated());
            }
            continue;
        }
        if let Some(footer) = blocks.beside_items(block, count, digest)? {
            return Ok(footer);
        }
    }
}

/// Something is wrong in a block.
#[derive(Debug)]
struct Flaw {
    offset: u64,
    what: &'static str,
}

fn restore(restorer: &mut Restorer, block: &Block) -> Result<(), Flaw> {
    let mut take = || {
        if !block.is_whole() {
            return Err(BAD_CRC);
        }
        let mut body = &block.body[..];
        let group = body.try_get_u32_le().map_err(|_| "a group without its number")? as usize;
        if group >= GROUPS {
            return Err("the number of a group is out of range");
        }
        while !body.is_empty() {
            let length = body.try_get_u32_le().map_err(|_| "an item is cut short")? as usize;
            let (item, rest) = body.split_at_checked(length).ok_or("an item is cut short")?;
            restorer.put(Some(group), item)?;
            body = rest;
        }
        Ok(())
    };
    take().map_err(|what| Flaw { offset: block.offset, what })
}

/// Those who check blocks and put their items into tables. Each thread has
/// groups of its own, so they never wait for each other.
enum Crew<'scope> {
    Here { restorer: Restorer, flaw: Option<Flaw>, spare: Vec<u8> },
    Threads { threads: Vec<Worker<'scope>>, spare: Receiver<Vec<u8>> },
}

struct Worker<'scope> {
    blocks: SyncSender<Block>,
    handle: ScopedJoinHandle<'scope, Result<Restorer, Flaw>>,
}

impl<'scope> Crew<'scope> {
    fn new(
        scope: &'scope Scope<'scope, '_>,
        threads: usize,
        restorer: impl Fn() -> Restorer,
    ) -> Self {
        if threads < 2 {
            return Crew::Here { restorer: restorer(), flaw: None, spare: Vec::new() };
        }
        let (give_back, spare) = channel();
        let start = |_| {
            let (blocks, queue) = sync_channel(QUEUED_BLOCKS);
            let (restorer, give_back) = (restorer(), give_back.clone());
            let handle = scope.spawn(move || work(restorer, &queue, &give_back));
            Worker { blocks, handle }
        };
        Crew::Threads { threads: (0..threads).map(start).collect(), spare }
    }

    /// A buffer that was used before, if there is one.
    fn buffer(&mut self) -> Vec<u8> {
        match self {
            Crew::Here { spare, .. } => std::mem::take(spare),
            Crew::Threads { spare, .. } => spare.try_recv().unwrap_or_default(),
        }
    }

    /// False: damage was found, and no more blocks are taken.
    fn give(&mut self, block: Block) -> bool {
        match self {
            Crew::Here { restorer, flaw, spare } => {
                *flaw = restore(restorer, &block).err();
                *spare = block.body;
                flaw.is_none()
            }
            Crew::Threads { threads, .. } => {
                // Not checked yet: a wrong number only reaches the wrong thread.
                let group = block.body.first_chunk().map_or(0, |group| u32::from_le_bytes(*group));
                let worker = &threads[group as usize % threads.len()];
                worker.blocks.send(block).is_ok()
            }
        }
    }

    /// The tables, or the first flaw in the order of the file.
    fn finish(self) -> Result<Vec<Restorer>, Flaw> {
        let results = match self {
            Crew::Here { flaw: Some(flaw), .. } => vec![Err(flaw)],
            Crew::Here { restorer, .. } => vec![Ok(restorer)],
            Crew::Threads { threads, .. } => {
                let end = |worker: Worker<'scope>| {
                    drop(worker.blocks);
                    worker.handle
                };
                let handles: Vec<_> = threads.into_iter().map(end).collect();
                let join = |handle: ScopedJoinHandle<'scope, _>| {
                    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                handles.into_iter().map(join).collect()
            }
        };
        let (mut parts, mut first): (Vec<_>, Option<Flaw>) = (Vec::new(), None);
        for result in results {
            match result {
                Ok(part) => parts.push(part),
                Err(flaw) if first.as_ref().is_some_and(|first| first.offset < flaw.offset) => {}
                Err(flaw) => first = Some(flaw),
            }
        }
        first.map_or(Ok(parts), Err)
    }
}

fn work(
    mut restorer: Restorer,
    blocks: &Receiver<Block>,
    give_back: &Sender<Vec<u8>>,
) -> Result<Restorer, Flaw> {
    for block in blocks {
        restore(&mut restorer, &block)?;
        // Nobody takes it any more at the end.
        let _ = give_back.send(block.body);
    }
    Ok(restorer)
}
