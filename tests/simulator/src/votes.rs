//! Who asks for votes, and by whose votes a leader is elected: voters, and
//! nobody else.

use std::collections::{BTreeMap, BTreeSet};

use raft::{Event, Membership, Message, NodeId, Output, RoleKind, Term};
use server::command::Payload;
use server::driver::Node;

use crate::oracle::Violation;

/// Votes of terms so far back are of no interest any more.
const KEPT_TERMS: Term = 20;

/// See the module's page.
#[derive(Default)]
pub(crate) struct Votes {
    /// Who has said yes to whom in a term.
    granted: BTreeMap<(Term, NodeId), BTreeSet<NodeId>>,
}

impl Votes {
    /// A core has produced `output`.
    pub(crate) fn check(&mut self, node: &Node, output: &Output<Payload>) -> Result<(), Violation> {
        for envelope in &output.send {
            match envelope.message {
                Message::VoteReply { granted: true } => {
                    let key = (envelope.term, envelope.to);
                    self.granted.entry(key).or_default().insert(envelope.from);
                }
                Message::Vote { .. } => self.check_candidate(node)?,
                _ => {}
            }
        }
        for event in &output.events {
            if let Event::Role { role: RoleKind::Leader, term, .. } = event {
                self.check_elected(node, *term)?;
                self.granted =
                    self.granted.split_off(&(term.saturating_sub(KEPT_TERMS), NodeId(0)));
            }
        }
        Ok(())
    }

    /// Whoever asks for votes has one itself: in the membership at the end of
    /// its log, or in the last one that it knows to be committed.
    fn check_candidate(&self, node: &Node) -> Result<(), Violation> {
        let id = node.id();
        let committed = node.snapshot_meta(node.commit());
        let votes = |membership: &Membership| membership.is_voter(id);
        if votes(node.membership()) || committed.is_some_and(|meta| votes(&meta.membership)) {
            return Ok(());
        }
        let what = format!("{id} asks for votes in term {}", node.term());
        Err(Violation::new("only voters campaign", what))
    }

    fn check_elected(&self, node: &Node, term: Term) -> Result<(), Violation> {
        let id = node.id();
        // With the first entry of its term it may have changed the membership.
        let committed = node.snapshot_meta(node.commit()).map(|meta| meta.membership);
        let yes = self.granted.get(&(term, id));
        let elects = |membership: &Membership| {
            let said_yes =
                |voter: &NodeId| *voter == id || yes.is_some_and(|yes| yes.contains(voter));
            let votes = membership.voters().filter(said_yes).count();
            votes > membership.voters().count() / 2
        };
        if elects(node.membership()) || committed.is_some_and(|committed| elects(&committed)) {
            return Ok(());
        }
        let what = format!("{id} leads in term {term} by the votes of {yes:?}");
        Err(Violation::new("a majority of the voters elects", what))
    }
}
