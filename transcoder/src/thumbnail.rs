//! One picture for a library page.

use ffmpeg_next::codec::{self, encoder};
use ffmpeg_next::{Error, Packet, Rational, color, format, frame};
use std::cell::RefCell;

use crate::error::{Code, Failure};
use crate::ffi;
use crate::job::{Outcome, Output, Sink, Source, ThumbnailJob};
use crate::piece::decode::Frames;
use crate::piece::filters::Filters;
use crate::recipe::Recipe;

/// Where the picture is taken when nobody says, in milliseconds; earlier in short clips.
const DEFAULT_MS: u64 = 2000;

/// libav's scale for JPEG goes from 1 (best) to 31.
const QUALITY: &str = "4";

pub(crate) fn run(job: &ThumbnailJob, source: impl Source, sink: &mut dyn Sink) -> Outcome {
    let recipe = Recipe::decode(&job.recipe)?;
    let video = &recipe.video;
    let middle = video.duration_ms.map_or(DEFAULT_MS, |ms| ms / 2);
    let at_ms = job.at_ms.unwrap_or(DEFAULT_MS.min(middle));
    let at = video.clock.ticks_of_millis(at_ms);
    let mut frames = Frames::open(source, &recipe, at, 1)?;
    let mut chosen = None;
    while let Some((tick, lasts, frame)) = frames.next()? {
        // The one on the screen at that moment, or the last one of a shorter film.
        let ends = tick.saturating_add_unsigned(lasts);
        chosen = Some(frame);
        if u64::try_from(ends).is_ok_and(|ends| ends > at) {
            break;
        }
    }
    let chosen = chosen.ok_or_else(|| {
        Failure::new(Code::CorruptMedia, "No frame of the source can be decoded.")
    })?;
    let rung =
        video.rungs.first().ok_or_else(|| Failure::bad_job("The recipe has no pictures."))?;
    let (width, height) = size(rung.width, rung.height, job.max_width);
    let converted = RefCell::new(None);
    let take = |_, frame: frame::Video| {
        converted.replace(Some(frame));
        true
    };
    let mut filters = Filters::for_jpeg(video, (width, height));
    filters.push(&chosen, 0, true, &take)?;
    filters.finish(&take)?;
    let picture = converted.take();
    let picture = picture
        .ok_or_else(|| Failure::new(Code::Internal, "The picture got lost in the filters."))?;
    let jpeg = encode(&picture).map_err(|error| {
        Failure::new(Code::Internal, format!("The picture cannot be encoded: {error}."))
    })?;
    sink.put(Output::Thumbnail { jpeg, width, height }).map_err(|error| crate::sink_closed(&error))
}

/// At most `max_width` wide, even, and never enlarged.
fn size(width: u32, height: u32, max_width: u32) -> (u32, u32) {
    let shown = width.min(max_width.max(2));
    let scaled = u64::from(height) * u64::from(shown) / u64::from(width.max(1));
    ((shown & !1).max(2), ((scaled as u32) & !1).max(2))
}

fn encode(picture: &frame::Video) -> Result<Vec<u8>, Error> {
    let codec = encoder::find_by_name("mjpeg").ok_or(Error::EncoderNotFound)?;
    let mut context = codec::Context::new_with_codec(codec);
    context.set_time_base(Rational::new(1, 25));
    context.set_flags(codec::Flags::QSCALE);
    let mut video = context.encoder().video()?;
    video.set_width(picture.width());
    video.set_height(picture.height());
    video.set_format(format::Pixel::YUVJ420P);
    video.set_color_range(color::Range::JPEG);
    let mut options = ffmpeg_next::Dictionary::new();
    options.set("qmin", QUALITY);
    options.set("qmax", QUALITY);
    let mut encoder = video.open_as_with(codec, options)?;
    let mut frame = ffi::share(picture).ok_or(Error::Other { errno: libc::ENOMEM })?;
    frame.set_pts(Some(0));
    frame.set_kind(ffmpeg_next::picture::Type::None);
    encoder.send_frame(&frame)?;
    encoder.send_eof()?;
    let mut packet = Packet::empty();
    encoder.receive_packet(&mut packet)?;
    Ok(packet.data().unwrap_or_default().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thumbnails_are_scaled_down_only() {
        assert_eq!(size(1920, 1080, 640), (640, 360));
        assert_eq!(size(320, 180, 640), (320, 180));
        assert_eq!(size(1080, 1920, 640), (640, 1136));
        assert_eq!(size(2, 2000, 1), (2, 2000));
    }
}
