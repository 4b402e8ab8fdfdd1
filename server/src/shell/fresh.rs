//! A server that is no member yet: registered, waiting to be taken into a
//! cluster.

use common::control::ToServer;
use common::front_end::answer_local;
use common::ids::{ClusterId, ServerId};
use common::memcached::{self, Reply};

use super::inbox::Input;
use super::{Shell, restore};
use crate::config::Progress;
use crate::membership::{self, Heard};

/// Serves until a load balancer names a cluster; `None` when asked to stop.
pub(super) async fn wait_for_adoption(
    shell: &mut Shell,
) -> anyhow::Result<Option<(ClusterId, ServerId)>> {
    (shell.progress)(Progress::Serving {
        client: shell.info.client,
        peer: shell.info.peer,
        replayed: 0,
    });
    let mut inputs = Vec::new();
    let mut adopted = None;
    loop {
        shell.inbox.wait().await;
        shell.inbox.take(&mut inputs);
        for input in inputs.drain(..) {
            match input {
                Input::Client(batch) => refuse(batch),
                Input::Link { link, .. } => link.close("this server is no member of a cluster yet"),
                // It is for the member that this server has just become.
                Input::FromLb { .. } if adopted.is_some() => shell.inbox.push(input),
                Input::FromLb { lb, message } => {
                    if let Some(member) = lb_message(shell, lb, message)? {
                        adopted = Some(member);
                    }
                }
                Input::Stop => return Ok(None),
                _ => {}
            }
        }
        if adopted.is_some() {
            return Ok(adopted);
        }
    }
}

fn lb_message(
    shell: &mut Shell,
    lb: std::net::SocketAddr,
    message: ToServer,
) -> anyhow::Result<Option<(ClusterId, ServerId)>> {
    match membership::heard_fresh(&shell.info, message) {
        Heard::Registered { lb: name, cluster, waiting_for } => {
            let what = waiting_for.as_ref().map(|waiting| &*waiting.what);
            tracing::info!(%lb, name, waiting_for = what, "registered");
            shell.hear_of(lb, cluster);
            (shell.progress)(Progress::Registered { lb, waiting_for });
            Ok(None)
        }
        Heard::Stops(why) => anyhow::bail!("load balancer {lb} {why}"),
        Heard::Dismissed(why) => {
            shell.folder.confirm_last();
            anyhow::bail!("load balancer {lb} {why}")
        }
        Heard::Joins(place) => {
            let (cluster, id) = (place.cluster, place.id);
            restore::adopt(shell, cluster, id, &place.voters)?;
            tracing::info!(%cluster, %id, voters = place.voters.len(), "taken into a cluster");
            if place.campaign {
                shell.inbox.push(Input::FromLb { lb, message: place.to_message() });
            }
            Ok(Some((cluster, id)))
        }
        Heard::Nothing => Ok(None),
    }
}

/// Without a cluster nothing can be read or written. What a member may have
/// executed before is not said to be not executed.
fn refuse(mut batch: common::front_end::Batch) {
    let why = if batch.ids.again { memcached::UNKNOWN } else { memcached::NO_LEADER };
    for request in std::mem::take(&mut batch.requests) {
        let keyed = request.is_read() || request.is_write();
        if keyed && !request.noreply() {
            Reply::Error(why).write(&mut batch.out);
        } else if let memcached::Request::Discover { elasticache } = request {
            if elasticache {
                common::discovery::write_config_cluster(0, &[], &mut batch.out);
            } else {
                common::discovery::write_get_servers(&[], &mut batch.out);
            }
        } else if let memcached::Request::Stats { .. } = request {
            batch.out.extend_from_slice(b"STAT raft_role fresh\r\nEND\r\n");
        } else {
            answer_local(&request, &mut batch.out);
        }
    }
    batch.finish();
}
