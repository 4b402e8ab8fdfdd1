//! Every bit of a small folder flipped, one at a time.
//!
//! What may come of it: nothing, where the bit does not matter; a repair, below
//! a floor if entries were lost; amnesia, when who was voted for is in doubt; or
//! an error that names the file. Never another value, an older term or vote, or
//! a log that ends earlier and says nothing of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::ids::{ClusterId, ServerId};
use common::memcached::StoreVerb;
use raft::{Body, Entry, HardState, Index, NodeId, Position};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::crash::scratch;
use super::start::{Outcome, Started, replay, same, start};
use super::workload::{key, membership};
use crate::command::{Command, Operation, Payload};
use crate::identity::{Folder, Identity};
use crate::keystore::Keystore;
use crate::keystore_file::{self, CheckpointMeta};
use crate::log_file::{LogError, LogFile, LogOptions};
use crate::shell::restore::write_members;

const OPTIONS: LogOptions = LogOptions { segment_bytes: 400, keep: false };

/// Where the checkpoint is, and where the log ends.
const CHECKPOINT: Index = 4;
const LAST: Index = 7;

/// Bits looked at where nothing is written yet.
const PADDING: usize = 100;

/// Each so manieth folder is started on twice. No divisor of 8, so that every
/// bit of a byte gets its turn.
const TWICE: usize = 5;

/// A folder, and what is in it.
struct Truth {
    files: BTreeMap<PathBuf, Vec<u8>>,
    identity: Identity,
    hard_state: HardState,
    entries: Vec<Entry<Payload>>,
    /// First and last entry in the log.
    range: (Index, Index),
    keystore: Keystore,
}

/// How often each came out.
#[derive(Debug, Default)]
struct Tally {
    same: usize,
    repaired: usize,
    floor: usize,
    amnesia: usize,
    refused: usize,
}

fn entry(index: Index) -> Entry<Payload> {
    let term = 1 + index / 4;
    let (key, value) = (key(index as u32 % 3), format!("value {index}"));
    let operation = Operation::Store {
        verb: StoreVerb::Set,
        key: key.as_bytes(),
        flags: 0,
        deadline_ms: 0,
        value: value.as_bytes(),
    };
    let mut bytes = Vec::new();
    Command { clock_ms: index, id: None, operation }.encode(&mut bytes);
    Entry { index, term, body: Body::Command(Payload(Bytes::from(bytes))) }
}

/// Writes a folder: some segments of a log, a checkpoint in the middle of it, an
/// identity twice. `stopped`: the log no longer begins at entry 1, and ends as
/// a graceful stop leaves it.
fn write(stopped: bool) -> Truth {
    let scratch = scratch();
    let dir = scratch.path();
    let address = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let identity = Identity::new("srv-1", address(6001), address(7001), vec![address(5001)]);
    let mut folder = Folder::open(dir).unwrap();
    folder.save(identity).unwrap();
    folder.adopt(ClusterId(7), ServerId(3)).unwrap();
    let identity = folder.identity().unwrap().clone();

    let (mut log, _) = LogFile::open(&dir.join("log-file"), OPTIONS, 0).unwrap();
    let entries: Vec<_> = (1..=LAST).map(entry).collect();
    let mut hard_state = HardState::default();
    for entry in &entries {
        let vote = entry.index.is_multiple_of(2).then_some(NodeId(2));
        let next = HardState { term: entry.term, vote };
        let changed = (next.term > hard_state.term).then_some(next);
        hard_state = changed.unwrap_or(hard_state);
        log.append(changed, std::slice::from_ref(entry), entry.index - 1).unwrap();
        log.sync().unwrap();
    }
    let keystore = replay(entries[..CHECKPOINT as usize].iter());
    let meta = CheckpointMeta {
        index: CHECKPOINT,
        term: entry(CHECKPOINT).term,
        membership: membership(),
    };
    let path = dir.join("keystore-file");
    keystore_file::write(&path, &keystore.freeze(), &meta).unwrap();
    write_members(&path, &meta.membership).unwrap();

    if stopped {
        assert!(log.compact(CHECKPOINT).unwrap() > 1);
        log.sync().unwrap();
        log.settle();
        log.finish().unwrap();
    }
    log.settle();
    let range = log.reader().range();
    drop(log);
    Truth { files: files_in(dir), identity, hard_state, entries, range, keystore }
}

fn files_in(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.strip_prefix(dir).unwrap().to_owned();
                    files.insert(name, fs::read(&path).unwrap());
                }
            }
        }
    }
    files.remove(Path::new("lock"));
    files
}

impl Truth {
    fn last(&self) -> Position {
        Position { index: LAST, term: entry(LAST).term }
    }

    fn names(&self, which: impl Fn(&str) -> bool) -> Vec<&Path> {
        let all = self.files.keys().map(PathBuf::as_path);
        all.filter(|name| which(&name.to_string_lossy())).collect()
    }

    /// Writes the folder with one bit of one file flipped, and starts on it.
    fn flip(&self, dir: &Path, name: &Path, bit: usize) -> Outcome {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir.join("log-file")).unwrap();
        for (other, bytes) in &self.files {
            if other == name {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                fs::write(dir.join(other), bytes).unwrap();
            } else {
                fs::write(dir.join(other), bytes).unwrap();
            }
        }
        start(dir, OPTIONS)
    }

    /// Flips these bits of a file.
    fn check(&self, name: &Path, bits: impl Iterator<Item = usize>, tally: &mut Tally) {
        let scratch = scratch();
        let dir = scratch.path().join("srv-1");
        for bit in bits {
            let outcome = self.flip(&dir, name, bit);
            let twice = bit % TWICE == 0;
            if let Err(what) = self.judge(&dir, name, outcome, twice, tally) {
                let (byte, bit) = (bit / 8, bit % 8);
                panic!("bit {bit} of byte {byte} of {} flipped: {what}", name.display());
            }
        }
    }

    fn judge(
        &self,
        dir: &Path,
        name: &Path,
        outcome: Outcome,
        twice: bool,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let file = dir.join(name).display().to_string();
        let names_it = |why: &dyn std::fmt::Display| match why.to_string().contains(&file) {
            true => Ok(()),
            false => Err(format!("the file is not named: {why}")),
        };
        let first = match outcome {
            Outcome::Fresh => return Err("it has forgotten its cluster".to_owned()),
            Outcome::Amnesia(why) => {
                tally.amnesia += 1;
                return names_it(&why);
            }
            Outcome::Refused(why) => {
                tally.refused += 1;
                return names_it(&why);
            }
            Outcome::Member(started) => started,
        };
        self.compare(&first, names_it)?;
        let unchanged =
            first.checkpoint.0 == CHECKPOINT && first.log.reader().range() == self.range;
        match first.floor {
            Some(_) => tally.floor += 1,
            None if unchanged => tally.same += 1,
            None => tally.repaired += 1,
        }
        if !twice {
            return Ok(());
        }
        // What was decided once is found again by the next start.
        let seen = (first.hard_state, first.floor, first.checkpoint, first.entries.clone());
        drop(first);
        match start(dir, OPTIONS) {
            Outcome::Member(second) => {
                self.compare(&second, names_it)?;
                match (second.hard_state, second.floor, second.checkpoint, second.entries) == seen {
                    true => Ok(()),
                    false => Err(format!("the second start differs from the first: {seen:?}")),
                }
            }
            other => Err(format!("the second start comes to {other:?}")),
        }
    }

    /// Nothing is there that was not, and what is missing is known to be.
    fn compare(
        &self,
        started: &Started,
        names_it: impl Fn(&dyn std::fmt::Display) -> Result<(), String>,
    ) -> Result<(), String> {
        if started.identity != self.identity {
            return Err(format!("another identity: {:?}", started.identity));
        }
        if started.hard_state != self.hard_state {
            return Err(format!("another term or vote: {:?}", started.hard_state));
        }
        let (index, term) = started.checkpoint;
        let whole = index == CHECKPOINT
            && term == entry(CHECKPOINT).term
            && same(&started.keystore, &self.keystore);
        if !whole && (index != 0 || !started.keystore.is_empty()) {
            return Err(format!("another checkpoint, at {index}"));
        }
        let there = &self.entries[index as usize..];
        if !there.starts_with(&started.entries) {
            return Err(format!("other entries: {:?}", started.entries));
        }
        let known = started.floor.unwrap_or_default().furthest(started.last());
        if !known.covers(self.last()) {
            return Err(format!("the log ended at {:?}, not at {known:?}", self.last()));
        }
        if started.floor.is_none() && started.last() != self.last() {
            return Err(format!("the log ends at {:?} without a floor", started.last()));
        }
        if started.commit >= LAST {
            return Err(format!("{} is committed", started.commit));
        }
        let reader = started.log.reader();
        let (from, to) = reader.range();
        for index in from..=to {
            match reader.read(index, index, 1) {
                Ok(read) if read == self.entries[index as usize - 1..index as usize] => {}
                // What the checkpoint has is not looked at before it is wanted.
                Err(error @ LogError::Damaged { .. }) if index <= CHECKPOINT => names_it(&error)?,
                other => return Err(format!("entry {index} is read as {other:?}")),
            }
        }
        Ok(())
    }
}

/// The first byte from which on there are only zeros.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn flip_log(truth: &Truth, segments: &[&Path]) -> Tally {
    let mut tally = Tally::default();
    let mut random = SmallRng::seed_from_u64(1);
    for &name in segments {
        let bytes = &truth.files[name];
        let used = used(bytes);
        truth.check(name, 0..used * 8, &mut tally);
        if used < bytes.len() {
            let padding = (0..PADDING).map(|_| random.random_range(used * 8..bytes.len() * 8));
            truth.check(name, padding, &mut tally);
        }
    }
    tally
}

#[test]
fn no_bit_of_the_log_turns_into_another_value() {
    let truth = write(false);
    let segments = truth.names(|name| name.starts_with("log-file/"));
    assert!(segments.len() >= 3, "{segments:?}");
    println!("log: {:?}", flip_log(&truth, &segments));
}

#[test]
fn no_bit_of_the_log_of_a_stopped_server_turns_into_another_value() {
    let truth = write(true);
    // Beside its end, what was set free differs; the last segment is a spare.
    let segments = truth.names(|name| name.ends_with(".segment"));
    let free = truth.names(|name| name.contains("log-file/") && !name.ends_with(".segment"));
    assert!(!free.is_empty());
    println!("log, stopped: {:?}", flip_log(&truth, &segments[segments.len() - 2..]));
    let mut tally = Tally::default();
    let mut random = SmallRng::seed_from_u64(2);
    for name in free {
        let bits = truth.files[name].len() * 8;
        truth.check(name, (0..PADDING).map(|_| random.random_range(0..bits)), &mut tally);
    }
    println!("freed segments: {tally:?}");
    assert_eq!(tally.repaired + tally.floor + tally.amnesia + tally.refused, 0, "{tally:?}");
}

#[test]
fn no_bit_of_the_checkpoint_turns_into_another_value() {
    // With the whole log, all is applied again; without its beginning, a leader
    // sends what the checkpoint had.
    for stopped in [false, true] {
        let truth = write(stopped);
        let mut tally = Tally::default();
        let names = truth.names(|name| name.starts_with("keystore-file"));
        assert_eq!(names.len(), 2);
        for name in names {
            truth.check(name, 0..truth.files[name].len() * 8, &mut tally);
        }
        println!("checkpoint, beginning of the log gone: {stopped}: {tally:?}");
        assert_eq!(tally.amnesia, 0, "the log says who was voted for");
        assert!(if stopped { tally.floor } else { tally.repaired } > 1000);
    }
}

#[test]
fn no_bit_of_the_identity_matters() {
    let truth = write(false);
    let copies = truth.names(|name| name.starts_with("identity"));
    assert_eq!(copies.len(), 2);
    let dir = scratch();
    for name in &copies {
        for bit in 0..truth.files[*name].len() * 8 {
            for other in &copies {
                fs::write(dir.path().join(other), &truth.files[*other]).unwrap();
            }
            let mut bytes = truth.files[*name].clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(dir.path().join(name), bytes).unwrap();
            let folder = Folder::open(dir.path()).unwrap();
            assert_eq!(folder.identity(), Some(&truth.identity), "bit {bit} of {name:?}");
        }
    }
}
