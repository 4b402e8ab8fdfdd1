//! Between the clients and the hosts.

use common::memcached::Request;

use crate::clients::{Answer, When};
use crate::process::Input;
use crate::world::{Event, World};

impl World {
    pub(crate) fn when(&mut self) -> When {
        let applied = self.out.watch.log.len() as u64;
        When { at: self.now, moment: self.out.watch.moment(), applied }
    }

    pub(crate) fn client(&mut self, client: usize) {
        if self.healed && self.ending.clients_stop(self.now) {
            return;
        }
        let running = self.running();
        let host = self.host_for(client, &running);
        if running.is_empty() {
            return self.client_thinks(client);
        }
        let when = self.when();
        let (batch, requests) = self.clients.next(client, when);
        self.dispatch(client, host, batch, requests);
    }

    /// A batch leaves for `host`, or for a load balancer if that is where its client goes.
    fn dispatch(&mut self, client: usize, host: usize, batch: u64, requests: Vec<Request>) {
        match self.customers.choose(client, self.lbs.len()) {
            Some(lb) => self.send_to_lb(lb, batch, requests),
            None => self.send_batch(host, batch, requests),
        }
        self.consider_hanging_up(client, batch);
    }

    fn running(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|host| self.hosts[*host].process.is_some()).collect()
    }

    /// Whom `client` asks: the leader as a rule, and one of `running`, if any is.
    fn host_for(&mut self, client: usize, running: &[usize]) -> usize {
        let (elsewhere, choice) = self.clients.choose(client);
        let leader = self.leader().filter(|_| !elsewhere);
        let other = || running.get(choice as usize % running.len().max(1)).copied();
        leader.or_else(other).unwrap_or(0)
    }

    /// The connection may break while the host goes on.
    fn consider_hanging_up(&mut self, client: usize, batch: u64) {
        if let Some(after) = self.clients.hangs_up(client, batch) {
            self.queue.push(self.now + after, Event::Answer { batch, answer: Answer::Broken });
        }
    }

    /// Sends a batch again if its answer leaves open what became of it.
    fn send_again(&mut self, batch: u64, answer: &Answer) -> bool {
        if !self.clients.wants_again(batch, answer) {
            return false;
        }
        let running = self.running();
        let Some(requests) = self.requests.get(&batch).filter(|_| !running.is_empty()).cloned()
        else {
            return false;
        };
        let Some((client, next)) = self.clients.again(batch) else { return false };
        // Not always the leader; and the sending before it may yet arrive.
        let host = self.host_for(client, &running);
        self.dispatch(client, host, next, requests);
        true
    }

    /// A batch leaves for a host.
    pub(crate) fn send_batch(&mut self, host: usize, batch: u64, requests: Vec<Request>) {
        self.out.watch.trace.note(|| format!("batch {batch} to h{host}: {requests:?}"));
        self.requests.insert(batch, requests);
        let at = self.now + self.network.client_latency();
        self.queue.push(at, Event::Request { host, batch });
    }

    pub(crate) fn request(&mut self, host: usize, batch: u64) {
        self.fingerprint(6, host);
        if self.hosts[host].process.is_none() {
            let at = self.now + self.network.client_latency();
            self.queue.push(at, Event::Answer { batch, answer: Answer::Refused });
            return;
        }
        if let Some(requests) = self.requests.get(&batch) {
            let requests = requests.clone();
            let ids = self.clients.ids(batch);
            self.give(host, Input::Client { number: batch, ids, requests });
        }
    }

    pub(crate) fn answer(&mut self, batch: u64, answer: &Answer) {
        self.fingerprint(7, batch as usize & 0xff);
        if self.clients.is_given_up(batch) || self.send_again(batch, answer) {
            return;
        }
        let when = self.when();
        let Some(requests) = self.requests.remove(&batch) else { return };
        self.out.watch.trace.note(|| format!("batch {batch} came back: {answer:?}"));
        match self.clients.answered(batch, &requests, answer, when) {
            Ok(client) if client < self.plan.work.clients => self.client_thinks(client),
            Ok(_) => {}
            Err(why) => self.fail("an answer that cannot be", why),
        }
    }
}
