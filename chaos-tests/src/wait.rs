//! Waiting for conditions, never for time.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How long to pause between two looks: short enough not to lengthen a test noticeably.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The last look may take so long, however late it begins.
const LAST_LOOK: Duration = Duration::from_secs(5);

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
        // A look that hangs must not outlive the test either.
        let left = limit.saturating_sub(start.elapsed()).max(LAST_LOOK);
        let seen = match tokio::time::timeout(left, look()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => String::from("not yet"),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => String::from("still looking"),
        };
        if start.elapsed() > limit {
            return Err(anyhow!("{what}: not within {limit:?} (last: {seen})"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
