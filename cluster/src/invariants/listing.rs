//! Every video can be found by time, by its upload key, and among the uploads as long as it is one; nothing else can.

use std::collections::{BTreeMap, BTreeSet};

use super::Findings;
use crate::table::{Key, KeyRange};
use crate::tables::videos::{
    NewestFirst, UPLOAD_KEYS, UPLOADS, VIDEOS, VIDEOS_BY_TIME, VideoState,
};
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    let all = KeyRange::all();
    let videos = VIDEOS.collect(view, &all, usize::MAX)?;
    findings.require(videos.iter().all(|(id, video)| *id == video.id), || {
        "a video is not under its id".into()
    });
    let by_time: BTreeMap<_, _> =
        videos.iter().map(|(id, video)| (video.place().to_bytes(), *id)).collect();
    let found: BTreeMap<_, _> = VIDEOS_BY_TIME
        .collect(view, &all, usize::MAX)?
        .into_iter()
        .map(|(place, id): (NewestFirst, _)| (place.to_bytes(), id))
        .collect();
    findings.require(by_time == found && by_time.len() == videos.len(), || {
        format!("{} videos, {} of them listed", videos.len(), found.len())
    });
    let uploading: BTreeSet<_> = videos
        .iter()
        .filter(|(_, video)| video.state == VideoState::Uploading)
        .map(|(id, _)| *id)
        .collect();
    let found: BTreeSet<_> = UPLOADS.keys(view, &all, usize::MAX)?.into_iter().collect();
    findings.require(uploading == found, || {
        format!("{} videos are uploading, {} are among the uploads", uploading.len(), found.len())
    });
    let by_key: BTreeMap<_, _> =
        videos.iter().filter_map(|(id, video)| Some((video.upload_key.clone()?, *id))).collect();
    let found: BTreeMap<_, _> = UPLOAD_KEYS.collect(view, &all, usize::MAX)?.into_iter().collect();
    findings.require(by_key == found, || {
        format!("upload keys {:?}, of videos {:?}", found.keys(), by_key.keys())
    });
    Ok(())
}
