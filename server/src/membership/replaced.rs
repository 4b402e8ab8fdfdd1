//! Servers whose place another one has taken.

use common::control::MemberRecord;
use raft::{NodeId, PeerStatus};

use super::{HEARD_LATELY, is_heard};
use crate::driver::Now;

/// Silent members whose address a later one answers at, which may be the leader
/// `own` itself: their disks were lost, or they would not have left it to
/// somebody else. Should one of them come back elsewhere after all, with its
/// data, it is admitted again like any other. `members` is asked only when
/// somebody is silent.
pub(super) fn replaced(
    own: NodeId,
    now: Now,
    peers: &[PeerStatus],
    members: impl FnOnce() -> Vec<MemberRecord>,
) -> Vec<NodeId> {
    let is_heard = |peer: &PeerStatus| is_heard(now, peer, HEARD_LATELY);
    if peers.iter().all(is_heard) {
        return Vec::new();
    }
    let is_there =
        |id: NodeId| id == own || peers.iter().any(|peer| peer.id == id && is_heard(peer));
    let members = members();
    let has_successor = |old: &&MemberRecord| {
        let at_its_address = |new: &MemberRecord| {
            new.id > old.id && new.info.peer == old.info.peer && is_there(NodeId(new.id.0))
        };
        !is_there(NodeId(old.id.0)) && members.iter().any(at_its_address)
    };
    members.iter().filter(has_successor).map(|old| NodeId(old.id.0)).collect()
}
