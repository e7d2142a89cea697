//! Media in, segments out.
//!
//! [`run`] takes a [`Job`] and a [`Source`] and puts finished [`Output`]s into a [`Sink`]. This crate knows no nodes, no
//! cluster, no network and no files: whoever calls it brings the bytes and takes the results away.
//!
//! libav demuxes, decodes, filters and encodes; the boxes of the segments are written here (`cmaf`), because a piece
//! encoded on any machine must fit exactly behind the piece before it: equal initialization segments, decode times that
//! continue to the tick, no edit lists that depend on where the encoder started.
//!
//! libav is large and reads what strangers upload. So it only ever runs in a child process ([`worker`]) that has
//! given up files, network and most system calls ([`sandbox`]), and it is only let near the containers and codecs on our
//! lists (`probe`).
//!
//! Times: a *tick* is one unit of a rendition's timescale, counted from the start of the video. Source timestamps are
//! converted once, in `clock`, and nothing behind that knows the source's own time base.

mod audio;
mod clock;
mod cmaf;
mod copy;
mod demux;
mod error;
mod ffi;
mod grid;
mod job;
mod ladder;
mod piece;
mod plan;
mod prepare;
mod probe;
mod recipe;
pub mod sandbox;
mod segment_limit;
mod sound_track;
mod thumbnail;
pub mod worker;

pub use error::{Code, Failure};
pub use job::{
    AudioJob, CopyJob, Job, Limits, Outcome, Output, PieceJob, PrepareJob, Sink, Source,
    ThumbnailJob,
};
pub use plan::{Cuts, Lane, Plan, RECIPE_BYTES_MAX, RenditionPlan, TrackKind};

/// Does one job: reads `source`, puts results into `sink` as they are finished.
///
/// # Errors
/// A [`Failure`] with a stable code. What was put into the sink before it is valid.
pub fn run(job: &Job, source: impl Source, sink: &mut dyn Sink) -> Outcome {
    load_libraries();
    match job {
        Job::Prepare(job) => prepare::run(job, source, sink),
        Job::Copy(job) => copy::run(job, source, sink),
        Job::Piece(job) => piece::run(job, source, sink),
        Job::Audio(job) => audio::run(job, source, sink),
        Job::Thumbnail(job) => thumbnail::run(job, source, sink),
    }
}

/// Does what libav would do lazily, and silences it. Before the sandbox closes.
pub(crate) fn load_libraries() {
    ffi::silence_log();
}

fn sink_closed(error: &std::io::Error) -> Failure {
    Failure::new(Code::SinkClosed, format!("Nobody takes the results: {error}."))
}
