//! Who speaks to whom, on every message between nodes.
//!
//! Addresses get reused: by a container, by a test, by an operator's mistake. A message that reaches the wrong node could
//! make it vote twice or count a copy that is not there, so each one names its cluster, sender and receiver, and a receiver
//! that is somebody else refuses it. The certificate at the other end has to be the sender's.

use cluster::ids::NodeId;
use proto::raft::Envelope;
use tonic::Status;

use super::caller::Caller;

/// This node, as other nodes know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalNode {
    pub cluster_id: [u8; 16],
    pub node_id: NodeId,
}

impl LocalNode {
    /// The envelope of a message from this node to `to`.
    #[must_use]
    pub fn envelope_to(&self, to: NodeId) -> Envelope {
        Envelope { cluster_id: self.cluster_id.to_vec().into(), from: self.node_id.0, to: to.0 }
    }

    /// The sender of a message that was meant for this node.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` when it was meant for another node or cluster, `INVALID_ARGUMENT` when it does not say.
    pub fn verify(&self, envelope: Option<&Envelope>) -> Result<NodeId, Status> {
        let Some(envelope) = envelope else {
            return Err(Status::invalid_argument("the message has no envelope"));
        };
        if envelope.cluster_id != self.cluster_id.as_slice() {
            return Err(Status::failed_precondition("the message is for another cluster"));
        }
        if envelope.to != self.node_id.0 {
            return Err(Status::failed_precondition(format!(
                "the message is for node {}, this is node {}: the sender has a wrong address",
                envelope.to, self.node_id
            )));
        }
        if envelope.from == 0 || envelope.from == self.node_id.0 {
            return Err(Status::invalid_argument(format!(
                "node {} cannot be the sender of a message to node {}",
                envelope.from, self.node_id
            )));
        }
        Ok(NodeId(envelope.from))
    }

    /// The sender of a message that was meant for this node, who has to be the one that the connection is from.
    ///
    /// # Errors
    /// Like [`verify`](Self::verify); `PERMISSION_DENIED` when the caller speaks in another node's name.
    pub fn verify_caller(
        &self,
        caller: Caller,
        envelope: Option<&Envelope>,
    ) -> Result<NodeId, Status> {
        let sender = self.verify(envelope)?;
        if caller != Caller::Node(sender) {
            return Err(Status::permission_denied(format!(
                "the message is in the name of node {sender}, but the certificate is not that node's"
            )));
        }
        Ok(sender)
    }

    /// Whether an answer is from `from`, to this node.
    ///
    /// # Errors
    /// Like [`verify`](Self::verify).
    pub fn verify_from(&self, envelope: Option<&Envelope>, from: NodeId) -> Result<(), Status> {
        let sender = self.verify(envelope)?;
        if sender != from {
            return Err(Status::failed_precondition(format!(
                "node {sender} answered in place of node {from}: its address is wrong"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: LocalNode = LocalNode { cluster_id: [7; 16], node_id: NodeId(1) };
    const TWO: LocalNode = LocalNode { cluster_id: [7; 16], node_id: NodeId(2) };

    #[test]
    fn what_was_meant_for_this_node_is_taken() {
        let envelope = ONE.envelope_to(NodeId(2));
        assert_eq!(TWO.verify(Some(&envelope)).unwrap(), NodeId(1));
        TWO.verify_from(Some(&envelope), NodeId(1)).unwrap();
    }

    #[test]
    fn nobody_speaks_in_another_nodes_name() {
        let envelope = ONE.envelope_to(NodeId(2));
        assert_eq!(TWO.verify_caller(Caller::Node(NodeId(1)), Some(&envelope)).unwrap(), NodeId(1));
        for caller in [Caller::Node(NodeId(3)), Caller::Stranger] {
            let refusal = TWO.verify_caller(caller, Some(&envelope)).unwrap_err();
            assert_eq!(refusal.code(), tonic::Code::PermissionDenied);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let elsewhere = LocalNode { cluster_id: [8; 16], ..TWO };
        let envelope = ONE.envelope_to(NodeId(2));
        assert!(elsewhere.verify(Some(&envelope)).is_err());
        assert!(TWO.verify(None).is_err());
        assert!(TWO.verify(Some(&ONE.envelope_to(NodeId(3)))).is_err());
        assert!(TWO.verify(Some(&TWO.envelope_to(NodeId(2)))).is_err());
        assert!(TWO.verify_from(Some(&envelope), NodeId(3)).is_err());
    }
}
