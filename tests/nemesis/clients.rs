//! Clients that ask all the time, each over a connection of its own to one
//! node, and note what they asked and what they were told.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::dice::Dice;
use super::history::{Action, Answer, History, Op};
use super::support::memcached::Connection;

/// Keys are used for so long and then left alone, so that the history of each
/// stays short enough to be searched, and longer than most faults.
const GENERATION: Duration = Duration::from_secs(8);

/// At most so many requests are sent at once.
const PIPELINE: u64 = 4;

/// Between two batches of one client, at most.
const PAUSE_US: u64 = 15_000;

/// Counters that are only ever incremented: through load balancers, and at
/// servers.
pub(crate) const COUNTERS: [&str; 2] = ["count-lb", "count-srv"];

/// Whom a client asks.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) is_lb: bool,
}

/// All clients.
#[derive(Debug)]
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// One for each of `targets`, whose numbers are their places there.
    pub(crate) fn start(history: &Arc<History>, targets: &[Target], seed: u64) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |(number, target): (usize, &Target)| {
            let mut client = Client {
                number,
                target: target.clone(),
                dice: Dice::new(seed.wrapping_mul(1000) + number as u64),
                history: Arc::clone(history),
                written: 0,
                batches: 0,
                tokens: BTreeMap::new(),
            };
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || client.run(&stop))
        };
        let threads = targets.iter().enumerate().map(start).collect();
        Clients { stop, threads }
    }

    /// Ends them, once they have what they asked for.
    pub(crate) fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

struct Client {
    number: usize,
    target: Target,
    dice: Dice,
    history: Arc<History>,
    /// Values so far: no two are the same.
    written: u64,
    batches: u64,
    /// What it has seen of keys, with tokens.
    tokens: BTreeMap<String, (String, u64)>,
}

impl Client {
    fn run(&mut self, stop: &AtomicBool) {
        let mut connection = None;
        while !stop.load(Ordering::Relaxed) {
            let open = connection.take().map_or_else(|| Connection::open(self.target.address), Ok);
            // What could not be asked has no place in the history.
            if let Ok(mut open) = open
                && self.batch(&mut open)
            {
                connection = Some(open);
            }
            std::thread::sleep(Duration::from_micros(self.dice.below(PAUSE_US)));
        }
    }

    /// Asks for some things at once; false: the connection is of no use any more.
    fn batch(&mut self, connection: &mut Connection) -> bool {
        let count = if self.dice.one_in(4) { 1 + self.dice.below(PIPELINE) } else { 1 };
        let asked: Vec<_> = (0..count).map(|_| self.choose()).collect();
        let line: String = asked.iter().map(|(key, action)| encode(key, action)).collect();
        self.batches += 1;
        let call = self.history.now();
        let mut broken = connection.send(line).err().map(|error| error.to_string());
        let mut ops = Vec::with_capacity(asked.len());
        for (key, action) in asked {
            let answer = match &broken {
                Some(why) => Answer::Unknown(why.clone()),
                None => read_answer(connection, &key, &action).unwrap_or_else(|error| {
                    broken = Some(error.to_string());
                    Answer::Unknown(error.to_string())
                }),
            };
            if let Answer::Token(value, token) = &answer {
                self.tokens.insert(key.clone(), (value.clone(), *token));
            }
            let (client, batch, ret) = (self.number, self.batches, self.history.now());
            ops.push(Op { client, batch, key, action, call, ret, answer });
        }
        self.history.add(ops);
        broken.is_none()
    }

    fn fresh(&mut self, kind: &str) -> String {
        self.written += 1;
        format!("{kind}{}.{}", self.number, self.written)
    }

    fn choose(&mut self) -> (String, Action) {
        let generation = self.history.elapsed().as_millis() / GENERATION.as_millis();
        let text = format!("t{generation}-{}", self.dice.below(3));
        let number = format!("n{generation}-{}", self.dice.below(2));
        match self.dice.below(100) {
            0..20 => (text, Action::Get),
            20..30 => (text, Action::Gets),
            30..43 => {
                let mut value = self.fresh("v");
                if self.dice.one_in(4) {
                    value.push_str(&"+".repeat(self.dice.below(2000) as usize));
                }
                (text, Action::Set(value))
            }
            43..53 => (text, Action::Append(self.fresh("."))),
            53..64 => match self.tokens.get(&text).cloned() {
                Some((expected, token)) => {
                    (text, Action::Cas { value: self.fresh("c"), expected, token })
                }
                None => (text, Action::Gets),
            },
            64..68 => (text, Action::Delete),
            68..73 => (text, Action::Add(self.fresh("a"))),
            73..83 => (number, Action::Incr(1)),
            83..86 => {
                self.written += 1;
                let value = (self.number as u64 * 1_000_000 + self.written) * 1000;
                (number, Action::Set(value.to_string()))
            }
            86..90 => (number, Action::Get),
            90..91 => (number, Action::Delete),
            91..96 => (COUNTERS[usize::from(!self.target.is_lb)].to_owned(), Action::Incr(1)),
            _ => {
                let value = self.fresh("o");
                (value.clone(), Action::Set(value))
            }
        }
    }
}

/// Whether a key is written once, with its own name.
pub(crate) fn is_written_once(key: &str) -> bool {
    key.starts_with('o')
}

fn encode(key: &str, action: &Action) -> String {
    let store = |verb: &str, value: &str, token: &str| {
        format!("{verb} {key} 0 0 {}{token}\r\n{value}\r\n", value.len())
    };
    match action {
        Action::Get => format!("get {key}\r\n"),
        Action::Gets => format!("gets {key}\r\n"),
        Action::Set(value) => store("set", value, ""),
        Action::Add(value) => store("add", value, ""),
        Action::Append(value) => store("append", value, ""),
        Action::Cas { value, token, .. } => store("cas", value, &format!(" {token}")),
        Action::Delete => format!("delete {key}\r\n"),
        Action::Incr(delta) => format!("incr {key} {delta}\r\n"),
    }
}

fn error(line: String) -> Answer {
    match line.as_str() {
        "CLIENT_ERROR cannot increment or decrement non-numeric value" => Answer::NotANumber,
        text if text.ends_with(", not executed") => Answer::NotExecuted(line),
        text if text.ends_with(", outcome unknown") => Answer::Unknown(line),
        _ => Answer::Unexpected(line),
    }
}

/// Reads one answer.
pub(crate) fn read_answer(
    connection: &mut Connection,
    key: &str,
    action: &Action,
) -> io::Result<Answer> {
    let line = connection.line()?;
    if action.is_read() {
        return read_value(connection, line, key, action);
    }
    Ok(match line.as_str() {
        "STORED" => Answer::Stored,
        "NOT_STORED" => Answer::NotStored,
        "EXISTS" => Answer::Exists,
        "NOT_FOUND" => Answer::NotFound,
        "DELETED" => Answer::Deleted,
        text => match text.parse() {
            Ok(number) => Answer::Number(number),
            Err(_) => error(line),
        },
    })
}

fn read_value(
    connection: &mut Connection,
    line: String,
    key: &str,
    action: &Action,
) -> io::Result<Answer> {
    let words: Vec<_> = line.split(' ').collect();
    match words.as_slice() {
        ["END"] => Ok(Answer::Value(None)),
        ["VALUE", name, "0", length, token @ ..] if *name == key => {
            let value = connection.line()?;
            let end = connection.line()?;
            let token = token.first().and_then(|token| token.parse().ok());
            match (end.as_str(), action, token) {
                _ if length.parse() != Ok(value.len()) => Ok(Answer::Unexpected(line)),
                ("END", Action::Get, None) => Ok(Answer::Value(Some(value))),
                ("END", Action::Gets, Some(token)) => Ok(Answer::Token(value, token)),
                _ => Ok(Answer::Unexpected(end)),
            }
        }
        _ => Ok(error(line)),
    }
}
