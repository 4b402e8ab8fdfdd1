//! The router with links that only remember what was queued.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::forward::{ForwardFrame, WriteIds, decode_forward};
use common::front_end::{Batch, Finish, Finished};
use common::limits::{LATE_CHANCE, MAX_UNANSWERED_WRITES, REQUEST_DEADLINE};
use common::memcached::{Parsed, Parser, Request, decode_requests};

use super::*;

mod relays;
mod stop;

/// One end of a link; the frames that were sent over it.
#[derive(Clone, Default)]
struct FakeLink {
    frames: Rc<RefCell<Vec<ForwardFrame>>>,
    closed: Rc<Cell<bool>>,
}

impl Wire for FakeLink {
    fn send(&self, encode: impl FnOnce(&mut BytesMut)) -> Result<(), SendError> {
        if self.closed.get() {
            return Err(SendError::Closed);
        }
        let mut frame = BytesMut::new();
        encode(&mut frame);
        self.frames.borrow_mut().push(decode_forward(&frame.freeze()).unwrap());
        Ok(())
    }
}

/// What a client got.
#[derive(Clone, Default)]
struct Client(Arc<Mutex<Option<String>>>);

impl Finish for Client {
    fn finish(&self, finished: Finished) {
        let text = match finished.complete {
            true => String::from_utf8_lossy(&finished.out).into_owned(),
            false => "dropped".to_owned(),
        };
        *self.0.lock().unwrap() = Some(text);
    }
}

impl Client {
    fn answer(&self) -> Option<String> {
        self.0.lock().unwrap().clone()
    }
}

struct World {
    router: Router<FakeLink>,
    links: Vec<FakeLink>,
    /// The last one that was to be opened.
    session: u64,
    now: Duration,
}

/// One request that was sent to a server.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    number: u64,
    ids: WriteIds,
    count: usize,
}

const OPENED: ForwardReply = ForwardReply::Done(Bytes::new());

fn done(text: &'static str) -> ForwardReply {
    ForwardReply::Done(Bytes::from_static(text.as_bytes()))
}

impl World {
    /// Three servers, of which the first leads and opens a session.
    fn new(policy: Policy) -> World {
        let router = Router::new(policy, 77);
        let now = Duration::from_secs(1);
        let mut world = World { router, links: Vec::new(), session: 0, now };
        for id in 0..3 {
            let link = FakeLink::default();
            world.links.push(link.clone());
            world.router.link_up(LinkId(id), link);
        }
        world.leads(0);
        world.open(0, OPENED);
        world
    }

    fn leads(&mut self, leader: u64) {
        let up = |id: &LinkId| !self.links[id.0 as usize].closed.get();
        let readers = (0..3).map(LinkId).filter(up).collect();
        let led = Some((ServerId(leader), 1));
        let routes = Routes { led, leader: Some(LinkId(leader)), readers, ..Routes::default() };
        self.router.set_routes(self.now, routes);
    }

    fn nobody_leads(&mut self) {
        self.router.set_routes(self.now, Routes::default());
    }

    /// Answers the open that `server` was asked for, each time for another
    /// session.
    fn open(&mut self, server: u64, reply: ForwardReply) {
        let asked = self.links[server as usize].frames.borrow_mut().remove(0);
        let ForwardFrame::OpenSession { number, session } = asked else { panic!("{asked:?}") };
        assert_ne!(session, std::mem::replace(&mut self.session, session));
        self.reply(server, number, reply);
    }

    fn lose(&mut self, server: u64) {
        self.links[server as usize].closed.set(true);
        self.router.link_lost(self.now, LinkId(server));
        self.settle();
    }

    fn ask(&mut self, text: &str) -> Client {
        self.ask_after(Duration::ZERO, text)
    }

    /// A batch that has waited so long behind others.
    fn ask_after(&mut self, waited: Duration, text: &str) -> Client {
        let mut input = BytesMut::from(text);
        let mut parser = Parser::new(1024);
        let mut requests = Vec::new();
        let mut ids = None;
        while let Parsed::Request(request) = parser.next(&mut input) {
            ids = ids.or(Some(parser.ids().unwrap_or_default()));
            requests.push(request);
        }
        let client = Client::default();
        let batch = Batch::new(requests, BytesMut::new(), text.len(), Arc::new(client.clone()))
            .named(ids.unwrap_or_default())
            .after(waited);
        let deadline = self.now + batch.time_left();
        self.proceed(Some(Job::new(batch, deadline)));
        client
    }

    fn proceed(&mut self, job: Option<Job>) {
        let own = |_: &Request, out: &mut BytesMut| out.extend_from_slice(b"own\r\n");
        proceed(job, own, |job| self.router.exchange(self.now, job));
    }

    fn settle(&mut self) {
        let ready = self.router.pop_ready();
        self.proceed(ready);
    }

    fn reply(&mut self, server: u64, number: u64, reply: ForwardReply) {
        self.router.reply(self.now, LinkId(server), number, reply);
        self.settle();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.router.tick(self.now);
        self.settle();
    }

    /// Takes what was sent to `server`.
    fn seen(&self, server: u64) -> Vec<Seen> {
        let frames = std::mem::take(&mut *self.links[server as usize].frames.borrow_mut());
        let seen = frames.into_iter().filter_map(|frame| match frame {
            ForwardFrame::Requests { number, ids, requests } => {
                Some(Seen { number, ids, count: decode_requests(requests).unwrap().len() })
            }
            ForwardFrame::OpenSession { .. } => None,
            ForwardFrame::Reply { .. } | ForwardFrame::Digest { .. } => {
                panic!("an answer to a server")
            }
        });
        seen.collect()
    }

    /// The only request that was sent to `server`.
    fn only(&self, server: u64) -> Seen {
        let seen = self.seen(server);
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }

    /// Nothing is left behind in any account.
    fn assert_empty(&self) {
        assert_eq!(self.router.waiting(), (0, 0));
        assert_eq!((self.router.bytes, self.router.parked_bytes), (0, 0));
    }
}

const SET: &str = "set k 0 0 1\r\nv\r\n";
const UNKNOWN_LINE: &str = "SERVER_ERROR timeout, outcome unknown\r\n";
const NO_LEADER_LINE: &str = "SERVER_ERROR no leader, not executed\r\n";

#[test]
fn a_batch_is_one_frame_and_its_answer_comes_back() {
    let mut world = World::new(Policy::RoundRobin);
    let client = world.ask("get a\r\nset k 0 0 1\r\nv\r\nversion\r\nget b\r\nquit\r\n");
    let seen = world.only(0);
    assert_eq!(seen.count, 4, "all but the quit at the end");
    assert_eq!(client.answer(), None);
    world.reply(1, seen.number, done("of another server"));
    assert_eq!(client.answer(), None, "only the one that was asked has an answer");
    world.reply(0, seen.number, done("END\r\nSTORED\r\n"));
    assert_eq!(client.answer().unwrap(), "END\r\nSTORED\r\n");
    world.assert_empty();
}

#[test]
fn what_the_load_balancer_knows_itself_is_answered_in_its_place() {
    let mut world = World::new(Policy::Leader);
    let client = world.ask("get-servers\r\nget a\r\nstats\r\nget b\r\nversion\r\n");
    let first = world.only(0);
    world.reply(0, first.number, done("A\r\n"));
    let second = world.only(0);
    assert_eq!((first.count, second.count), (1, 1));
    world.reply(0, second.number, done("B\r\n"));
    let answer = client.answer().unwrap();
    assert!(answer.starts_with("own\r\nA\r\nown\r\nB\r\nVERSION"), "{answer}");
    assert_eq!(world.ask("get-servers\r\n").answer().unwrap(), "own\r\n");
    world.assert_empty();
}

#[test]
fn reads_go_by_the_policy_and_writes_to_the_leader() {
    let mut world = World::new(Policy::RoundRobin);
    for _ in 0..6 {
        world.ask("get a\r\n");
        world.ask(SET);
    }
    let counts: Vec<_> = (0..3).map(|server| world.seen(server).len()).collect();
    assert_eq!(counts, [8, 2, 2]);
}

#[test]
fn reads_whose_server_is_gone_are_asked_elsewhere() {
    let mut world = World::new(Policy::RoundRobin);
    let client = world.ask("get a\r\n");
    let seen = world.only(1);
    world.lose(1);
    let again = world.only(0);
    assert_ne!(seen.number, again.number);
    world.reply(0, again.number, done("END\r\n"));
    assert_eq!(client.answer().unwrap(), "END\r\n");

    // One that has lost its leader: the leader itself answers.
    let client = world.ask("get a\r\n");
    let seen = world.only(2);
    world.reply(2, seen.number, ForwardReply::NotLeader);
    let last = world.only(0);
    world.reply(0, last.number, done("END\r\n"));
    assert_eq!(client.answer().unwrap(), "END\r\n");

    // One that follows nobody any more is not waited for.
    world.ask("get a\r\n");
    let client = world.ask("get a\r\n");
    world.only(0);
    let seen = world.only(2);
    let routes = Routes { readers: vec![LinkId(0)], ..world.router.routes.clone() };
    world.router.set_routes(world.now, routes);
    let last = world.only(0);
    assert_ne!(seen.number, last.number);
    world.reply(0, last.number, done("END\r\n"));
    assert_eq!(client.answer().unwrap(), "END\r\n");
}

#[test]
fn a_session_that_nobody_opens_is_asked_for_again_in_a_moment() {
    let mut world = World::new(Policy::Leader);
    world.router.session = Session::new(78);
    let client = world.ask(SET);
    let open = world.links[0].frames.borrow_mut().pop();
    let Some(ForwardFrame::OpenSession { number, .. }) = open else { panic!("{open:?}") };
    world.reply(0, number, ForwardReply::NotLeader);
    assert!(world.links[0].frames.borrow().is_empty(), "not at once");
    world.pass(Duration::from_millis(50));
    world.lose(0);
    world.leads(1);
    world.open(1, ForwardReply::SessionUnknown);
    world.pass(Duration::from_millis(50));
    world.open(1, OPENED);
    let seen = world.only(1);
    assert!(!seen.ids.again);
    world.reply(1, seen.number, done("STORED\r\n"));
    assert_eq!(client.answer().unwrap(), "STORED\r\n");
    world.assert_empty();
}

#[test]
fn under_a_session_a_write_goes_to_the_new_leader_with_the_same_ids() {
    let mut world = World::new(Policy::Leader);
    let clients = [world.ask("incr n 1\r\nget n\r\nincr n 1\r\n"), world.ask(SET)];
    let first = world.seen(0);
    let session = world.session;
    let ids =
        |first_sequence, done_below, again| WriteIds { session, first_sequence, done_below, again };
    assert_eq!((first[0].ids, first[1].ids), (ids(1, 1, false), ids(4, 1, false)));
    world.lose(0);
    assert!(clients.iter().all(|client| client.answer().is_none()));
    world.leads(1);
    let second = world.seen(1);
    assert_eq!((second[0].ids, second[1].ids), (ids(1, 1, true), ids(4, 1, true)));
    world.reply(1, second[0].number, done("1\r\nEND\r\n2\r\n"));
    // The one in between is deposed before it answers, by another that is alive.
    world.leads(2);
    let third = world.only(2);
    assert_eq!(third.ids, ids(4, 4, true), "what was answered need not be kept");
    world.reply(2, third.number, done("STORED\r\n"));
    assert_eq!(clients[0].answer().unwrap(), "1\r\nEND\r\n2\r\n");
    assert_eq!(clients[1].answer().unwrap(), "STORED\r\n");
    world.ask(SET);
    assert_eq!(world.only(2).ids, ids(5, 5, false));
}

#[test]
fn a_leader_that_has_lost_a_part_of_a_batch_is_asked_again_in_a_moment() {
    let mut world = World::new(Policy::Leader);
    let client = world.ask("incr n 1\r\nincr n 1\r\n");
    let first = world.only(0);
    world.reply(0, first.number, ForwardReply::Lost);
    assert!(world.seen(0).is_empty(), "not at once: it may lead on, and lose it again");
    world.pass(Duration::from_millis(50));
    let second = world.only(0);
    assert_eq!(second.ids, WriteIds { again: true, ..first.ids });
    world.reply(0, second.number, ForwardReply::Lost);
    world.leads(1);
    let third = world.only(1);
    assert_eq!(third.ids, second.ids, "another one at once");
    world.reply(1, third.number, done("1\r\n2\r\n"));
    assert_eq!(client.answer().unwrap(), "1\r\n2\r\n");
    world.assert_empty();
}

#[test]
fn a_write_of_a_session_that_is_over_is_sent_again_only_if_that_is_safe() {
    let mut world = World::new(Policy::Leader);
    let once = world.ask(SET);
    let seen = world.only(0);
    world.reply(0, seen.number, ForwardReply::SessionUnknown);
    assert_eq!(once.answer(), None);
    world.open(0, OPENED);
    let again = world.only(0);
    assert_eq!(again.ids.first_sequence, 1);
    world.reply(0, again.number, done("STORED\r\n"));
    assert_eq!(once.answer().unwrap(), "STORED\r\n");

    // Not executed by a server that does not lead: still sent once at most.
    let refused = world.ask(SET);
    let seen = world.only(0);
    world.reply(0, seen.number, ForwardReply::NotLeader);
    world.pass(Duration::from_millis(50));
    let seen = world.only(0);
    world.reply(0, seen.number, ForwardReply::SessionUnknown);
    world.open(0, OPENED);
    let seen = world.only(0);
    world.reply(0, seen.number, done("STORED\r\n"));
    assert_eq!(refused.answer().unwrap(), "STORED\r\n");

    // The first sending may have been executed.
    let twice = world.ask(SET);
    world.lose(0);
    world.leads(1);
    let seen = world.only(1);
    world.reply(1, seen.number, ForwardReply::SessionUnknown);
    assert_eq!(twice.answer().unwrap(), UNKNOWN_LINE);
    world.assert_empty();
}

#[test]
fn writes_that_the_client_has_named_keep_their_names() {
    let mut world = World::new(Policy::Leader);
    world.router.session = Session::new(78);
    let client = world.ask("incr n 1 @5.7.6\r\nset k 0 0 1 @5.8.6\r\nv\r\n");
    let ids = WriteIds { session: 5, first_sequence: 7, done_below: 6, again: false };
    let seen = world.only(0);
    assert_eq!((seen.ids, seen.count), (ids, 2), "without a session of the load balancer");
    world.lose(0);
    world.leads(1);
    let again = world.seen(1);
    assert_eq!(again[0].ids, WriteIds { again: true, ..ids });
    world.reply(1, again[0].number, done("1\r\nSTORED\r\n"));
    assert_eq!(client.answer().unwrap(), "1\r\nSTORED\r\n");

    // Only the client can give them others; and it may have sent them before.
    const UNKNOWN_SESSION: &str = "SERVER_ERROR session unknown, not executed\r\n";
    const OVER: &str = "SERVER_ERROR session unknown, outcome unknown\r\n";
    for (text, answer) in [("incr n 1 @5.9.9\r\n", UNKNOWN_SESSION), ("incr n 1 @5.9.9!\r\n", OVER)]
    {
        let client = world.ask(text);
        let seen = world.only(1);
        world.reply(1, seen.number, ForwardReply::SessionUnknown);
        assert_eq!(client.answer().unwrap(), answer);
    }
    world.nobody_leads();
    let (new, old) = (world.ask("incr n 1 @5.9.9\r\n"), world.ask("incr n 1 @5.9.9!\r\n"));
    world.pass(REQUEST_DEADLINE);
    assert_eq!(new.answer().unwrap(), NO_LEADER_LINE);
    assert_eq!(old.answer().unwrap(), UNKNOWN_LINE);
    world.assert_empty();
}

#[test]
fn without_a_leader_requests_wait_and_then_are_told_so() {
    let mut world = World::new(Policy::RoundRobin);
    let sent = world.ask(SET);
    world.lose(0);
    world.nobody_leads();
    let (write, read) = (world.ask(SET), world.ask("get k\r\n"));
    let quiet = world.ask("set k 0 0 1 noreply\r\nv\r\n");
    assert_eq!(world.router.waiting(), (0, 4));
    world.pass(REQUEST_DEADLINE - Duration::from_millis(1));
    assert_eq!(write.answer(), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(sent.answer().unwrap(), UNKNOWN_LINE, "it may have been executed before");
    assert_eq!(write.answer().unwrap(), NO_LEADER_LINE);
    assert_eq!(read.answer().unwrap(), NO_LEADER_LINE);
    assert_eq!(quiet.answer().unwrap(), "");
    world.assert_empty();
}

#[test]
fn the_time_behind_other_batches_counts() {
    let mut world = World::new(Policy::Leader);
    let executed = world.ask_after(Duration::from_secs(60), SET);
    let seen = world.only(0);
    world.pass(LATE_CHANCE - Duration::from_millis(1));
    world.reply(0, seen.number, done("STORED\r\n"));
    assert_eq!(executed.answer().unwrap(), "STORED\r\n", "as somebody leads");

    world.nobody_leads();
    let overdue = world.ask_after(REQUEST_DEADLINE, SET);
    assert_eq!(overdue.answer().unwrap(), NO_LEADER_LINE);
    let late = world.ask_after(REQUEST_DEADLINE - Duration::from_millis(10), "get k\r\n");
    world.pass(Duration::from_millis(9));
    assert_eq!(late.answer(), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(late.answer().unwrap(), NO_LEADER_LINE);
    world.assert_empty();
}

#[test]
fn a_server_that_does_not_answer_in_time() {
    let mut world = World::new(Policy::Leader);
    let clients = [world.ask(SET), world.ask("get k\r\n")];
    let seen = world.seen(0);
    world.pass(REQUEST_DEADLINE);
    assert_eq!(clients[0].answer().unwrap(), UNKNOWN_LINE);
    assert_eq!(clients[1].answer().unwrap(), NO_LEADER_LINE);
    world.reply(0, seen[0].number, done("STORED\r\n"));
    world.assert_empty();
}

#[test]
fn what_waits_is_bounded() {
    let mut world = World::new(Policy::Leader);
    world.nobody_leads();
    for _ in 0..MAX_PARKED_BATCHES {
        assert_eq!(world.ask(SET).answer(), None);
    }
    assert_eq!(world.ask(SET).answer().unwrap(), "SERVER_ERROR busy, not executed\r\n");
    world.leads(0);
    assert_eq!(world.router.waiting(), (MAX_PARKED_BATCHES, 0));

    // The replicated state keeps a bounded number of replies for a session.
    let incr = "incr n 1\r\n".repeat(64);
    let mut busy = 0;
    for _ in 0..2 * MAX_UNANSWERED_WRITES / 64 {
        busy += u64::from(world.ask(&incr).answer().is_some());
    }
    assert_eq!(busy, MAX_UNANSWERED_WRITES / 64 + MAX_PARKED_BATCHES as u64 / 64);
}
