//! Who dials whom. Pure: the transport dials by it, and the simulator lets links
//! come up by it.
//!
//! A pair of members needs one link, so one of the two dials, the one with the
//! smaller id. But it may not know that it has to: a member that was away for
//! long has an old membership, which names neither the others that came
//! meanwhile nor their addresses. So whoever waits to be dialled waits only for
//! a while. Of two members one always knows the other: the leader knows all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use raft::NodeId;

/// So long a member without a link waits to be dialled before it dials itself.
/// More than a member needs to notice that its link is lost, to dial and to be
/// answered; a link is replaced by a second one, and both ends by the same.
pub const UNDIALLED_FOR: Duration = Duration::from_millis(500);

/// How long `me` waits, while there is no link to `peer`, before it dials; `None`:
/// it never does. `members` is the membership that it knows.
pub fn dials_after(
    me: NodeId,
    peer: NodeId,
    members: &BTreeMap<NodeId, SocketAddr>,
) -> Option<Duration> {
    let address = members.get(&peer)?;
    // Who lost its disk is back at its address as another member, with a higher
    // id: its old self will answer nobody any more. That may be this server.
    let is_gone = members.iter().any(|(other, at)| *other > peer && at == address);
    if peer == me || is_gone {
        return None;
    }
    Some(if me < peer { Duration::ZERO } else { UNDIALLED_FOR })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(members: &[(u64, u8)]) -> BTreeMap<NodeId, SocketAddr> {
        let member = |&(id, host)| (NodeId(id), ([10, 0, 0, host], 6001).into());
        members.iter().map(member).collect()
    }

    #[test]
    fn of_two_members_the_smaller_id_dials_and_the_other_only_later() {
        let members = members(&[(1, 1), (2, 2)]);
        assert_eq!(dials_after(NodeId(1), NodeId(2), &members), Some(Duration::ZERO));
        assert_eq!(dials_after(NodeId(2), NodeId(1), &members), Some(UNDIALLED_FOR));
    }

    #[test]
    fn nobody_dials_itself_a_stranger_or_a_former_self() {
        let members = members(&[(1, 1), (3, 3), (5, 1)]);
        assert_eq!(dials_after(NodeId(3), NodeId(3), &members), None);
        assert_eq!(dials_after(NodeId(3), NodeId(4), &members), None);
        for me in [3, 5] {
            assert_eq!(dials_after(NodeId(me), NodeId(1), &members), None, "{me} at what 5 is now");
        }
        assert_eq!(dials_after(NodeId(3), NodeId(5), &members), Some(Duration::ZERO));
    }
}
