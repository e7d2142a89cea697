//! The encode lane: pieces made apart join without a seam, whatever the source is like.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::movie::Movie;
use common::{Studio, Whole, ffmpeg};
use transcoder::{Cuts, Lane, TrackKind};

/// A filter that gives each frame a brightness of its own, unlike that of its neighbours.
const FLICKER: &str = "-vf geq=lum=mod(N*37\\,200)+20:cb=128:cr=128";

/// The brightness of each frame: which frame it is.
fn brightness(studio: &Studio, name: &str) -> Vec<u8> {
    let arguments = format!(
        "-i {name} -map 0:v -vsync passthrough -vf scale=2:2,format=yuv420p,extractplanes=y -f rawvideo brightness"
    );
    ffmpeg(studio.directory.path(), &arguments);
    std::fs::read(studio.path("brightness")).unwrap().chunks(4).map(|frame| frame[0]).collect()
}

/// A frame that is missing, doubled or misplaced is much brighter or darker than its partner.
fn assert_same_frames(studio: &Studio, ours: &str, source: &str) {
    let (ours, theirs) = (brightness(studio, ours), brightness(studio, source));
    assert_eq!(ours.len(), theirs.len(), "{source}");
    for (index, (our, their)) in ours.iter().zip(&theirs).enumerate() {
        assert!(our.abs_diff(*their) < 12, "{source}: frame {index} has {our} instead of {their}");
    }
}

/// How alike the least alike frames are, from 0 to 1.
fn worst_likeness(studio: &Studio, ours: &str, source: &str) -> f64 {
    let arguments = format!("-i {ours} -i {source} -lavfi ssim=stats_file=likeness.txt -f null -");
    ffmpeg(studio.directory.path(), &arguments);
    let text = std::fs::read_to_string(studio.path("likeness.txt")).unwrap();
    let all =
        text.lines().filter_map(|line| line.split("All:").nth(1)?.split(' ').next()?.parse().ok());
    all.fold(1.0, f64::min)
}

fn encoded(clip: &[u8], piece: usize) -> Movie {
    let movie = Movie::make(|| Whole::new(clip), piece);
    assert_eq!(movie.plan.renditions[0].lane, Lane::Encode);
    movie
}

/// Frame times as multiples of the frame's length.
fn assert_constant(movie: &Movie, rendition: u16, frames: usize, rate: (u64, u64)) {
    let times = movie.times(rendition);
    assert_eq!(times.len(), frames);
    let timescale = u64::from(movie.plan.renditions[usize::from(rendition)].timescale);
    for (index, time) in times.iter().enumerate() {
        assert_eq!(*time * rate.0, index as u64 * rate.1 * timescale, "frame {index}");
    }
}

#[test]
fn pieces_in_any_order_are_one_video() {
    let studio = Studio::open();
    // A single keyframe: every piece has to be decoded from the beginning.
    let clip = studio.clip(
        &format!("-f lavfi -i testsrc2=s=480x400:r=24000/1001:d=8 {FLICKER} -c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=1000 -tag:v hvc1"),
        "clip.mp4",
    );
    let movie = encoded(&clip, 1);
    assert_eq!(movie.cuts.len(), 4);
    for rendition in movie.indices(TrackKind::Video, Lane::Encode) {
        assert_constant(&movie, rendition, 192, (24_000, 1001));
        let name = format!("{rendition}.mp4");
        movie.write(rendition, &studio.path(&name));
        assert_same_frames(&studio, &name, "clip.mp4");
    }
    let at_once = encoded(&clip, 100);
    assert_eq!(at_once.times(0), movie.times(0));
    assert_eq!(at_once.tracks[&0].init, movie.tracks[&0].init);
    assert_eq!(movie.tracks[&0].codecs, "avc1.640015");
    assert_eq!(
        movie.source_end,
        Some(192 * 1001 * u64::from(movie.plan.renditions[0].timescale) / 24_000)
    );
}

#[test]
fn cuts_are_at_the_sources_keyframes_where_these_are_near() {
    let studio = Studio::open();
    let clip = studio.clip(
        "-f lavfi -i testsrc2=s=320x180:r=25:d=9 -c:v libx264 -preset veryfast -bf 2 -pix_fmt yuv444p \
         -force_key_frames 0,1.2,3.04,5.48,7.48 -sc_threshold 0",
        "clip.mp4",
    );
    let movie = encoded(&clip, 2);
    let timescale = u64::from(movie.plan.renditions[0].timescale);
    let expected: Vec<u64> = [0, 120, 304, 748].iter().map(|cs| cs * timescale / 100).collect();
    assert_eq!(movie.plan.cuts, Cuts::Known(expected));
    assert_constant(&movie, 0, 225, (25, 1));
}

/// Four seconds in each of these formats: all frames, in their order, and as much sound.
fn assert_readable(kinds: &[(&str, &str)]) {
    let studio = Studio::open();
    for (name, codecs) in kinds {
        let sound = if codecs.contains("-c:a") { "-f lavfi -i sine=440:r=44100:d=4" } else { "" };
        let input = format!("-f lavfi -i testsrc2=s=320x180:r=25:d=4 {sound} {FLICKER}");
        let clip = studio.clip(&format!("{input} {codecs}"), name);
        let movie = encoded(&clip, 1);
        assert_eq!(movie.times(0).len(), 100, "{name}");
        let timescale = u64::from(movie.plan.renditions[0].timescale);
        let end = movie.source_end.unwrap();
        assert!(
            end.abs_diff(4 * timescale) <= timescale / 20,
            "{name} ends at {end} of {timescale}"
        );
        movie.write(0, &studio.path("ours.mp4"));
        assert_same_frames(&studio, "ours.mp4", name);
        assert_eq!(movie.plan.renditions.len(), if sound.is_empty() { 1 } else { 2 });
        if !sound.is_empty() {
            let heard = movie.sound(1);
            let rate = u64::from(movie.plan.renditions[1].timescale);
            assert!(heard.abs_diff(4 * rate) < rate / 10, "{name}: {heard}");
        }
    }
}

#[test]
fn webm() {
    assert_readable(&[
        ("vp9.webm", "-c:v libvpx-vp9 -cpu-used 8 -deadline realtime -b:v 300k -c:a libopus"),
        ("vp8.webm", "-c:v libvpx -cpu-used 8 -deadline realtime -b:v 300k -c:a libvorbis"),
    ]);
}

#[test]
fn avi_and_transport_streams() {
    assert_readable(&[
        ("mpeg4.avi", "-c:v mpeg4 -b:v 600k -c:a libmp3lame"),
        ("bframes.avi", "-c:v mpeg4 -bf 2 -b:v 600k -c:a libmp3lame"),
        ("mpeg2.ts", "-c:v mpeg2video -b:v 1M -c:a mp2"),
    ]);
}

#[test]
fn ten_bits_motion_jpeg_and_av1() {
    assert_readable(&[
        (
            "hevc10.mkv",
            "-c:v libx265 -preset ultrafast -x265-params log-level=none -pix_fmt yuv420p10le -c:a flac",
        ),
        ("motion.mov", "-c:v mjpeg -c:a pcm_s16le"),
        ("av1.mp4", "-c:v libsvtav1 -preset 12"),
    ]);
}

#[test]
fn odd_sizes_and_turned_phones() {
    let studio = Studio::open();
    let odd = studio.clip(
        "-f lavfi -i testsrc2=s=400x300:r=25:d=1 -vf format=gbrp,crop=321:181 -c:v libx264 -preset ultrafast -pix_fmt yuv444p",
        "odd.mp4",
    );
    let movie = encoded(&odd, 1);
    assert_eq!((movie.plan.width, movie.plan.height), (321, 181));
    assert_eq!((movie.plan.renditions[0].width, movie.plan.renditions[0].height), (320, 180));
    assert_eq!(movie.times(0).len(), 25);

    studio.clip(
        "-f lavfi -i testsrc2=s=320x180:r=25:d=1 -c:v libx264 -preset ultrafast -pix_fmt yuv420p",
        "plain.mp4",
    );
    for (degrees, (width, height)) in [(90, (180, 320)), (180, (320, 180)), (270, (180, 320))] {
        let turned = studio
            .clip(&format!("-i plain.mp4 -c copy -metadata:s:v rotate={degrees}"), "turned.mp4");
        let movie = encoded(&turned, 1);
        assert_eq!((movie.plan.width, movie.plan.height), (width, height));
        movie.write(0, &studio.path("ours.mp4"));
        // ffmpeg turns what it reads; ours needs no turning.
        let likeness = worst_likeness(&studio, "ours.mp4", "turned.mp4");
        assert!(likeness > 0.9, "{degrees}: {likeness}");
    }
}

#[test]
fn pauses_keep_their_length_and_segments_theirs() {
    let studio = Studio::open();
    // Frames at 0 to 0.96 s, then nothing until 13 s.
    let clip = studio.clip(
        "-f lavfi -i testsrc2=s=320x180:r=25:d=2 -vf setpts=if(lt(N\\,25)\\,N/25/TB\\,(N-25)/25/TB+13/TB) \
         -vsync vfr -c:v libx265 -preset ultrafast -x265-params log-level=none -video_track_timescale 12800",
        "pause.mp4",
    );
    for piece in [1, 2, 10] {
        let movie = encoded(&clip, piece);
        let times = movie.times(0);
        let timescale = u64::from(movie.plan.renditions[0].timescale);
        assert_eq!(movie.source_end, Some(14 * timescale));
        let in_pause: Vec<u64> = times
            .iter()
            .copied()
            .filter(|t| *t > 24 * timescale / 25 && *t < 13 * timescale)
            .collect();
        let cuts: Vec<u64> =
            movie.cuts.iter().copied().filter(|cut| in_pause.contains(cut)).collect();
        assert_eq!(in_pause, cuts, "the last frame again at each cut, and nothing else");
        assert_eq!(times.len(), 50 + in_pause.len());
        assert!(times.contains(&(13 * timescale)));
    }
}

#[test]
fn without_an_index_or_a_length_a_piece_cuts_itself() {
    let studio = Studio::open();
    let clip = studio
        .clip("-f lavfi -i testsrc2=s=320x180:r=25:d=9 -c:v mpeg2video -b:v 1M -g 50", "clip.ts");
    let movie = encoded(&clip, 1);
    assert_eq!((movie.plan.duration_ms, &movie.plan.cuts), (None, &Cuts::Known(vec![0])));
    let starts: Vec<u64> =
        movie.tracks[&0].segments.values().map(|segment| segment.start).collect();
    assert_eq!(starts, [0, 90_000, 270_000, 630_000]);
    assert_eq!(movie.times(0).len(), 225);
}

#[test]
fn a_clip_shorter_than_a_second() {
    let studio = Studio::open();
    for (frames, rate) in [(1, 25), (3, 25), (20, 50)] {
        let clip = studio.clip(
            &format!("-f lavfi -i testsrc2=s=320x180:r={rate} -frames:v {frames} -c:v libx265 -preset ultrafast -x265-params log-level=none"),
            "tiny.mp4",
        );
        let movie = encoded(&clip, 1);
        assert_eq!(movie.times(0).len(), frames, "{frames}");
        assert_eq!(movie.tracks[&0].segments.len(), 1);
    }
}

#[test]
fn fields_become_frames_and_fast_sources_slower() {
    let studio = Studio::open();
    let fields = studio.clip(
        "-f lavfi -i testsrc2=s=320x240:r=25:d=3 -vf tinterlace=interleave_top,setfield=tff -c:v mpeg2video -flags +ildct+ilme -b:v 1M",
        "fields.ts",
    );
    let movie = encoded(&fields, 1);
    assert!(movie.times(0).len().abs_diff(37) <= 1, "{}", movie.times(0).len());
    let fast = studio.clip(
        "-f lavfi -i testsrc2=s=320x180:r=120:d=3 -c:v libx265 -preset ultrafast -x265-params log-level=none",
        "fast.mp4",
    );
    let movie = encoded(&fast, 1);
    assert_eq!(movie.plan.renditions[0].frame_rate_millis, 60_000);
    assert_constant(&movie, 0, 180, (60, 1));
}

#[test]
fn bright_pictures_are_brought_to_what_screens_show() {
    let studio = Studio::open();
    let clip = studio.clip(
        "-f lavfi -i testsrc2=s=320x180:r=25:d=1 -vf format=yuv420p10le -c:v libx265 -preset ultrafast \
         -x265-params log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc \
         -color_primaries bt2020 -color_trc smpte2084 -colorspace bt2020nc",
        "hdr.mp4",
    );
    let movie = encoded(&clip, 1);
    assert_eq!(movie.times(0).len(), 25);
    movie.write(0, &studio.path("ours.mp4"));
    let text = ffmpeg(studio.directory.path(), "-i ours.mp4 -f null -");
    assert!(text.contains("yuv420p(tv, bt709"), "{text}");
}
