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
        let (elsewhere, choice) = self.clients.choose(client);
        let running: Vec<usize> =
            (0..self.hosts.len()).filter(|host| self.hosts[*host].process.is_some()).collect();
        let leader = self.leader().filter(|_| !elsewhere);
        let host = leader.or_else(|| running.get(choice as usize % running.len().max(1)).copied());
        let Some(host) = host else {
            return self.client_thinks(client);
        };
        let when = self.when();
        let (batch, requests) = self.clients.ask(client, when);
        self.send_batch(host, batch, requests);
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
            self.give(host, Input::Client { number: batch, requests });
        }
    }

    pub(crate) fn answer(&mut self, batch: u64, answer: &Answer) {
        self.fingerprint(7, batch as usize & 0xff);
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
