//! HLS playlists (RFC 8216): a presentation in, text out. Pure.
//!
//! While a video is being made its playlists are of the type EVENT: they only grow, and `EXT-X-START` tells players to begin
//! at the beginning, because they take a growing playlist for a live show and would start near its end. When nothing more
//! comes they become VOD at the same addresses, with the same segments.

use std::fmt::{self, Write};

use cluster::plan::TrackKind;
use cluster::playback::{ListedRendition, Presentation};

/// fMP4 segments outside of I-frame playlists need version 6, and what else we use is within 7.
const VERSION: u32 = 7;

/// The one group that all sound is in.
const AUDIO_GROUP: &str = "audio";

/// Players start with the first variant of the list and look for a better one later. This short side, in pixels, is the best
/// that may be first: it starts quickly everywhere.
const FIRST_SHORT_SIDE_MAX: u32 = 480;

/// The multivariant playlist: which renditions there are.
#[must_use]
pub fn multivariant(presentation: &Presentation) -> String {
    let mut text = format!("#EXTM3U\n#EXT-X-VERSION:{VERSION}\n#EXT-X-INDEPENDENT-SEGMENTS\n");
    let of_kind = |kind| presentation.listed.iter().filter(move |rendition| rendition.kind == kind);
    let audio: Vec<_> = of_kind(TrackKind::Audio).collect();
    let mut variants: Vec<_> = of_kind(TrackKind::Video).collect();
    if variants.is_empty() {
        for rendition in audio {
            push(&mut text, format_args!("{}\n", Variant { rendition, audio: &[] }));
        }
        return text;
    }
    for (place, rendition) in audio.iter().enumerate() {
        let default = if place == 0 { "YES" } else { "NO" };
        push(
            &mut text,
            format_args!(
                "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"{AUDIO_GROUP}\",NAME=\"{name}\",DEFAULT={default},\
                 AUTOSELECT=YES,URI=\"{name}/index.m3u8\"\n",
                name = rendition.name,
            ),
        );
    }
    sort_for_players(&mut variants);
    for rendition in variants {
        push(&mut text, format_args!("{}\n", Variant { rendition, audio: &audio }));
    }
    text
}

/// The playlist of one rendition: which segments it has.
#[must_use]
pub fn media(presentation: &Presentation, rendition: &ListedRendition) -> String {
    let (kind, start) = if rendition.ended {
        ("VOD", "")
    } else {
        ("EVENT", "#EXT-X-START:TIME-OFFSET=0,PRECISE=YES\n")
    };
    // A segment takes about 30 characters.
    let mut text = String::with_capacity(256 + rendition.segments.len() * 32);
    push(
        &mut text,
        format_args!(
            "#EXTM3U\n#EXT-X-VERSION:{VERSION}\n#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:0\n\
             #EXT-X-PLAYLIST-TYPE:{kind}\n#EXT-X-INDEPENDENT-SEGMENTS\n{start}#EXT-X-MAP:URI=\"init.mp4\"\n",
            presentation.target_duration_s,
        ),
    );
    for segment in &rendition.segments {
        let seconds = Seconds { ticks: segment.duration, timescale: rendition.timescale };
        push(&mut text, format_args!("#EXTINF:{seconds},\n{}.m4s\n", segment.number));
    }
    if rendition.ended {
        text.push_str("#EXT-X-ENDLIST\n");
    }
    text
}

/// One line for each variant and one for its address.
struct Variant<'a> {
    rendition: &'a ListedRendition,
    audio: &'a [&'a ListedRendition],
}

impl fmt::Display for Variant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rendition, audio } = self;
        // A variant is its pictures and the most demanding sound of its group.
        let most = |rate: fn(&ListedRendition) -> u32| {
            let sound = audio.iter().map(|rendition| rate(rendition)).max().unwrap_or_default();
            u64::from(rate(rendition)) + u64::from(sound)
        };
        write!(f, "#EXT-X-STREAM-INF:BANDWIDTH={}", most(|of| of.bandwidth_peak).max(1))?;
        let average = most(|of| of.bandwidth_average);
        if average > 0 {
            write!(f, ",AVERAGE-BANDWIDTH={average}")?;
        }
        let codecs: Vec<_> = [*rendition]
            .into_iter()
            .chain(audio.iter().copied())
            .map(|of| of.codecs.as_str())
            .collect();
        write!(f, ",CODECS=\"{}\"", unique(codecs).join(","))?;
        if rendition.kind == TrackKind::Video {
            write!(f, ",RESOLUTION={}x{}", rendition.width, rendition.height)?;
            if rendition.frame_rate_millis > 0 {
                let millis = rendition.frame_rate_millis;
                write!(f, ",FRAME-RATE={}.{:03}", millis / 1000, millis % 1000)?;
            }
            f.write_str(",VIDEO-RANGE=SDR,CLOSED-CAPTIONS=NONE")?;
        }
        if !audio.is_empty() {
            write!(f, ",AUDIO=\"{AUDIO_GROUP}\"")?;
        }
        write!(f, "\n{}/index.m3u8", rendition.name)
    }
}

/// Rising by bandwidth, but for the one to start with.
fn sort_for_players(variants: &mut [&ListedRendition]) {
    variants.sort_by_key(|rendition| rendition.bandwidth_peak);
    let quick = |rendition: &&ListedRendition| {
        rendition.width.min(rendition.height) <= FIRST_SHORT_SIDE_MAX
    };
    if let Some(first) = variants.iter().rposition(quick) {
        variants[..=first].rotate_right(1);
    }
}

fn unique(mut codecs: Vec<&str>) -> Vec<&str> {
    let mut seen = Vec::new();
    codecs.retain(|codec| {
        let new = !codec.is_empty() && !seen.contains(codec);
        seen.push(*codec);
        new
    });
    codecs
}

/// A duration with six decimals, rounded to the nearest, without going through floating point.
struct Seconds {
    ticks: u64,
    timescale: u32,
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timescale = u128::from(self.timescale.max(1));
        let micros = (u128::from(self.ticks) * 1_000_000 + timescale / 2) / timescale;
        write!(f, "{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

fn push(text: &mut String, arguments: fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use m3u8_rs::{AlternativeMediaType, MediaPlaylistType, Playlist};

    use super::*;
    use crate::playback::fixtures::{audio, presentation, video};

    #[test]
    fn a_multivariant_playlist_lists_what_keeps_step() {
        let presentation =
            presentation(vec![video("720p", 1280, 720), video("360p", 640, 360), audio("audio")]);
        let text = multivariant(&presentation);
        assert_eq!(
            text,
            "#EXTM3U\n\
             #EXT-X-VERSION:7\n\
             #EXT-X-INDEPENDENT-SEGMENTS\n\
             #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio\",NAME=\"audio\",DEFAULT=YES,AUTOSELECT=YES,URI=\"audio/index.m3u8\"\n\
             #EXT-X-STREAM-INF:BANDWIDTH=848000,AVERAGE-BANDWIDTH=416000,CODECS=\"avc1.64001f,mp4a.40.2\",RESOLUTION=640x360,\
             FRAME-RATE=29.970,VIDEO-RANGE=SDR,CLOSED-CAPTIONS=NONE,AUDIO=\"audio\"\n\
             360p/index.m3u8\n\
             #EXT-X-STREAM-INF:BANDWIDTH=1568000,AVERAGE-BANDWIDTH=776000,CODECS=\"avc1.64001f,mp4a.40.2\",RESOLUTION=1280x720,\
             FRAME-RATE=29.970,VIDEO-RANGE=SDR,CLOSED-CAPTIONS=NONE,AUDIO=\"audio\"\n\
             720p/index.m3u8\n"
        );
        let (rest, parsed) = m3u8_rs::parse_master_playlist(text.as_bytes()).unwrap();
        assert!(rest.is_empty());
        assert!(parsed.independent_segments);
        assert_eq!(parsed.variants.len(), 2);
        assert_eq!(parsed.variants[0].audio.as_deref(), Some("audio"));
        assert_eq!(parsed.alternatives.len(), 1);
        assert_eq!(parsed.alternatives[0].media_type, AlternativeMediaType::Audio);
    }

    #[test]
    fn the_first_variant_starts_quickly_whatever_the_ladder() {
        let first = |renditions| {
            let text = multivariant(&presentation(renditions));
            let (_, parsed) = m3u8_rs::parse_master_playlist(text.as_bytes()).unwrap();
            parsed.variants.iter().map(|variant| variant.uri.clone()).collect::<Vec<_>>()
        };
        let ladder =
            vec![video("1080p", 1920, 1080), video("480p", 854, 480), video("360p", 640, 360)];
        assert_eq!(first(ladder), ["480p/index.m3u8", "360p/index.m3u8", "1080p/index.m3u8"]);
        // Portrait: the short side counts.
        let portrait = vec![video("720p", 720, 1280), video("360p", 360, 640)];
        assert_eq!(first(portrait), ["360p/index.m3u8", "720p/index.m3u8"]);
        assert_eq!(first(vec![video("source", 1920, 1080)]), ["source/index.m3u8"]);
    }

    #[test]
    fn sound_alone_is_a_variant() {
        let text = multivariant(&presentation(vec![audio("audio")]));
        let (_, parsed) = m3u8_rs::parse_master_playlist(text.as_bytes()).unwrap();
        assert!(parsed.alternatives.is_empty());
        assert_eq!(parsed.variants[0].codecs.as_deref(), Some("mp4a.40.2"));
        assert_eq!(parsed.variants[0].resolution, None);
        assert_eq!(parsed.variants[0].audio, None);
    }

    #[test]
    fn a_playlist_grows_as_event_and_ends_as_vod() {
        let mut growing = video("720p", 1280, 720);
        growing.ended = false;
        let presentation = presentation(vec![growing.clone()]);
        let text = media(&presentation, &growing);
        assert_eq!(
            text,
            "#EXTM3U\n\
             #EXT-X-VERSION:7\n\
             #EXT-X-TARGETDURATION:5\n\
             #EXT-X-MEDIA-SEQUENCE:0\n\
             #EXT-X-PLAYLIST-TYPE:EVENT\n\
             #EXT-X-INDEPENDENT-SEGMENTS\n\
             #EXT-X-START:TIME-OFFSET=0,PRECISE=YES\n\
             #EXT-X-MAP:URI=\"init.mp4\"\n\
             #EXTINF:4.004000,\n\
             0.m4s\n\
             #EXTINF:4.004000,\n\
             1.m4s\n\
             #EXTINF:1.501500,\n\
             2.m4s\n"
        );
        let ended = ListedRendition { ended: true, ..growing };
        let finished = media(&presentation, &ended);
        let unchanged = |text: &str| {
            text.lines()
                .filter(|line| line.ends_with(".m4s") || line.starts_with("#EXTINF"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(unchanged(&finished), unchanged(&text));
        let Ok((_, Playlist::MediaPlaylist(parsed))) = m3u8_rs::parse_playlist(finished.as_bytes())
        else {
            panic!("not a media playlist: {finished}");
        };
        assert_eq!(parsed.playlist_type, Some(MediaPlaylistType::Vod));
        assert!(parsed.end_list);
        assert!(parsed.start.is_none());
        assert_eq!(parsed.segments.len(), 3);
        assert!(
            parsed
                .segments
                .iter()
                .all(|segment| segment.duration.round() <= parsed.target_duration as f32)
        );
        assert_eq!(parsed.segments[0].map.as_ref().map(|map| map.uri.as_str()), Some("init.mp4"));
    }

    #[test]
    fn durations_are_exact_to_the_microsecond() {
        for (ticks, timescale, expected) in [
            (90_000, 90_000, "1.000000"),
            (3_003, 90_000, "0.033367"),
            (1024, 44_100, "0.023220"),
            (u64::MAX, 1, "18446744073709551615.000000"),
            (1, 0, "1.000000"),
        ] {
            assert_eq!(Seconds { ticks, timescale }.to_string(), expected);
        }
    }
}
