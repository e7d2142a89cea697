//! What is no video, or too much of one, is refused: quickly, with a stable code, and without opening anything.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use common::boxes::{find, u32_at};
use common::movie::{Movie, outputs, prepare, prepare_as};
use common::{Studio, Whole};
use transcoder::{
    AudioJob, Code, CopyJob, Job, Lane, Limits, PieceJob, PrepareJob, Source, ThumbnailJob,
    TrackKind,
};

fn refusal(source: impl Source) -> Code {
    let begin = Instant::now();
    let code = prepare(source).unwrap_err().code;
    assert!(begin.elapsed() < Duration::from_secs(5));
    code
}

#[test]
fn text_archives_and_playlists_are_no_videos() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/secret.ts", listener.local_addr().unwrap());
    let file = "file:///etc/hostname";
    for text in [
        format!(
            "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}\n#EXTINF:5,\n{file}\n#EXT-X-ENDLIST\n"
        ),
        format!("ffconcat version 1.0\nfile '{url}'\nfile '{file}'\n"),
        format!("<?xml version=\"1.0\"?><MPD><BaseURL>{url}</BaseURL></MPD>"),
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5004 RTP/AVP 96\n".to_owned(),
        "PK\u{3}\u{4}a zip".to_owned(),
        "This is not a film.\n".repeat(1000),
    ] {
        assert_eq!(refusal(Whole::new(text.as_bytes())), Code::NotAVideo, "{text:.40}");
    }
    assert_eq!(refusal(Whole::new(b"")), Code::EmptyFile);
    assert!(listener.accept().is_err(), "nobody was asked for anything");
}

#[test]
fn damaged_files_say_how() {
    let studio = Studio::open();
    let base =
        "-f lavfi -i testsrc2=s=320x180:r=25:d=4 -c:v libx264 -preset ultrafast -pix_fmt yuv420p";
    let last = studio.clip(base, "last.mp4");
    for part in [1, 30, 60, 99] {
        let cut = &last[..last.len() * part / 100];
        assert_eq!(refusal(Whole::new(cut)), Code::Truncated, "{part} %");
    }
    // All boxes there, and nothing in them.
    let mut hollow = last.clone();
    let moov = hollow.windows(4).position(|window| window == b"moov").unwrap();
    hollow[moov + 4..].fill(0);
    assert_eq!(refusal(Whole::new(&hollow)), Code::CorruptMedia);
    let mkv = studio.clip(base, "clip.mkv");
    assert_eq!(refusal(Whole::new(&mkv[..40])), Code::CorruptMedia);
}

#[test]
fn what_a_cut_file_still_has_can_be_watched() {
    let studio = Studio::open();
    let base = "-f lavfi -i testsrc2=s=320x180:r=25:d=12 -c:v libx264 -preset ultrafast -g 25 -bf 0 -pix_fmt yuv420p";
    for (arguments, name) in [
        (format!("{base} -movflags +faststart"), "cut.mp4"),
        (base.to_owned(), "cut.mkv"),
        (base.replace("libx264", "libx265 -x265-params log-level=none"), "encoded.mkv"),
    ] {
        let clip = studio.clip(&arguments, name);
        let cut = &clip[..clip.len() * 55 / 100];
        let movie = Movie::make(|| Whole::new(cut), 1);
        let frames = movie.times(0).len();
        assert!((100..200).contains(&frames), "{name}: {frames} of 300 frames");
        let timescale = u64::from(movie.plan.renditions[0].timescale);
        let end = movie.source_end.unwrap();
        assert!(end.abs_diff(frames as u64 * timescale / 25) <= timescale / 25, "{name}: {end}");
    }
}

#[test]
fn media_without_moving_pictures() {
    let studio = Studio::open();
    let sound = "-f lavfi -i sine=d=2 -c:a aac";
    assert_eq!(refusal(Whole::new(&studio.clip(sound, "sound.mp4"))), Code::NoVideoTrack);
    assert_eq!(refusal(Whole::new(&studio.clip(sound, "sound.mkv"))), Code::NoVideoTrack);
    let cover = studio.clip(
        "-f lavfi -i sine=d=2 -f lavfi -i testsrc2=s=64x64:d=0.04 -map 0 -map 1 -c:a aac -c:v mjpeg -frames:v 1 -disposition:v attached_pic",
        "cover.mp4",
    );
    assert_eq!(refusal(Whole::new(&cover)), Code::NoVideoTrack);
}

#[test]
fn unknown_containers_and_codecs() {
    let studio = Studio::open();
    let pictures = "-f lavfi -i testsrc2=s=64x64:d=1";
    for (arguments, name, code) in [
        ("-c:v flv", "clip.flv", Code::UnsupportedContainer),
        ("-c:v mpeg2video -f vob", "clip.mpg", Code::UnsupportedContainer),
        ("-c:v magicyuv", "magic.avi", Code::UnsupportedCodec),
        ("-c:v ffv1", "ffv1.mkv", Code::UnsupportedCodec),
        ("-c:v png", "png.mov", Code::UnsupportedCodec),
        ("-frames:v 1 -c:v png -f image2", "still.png", Code::NotAVideo),
    ] {
        let clip = studio.clip(&format!("{pictures} {arguments}"), name);
        assert_eq!(refusal(Whole::new(&clip)), code, "{name}");
    }
}

#[test]
fn more_than_the_limits() {
    let studio = Studio::open();
    let clip = studio.clip(
        "-f lavfi -i testsrc2=s=320x180:r=50:d=3 -f lavfi -i sine=d=3 -c:v libx264 -preset ultrafast -c:a aac",
        "clip.mp4",
    );
    let all = Limits::default();
    for (limits, code) in [
        (Limits { duration_ms_max: 2000, ..all }, Code::TooLong),
        (Limits { pixels_max: 320 * 180 - 1, ..all }, Code::FrameTooLarge),
        (Limits { frame_rate_max: 30, ..all }, Code::BadFrameRate),
        (Limits { tracks_max: 1, ..all }, Code::TooManyTracks),
    ] {
        let job = PrepareJob { limits, ..PrepareJob::default() };
        let failure = prepare_as(job, Whole::new(&clip)).unwrap_err();
        assert_eq!(failure.code, code);
        assert!(failure.is_permanent());
    }
}

/// Bytes of real files, some of them replaced. Whatever comes of it, it is an answer and neither a panic nor a wait.
#[test]
fn damaged_bytes_end_in_an_answer() {
    const ROUNDS: u64 = 15;
    let studio = Studio::open();
    let base = "-f lavfi -i testsrc2=s=128x96:r=10:d=2 -f lavfi -i sine=d=2";
    for (arguments, name) in [
        (
            "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a aac -movflags +faststart",
            "clip.mp4",
        ),
        ("-c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a aac", "clip.mkv"),
        ("-c:v mpeg4 -c:a libmp3lame", "clip.avi"),
        ("-c:v mpeg2video -c:a mp2", "clip.ts"),
    ] {
        let clip = studio.clip(&format!("{base} {arguments}"), name);
        // A generator of numbers whose row is always the same (Knuth's constants).
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for round in 0..ROUNDS {
            let mut damaged = clip.clone();
            // Headers are where it hurts.
            let reach = if round % 2 == 0 { clip.len().min(4096) } else { clip.len() };
            for _ in 0..1 + random(20) {
                damaged[random(reach)] = random(256) as u8;
            }
            let Ok(plan) = prepare(Whole::new(&damaged)) else { continue };
            assert!(plan.recipe.len() <= transcoder::RECIPE_BYTES_MAX);
            let recipe = plan.recipe.clone();
            for (index, rendition) in plan.renditions.iter().enumerate() {
                let index = index as u16;
                let recipe = recipe.clone();
                let job = match (rendition.lane, rendition.kind) {
                    (Lane::Copy, _) => Job::Copy(CopyJob {
                        recipe,
                        renditions: vec![index],
                        cuts: plan.cuts.clone(),
                    }),
                    (Lane::Encode, TrackKind::Audio) => {
                        Job::Audio(AudioJob { recipe, rendition: index, cuts: plan.cuts.clone() })
                    }
                    (Lane::Encode, TrackKind::Video) => Job::Piece(PieceJob {
                        recipe,
                        renditions: vec![index],
                        first_segment: 0,
                        cuts: vec![0],
                        end: None,
                        threads: 1,
                    }),
                };
                let _ = outputs(&job, Whole::new(&damaged));
            }
        }
    }
}

#[test]
fn a_recipe_must_be_one_of_ours() {
    let job = ThumbnailJob { recipe: vec![1, 2, 3], at_ms: None, max_width: 100 };
    let failure = outputs(&Job::Thumbnail(job), Whole::new(b"")).unwrap_err();
    assert_eq!(failure.code, Code::BadJob);
}

#[test]
fn a_source_that_fails_is_not_a_bad_video() {
    struct Broken(Whole, u64);
    impl std::io::Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let position = std::io::Seek::stream_position(&mut self.0)?;
            if position > self.1 {
                return Err(std::io::Error::other("the disk is gone"));
            }
            self.0.read(buffer)
        }
    }
    impl std::io::Seek for Broken {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    impl Source for Broken {
        fn len(&self) -> Option<u64> {
            self.0.len()
        }
        fn is_complete(&self) -> bool {
            true
        }
    }
    let studio = Studio::open();
    let clip = studio
        .clip("-f lavfi -i testsrc2=s=640x360:d=20 -c:v libx264 -preset ultrafast", "clip.mp4");
    let moov = clip.windows(4).position(|window| window == b"moov").unwrap() as u64;
    for position in [0, 100, moov] {
        let failure = prepare(Broken(Whole::new(&clip), position)).unwrap_err();
        assert_eq!((failure.code, failure.is_permanent()), (Code::SourceUnavailable, false));
    }
}

#[test]
fn a_thumbnail_is_a_jpeg_of_the_right_shape() {
    let studio = Studio::open();
    for (name, rate, size) in [("long.mp4", 10, (640, 360)), ("short.mkv", 1, (640, 360))] {
        let clip = studio.clip(
            &format!("-f lavfi -i testsrc2=s=1280x720:d={rate} -c:v libx264 -preset ultrafast"),
            name,
        );
        let recipe = prepare(Whole::new(&clip)).unwrap().recipe;
        let job = Job::Thumbnail(ThumbnailJob { recipe, at_ms: None, max_width: 640 });
        let made = outputs(&job, Whole::new(&clip)).unwrap();
        let [transcoder::Output::Thumbnail { jpeg, width, height }] = &made[..] else {
            panic!("{made:?}")
        };
        assert_eq!((*width, *height), size);
        assert!(jpeg.starts_with(&[0xff, 0xd8]) && jpeg.ends_with(&[0xff, 0xd9]));
        std::fs::write(studio.path("thumbnail.jpg"), jpeg).unwrap();
        let text = common::ffmpeg(studio.directory.path(), "-i thumbnail.jpg -f null -");
        assert!(text.contains("640x360"), "{text}");
    }
    // The boxes' reader is strict enough to notice damage.
    assert_eq!(find(&[0, 0, 0, 8, b'f', b'r', b'e', b'e'], "moov"), None);
    assert_eq!(u32_at(&[0, 0, 1, 0], 0), 256);
}
