//! The loop that keeps connections busy.
//!
//! Edge-triggered readiness, one read and one write per round trip. The
//! buffers for both directions are shared by all connections, so they stay in
//! the cache; a connection keeps bytes of its own only when the kernel took or
//! gave a part of a request or reply.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::options::{Limit, Plan};
use super::pace::{Pace, TIMER};
use super::report::{Progress, Tally};
use super::scanner::{Reply, Scanner, Step};
use super::targets::Targets;
use super::workload::{Kind, Workload};
use super::{Stopwatch, local};
use crate::error::{ADVICE_SERVER, Error, Role, Tried};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_AFTER: Duration = Duration::from_millis(20);
/// The loop looks at the clock, the bar and lost connections this often.
const TICK: Duration = Duration::from_millis(20);
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// Requests under way at the end are waited for so long.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// A measurement by number of requests ends when nothing has succeeded for so long.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 256 * 1024;

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    kind: Kind,
    key: u32,
    since: Instant,
}

/// One connection and what it waits for.
#[derive(Debug)]
struct Lane {
    stream: Option<TcpStream>,
    connected: bool,
    retry_at: Instant,
    flights: Vec<Flight>,
    answered: usize,
    scanner: Scanner,
    unsent: Vec<u8>,
    unread: Vec<u8>,
}

impl Lane {
    fn is_free(&self) -> bool {
        self.connected && self.answered == self.flights.len()
    }
}

/// All connections and the measurement.
pub(crate) struct Load<'a> {
    plan: &'a Plan,
    targets: &'a mut Targets,
    poll: Poll,
    lanes: Vec<Lane>,
    workload: Workload,
    pace: Option<Pace>,
    tally: Tally,
    /// Requests that may still be sent.
    budget: u64,
    /// Connections without a request under way, in an open loop.
    free: Vec<usize>,
    under_way: u64,
    output: Vec<u8>,
    input: Vec<u8>,
}

impl<'a> Load<'a> {
    /// Connects everything.
    pub(crate) fn new(plan: &'a Plan, targets: &'a mut Targets) -> Result<Self, Error> {
        let poll = Poll::new().map_err(|error| local(&error))?;
        let mut lanes = Vec::with_capacity(plan.connections);
        for index in 0..plan.connections {
            let mut stream = connect(targets.of(index))?;
            poll.registry()
                .register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)
                .map_err(|error| local(&error))?;
            lanes.push(Lane {
                stream: Some(stream),
                connected: true,
                retry_at: Instant::now(),
                flights: Vec::with_capacity(plan.pipeline),
                answered: 0,
                scanner: Scanner::new(),
                unsent: Vec::new(),
                unread: Vec::new(),
            });
        }
        let pace = match plan.rate {
            Some(rate) => Some(Pace::new(rate, &poll).map_err(|error| local(&error))?),
            None => None,
        };
        let budget = match plan.limit {
            Limit::Requests(requests) => requests,
            Limit::Duration(_) => u64::MAX,
        };
        Ok(Load {
            plan,
            targets,
            poll,
            lanes,
            workload: Workload::new(plan),
            pace,
            tally: Tally::new(),
            budget,
            free: (0..plan.connections).collect(),
            under_way: 0,
            output: Vec::new(),
            input: vec![0; READ_BYTES],
        })
    }

    /// Warms up, measures, waits for the last answers.
    pub(crate) fn run(mut self, progress: &Progress) -> io::Result<Tally> {
        let mut watch = Stopwatch::start();
        let begin = watch.started();
        if let Some(pace) = &mut self.pace {
            pace.start(begin);
        }
        let mut warm = self.plan.warmup.is_zero();
        let mut shown = (begin, 0);
        let mut events = Events::with_capacity(1024);
        self.feed_free(begin);
        loop {
            let wait = self.pace.as_ref().and_then(|pace| pace.wait(Instant::now()));
            match self.poll.poll(&mut events, Some(wait.unwrap_or(TICK).min(TICK))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            self.serve_all(&events);
            let now = Instant::now();
            if !warm && now - begin >= self.plan.warmup {
                warm = true;
                watch = Stopwatch::start();
                self.tally = Tally::new();
                shown = (now, 0);
            }
            if self.is_over(warm, &watch, now) {
                break;
            }
            self.reconnect(now);
            self.feed_free(now);
            if now - shown.0 >= SHOW_EVERY {
                let done = self.tally.done();
                let per_second = (done - shown.1) as f64 / (now - shown.0).as_secs_f64();
                progress.show(now - begin, done, per_second);
                shown = (now, done);
            }
        }
        self.tally.close(watch.read());
        let tally = std::mem::take(&mut self.tally);
        self.drain(&mut events)?;
        Ok(tally)
    }

    fn is_over(&self, warm: bool, watch: &Stopwatch, now: Instant) -> bool {
        match self.plan.limit {
            Limit::Duration(duration) => warm && now - watch.started() >= duration,
            Limit::Requests(_) => {
                self.budget == 0 && self.under_way == 0 || self.tally.idle(now) > GIVE_UP_AFTER
            }
        }
    }

    /// Lets requests under way finish, so that the next measurement does not
    /// find the server still at work on them.
    fn drain(&mut self, events: &mut Events) -> io::Result<()> {
        self.budget = 0;
        let until = Instant::now() + LAST_ANSWERS;
        while self.under_way > 0 && Instant::now() < until {
            match self.poll.poll(events, Some(TICK)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            self.serve_all(events);
        }
        Ok(())
    }

    fn serve_all(&mut self, events: &Events) {
        for event in events {
            match (event.token(), &self.pace) {
                (TIMER, Some(pace)) => pace.ticked(),
                (token, _) => self.serve(token.0, event.is_writable()),
            }
        }
    }

    fn serve(&mut self, index: usize, writable: bool) {
        let lane = &mut self.lanes[index];
        let Some(stream) = &mut lane.stream else { return };
        if !lane.connected {
            match stream.take_error() {
                Ok(None) if stream.peer_addr().is_ok() => {
                    lane.connected = true;
                    return self.feed(index, Instant::now());
                }
                Ok(None) => return,
                Ok(Some(_)) | Err(_) => return self.lose(index, "cannot connect"),
            }
        }
        if writable && !lane.unsent.is_empty() {
            let unsent = std::mem::take(&mut lane.unsent);
            self.send(index, &unsent);
        }
        self.receive(index);
    }

    /// Reads until the kernel has no more: a short read says so without another call.
    fn receive(&mut self, index: usize) {
        loop {
            let lane = &mut self.lanes[index];
            let Some(stream) = &mut lane.stream else { return };
            let kept = lane.unread.len();
            self.input[..kept].copy_from_slice(&lane.unread);
            let received = match stream.read(&mut self.input[kept..]) {
                Ok(0) => return self.lose(index, "the server closed the connection"),
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return self.lose(index, &format!("connection lost: {error}")),
            };
            let now = Instant::now();
            let filled = kept + received;
            if !self.scan(index, filled, now) {
                return self.lose(index, "an answer that does not fit the request");
            }
            if self.lanes[index].is_free() {
                self.feed(index, now);
            }
            if filled < self.input.len() {
                return;
            }
        }
    }

    /// Counts the replies in the shared input; false if they make no sense.
    fn scan(&mut self, index: usize, filled: usize, now: Instant) -> bool {
        let lane = &mut self.lanes[index];
        let input = &self.input[..filled];
        let (mut at, mut succeeded) = (0, false);
        while let Some(flight) = lane.flights.get(lane.answered) {
            match lane.scanner.next(flight.kind, flight.key, input, &mut at) {
                Step::More => break,
                Step::Garbage => return false,
                Step::Reply(reply) => {
                    lane.answered += 1;
                    self.under_way -= 1;
                    let latency = now.saturating_duration_since(flight.since);
                    match reply {
                        Reply::Stored => self.tally.set(latency),
                        Reply::Hit => self.tally.get(latency, true),
                        Reply::Miss => self.tally.get(latency, false),
                        Reply::Refused(line) => {
                            self.tally.error(&String::from_utf8_lossy(line), 1);
                        }
                    }
                    succeeded |= !matches!(reply, Reply::Refused(_));
                }
            }
        }
        if succeeded {
            self.tally.mark(now);
        }
        lane.unread.clear();
        lane.unread.extend_from_slice(&input[at..]);
        // All is answered and more came: nobody asked for it.
        lane.unread.is_empty() || lane.answered < lane.flights.len()
    }

    /// Gives a free connection its next requests, as far as there are any.
    fn feed(&mut self, index: usize, now: Instant) {
        let mut output = std::mem::take(&mut self.output);
        output.clear();
        let lane = &mut self.lanes[index];
        lane.flights.clear();
        lane.answered = 0;
        while lane.flights.len() < self.plan.pipeline && self.budget > 0 {
            let since = match &mut self.pace {
                None => now,
                Some(pace) => match pace.take(now) {
                    Some(due) => due,
                    None => break,
                },
            };
            let (kind, key) = self.workload.push_next(&mut output);
            lane.flights.push(Flight { kind, key, since });
            self.budget -= 1;
        }
        self.under_way += lane.flights.len() as u64;
        if lane.flights.is_empty() {
            self.free.push(index);
        } else {
            self.send(index, &output);
        }
        self.output = output;
    }

    fn feed_free(&mut self, now: Instant) {
        while self.budget > 0 && self.pace.as_ref().is_none_or(|pace| pace.next_due() <= now) {
            let Some(index) = self.free.pop() else { return };
            if self.lanes[index].is_free() {
                self.feed(index, now);
            }
        }
    }

    fn send(&mut self, index: usize, bytes: &[u8]) {
        let lane = &mut self.lanes[index];
        let Some(stream) = &mut lane.stream else { return };
        let mut sent = 0;
        while sent < bytes.len() {
            match stream.write(&bytes[sent..]) {
                Ok(written) => sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    lane.unsent.extend_from_slice(&bytes[sent..]);
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.lose(index, &format!("connection lost: {error}")),
            }
        }
    }

    /// Counts what was under way as errors and plans the next connection.
    fn lose(&mut self, index: usize, why: &str) {
        let lane = &mut self.lanes[index];
        let unanswered = (lane.flights.len() - lane.answered) as u64;
        self.under_way -= unanswered;
        self.tally.error(why, unanswered);
        if !lane.connected {
            self.tally.connect_failure();
        }
        lane.stream = None;
        lane.connected = false;
        lane.flights.clear();
        lane.answered = 0;
        lane.unsent.clear();
        lane.unread.clear();
        lane.scanner = Scanner::new();
        lane.retry_at = Instant::now() + RECONNECT_AFTER;
    }

    fn reconnect(&mut self, now: Instant) {
        let is_due = |lane: &Lane| lane.stream.is_none() && lane.retry_at <= now;
        if !self.lanes.iter().any(is_due) {
            return;
        }
        self.targets.refresh();
        for index in 0..self.lanes.len() {
            if !is_due(&self.lanes[index]) {
                continue;
            }
            let opened = self.targets.of(index).ok_or(ErrorKind::NotFound.into());
            let opened = opened.and_then(TcpStream::connect).and_then(|mut stream| {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut stream, Token(index), interest)?;
                stream.set_nodelay(true)?;
                Ok(stream)
            });
            match opened {
                Ok(stream) => self.lanes[index].stream = Some(stream),
                Err(_) => self.lose(index, "cannot connect"),
            }
        }
    }
}

fn connect(server: Option<SocketAddr>) -> Result<TcpStream, Error> {
    let unreachable = |tried: Vec<Tried>| Error::Unreachable { tried, advice: ADVICE_SERVER };
    let address = server.ok_or_else(|| unreachable(Vec::new()))?;
    std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
        .and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok(TcpStream::from_std(stream))
        })
        .map_err(|error| {
            unreachable(vec![Tried { address, role: Role::Server, said: error.to_string() }])
        })
}
