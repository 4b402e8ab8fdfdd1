//! Servers and load balancers of a few lines, on threads and free ports.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// What a fake does about one request.
pub(crate) enum Act {
    Reply(Vec<u8>),
    /// In pieces, each in a segment of its own.
    Pieces(Vec<Vec<u8>>),
    Close,
    Silence,
}

pub(crate) fn reply(text: impl AsRef<[u8]>) -> Act {
    Act::Reply(text.as_ref().to_vec())
}

#[derive(Default)]
struct Shared {
    log: Mutex<Vec<String>>,
    streams: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
    /// The script answers `session`, too. Otherwise nothing is known of it.
    sessions: bool,
}

/// A listener that answers each request by a script.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

type Script = dyn FnMut(&str, &[u8]) -> Act + Send;

impl Fake {
    /// `script` gets the request line and its data block.
    pub(crate) fn start(script: impl FnMut(&str, &[u8]) -> Act + Send + 'static) -> Fake {
        Fake::new(false, script)
    }

    /// The same, and it is asked for sessions, too.
    pub(crate) fn with_sessions(script: impl FnMut(&str, &[u8]) -> Act + Send + 'static) -> Fake {
        Fake::new(true, script)
    }

    fn new(sessions: bool, script: impl FnMut(&str, &[u8]) -> Act + Send + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { sessions, ..Shared::default() });
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(script));
        let theirs = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                if theirs.stopped.load(Ordering::SeqCst) {
                    return;
                }
                theirs.streams.lock().unwrap().push(stream.try_clone().unwrap());
                let (shared, script) = (theirs.clone(), script.clone());
                thread::spawn(move || serve(&stream, &shared, &script));
            }
        });
        Fake { address, shared }
    }

    /// A load balancer that names the servers in `servers`.
    pub(crate) fn lb(servers: &Arc<Mutex<Vec<SocketAddr>>>) -> Fake {
        let servers = servers.clone();
        Fake::start(move |line, _| {
            assert_eq!(line, "get-servers");
            let lines: Vec<String> =
                servers.lock().unwrap().iter().map(|server| format!("{server}\r\n")).collect();
            reply(lines.concat() + "end\r\n")
        })
    }

    /// A store in memory, enough of memcached for the command line.
    pub(crate) fn store() -> Fake {
        let mut items = Items::default();
        Fake::start(move |line, data| reply(items.answer(line, data)))
    }

    /// The request lines so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.shared.log.lock().unwrap().clone()
    }

    /// Closes all connections; new ones are still taken.
    pub(crate) fn hang_up(&self) {
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// As if the process were killed: connections are refused from now on.
    pub(crate) fn stop(&self) {
        if !self.shared.stopped.swap(true, Ordering::SeqCst) {
            // Wakes the accepting thread, which then drops its listener.
            let _ = TcpStream::connect(self.address).map(|mut stream| stream.read(&mut [0]));
        }
        self.hang_up();
        while TcpStream::connect(self.address).is_ok() {
            thread::yield_now();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An address that refuses connections.
pub(crate) fn refusing_address() -> SocketAddr {
    let fake = Fake::start(|_, _| Act::Close);
    fake.address
}

fn serve(mut stream: &TcpStream, shared: &Shared, script: &Mutex<Script>) {
    stream.set_nodelay(true).unwrap();
    let mut input = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut line = Vec::new();
        if !matches!(input.read_until(b'\n', &mut line), Ok(length) if length > 0) {
            return;
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_string();
        let words: Vec<&str> = line.split(' ').collect();
        let mut data = Vec::new();
        if matches!(words[0], "set" | "add" | "replace" | "append" | "prepend" | "cas") {
            data.resize(words[4].parse::<usize>().unwrap() + 2, 0);
            if input.read_exact(&mut data).is_err() {
                return;
            }
            data.truncate(data.len() - 2);
        }
        if words[0] == "session" && !shared.sessions {
            let _ = stream.write_all(b"ERROR\r\n");
            continue;
        }
        shared.log.lock().unwrap().push(line.clone());
        let act = script.lock().unwrap()(&line, &data);
        let pieces = match act {
            Act::Reply(bytes) => vec![bytes],
            Act::Pieces(pieces) => pieces,
            Act::Silence => continue,
            Act::Close => {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        };
        for piece in pieces {
            if stream.write_all(&piece).is_err() {
                return;
            }
            thread::yield_now();
        }
    }
}

#[derive(Default)]
struct Items {
    items: HashMap<String, (String, Vec<u8>, u64)>,
    token: u64,
}

impl Items {
    fn answer(&mut self, line: &str, data: &[u8]) -> Vec<u8> {
        let words: Vec<&str> = line.split(' ').collect();
        let key = words.get(1).unwrap_or(&"").to_string();
        let old = self.items.get(&key).cloned();
        let text = match (words[0], old) {
            ("get" | "gets", _) => return self.values(&words),
            ("set", _) | ("add", None) | ("replace", Some(_)) => {
                self.put(key, words[2], data.to_vec())
            }
            ("cas", None) => "NOT_FOUND",
            ("cas", Some((_, _, token))) if words[5] == token.to_string() => {
                self.put(key, words[2], data.to_vec())
            }
            ("cas", Some(_)) => "EXISTS",
            ("append", Some((flags, old, _))) => self.put(key, &flags, [&old, data].concat()),
            ("prepend", Some((flags, old, _))) => self.put(key, &flags, [data, &old].concat()),
            ("add" | "replace" | "append" | "prepend", _) => "NOT_STORED",
            ("delete", Some(_)) => self.items.remove(&key).map_or("", |_| "DELETED"),
            ("delete" | "incr" | "decr", None) => "NOT_FOUND",
            ("incr" | "decr", Some((flags, old, _))) => {
                let Ok(old) = String::from_utf8_lossy(&old).parse::<u64>() else {
                    return b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
                        .to_vec();
                };
                let delta = words[2].parse::<u64>().unwrap();
                let new = match words[0] {
                    "incr" => old.wrapping_add(delta),
                    _ => old.saturating_sub(delta),
                };
                self.put(key, &flags, new.to_string().into_bytes());
                return format!("{new}\r\n").into_bytes();
            }
            ("version", _) => "VERSION 1.0.0",
            ("stats", _) => "STAT pid 1\r\nSTAT version 1.0.0\r\nEND",
            _ => "ERROR",
        };
        format!("{text}\r\n").into_bytes()
    }

    fn put(&mut self, key: String, flags: &str, value: Vec<u8>) -> &'static str {
        self.token += 1;
        self.items.insert(key, (flags.to_string(), value, self.token));
        "STORED"
    }

    fn values(&self, words: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for key in &words[1..] {
            let Some((flags, value, token)) = self.items.get(*key) else { continue };
            let token = if words[0] == "gets" { format!(" {token}") } else { String::new() };
            out.extend_from_slice(
                format!("VALUE {key} {flags} {}{token}\r\n", value.len()).as_bytes(),
            );
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"END\r\n");
        out
    }
}
