//! Transcodes one file on this machine into a directory that any HLS player can play: all jobs of a plan, one after the
//! other, as a cluster would do them in parallel. For looking at results and for measuring.
//!
//! `cargo run --example transcode -- FILE DIRECTORY [encode]`; with `encode`, nothing is copied.
#![allow(clippy::print_stdout, reason = "this is a command")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use transcoder::{
    AudioJob, CopyJob, Cuts, Job, Lane, Output, PieceJob, Plan, PrepareJob, Source, ThumbnailJob,
    TrackKind, run,
};

/// Segments per piece.
const PIECE_SEGMENTS: usize = 3;

struct FileSource {
    file: BufReader<File>,
    len: u64,
}

impl FileSource {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self { len: file.metadata()?.len(), file: BufReader::new(file) })
    }
}

impl Read for FileSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Seek for FileSource {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Source for FileSource {
    fn len(&self) -> Option<u64> {
        Some(self.len)
    }

    fn is_complete(&self) -> bool {
        true
    }
}

/// What has been made so far.
#[derive(Default)]
struct Made {
    plan: Option<Plan>,
    /// By rendition: the codecs string, and the segments' durations by number.
    tracks: BTreeMap<u16, (String, BTreeMap<u32, u64>)>,
    cuts: Option<Vec<u64>>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(file), Some(directory)) = (arguments.next(), arguments.next()) else {
        return Err("usage: transcode FILE DIRECTORY [encode]".into());
    };
    let copy_allowed = arguments.next().is_none();
    fs::create_dir_all(&directory)?;
    let mut made = Made::default();
    let work = |job: Job, made: &mut Made| -> Result<(), Box<dyn std::error::Error>> {
        run(&job, FileSource::open(&file)?, &mut |output| keep(made, &directory, output))?;
        Ok(())
    };
    work(Job::Prepare(PrepareJob { copy_allowed, ..PrepareJob::default() }), &mut made)?;
    let plan = made.plan.clone().ok_or("no plan")?;
    println!("{plan:#?}", plan = Plan { recipe: Vec::new(), ..plan.clone() });
    let indices = |kind, lane| {
        let wanted =
            move |(_, r): &(usize, &transcoder::RenditionPlan)| r.lane == lane && kind == r.kind;
        plan.renditions.iter().enumerate().filter(wanted).map(|(i, _)| i as u16).collect::<Vec<_>>()
    };
    let recipe = plan.recipe.clone();
    let copied =
        [indices(TrackKind::Video, Lane::Copy), indices(TrackKind::Audio, Lane::Copy)].concat();
    if !copied.is_empty() {
        let job = CopyJob { recipe: recipe.clone(), renditions: copied, cuts: plan.cuts.clone() };
        work(Job::Copy(job), &mut made)?;
    }
    if let [rendition] = indices(TrackKind::Audio, Lane::Encode)[..] {
        let job = AudioJob { recipe: recipe.clone(), rendition, cuts: plan.cuts.clone() };
        work(Job::Audio(job), &mut made)?;
    }
    let cuts = match &plan.cuts {
        Cuts::Known(cuts) => cuts.clone(),
        Cuts::Discovered => made.cuts.clone().ok_or("no cuts")?,
    };
    let renditions = indices(TrackKind::Video, Lane::Encode);
    let threads = std::thread::available_parallelism()?.get() as u16;
    if !renditions.is_empty() {
        for (index, piece) in cuts.chunks(PIECE_SEGMENTS).enumerate() {
            let job = PieceJob {
                recipe: recipe.clone(),
                renditions: renditions.clone(),
                first_segment: (index * PIECE_SEGMENTS) as u32,
                cuts: piece.to_vec(),
                end: cuts.get((index + 1) * PIECE_SEGMENTS).copied(),
                threads,
            };
            work(Job::Piece(job), &mut made)?;
        }
    }
    work(Job::Thumbnail(ThumbnailJob { recipe, at_ms: None, max_width: 640 }), &mut made)?;
    write_playlists(&made, &plan, &directory)?;
    Ok(())
}

fn keep(made: &mut Made, directory: &Path, output: Output) -> io::Result<()> {
    match output {
        Output::Plan(plan) => made.plan = Some(plan),
        Output::Init { rendition, bytes, codecs } => {
            made.tracks.entry(rendition).or_default().0 = codecs;
            fs::write(directory.join(format!("{rendition}-init.mp4")), bytes)?;
        }
        Output::Segment { rendition, number, start, duration, bytes } => {
            println!(
                "rendition {rendition} segment {number}: {start} + {duration}, {} bytes",
                bytes.len()
            );
            made.tracks.entry(rendition).or_default().1.insert(number, duration);
            fs::write(directory.join(format!("{rendition}-{number}.m4s")), bytes)?;
        }
        Output::Thumbnail { jpeg, .. } => fs::write(directory.join("thumbnail.jpg"), jpeg)?,
        Output::Cuts(cuts) => made.cuts = Some(cuts),
        Output::SourceEnd { ticks } => println!("the source ends at {ticks}"),
        Output::Progress { .. } => {}
    }
    Ok(())
}

fn write_playlists(made: &Made, plan: &Plan, directory: &Path) -> io::Result<()> {
    let mut master = String::from("#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n");
    let audio = plan.renditions.iter().position(|r| r.kind == TrackKind::Audio).map(|i| i as u16);
    let sound = audio.and_then(|index| made.tracks.get(&index)).map(|track| track.0.clone());
    if let (Some(index), Some(_)) = (audio, &sound) {
        master += &format!(
            "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"a\",DEFAULT=YES,URI=\"{index}.m3u8\"\n"
        );
    }
    for (index, (codecs, segments)) in &made.tracks {
        let rendition = &plan.renditions[usize::from(*index)];
        let seconds = |ticks: u64| ticks as f64 / f64::from(rendition.timescale);
        let longest = segments.values().max().copied().unwrap_or(0);
        let mut media = format!(
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:{}\n#EXT-X-PLAYLIST-TYPE:VOD\n#EXT-X-MAP:URI=\"{index}-init.mp4\"\n",
            seconds(longest).round()
        );
        for (number, duration) in segments {
            media += &format!("#EXTINF:{:.6},\n{index}-{number}.m4s\n", seconds(*duration));
        }
        media += "#EXT-X-ENDLIST\n";
        fs::write(directory.join(format!("{index}.m3u8")), media)?;
        if rendition.kind == TrackKind::Video {
            let group = if sound.is_some() { ",AUDIO=\"a\"" } else { "" };
            let codecs = sound.iter().fold(codecs.clone(), |all, sound| format!("{all},{sound}"));
            master += &format!(
                "#EXT-X-STREAM-INF:BANDWIDTH={},RESOLUTION={}x{},CODECS=\"{codecs}\"{group}\n{index}.m3u8\n",
                rendition.bitrate_max, rendition.width, rendition.height
            );
        }
    }
    fs::write(directory.join("master.m3u8"), master)
}
