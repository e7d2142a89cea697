//! Sound and pictures stay together: a flash and a beep at the same moment are still that after all we do to them.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::movie::Movie;
use common::{Studio, Whole, ffmpeg};
use transcoder::{Lane, TrackKind};

/// Black and silent, but for a flash and a beep that begin at 2 s.
fn clip(studio: &Studio, name: &str, codecs: &str, sound_offset: &str) -> Vec<u8> {
    studio.clip(
        &format!(
            "-f lavfi -i color=black:s=320x180:r=25:d=5,drawbox=c=white:t=fill:enable=between(t\\,2\\,2.5) \
             {sound_offset} -f lavfi -i sine=1000:r=48000:d=5,volume=0:enable=not(between(t\\,2\\,2.5)) \
             -map 0 -map 1 {codecs}"
        ),
        name,
    )
}

/// When the flash begins in a file of pictures, in seconds.
fn flash(studio: &Studio, movie: &Movie, rendition: u16) -> f64 {
    movie.write(rendition, &studio.path("pictures.mp4"));
    let directory = studio.directory.path();
    ffmpeg(
        directory,
        "-i pictures.mp4 -vsync passthrough -vf scale=2:2,format=yuv420p,extractplanes=y -f rawvideo luma",
    );
    let luma = std::fs::read(studio.path("luma")).unwrap();
    let frame = luma.chunks(4).position(|frame| frame[0] > 128).expect("a flash");
    let timescale = movie.plan.renditions[usize::from(rendition)].timescale;
    movie.times(rendition)[frame] as f64 / f64::from(timescale)
}

/// When the beep begins in a file of sound, in seconds of what is heard: the edit list counts.
fn beep(studio: &Studio, movie: &Movie, rendition: u16) -> f64 {
    movie.write(rendition, &studio.path("sound.mp4"));
    ffmpeg(studio.directory.path(), "-i sound.mp4 -ac 1 -ar 48000 -f s16le pcm");
    let pcm = std::fs::read(studio.path("pcm")).unwrap();
    let loud = |sample: &[u8]| i16::from_le_bytes([sample[0], sample[1]]).unsigned_abs() > 1000;
    pcm.chunks_exact(2).position(loud).expect("a beep") as f64 / 48_000.0
}

#[test]
fn flash_and_beep_stay_together() {
    let studio = Studio::open();
    let h264 = "-c:v libx264 -preset ultrafast -g 25 -bf 2 -pix_fmt yuv420p";
    for (name, codecs, offset, lanes) in [
        ("copy.mp4", format!("{h264} -c:a aac -ac 2"), "", (Lane::Copy, Lane::Copy)),
        ("copy.mkv", format!("{h264} -c:a aac -ac 2"), "", (Lane::Copy, Lane::Copy)),
        ("copy.ts", format!("{h264} -c:a aac -ac 2"), "", (Lane::Copy, Lane::Copy)),
        ("mixed.mkv", format!("{h264} -c:a libopus"), "", (Lane::Copy, Lane::Encode)),
        (
            "vp8.webm",
            "-c:v libvpx -cpu-used 8 -deadline realtime -c:a libopus".into(),
            "",
            (Lane::Encode, Lane::Encode),
        ),
        ("mpeg4.avi", "-c:v mpeg4 -c:a libmp3lame".into(), "", (Lane::Encode, Lane::Encode)),
        (
            "bframes.avi",
            "-c:v mpeg4 -bf 2 -c:a libmp3lame".into(),
            "",
            (Lane::Encode, Lane::Encode),
        ),
        ("mpeg2.ts", "-c:v mpeg2video -c:a mp2".into(), "", (Lane::Encode, Lane::Encode)),
        // Sound that starts a second late, or before the pictures: beep and flash are apart, and must stay so.
        ("late.mp4", format!("{h264} -c:a aac -ac 2"), "-itsoffset 1", (Lane::Copy, Lane::Encode)),
        (
            "early.mkv",
            format!("{h264} -c:a libopus"),
            "-itsoffset -0.3",
            (Lane::Copy, Lane::Encode),
        ),
    ] {
        let clip = clip(&studio, name, &codecs, offset);
        let movie = Movie::make(|| Whole::new(&clip), 1);
        let audio = movie.rendition("audio");
        assert_eq!(
            (movie.plan.renditions[0].lane, movie.plan.renditions[usize::from(audio)].lane),
            lanes,
            "{name}"
        );
        movie.sound(audio);
        let expected = offset.rsplit(' ').next().unwrap().parse::<f64>().unwrap_or(0.0);
        let apart = beep(&studio, &movie, audio) - flash(&studio, &movie, 0);
        assert!(
            (apart - expected).abs() <= 0.040,
            "{name}: {apart:.3} s apart, should be {expected}"
        );
    }
}

#[test]
fn a_long_silence_in_the_file_is_one_in_the_track() {
    let studio = Studio::open();
    // Ten seconds of sound whose last two come 60 s later.
    let clip = studio.clip(
        "-f lavfi -i color=black:s=320x180:r=5:d=75 -f lavfi -i sine=1000:r=48000:d=10 \
         -af asetpts=if(lt(T\\,8)\\,PTS\\,PTS+60/TB) -c:v libx264 -preset ultrafast -c:a libopus",
        "gap.mkv",
    );
    let movie = Movie::make(|| Whole::new(&clip), 100);
    let [audio] = movie.indices(TrackKind::Audio, Lane::Encode)[..] else {
        panic!("sound is encoded")
    };
    let heard = movie.sound(audio) as f64 / 48_000.0;
    assert!((heard - 70.0).abs() < 0.1, "{heard}");
    movie.write(audio, &studio.path("sound.mp4"));
    ffmpeg(studio.directory.path(), "-i sound.mp4 -ac 1 -ar 48000 -f s16le pcm");
    let pcm = std::fs::read(studio.path("pcm")).unwrap();
    let loud_second = |second: usize| {
        let part = &pcm[second * 96_000..][..96_000];
        part.chunks_exact(2).any(|s| i16::from_le_bytes([s[0], s[1]]).unsigned_abs() > 500)
    };
    let loud: Vec<usize> = (0..69).filter(|second| *second != 8 && loud_second(*second)).collect();
    assert_eq!(
        loud,
        [0, 1, 2, 3, 4, 5, 6, 7, 68],
        "the eighth second begins with the rest of a frame"
    );
}
