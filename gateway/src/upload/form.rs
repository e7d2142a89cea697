//! Uploads as a form (RFC 7578), as a browser without scripts and many tools send them.
//!
//! Fields may come in any order. What comes before the file becomes part of the new video at once; what comes after it is
//! edited in at the end.

mod feed;

use std::future::poll_fn;
use std::pin::pin;

use axum::body::BodyDataStream;
use cluster::command::Action;
use cluster::ids::VideoId;
use futures::{StreamExt, stream};
use multer::{Constraints, Multipart, SizeLimit};
use utoipa::ToSchema;

use crate::api::Visibility;
use crate::error::ApiError;
use crate::state::Shared;
use crate::upload::metadata::{self, Metadata};
use crate::upload::{FORM_BYTES_MAX, ingest, linger};
use crate::videos;
use feed::{Fault, Feed, SEARCHED_BYTES_MAX};

/// More fields than any form for this has.
const FIELDS_MAX: usize = 32;

/// The longest text in a field, in bytes: a description of four-byte characters.
const TEXT_BYTES_MAX: u64 = 48 * 1024;

/// A text comes out of the parser as a whole. One that is too long is noticed before this.
const TEXT_SEARCHED_BYTES_MAX: usize = TEXT_BYTES_MAX as usize + SEARCHED_BYTES_MAX;

/// The fields, for the documentation.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the form is read field by field")]
pub(crate) struct UploadForm {
    #[schema(format = Binary, content_media_type = "application/octet-stream")]
    file: String,
    title: Option<String>,
    description: Option<String>,
    visibility: Option<Visibility>,
}

/// The boundary of a form; `None` when the body is the file itself.
pub(crate) fn boundary(content_type: &str) -> Result<Option<String>, ApiError> {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "multipart/form-data" {
        return multer::parse_boundary(content_type).map(Some).map_err(|_| {
            ApiError::InvalidRequest("The form's Content-Type names no boundary.".to_owned())
        });
    }
    let is_file = essence.starts_with("video/")
        || matches!(essence.as_str(), "application/octet-stream" | "application/mp4");
    if is_file {
        return Ok(None);
    }
    Err(ApiError::UnsupportedMediaType(
        "Send the file with Content-Type video/* or application/octet-stream, or as a form (multipart/form-data).",
    ))
}

/// Receives a form; the index is that of the last change.
pub(crate) async fn receive(
    gateway: &Shared,
    id: VideoId,
    metadata: Metadata,
    mut body: BodyDataStream,
    boundary: &str,
    begun: &mut bool,
) -> Result<u64, ApiError> {
    // What is beside the file is bounded here, the file itself by the setting, wherever it ends.
    let limit = gateway.settings.upload_bytes_max;
    let whole = limit.saturating_add(FORM_BYTES_MAX);
    let constraints = Constraints::new().size_limit(
        SizeLimit::new().whole_stream(whole).for_field("file", whole).per_field(TEXT_BYTES_MAX),
    );
    let (feed, parts) = Feed::new(&mut body);
    let form = Multipart::with_constraints(parts, boundary, constraints);
    let result = fields(gateway, id, metadata, form, feed, begun).await;
    linger(gateway, body);
    result
}

async fn fields(
    gateway: &Shared,
    id: VideoId,
    mut metadata: Metadata,
    mut form: Multipart<'static>,
    mut feed: Feed<'_>,
    begun: &mut bool,
) -> Result<u64, ApiError> {
    let idle = gateway.settings.upload_idle;
    let limit = gateway.settings.upload_bytes_max;
    let mut later = Later::default();
    let mut has_file = false;
    for _ in 0..FIELDS_MAX {
        let next = poll_fn(|context| {
            feed.poll(context, SEARCHED_BYTES_MAX, |context| form.poll_next_field(context))
        });
        let next = tokio::time::timeout(idle, next).await.map_err(|_| too_slow())?;
        let field = next.map_err(|fault| form_error(fault, limit))?;
        let Some(mut field) = field else {
            if !has_file {
                return Err(ApiError::InvalidRequest("The form has no field `file`.".to_owned()));
            }
            if let Some(edit) = later.into_action(id) {
                gateway.propose_patiently(edit).await?;
            }
            return gateway.finish(id).await;
        };
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" && has_file {
            return Err(ApiError::InvalidRequest("The form has more than one file.".to_owned()));
        } else if name == "file" {
            has_file = true;
            if metadata.filename.is_none() {
                metadata.filename = field.file_name().and_then(metadata::filename);
            }
            gateway.begin(id, std::mem::take(&mut metadata), begun).await?;
            let chunks = stream::poll_fn(|context| {
                let chunk = feed.poll(context, SEARCHED_BYTES_MAX, |context| {
                    field.poll_next_unpin(context).map(Option::transpose)
                });
                chunk.map(Result::transpose)
            });
            let chunks = chunks.map(|chunk| chunk.map_err(|fault| form_error(fault, limit)));
            if ingest::ingest(gateway, id, chunks).await?.is_ended() {
                return Ok(gateway.applied_index());
            }
        } else {
            let mut text = pin!(field.text());
            let text = poll_fn(|context| {
                feed.poll(context, TEXT_SEARCHED_BYTES_MAX, |context| text.as_mut().poll(context))
            });
            let text = tokio::time::timeout(idle, text).await.map_err(|_| too_slow())?;
            let text = text.map_err(|fault| form_error(fault, limit))?;
            later.take(&name, text, if has_file { None } else { Some(&mut metadata) })?;
        }
    }
    Err(ApiError::InvalidRequest(format!("The form has more than {FIELDS_MAX} fields.")))
}

fn too_slow() -> ApiError {
    ApiError::UploadTooSlow("a field of the form did not arrive in time.".to_owned())
}

/// What came after the file.
#[derive(Default)]
struct Later {
    title: Option<String>,
    description: Option<String>,
    visibility: Option<Visibility>,
}

impl Later {
    /// Notes a field, in the metadata while there is still a video to create. Fields with other names are of no concern.
    fn take(
        &mut self,
        name: &str,
        text: String,
        metadata: Option<&mut Metadata>,
    ) -> Result<(), ApiError> {
        match name {
            "title" => self.title = metadata::title(text)?,
            "description" => self.description = Some(videos::description(text)?),
            "visibility" => self.visibility = Some(visibility(&text)?),
            _ => {}
        }
        if let Some(metadata) = metadata {
            let Self { title, description, visibility } = std::mem::take(self);
            metadata.title = title.or(metadata.title.take());
            metadata.description =
                description.unwrap_or_else(|| std::mem::take(&mut metadata.description));
            metadata.visibility = visibility.unwrap_or(metadata.visibility);
        }
        Ok(())
    }

    fn into_action(self, id: VideoId) -> Option<Action> {
        let Self { title, description, visibility } = self;
        if title.is_none() && description.is_none() && visibility.is_none() {
            return None;
        }
        let visibility = visibility.map(Into::into);
        Some(Action::EditVideo { id, if_version: None, title, description, visibility })
    }
}

fn visibility(text: &str) -> Result<Visibility, ApiError> {
    match text.trim() {
        "public" => Ok(Visibility::Public),
        "unlisted" => Ok(Visibility::Unlisted),
        "private" => Ok(Visibility::Private),
        _ => Err(ApiError::InvalidFields(
            "`visibility` is `public`, `unlisted` or `private`.".to_owned(),
        )),
    }
}

fn form_error(fault: Fault, limit: u64) -> ApiError {
    use multer::Error;

    let error = match fault {
        Fault::Form(error) => error,
        Fault::Body(error) => return error,
    };
    if matches!(error, Error::StreamSizeExceeded { .. }) {
        return ApiError::UploadTooLarge { limit };
    }
    if matches!(error, Error::FieldSizeExceeded { .. }) {
        return ApiError::InvalidFields(format!(
            "A field of the form has more than {TEXT_BYTES_MAX} bytes."
        ));
    }
    let broken_off = matches!(
        error,
        Error::StreamReadFailed(_)
            | Error::IncompleteStream
            | Error::IncompleteFieldData { .. }
            | Error::IncompleteHeaders
    );
    if broken_off {
        ApiError::UploadInterrupted
    } else {
        ApiError::MalformedForm("it is not as RFC 7578 has it.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_tells_a_form_from_a_file() {
        assert_eq!(boundary("multipart/form-data; boundary=abc").unwrap().as_deref(), Some("abc"));
        assert!(boundary("multipart/form-data").is_err());
        for file in [
            "video/mp4",
            "Video/X-Matroska",
            "application/octet-stream",
            "video/webm; codecs=\"vp9\"",
        ] {
            assert_eq!(boundary(file).unwrap(), None, "{file}");
        }
        for other in ["application/json", "text/plain", "application/x-www-form-urlencoded", ""] {
            assert!(boundary(other).is_err(), "{other}");
        }
    }
}
