//! The DASH manifest (ISO/IEC 23009-1) of a finished video: a presentation in, XML out. Pure.
//!
//! Only finished videos have one. A growing manifest is a live stream to DASH players, with clocks to agree on and no way to
//! say "start at the beginning"; HLS serves that time. The segments are the same ones.

use std::fmt::{self, Write};

use cluster::command::NewSegment;
use cluster::plan::TrackKind;
use cluster::playback::{ListedRendition, Presentation};

/// The manifest of type `static`.
#[must_use]
pub fn manifest(presentation: &Presentation) -> String {
    let duration_ms = presentation.duration_ms.unwrap_or(presentation.frontier_ms);
    let duration = format!("PT{}.{:03}S", duration_ms / 1000, duration_ms % 1000);
    let mut xml = String::new();
    push(
        &mut xml,
        format_args!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" profiles=\"urn:mpeg:dash:profile:isoff-live:2011\" type=\"static\" \
             mediaPresentationDuration=\"{duration}\" minBufferTime=\"PT2S\" maxSegmentDuration=\"PT{}S\">\n\
             <Period id=\"0\" start=\"PT0S\" duration=\"{duration}\">\n",
            presentation.target_duration_s,
        ),
    );
    for (id, kind, content) in [(0, TrackKind::Video, "video"), (1, TrackKind::Audio, "audio")] {
        let renditions: Vec<_> =
            presentation.listed.iter().filter(|rendition| rendition.kind == kind).collect();
        if renditions.is_empty() {
            continue;
        }
        push(
            &mut xml,
            format_args!(
                "<AdaptationSet id=\"{id}\" contentType=\"{content}\" mimeType=\"{content}/mp4\" segmentAlignment=\"true\" startWithSAP=\"1\">\n"
            ),
        );
        for rendition in renditions {
            push_representation(&mut xml, rendition);
        }
        xml.push_str("</AdaptationSet>\n");
    }
    xml.push_str("</Period>\n</MPD>\n");
    xml
}

fn push_representation(xml: &mut String, rendition: &ListedRendition) {
    let id = Escaped(&rendition.name);
    push(
        xml,
        format_args!(
            "<Representation id=\"{id}\" codecs=\"{}\" bandwidth=\"{}\"",
            Escaped(&rendition.codecs),
            rendition.bandwidth_peak.max(1),
        ),
    );
    if rendition.kind == TrackKind::Video {
        push(
            xml,
            format_args!(
                " width=\"{}\" height=\"{}\" sar=\"1:1\"",
                rendition.width, rendition.height
            ),
        );
        if rendition.frame_rate_millis > 0 {
            push(xml, format_args!(" frameRate=\"{}/1000\"", rendition.frame_rate_millis));
        }
    }
    push(
        xml,
        format_args!(
            ">\n<SegmentTemplate timescale=\"{}\" startNumber=\"0\" initialization=\"{id}/init.mp4\" media=\"{id}/$Number$.m4s\">\n<SegmentTimeline>\n",
            rendition.timescale,
        ),
    );
    push_timeline(xml, &rendition.segments);
    xml.push_str("</SegmentTimeline>\n</SegmentTemplate>\n</Representation>\n");
}

/// Runs of equal durations are one element; the first and whatever does not begin where the one before ended say when.
fn push_timeline(xml: &mut String, segments: &[NewSegment]) {
    let mut end = None;
    let mut rest = segments;
    while let Some(first) = rest.first() {
        let run = rest
            .iter()
            .zip(0u64..)
            .take_while(|(segment, place)| {
                segment.duration == first.duration
                    && segment.start
                        == first.start.saturating_add(place.saturating_mul(first.duration))
            })
            .count();
        xml.push_str("<S");
        if end != Some(first.start) {
            push(xml, format_args!(" t=\"{}\"", first.start));
        }
        push(xml, format_args!(" d=\"{}\"", first.duration));
        if run > 1 {
            push(xml, format_args!(" r=\"{}\"", run - 1));
        }
        xml.push_str("/>\n");
        end = Some(first.start.saturating_add(first.duration.saturating_mul(run as u64)));
        rest = &rest[run..];
    }
}

/// Text within an attribute.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

fn push(xml: &mut String, arguments: fmt::Arguments<'_>) {
    xml.write_fmt(arguments).expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::playback::fixtures::{audio, presentation, segments, video};

    #[test]
    fn a_manifest_has_a_set_for_pictures_and_one_for_sound() {
        let xml = manifest(&presentation(vec![
            video("720p", 1280, 720),
            video("360p", 640, 360),
            audio("audio"),
        ]));
        let document = roxmltree::Document::parse(&xml).unwrap();
        let mpd = document.root_element();
        assert_eq!(mpd.attribute("type"), Some("static"));
        assert_eq!(mpd.attribute("mediaPresentationDuration"), Some("PT9.509S"));
        let all = |name: &str| {
            document
                .descendants()
                .filter(|node| node.has_tag_name(("urn:mpeg:dash:schema:mpd:2011", name)))
                .collect::<Vec<_>>()
        };
        let sets = all("AdaptationSet");
        assert_eq!(
            sets.iter().map(|set| set.attribute("mimeType").unwrap()).collect::<Vec<_>>(),
            ["video/mp4", "audio/mp4"]
        );
        let representations = all("Representation");
        assert_eq!(representations.len(), 3);
        assert_eq!(representations[0].attribute("frameRate"), Some("29970/1000"));
        assert_eq!(representations[2].attribute("width"), None);
        assert_eq!(all("SegmentTemplate")[1].attribute("media"), Some("360p/$Number$.m4s"));
        // 4.004 s twice, then the rest.
        let timeline: Vec<_> = all("SegmentTimeline")[0]
            .children()
            .filter(roxmltree::Node::is_element)
            .map(|s| (s.attribute("t"), s.attribute("d"), s.attribute("r")))
            .collect();
        assert_eq!(
            timeline,
            [(Some("0"), Some("360360"), Some("1")), (None, Some("135135"), None)]
        );
    }

    #[test]
    fn sound_alone_has_no_set_for_pictures() {
        let xml = manifest(&presentation(vec![audio("audio")]));
        let document = roxmltree::Document::parse(&xml).unwrap();
        let sets =
            document.descendants().filter(|node| node.tag_name().name() == "AdaptationSet").count();
        assert_eq!(sets, 1);
    }

    #[test]
    fn a_timeline_tells_of_gaps() {
        let mut xml = String::new();
        let mut gap = segments(&[10, 10, 10]);
        gap[2].start = 25;
        push_timeline(&mut xml, &gap);
        assert_eq!(xml, "<S t=\"0\" d=\"10\" r=\"1\"/>\n<S t=\"25\" d=\"10\"/>\n");
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(Escaped("a\"<&>").to_string(), "a&quot;&lt;&amp;&gt;");
    }
}
