//! The copy lane: what comes out are the source's own frames, cut at its keyframes.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::movie::{Movie, prepare, prepare_as};
use common::{Studio, Whole, ffmpeg};
use transcoder::{Cuts, Lane, PrepareJob, TrackKind};

/// Six seconds with B-frames and a keyframe each second, and a tone.
const STANDARD: &str = "-f lavfi -i testsrc2=s=640x360:r=25:d=6 -f lavfi -i sine=440:r=44100:d=6 \
    -c:v libx264 -preset ultrafast -bf 2 -g 25 -sc_threshold 0 -pix_fmt yuv420p -c:a aac -ac 2 -b:a 96k";

/// The checksums of decoded frames, without their times.
fn pixels(studio: &Studio, name: &str, stream: &str) -> Vec<String> {
    ffmpeg(studio.directory.path(), &format!("-i {name} -map 0:{stream} -f framemd5 {name}.md5"));
    let text = std::fs::read_to_string(studio.path(&format!("{name}.md5"))).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit(',').next().unwrap().trim().to_owned()).collect()
}

fn copied(studio: &Studio, name: &str, clip: &[u8]) -> Movie {
    let movie = Movie::make(|| Whole::new(clip), 2);
    assert_eq!(movie.plan.renditions[0].lane, Lane::Copy, "{name}");
    let frames = movie.pictures(0);
    assert_eq!(frames.len(), 150, "{name}");
    let frame = u64::from(movie.plan.renditions[0].timescale) / 25;
    for (index, sample) in frames.iter().enumerate() {
        assert!(
            sample.shown.abs_diff(index as u64 * frame) <= 1,
            "{name}: {index} {}",
            sample.shown
        );
    }
    movie.write(0, &studio.path("copied.mp4"));
    assert_eq!(pixels(studio, "copied.mp4", "v"), pixels(studio, name, "v"), "{name}");
    movie
}

#[test]
fn an_mp4_is_cut_at_its_keyframes_wherever_its_index_is() {
    let studio = Studio::open();
    for (flags, name) in [("-movflags +faststart", "first.mp4"), ("", "last.mp4")] {
        let clip = studio.clip(&format!("{STANDARD} {flags}"), name);
        let movie = copied(&studio, name, &clip);
        let timescale = u64::from(movie.plan.renditions[0].timescale);
        assert_eq!(movie.plan.cuts, Cuts::Known(vec![0, timescale, 3 * timescale]));
        assert_eq!(movie.plan.duration_ms, Some(6000));
        assert!(movie.tracks[&0].codecs.starts_with("avc1.4d"), "{}", movie.tracks[&0].codecs);

        let audio = movie.rendition("audio");
        let heard = movie.sound(audio);
        assert!(heard.abs_diff(6 * 44_100) < 1024, "{heard}");
        movie.write(audio, &studio.path("sound.mp4"));
        // The encoder's delay is in the edit list, so the decoded sound is the source's, without it.
        let ours = pixels(&studio, "sound.mp4", "a");
        let theirs = pixels(&studio, name, "a");
        assert!(ours.len().abs_diff(theirs.len()) <= 1);
        assert!(theirs.iter().skip(2).take(200).all(|frame| ours.contains(frame)));
    }
}

#[test]
fn matroska_and_transport_streams_are_repackaged_too() {
    let studio = Studio::open();
    studio.clip(STANDARD, "source.mp4");
    let mkv = studio.clip("-i source.mp4 -c copy", "copy.mkv");
    let movie = copied(&studio, "copy.mkv", &mkv);
    assert!(matches!(movie.plan.cuts, Cuts::Known(_)), "cues are an index");
    movie.sound(movie.rendition("audio"));

    let ts = studio.clip("-i source.mp4 -c copy", "copy.ts");
    let movie = copied(&studio, "copy.ts", &ts);
    assert_eq!((&movie.plan.cuts, movie.plan.duration_ms), (&Cuts::Discovered, None));
    assert_eq!(movie.cuts, [0, 90_000, 270_000]);
    assert_eq!(movie.source_end, Some(540_000));
    movie.sound(movie.rendition("audio"));

    // Written as it is recorded: no duration, no cues.
    let live = studio.clip("-i source.mp4 -c copy -f matroska -live 1", "live.mkv");
    let movie = copied(&studio, "live.mkv", &live);
    assert_eq!((&movie.plan.cuts, movie.plan.duration_ms), (&Cuts::Discovered, None));
}

#[test]
fn smaller_rungs_have_the_cuts_of_the_copied_one() {
    let studio = Studio::open();
    let clip = studio.clip(
        "-f lavfi -i testsrc2=s=960x540:r=25:d=5 -c:v libx264 -preset ultrafast -g 35 -pix_fmt yuv420p",
        "clip.mp4",
    );
    let movie = Movie::make(|| Whole::new(&clip), 1);
    let lanes: Vec<_> = movie.plan.renditions.iter().map(|r| (r.name.as_str(), r.lane)).collect();
    assert_eq!(lanes, [("540p", Lane::Copy), ("480p", Lane::Encode), ("360p", Lane::Encode)]);
    let times = movie.times(0);
    for rendition in [1, 2] {
        assert_eq!(movie.times(rendition), times, "the same frames at the same ticks");
        let starts = |index: u16| {
            movie.tracks[&index].segments.values().map(|s| s.start).collect::<Vec<_>>()
        };
        assert_eq!(starts(rendition), starts(0));
    }
}

#[test]
fn what_browsers_may_not_play_is_not_copied() {
    let studio = Studio::open();
    let base = "-f lavfi -i testsrc2=s=320x180:r=25:d=3 -c:v libx264 -preset ultrafast";
    for (what, arguments) in [
        ("4:4:4", "-pix_fmt yuv444p"),
        ("10 bits", "-pix_fmt yuv420p10le"),
        (
            "open groups",
            "-preset fast -pix_fmt yuv420p -x264-params open-gop=1:keyint=20:min-keyint=20:scenecut=0:bframes=3",
        ),
        ("no square pixels", "-pix_fmt yuv420p -aspect 4:3"),
        ("fields", "-pix_fmt yuv420p -flags +ildct+ilme -x264-params interlaced=1"),
    ] {
        let clip = studio.clip(&format!("{base} {arguments}"), "clip.mp4");
        let plan = prepare(Whole::new(&clip)).unwrap();
        assert_eq!(plan.renditions[0].lane, Lane::Encode, "{what}");
    }
    let far = studio.clip(
        "-f lavfi -i testsrc2=s=320x180:r=25:d=10 -c:v libx264 -preset ultrafast -g 300 -sc_threshold 0 -pix_fmt yuv420p",
        "far.mp4",
    );
    assert_eq!(prepare(Whole::new(&far)).unwrap().renditions[0].lane, Lane::Encode);
    let fit = studio.clip(&format!("{base} -pix_fmt yuv420p"), "fit.mp4");
    assert_eq!(prepare(Whole::new(&fit)).unwrap().renditions[0].lane, Lane::Copy);
    let refused = PrepareJob { copy_allowed: false, ..PrepareJob::default() };
    assert_eq!(prepare_as(refused, Whole::new(&fit)).unwrap().renditions[0].lane, Lane::Encode);
}

#[test]
fn five_channels_are_encoded_while_pictures_are_copied() {
    let studio = Studio::open();
    let clip = studio.clip(
        "-f lavfi -i testsrc2=s=320x180:r=25:d=3 -f lavfi -i sine=440:r=48000:d=3 \
         -c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a aac -ac 6",
        "clip.mp4",
    );
    let movie = Movie::make(|| Whole::new(&clip), 2);
    assert_eq!(movie.indices(TrackKind::Video, Lane::Copy), [0]);
    assert_eq!(movie.indices(TrackKind::Audio, Lane::Encode), [1]);
    let heard = movie.sound(1);
    assert!((3 * 48_000..3 * 48_000 + 2048).contains(&heard), "{heard}");
    movie.write(1, &studio.path("sound.mp4"));
    let text = ffmpeg(studio.directory.path(), "-i sound.mp4 -f null -");
    assert!(text.contains("48000 Hz, stereo"), "{text}");
}
