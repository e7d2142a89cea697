//! Trying again while a cluster finds a new leader or a new holder.
//!
//! A request that can be refused is refused at once (503). An upload that is half-way in is worth some waiting: an election
//! takes a second or two, and then it goes on as if nothing had been.

use std::future::Future;
use std::time::Duration;

use cluster::command::Action;
use tokio::time::{Instant, sleep, timeout};

use crate::backend::{Applied, NAMING_TRIES_MAX, Unavailable, needs_blocks, put_again};
use crate::consistency::WAIT_MAX;
use crate::error::ApiError;
use crate::state::Gateway;

/// The first pause between two tries; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause. Longer ones would make an upload wait for a cluster that has long been well again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Gateway {
    /// Proposes once, and answers within the time that the contract gives a write.
    pub(crate) async fn propose(&self, action: Action) -> Result<Applied, Unavailable> {
        timeout(WAIT_MAX, self.backend.propose(action))
            .await
            .unwrap_or_else(|_| Err(Unavailable::Timeout("apply a command".to_owned())))
    }

    /// Proposes until there is an answer or patience ends. The command may be applied more than once, so it has to be one for
    /// which that does no harm.
    pub(crate) async fn propose_patiently(&self, action: Action) -> Result<Applied, ApiError> {
        self.patiently(|| self.propose(action.clone())).await
    }

    /// As [`Self::propose_patiently`], for a command that names blocks: puts them again if it has to be.
    pub(crate) async fn propose_blocks(&self, mut action: Action) -> Result<Applied, ApiError> {
        let mut tries = 1;
        loop {
            let applied = self.propose_patiently(action.clone()).await?;
            if !needs_blocks(&applied.reply) || tries == NAMING_TRIES_MAX {
                return Ok(applied);
            }
            tracing::info!(
                action = action.name(),
                "blocks were put too long ago, and are put again"
            );
            action = self.patiently(|| put_again(&*self.backend, action.clone())).await?;
            tries += 1;
        }
    }

    /// Tries until it works or patience ends.
    pub(crate) async fn patiently<T, F>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, Unavailable>>,
    {
        let ends = Instant::now() + self.settings.upload_patience;
        let mut pause = PAUSE_MIN;
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if Instant::now() + pause >= ends {
                return Err(error.into());
            }
            tracing::debug!(%error, "try again");
            sleep(jittered(pause)).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }
}

/// Between half of it and the whole, so that those who failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    // Without randomness everybody waits as long as they can, which is still correct.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
}
