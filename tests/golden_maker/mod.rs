//! Writes the folder of a server, and a backup, with something of everything
//! that the formats of this version know. Ids and salts are random, so each
//! run gives other bytes of the same meaning.

use std::fs;
use std::path::Path;

use common::control::MemberInfo;
use common::ids::{ClusterId, ServerId};
use common::memcached::{Arithmetic, StoreVerb};
use raft::{Body, Entry, HardState, Member, Membership, NodeId, Suffrage};
use server::backup::{self, About};
use server::command::{Command, Operation, Payload};
use server::identity::{Folder, Identity};
use server::keystore_file;
use server::log_file::{LogFile, LogOptions};
use server::offline::State;

/// Small, so that there are several segments.
const SEGMENT_BYTES: usize = 4096;

/// Time of the first command.
const BEGIN_MS: u64 = 1_772_366_400_000;

/// Makes the folder `dir`, which must not exist.
pub(crate) fn make(dir: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(!dir.exists(), "{} exists", dir.display());
    let server = dir.join("srv-1");
    let identity = identity(&server)?;
    settings(&server)?;

    let members = memberships(&identity);
    let (mut log, _) = LogFile::open(
        &server.join("log-file"),
        LogOptions { segment_bytes: SEGMENT_BYTES, keep: true },
        0,
    )?;
    let mut state = State::empty();
    state.meta.membership = members[0].clone();
    let mut history = History { next: 1, term: 1, members, entries: Vec::new() };
    history.write(&mut log, &mut state)?;

    let checkpoint = server.join("keystore-file");
    let half = state.meta.index / 2;
    let mut early = State::empty();
    early.meta.membership = history.members[0].clone();
    for entry in history.entries.iter().take_while(|entry| entry.index <= half) {
        early.apply(entry)?;
    }
    keystore_file::write(&checkpoint, &early.keystore.freeze(), &early.meta)?;
    log.compact(half + 1)?;
    log.sync()?;
    // What nobody knows to be committed is not shown.
    let last = Entry { index: history.next, term: history.term, body: Body::Noop };
    log.append(None, &[last], 0)?;
    log.finish()?;
    drop(log);

    let frozen = state.keystore.freeze();
    let about = About {
        cluster: identity.cluster,
        server: identity.name,
        id: identity.server,
        ..About::new(&frozen, &state.meta, BEGIN_MS + 1_000_000)
    };
    let file = fs::File::create(dir.join("backup"))?;
    backup::write_to(file, &frozen, &state.meta, &about)?.sync_all()?;
    fs::remove_file(server.join("lock"))?;
    Ok(())
}

fn identity(server: &Path) -> anyhow::Result<Identity> {
    let mut folder = Folder::open(server)?;
    let (peer, client) = ("127.0.0.1:6001".parse()?, "127.0.0.1:7001".parse()?);
    let mut identity = Identity {
        cluster: Some(ClusterId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)),
        server: Some(ServerId(1)),
        ..Identity::new("srv-1", peer, client, vec!["127.0.0.1:5001".parse()?])
    };
    let run = identity.runs.begin(0x00aa_bbcc_ddee_ff00);
    identity.runs.confirm(run);
    folder.save(identity.clone())?;
    Ok(identity)
}

/// As the command `store` of this version writes it.
fn settings(server: &Path) -> anyhow::Result<()> {
    let settings = serde_json::json!({
        "kind": "server",
        "client": "127.0.0.1:7001",
        "peer": "127.0.0.1:6001",
        "lbs": ["127.0.0.1:5001"],
        "heartbeat_ms": 50,
        "election_timeout": { "low_ms": 200, "high_ms": 400 },
        "max_item_bytes": 1 << 20,
        "checkpoint_after_bytes": 64 << 20,
        "keep_log": true,
        "memory_limit_mib": 0,
        "registered": true,
    });
    let mut text = serde_json::to_vec_pretty(&settings)?;
    text.push(b'\n');
    Ok(fs::write(server.join("settings.json"), text)?)
}

/// Alone; with a learner; alone again.
fn memberships(identity: &Identity) -> Vec<Membership> {
    let Identity { folder, peer, client, .. } = *identity;
    let run = identity.runs.last();
    let info = |name: &str| {
        let info = MemberInfo { folder, name: name.to_owned(), peer, client, run };
        serde_json::to_vec(&info).unwrap_or_default().into()
    };
    let alone = Membership::of_voters([(NodeId(1), info("srv-1"))]);
    let mut with_learner = alone.clone();
    let learner = Member { suffrage: Suffrage::Learner, info: info("srv-2") };
    with_learner.members.insert(NodeId(2), learner);
    with_learner.next_id = 3;
    let again = Membership { next_id: 3, ..alone.clone() };
    vec![alone, with_learner, again]
}

/// What happened to the server.
struct History {
    next: u64,
    term: u64,
    members: Vec<Membership>,
    entries: Vec<Entry<Payload>>,
}

impl History {
    fn write(&mut self, log: &mut LogFile, state: &mut State) -> anyhow::Result<()> {
        self.commit(log, state, vec![Body::Noop])?;
        for number in 1..=120 {
            self.commit(log, state, vec![numbered(number)])?;
        }
        for body in commands() {
            self.commit(log, state, vec![body])?;
        }
        self.commit(log, state, vec![command(140, Operation::Check { algorithm: 1 })])?;
        let (index, digest) = (state.meta.index, state.keystore.digest());
        self.commit(log, state, vec![command(140, Operation::Verdict { index, digest })])?;
        // Entries of another leader, replaced in a later term.
        let replaced: Vec<_> = (0..3)
            .map(|offset| Entry { index: self.next + offset, term: 1, body: Body::Noop })
            .collect();
        log.append(None, &replaced, 0)?;
        log.sync()?;
        self.term = 3;
        let promise = HardState { term: 3, vote: Some(NodeId(1)) };
        log.append(Some(promise), &[], 0)?;
        let [_, with_learner, again] = self.members.as_slice() else { return Ok(()) };
        let changes = vec![
            Body::Noop,
            Body::Membership(with_learner.clone()),
            Body::Membership(again.clone()),
        ];
        self.commit(log, state, changes)?;
        for number in 150..=170 {
            self.commit(log, state, vec![numbered(number)])?;
        }
        Ok(())
    }

    fn commit(
        &mut self,
        log: &mut LogFile,
        state: &mut State,
        bodies: Vec<Body<Payload>>,
    ) -> anyhow::Result<()> {
        let begin = self.entries.len();
        for body in bodies {
            self.entries.push(Entry { index: self.next, term: self.term, body });
            self.next += 1;
        }
        let entries = &self.entries[begin..];
        log.append(None, entries, self.next - 2)?;
        log.sync()?;
        log.note_commit(self.next - 1)?;
        entries.iter().try_for_each(|entry| state.apply(entry))?;
        Ok(())
    }
}

fn command(second: u64, operation: Operation<'_>) -> Body<Payload> {
    let mut bytes = Vec::new();
    Command { clock_ms: BEGIN_MS + second * 1000, id: None, operation }.encode(&mut bytes);
    Body::Command(Payload(bytes.into()))
}

fn set(second: u64, key: &[u8], value: &[u8]) -> Body<Payload> {
    store(second, StoreVerb::Set, key, value)
}

/// Few keys, and values of all lengths.
fn numbered(number: u64) -> Body<Payload> {
    let (key, value) = (format!("key-{}", number % 40), "x".repeat(number as usize));
    set(number, key.as_bytes(), value.as_bytes())
}

fn store(second: u64, verb: StoreVerb, key: &[u8], value: &[u8]) -> Body<Payload> {
    let flags = second as u32;
    command(second, Operation::Store { verb, key, flags, deadline_ms: 0, value })
}

/// One of each kind, and values that are no plain text.
fn commands() -> Vec<Body<Payload>> {
    let arithmetic = |second, operation, delta| {
        command(second, Operation::Arithmetic { operation, key: b"count", delta })
    };
    let later = BEGIN_MS + 4_000_000_000_000;
    let (verb, key, value) = (StoreVerb::Set, b"expires".as_slice(), b"late".as_slice());
    vec![
        set(121, b"greeting", b"hello world"),
        store(122, StoreVerb::Append, b"greeting", b"!\r\n"),
        store(123, StoreVerb::Prepend, b"greeting", b"> "),
        store(124, StoreVerb::Add, b"added", b"once"),
        store(125, StoreVerb::Add, b"added", b"twice"),
        store(126, StoreVerb::Replace, b"added", b"(replaced)"),
        store(127, StoreVerb::Cas(99), b"added", b"not this"),
        set(128, b"count", b"10"),
        arithmetic(129, Arithmetic::Incr, 5),
        arithmetic(130, Arithmetic::Decr, 2),
        set(131, b"gone", b"x"),
        command(132, Operation::Delete { key: b"gone" }),
        set(133, b"empty", b""),
        set(134, b"raw \xff key", b"\x00\xfe\n"),
        set(135, "schl\u{fc}ssel".as_bytes(), "gr\u{fc}n".as_bytes()),
        command(136, Operation::Store { verb, key, flags: 1, deadline_ms: later, value }),
    ]
}
