//! What handlers take out of a request, with our own errors where axum would answer in plain text.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use cluster::ids::VideoId;
use serde::de::DeserializeOwned;

use crate::error::ApiError;
use crate::state::Shared;

/// The largest JSON body that any address takes, in bytes.
pub(crate) const JSON_BYTES_MAX: usize = 64 * 1024;

/// A body of at most [`JSON_BYTES_MAX`] has arrived after this long, or the sender is not serious.
const JSON_TIME_MAX: Duration = Duration::from_secs(10);

/// The video that the address names. What cannot be an id is a video that does not exist.
pub(crate) struct VideoPath(pub(crate) VideoId);

impl FromRequestParts<Shared> for VideoPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, ApiError> {
        let Path(id) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::UnknownVideo)?;
        id.parse().map(Self).map_err(|_| ApiError::UnknownVideo)
    }
}

/// The query string.
pub(crate) struct Parameters<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Shared> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, ApiError> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(error) => Err(ApiError::InvalidRequest(error.body_text())),
        }
    }
}

/// A JSON body. The content type is not looked at: a browser's last beacon cannot always say what it sends.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Shared> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, ApiError> {
        let body = read_json_bytes(request.into_body());
        let bytes = tokio::time::timeout(JSON_TIME_MAX, body)
            .await
            .map_err(|_| ApiError::BodyTimeout)??;
        // serde would take an array for a structure.
        if bytes.trim_ascii_start().starts_with(b"[") {
            return Err(ApiError::InvalidFields(
                "The body is a JSON object, not an array.".to_owned(),
            ));
        }
        serde_json::from_slice(&bytes).map(Self).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => ApiError::InvalidFields(error.to_string()),
            serde_json::error::Category::Io
            | serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof => ApiError::InvalidJson(error.to_string()),
        })
    }
}

async fn read_json_bytes(body: Body) -> Result<bytes::Bytes, ApiError> {
    use axum::body::HttpBody;

    let too_large = ApiError::BodyTooLarge { limit: JSON_BYTES_MAX };
    if body.size_hint().lower() > JSON_BYTES_MAX as u64 {
        return Err(too_large);
    }
    axum::body::to_bytes(body, JSON_BYTES_MAX).await.map_err(|error| {
        // axum tells the two apart by the source of its error only.
        let over = std::error::Error::source(&error)
            .is_some_and(|source| source.to_string().contains("length limit"));
        if over { too_large } else { ApiError::InvalidRequest("The body broke off.".to_owned()) }
    })
}
