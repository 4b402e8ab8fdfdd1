//! What a seed stands for: the cluster, its timings, the clients' work and
//! the faults that meet it.

use lb::config::Policy;

use crate::faults::{ALL_FAULTS, Fault, FaultSet};
use crate::queue::Micros;
use crate::rng::Rng;
use crate::routing::draw_policies;

/// Hosts of a run at the most: seven servers and two in reserve.
pub(crate) const MAX_HOSTS: usize = 9;

/// Load balancers of a run at the most.
pub(crate) const MAX_LBS: usize = 3;

const MS: Micros = 1_000;
const SECOND: Micros = 1_000_000;

/// What happens to leaders.
const LEADER_ONLY: [Fault; 4] =
    [Fault::PauseLeader, Fault::IsolateLeader, Fault::CrashLeader, Fault::SlowSync];

/// What never stops in a run of many rounds.
const CHURN: [Fault; 9] = [
    Fault::Crash,
    Fault::CrashLeader,
    Fault::Transfer,
    Fault::Churn,
    Fault::Wipe,
    Fault::LbLoss,
    Fault::LbCut,
    Fault::DeadAfter,
    Fault::Partition,
];

/// Everything that is drawn before a run begins.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Servers that form the first membership.
    pub(crate) servers: usize,
    /// Hosts in all; those beyond `servers` join later.
    pub(crate) hosts: usize,
    /// Faults occur until then; afterwards everything heals.
    pub(crate) faults_end: Micros,
    pub(crate) faults: FaultSet,
    /// Mean time between two faults, and how long one lasts.
    pub(crate) fault_gap: Micros,
    pub(crate) fault_length: Micros,
    pub(crate) heartbeat: Micros,
    pub(crate) election_min: Micros,
    pub(crate) election_max: Micros,
    pub(crate) lease_reads: bool,
    /// Small windows, batches and caches, so that few entries fill them.
    pub(crate) tight: bool,
    pub(crate) promote_lag: u64,
    /// Entries between two checkpoints; 0: none are written.
    pub(crate) checkpoint_every: u64,
    pub(crate) network: NetworkPlan,
    pub(crate) disk: DiskPlan,
    pub(crate) work: WorkPlan,
    /// Between two comparisons of the replicas.
    pub(crate) check_interval: Micros,
    /// Load balancers; none where nobody comes or goes.
    pub(crate) lbs: usize,
    /// Faults begin anew after each recovery until then; 0: there is one round.
    pub(crate) churn_until: Micros,
    /// A leader removes voters that were silent for so long; 0: never.
    pub(crate) dead_after: Micros,
    /// How load balancers choose whom to read from.
    pub(crate) policies: [Policy; MAX_LBS],
    /// Clients of a thousand that go to load balancers, where there are any.
    pub(crate) routed_permille: u64,
    /// Frames for which the queue of a link to a host has room.
    pub(crate) link_room: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct NetworkPlan {
    pub(crate) latency: Micros,
    pub(crate) jitter: Micros,
    pub(crate) loss_permille: u64,
    pub(crate) duplicate_permille: u64,
    pub(crate) delay_permille: u64,
    pub(crate) delay: Micros,
}

#[derive(Clone, Debug)]
pub(crate) struct DiskPlan {
    pub(crate) sync: Micros,
    /// Followers wait for their disk in the turn, as fast disks allow.
    pub(crate) inline: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct WorkPlan {
    pub(crate) clients: usize,
    pub(crate) registers: u64,
    pub(crate) counters: u64,
    /// Mean pause of a client between two batches.
    pub(crate) think: Micros,
    /// Requests of a batch at the most.
    pub(crate) pipeline: u64,
    pub(crate) read_permille: u64,
    pub(crate) multi_permille: u64,
    pub(crate) noreply_permille: u64,
    pub(crate) value_bytes: u64,
    /// Requests that go to a server which is not the leader.
    pub(crate) elsewhere_permille: u64,
}

impl Plan {
    /// The plan that `seed` stands for, with so many servers if that is said.
    pub(crate) fn draw(seed: u64, servers: Option<usize>) -> Self {
        let rng = &mut Rng::new(seed, 0);
        let routing = &mut Rng::new(seed, 8);
        // Three and five are what people run, and where most schemes of
        // trouble need the fewest events.
        let drawn = *rng.pick(&[1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 5, 5, 6, 7]);
        let servers = servers.unwrap_or(drawn);
        // Some runs go after the leader alone, and after what it knows of its
        // own leadership: the rarest of all mistakes.
        let leader_only = Rng::new(seed, 7).chance(40);
        let drawn = draw_faults(rng);
        let faults = match leader_only {
            true => LEADER_ONLY.into_iter().fold(FaultSet::NONE, FaultSet::with),
            // Of a stream of its own, as it came later than the others.
            false if Rng::new(seed, 9).chance(250) => drawn.with(Fault::Rollback),
            false => drawn,
        };
        let spares = if faults.iter().any(Fault::changes_members) {
            rng.below((MAX_HOSTS - servers).min(2) as u64 + 1) as usize
        } else {
            0
        };
        let heartbeat = rng.between(15, 60) * MS;
        let election_min = heartbeat * rng.between(3, 6);
        let election_max = election_min + heartbeat * rng.between(2, 6);
        let hectic = rng.chance(400) || leader_only;
        Plan {
            seed,
            servers,
            hosts: servers + spares,
            faults_end: rng.between(4, 14) * SECOND,
            faults,
            fault_gap: if hectic { rng.between(60, 300) } else { rng.between(300, 2500) } * MS,
            fault_length: if hectic { rng.between(60, 600) } else { rng.between(200, 3000) } * MS,
            heartbeat,
            election_min,
            election_max,
            lease_reads: rng.chance(350) || leader_only,
            tight: rng.chance(400),
            promote_lag: *rng.pick(&[0, 5, 50]),
            checkpoint_every: *rng.pick(&[0, 20, 20, 100, 400]),
            network: draw_network(rng),
            disk: DiskPlan { sync: rng.between(50, 4000), inline: rng.chance(600) },
            work: match (draw_work(rng), leader_only) {
                (drawn, false) => drawn,
                // Many reads, also from whoever led before.
                (drawn, true) => WorkPlan {
                    clients: drawn.clients.max(4),
                    think: drawn.think.min(30 * MS),
                    read_permille: 800,
                    elsewhere_permille: 600,
                    ..drawn
                },
            },
            check_interval: rng.between(300, 3_000) * MS,
            lbs: match spares > 0 || faults.iter().any(Fault::needs_lb) {
                true => *rng.pick(&[1, 1, 2, 3]),
                false => 0,
            },
            churn_until: 0,
            dead_after: match faults.has(Fault::DeadAfter) {
                true => 2 * election_max + rng.below(3_000) * MS,
                false => 0,
            },
            policies: draw_policies(routing),
            routed_permille: *routing.pick(&[300, 600, 1_000]),
            link_room: *routing.pick(&[2, 10, 1_000]),
        }
    }

    /// Servers come, go, die and come back for `length`, round after round.
    pub(crate) fn churn_for(&mut self, length: Micros) {
        let rng = &mut Rng::new(self.seed, 6);
        self.churn_until = length;
        self.servers = self.servers.clamp(3, 5);
        self.hosts = self.servers + rng.between(2, 4) as usize;
        self.lbs = *rng.pick(&[1, 2, 2, 3]);
        self.checkpoint_every = *rng.pick(&[20, 100, 400]);
        self.dead_after = 2 * self.election_max + rng.below(3_000) * MS;
        self.work.think = rng.between(40, 120) * MS;
        self.next_round(0);
    }

    /// What goes wrong in a round of a run that has many of them, and how long.
    pub(crate) fn next_round(&mut self, round: u32) -> Micros {
        let rng = &mut Rng::new(self.seed, 500 + u64::from(round));
        let rots = [Fault::BitRot, Fault::RotAnywhere, Fault::MemoryRot];
        let drawn = rots.into_iter().fold(draw_faults(rng), FaultSet::without);
        self.faults = CHURN.into_iter().fold(drawn, FaultSet::with);
        self.fault_gap = rng.between(100, 1_500) * MS;
        self.fault_length = rng.between(100, 3_000) * MS;
        self.network = draw_network(rng);
        let length = rng.between(10, 40) * SECOND;
        if round == 0 {
            self.faults_end = length.min(self.churn_until);
        }
        length
    }

    /// Bytes of a snapshot that travel at a time.
    pub(crate) fn chunk_bytes(&self) -> usize {
        if self.tight { 100 } else { 4_000 }
    }
}

fn draw_faults(rng: &mut Rng) -> FaultSet {
    // Few kinds at a time go deeper than all of them at once, which mostly
    // keep each other from getting anywhere.
    let density = *rng.pick(&[0, 120, 250, 250, 400, 700]);
    let set = ALL_FAULTS
        .into_iter()
        .filter(|fault| *fault != Fault::Rollback)
        .fold(FaultSet::NONE, |set, fault| if rng.chance(density) { set.with(fault) } else { set });
    // Such a run need not end well, so that it shows less.
    let set = if rng.chance(300) { set } else { set.without(Fault::RotAnywhere) };
    // Which voters keep all their data is known only while none of them is
    // removed for being away.
    let rots = [Fault::BitRot, Fault::RotAnywhere, Fault::MemoryRot];
    match set.has(Fault::DeadAfter) {
        true => rots.into_iter().fold(set, FaultSet::without),
        false => set,
    }
}

fn draw_network(rng: &mut Rng) -> NetworkPlan {
    let latency = *rng.pick(&[60, 200, 1_000, 5_000]);
    NetworkPlan {
        latency,
        jitter: latency * rng.between(1, 10) / 10,
        loss_permille: *rng.pick(&[5, 20, 80, 250]),
        duplicate_permille: *rng.pick(&[5, 30, 150]),
        delay_permille: *rng.pick(&[2, 10, 40]),
        delay: rng.between(100, 1_500) * MS,
    }
}

fn draw_work(rng: &mut Rng) -> WorkPlan {
    WorkPlan {
        clients: rng.between(1, 6) as usize,
        registers: rng.between(1, 6),
        counters: rng.between(1, 3),
        think: rng.between(10, 120) * MS,
        pipeline: *rng.pick(&[1, 1, 3, 8]),
        read_permille: *rng.pick(&[200, 500, 800]),
        multi_permille: *rng.pick(&[0, 200, 500]),
        noreply_permille: *rng.pick(&[0, 0, 100]),
        value_bytes: *rng.pick(&[8, 8, 100, 2_000]),
        elsewhere_permille: *rng.pick(&[0, 200, 600]),
    }
}
