//! Links break, messages get lost, servers and the load balancer restart, in
//! an order that a seed decides. There is one cluster, ever, and once all is
//! well again everybody is in it.

use super::*;

const SERVERS: u16 = 7;
const EXPECT: usize = 2;

/// xorshift64*, G. Marsaglia / S. Vigna.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

struct Churn {
    world: World,
    servers: Vec<Server>,
    connected: Vec<bool>,
    random: Random,
    /// What the cluster has committed.
    members: Vec<MemberRecord>,
    term: u64,
    incarnation: u128,
    /// Servers that dial a load balancer which has started again.
    returning: Vec<usize>,
    lossy: bool,
}

impl Churn {
    fn new(seed: u64) -> Churn {
        Churn {
            world: World::new(EXPECT),
            servers: (1..=SERVERS).map(Server::fresh).collect(),
            connected: vec![false; usize::from(SERVERS)],
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            members: Vec::new(),
            term: 0,
            incarnation: CLUSTER.0,
            returning: Vec::new(),
            lossy: true,
        }
    }

    fn run(&mut self) {
        for _ in 0..100 {
            self.disturb();
            self.round();
        }
        self.lossy = false;
        self.world.disk_works = true;
        for server in 0..self.servers.len() {
            self.connect(server);
        }
        for _ in 0..200 {
            self.round();
        }
        for server in &self.servers {
            assert!(server.report.member.is_some(), "{} is left out", server.report.info.name);
        }
        assert_eq!(self.world.rotation().len(), common::limits::MAX_DISCOVERY_LINES);
    }

    fn disturb(&mut self) {
        let server = self.random.below(u64::from(SERVERS)) as usize;
        match self.random.below(16) {
            0..=3 if !self.connected[server] => self.connect(server),
            4 if self.connected[server] => self.disconnect(server),
            5 => {
                self.disconnect(server);
                self.connect(server);
            }
            6 => self.world.disk_works = self.random.one_in(2),
            7 if self.random.one_in(2) => self.restart(),
            _ => {}
        }
    }

    fn connect(&mut self, server: usize) {
        if !self.connected[server] {
            self.connected[server] = true;
            self.world.connect(&mut self.servers[server]);
        }
    }

    fn disconnect(&mut self, server: usize) {
        if self.connected[server] {
            self.connected[server] = false;
            self.world.break_link(&self.servers[server]);
        }
    }

    /// The load balancer starts again, with its memory or without. Losing it
    /// is safe as long as members report within a second: they dial it anew,
    /// one in each round.
    fn restart(&mut self) {
        let forget = self.random.one_in(2);
        let (links, settings) = (self.world.links, self.world.balancer.settings().clone());
        self.world = self.world.restart(EXPECT);
        // Links are never mixed up with those of another life.
        self.world.links = links;
        if forget {
            self.world.disk = Memory::default();
        }
        self.incarnation += 1;
        let settings = Settings { cluster_to_form: ClusterId(self.incarnation), ..settings };
        self.world.balancer = Balancer::new(settings, self.world.disk.clone());
        for server in 0..self.servers.len() {
            let was_connected = std::mem::take(&mut self.connected[server]);
            let must_return = forget && self.servers[server].report.member.is_some();
            if must_return || was_connected && self.random.one_in(2) {
                self.returning.push(server);
            }
        }
    }

    /// 50 ms: servers report, messages arrive or get lost, the cluster elects.
    fn round(&mut self) {
        self.world.now += Duration::from_millis(50);
        self.elect();
        if !self.returning.is_empty() {
            let next = self.random.below(self.returning.len() as u64) as usize;
            let next = self.returning.swap_remove(next);
            self.connect(next);
        }
        for server in 0..self.servers.len() {
            if self.connected[server] && !self.lost() {
                self.world.report(&self.servers[server]);
            }
        }
        self.world.handle(Input::Tick);
        for (link, message) in std::mem::take(&mut self.world.sent) {
            let receiver = (0..self.servers.len())
                .find(|server| self.connected[*server] && self.servers[*server].link == link);
            if let Some(receiver) = receiver
                && !self.lost()
            {
                self.deliver(receiver, &message);
            }
        }
    }

    fn lost(&mut self) -> bool {
        self.lossy && self.random.one_in(3)
    }

    fn deliver(&mut self, receiver: usize, message: &ToServer) {
        match message {
            ToServer::Refused { why, .. } => panic!("refused: {why}"),
            ToServer::Registered { .. }
            | ToServer::Campaign { .. }
            | ToServer::Operate { .. }
            | ToServer::Operated(_)
            | ToServer::Whereabouts { .. } => {}
            ToServer::Admit { info, .. } => {
                let leads = self.servers[receiver].report.role == Role::Leader;
                let known = self.members.iter().any(|member| member.info.folder == info.folder);
                if leads && !known {
                    let id = ServerId(self.members.len() as u64 + 1);
                    let info = info.clone();
                    self.members.push(MemberRecord { id, voter: false, info });
                }
            }
            ToServer::Adopt { cluster, id, voters, .. } => {
                if self.members.is_empty() {
                    self.members.clone_from(voters);
                }
                let report = &self.servers[receiver].report;
                if let Some(member) = report.member {
                    assert_eq!(member, (*cluster, *id), "adopted as somebody else");
                    return;
                }
                let place = self.members.iter().find(|m| m.info.folder == report.info.folder);
                assert_eq!(place.map(|member| member.id), Some(*id), "{voters:?}");
                self.servers[receiver].adopt(message);
                let mut clusters = self.servers.iter().filter_map(|server| server.report.member);
                assert!(clusters.all(|(other, _)| other == *cluster), "two clusters");
            }
        }
    }

    /// A stand-in for Raft: with both first voters inside, one leads,
    /// now and then another one, and all members know the membership.
    fn elect(&mut self) {
        let voters: Vec<usize> = (0..self.servers.len())
            .filter(|server| self.servers[*server].report.role != Role::Learner)
            .filter(|server| self.servers[*server].report.member.is_some())
            .collect();
        if voters.len() < 2 {
            return;
        }
        let leads = voters.iter().any(|voter| self.servers[*voter].report.role == Role::Leader);
        if !leads || self.random.one_in(40) {
            self.term += 1;
            let chosen = voters[self.random.below(voters.len() as u64) as usize];
            for voter in voters {
                let report = &mut self.servers[voter].report;
                report.role = if voter == chosen { Role::Leader } else { Role::Follower };
            }
        }
        for server in self.servers.iter_mut().filter(|server| server.report.member.is_some()) {
            server.report.term = self.term;
            server.report.members.clone_from(&self.members);
        }
    }
}

#[test]
fn there_is_one_cluster_and_in_the_end_everybody_is_in_it() {
    for seed in 0..100 {
        let mut churn = Churn::new(seed);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| churn.run()));
        assert!(result.is_ok(), "seed {seed}; {:#?}", churn.world.balancer.events());
    }
}
