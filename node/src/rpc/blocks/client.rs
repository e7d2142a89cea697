//! Calls to other nodes' block stores.

use bytes::Bytes;
use cluster::command::BlockRef;
use cluster::ids::{BlockHash, NodeId};
use cluster::placement::release::Moment;
use proto::blocks::blocks_client;
use proto::blocks::{ConfirmRequest, GetRequest, HasRequest, PutRequest};
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::BLOCK_BYTES_HEADER;
use crate::rpc::MESSAGE_BYTES_MAX;
use crate::rpc::peers::{Peers, Purpose};

/// What `Has` and `Confirm` ask for and answer is small; this is what it counts in the receiver's budget.
const HAS_COST_BYTES: usize = 256 << 10;

/// Calls to the block stores of all other nodes. A call ends when its future is dropped; deadlines are the caller's.
#[derive(Clone, Debug)]
pub struct BlocksClient {
    peers: Peers,
}

impl BlocksClient {
    #[must_use]
    pub fn new(peers: Peers) -> Self {
        Self { peers }
    }

    /// Returns when the block is durable on `to`.
    ///
    /// # Errors
    /// Those of the service (see `blocks.proto`); `UNAVAILABLE` when the node cannot be reached.
    pub async fn put(
        &self,
        to: NodeId,
        hash: BlockHash,
        data: Bytes,
        put_index: u64,
    ) -> Result<(), Status> {
        let cost = data.len();
        let message = PutRequest {
            envelope: Some(self.peers.local().envelope_to(to)),
            hash: Bytes::copy_from_slice(&hash.0),
            data,
            put_index,
        };
        self.client(to)?.put(announcing(message, cost)).await?;
        Ok(())
    }

    /// The bytes that `from` has for a block. **Not verified**: that is for the caller.
    ///
    /// # Errors
    /// Those of the service; `UNAVAILABLE` when the node cannot be reached.
    pub async fn get(&self, from: NodeId, block: BlockRef) -> Result<Bytes, Status> {
        let message = GetRequest {
            envelope: Some(self.peers.local().envelope_to(from)),
            hash: Bytes::copy_from_slice(&block.hash.0),
        };
        let cost = usize::try_from(block.len).unwrap_or(usize::MAX);
        let reply = self.client(from)?.get(announcing(message, cost)).await?;
        Ok(reply.into_inner().data)
    }

    /// Which of these, at most [`super::HAS_MAX`], `node` has. With `read` it reads and hashes each before it says so.
    ///
    /// # Errors
    /// Those of the service; `UNAVAILABLE` when the node cannot be reached.
    pub async fn has(
        &self,
        node: NodeId,
        hashes: &[BlockHash],
        read: bool,
    ) -> Result<Vec<bool>, Status> {
        let message = HasRequest {
            envelope: Some(self.peers.local().envelope_to(node)),
            hashes: hashes.iter().map(|hash| Bytes::copy_from_slice(&hash.0)).collect(),
            read,
        };
        let reply = self.client(node)?.has(announcing(message, HAS_COST_BYTES)).await?;
        let present = reply.into_inner().present;
        if present.len() != hashes.len() {
            return Err(Status::internal("as many answers as questions were expected"));
        }
        Ok(present)
    }

    /// Which of these, at most [`super::CONFIRM_MAX`], `node` holds by its own layout, once it has applied what this node had
    /// at the moment `asked`.
    ///
    /// # Errors
    /// Those of the service; `UNAVAILABLE` when the node cannot be reached.
    pub async fn confirm(
        &self,
        node: NodeId,
        hashes: &[BlockHash],
        asked: Moment,
    ) -> Result<Vec<bool>, Status> {
        let message = ConfirmRequest {
            envelope: Some(self.peers.local().envelope_to(node)),
            hashes: hashes.iter().map(|hash| Bytes::copy_from_slice(&hash.0)).collect(),
            layout_epoch: asked.epoch,
            applied_index: asked.applied,
        };
        let reply = self.client(node)?.confirm(announcing(message, HAS_COST_BYTES)).await?;
        let confirmed = reply.into_inner().confirmed;
        if confirmed.len() != hashes.len() {
            return Err(Status::internal("as many answers as questions were expected"));
        }
        Ok(confirmed)
    }

    fn client(&self, node: NodeId) -> Result<blocks_client::BlocksClient<Channel>, Status> {
        let channel = self
            .peers
            .channel(node, Purpose::Blocks)
            .map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(blocks_client::BlocksClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }
}

fn announcing<T>(message: T, bytes: usize) -> Request<T> {
    let mut request = Request::new(message);
    let value = bytes.to_string().parse().expect("digits are a header's value");
    request.metadata_mut().insert(BLOCK_BYTES_HEADER, value);
    request
}
