//! One try of one job: a worker is started, fed and listened to until it is done, fails, or the lease is lost.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use cluster::catalog;
use cluster::command::{Action, LeaseToken, Reply};
use cluster::jobs::{JobId, JobKind};
use cluster::tables::videos::VideoError;
use futures::FutureExt;
use futures::future::BoxFuture;
use gateway::backend::Backend;
use tracing::{Instrument, debug, info, info_span, warn};
use transcoder::worker::{FromChild, SourceState, ToChild};

use super::results::Results;
use super::source::{Portion, SourceError, SourceReader};
use super::worker::Worker;
use super::{Settings, convert, lease_lost, patiently};

/// A child that neither asks nor yields for this long, and is not waiting for bytes, is stuck: the longest segment of the
/// largest picture takes far less.
const SILENCE_MAX: Duration = Duration::from_secs(180);

/// How long to try to say that a job failed. If nobody hears it, the lease ends by itself.
const REPORT_WITHIN: Duration = Duration::from_secs(10);

/// What a try needs to know.
pub(super) struct Context {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) settings: Settings,
    pub(super) job: JobId,
    pub(super) token: LeaseToken,
    /// Set while the job waits for bytes of a running upload.
    pub(super) waits: Arc<AtomicBool>,
}

/// How a try ended that did not fail.
pub(super) enum Ended {
    Done,
    /// Somebody else has the job, or the video is gone.
    LeaseLost,
}

/// Does the job and says how it went.
pub(super) async fn run(context: Context) {
    let span = info_span!("job", job = %context.job, token = context.token.0);
    async {
        match attempt(&context).await {
            Ok(Ended::Done) => info!("done"),
            Ok(Ended::LeaseLost) => info!("the lease is lost"),
            Err(failure) => {
                warn!(
                    permanent = failure.permanent,
                    code = failure.error.code,
                    detail = failure.error.detail,
                    "failed"
                );
                report(&context, failure).await;
            }
        }
    }
    .instrument(span)
    .await;
}

/// Why a try came to nothing.
struct Failure {
    permanent: bool,
    error: VideoError,
}

impl From<anyhow::Error> for Failure {
    /// What goes wrong on our side is worth another try. Everybody can read why a video failed, so the cause is for the log
    /// only: it may name paths and machines.
    fn from(error: anyhow::Error) -> Self {
        warn!(error = format!("{error:#}"), "the try failed on our side");
        let detail = "something went wrong on our side; the log of the node says what";
        Self {
            permanent: false,
            error: VideoError { code: "processing_failed".to_owned(), detail: detail.to_owned() },
        }
    }
}

impl From<transcoder::Failure> for Failure {
    fn from(failure: transcoder::Failure) -> Self {
        Self {
            permanent: failure.is_permanent(),
            error: VideoError { code: failure.code.to_string(), detail: failure.detail },
        }
    }
}

async fn report(context: &Context, failure: Failure) {
    let action = Action::FailJob {
        job: context.job,
        token: context.token,
        permanent: failure.permanent,
        error: failure.error,
    };
    if let Err(error) = patiently(REPORT_WITHIN, || context.backend.propose(action.clone())).await {
        debug!(%error, "report a failed job");
    }
}

async fn attempt(context: &Context) -> Result<Ended, Failure> {
    let Context { backend, settings, job, .. } = context;
    let row = catalog::video(backend.catalog().as_ref(), job.video).context("read the video")?;
    let Some(row) = row else { return Ok(Ended::LeaseLost) };
    let work = convert::job(&row, *job, settings)?;
    let reader = SourceReader::new(Arc::clone(backend), job.video, Arc::clone(&context.waits));
    let state = match reader.state() {
        Ok(state) => state,
        Err(SourceError::Gone) => return Ok(Ended::LeaseLost),
        Err(error) => return Err(anyhow!(error).into()),
    };
    let mut worker = Worker::start(&settings.program)?;
    worker.send(&ToChild::Start { job: work, source: state }).await?;
    let results = Results::new(Arc::clone(backend), *job, context.token, row.source.not_copyable);
    let mut conversation =
        Conversation { worker, results, told: state, reader: Some(reader), reading: None };
    match conversation.run().await? {
        Outcome::Done => Ok(finish(context, conversation.results).await?),
        Outcome::Failed(failure) if failure.code == transcoder::Code::NotCopyable => {
            prepare_again(context, &failure).await
        }
        Outcome::Failed(failure) => Err(failure.into()),
        Outcome::LeaseLost => Ok(Ended::LeaseLost),
    }
}

/// The headers promised what the frames do not keep: without the copy lane it will do.
async fn prepare_again(context: &Context, failure: &transcoder::Failure) -> Result<Ended, Failure> {
    info!(detail = failure.detail, "prepare again without copying");
    let action = Action::PrepareAgain { job: context.job, token: context.token };
    let applied = patiently(super::LEASE, || context.backend.propose(action.clone()))
        .await
        .context("have the video prepared again")?;
    Ok(ended_by(&applied.reply)?)
}

/// Stores what is still on its way, then calls the job done.
async fn finish(context: &Context, mut results: Results) -> Result<Ended> {
    if results.flush().await? == Ended::LeaseLost {
        return Ok(Ended::LeaseLost);
    }
    // Setting the plan ended that job already.
    if context.job.kind == JobKind::Prepare {
        if !results.has_plan() {
            bail!("the worker ended without a plan");
        }
        return Ok(Ended::Done);
    }
    let action = Action::FinishJob {
        job: context.job,
        token: context.token,
        discovered_cuts: results.take_cuts(),
        source_end: results.source_end(),
    };
    let applied = patiently(super::LEASE, || context.backend.propose(action.clone())).await?;
    ended_by(&applied.reply)
}

/// What the catalog's answer to the end of a job means.
fn ended_by(reply: &Reply) -> Result<Ended> {
    if lease_lost(reply) {
        return Ok(Ended::LeaseLost);
    }
    if let Reply::Refused(refusal) = reply {
        bail!("the catalog refused the end of the job: {refusal}");
    }
    Ok(Ended::Done)
}

impl PartialEq for Ended {
    fn eq(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Done, Self::Done) | (Self::LeaseLost, Self::LeaseLost))
    }
}

/// How a conversation ended.
enum Outcome {
    Done,
    Failed(transcoder::Failure),
    LeaseLost,
}

/// A read that has been begun; gives the reader back.
type Reading = BoxFuture<'static, (SourceReader, Result<Portion, SourceError>)>;

/// What goes back and forth between this process and the worker.
struct Conversation {
    worker: Worker,
    results: Results,
    /// What the worker believes about the upload.
    told: SourceState,
    /// Not there while it reads.
    reader: Option<SourceReader>,
    reading: Option<Reading>,
}

impl Conversation {
    async fn run(&mut self) -> Result<Outcome> {
        loop {
            let waiting = self.reading.is_some();
            let read = async {
                match self.reading.as_mut() {
                    Some(reading) => reading.await,
                    None => pending().await,
                }
            };
            let silence = async {
                if waiting { pending().await } else { tokio::time::sleep(SILENCE_MAX).await }
            };
            tokio::select! {
                message = self.worker.receive() => match message? {
                    FromChild::Sandbox(report) => debug!(?report, "the worker's sandbox is up"),
                    FromChild::Read { offset, len } => self.begin_to_read(offset, len)?,
                    FromChild::Output(output) => {
                        // Waits when too many results are on their way, which stops the worker in turn.
                        if self.results.take(output).await? == Ended::LeaseLost {
                            return Ok(Outcome::LeaseLost);
                        }
                    }
                    FromChild::Done => return Ok(Outcome::Done),
                    FromChild::Failed(failure) => return Ok(Outcome::Failed(failure)),
                },
                (reader, read) = read => {
                    self.reading = None;
                    if !self.answer(reader, read).await? {
                        return Ok(Outcome::LeaseLost);
                    }
                }
                progress = self.results.advance() => {
                    if progress? == Ended::LeaseLost {
                        return Ok(Outcome::LeaseLost);
                    }
                }
                () = silence => bail!("the worker said nothing for {SILENCE_MAX:?}"),
            }
        }
    }

    fn begin_to_read(&mut self, offset: u64, len: u32) -> Result<()> {
        let mut reader = self
            .reader
            .take()
            .context("the worker read before it had the answer to its last read")?;
        self.reading = Some(
            async move {
                let read = reader.read(offset, len).await;
                (reader, read)
            }
            .boxed(),
        );
        Ok(())
    }

    /// `false` when there is nothing to answer any more because the video is gone.
    async fn answer(
        &mut self,
        reader: SourceReader,
        read: Result<Portion, SourceError>,
    ) -> Result<bool> {
        let state = reader.state();
        self.reader = Some(reader);
        match state {
            Ok(state) if state != self.told => {
                self.worker.send(&ToChild::Source(state)).await?;
                self.told = state;
            }
            Ok(_) => {}
            Err(SourceError::Gone) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        match read {
            Ok(Portion::Bytes(bytes)) => self.worker.send_data(bytes).await?,
            Ok(Portion::End) => self.worker.send(&ToChild::End).await?,
            Err(SourceError::Gone) => return Ok(false),
            Err(error) => self.worker.send(&ToChild::ReadError(error.to_string())).await?,
        }
        Ok(true)
    }
}
