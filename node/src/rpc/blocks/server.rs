//! What other nodes may ask of this node's block store.

use std::sync::Arc;

use cluster::ids::BlockHash;
use cluster::placement::release::Moment;
use proto::blocks::blocks_server::{Blocks, BlocksServer};
use proto::blocks::{
    ConfirmReply, ConfirmRequest, GetReply, GetRequest, HasReply, HasRequest, PutReply, PutRequest,
};
use tonic::{Request, Response, Status};

use super::budget::Budgeted;
use super::{CONFIRM_MAX, HAS_MAX};
use crate::rpc::MESSAGE_BYTES_MAX;
use crate::rpc::caller::Caller;
use crate::rpc::envelope::LocalNode;
use crate::store::{BlockStore, StoreError};

/// Bytes of blocks that other nodes may have under way at this node together. Two of the longest, or some forty of the
/// usual: more would only queue up for the same disk.
const BUDGET_BYTES: usize = 64 << 20;

/// Says what this node holds to others who would like to give up their copies.
#[tonic::async_trait]
pub trait Confirms: Send + Sync + 'static {
    /// Which of these this node holds by its own layout, once it has applied what `asked` names.
    ///
    /// # Errors
    /// `ABORTED` when that takes too long, `FAILED_PRECONDITION` when it cannot say.
    async fn confirm(&self, asked: Moment, hashes: Vec<BlockHash>) -> Result<Vec<bool>, Status>;
}

/// The service over a store. See [`service`].
#[derive(Clone)]
pub struct BlocksService {
    local: LocalNode,
    store: Arc<dyn BlockStore>,
    confirming: Arc<dyn Confirms>,
}

/// The service, ready to be added to the server.
#[must_use]
pub fn service(
    local: LocalNode,
    store: Arc<dyn BlockStore>,
    confirming: Arc<dyn Confirms>,
) -> Budgeted<BlocksServer<BlocksService>> {
    let server = BlocksServer::new(BlocksService { local, store, confirming })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Budgeted::new(server, BUDGET_BYTES)
}

#[tonic::async_trait]
impl Blocks for BlocksService {
    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutReply>, Status> {
        let caller = Caller::of(request.extensions());
        let request = request.into_inner();
        self.local.verify_caller(caller, request.envelope.as_ref())?;
        let hash = parse_hash(&request.hash)?;
        self.store.put(hash, request.data, request.put_index).await.map_err(refuse)?;
        Ok(Response::new(PutReply {}))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetReply>, Status> {
        let caller = Caller::of(request.extensions());
        let request = request.into_inner();
        self.local.verify_caller(caller, request.envelope.as_ref())?;
        let hash = parse_hash(&request.hash)?;
        let data = self.store.get(hash).await.map_err(refuse)?;
        Ok(Response::new(GetReply { data }))
    }

    async fn has(&self, request: Request<HasRequest>) -> Result<Response<HasReply>, Status> {
        let caller = Caller::of(request.extensions());
        let request = request.into_inner();
        self.local.verify_caller(caller, request.envelope.as_ref())?;
        if request.hashes.len() > HAS_MAX {
            return Err(Status::invalid_argument(format!("more than {HAS_MAX} hashes at once")));
        }
        let hashes = parse_hashes(&request.hashes)?;
        let present = if request.read {
            self.store.has_good(hashes).await
        } else {
            self.store.has(hashes).await
        };
        let present = present.map_err(refuse)?;
        Ok(Response::new(HasReply { present }))
    }

    async fn confirm(
        &self,
        request: Request<ConfirmRequest>,
    ) -> Result<Response<ConfirmReply>, Status> {
        let caller = Caller::of(request.extensions());
        let request = request.into_inner();
        self.local.verify_caller(caller, request.envelope.as_ref())?;
        if request.hashes.len() > CONFIRM_MAX {
            return Err(Status::invalid_argument(format!(
                "more than {CONFIRM_MAX} hashes at once"
            )));
        }
        let asked = Moment { epoch: request.layout_epoch, applied: request.applied_index };
        let confirmed = self.confirming.confirm(asked, parse_hashes(&request.hashes)?).await?;
        Ok(Response::new(ConfirmReply { confirmed }))
    }
}

fn parse_hashes(hashes: &[bytes::Bytes]) -> Result<Vec<BlockHash>, Status> {
    hashes.iter().map(|hash| parse_hash(hash)).collect()
}

fn parse_hash(bytes: &[u8]) -> Result<BlockHash, Status> {
    let hash = bytes
        .try_into()
        .map_err(|_| Status::invalid_argument(format!("a hash of {} bytes", bytes.len())))?;
    Ok(BlockHash(hash))
}

fn refuse(error: StoreError) -> Status {
    let text = error.to_string();
    match error {
        StoreError::NotFound(_) => Status::not_found(text),
        StoreError::Damaged(_) | StoreError::HashMismatch { .. } => Status::data_loss(text),
        StoreError::BadLength(_) => Status::invalid_argument(text),
        StoreError::Full { .. } => Status::resource_exhausted(text),
        StoreError::ReadOnly { .. } | StoreError::Unavailable { .. } => {
            Status::failed_precondition(text)
        }
    }
}
