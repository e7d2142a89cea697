//! A video being processed, step by step, as a transcoder would do it: three segments of four seconds, copied pictures and
//! copied sound.

use cluster::command::{Action, Claim, LeaseToken, NewSegment, Reply};
use cluster::ids::VideoId;
use cluster::jobs::{JobId, JobKind};
use cluster::plan::{Cuts, Lane, Plan, RenditionPlan, TrackKind};
use gateway::api::Video;

use crate::memory::{Memory, NODE};
use crate::site::Site;

const TIMESCALE: u32 = 90_000;
const TICKS: u64 = 4 * TIMESCALE as u64;

pub(crate) const SEGMENTS: u32 = 3;

pub(crate) fn init_bytes(rendition: u16) -> Vec<u8> {
    format!("init of {rendition}").into_bytes()
}

pub(crate) fn segment_bytes(rendition: u16, number: u32) -> Vec<u8> {
    format!("rendition {rendition} segment {number} ").repeat(20).into_bytes()
}

pub(crate) const THUMBNAIL: &[u8] = b"a picture";

/// The job of copying, while it goes on.
pub(crate) struct Copying {
    job: JobId,
    token: LeaseToken,
}

impl Copying {
    /// Takes the video and plans it.
    pub(crate) fn begin(memory: &Memory, video: VideoId) -> Self {
        let prepare = claim(memory, video, JobKind::Prepare);
        memory.must_apply(Action::SetPlan { job: prepare.job, token: prepare.token, plan: plan() });
        let Claim { job, token } = claim(memory, video, JobKind::Copy);
        Self { job, token }
    }

    /// Brings one segment of both renditions.
    pub(crate) fn commit(&self, memory: &Memory, number: u32) {
        for (rendition, codecs) in [(0, "avc1.64001f"), (1, "mp4a.40.2")] {
            memory.must_apply(Action::CommitSegments {
                job: self.job,
                token: self.token,
                rendition,
                init: Some((memory.store(init_bytes(rendition)), codecs.into())),
                segments: vec![NewSegment {
                    number,
                    start: TICKS * u64::from(number),
                    duration: TICKS,
                    block: memory.store(segment_bytes(rendition, number)),
                }],
                put_index: memory.index(),
            });
        }
    }

    /// All the rest, up to `ready`.
    pub(crate) fn finish(self, memory: &Memory, video: VideoId) {
        for number in 0..SEGMENTS {
            self.commit(memory, number);
        }
        let Self { job, token } = self;
        memory.must_apply(Action::FinishJob {
            job,
            token,
            discovered_cuts: None,
            source_end: None,
        });
        let Claim { job, token } = claim(memory, video, JobKind::Thumbnail);
        let block = memory.store(THUMBNAIL);
        let put_index = memory.index();
        memory.must_apply(Action::CommitThumbnail { job, token, block, put_index });
        memory.must_apply(Action::FinishJob {
            job,
            token,
            discovered_cuts: None,
            source_end: None,
        });
    }
}

/// A video that is ready.
pub(crate) async fn ready(site: &Site) -> Video {
    let video = site.video().await;
    Copying::begin(&site.memory, video.id).finish(&site.memory, video.id);
    site.read(&video).await
}

fn claim(memory: &Memory, video: VideoId, kind: JobKind) -> Claim {
    let action = Action::ClaimJob { node: NODE, kinds: vec![kind], lease_ms: 60_000 };
    let reply = memory.must_apply(action);
    let Reply::Claimed(Some(claim)) = reply else { panic!("no {kind:?} job: {reply:?}") };
    assert_eq!(claim.job.video, video);
    claim
}

fn plan() -> Plan {
    let video = RenditionPlan {
        name: "source".into(),
        kind: TrackKind::Video,
        lane: Lane::Copy,
        width: 1280,
        height: 720,
        frame_rate_millis: 30_000,
        bitrate_max: 2_000_000,
        timescale: TIMESCALE,
    };
    let audio = RenditionPlan {
        name: "audio".into(),
        kind: TrackKind::Audio,
        width: 0,
        height: 0,
        frame_rate_millis: 0,
        bitrate_max: 128_000,
        ..video.clone()
    };
    Plan {
        duration_ms: Some(u64::from(SEGMENTS) * 4000),
        width: 1280,
        height: 720,
        renditions: vec![video, audio],
        cuts: Cuts::Known((0..u64::from(SEGMENTS)).map(|number| number * TICKS).collect()),
        recipe: Vec::new(),
    }
}
