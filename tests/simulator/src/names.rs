//! Clients that name their own writes, and send them again, to anybody, until
//! somebody tells what became of them.

use std::collections::{BTreeMap, BTreeSet};

use common::forward::WriteIds;
use common::memcached;

use crate::clients::Answer;
use crate::queue::Micros;
use crate::rng::Rng;

/// Clients of a thousand that name writes.
const NAMING_PERMILLE: u64 = 400;

/// Batches of such a client that are named.
const NAMED_PERMILLE: u64 = 700;

/// Sendings whose connection breaks while the server goes on with them.
const HANG_UP_PERMILLE: u64 = 100;

/// A batch is sent so often, and then given up.
const MOST_SENDINGS: u32 = 12;

struct Naming {
    rng: Rng,
    /// 0: none is open.
    session: u64,
    next_sequence: u64,
}

/// What all clients know of names.
pub(crate) struct Names {
    /// `None`: a client that names nothing.
    clients: Vec<Option<Naming>>,
    /// What names each batch, in each of its sendings, and which sending it is.
    named: BTreeMap<u64, (WriteIds, u32)>,
    /// Batches that open a session: whose, and which.
    opens: BTreeMap<u64, (usize, u64)>,
    /// Batches that asked for a session at the end of a round, and were
    /// answered with this.
    asked: BTreeMap<u64, Answer>,
    /// Sendings whose answers are not waited for any more.
    given_up: BTreeSet<u64>,
}

impl Names {
    pub(crate) fn new(seed: u64, clients: usize) -> Self {
        let naming = |client| {
            let mut rng = Rng::new(seed, 200 + client);
            rng.chance(NAMING_PERMILLE).then_some(Naming { rng, session: 0, next_sequence: 1 })
        };
        Names {
            clients: (0..clients as u64).map(naming).collect(),
            named: BTreeMap::new(),
            opens: BTreeMap::new(),
            asked: BTreeMap::new(),
            given_up: BTreeSet::new(),
        }
    }

    fn of(&mut self, client: usize) -> Option<&mut Naming> {
        self.clients.get_mut(client)?.as_mut()
    }

    /// The session that `client` has to open first, by this batch.
    pub(crate) fn open(&mut self, client: usize, batch: u64) -> Option<u64> {
        let naming = self.of(client).filter(|naming| naming.session == 0)?;
        let session = naming.rng.next().max(1);
        self.opens.insert(batch, (client, session));
        Some(session)
    }

    /// Nobody of the clients asks for this session, by this batch.
    pub(crate) fn ask(&mut self, session: u64, batch: u64) {
        self.opens.insert(batch, (usize::MAX, session));
    }

    /// What that was answered.
    pub(crate) fn take_asked(&mut self, batch: u64) -> Option<Answer> {
        self.asked.remove(&batch)
    }

    /// Whether `batch` was to open a session, and whose.
    pub(crate) fn opened(&mut self, batch: u64, answer: &Answer) -> Option<usize> {
        let (client, session) = self.opens.remove(&batch)?;
        if client == usize::MAX {
            self.asked.insert(batch, answer.clone());
        }
        if let (Answer::Replies(text), Some(naming)) = (answer, self.of(client))
            && text[..] == *b"OK\r\n"
        {
            naming.session = session;
            naming.next_sequence = 1;
        }
        Some(client)
    }

    /// Whether the next batch of `client` is to be named.
    pub(crate) fn names_next(&mut self, client: usize) -> bool {
        self.of(client).is_some_and(|naming| naming.rng.chance(NAMED_PERMILLE))
    }

    /// Names a batch of so many writes.
    pub(crate) fn assign(&mut self, client: usize, batch: u64, count: usize) {
        let Some(naming) = self.of(client) else { return };
        let first_sequence = naming.next_sequence;
        naming.next_sequence += count as u64;
        let (session, done_below) = (naming.session, first_sequence);
        let ids = WriteIds { session, first_sequence, done_below, again: false };
        self.named.insert(batch, (ids, 1));
    }

    /// What names a batch, if something does.
    pub(crate) fn ids(&self, batch: u64) -> WriteIds {
        self.named.get(&batch).map_or_else(WriteIds::default, |(ids, _)| *ids)
    }

    /// Whether this answer leaves open what became of a batch that can be sent
    /// again.
    pub(crate) fn wants_again(&self, batch: u64, answer: &Answer) -> bool {
        let Some((ids, sendings)) = self.named.get(&batch) else { return false };
        let unknown = memcached::UNKNOWN.as_bytes();
        let is_open = match answer {
            Answer::Broken => true,
            Answer::Refused => ids.again,
            Answer::Replies(text) => text.windows(unknown.len()).any(|line| line == unknown),
        };
        is_open && *sendings < MOST_SENDINGS
    }

    /// `batch` is sent once more, as `next`.
    pub(crate) fn again(&mut self, batch: u64, next: u64) {
        let Some((ids, sendings)) = self.named.get(&batch) else { return };
        let next_sending = (WriteIds { again: true, ..*ids }, sendings + 1);
        self.named.insert(next, next_sending);
        self.given_up.insert(batch);
    }

    /// Whether the answer to this sending comes to nobody.
    pub(crate) fn is_given_up(&self, batch: u64) -> bool {
        self.given_up.contains(&batch)
    }

    /// When the connection of this sending breaks, if it does.
    pub(crate) fn hangs_up(&mut self, client: usize, batch: u64) -> Option<Micros> {
        self.named.get(&batch)?;
        let naming = self.of(client)?;
        naming.rng.chance(HANG_UP_PERMILLE).then(|| naming.rng.below(300_000))
    }

    /// What `client` learns from the answer to a batch of its own.
    pub(crate) fn learn(&mut self, client: usize, text: &[u8]) {
        let over = b"session unknown";
        if text.windows(over.len()).any(|line| line == over)
            && let Some(naming) = self.of(client)
        {
            naming.session = 0;
        }
    }
}
