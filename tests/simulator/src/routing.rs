//! Clients of load balancers: the product's own router, over the links that
//! there are to the hosts. A load balancer here does with it what the product's
//! shell and client port do, in their order: a link that is lost is lost for
//! the router before the balancer hears of it; the routes that follow from
//! the balancer's view are told before anything that it wants done; answers go
//! to the router at once, beside what the balancer has still to hear.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use common::forward::{self, ForwardFrame};
use common::limits::REQUEST_DEADLINE;
use common::memcached::Request;
use lb::config::Policy;
use lb::registry::LinkId;
use lb::routing::{Job, Router};

use crate::client_port::{ClientPort, LbEnd};
use crate::clients::Answer;
use crate::control::AGAIN;
use crate::network::lb_node;
use crate::plan::Plan;
use crate::process::Input;
use crate::queue::Micros;
use crate::rng::Rng;
use crate::world::{Event, World};

/// Batches of a client of load balancers that go to one of them.
const THERE_PERMILLE: u64 = 900;

/// Batches in which the client asks for something that only a load balancer
/// knows, of those that have room for it.
const SPLIT_PERMILLE: u64 = 100;

/// A load balancer that stops closes its connections after this, as the
/// product's front end does.
const DRAIN: Micros = 1_000_000;

/// What happens on the way of requests by load balancers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// A batch reaches a load balancer.
    Request { lb: usize, batch: u64 },
    /// The oldest frame on its way to a host is due.
    ToHost(LinkId),
    /// The oldest frame on its way to a load balancer is due.
    ToLb(LinkId),
    /// The server on a host hears that a link is gone.
    HostLost { host: usize, life: u32, link: LinkId },
    /// The balancer hears that a link is gone.
    LbLost { lb: usize, life: u32, link: LinkId },
    /// A load balancer that stops has had its time.
    Stopped { lb: usize, life: u32 },
}

/// Which clients go to load balancers.
pub(crate) struct Customers(Vec<Option<Rng>>);

impl Customers {
    pub(crate) fn new(plan: &Plan) -> Self {
        let share = if plan.lbs > 0 { plan.routed_permille } else { 0 };
        let customer = |client| {
            let mut rng = Rng::new(plan.seed, 300 + client);
            rng.chance(share).then_some(rng)
        };
        Customers((0..plan.work.clients as u64).map(customer).collect())
    }

    /// Which of `lbs` load balancers the next batch of `client` goes to; `None`: to a server.
    pub(crate) fn choose(&mut self, client: usize, lbs: usize) -> Option<usize> {
        let rng = self.0.get_mut(client)?.as_mut()?;
        rng.chance(THERE_PERMILLE).then(|| rng.below(lbs as u64) as usize)
    }

    /// Where `client` asks for something else in between, if it does so.
    fn splits(&mut self, client: usize, requests: &[Request]) -> Option<usize> {
        let rng = self.0.get_mut(client)?.as_mut()?;
        if requests.len() < 2 || !rng.chance(SPLIT_PERMILLE) {
            return None;
        }
        let at = rng.between(1, requests.len() as u64 - 1) as usize;
        // A delete stands right behind the write whose entry is the one before
        // its own: see the witness.
        let next = requests[at..].iter().find(|request| request.is_write());
        (!matches!(next, Some(Request::Delete { .. }))).then_some(at)
    }
}

/// Which policies the load balancers of a run have.
pub(crate) fn draw_policies<const N: usize>(rng: &mut Rng) -> [Policy; N] {
    [(); N].map(|()| *rng.pick(&[Policy::Leader, Policy::RoundRobin, Policy::LeastLoaded]))
}

impl World {
    pub(crate) fn on_the_way(&mut self, way: Way) {
        match way {
            Way::Request { lb, batch } => self.request_lb(lb, batch),
            Way::ToHost(link) => self.frame_reaches_host(link),
            Way::ToLb(link) => self.frame_reaches_lb(link),
            Way::HostLost { host, life, link } if self.hosts[host].life == life => {
                self.give(host, Input::LbLost(link.0));
            }
            Way::LbLost { lb, life, link } if self.lbs[lb].life == life => {
                let reason = "lost".to_owned();
                self.balance(lb, lb::balancer::Input::Closed { link, reason });
            }
            Way::Stopped { lb, life } if self.lbs[lb].life == life => self.lb_has_stopped(lb),
            Way::HostLost { .. } | Way::LbLost { .. } | Way::Stopped { .. } => {}
        }
    }

    fn lb_time(&self, lb: usize) -> Duration {
        Duration::from_micros(self.now - self.lbs[lb].started_at)
    }

    /// A batch leaves for a load balancer.
    pub(crate) fn send_to_lb(&mut self, lb: usize, batch: u64, requests: Vec<Request>) {
        self.out.watch.trace.note(|| format!("batch {batch} to lb-{}: {requests:?}", lb + 1));
        self.requests.insert(batch, requests);
        let at = self.now + self.network.client_latency();
        self.queue.push(at, Event::Routing(Way::Request { lb, batch }));
    }

    fn request_lb(&mut self, lb: usize, batch: u64) {
        self.fingerprint(10, lb);
        let listens = self.lbs[lb].port.as_ref().is_some_and(|port| port.stops.is_none());
        if !listens {
            let at = self.now + self.network.client_latency();
            return self.queue.push(at, Event::Answer { batch, answer: Answer::Refused });
        }
        let Some(mut requests) = self.requests.get(&batch).cloned() else { return };
        let ids = self.clients.ids(batch);
        if let Some(client) = self.clients.sender(batch)
            && let Some(at) = self.customers.splits(client, &requests)
            && ids.session == 0
        {
            self.out.watch.trace.note(|| format!("batch {batch} is split at {at}"));
            requests.insert(at, Request::Discover { elasticache: false });
        }
        self.expect_answer(lb, batch);
        let now = self.lb_time(lb);
        let Some(port) = &self.lbs[lb].port else { return };
        let batch = port.batch(batch, requests).named(ids);
        self.proceed(lb, Some(Job::new(batch, now + REQUEST_DEADLINE)));
    }

    /// Tells a router something, and gives everybody who is answered by that
    /// the answer.
    fn with_router(&mut self, lb: usize, act: impl FnOnce(Duration, &mut Router<LbEnd>)) {
        let now = self.lb_time(lb);
        let Some(port) = &mut self.lbs[lb].port else { return };
        act(now, &mut port.router);
        let ready = port.router.pop_ready();
        self.proceed(lb, ready);
    }

    fn proceed(&mut self, lb: usize, next: Option<Job>) {
        let now = self.lb_time(lb);
        let Some(port) = &mut self.lbs[lb].port else { return };
        let (frames, answers) = port.proceed(now, next);
        for (link, frame) in frames {
            self.note_frame(lb, link, &frame, "asks");
            self.frame_to_host(link, frame);
        }
        for (batch, finished) in answers {
            self.check_steady_answer(lb, batch, &finished.out);
            if !finished.complete {
                let what = format!("batch {batch} at lb-{}", lb + 1);
                self.fail("a load balancer answers what it takes", what);
            }
            let at = self.now + self.network.client_latency();
            self.queue.push(at, Event::Answer { batch, answer: Answer::Replies(finished.out) });
        }
    }

    /// The balancer has heard something, and this is what it makes of it.
    pub(crate) fn follow_balancer(&mut self, lb: usize) {
        let Some(balancer) = &self.lbs[lb].balancer else { return };
        let routes = balancer.routes();
        self.with_router(lb, |now, router| router.set_routes(now, routes));
    }

    pub(crate) fn router_gains(&mut self, lb: usize, link: LinkId) {
        let Some(at) = self.control.link(link).filter(|at| at.lb_end) else { return };
        let pipe = Rc::clone(&at.frames.pipe);
        let room = self.plan.link_room;
        let Some(port) = &self.lbs[lb].port else { return };
        let end = port.end_of(link, pipe, room);
        self.with_router(lb, |_, router| router.link_up(link, end));
    }

    pub(crate) fn router_loses(&mut self, lb: usize, link: LinkId) {
        self.with_router(lb, |now, router| router.link_lost(now, link));
    }

    /// A load balancer looks at the clock.
    pub(crate) fn tick_router(&mut self, lb: usize) {
        let Some(port) = &mut self.lbs[lb].port else { return };
        if let Err(what) = port.count() {
            self.fail("nothing is repeated at full speed", format!("lb-{} {what}", lb + 1));
        }
        self.with_router(lb, |now, router| router.tick(now));
        let done = |port: &ClientPort| port.stops.is_some() && port.waiting() == (0, 0);
        if self.lbs[lb].port.as_ref().is_some_and(done) {
            self.lb_has_stopped(lb);
        }
    }

    /// A load balancer is asked to stop, and will be away for `length`.
    pub(crate) fn stop_lb(&mut self, lb: usize, length: Micros) {
        let Some(port) = self.lbs[lb].port.as_mut().filter(|port| port.stops.is_none()) else {
            return;
        };
        port.stops = Some(length);
        self.out.watch.trace.note(|| format!("lb-{} is to stop", lb + 1));
        self.with_router(lb, |now, router| router.stop(now));
        let life = self.lbs[lb].life;
        self.queue.push(self.now + DRAIN, Event::Routing(Way::Stopped { lb, life }));
    }

    /// Its front end has closed its connections.
    fn lb_has_stopped(&mut self, lb: usize) {
        let Some(port) = &self.lbs[lb].port else { return };
        let Some(length) = port.stops else { return };
        let waiting = port.waiting();
        if waiting != (0, 0) {
            let what = format!("lb-{} has {waiting:?} batches left", lb + 1);
            self.fail("a load balancer that stops answers what it has", what);
        }
        // Nobody waits any longer for it than must be, once all is well.
        let length = if self.healed { 0 } else { length };
        self.lose_lb(lb, length, false);
    }

    /// Whether no load balancer has anything left to answer.
    pub(crate) fn routers_are_idle(&self) -> bool {
        self.lbs.iter().all(|lb| lb.port.as_ref().is_some_and(ClientPort::is_idle))
    }

    fn note_frame(&mut self, lb: usize, link: LinkId, frame: &Bytes, verb: &str) {
        if !self.out.watch.trace.is_on() {
            return;
        }
        let host = self.control.link(link).map_or(0, |link| link.host);
        let what = forward::decode_forward(frame);
        self.out.watch.trace.note(|| format!("lb-{} {verb} h{host}: {what:?}", lb + 1));
    }

    fn frame_to_host(&mut self, link: LinkId, frame: Bytes) {
        let Some(at) = self.control.link(link) else { return };
        at.frames.to_host.push_back(frame);
        let at = self.now + self.network.client_latency();
        self.queue.push(at, Event::Routing(Way::ToHost(link)));
    }

    /// A server answers a load balancer, over the link that it was asked by.
    pub(crate) fn frame_to_lb(&mut self, link: LinkId, frame: Bytes) {
        let Some(at) = self.control.link(link).filter(|at| at.host_end) else { return };
        at.frames.to_lb.push_back(frame);
        let at = self.now + self.network.client_latency();
        self.queue.push(at, Event::Routing(Way::ToLb(link)));
    }

    fn frame_reaches_host(&mut self, number: LinkId) {
        let Some(link) = self.control.link(number).filter(|link| link.host_end) else { return };
        let (host, lb) = (link.host, link.lb);
        let at = &self.hosts[host];
        // It comes back under another id, and what has arrived waits for that.
        let begins_anew = at.process.is_none() && at.disk.id.is_some();
        if begins_anew || self.network.is_cut(lb_node(lb), host) {
            return self.queue.push(self.now + AGAIN, Event::Routing(Way::ToHost(number)));
        }
        let Some(frame) = link.frames.next_to_host() else { return };
        self.fingerprint(11, host);
        // A fresh server takes no notice: nobody routes anything there.
        self.give(host, Input::Routed { link: number.0, frame });
    }

    fn frame_reaches_lb(&mut self, number: LinkId) {
        let Some(link) = self.control.link(number).filter(|link| link.lb_end) else { return };
        let lb = link.lb;
        if self.network.is_cut(link.host, lb_node(lb)) {
            return self.queue.push(self.now + AGAIN, Event::Routing(Way::ToLb(number)));
        }
        let Some(frame) = link.frames.to_lb.pop_front() else { return };
        self.fingerprint(12, lb);
        self.note_frame(lb, number, &frame, "hears from");
        match forward::decode_forward(&frame) {
            Ok(ForwardFrame::Reply { number: answers, reply }) => {
                self.with_router(lb, |now, router| router.reply(now, number, answers, reply));
            }
            other => self.fail("servers only answer load balancers", format!("{other:?}")),
        }
    }

    /// A load balancer notices that a link is gone. Its balancer may hear of
    /// that a little later.
    pub(crate) fn lb_notices(&mut self, lb: usize, link: LinkId) {
        let life = self.lbs[lb].life;
        let late = self.disk_rng.chance(300);
        let at = self.now + if late { self.disk_rng.below(3_000) } else { 0 };
        self.queue.push(at, Event::Routing(Way::LbLost { lb, life, link }));
    }

    /// A host notices that a link is gone.
    pub(crate) fn host_notices(&mut self, host: usize, link: LinkId) {
        let life = self.hosts[host].life;
        self.queue.push(self.now, Event::Routing(Way::HostLost { host, life, link }));
    }
}
