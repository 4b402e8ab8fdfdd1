//! The rules, on virtual time: a balancer, servers that are no more than
//! their reports, and whatever the test decides to lose.

use super::*;
use std::net::SocketAddr;

use common::control::{Hello, MemberInfo, MemberRecord, PROTOCOL_VERSION, Party, Role, Run};

mod bootstrap;
mod churn;
mod contact;
mod dismissed;
mod joining;
mod leader_gone;
mod moved;
mod refusals;
mod rotation;
mod several;
mod unseen;

const CLUSTER: ClusterId = ClusterId(0xC1);
const OTHER_CLUSTER: ClusterId = ClusterId(0xC2);

/// A server as the load balancer sees it.
#[derive(Clone)]
struct Server {
    link: LinkId,
    report: Report,
}

fn info(number: u16) -> MemberInfo {
    MemberInfo {
        folder: FolderId(u128::from(number)),
        name: format!("srv-{number}"),
        peer: ([127, 0, 0, 1], 6000 + number).into(),
        client: ([127, 0, 0, 1], 7000 + number).into(),
        run: None,
    }
}

fn record(id: u64, number: u16, voter: bool) -> MemberRecord {
    MemberRecord { id: ServerId(id), voter, info: info(number) }
}

/// The members 1, 2, ... of a cluster.
fn voters(count: u16) -> Vec<MemberRecord> {
    (1..=count).map(|number| record(u64::from(number), number, true)).collect()
}

impl Server {
    fn fresh(number: u16) -> Server {
        let report = Report::fresh(info(number), 100 + u32::from(number));
        Server { link: LinkId(0), report }
    }

    /// Server `number` with the id `number`, in a cluster of `members`.
    fn member(number: u16, role: Role, term: u64, members: &[MemberRecord]) -> Server {
        let mut server = Server::fresh(number);
        server.report.member = Some((CLUSTER, ServerId(u64::from(number))));
        server.report.role = role;
        server.report.term = term;
        server.report.members = members.to_vec();
        server.report.commit_index = term;
        server
    }

    fn leader(number: u16, term: u64, members: &[MemberRecord]) -> Server {
        Server::member(number, Role::Leader, term, members)
    }

    fn follower(number: u16, term: u64, members: &[MemberRecord]) -> Server {
        Server::member(number, Role::Follower, term, members)
    }

    /// Does what an `Adopt` says.
    fn adopt(&mut self, message: &ToServer) {
        let ToServer::Adopt { cluster, id, voters, .. } = message else {
            panic!("not an adoption: {message:?}");
        };
        self.report.member = Some((*cluster, *id));
        self.report.role = if voters.is_empty() { Role::Learner } else { Role::Follower };
        self.report.members.clone_from(voters);
    }
}

/// The balancer and its world.
struct World {
    balancer: Balancer,
    now: Duration,
    links: u64,
    /// What is durable.
    disk: Memory,
    disk_works: bool,
    /// Messages that nobody has looked at.
    sent: Vec<(LinkId, ToServer)>,
    closed: Vec<LinkId>,
    /// Addresses at which nobody answers.
    unreachable: Vec<SocketAddr>,
}

impl World {
    fn new(expect: usize) -> World {
        World::with_memory(expect, Memory::default())
    }

    fn with_memory(expect: usize, memory: Memory) -> World {
        let settings = Settings {
            name: "lb-1".to_owned(),
            pid: 1,
            expect,
            cluster_to_form: CLUSTER,
            config_version: 100,
        };
        World {
            balancer: Balancer::new(settings, memory.clone()),
            now: Duration::ZERO,
            links: 0,
            disk: memory,
            disk_works: true,
            sent: Vec::new(),
            closed: Vec::new(),
            unreachable: Vec::new(),
        }
    }

    /// The process dies and starts again; all links are gone.
    fn restart(&self, expect: usize) -> World {
        World::with_memory(expect, self.disk.clone())
    }

    fn handle(&mut self, input: Input) {
        let mut outputs = self.balancer.handle(self.now, input);
        while !outputs.is_empty() {
            let mut next = Vec::new();
            for output in outputs {
                match output {
                    Output::Send { link, message } => self.sent.push((link, message)),
                    Output::Close { link, .. } => self.closed.push(link),
                    Output::Log(_) => {}
                    Output::Probe { folder, peer } => {
                        let result = match self.unreachable.contains(&peer) {
                            true => Err("nobody answered within 3 s".to_owned()),
                            false => Ok(()),
                        };
                        let probed = Input::Probed { folder, peer, result };
                        next.extend(self.balancer.handle(self.now, probed));
                    }
                    Output::Persist(memory) => {
                        let result = if self.disk_works {
                            self.disk = memory;
                            Ok(())
                        } else {
                            Err("no space left on device".to_owned())
                        };
                        next.extend(self.balancer.handle(self.now, Input::Persisted(result)));
                    }
                }
            }
            outputs = next;
        }
    }

    /// Opens a link for `server`, without a report yet.
    fn open(&mut self, server: &mut Server) {
        self.links += 1;
        server.link = LinkId(self.links);
        let folder = server.report.info.folder;
        let from = match server.report.member {
            Some((cluster, id)) => {
                let (peer, runs) = (server.report.info.peer, server.report.runs.clone());
                Party::Member { cluster, id, folder, peer, runs, disk: None }
            }
            None => Party::Fresh { folder },
        };
        let remote = server.report.info.peer;
        let hello = Hello { version: PROTOCOL_VERSION, from };
        self.handle(Input::Opened { link: server.link, remote, hello });
    }

    /// Opens a link and reports.
    fn connect(&mut self, server: &mut Server) {
        self.open(server);
        self.report(server);
    }

    fn report(&mut self, server: &Server) {
        self.message(server, ToLb::Report(Box::new(server.report.clone())));
    }

    fn message(&mut self, server: &Server, message: ToLb) {
        self.handle(Input::Message { link: server.link, message: Box::new(message) });
    }

    fn break_link(&mut self, server: &Server) {
        self.handle(Input::Closed { link: server.link, reason: "reset".to_owned() });
    }

    /// Time passes; `servers` report each 250 ms as they should.
    fn pass(&mut self, ms: u64, servers: &[&Server]) {
        let end = self.now + Duration::from_millis(ms);
        while self.now < end {
            self.now = end.min(self.now + Duration::from_millis(50));
            if self.now.as_millis().is_multiple_of(250) {
                for server in servers {
                    self.report(server);
                }
            }
            self.handle(Input::Tick);
        }
    }

    /// The messages to `server` since the last look.
    fn received(&mut self, server: &Server) -> Vec<ToServer> {
        let mut received = Vec::new();
        self.sent.retain(|(link, message)| {
            if *link == server.link {
                received.push(message.clone());
            }
            *link != server.link
        });
        received
    }

    fn adoption(&mut self, server: &Server) -> Option<ToServer> {
        let mut received = self.received(server);
        received.retain(|message| matches!(message, ToServer::Adopt { .. }));
        assert!(received.len() <= 1, "adopted more than once: {received:?}");
        received.pop()
    }

    fn refusal(&mut self, server: &Server) -> Option<String> {
        self.received(server).into_iter().find_map(|message| match message {
            ToServer::Refused { why, .. } => Some(why),
            _ => None,
        })
    }

    /// What the server was told last that it waits for.
    fn waiting_for(&mut self, server: &Server) -> Option<String> {
        self.received(server)
            .into_iter()
            .rev()
            .find_map(|message| match message {
                ToServer::Registered { waiting_for, .. } => Some(waiting_for),
                _ => None,
            })?
            .map(|waiting| waiting.what)
    }

    fn rotation(&self) -> Vec<u16> {
        self.balancer.view().servers.iter().map(|server| server.port() - 7000).collect()
    }

    fn stats(&self) -> String {
        crate::stats::stats(&self.balancer, self.now)
    }

    fn stat(&self, key: &str) -> Option<String> {
        let text = self.stats();
        let mut values = text.lines().filter_map(|line| {
            line.strip_prefix("STAT ")?.strip_prefix(key)?.strip_prefix(' ').map(str::to_owned)
        });
        let value = values.next();
        assert_eq!(values.next(), None, "{key} occurs twice");
        value
    }
}
