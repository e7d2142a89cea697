//! Doing all jobs of a plan, and checking that what comes out is one seamless track per rendition.

use std::collections::BTreeMap;
use std::path::Path;

use transcoder::{
    AudioJob, CopyJob, Cuts, Failure, Job, Lane, Output, PieceJob, Plan, PrepareJob, RenditionPlan,
    Source, TrackKind, run,
};

use super::boxes::{self, Sample};

/// Does a job and returns what it yields.
pub fn outputs(job: &Job, source: impl Source) -> Result<Vec<Output>, Failure> {
    let mut outputs = Vec::new();
    run(job, source, &mut |output| {
        outputs.push(output);
        Ok(())
    })?;
    Ok(outputs)
}

pub fn prepare(source: impl Source) -> Result<Plan, Failure> {
    prepare_as(PrepareJob::default(), source)
}

pub fn prepare_as(job: PrepareJob, source: impl Source) -> Result<Plan, Failure> {
    let outputs = outputs(&Job::Prepare(job), source)?;
    match &outputs[..] {
        [Output::Plan(plan)] => Ok(plan.clone()),
        other => panic!("a plan was expected: {other:?}"),
    }
}

/// Everything made of one source.
pub struct Movie {
    pub plan: Plan,
    /// By rendition: initialization segment, codecs, and segments by number.
    pub tracks: BTreeMap<u16, Track>,
    pub cuts: Vec<u64>,
    pub source_end: Option<u64>,
}

#[derive(Default)]
pub struct Track {
    pub init: Vec<u8>,
    pub codecs: String,
    pub segments: BTreeMap<u32, Segment>,
}

pub struct Segment {
    pub start: u64,
    pub duration: u64,
    pub bytes: Vec<u8>,
}

impl Movie {
    /// Plans and does all jobs; pieces of `piece` segments, the last one first.
    pub fn make<S: Source>(source: impl Fn() -> S, piece: usize) -> Self {
        let plan = prepare(source()).unwrap();
        Self::make_by(plan, source, piece)
    }

    pub fn make_by<S: Source>(plan: Plan, source: impl Fn() -> S, piece: usize) -> Self {
        let mut movie = Self { plan, tracks: BTreeMap::new(), cuts: Vec::new(), source_end: None };
        let recipe = movie.plan.recipe.clone();
        let cuts = movie.plan.cuts.clone();
        let copied: Vec<u16> = [TrackKind::Video, TrackKind::Audio]
            .iter()
            .flat_map(|kind| movie.indices(*kind, Lane::Copy))
            .collect();
        if !copied.is_empty() {
            movie.keep(
                &Job::Copy(CopyJob {
                    recipe: recipe.clone(),
                    renditions: copied,
                    cuts: cuts.clone(),
                }),
                source(),
            );
        }
        for rendition in movie.indices(TrackKind::Audio, Lane::Encode) {
            movie.keep(
                &Job::Audio(AudioJob { recipe: recipe.clone(), rendition, cuts: cuts.clone() }),
                source(),
            );
        }
        if let Cuts::Known(cuts) = cuts {
            movie.cuts = cuts;
        }
        let renditions = movie.indices(TrackKind::Video, Lane::Encode);
        if !renditions.is_empty() {
            let cuts = movie.cuts.clone();
            for (index, part) in cuts.chunks(piece).enumerate().rev() {
                let job = PieceJob {
                    recipe: recipe.clone(),
                    renditions: renditions.clone(),
                    first_segment: (index * piece) as u32,
                    cuts: part.to_vec(),
                    end: cuts.get((index + 1) * piece).copied(),
                    threads: 2,
                };
                movie.keep(&Job::Piece(job), source());
            }
        }
        movie
    }

    fn keep(&mut self, job: &Job, source: impl Source) {
        for output in outputs(job, source).unwrap_or_else(|failure| panic!("{failure}: {job:?}")) {
            match output {
                Output::Init { rendition, bytes, codecs } => {
                    let track = self.tracks.entry(rendition).or_default();
                    assert!(
                        track.init.is_empty() || track.init == bytes,
                        "initialization segments differ"
                    );
                    (track.init, track.codecs) = (bytes, codecs);
                }
                Output::Segment { rendition, number, start, duration, bytes } => {
                    let track = self
                        .tracks
                        .get_mut(&rendition)
                        .expect("the initialization segment comes first");
                    let before = track.segments.insert(number, Segment { start, duration, bytes });
                    assert!(before.is_none(), "segment {number} came twice");
                }
                Output::Cuts(cuts) => self.cuts = cuts,
                Output::SourceEnd { ticks } => {
                    assert!(self.source_end.is_none_or(|known| known == ticks));
                    self.source_end = Some(ticks);
                }
                Output::Progress { .. } => {}
                Output::Plan(_) | Output::Thumbnail { .. } => panic!("not from this job"),
            }
        }
    }

    pub fn indices(&self, kind: TrackKind, lane: Lane) -> Vec<u16> {
        let wanted = |r: &RenditionPlan| r.kind == kind && r.lane == lane;
        let all = self.plan.renditions.iter().enumerate();
        all.filter(|(_, r)| wanted(r)).map(|(index, _)| index as u16).collect()
    }

    pub fn rendition(&self, name: &str) -> u16 {
        self.plan.renditions.iter().position(|r| r.name == name).unwrap() as u16
    }

    /// Checks a track of pictures box by box and returns its frames in the order of showing.
    pub fn pictures(&self, rendition: u16) -> Vec<Sample> {
        let track = &self.tracks[&rendition];
        let plan = &self.plan.renditions[usize::from(rendition)];
        let init = boxes::init(&track.init);
        assert_eq!((init.timescale, init.format.as_str()), (plan.timescale, "avc1"));
        assert_eq!((init.width, init.height), (plan.width, plan.height));
        assert_eq!(init.media_time, None, "no edit list: equal for all pieces");
        let mut end = 0;
        let mut all = Vec::new();
        for (expected, (number, segment)) in track.segments.iter().enumerate() {
            assert_eq!(*number as usize, expected, "segments without gaps");
            assert_eq!(segment.start, end, "segment {number} begins where the one before it ends");
            let samples = boxes::samples(&segment.bytes);
            assert!(samples[0].is_key, "segment {number} begins with a keyframe");
            assert_eq!(samples[0].shown, segment.start, "… which is shown first");
            assert_eq!(samples[0].decoded, segment.start);
            let durations: u64 = samples.iter().map(|sample| sample.duration).sum();
            assert_eq!(durations, segment.duration);
            assert!(
                segment.duration <= 8 * u64::from(plan.timescale),
                "segment {number} is too long"
            );
            for sample in &samples {
                assert!(
                    sample.shown >= segment.start
                        && sample.shown < segment.start + segment.duration
                );
                assert!(!sample.data.is_empty());
            }
            end = segment.start + segment.duration;
            all.extend(samples);
        }
        let starts: Vec<u64> = track.segments.values().map(|segment| segment.start).collect();
        for cut in &self.cuts {
            if self.source_end.is_none_or(|end| *cut < end) {
                assert!(starts.contains(cut), "a segment begins at the cut {cut}");
            }
        }
        all.sort_by_key(|sample| sample.shown);
        assert!(all.windows(2).all(|pair| pair[0].shown < pair[1].shown), "two frames at a time");
        all
    }

    /// The ticks at which frames are shown.
    pub fn times(&self, rendition: u16) -> Vec<u64> {
        self.pictures(rendition).into_iter().map(|sample| sample.shown).collect()
    }

    /// Checks a track of sound and returns for how many ticks it is heard.
    pub fn sound(&self, rendition: u16) -> u64 {
        let track = &self.tracks[&rendition];
        let plan = &self.plan.renditions[usize::from(rendition)];
        let init = boxes::init(&track.init);
        assert_eq!((init.timescale, init.format.as_str()), (plan.timescale, "mp4a"));
        assert_eq!(track.codecs, "mp4a.40.2");
        let skip = init.media_time.unwrap_or(0);
        let (mut end, mut heard) = (0, 0);
        for (expected, (number, segment)) in track.segments.iter().enumerate() {
            assert_eq!(*number as usize, expected);
            let samples = boxes::samples(&segment.bytes);
            assert_eq!(samples[0].decoded, end, "sound without gaps");
            end += samples.iter().map(|sample| sample.duration).sum::<u64>();
            assert_eq!(segment.start, heard);
            heard += segment.duration;
        }
        assert_eq!(heard, end - skip, "what is not heard is counted off");
        heard
    }

    /// Writes a track as one file.
    pub fn write(&self, rendition: u16, path: &Path) {
        let track = &self.tracks[&rendition];
        let mut bytes = track.init.clone();
        for segment in track.segments.values() {
            bytes.extend_from_slice(&segment.bytes);
        }
        std::fs::write(path, bytes).unwrap();
    }
}
