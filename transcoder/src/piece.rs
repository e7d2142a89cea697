//! The encode lane: one piece of the video, decoded once, encoded for all rungs.
//!
//! ```text
//! source ─► decode ─► schedule ─► filters ─┬─► x264 1080p ─┐
//!           (one thread, with libav's own) ├─► x264 720p  ─┼─► sink (the caller's thread)
//!                                          └─► x264 …     ─┘
//! ```
//!
//! Each encoder has a thread of its own. All channels are short, so that a slow encoder holds back the decoder and memory
//! stays bounded by a few frames per rung. Nothing flows backwards, so nothing can lock up: whoever ends early drops his
//! end of the channel, and his neighbours notice.
//!
//! A piece fits behind the piece before it without seeing it: decoding starts at the source's keyframe before the
//! piece, frames before the first cut are dropped, and what is shown at each cut follows from the source alone
//! ([`schedule`]).

pub(crate) mod decode;
pub(crate) mod filters;
mod rung;
mod schedule;

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use ffmpeg_next::frame;

use crate::error::{Code, Failure};
use crate::job::{Outcome, Output, PieceJob, Sink, Source};
use crate::recipe::Recipe;

/// Frames that wait for one encoder. x264 looks ahead by itself; this only evens out the threads.
const FRAMES_WAITING_MAX: usize = 4;

/// Outputs that wait for the sink: segments of a few MiB.
const OUTPUTS_WAITING_MAX: usize = 4;

/// What an encoder's thread is given.
pub(crate) enum Feed {
    /// `pts` is the tick; the kind is I at a cut.
    Frame(frame::Video),
    /// Nothing follows, and the last frame is shown until this tick.
    End(u64),
}

pub(crate) fn run(job: &PieceJob, source: impl Source, sink: &mut dyn Sink) -> Outcome {
    let recipe = Recipe::decode(&job.recipe)?;
    let rungs = recipe.encoded_rungs(&job.renditions)?;
    check(job)?;
    let total: u64 = rungs.iter().map(|(_, rung)| pixels(rung)).sum();
    thread::scope(|scope| {
        let (results, received) = sync_channel(OUTPUTS_WAITING_MAX);
        let mut feeds = Vec::new();
        let mut threads = Vec::new();
        for (rendition, rung) in &rungs {
            let (feed, frames) = sync_channel(FRAMES_WAITING_MAX);
            feeds.push(feed);
            let share = u64::from(job.threads.max(1)) * pixels(rung);
            let settings = rung::Settings {
                rendition: *rendition,
                first_segment: job.first_segment,
                cuts: &job.cuts,
                end: job.end,
                threads: u16::try_from(share.div_ceil(total.max(1))).unwrap_or(1).max(1),
                video: &recipe.video,
                rung,
            };
            let results = results.clone();
            threads.push(scope.spawn(move || rung::encode(&settings, &frames, &results)));
        }
        let (recipe, rungs) = (&recipe, &rungs);
        let decoder = scope.spawn(move || {
            let sizes: Vec<_> = rungs.iter().map(|(_, rung)| (rung.width, rung.height)).collect();
            decode_piece(job, recipe, &sizes, source, &feeds, &results)
        });
        let mut outcome = Ok(());
        while let Ok(output) = received.recv() {
            if let Err(error) = sink.put(output) {
                outcome = Err(crate::sink_closed(&error));
                break;
            }
        }
        drop(received);
        // The cause comes before its consequences: the sink, then the encoders, then who fed them.
        for thread in threads {
            outcome = outcome.and(join(thread));
        }
        let decoded = join(decoder);
        outcome.and(decoded)
    })
}

fn pixels(rung: &crate::recipe::RungRecipe) -> u64 {
    u64::from(rung.width) * u64::from(rung.height)
}

fn check(job: &PieceJob) -> Result<(), Failure> {
    let rising = job.cuts.windows(2).all(|pair| pair[0] < pair[1]);
    match job.cuts.last() {
        Some(last) if rising && job.end.is_none_or(|end| end > *last) => Ok(()),
        _ => Err(Failure::bad_job("The cuts of the piece do not rise.")),
    }
}

fn join(thread: thread::ScopedJoinHandle<'_, Outcome>) -> Outcome {
    thread.join().unwrap_or_else(|_| Err(Failure::new(Code::Internal, "A thread panicked.")))
}

/// The decoder's thread: from the source to the encoders' channels.
fn decode_piece(
    job: &PieceJob,
    recipe: &Recipe,
    sizes: &[(u32, u32)],
    source: impl Source,
    feeds: &[SyncSender<Feed>],
    results: &SyncSender<Output>,
) -> Outcome {
    let video = &recipe.video;
    let mut filters = filters::Filters::new(video, sizes);
    let mut schedule = schedule::Schedule::new(&job.cuts, job.end, video.grid(), video.cuts_itself);
    let mut progress = Progress::default();
    // An encoder that has ended early says why by itself.
    let feed = |index: usize, frame| feeds[index].send(Feed::Frame(frame)).is_ok();
    let mut frames = decode::Frames::open(source, recipe, job.cuts[0], job.threads)?;
    let mut reached_end = true;
    while let Some((tick, lasts, decoded)) = frames.next()? {
        if tick > 0 && video.clock.millis(tick.unsigned_abs()) > recipe.duration_ms_max {
            return Err(Failure::new(Code::TooLong, "The video is longer than allowed."));
        }
        let mut fed = Ok(true);
        let go_on = schedule.push(tick, lasts, decoded, |tick, is_cut, frame| {
            if matches!(fed, Ok(true)) {
                fed = filters.push(frame, tick, is_cut, &feed);
            }
        });
        if !fed? {
            return Ok(());
        }
        if let Some(media_ms) = progress.due(video.clock.millis(tick.max(0).unsigned_abs()))
            && results.send(Output::Progress { media_ms }).is_err()
        {
            return Ok(());
        }
        if !go_on {
            reached_end = false;
            break;
        }
    }
    let mut fed = Ok(true);
    let end = schedule.finish(reached_end, |tick, is_cut, frame| {
        if matches!(fed, Ok(true)) {
            fed = filters.push(frame, tick, is_cut, &feed);
        }
    });
    if !fed? || !filters.finish(&feed)? {
        return Ok(());
    }
    if reached_end && frames.decoded == 0 && job.cuts[0] == 0 {
        return Err(Failure::new(Code::CorruptMedia, "No frame of the source can be decoded."));
    }
    for feed in feeds {
        let _ = feed.send(Feed::End(end));
    }
    if reached_end {
        let _ = results.send(Output::SourceEnd { ticks: schedule.source_end() });
    }
    Ok(())
}

/// Says once per second how far the work is.
#[derive(Default)]
struct Progress {
    last: Option<std::time::Instant>,
}

impl Progress {
    fn due(&mut self, media_ms: u64) -> Option<u64> {
        let is_due = self.last.is_none_or(|last| last.elapsed().as_millis() >= 1000);
        is_due.then(|| {
            self.last = Some(std::time::Instant::now());
            media_ms
        })
    }
}
