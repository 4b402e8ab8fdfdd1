//! `stats` and `get-servers`, as a server answers them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use common::control::{MemberInfo, MemberRecord, Report, Role, Trouble};
use common::front_end::{Counters, VERSION_REPLY};
use common::ids::{ClusterId, ServerId};
use common::{discovery, limits};
use raft::{NodeId, RoleKind};

use super::Driver;

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// How this server is found.
    pub info: MemberInfo,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Process id.
    pub pid: u32,
    /// The client side's counters.
    pub counters: Arc<Counters>,
    /// When the process started, unix milliseconds.
    pub started_ms: u64,
    /// Decides the ids of its sessions for forwarded writes: random, and
    /// another one in each life of the server.
    pub session_seed: u64,
}

/// What was done since the process started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ServerStats {
    /// get requests answered here.
    pub reads: u64,
    /// Keys asked for by them.
    pub keys_read: u64,
    /// Keys that were not there.
    pub misses: u64,
    /// Commands applied (on every replica).
    pub writes: u64,
}

impl Driver {
    /// What the load balancers are told.
    pub fn report(&self, uptime_secs: u64) -> Report {
        let status = self.node.status();
        Report {
            info: self.facts.info.clone(),
            member: Some((self.facts.cluster, ServerId(status.id.0))),
            role: self.role(),
            term: status.term,
            leader: status.leader.map(|id| ServerId(id.0)),
            last_index: status.last_index,
            commit_index: status.commit,
            applied_index: self.keystore.applied(),
            members: self.committed_members(),
            keys: self.keystore.len(),
            memory_bytes: self.keystore.memory_bytes(),
            uptime_secs,
            reads: self.stats.reads,
            writes: self.stats.writes,
            connections: self.facts.counters.current_connections(),
            pid: self.facts.pid,
            may_found: false,
            heard_of: None,
            unheard: Vec::new(),
            trouble: self.trouble(),
            gone_leader: self.node.gone_leader().map(|(id, term)| (ServerId(id.0), term)),
            dismissed: self.node.committed_membership().map_or_else(Vec::new, dismissed),
            runs: Vec::new(),
        }
    }

    /// How this server is found.
    pub fn info(&self) -> &MemberInfo {
        &self.facts.info
    }

    /// Role for people and load balancers.
    pub fn role(&self) -> Role {
        let status = self.node.status();
        match status.role {
            RoleKind::Leader => Role::Leader,
            RoleKind::Candidate => Role::Candidate,
            RoleKind::Follower if self.node.membership().is_voter(status.id) => Role::Follower,
            RoleKind::Follower => Role::Learner,
        }
    }

    /// How a member is found, if its info can be read.
    pub fn member_info(&self, id: NodeId) -> Option<MemberInfo> {
        let member = self.node.membership().members.get(&id)?;
        serde_json::from_slice(&member.info).ok()
    }

    /// Its cluster.
    pub fn cluster(&self) -> ClusterId {
        self.facts.cluster
    }

    /// The membership in force, committed or not, with the addresses that can
    /// be read: whom to talk to.
    pub fn members(&self) -> Vec<MemberRecord> {
        records(self.node.membership())
    }

    /// The committed membership: what load balancers may act on. A change
    /// that is not committed yet can be lost with its leader.
    pub fn committed_members(&self) -> Vec<MemberRecord> {
        self.node.committed_membership().map_or_else(Vec::new, records)
    }

    /// Whom operators have removed, by the membership in force.
    pub fn dismissed(&self) -> Vec<MemberRecord> {
        dismissed(self.node.membership())
    }

    /// `get-servers`: the leader, then the others; nobody without a leader.
    pub(super) fn write_servers(&self, elasticache: bool, out: &mut BytesMut) {
        let mut servers: Vec<SocketAddr> = Vec::new();
        if let Some(leader) = self.node.leader() {
            let members = self.members();
            let (first, rest): (Vec<_>, Vec<_>) =
                members.iter().partition(|member| member.id.0 == leader.0);
            servers.extend(first.iter().chain(&rest).map(|member| member.info.client));
        }
        servers.truncate(limits::MAX_DISCOVERY_LINES);
        if elasticache {
            discovery::write_config_cluster(self.node.term(), &servers, out);
        } else {
            discovery::write_get_servers(&servers, out);
        }
    }

    /// `stats`, `stats raft` and the forms without effect here.
    pub(super) fn write_stats(&self, what: &[u8], out: &mut BytesMut) {
        match what {
            b"" => self.write_general_stats(out),
            b"raft" => self.write_raft_stats(out),
            b"reset" => return out.extend_from_slice(b"RESET\r\n"),
            b"settings" | b"items" | b"slabs" | b"sizes" | b"conns" => {}
            _ => return out.extend_from_slice(b"ERROR\r\n"),
        }
        out.extend_from_slice(b"END\r\n");
    }

    fn write_general_stats(&self, out: &mut BytesMut) {
        let counters = &self.facts.counters;
        let unix_ms = std::cmp::max(self.clock_ms, self.facts.started_ms);
        let mut line = StatLines(out);
        line.put("pid", self.facts.pid);
        line.put("time", unix_ms / 1000);
        line.put("version", VERSION_REPLY.trim_start_matches("VERSION ").trim_end());
        line.put("pointer_size", usize::BITS);
        line.put("curr_connections", counters.current_connections());
        line.put("total_connections", counters.total_connections());
        line.put("rejected_connections", counters.rejected_connections());
        line.put("cmd_get", self.stats.keys_read);
        line.put("cmd_set", self.stats.writes);
        line.put("get_hits", self.stats.keys_read - self.stats.misses);
        line.put("get_misses", self.stats.misses);
        line.put("bytes_read", counters.bytes_read());
        line.put("bytes_written", counters.bytes_written());
        line.put("curr_items", self.keystore.len());
        line.put("bytes", self.keystore.memory_bytes());
        line.put("threads", 1);
        self.write_raft_stats(out);
    }

    fn write_raft_stats(&self, out: &mut BytesMut) {
        let status = self.node.status();
        let mut line = StatLines(out);
        line.put("name", &self.facts.info.name);
        line.put("cluster", self.facts.cluster);
        line.put("raft_id", status.id.0);
        line.put("raft_role", format_args!("{:?}", self.role()).to_string().to_lowercase());
        line.put("raft_term", status.term);
        line.put("raft_leader", status.leader.map_or(0, |id| id.0));
        line.put("raft_last_index", status.last_index);
        line.put("raft_commit", status.commit);
        line.put("raft_applied", self.keystore.applied());
        line.put("raft_voters", self.node.membership().voters().count());
        line.put("raft_members", self.node.membership().members.len());
        line.put("trouble", self.trouble().map_or("-", Trouble::name));
        line.put("clock_behind_ms", self.clocks.behind_ms());
        line.put("raft_messages_refused", status.rejected);
        line.put("integrity_agreed_index", self.integrity.agreed_index());
        line.put("integrity_failures", self.integrity.failures());
        line.put("integrity_disagreements", self.integrity.disagreements());
        line.put("waiting_proposed", self.proposed.len());
        line.put("waiting_reads", self.read_groups.len());
        line.put("waiting_parked", self.parked.len());
    }
}

/// Writes `STAT name value` lines.
struct StatLines<'a>(&'a mut BytesMut);

impl StatLines<'_> {
    fn put(&mut self, name: &str, value: impl std::fmt::Display) {
        // Writing to a BytesMut cannot fail.
        let _ = write!(self.0, "STAT {name} {value}\r\n");
    }
}

fn records(membership: &raft::Membership) -> Vec<MemberRecord> {
    membership
        .members
        .iter()
        .filter_map(|(id, member)| {
            Some(MemberRecord {
                id: ServerId(id.0),
                voter: member.suffrage == raft::Suffrage::Voter,
                info: serde_json::from_slice(&member.info).ok()?,
            })
        })
        .collect()
}

fn dismissed(membership: &raft::Membership) -> Vec<MemberRecord> {
    let records = membership.dismissed.iter().filter_map(|(id, info)| {
        let info = serde_json::from_slice(info).ok()?;
        Some(MemberRecord { id: ServerId(id.0), voter: false, info })
    });
    records.collect()
}
