//! Where requests may go.

use common::ids::ServerId;

use crate::registry::LinkId;

/// Where requests may go.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Routes {
    /// Who leads, in which term.
    pub(crate) led: Option<(ServerId, u64)>,
    /// The leader's own link.
    pub(crate) leader: Option<LinkId>,
    /// Without that: servers that hand on to the leader what is for it, the best
    /// first.
    pub(crate) relays: Vec<LinkId>,
    /// Servers that follow that leader, and itself, in a fixed order; empty
    /// without a leader.
    pub(crate) readers: Vec<LinkId>,
}

impl Routes {
    pub(super) fn has(&self, link: LinkId) -> bool {
        let mut links = self.leader.iter().chain(&self.relays).chain(&self.readers);
        links.any(|other| *other == link)
    }
}
