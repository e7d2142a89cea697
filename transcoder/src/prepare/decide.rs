//! From facts to a plan: pure.

use super::facts::{AudioFacts, Copyable, Facts, Index, is_hdr};
use crate::clock::{Clock, Ratio, frame_ticks};
use crate::error::{Code, Failure};
use crate::grid::Grid;
use crate::job::Limits;
use crate::ladder::{Rung, ladder};
use crate::plan::{Cuts, Lane, Plan, RenditionPlan, TrackKind};
use crate::probe::sniff::Container;
use crate::recipe::{AudioRecipe, Picture, Recipe, RungRecipe, VideoRecipe};
use crate::segment_limit::SEGMENT_BYTES_MAX;

/// Encoded pictures come at most this fast; more is halved, or divided by what it takes.
const FRAME_RATE_ENCODED_MAX: f64 = 60.0;

/// Room for rates that a container rounded up.
const FRAME_RATE_SLACK: f64 = 0.5;

/// A copied rendition may have this many times the bits of an encoded one of its size. More would stall most viewers,
/// while the smaller rungs are not ready yet.
const COPY_CAP_FACTOR: u64 = 4;

/// When the sound begins this much earlier than the pictures (seconds), its beginning is cut off: it is the encoder's
/// delay, or what a cut left behind. With more, the first picture waits.
const SOUND_LEAD_CUT: f64 = 0.5;

/// Copied sound may begin this much after the pictures (seconds); with more, silence is put before it by encoding.
const SOUND_LAG_COPIED: f64 = 0.05;

/// The first picture of a copied track may wait this long for its turn (seconds).
const PICTURE_LEAD_COPIED: f64 = 1.0;

/// Encoded sound: what every browser plays.
const SOUND_RATE: u32 = 48_000;
const SOUND_CHANNELS: u32 = 2;
const SOUND_BITS_PER_SECOND: u32 = 128_000;

/// # Errors
/// `frame_too_large`, `bad_frame_rate`, `too_long`, `corrupt_media`.
pub(crate) fn plan(facts: &Facts, limits: &Limits) -> Result<Plan, Failure> {
    let video = &facts.video;
    check(facts, limits)?;
    let (width, height) = shown_size(facts);
    let timing = Timing::new(facts);
    let rungs = ladder(width, height);
    let copied = copied(facts, &timing, rungs[0]);
    let rate = encoded_rate(video.frame_rate);
    let top_is_copied = copied.is_some();

    let mut renditions = Vec::new();
    let mut recipes = Vec::new();
    for (index, rung) in rungs.iter().enumerate() {
        let lane = if index == 0 && top_is_copied { Lane::Copy } else { Lane::Encode };
        let cap = rung.cap(rate.as_f64());
        let (rate, bitrate_max) = match (&copied, lane) {
            (Some(copied), Lane::Copy) => (video.frame_rate, copied.bitrate_max),
            _ => (rate, cap + cap / 4),
        };
        renditions.push(RenditionPlan {
            name: rung.name(),
            kind: TrackKind::Video,
            lane,
            width: rung.width,
            height: rung.height,
            frame_rate_millis: (rate.as_f64() * 1000.0).round() as u32,
            bitrate_max,
            timescale: timing.clock.timescale,
        });
        recipes.push(RungRecipe {
            lane,
            width: rung.width,
            height: rung.height,
            crf: rung.crf(),
            cap,
            frame_rate: rate,
        });
    }
    let audio = facts.audio.as_ref().map(|audio| audio_recipe(audio, &timing, facts, rungs.len()));
    if let Some(audio) = &audio {
        renditions.push(audio_rendition(audio));
    }
    let (cuts, cuts_itself) = match (copied, timing.end) {
        (Some(copied), _) => (copied.cuts, false),
        (None, Some(end)) => (Cuts::Known(timing.grid.for_encoding(&timing.keyframes, end)), false),
        (None, None) => (Cuts::Known(vec![0]), true),
    };
    let duration_ms = timing.end.map(|end| timing.clock.millis(end)).or(facts.duration_ms);
    let recipe = Recipe::new(
        facts.container,
        VideoRecipe {
            stream: video.stream,
            clock: timing.clock,
            frame_rate: video.frame_rate,
            frame_ticks: timing.grid.frames.map(|(ticks, _)| ticks),
            duration_ms,
            picture: Picture {
                turn: video.turn,
                interlaced: video.parameters.field_order > 1,
                hdr: is_hdr(video.parameters.transfer),
                color: color(facts),
            },
            rungs: recipes,
            cuts_itself,
        },
        audio,
        limits.pixels_max,
        limits.duration_ms_max,
    );
    Ok(Plan { duration_ms, width, height, renditions, cuts, recipe: recipe.encode() })
}

fn check(facts: &Facts, limits: &Limits) -> Result<(), Failure> {
    let p = &facts.video.parameters;
    let pixels = u64::from(p.width) * u64::from(p.height);
    if pixels == 0 {
        return Err(Failure::new(Code::CorruptMedia, "The pictures have no size."));
    }
    if pixels > limits.pixels_max {
        let detail =
            format!("The pictures have {} × {} pixels, more than allowed.", p.width, p.height);
        return Err(Failure::new(Code::FrameTooLarge, detail));
    }
    let rate = facts.video.frame_rate.as_f64();
    if rate > f64::from(limits.frame_rate_max) {
        let detail = format!("{rate:.0} frames per second; {} are allowed.", limits.frame_rate_max);
        return Err(Failure::new(Code::BadFrameRate, detail));
    }
    if facts.duration_ms.is_some_and(|ms| ms > limits.duration_ms_max) {
        let hours = limits.duration_ms_max as f64 / 3_600_000.0;
        return Err(Failure::new(
            Code::TooLong,
            format!("The video is longer than {hours:.1} hours."),
        ));
    }
    Ok(())
}

/// With square pixels, after turning.
fn shown_size(facts: &Facts) -> (u32, u32) {
    let p = &facts.video.parameters;
    let aspect = match p.pixel_aspect {
        (num, den) if num > 0 && den > 0 => f64::from(num) / f64::from(den),
        _ => 1.0,
    };
    // Anything beyond this is a mistake in the file.
    let aspect = if (0.1..=10.0).contains(&aspect) { aspect } else { 1.0 };
    let width = (f64::from(p.width) * aspect).round() as u32;
    if facts.video.turn.swaps_sides() { (p.height, width) } else { (width, p.height) }
}

/// When things happen.
struct Timing {
    clock: Clock,
    grid: Grid,
    /// Ticks; without the first one.
    keyframes: Vec<u64>,
    /// Ticks.
    end: Option<u64>,
    /// Seconds of the source's clock at which the video begins.
    begin: f64,
}

impl Timing {
    fn new(facts: &Facts) -> Self {
        let video = &facts.video;
        let first_picture = video.start as f64 * video.time_base.as_f64();
        let first_sound = facts.audio.as_ref().map(|a| a.start as f64 * a.time_base.as_f64());
        let sound_lead = first_sound.map_or(0.0, |sound| first_picture - sound);
        let lead = if sound_lead > SOUND_LEAD_CUT { sound_lead } else { 0.0 };
        let clock = Clock::new(video.time_base, video.start, lead, video.constant_rate);
        let is_constant = match facts.container {
            Container::Mov => video.step.zip(video.constant_rate).is_some_and(|(step, rate)| {
                frame_ticks(clock.timescale, rate).map(u64::from) == Some(clock.span(step))
            }),
            Container::Matroska => clock.snap.is_some(),
            Container::Avi => true,
            Container::MpegTs => false,
        };
        // Of frames that are left out none should be missed: cuts are where frames are that stay.
        let rate = video.constant_rate.filter(|_| is_constant).map(encoded_rate);
        let ticks = rate.and_then(|rate| frame_ticks(clock.timescale, rate));
        let grid =
            Grid { timescale: clock.timescale, frames: ticks.map(|ticks| (ticks, clock.lead)) };
        let keyframes = video.index.iter().flat_map(|index| &index.keyframes);
        let keyframes = keyframes.filter_map(|key| u64::try_from(clock.ticks(*key)).ok());
        let is_on_grid = |key: &u64| {
            ticks.is_none_or(|ticks| (key - clock.lead).is_multiple_of(u64::from(ticks)))
        };
        let indexed = video.index.as_ref().and_then(|index| index.end);
        let end = match indexed {
            Some(end) => u64::try_from(clock.ticks(end)).ok(),
            None => facts.duration_ms.map(|ms| clock.ticks_of_millis(ms)),
        };
        Self {
            keyframes: keyframes.filter(|key| *key > clock.lead && is_on_grid(key)).collect(),
            end: end.filter(|end| *end > 0),
            begin: first_picture - lead,
            grid,
            clock,
        }
    }
}

struct Copied {
    cuts: Cuts,
    bitrate_max: u32,
}

/// How the pictures are copied, when they can be.
fn copied(facts: &Facts, timing: &Timing, top: Rung) -> Option<Copied> {
    let video = &facts.video;
    let cap = u64::from(top.cap(video.frame_rate.as_f64())) * COPY_CAP_FACTOR;
    let lead = timing.clock.lead as f64 / f64::from(timing.clock.timescale);
    let fits = video.copy == Copyable::Yes
        && (top.width, top.height) == (video.parameters.width, video.parameters.height)
        && video.frame_rate.as_f64() <= FRAME_RATE_ENCODED_MAX + FRAME_RATE_SLACK
        && u64::try_from(video.parameters.bit_rate).is_ok_and(|rate| rate <= cap)
        && lead <= PICTURE_LEAD_COPIED;
    if !fits {
        return None;
    }
    let (Some(index), Some(end)) = (&video.index, timing.end) else {
        return Some(Copied { cuts: Cuts::Discovered, bitrate_max: u32::try_from(cap / 2).ok()? });
    };
    let cuts = timing.grid.for_copying(&timing.keyframes, end)?;
    let bitrate_max = peak(index, timing, &cuts, end, cap)?;
    Some(Copied { cuts: Cuts::Known(cuts), bitrate_max })
}

/// The bits per second of the largest segment; half of what is allowed when the index has no sizes. `None` when a segment
/// would be longer than segments may be.
fn peak(index: &Index, timing: &Timing, cuts: &[u64], end: u64, cap: u64) -> Option<u32> {
    let Some(sizes) = &index.bytes else { return u32::try_from(cap / 2).ok() };
    let mut peak = 0;
    let mut groups =
        index.keyframes.iter().map(|key| timing.clock.ticks(*key)).zip(sizes).peekable();
    for (position, cut) in cuts.iter().enumerate() {
        let next = cuts.get(position + 1).copied().unwrap_or(end);
        let mut bytes = 0;
        while let Some((_, size)) = groups.next_if(|(key, _)| i128::from(*key) < i128::from(next)) {
            bytes += size;
        }
        if bytes > SEGMENT_BYTES_MAX {
            return None;
        }
        let length = next.saturating_sub(*cut).max(1);
        peak = peak.max(bytes * 8 * u64::from(timing.clock.timescale) / length);
    }
    u32::try_from(peak).ok()
}

fn encoded_rate(rate: Ratio) -> Ratio {
    let divisor = ((rate.as_f64() - FRAME_RATE_SLACK) / FRAME_RATE_ENCODED_MAX).ceil().max(1.0);
    Ratio { num: rate.num, den: rate.den.saturating_mul(divisor as u32) }
}

fn audio_recipe(
    audio: &AudioFacts,
    timing: &Timing,
    facts: &Facts,
    rendition: usize,
) -> AudioRecipe {
    let origin = (timing.begin / audio.time_base.as_f64()).round() as i64;
    let lag = (audio.start.saturating_sub(origin)) as f64 * audio.time_base.as_f64();
    let copy_allowed = facts.video.copy_allowed;
    let copy = copy_allowed
        && audio.is_aac_lc
        && audio.channels <= SOUND_CHANNELS
        && (8000..=SOUND_RATE).contains(&audio.sample_rate)
        && (-SOUND_LEAD_CUT - 0.001..=SOUND_LAG_COPIED).contains(&lag);
    let (lane, sample_rate, channels, bit_rate) = if copy {
        let bit_rate = audio.bit_rate.unwrap_or(SOUND_BITS_PER_SECOND);
        (Lane::Copy, audio.sample_rate, audio.channels, bit_rate)
    } else {
        (Lane::Encode, SOUND_RATE, SOUND_CHANNELS, SOUND_BITS_PER_SECOND)
    };
    AudioRecipe {
        stream: audio.stream,
        rendition: u16::try_from(rendition).expect("a ladder has at most six rungs"),
        lane,
        time_base: audio.time_base,
        origin,
        sample_rate,
        channels,
        bit_rate,
    }
}

fn audio_rendition(audio: &AudioRecipe) -> RenditionPlan {
    RenditionPlan {
        name: "audio".into(),
        kind: TrackKind::Audio,
        lane: audio.lane,
        width: 0,
        height: 0,
        frame_rate_millis: 0,
        bitrate_max: audio.bit_rate + audio.bit_rate / 4,
        timescale: audio.sample_rate,
    }
}

/// What to write on encoded pictures. Without a word in the source it is what players assume for its size; once written
/// down, smaller rungs are not taken for something else.
fn color(facts: &Facts) -> (u8, u8, u8) {
    const BT709: u8 = 1;
    const BT601: u8 = 6;
    const RGB: u8 = 0;
    let p = &facts.video.parameters;
    if is_hdr(p.transfer) || p.matrix == RGB {
        return (BT709, BT709, BT709);
    }
    let guess = if p.height >= 720 || p.width >= 1280 { BT709 } else { BT601 };
    let known = |value: u8| if matches!(value, 0 | 2 | 3) { guess } else { value };
    (known(p.primaries), known(p.transfer), known(p.matrix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::Parameters;
    use crate::prepare::facts::VideoFacts;
    use crate::recipe::Turn;

    /// A minute of 1080p H.264 at 25 frames per second with a keyframe every two seconds, and AAC.
    fn clip() -> Facts {
        Facts {
            container: Container::Mov,
            duration_ms: Some(60_000),
            video: VideoFacts {
                stream: 0,
                time_base: Ratio { num: 1, den: 12_800 },
                start: 0,
                parameters: Parameters {
                    width: 1920,
                    height: 1080,
                    pixel_aspect: (1, 1),
                    field_order: 1,
                    primaries: 2,
                    transfer: 2,
                    matrix: 2,
                    bit_rate: 4_000_000,
                    ..Parameters::default()
                },
                turn: Turn::default(),
                frame_rate: Ratio { num: 25, den: 1 },
                constant_rate: Ratio::new(25, 1),
                step: Some(512),
                index: Some(Index {
                    keyframes: (0..30).map(|i| i * 25_600).collect(),
                    bytes: Some(vec![1_000_000; 30]),
                    end: Some(60 * 12_800),
                }),
                copy: Copyable::Yes,
                copy_allowed: true,
            },
            audio: Some(AudioFacts {
                stream: 1,
                time_base: Ratio { num: 1, den: 44_100 },
                start: 0,
                is_aac_lc: true,
                sample_rate: 44_100,
                channels: 2,
                bit_rate: Some(100_000),
            }),
        }
    }

    fn plan_of(facts: &Facts) -> Plan {
        plan(facts, &Limits::default()).unwrap()
    }

    fn lanes(plan: &Plan) -> Vec<(String, Lane)> {
        plan.renditions.iter().map(|r| (r.name.clone(), r.lane)).collect()
    }

    fn known(plan: &Plan) -> Vec<u64> {
        match &plan.cuts {
            Cuts::Known(cuts) => cuts.clone(),
            Cuts::Discovered => panic!("the cuts are known here"),
        }
    }

    #[test]
    fn standard_input_is_copied_and_gets_smaller_rungs_with_the_same_cuts() {
        let plan = plan_of(&clip());
        let names = [("1080p", Lane::Copy), ("720p", Lane::Encode), ("480p", Lane::Encode)];
        for ((name, lane), (expected_name, expected_lane)) in lanes(&plan).iter().zip(names) {
            assert_eq!((name.as_str(), *lane), (expected_name, expected_lane));
        }
        assert_eq!(lanes(&plan).last().unwrap(), &("audio".to_owned(), Lane::Copy));
        assert_eq!(known(&plan)[..4], [0, 25_600, 51_200, 102_400]);
        assert_eq!(plan.renditions[0].bitrate_max, 4_000_000);
        assert!(plan.renditions[..4].iter().all(|r| r.timescale == 12_800));
        assert_eq!(plan.duration_ms, Some(60_000));
        assert!(plan.recipe.len() < 4096);
    }

    #[test]
    fn pictures_and_sound_are_decided_on_by_themselves() {
        let mut facts = clip();
        facts.video.copy = Copyable::No;
        let plan = plan_of(&facts);
        assert_eq!(plan.renditions[0].lane, Lane::Encode);
        assert_eq!(plan.renditions.last().unwrap().lane, Lane::Copy);
        let mut facts = clip();
        facts.audio.as_mut().unwrap().channels = 6;
        let plan = plan_of(&facts);
        assert_eq!(plan.renditions[0].lane, Lane::Copy);
        let audio = plan.renditions.last().unwrap();
        assert_eq!((audio.lane, audio.timescale), (Lane::Encode, 48_000));
        facts.audio = None;
        assert!(plan_of(&facts).renditions.iter().all(|r| r.kind == TrackKind::Video));
    }

    #[test]
    fn far_apart_keyframes_and_heavy_groups_are_not_copied() {
        let mut facts = clip();
        facts.video.index.as_mut().unwrap().keyframes = (0..6).map(|i| i * 10 * 12_800).collect();
        facts.video.index.as_mut().unwrap().bytes = Some(vec![1_000_000; 6]);
        let plan = plan_of(&facts);
        assert_eq!(plan.renditions[0].lane, Lane::Encode);
        assert_eq!(known(&plan)[..3], [0, 12_800, 3 * 12_800]);
        let mut facts = clip();
        facts.video.index.as_mut().unwrap().bytes.as_mut().unwrap()[3] = 40 << 20;
        assert_eq!(plan_of(&facts).renditions[0].lane, Lane::Encode);
        let mut facts = clip();
        facts.video.parameters.bit_rate = 50_000_000;
        assert_eq!(plan_of(&facts).renditions[0].lane, Lane::Encode);
    }

    #[test]
    fn without_an_index_cuts_are_discovered_or_made() {
        let mut facts = clip();
        facts.container = Container::MpegTs;
        facts.duration_ms = None;
        facts.video.index = None;
        assert_eq!(plan_of(&facts).cuts, Cuts::Discovered);
        facts.video.copy = Copyable::No;
        let plan = plan_of(&facts);
        assert_eq!(known(&plan), [0]);
        assert!(Recipe::decode(&plan.recipe).unwrap().video.cuts_itself);
        assert_eq!(plan.duration_ms, None);
    }

    #[test]
    fn limits_have_their_codes() {
        let code = |change: fn(&mut Facts)| {
            let mut facts = clip();
            change(&mut facts);
            plan(&facts, &Limits::default()).unwrap_err().code
        };
        assert_eq!(code(|f| f.duration_ms = Some(13 * 3_600_000)), Code::TooLong);
        assert_eq!(code(|f| f.video.parameters.width = 60_000), Code::FrameTooLarge);
        assert_eq!(code(|f| f.video.frame_rate = Ratio { num: 1000, den: 1 }), Code::BadFrameRate);
        assert_eq!(code(|f| f.video.parameters.height = 0), Code::CorruptMedia);
    }

    #[test]
    fn fast_sources_are_slowed_down_to_sixty() {
        assert_eq!(encoded_rate(Ratio { num: 60, den: 1 }).den, 1);
        assert_eq!(encoded_rate(Ratio { num: 60_000, den: 1001 }).den, 1001);
        assert_eq!(encoded_rate(Ratio { num: 120, den: 1 }).den, 2);
        assert_eq!(encoded_rate(Ratio { num: 240, den: 1 }).den, 4);
        let mut facts = clip();
        facts.video.frame_rate = Ratio { num: 120, den: 1 };
        let plan = plan_of(&facts);
        assert_eq!(
            (plan.renditions[0].lane, plan.renditions[0].frame_rate_millis),
            (Lane::Encode, 60_000)
        );
    }

    #[test]
    fn sound_before_the_first_picture_is_cut_or_waited_for() {
        let mut facts = clip();
        facts.video.start = 1280; // 100 ms after the sound
        let recipe = Recipe::decode(&plan_of(&facts).recipe).unwrap();
        assert_eq!((recipe.video.clock.lead, recipe.audio.unwrap().origin), (0, 4410));
        facts.video.start = 12_800 * 2;
        let recipe = Recipe::decode(&plan_of(&facts).recipe).unwrap();
        assert_eq!((recipe.video.clock.lead, recipe.audio.unwrap().origin), (25_600, 0));
        // Sound that starts late gets silence before it.
        let mut facts = clip();
        facts.audio.as_mut().unwrap().start = 44_100;
        assert_eq!(plan_of(&facts).renditions.last().unwrap().lane, Lane::Encode);
    }

    #[test]
    fn turned_and_stretched_pictures_are_planned_as_shown() {
        let mut facts = clip();
        facts.video.turn = Turn { quarters: 1, mirrored: false };
        facts.video.copy = Copyable::No;
        let plan = plan_of(&facts);
        assert_eq!((plan.width, plan.height, plan.renditions[1].width), (1080, 1920, 720));
        let mut facts = clip();
        facts.video.parameters = Parameters {
            width: 720,
            height: 576,
            pixel_aspect: (16, 15),
            ..facts.video.parameters
        };
        facts.video.copy = Copyable::No;
        assert_eq!((plan_of(&facts).width, plan_of(&facts).height), (768, 576));
    }
}
