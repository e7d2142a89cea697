//! Errors as people and programs meet them: RFC 9457 problems with a stable code.
//!
//! Handlers return an [`ApiError`]; its response carries it as an extension ([`Refused`]), and
//! [`crate::respond`] writes the body, because only there is the request's id known. Nothing of the inside (paths, addresses,
//! messages of libraries) gets into an answer; it goes to the log with the same id.

use std::fmt;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cluster::command::Refusal;
use cluster::view::ViewError;

use crate::api::Problem;
use crate::backend::Unavailable;

/// What clients are asked to wait before they try again. A leader is elected in about a second.
const RETRY_AFTER_SECONDS: u32 = 2;

/// Why a request was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiError {
    #[error("There is nothing at this address.")]
    UnknownRoute,
    #[error("This address does not take that method.")]
    MethodNotAllowed,
    #[error("There is no such video, or not any more.")]
    UnknownVideo,
    #[error("There is no such rendition or segment (yet).")]
    UnknownSegment,
    #[error("{0}")]
    NotAvailableYet(&'static str),
    #[error("The original file is not kept.")]
    SourceNotKept,
    #[error("{0}")]
    InvalidRequest(String),
    #[error("The form is malformed: {0}")]
    MalformedForm(&'static str),
    #[error("The body is not JSON: {0}")]
    InvalidJson(String),
    #[error("{0}")]
    InvalidFields(String),
    #[error("The body is larger than the {limit} bytes that this address takes.")]
    BodyTooLarge { limit: usize },
    #[error("The body did not arrive in time.")]
    BodyTimeout,
    #[error("The file is larger than the {limit} bytes that this site accepts.")]
    UploadTooLarge { limit: u64 },
    #[error("The upload broke off before its end.")]
    UploadInterrupted,
    #[error("The upload was too slow: {0}")]
    UploadTooSlow(String),
    #[error("The video was deleted while it was being uploaded.")]
    UploadDeleted,
    #[error("An upload with this Reelraft-Upload-Key exists already; draw another one.")]
    UploadKeyUsed,
    #[error("Uploading needs an account on this site.")]
    AnonymousUpload,
    #[error("{0}")]
    UnsupportedMediaType(&'static str),
    #[error("The video has been changed by somebody else; read it again.")]
    VersionMismatch { actual: Option<u64> },
    #[error("The range is outside of the {length} bytes that there are.")]
    RangeNotSatisfiable { length: u64 },
    #[error("The video is {state}, which does not allow this.")]
    WrongState { state: String },
    #[error("This node has too many {0} at present.")]
    Busy(&'static str),
    #[error("This node has not applied log index {wanted} yet; it is at {applied}.")]
    IndexNotApplied { wanted: u64, applied: u64 },
    #[error("The cluster cannot do this at present.")]
    Unavailable(#[from] Unavailable),
    #[error("The node could not answer because of an error of its own.")]
    Internal(String),
}

impl From<ViewError> for ApiError {
    fn from(error: ViewError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownVideo => Self::UnknownVideo,
            Refusal::VersionMismatch { actual } => Self::VersionMismatch { actual: Some(actual) },
            Refusal::WrongState { state } => Self::WrongState { state },
            Refusal::Invalid { reason } => Self::InvalidFields(reason),
            // Who sends the bytes again puts them again.
            Refusal::NeedBlocks { hash } => Self::Unavailable(Unavailable::BlockUnreadable {
                hash,
                reason: refusal.to_string(),
            }),
            Refusal::AlreadyInitialized
            | Refusal::VideoExists
            | Refusal::OffsetMismatch { .. }
            | Refusal::LeaseLost
            | Refusal::LayoutEpoch { .. }
            | Refusal::Forgotten
            | Refusal::NoAuthority
            | Refusal::TokenUnknown
            | Refusal::TokenExpired
            | Refusal::TokenUsed
            | Refusal::RoleNotAllowed { .. }
            | Refusal::ProgramTooOld { .. }
            | Refusal::AddressTaken { .. }
            | Refusal::UnknownNode
            | Refusal::NodeRemoved
            | Refusal::NotAMember
            | Refusal::Unsafe { .. } => Self::Internal(format!("refused: {refusal}")),
        }
    }
}

impl ApiError {
    /// The status and the stable code.
    fn identity(&self) -> (StatusCode, &'static str) {
        match self {
            Self::UnknownRoute => (StatusCode::NOT_FOUND, "unknown_route"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::UnknownVideo => (StatusCode::NOT_FOUND, "unknown_video"),
            Self::UnknownSegment => (StatusCode::NOT_FOUND, "unknown_segment"),
            Self::NotAvailableYet(_) => (StatusCode::NOT_FOUND, "not_available_yet"),
            Self::SourceNotKept => (StatusCode::NOT_FOUND, "source_not_kept"),
            Self::InvalidRequest(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::MalformedForm(_) => (StatusCode::BAD_REQUEST, "malformed_form"),
            Self::InvalidJson(_) => (StatusCode::BAD_REQUEST, "invalid_json"),
            Self::InvalidFields(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields"),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::UploadTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "upload_too_large"),
            Self::UploadInterrupted => (StatusCode::BAD_REQUEST, "upload_interrupted"),
            Self::UploadTooSlow(_) => (StatusCode::REQUEST_TIMEOUT, "upload_too_slow"),
            Self::UploadDeleted => (StatusCode::CONFLICT, "upload_deleted"),
            Self::UploadKeyUsed => (StatusCode::CONFLICT, "upload_key_used"),
            Self::AnonymousUpload => (StatusCode::FORBIDDEN, "account_needed"),
            Self::UnsupportedMediaType(_) => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")
            }
            Self::VersionMismatch { .. } => (StatusCode::PRECONDITION_FAILED, "version_mismatch"),
            Self::RangeNotSatisfiable { .. } => {
                (StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable")
            }
            Self::WrongState { .. } => (StatusCode::CONFLICT, "wrong_state"),
            Self::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::IndexNotApplied { .. } => (StatusCode::SERVICE_UNAVAILABLE, "index_not_applied"),
            Self::Unavailable(cause) => (StatusCode::SERVICE_UNAVAILABLE, unavailable_code(cause)),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        }
    }

    /// The status that it is answered with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.identity().0
    }

    /// The stable code that it is answered with.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.identity().1
    }

    /// The body.
    pub(crate) fn problem(&self, request_id: &str) -> Problem {
        let (status, code) = self.identity();
        Problem {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: self.detail(),
            code: code.to_owned(),
            request_id: request_id.to_owned(),
        }
    }

    /// A sentence for people, without anything that only helps somebody who attacks.
    fn detail(&self) -> String {
        let Self::Unavailable(cause) = self else { return self.to_string() };
        match cause {
            Unavailable::NoLeader(_) => {
                "This node cannot reach a majority of the cluster. Try again, or ask another node."
                    .to_owned()
            }
            Unavailable::Timeout(_) => {
                "The cluster did not answer in time, and what was asked may still happen. Look before you try again."
                    .to_owned()
            }
            Unavailable::TooFewCopies { durable, required, .. } => format!(
                "Only {durable} of the {required} copies that make bytes safe are possible at present. Try again later."
            ),
            Unavailable::BlockUnreadable { .. } => {
                "No node that holds these bytes can be reached at present. Try again later.".to_owned()
            }
            Unavailable::NotInService(_) => {
                "This node is starting, stopping, or not part of a cluster. Ask another node.".to_owned()
            }
            Unavailable::Drained => {
                "This node is being taken away and takes no more uploads. Use another node.".to_owned()
            }
            Unavailable::Storage(_) => "This node's storage has failed. Ask another node.".to_owned(),
            Unavailable::NotUnderstood(_) => {
                "The cluster is being upgraded, and some nodes do not understand this yet. Try again later.".to_owned()
            }
        }
    }

    /// What the log should know and the answer should not say, if anything.
    pub(crate) fn inside(&self) -> Option<String> {
        if let Self::Unavailable(cause) = self {
            Some(cause.to_string())
        } else if let Self::Internal(cause) = self {
            Some(cause.clone())
        } else {
            None
        }
    }

    fn headers(&self, headers: &mut HeaderMap) {
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        if let Self::RangeNotSatisfiable { length } = self {
            headers.insert(header::CONTENT_RANGE, text(format_args!("bytes */{length}")));
        }
        if let Self::VersionMismatch { actual: Some(version) } = self {
            headers.insert(header::ETAG, crate::precondition::etag_of_version(*version));
        }
    }
}

fn unavailable_code(cause: &Unavailable) -> &'static str {
    match cause {
        Unavailable::NoLeader(_) => "no_majority",
        Unavailable::Timeout(_) => "timeout",
        Unavailable::TooFewCopies { .. } => "too_few_copies",
        Unavailable::BlockUnreadable { .. } => "block_unreadable",
        Unavailable::NotInService(_) => "not_in_service",
        Unavailable::Drained => "node_drained",
        Unavailable::Storage(_) => "storage_failed",
        Unavailable::NotUnderstood(_) => "not_understood",
    }
}

/// A header value of characters that we chose ourselves.
pub(crate) fn text(value: fmt::Arguments<'_>) -> HeaderValue {
    HeaderValue::try_from(value.to_string()).expect("digits and punctuation are valid in a header")
}

/// Travels as an extension from the handler to the place where the answer gets its body.
#[derive(Clone, Debug)]
pub(crate) struct Refused(pub(crate) ApiError);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        self.headers(response.headers_mut());
        response.extensions_mut().insert(Refused(self));
        response
    }
}
