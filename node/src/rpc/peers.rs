//! Where the other nodes are, and the connections to them.
//!
//! Addresses come from two sources. Consensus knows the address that a member had when it became one; the catalog's table
//! of nodes knows the address that a node registered itself with, which is newer whenever the two differ.
//!
//! Connections are made when they are first used and shared from then on, one per node and [`Purpose`]: what must not wait
//! behind megabytes has a connection of its own. A lost connection is dialled again by the next call, so a node that was
//! restarted is reached by the first call after it listens again. Connections for consensus live on its thread, all others on
//! those of whoever made the address book.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use cluster::ids::NodeId;
use tokio::runtime::Handle;
use tonic::transport::Channel;

use super::envelope::LocalNode;
use super::tls::{Protocol, Tls};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Votes, heartbeats and transfers of leadership: tiny, and late means an election.
    Heartbeat,
    /// The stream of log entries.
    Append,
    /// Snapshots: as many bytes as the catalog has.
    Snapshot,
    /// Commands to the leader, read indexes and pings.
    Cluster,
    /// Blocks.
    Blocks,
}

impl Purpose {
    fn protocol(self) -> Protocol {
        match self {
            Self::Heartbeat | Self::Append => Protocol::Consensus,
            Self::Snapshot | Self::Cluster | Self::Blocks => Protocol::Calls,
        }
    }
}

/// Why there is no channel to a node.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerError {
    #[error("the address of node {0} is not known")]
    Unknown(NodeId),
    #[error("node {node} has the address {address:?}, which is not host:port: {reason}")]
    Address { node: NodeId, address: String, reason: String },
}

/// Which of two addresses wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Membership,
    Registration,
}

#[derive(Debug)]
struct Peer {
    address: String,
    source: Source,
    channels: BTreeMap<Purpose, Channel>,
}

/// The address book. Cloning it is cheap and shares it.
#[derive(Clone, Debug)]
pub struct Peers {
    local: LocalNode,
    tls: Arc<Tls>,
    /// Whose threads serve connections for calls, whoever is the first to use one.
    calls: Handle,
    book: Arc<RwLock<BTreeMap<NodeId, Peer>>>,
}

impl Peers {
    /// An empty address book of the node `local`, which speaks through `tls`. Connections for consensus are served by the
    /// runtime that uses them first, all others by the present one.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[must_use]
    pub fn new(local: LocalNode, tls: Arc<Tls>) -> Self {
        Self { local, tls, calls: Handle::current(), book: Arc::default() }
    }

    /// This node.
    #[must_use]
    pub fn local(&self) -> LocalNode {
        self.local
    }

    /// Takes over an address from consensus, unless the node has registered one itself.
    pub fn learn_member(&self, node: NodeId, address: &str) {
        self.learn(node, address, Source::Membership);
    }

    /// Takes over the address that a node registered in the catalog.
    pub fn learn_registered(&self, node: NodeId, address: &str) {
        self.learn(node, address, Source::Registration);
    }

    /// All other nodes whose address is known.
    #[must_use]
    pub fn known(&self) -> Vec<NodeId> {
        let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
        book.keys().copied().filter(|node| *node != self.local.node_id).collect()
    }

    /// The address of a node, `host:port`.
    #[must_use]
    pub fn address(&self, node: NodeId) -> Option<String> {
        let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
        book.get(&node).map(|peer| peer.address.clone())
    }

    /// The shared connection to `node` for `purpose`. Nothing is dialled before the first call on it.
    ///
    /// # Errors
    /// When no usable address is known.
    pub fn channel(&self, node: NodeId, purpose: Purpose) -> Result<Channel, PeerError> {
        {
            let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
            let peer = book.get(&node).ok_or(PeerError::Unknown(node))?;
            if let Some(channel) = peer.channels.get(&purpose) {
                return Ok(channel.clone());
            }
        }
        let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
        let peer = book.get_mut(&node).ok_or(PeerError::Unknown(node))?;
        if let Some(channel) = peer.channels.get(&purpose) {
            return Ok(channel.clone());
        }
        let protocol = purpose.protocol();
        let _on_its_threads = (protocol == Protocol::Calls).then(|| self.calls.enter());
        let channel =
            super::channel(&peer.address, node, &self.tls, protocol).map_err(|error| {
                PeerError::Address {
                    node,
                    address: peer.address.clone(),
                    reason: error.to_string(),
                }
            })?;
        peer.channels.insert(purpose, channel.clone());
        Ok(channel)
    }

    fn learn(&self, node: NodeId, address: &str, source: Source) {
        let settled = |peer: &Peer| {
            peer.source > source || (peer.source == source && peer.address == address)
        };
        {
            let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
            if book.get(&node).is_some_and(settled) {
                return;
            }
        }
        let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
        match book.get_mut(&node) {
            Some(peer) if settled(peer) => {}
            Some(peer) => {
                peer.source = source;
                if peer.address != address {
                    tracing::info!(%node, from = peer.address, to = address, "a node has moved");
                    peer.address = address.to_owned();
                    peer.channels.clear();
                }
            }
            None => {
                let peer = Peer { address: address.to_owned(), source, channels: BTreeMap::new() };
                book.insert(node, peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Peers {
        crate::rpc::testing::peers(LocalNode { cluster_id: [1; 16], node_id: NodeId(1) })
    }

    #[tokio::test]
    async fn what_a_node_says_of_itself_wins() {
        let peers = peers();
        peers.learn_member(NodeId(2), "127.0.0.1:1");
        peers.learn_registered(NodeId(2), "127.0.0.1:2");
        peers.learn_member(NodeId(2), "127.0.0.1:3");
        assert_eq!(peers.address(NodeId(2)).unwrap(), "127.0.0.1:2");
        peers.learn_registered(NodeId(2), "127.0.0.1:4");
        assert_eq!(peers.address(NodeId(2)).unwrap(), "127.0.0.1:4");
        assert_eq!(peers.known(), [NodeId(2)]);
    }

    #[tokio::test]
    async fn unusable_addresses_are_named() {
        let peers = peers();
        assert!(matches!(
            peers.channel(NodeId(3), Purpose::Blocks),
            Err(PeerError::Unknown(NodeId(3)))
        ));
        peers.learn_member(NodeId(3), "not an address");
        let error = peers.channel(NodeId(3), Purpose::Blocks).unwrap_err();
        assert!(error.to_string().contains("not an address"), "{error}");
    }
}
