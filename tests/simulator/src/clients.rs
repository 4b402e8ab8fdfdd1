//! The clients: what they ask, and what they remember of the answers.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use common::forward::WriteIds;
use common::memcached::{self, Arithmetic, Reply, Request, StoreVerb};
use raft::Index;

use crate::history::{
    Action, History, Key, Moment, Op, OpId, Outcome, Seen, Write, delta_of, key_name,
};
use crate::names::Names;
use crate::plan::WorkPlan;
use crate::queue::Micros;
use crate::rng::Rng;

/// How a batch came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Replies(BytesMut),
    /// The connection broke: nobody knows.
    Broken,
    /// Nobody listens there: it never arrived.
    Refused,
}

/// When something happened, in every sense.
#[derive(Clone, Copy, Debug)]
pub(crate) struct When {
    pub(crate) at: Micros,
    pub(crate) moment: Moment,
    /// Entries that anybody has applied.
    pub(crate) applied: Index,
}

struct Client {
    rng: Rng,
    /// The last cas token seen: key, token, value.
    token: Option<(Key, u64, Bytes)>,
}

/// All clients of a run.
pub(crate) struct Clients {
    plan: WorkPlan,
    clients: Vec<Client>,
    names: Names,
    pub(crate) history: History,
    next_batch: u64,
    /// The first operation of each batch that is out, and how many.
    out: BTreeMap<u64, (OpId, usize)>,
}

impl Clients {
    pub(crate) fn new(seed: u64, plan: &WorkPlan) -> Self {
        let client = |number| Client { rng: Rng::new(seed, 100 + number), token: None };
        Clients {
            clients: (0..plan.clients as u64).map(client).collect(),
            names: Names::new(seed, plan.clients),
            plan: plan.clone(),
            history: History::default(),
            next_batch: 0,
            out: BTreeMap::new(),
        }
    }

    /// How long the client thinks before its next batch.
    pub(crate) fn think(&mut self, client: usize) -> Micros {
        self.clients[client].rng.around(self.plan.think).max(100)
    }

    /// Whether it goes to a server that need not lead, and a number to choose
    /// the server by.
    pub(crate) fn choose(&mut self, client: usize) -> (bool, u64) {
        let rng = &mut self.clients[client].rng;
        (rng.chance(self.plan.elsewhere_permille), rng.next())
    }

    /// The batches that are out.
    pub(crate) fn waiting(&self) -> usize {
        self.out.len()
    }

    pub(crate) fn is_out(&self, batch: u64) -> bool {
        self.out.contains_key(&batch)
    }

    /// Whose batch is out.
    pub(crate) fn sender(&self, batch: u64) -> Option<usize> {
        let (first, _) = self.out.get(&batch)?;
        self.history.ops.get(*first as usize).map(|op| op.client)
    }

    /// What names a batch, if its client has.
    pub(crate) fn ids(&self, batch: u64) -> WriteIds {
        self.names.ids(batch)
    }

    /// Whether the answer to this sending comes to nobody.
    pub(crate) fn is_given_up(&self, batch: u64) -> bool {
        self.names.is_given_up(batch)
    }

    /// When the connection of this sending breaks, if it does.
    pub(crate) fn hangs_up(&mut self, client: usize, batch: u64) -> Option<Micros> {
        self.names.hangs_up(client, batch)
    }

    /// Whether this answer leaves open what became of a batch that can be sent
    /// again.
    pub(crate) fn wants_again(&self, batch: u64, answer: &Answer) -> bool {
        self.names.wants_again(batch, answer)
    }

    /// The next sending of a batch: whose it is, and its number.
    pub(crate) fn again(&mut self, batch: u64) -> Option<(usize, u64)> {
        let entry = self.out.remove(&batch)?;
        let next = self.next_batch;
        self.next_batch += 1;
        self.out.insert(next, entry);
        self.names.again(batch, next);
        Some((self.history.ops[entry.0 as usize].client, next))
    }

    /// Opens a session for nobody: its batch and request.
    pub(crate) fn ask_for_session(&mut self, session: u64) -> (u64, Vec<Request>) {
        self.names.ask(session, self.next_batch);
        self.open_session(session)
    }

    /// What such a batch was answered; `None`: it is still out.
    pub(crate) fn take_asked(&mut self, batch: u64) -> Option<Answer> {
        self.names.take_asked(batch)
    }

    fn open_session(&mut self, session: u64) -> (u64, Vec<Request>) {
        let batch = self.next_batch;
        self.next_batch += 1;
        self.out.insert(batch, (0, 0));
        (batch, vec![Request::OpenSession { session }])
    }

    /// The next batch of `client`: its number and requests.
    pub(crate) fn next(&mut self, client: usize, when: When) -> (u64, Vec<Request>) {
        if let Some(session) = self.names.open(client, self.next_batch) {
            return self.open_session(session);
        }
        if !self.names.names_next(client) {
            return self.ask(client, when);
        }
        let count = 1 + self.clients[client].rng.below(self.plan.pipeline) as usize;
        let mut actions = Vec::with_capacity(count);
        while actions.len() < count {
            let number = (self.history.ops.len() + actions.len()) as OpId;
            let (action, _) = self.clients[client].invent(&self.plan, number);
            // Deletes carry no number: see the witness.
            if matches!(&action, Action::Write { write, .. } if *write != Write::Delete) {
                actions.push((action, false));
            }
        }
        let (batch, requests) = self.send(client, when, actions);
        self.names.assign(client, batch, count);
        (batch, requests)
    }

    /// A new batch of `client`: its number and requests.
    fn ask(&mut self, client: usize, when: When) -> (u64, Vec<Request>) {
        let count = 1 + self.clients[client].rng.below(self.plan.pipeline);
        let mut actions = Vec::with_capacity(count as usize);
        while (actions.len() as u64) < count {
            let number = self.history.ops.len() + actions.len();
            let action = self.clients[client].invent(&self.plan, number as OpId);
            // Deletes travel alone or behind another write: see the witness.
            let is_delete =
                |action: &Action| matches!(action, Action::Write { write: Write::Delete, .. });
            let writes = actions.iter().map(|(action, _): &(Action, bool)| action);
            let last = writes.rev().find(|action| matches!(action, Action::Write { .. }));
            let is_known = last.is_some_and(|last| !is_delete(last));
            let is_delete = is_delete(&action.0);
            if !is_delete || is_known {
                actions.push(action);
            } else if actions.is_empty() {
                actions.push(action);
                break;
            }
        }
        self.send(client, when, actions)
    }

    /// A batch of given actions.
    pub(crate) fn send(
        &mut self,
        client: usize,
        when: When,
        actions: Vec<(Action, bool)>,
    ) -> (u64, Vec<Request>) {
        let batch = self.next_batch;
        self.next_batch += 1;
        let first = self.history.ops.len() as OpId;
        self.out.insert(batch, (first, actions.len()));
        let mut requests = Vec::with_capacity(actions.len());
        for (action, noreply) in actions {
            requests.push(request(&action, self.history.ops.len() as OpId, noreply));
            self.history.ops.push(Op {
                client,
                batch,
                at: when.at,
                call: when.moment,
                ret: None,
                applied_at_ret: 0,
                action,
                outcome: Outcome::Unknown,
            });
        }
        (batch, requests)
    }

    /// A batch came back: the client that had sent it, or what is wrong with
    /// the answer.
    pub(crate) fn answered(
        &mut self,
        batch: u64,
        requests: &[Request],
        answer: &Answer,
        when: When,
    ) -> Result<usize, String> {
        let Some((first, count)) = self.out.remove(&batch) else {
            return Err(format!("batch {batch} was answered twice"));
        };
        if let Some(client) = self.names.opened(batch, answer) {
            return Ok(client);
        }
        let ops = &mut self.history.ops[first as usize..first as usize + count];
        let client = ops[0].client;
        let mut text = match answer {
            Answer::Broken => return Ok(client),
            // An earlier sending may have arrived.
            Answer::Refused if self.names.ids(batch).again => return Ok(client),
            Answer::Refused => {
                ops.iter_mut().for_each(|op| op.outcome = Outcome::NotExecuted);
                return Ok(client);
            }
            Answer::Replies(text) => &text[..],
        };
        self.names.learn(client, text);
        for (op, request) in ops.iter_mut().zip(requests) {
            if request.noreply() {
                continue;
            }
            op.outcome = parse(&op.action, &mut text).ok_or_else(|| {
                format!("{:?} was answered {:?}", op.action, Bytes::copy_from_slice(text))
            })?;
            if op.outcome != Outcome::Unknown {
                op.ret = Some(when.moment);
                op.applied_at_ret = when.applied;
            }
            if let Some(client) = self.clients.get_mut(client) {
                client.learn(op);
            }
        }
        if text.is_empty() {
            Ok(client)
        } else {
            Err(format!("batch {batch}: {} bytes too many in the answer", text.len()))
        }
    }
}

impl Client {
    /// Something to ask, and whether without reply.
    fn invent(&mut self, plan: &WorkPlan, number: OpId) -> (Action, bool) {
        let rng = &mut self.rng;
        let keys = plan.registers + plan.counters;
        if rng.chance(plan.read_permille) {
            let mut wanted = vec![rng.below(keys) as Key];
            if rng.chance(plan.multi_permille) {
                for _ in 0..rng.between(1, 3) {
                    let key = rng.below(keys) as Key;
                    if !wanted.contains(&key) {
                        wanted.push(key);
                    }
                }
            }
            return (Action::Get { keys: wanted, with_cas: rng.chance(400) }, false);
        }
        let noreply = rng.chance(plan.noreply_permille);
        let key = rng.below(keys) as Key;
        if u64::from(key) >= plan.registers {
            return (Action::Write { key, write: invent_counting(rng, number) }, noreply);
        }
        let value = invent_value(rng, plan, number);
        let verb = match rng.below(100) {
            0..50 => StoreVerb::Set,
            50..58 => StoreVerb::Add,
            58..64 => StoreVerb::Replace,
            // Values that only grow would make a long run a slow one.
            64..67 => StoreVerb::Append,
            67..69 => StoreVerb::Prepend,
            69..78 => return (Action::Write { key, write: Write::Delete }, noreply),
            _ => match self.token.take() {
                Some((key, token, expected)) => {
                    let verb = StoreVerb::Cas(token);
                    let write = Write::Store { verb, value, expected: Some(expected) };
                    return (Action::Write { key, write }, noreply);
                }
                None => StoreVerb::Set,
            },
        };
        (Action::Write { key, write: Write::Store { verb, value, expected: None } }, noreply)
    }

    fn learn(&mut self, op: &Op) {
        let (Action::Get { keys, .. }, Outcome::Values(values)) = (&op.action, &op.outcome) else {
            return;
        };
        for (key, seen) in keys.iter().zip(values) {
            if let Some(Seen { value, cas: Some(cas), .. }) = seen {
                self.token = Some((*key, *cas, value.clone()));
            }
        }
    }
}

fn invent_counting(rng: &mut Rng, number: OpId) -> Write {
    match rng.below(10) {
        0..6 => Write::Arithmetic { operation: Arithmetic::Incr },
        6..8 => Write::Arithmetic { operation: Arithmetic::Decr },
        8 => Write::Delete,
        _ => {
            let value = Bytes::from((u64::from(number) * 1_000_000).to_string());
            let verb = if rng.chance(500) { StoreVerb::Add } else { StoreVerb::Set };
            Write::Store { verb, value, expected: None }
        }
    }
}

/// A value that no other write has.
fn invent_value(rng: &mut Rng, plan: &WorkPlan, number: OpId) -> Bytes {
    let mut value = format!("v{number}.").into_bytes();
    let length = rng.below(plan.value_bytes + 1) as usize;
    if value.len() < length {
        value.resize(length, b'x');
    }
    value.into()
}

fn request(action: &Action, number: OpId, noreply: bool) -> Request {
    match action {
        Action::Get { keys, with_cas } => {
            let keys = keys.iter().map(|key| key_name(*key)).collect();
            Request::Get { keys, with_cas: *with_cas }
        }
        Action::Write { key, write } => {
            let key = key_name(*key);
            match write {
                Write::Store { verb, value, .. } => {
                    let (verb, value) = (*verb, value.clone());
                    Request::Store { verb, key, flags: number, exptime: 0, value, noreply }
                }
                Write::Delete => Request::Delete { key, noreply },
                Write::Arithmetic { operation } => {
                    let (operation, delta) = (*operation, delta_of(number));
                    Request::Arithmetic { operation, key, delta, noreply }
                }
            }
        }
    }
}

/// Takes the answer to `action` off the front of `text`.
fn parse(action: &Action, text: &mut &[u8]) -> Option<Outcome> {
    let Action::Get { keys, .. } = action else {
        let line = take_line(text)?;
        return match line {
            b"STORED" => Some(Outcome::Replied(Reply::Stored)),
            b"NOT_STORED" => Some(Outcome::Replied(Reply::NotStored)),
            b"EXISTS" => Some(Outcome::Replied(Reply::Exists)),
            b"NOT_FOUND" => Some(Outcome::Replied(Reply::NotFound)),
            b"DELETED" => Some(Outcome::Replied(Reply::Deleted)),
            line => {
                number(line).map(|n| Outcome::Replied(Reply::Number(n))).or_else(|| failed(line))
            }
        };
    };
    let mut values: Vec<Option<Seen>> = vec![None; keys.len()];
    loop {
        let line = take_line(text)?;
        if line == b"END" {
            return Some(Outcome::Values(values));
        }
        let Some(header) = line.strip_prefix(b"VALUE ") else { return failed(line) };
        let mut words = header.split(|byte| *byte == b' ');
        let key = crate::history::key_of(words.next()?)?;
        let flags = number(words.next()?)? as u32;
        let length = number(words.next()?)? as usize;
        let cas = words.next().map(number);
        let value = Bytes::copy_from_slice(text.get(..length)?);
        *text = text[length..].strip_prefix(b"\r\n")?;
        let position = keys.iter().position(|asked| *asked == key)?;
        values[position] = Some(Seen { value, flags, cas: cas.flatten() });
    }
}

fn failed(line: &[u8]) -> Option<Outcome> {
    let is = |text: &str| line == text.as_bytes();
    if is(memcached::UNKNOWN) || is(memcached::SESSION_OVER) {
        Some(Outcome::Unknown)
    } else if is(memcached::NO_LEADER)
        || is(memcached::BUSY)
        || is(memcached::SHUTTING_DOWN)
        || is(memcached::SESSION_UNKNOWN)
    {
        Some(Outcome::NotExecuted)
    } else if is(memcached::NON_NUMERIC) {
        Some(Outcome::Replied(Reply::Error(memcached::NON_NUMERIC)))
    } else if is(memcached::TOO_LARGE) {
        Some(Outcome::Replied(Reply::Error(memcached::TOO_LARGE)))
    } else {
        None
    }
}

fn take_line<'a>(text: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = text.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &text[..end];
    *text = &text[end + 2..];
    Some(line)
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
