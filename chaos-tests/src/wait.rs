//! Waiting for conditions, never for time.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How long to pause between two looks: short enough not to lengthen a test noticeably.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Calls `look` until it gives a value, or fails after `limit` with what it saw last.
///
/// `look` answers `Ok(Some(value))` when the condition holds, `Ok(None)` or an error when not yet.
///
/// # Errors
/// When the condition does not come true in time.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let start = Instant::now();
    loop {
        let seen = match look().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => String::from("not yet"),
            Err(error) => format!("{error:#}"),
        };
        if start.elapsed() > limit {
            return Err(anyhow!("{what}: not within {limit:?} (last: {seen})"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
