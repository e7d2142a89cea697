//! Reading the headers and deciding.
//!
//! The reading collects plain [`facts`]; the [`decide`] part is a function of these alone, so that it can be tested without
//! media. Nothing here decodes the film: as much is read as libav needs to know the tracks, plus the frames up to
//! the second keyframe where copying is considered.

pub(crate) mod decide;
pub(crate) mod facts;

use crate::error::Failure;
use crate::job::{Outcome, Output, PrepareJob, Sink, Source};

pub(crate) fn run(job: &PrepareJob, source: impl Source, sink: &mut dyn Sink) -> Outcome {
    let facts = facts::gather(source, &job.limits, job.copy_allowed)?;
    let plan = decide::plan(&facts, &job.limits)?;
    sink.put(Output::Plan(plan)).map_err(|error| crate::sink_closed(&error))
}

impl Failure {
    pub(crate) fn bad_job(detail: &str) -> Self {
        Self::new(crate::error::Code::BadJob, detail)
    }
}
