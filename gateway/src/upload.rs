//! Uploads in one request, as a raw body or as a form.
//!
//! The video is created with the first byte, so that it is being processed, and perhaps watched, while the rest arrives. From
//! then on the upload belongs to a task of its own: when the client goes away the task still ends in order, with a video that
//! is complete or one that says why it is not.

pub(crate) mod form;
pub(crate) mod ingest;
pub(crate) mod limits;
pub(crate) mod metadata;
mod patience;
mod under_way;

use std::time::Duration;

use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cluster::catalog;
use cluster::command::{Action, Refusal, Reply};
use cluster::ids::VideoId;
use cluster::tables::videos::VideoError;
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::backend::{Applied, Unavailable};
use crate::docs::WriteProblems;
use crate::error::ApiError;
use crate::extract::Parameters;
use crate::meters::InUse;
use crate::respond::Written;
use crate::state::{Gateway, Shared};
use crate::{api, videos};
use metadata::{Metadata, UploadParameters};

use under_way::UnderWay;
pub use under_way::UploadsUnderWay;

/// The size of the blocks that a file is cut into. Small enough that processing starts early and many fit into memory, large
/// enough that a block's fsync and log entry are a small part of its cost.
pub const BLOCK_BYTES: usize = 1024 * 1024;

/// What a form may add to the size of its file: boundaries, headers and the other fields.
const FORM_BYTES_MAX: u64 = 256 * 1024;

/// After a refusal, what the client is still sending is read for this long and thrown away: a connection that is closed
/// with unread bytes is reset, and the client would never see the answer.
const LINGER: Duration = Duration::from_secs(5);

/// Uploads a video in one request.
///
/// Either the file itself as the body, with `Content-Type: video/*` or `application/octet-stream` and the title in the query,
/// or a form (`multipart/form-data`) with the fields `file`, `title`, `description` and `visibility`. The answer comes when
/// all bytes are durable; processing has begun long before.
#[utoipa::path(
    post, path = "/api/v1/videos", tag = "videos",
    params(
        UploadParameters,
        ("Reelraft-Upload-Key" = Option<String>, Header, description = "Random and chosen by the uploader: finds the video in the list while it is being uploaded"),
    ),
    request_body(
        content(
            (Vec<u8> = "video/*"),
            (Vec<u8> = "application/octet-stream"),
            (form::UploadForm = "multipart/form-data"),
        ),
    ),
    responses(
        (status = CREATED, body = api::Video, headers(("Location" = String), ("ETag" = String), ("Reelraft-Index" = u64))),
        (status = PAYLOAD_TOO_LARGE, description = "The file is larger than the site accepts (`upload_too_large`)", body = api::Problem, content_type = "application/problem+json"),
        (status = UNSUPPORTED_MEDIA_TYPE, body = api::Problem, content_type = "application/problem+json"),
        (status = REQUEST_TIMEOUT, description = "Nothing came for too long, or too little (`upload_too_slow`)", body = api::Problem, content_type = "application/problem+json"),
        WriteProblems,
        (status = SERVICE_UNAVAILABLE, description = "Cannot be done now; try again after `Retry-After` seconds. At another node if this one is being taken away (`node_drained`), is not in service (`not_in_service`), or its storage has failed (`storage_failed`)", body = api::Problem, content_type = "application/problem+json", headers(("Retry-After" = u32))),
    ),
)]
pub(crate) async fn create(
    State(gateway): State<Shared>,
    Parameters(parameters): Parameters<UploadParameters>,
    request: Request,
) -> Result<Written<Response>, ApiError> {
    let (parts, body) = request.into_parts();
    match admit(&gateway, &parts.headers, parameters) {
        Ok((upload, admission)) => receive(gateway, upload, body, admission).await,
        Err(error) => {
            // Reading would tell a client that waits for our word (RFC 9110, section 10.1.1) to go ahead.
            if !parts.headers.contains_key(header::EXPECT) {
                linger(&gateway, body.into_data_stream());
            }
            Err(error)
        }
    }
}

/// What is to be uploaded, as far as the head of the request tells.
struct Upload {
    metadata: Metadata,
    /// The boundary between the fields; `None` when the body is the file.
    boundary: Option<String>,
}

/// What an upload holds until it ends.
struct Admission {
    _under_way: UnderWay,
    _permit: OwnedSemaphorePermit,
}

/// All that can be refused before a byte has been read.
fn admit(
    gateway: &Shared,
    headers: &HeaderMap,
    parameters: UploadParameters,
) -> Result<(Upload, Admission), ApiError> {
    let limit = gateway.settings.upload_bytes_max;
    if !gateway.settings.anonymous_upload {
        return Err(ApiError::AnonymousUpload);
    }
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str);
    let content_type =
        content_type.transpose().ok().flatten().unwrap_or("application/octet-stream");
    let boundary = form::boundary(content_type)?;
    let mut metadata = Metadata::of(headers, parameters)?;
    if let Some(length) = content_length(headers) {
        let beside = if boundary.is_some() { FORM_BYTES_MAX } else { 0 };
        if length > limit.saturating_add(beside) {
            return Err(ApiError::UploadTooLarge { limit });
        }
        metadata.announced_bytes = boundary.is_none().then_some(length);
    }
    // Counted before the look: a node that hands over is either seen with this upload or refuses it.
    let under_way = gateway.backend.uploads().begin();
    gateway.backend.can_store()?;
    let permit = gateway.uploads.begin()?;
    Ok((Upload { metadata, boundary }, Admission { _under_way: under_way, _permit: permit }))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Hands the upload to its task and waits for what comes of it.
async fn receive(
    gateway: Shared,
    upload: Upload,
    body: Body,
    admission: Admission,
) -> Result<Written<Response>, ApiError> {
    let (answer, answered) = oneshot::channel();
    let shared = Shared::clone(&gateway);
    let task = async move {
        let _in_use = InUse::of(&shared.meters.uploads);
        let _admission = admission;
        run(&shared, upload, body, answer).await;
    };
    gateway.tasks.spawn(task);
    let index_and_id =
        answered.await.map_err(|_| Unavailable::NotInService("the node stops".to_owned()))?;
    let (index, id) = index_and_id?;
    created(&gateway, index, id)
}

type Answer = oneshot::Sender<Result<(u64, VideoId), ApiError>>;

/// The whole upload. Whatever happens, the video does not stay as if it were still arriving.
async fn run(gateway: &Shared, upload: Upload, body: Body, answer: Answer) {
    let id = match getrandom::u64().and_then(|high| Ok((high, getrandom::u64()?))) {
        Ok((high, low)) => VideoId((u128::from(high) << 64 | u128::from(low)).to_be_bytes()),
        Err(error) => {
            let _ = answer.send(Err(ApiError::Internal(format!("draw a random id: {error}"))));
            return;
        }
    };
    let mut begun = false;
    let result = match &upload.boundary {
        None => raw(gateway, id, upload.metadata, body.into_data_stream(), &mut begun).await,
        Some(boundary) => {
            form::receive(
                gateway,
                id,
                upload.metadata,
                body.into_data_stream(),
                boundary,
                &mut begun,
            )
            .await
        }
    };
    let error = match result {
        Ok(index) => {
            let _ = answer.send(Ok((index, id)));
            return;
        }
        Err(error) => error,
    };
    tracing::info!(video = %id, code = error.code(), %error, "upload ended early");
    let Some(cleanup) = cleanup(id, &error).filter(|_| begun) else {
        let _ = answer.send(Err(error));
        return;
    };
    // A cluster that is well needs a moment for this; one that is not must not keep the answer back.
    let cleaned = !matches!(error, ApiError::Unavailable(_))
        && gateway.propose(cleanup.clone()).await.is_ok();
    let _ = answer.send(Err(error));
    if !cleaned && let Err(error) = gateway.propose_patiently(cleanup).await {
        tracing::warn!(video = %id, %error, "an interrupted upload could not be marked as such");
    }
}

/// What to do about the video of an upload that ended early.
fn cleanup(id: VideoId, error: &ApiError) -> Option<Action> {
    // Not there any more.
    if matches!(error, ApiError::UploadDeleted) {
        return None;
    }
    // Nobody could do anything with what is there, and the answer says all.
    let useless = matches!(
        error,
        ApiError::UploadTooLarge { .. }
            | ApiError::InvalidRequest(_)
            | ApiError::MalformedForm(_)
            | ApiError::InvalidFields(_)
    );
    if useless {
        return Some(Action::DeleteVideo { id, if_version: None });
    }
    let error = VideoError {
        code: "upload_interrupted".to_owned(),
        detail: format!("The upload did not reach its end. {error}"),
    };
    Some(Action::FailVideo { id, error })
}

/// The body is the file.
async fn raw(
    gateway: &Shared,
    id: VideoId,
    metadata: Metadata,
    mut body: BodyDataStream,
    begun: &mut bool,
) -> Result<u64, ApiError> {
    let result = async {
        gateway.begin(id, metadata, begun).await?;
        let chunks = body.by_ref().map(|chunk| chunk.map_err(|_| ApiError::UploadInterrupted));
        if ingest::ingest(gateway, id, chunks).await?.is_ended() {
            return Ok(gateway.applied_index());
        }
        gateway.finish(id).await
    }
    .await;
    // Also when the video failed early, and the rest of the file is of no use.
    linger(gateway, body);
    result
}

impl Gateway {
    /// Creates the video. From here on something has to be cleaned up when the upload breaks off.
    async fn begin(
        &self,
        id: VideoId,
        metadata: Metadata,
        begun: &mut bool,
    ) -> Result<(), ApiError> {
        let proposed = self.propose(metadata.into_action(id, &self.settings)).await;
        // A proposal that timed out may take effect later.
        *begun = matches!(
            proposed,
            Err(Unavailable::Timeout(_))
                | Ok(Applied { reply: Reply::Done | Reply::Version(_), .. })
        );
        match proposed?.reply {
            Reply::Refused(Refusal::VideoExists) => Err(ApiError::UploadKeyUsed),
            Reply::Refused(refusal) => Err(refusal.into()),
            Reply::Done
            | Reply::Version(_)
            | Reply::Claimed(_)
            | Reply::Lost(_)
            | Reply::Admitted(_) => Ok(()),
        }
    }

    /// All bytes are there.
    async fn finish(&self, id: VideoId) -> Result<u64, ApiError> {
        let applied = self.propose_patiently(Action::FinishSource { id }).await?;
        match applied.reply {
            // It has failed meanwhile: the video says why, which is more than an error could.
            Reply::Refused(Refusal::WrongState { .. })
            | Reply::Done
            | Reply::Version(_)
            | Reply::Claimed(_)
            | Reply::Lost(_)
            | Reply::Admitted(_) => Ok(applied.index),
            Reply::Refused(Refusal::UnknownVideo) => Err(ApiError::UploadDeleted),
            Reply::Refused(refusal) => Err(refusal.into()),
        }
    }

    fn applied_index(&self) -> u64 {
        *self.backend.applied().borrow()
    }
}

fn created(gateway: &Gateway, index: u64, id: VideoId) -> Result<Written<Response>, ApiError> {
    let view = gateway.backend.catalog();
    let row = catalog::video(&*view, id)?.ok_or(ApiError::UploadDeleted)?;
    let headers = [
        (header::LOCATION, crate::error::text(format_args!("/api/v1/videos/{id}"))),
        (header::ETAG, crate::precondition::etag_of_version(row.version)),
    ];
    let video = videos::present(&*view, row)?;
    Ok(Written { index, answer: (StatusCode::CREATED, headers, Json(video)).into_response() })
}

/// Reads and forgets the rest of a body, for a while.
fn linger(gateway: &Shared, mut body: BodyDataStream) {
    let stopping = gateway.stopping.clone();
    gateway.tasks.spawn(async move {
        let drain = async { while let Some(Ok(_)) = body.next().await {} };
        tokio::select! {
            () = drain => {}
            () = tokio::time::sleep(LINGER) => {}
            () = stopping.cancelled() => {}
        }
    });
}
