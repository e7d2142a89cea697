//! Who is at the other end of a connection, and whether that one still belongs here.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use cluster::ids::NodeId;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Code, Extensions, Status};

/// Whoever has proved in the handshake to be who they are, and whoever has not. Each request has one in its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Has a certificate of this cluster for this node.
    Node(NodeId),
    /// Has none.
    Stranger,
}

impl Caller {
    /// The caller of a request that came through the port for nodes. Who came any other way is a stranger.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or(Self::Stranger)
    }
}

/// The nodes that were removed from the cluster, for ever: their certificates may still be good, their word no longer is.
/// Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    removed: Arc<RwLock<BTreeSet<NodeId>>>,
}

impl Roster {
    /// Takes over who has been removed, by the catalog.
    pub fn set_removed(&self, nodes: BTreeSet<NodeId>) {
        *self.removed.write().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    #[must_use]
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.removed.read().unwrap_or_else(PoisonError::into_inner).contains(&node)
    }

    /// Whether this caller may ask what members may.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` for strangers; `PERMISSION_DENIED` for nodes that have been removed, in a way that they
    /// understand ([`says_removed`]).
    pub fn admit(&self, caller: Caller) -> Result<NodeId, Status> {
        match caller {
            Caller::Stranger => Err(Status::unauthenticated(
                "only members of the cluster may ask this: a node becomes one with `reelraft node join`",
            )),
            Caller::Node(node) if self.is_removed(node) => Err(removed(node)),
            Caller::Node(node) => Ok(node),
        }
    }
}

/// Where a refusal says why, for programs.
const REASON_HEADER: &str = "reelraft-reason";
const REMOVED: &str = "removed";

/// The refusal of a node that was removed.
fn removed(node: NodeId) -> Status {
    let mut reason = MetadataMap::new();
    reason.insert(REASON_HEADER, MetadataValue::<Ascii>::from_static(REMOVED));
    Status::with_metadata(
        Code::PermissionDenied,
        format!("node {node} has been removed from this cluster"),
        reason,
    )
}

/// Whether a refusal says that this node has been removed from the cluster.
#[must_use]
pub fn says_removed(status: &Status) -> bool {
    status.code() == Code::PermissionDenied
        && status.metadata().get(REASON_HEADER).is_some_and(|reason| reason == REMOVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_admitted_until_they_are_removed() {
        let roster = Roster::default();
        assert_eq!(roster.admit(Caller::Node(NodeId(2))).unwrap(), NodeId(2));
        let stranger = roster.admit(Caller::Stranger).unwrap_err();
        assert_eq!(stranger.code(), Code::Unauthenticated);
        assert!(!says_removed(&stranger));

        roster.clone().set_removed([NodeId(2)].into());
        let refusal = roster.admit(Caller::Node(NodeId(2))).unwrap_err();
        assert!(says_removed(&refusal), "{refusal:?}");
        roster.admit(Caller::Node(NodeId(3))).unwrap();
    }
}
