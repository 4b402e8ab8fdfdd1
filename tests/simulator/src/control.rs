//! Links between hosts and load balancers: what a server's registration does,
//! and what QUIC gives it. A link brings its messages in order, late rather than
//! never, as long as both ends keep it; one that is cut, or whose other end is
//! silent, is given up after a second. Whatever was on its way is lost then.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use common::control::{Hello, Operation, PROTOCOL_VERSION, Party, Report, ToLb, ToServer};
use common::limits::REPORT_INTERVAL;
use common::udp::SILENCE_LIMIT;
use lb::balancer::Input;
use lb::registry::LinkId;

use crate::client_port::Frames;
use crate::network::lb_node;
use crate::orders::address_of;
use crate::plan::{MAX_HOSTS, MAX_LBS};
use crate::process;
use crate::queue::Micros;
use crate::world::{Event, World};

/// How often clocks are looked at, as a load balancer does.
pub(crate) const TICK: Micros = 50_000;

/// What cannot get through now is tried again so soon.
pub(crate) const AGAIN: Micros = 20_000;

/// All links, by their numbers, which are never used again.
#[derive(Default)]
pub(crate) struct Control {
    links: BTreeMap<LinkId, Link>,
    current: [[Option<LinkId>; MAX_LBS]; MAX_HOSTS],
    opened: u64,
}

pub(crate) struct Link {
    pub(crate) host: usize,
    pub(crate) lb: usize,
    /// Which ends have it open.
    pub(crate) host_end: bool,
    pub(crate) lb_end: bool,
    to_lb: VecDeque<ToLb>,
    to_host: VecDeque<ToServer>,
    pub(crate) frames: Frames,
    report_at: Micros,
    /// Since when nothing gets through.
    silent_since: Option<Micros>,
}

impl Control {
    /// A number for a new link.
    pub(crate) fn number(&mut self) -> LinkId {
        self.opened += 1;
        LinkId(self.opened)
    }

    pub(crate) fn link(&mut self, number: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&number)
    }

    /// Whether both ends have a link between them open.
    pub(crate) fn is_linked(&self, host: usize, lb: usize) -> bool {
        let link = self.current[host][lb].and_then(|number| self.links.get(&number));
        link.is_some_and(|link| link.host_end && link.lb_end)
    }

    /// Whether the order to remove somebody is on its way.
    pub(crate) fn brings_removal(&self) -> bool {
        self.links.values().any(|link| link.host_end && link.to_host.iter().any(is_removal))
    }

    /// Whether an adoption is on its way.
    pub(crate) fn brings_adoption(&self) -> bool {
        let adopts = |message: &ToServer| matches!(message, ToServer::Adopt { .. });
        self.links.values().any(|link| link.host_end && link.to_host.iter().any(adopts))
    }
}

/// Whether somebody is to be removed by this.
pub(crate) fn is_removal(message: &ToServer) -> bool {
    matches!(message, ToServer::Operate { wanted: Operation::Remove { .. }, .. })
}

pub(crate) fn micros(duration: Duration) -> Micros {
    duration.as_micros() as Micros
}

impl World {
    /// Several times a second: clocks, links, operators.
    pub(crate) fn mind_control(&mut self) {
        self.queue.push(self.now + TICK, Event::Control);
        for lb in 0..self.lbs.len() {
            self.balance(lb, Input::Tick);
            self.tick_router(lb);
        }
        for host in 0..self.hosts.len() {
            for lb in 0..self.lbs.len() {
                match self.control.current[host][lb] {
                    None => self.dial(host, lb),
                    Some(link) => self.mind_link(link),
                }
            }
        }
        self.mind_operators();
        self.mind_steadiness();
    }

    fn gets_through(&self, host: usize, lb: usize) -> bool {
        let lb = lb_node(lb);
        !self.network.is_cut(host, lb) && !self.network.is_cut(lb, host)
    }

    /// Whether the server on a host, fresh or not, is there to say something.
    fn speaks(&self, host: usize) -> bool {
        let at = &self.hosts[host];
        match at.disk.id {
            // One that waits for its disk just now says it a moment later.
            Some(_) => at.process.is_some() && !at.paused,
            None => at.is_fresh_and_up(self.now),
        }
    }

    fn dial(&mut self, host: usize, lb: usize) {
        let listens = self.lbs[lb].is_up() && !self.hosts[host].unlisted;
        if !listens || !self.speaks(host) || !self.gets_through(host, lb) {
            return;
        }
        let number = self.control.number();
        let link = Link {
            host,
            lb,
            host_end: true,
            lb_end: false,
            to_lb: VecDeque::new(),
            to_host: VecDeque::new(),
            frames: Frames::default(),
            report_at: Micros::MAX,
            silent_since: None,
        };
        self.control.links.insert(number, link);
        self.control.current[host][lb] = Some(number);
        let at = self.now + 2 * self.network.client_latency();
        self.queue.push(at, Event::LinkUp(number));
    }

    /// The other end has answered, if it could.
    pub(crate) fn link_up(&mut self, number: LinkId) {
        let Some(link) = self.control.links.get(&number) else { return };
        let (host, lb) = (link.host, link.lb);
        if !link.host_end || !self.lbs[lb].is_up() || !self.gets_through(host, lb) {
            return self.end_link(number);
        }
        self.open_link(number);
        self.report(number);
    }

    fn open_link(&mut self, number: LinkId) {
        let Some(link) = self.control.links.get_mut(&number) else { return };
        link.lb_end = true;
        let (host, lb) = (link.host, link.lb);
        let at = &self.hosts[host];
        let info = at.member_info();
        let (folder, peer) = (info.folder, info.peer);
        let from = match (at.disk.cluster, at.disk.id) {
            (Some(cluster), Some(id)) => {
                let id = common::ids::ServerId(id.0);
                Party::Member { cluster, id, folder, peer, runs: at.disk.runs.chain(), disk: None }
            }
            _ => Party::Fresh { folder },
        };
        let hello = Hello { version: PROTOCOL_VERSION, from };
        self.balance(lb, Input::Opened { link: number, remote: peer, hello });
        // Unless the balancer has closed it already.
        self.router_gains(lb, number);
    }

    /// A member is the first that a load balancer hears which has forgotten
    /// everything.
    pub(crate) fn introduce(&mut self, host: usize, lb: usize) {
        self.lose_end_of_host(host, lb);
        let number = self.control.number();
        let link = Link {
            host,
            lb,
            host_end: true,
            lb_end: true,
            to_lb: VecDeque::new(),
            to_host: VecDeque::new(),
            frames: Frames::default(),
            report_at: self.now,
            silent_since: None,
        };
        self.control.links.insert(number, link);
        self.control.current[host][lb] = Some(number);
        self.open_link(number);
        if let Some(report) = self.report_of(host, lb) {
            let message = Box::new(ToLb::Report(Box::new(report)));
            self.balance(lb, Input::Message { link: number, message });
        }
    }

    fn mind_link(&mut self, number: LinkId) {
        let Some(link) = self.control.links.get(&number) else { return };
        let (host, lb) = (link.host, link.lb);
        let speaks = self.speaks(host);
        let well = self.gets_through(host, lb) && speaks;
        let Some(link) = self.control.links.get_mut(&number) else { return };
        if well {
            link.silent_since = None;
        } else if self.now >= *link.silent_since.get_or_insert(self.now) + micros(SILENCE_LIMIT) {
            return self.end_link(number);
        }
        if link.lb_end && speaks && self.now >= link.report_at {
            self.report(number);
        }
    }

    /// Both ends know that a link is gone.
    fn end_link(&mut self, number: LinkId) {
        self.link_down(number);
        self.lb_link_down(number);
    }

    /// The host learns that a link is gone.
    pub(crate) fn link_down(&mut self, number: LinkId) {
        let Some(link) = self.control.links.get_mut(&number) else { return };
        let (host, knew) = (link.host, std::mem::take(&mut link.host_end));
        let current = &mut self.control.current[host][link.lb];
        current.take_if(|current| *current == number);
        if !link.lb_end {
            self.control.links.remove(&number);
        }
        if knew {
            self.host_notices(host, number);
        }
    }

    /// The load balancer learns it.
    pub(crate) fn lb_link_down(&mut self, number: LinkId) {
        let Some(link) = self.control.links.get_mut(&number) else { return };
        let (lb, knew) = (link.lb, std::mem::take(&mut link.lb_end));
        link.frames.pipe.closed.set(true);
        if !link.host_end {
            self.control.links.remove(&number);
        }
        if knew {
            self.lb_notices(lb, number);
        }
    }

    /// The process on a host is gone, and its links with it: the load
    /// balancers notice later.
    pub(crate) fn lose_links_of(&mut self, host: usize) {
        for lb in 0..self.lbs.len() {
            self.lose_end_of_host(host, lb);
        }
    }

    fn lose_end_of_host(&mut self, host: usize, lb: usize) {
        let Some(number) = self.control.current[host][lb] else { return };
        let [kept, frames] = [(); 2].map(|()| self.disk_rng.below(4) as usize);
        if let Some(link) = self.control.links.get_mut(&number) {
            link.to_host.clear();
            link.to_lb.truncate(kept);
            link.frames.lose_host(frames);
        }
        self.link_down(number);
        let at = self.now + self.disk_rng.between(1_000, micros(SILENCE_LIMIT));
        self.queue.push(at, Event::LbLinkDown(number));
    }

    /// A load balancer is gone, and its links with it: the hosts notice later.
    pub(crate) fn lose_links_to(&mut self, lb: usize) {
        let of = self.control.links.iter().filter(|(_, link)| link.lb == lb);
        let numbers: Vec<LinkId> = of.map(|(number, _)| *number).collect();
        for number in numbers {
            let [kept, frames] = [(); 2].map(|()| self.disk_rng.below(4) as usize);
            let Some(link) = self.control.links.get_mut(&number) else { continue };
            link.lb_end = false;
            link.to_lb.clear();
            link.to_host.truncate(kept);
            link.frames.lose_lb(frames);
            let at = self.now + self.disk_rng.between(1_000, micros(SILENCE_LIMIT));
            self.queue.push(at, Event::LinkDown(number));
        }
    }

    /// A load balancer closes a link: the host hears of it.
    pub(crate) fn close_link(&mut self, number: LinkId) {
        let Some(link) = self.control.links.get_mut(&number) else { return };
        link.lb_end = false;
        link.frames.pipe.closed.set(true);
        let at = self.now + self.network.client_latency();
        self.queue.push(at, Event::LinkDown(number));
    }

    fn report(&mut self, number: LinkId) {
        let Some(link) = self.control.links.get_mut(&number) else { return };
        link.report_at = self.now + micros(REPORT_INTERVAL);
        let (host, lb) = (link.host, link.lb);
        if let Some(report) = self.report_of(host, lb) {
            self.say_to_lb(number, ToLb::Report(Box::new(report)));
        }
    }

    /// Something has changed that all load balancers are to know.
    pub(crate) fn report_change(&mut self, host: usize) {
        for lb in 0..self.lbs.len() {
            if let Some(number) = self.control.current[host][lb]
                && self.control.links.get(&number).is_some_and(|link| link.lb_end)
            {
                self.report(number);
            }
        }
    }

    fn report_of(&self, host: usize, lb: usize) -> Option<Report> {
        let at = &self.hosts[host];
        // All hosts list the same load balancers, and the first has the smallest address.
        let may_found = lb == 0;
        if let Some(driver) = at.driver() {
            let runs = at.disk.runs.chain();
            return Some(Report { may_found, runs, ..driver.report(0) });
        }
        let fresh = at.is_fresh_and_up(self.now);
        let report = || Report {
            may_found,
            heard_of: at.heard_of,
            unheard: (1..self.lbs.len())
                .filter(|lb| !at.heard.contains(lb))
                .map(address_of)
                .collect(),
            runs: at.disk.runs.chain(),
            ..Report::fresh(at.member_info().clone(), 0)
        };
        fresh.then(report)
    }

    /// A server says something to one of its load balancers.
    pub(crate) fn tell_lb(&mut self, host: usize, lb: usize, message: ToLb) {
        if let Some(number) = self.control.current[host][lb] {
            self.say_to_lb(number, message);
        }
    }

    fn say_to_lb(&mut self, number: LinkId, message: ToLb) {
        let Some(link) = self.control.links.get_mut(&number) else { return };
        link.to_lb.push_back(message);
        let at = self.now + self.network.client_latency();
        self.queue.push(at, Event::ToLb(number));
    }

    pub(crate) fn say_to_host(&mut self, number: LinkId, message: ToServer) {
        let Some(link) = self.control.links.get_mut(&number) else { return };
        link.to_host.push_back(message);
        let at = self.now + self.network.client_latency();
        self.queue.push(at, Event::ToHost(number));
    }

    /// The oldest message on its way to a load balancer is due.
    pub(crate) fn reaches_lb(&mut self, number: LinkId) {
        let Some(link) = self.control.links.get_mut(&number) else { return };
        let lb = link.lb;
        if !link.lb_end {
            return;
        }
        if self.network.is_cut(link.host, lb_node(lb)) {
            return self.queue.push(self.now + AGAIN, Event::ToLb(number));
        }
        if let Some(message) = link.to_lb.pop_front() {
            self.fingerprint(8, lb);
            self.balance(lb, Input::Message { link: number, message: Box::new(message) });
        }
    }

    /// The oldest message on its way to a host is due.
    pub(crate) fn reaches_host(&mut self, number: LinkId) {
        let Some(link) = self.control.links.get_mut(&number) else { return };
        let (host, lb) = (link.host, link.lb);
        if !link.host_end {
            return;
        }
        if self.network.is_cut(lb_node(lb), host) {
            return self.queue.push(self.now + AGAIN, Event::ToHost(number));
        }
        let Some(message) = link.to_host.pop_front() else { return };
        self.fingerprint(9, host);
        if self.hosts[host].process.is_some() {
            self.give(host, process::Input::FromLb { lb, message });
        } else if self.speaks(host) {
            self.fresh_hears(host, lb, message);
        }
    }
}
