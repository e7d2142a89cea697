//! What an uploader says of a video: in the query, in headers, or in the fields of a form.

use axum::http::{HeaderMap, HeaderName};
use cluster::apply::{FILENAME_CHARS_MAX, TITLE_CHARS_MAX, UPLOAD_KEY_BYTES_MAX};
use cluster::command::Action;
use cluster::ids::VideoId;
use serde::Deserialize;

use crate::api::Visibility;
use crate::error::ApiError;
use crate::settings::Settings;
use crate::videos;

pub(crate) const UPLOAD_KEY: HeaderName = HeaderName::from_static("reelraft-upload-key");

/// When neither a title nor a file name says anything.
const UNTITLED: &str = "Untitled";

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct UploadParameters {
    /// At most 200 characters. When left out, the name of the file.
    title: Option<String>,
    /// At most 10000 characters.
    description: Option<String>,
    #[param(inline)]
    visibility: Option<Visibility>,
    /// What the file is called; shown, never used as a path.
    filename: Option<String>,
}

/// A video that is about to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) title: Option<String>,
    pub(crate) description: String,
    pub(crate) visibility: Visibility,
    pub(crate) filename: Option<String>,
    pub(crate) announced_bytes: Option<u64>,
    upload_key: Option<String>,
}

impl Metadata {
    pub(crate) fn of(headers: &HeaderMap, parameters: UploadParameters) -> Result<Self, ApiError> {
        let upload_key = headers
            .get(UPLOAD_KEY)
            .map(|key| {
                let key = key.to_str().unwrap_or_default();
                if (1..=UPLOAD_KEY_BYTES_MAX).contains(&key.len()) {
                    Ok(key.to_owned())
                } else {
                    Err(ApiError::InvalidRequest(format!(
                        "Reelraft-Upload-Key has 1 to {UPLOAD_KEY_BYTES_MAX} plain characters."
                    )))
                }
            })
            .transpose()?;
        Ok(Self {
            title: parameters.title.map(title).transpose()?.flatten(),
            description: videos::description(parameters.description.unwrap_or_default())?,
            visibility: parameters.visibility.unwrap_or_default(),
            filename: parameters.filename.and_then(|name| filename(&name)),
            announced_bytes: None,
            upload_key,
        })
    }

    pub(crate) fn into_action(self, id: VideoId, settings: &Settings) -> Action {
        let title = self.title.or_else(|| self.filename.as_deref().and_then(title_of_file));
        Action::CreateVideo {
            id,
            title: title.unwrap_or_else(|| UNTITLED.to_owned()),
            description: self.description,
            visibility: self.visibility.into(),
            filename: self.filename,
            announced_bytes: self.announced_bytes,
            upload_key: self.upload_key,
            keep_source: settings.keep_source,
        }
    }
}

/// A title; white space alone is none.
pub(crate) fn title(text: String) -> Result<Option<String>, ApiError> {
    if videos::one_line(&text).is_empty() { Ok(None) } else { videos::title(text).map(Some) }
}

/// The last part of a path of any system, on one line, shortened from the front so that its extension stays.
pub(crate) fn filename(path: &str) -> Option<String> {
    let name = videos::one_line(path.rsplit(['/', '\\']).next().unwrap_or_default());
    let excess = name.chars().count().saturating_sub(FILENAME_CHARS_MAX);
    Some(name.chars().skip(excess).collect()).filter(|name: &String| !name.is_empty())
}

fn title_of_file(filename: &str) -> Option<String> {
    let stem = match filename.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => filename,
    };
    let title = videos::one_line(&stem.chars().take(TITLE_CHARS_MAX).collect::<String>());
    Some(title).filter(|title| !title.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_is_a_title_without_path_and_extension() {
        let title = |path: &str| filename(path).as_deref().and_then(title_of_file);
        assert_eq!(title("/home/me/My trip.mp4").as_deref(), Some("My trip"));
        assert_eq!(title(r"C:\films\a.b.mkv").as_deref(), Some("a.b"));
        assert_eq!(title(".mp4").as_deref(), Some(".mp4"));
        assert_eq!(title("noextension").as_deref(), Some("noextension"));
        assert_eq!(title("dir/"), None);
        assert_eq!(title(&"x".repeat(300)).unwrap().len(), TITLE_CHARS_MAX);
    }

    #[test]
    fn a_long_file_name_keeps_its_extension() {
        let name = filename(&format!("{}.mp4", "ü".repeat(300))).unwrap();
        assert_eq!(name.chars().count(), FILENAME_CHARS_MAX);
        assert!(name.ends_with("ü.mp4"));
    }
}
