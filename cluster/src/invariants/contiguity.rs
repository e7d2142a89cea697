//! What a rendition's row says of its segments is what counting them gives; no number is there twice.

use super::Findings;
use crate::playback::bits_per_second;
use crate::table::KeyRange;
use crate::tables::renditions::{RENDITIONS, RenditionRow, SEGMENTS};
use crate::tables::videos::VIDEOS;
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    for ((video, index), row) in RENDITIONS.collect(view, &KeyRange::all(), usize::MAX)? {
        let place = format!("{video}/{index}");
        let plan = VIDEOS.get(view, &video)?.and_then(|video| video.plan);
        let timescale = plan
            .and_then(|plan| Some(plan.renditions.get(usize::from(index))?.timescale))
            .unwrap_or(1);
        let mut counted = RenditionRow {
            init: row.init,
            codecs: row.codecs.clone(),
            complete: row.complete,
            ..RenditionRow::default()
        };
        let mut last = None;
        for (key, run) in SEGMENTS.collect(view, &KeyRange::under(&(video, index)), usize::MAX)? {
            findings.require(run.segments.last().is_some_and(|last| last.number == key.2), || {
                format!("{place}: a run does not end at its key, {}", key.2)
            });
            for segment in run.segments {
                findings.require(last < Some(segment.number), || {
                    format!("{place}: segment {} is out of order", segment.number)
                });
                last = Some(segment.number);
                if segment.number == counted.contiguous_segments {
                    counted.contiguous_segments += 1;
                    counted.contiguous_end = segment.start + segment.duration;
                }
                counted.segments += 1;
                counted.bytes += u64::from(segment.block.len);
                counted.ticks += segment.duration;
                counted.segment_ticks_max = counted.segment_ticks_max.max(segment.duration);
                counted.bitrate_peak = counted.bitrate_peak.max(bits_per_second(
                    segment.block.len.into(),
                    segment.duration.max(timescale.into()),
                    timescale,
                ));
            }
        }
        findings.require(row == counted, || format!("{place}: {row:?}, counted {counted:?}"));
        findings.require(row.segments == 0 || row.init.is_some(), || {
            format!("{place}: segments without an initialization segment")
        });
    }
    Ok(())
}
