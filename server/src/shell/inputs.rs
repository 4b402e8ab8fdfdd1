//! What the member does with each thing that arrives.

use bytes::Bytes;
use common::control::{Party, ToServer};
use common::udp::Lane;
use raft::NodeId;

use super::disk_trouble::BeginAgain;
use super::inbox::Input;
use super::member::Member;
use super::operator;
use crate::config::Progress;
use crate::driver::Now;
use crate::membership::{Place, ends_refused};
use crate::wire;

impl Member {
    pub(super) fn input(&mut self, now: Now, input: Input) {
        match input {
            Input::Client(batch) => self.driver.client(now, batch),
            Input::Frame { from, link, lane, frame } => {
                if self.transport.is_current(from, link) {
                    self.frame(now, from, lane, &frame);
                }
            }
            Input::Synced { mark, took } => {
                self.log.done(took);
                self.room_found();
                self.driver.synced(now, mark);
            }
            Input::DiskFull(error) => self.disk_full(&error),
            Input::LogFailed(error) => {
                self.failed = Some(BeginAgain::disk_failed(error).into());
            }
            Input::Link { link, hello } if matches!(hello.from, Party::Operator { .. }) => {
                operator::listen(&link, &self.shell.inbox);
            }
            Input::Link { link, hello } => {
                let acknowledged = match &hello.from {
                    Party::Member { id, .. } => {
                        self.members.acknowledged(&self.driver, NodeId(id.0))
                    }
                    _ => None,
                };
                let accepted = self.transport.accept(&link, &hello, acknowledged);
                if let Some((peer, replaces)) = accepted {
                    if replaces {
                        // Its end will not be told: it is not the current one.
                        self.driver.link_lost(now, peer);
                    }
                    self.driver.link_up(peer);
                    self.members.heard_run(peer, self.transport.run_of(peer));
                }
            }
            Input::LinkClosed { from, link, reason } => {
                if self.transport.is_turned_away(from, link) {
                    self.failed =
                        Some(anyhow::anyhow!("server {from} turned this server away: {reason}"));
                }
                if self.transport.lost(from, link) {
                    tracing::info!(peer = from.0, reason, "link lost");
                    self.driver.link_lost(now, from);
                }
            }
            Input::LeaderGone { leader, term } => self.leader_gone(now, leader, term),
            Input::LogDamaged => self.checkpoints.replace_log(),
            Input::Fetched { peer, entries } => self.driver.fetched(now, peer, entries),
            Input::Routed { link, frame } => self.routed(now, link, &frame),
            Input::LbLost(number) => self.lbs.lost(number),
            Input::FromLb { lb, message } => self.lb_message(now, lb, message),
            Input::Operator(step) => self.operator(now, step),
            Input::Checkpointed(result) => self.checkpointed(result),
            Input::ChunkRead { peer, result } => self.chunk_read(now, peer, *result),
            Input::ChunkWritten { index, next_offset } => {
                self.driver.snapshot_written(now, index, next_offset);
            }
            Input::Arrived(arrived) => self.install.arrived(*arrived),
            Input::Placed => self.placed(now),
            Input::Stop => self.begin_stop(now),
        }
    }

    fn frame(&mut self, now: Now, from: NodeId, lane: Lane, frame: &Bytes) {
        let refused = match lane {
            Lane::Urgent | Lane::Bulk | Lane::Snapshot => match wire::decode(frame) {
                Ok(envelope) if envelope.from == from && envelope.to == self.id => {
                    self.joining.hear(&envelope.message);
                    return self.driver.message(now, envelope);
                }
                Ok(envelope) => format!("a message from {} to {}", envelope.from, envelope.to),
                Err(error) => error.to_string(),
            },
            Lane::Request => match self.request_frame(now, from, frame) {
                Ok(()) => return,
                Err(why) => why,
            },
            Lane::Control => return self.peer_message(now, from, frame),
        };
        tracing::warn!(peer = from.0, why = refused, "frame refused, link closed");
        if let Some(link) = self.transport.link_to(from) {
            link.close(&format!("frame refused: {refused}"));
        }
    }

    fn lb_message(&mut self, now: Now, lb: std::net::SocketAddr, message: ToServer) {
        match message {
            ToServer::Registered { lb: name, waiting_for, .. } => {
                tracing::info!(%lb, name, "registered");
                (self.shell.progress)(Progress::Registered { lb, waiting_for });
            }
            ToServer::Refused { why, cluster, dismissed } => {
                let lbs = self.shell.config.lbs.len();
                if dismissed && cluster == Some(self.cluster) {
                    self.shell.folder.confirm_last();
                }
                if ends_refused(&self.driver, self.cluster, cluster, lbs) {
                    self.failed =
                        Some(anyhow::anyhow!("load balancer {lb} refused this server: {why}"));
                } else {
                    tracing::warn!(%lb, why, "a load balancer of another cluster, not listened to");
                }
            }
            ToServer::Whereabouts { members } => self.transport.set_whereabouts(&members),
            ToServer::Adopt { cluster, id, voters, campaign } => {
                self.take_place(now, lb, &Place { cluster, id, voters, campaign });
            }
            order @ (ToServer::Operate { .. } | ToServer::Admit { .. }) => {
                self.order(now, lb, &order);
            }
            ToServer::Operated(_) => {}
            ToServer::Campaign { term } => self.driver.campaign_in(now, term),
        }
    }
}
