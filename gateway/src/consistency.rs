//! How old an answer may be.
//!
//! Without more, a read is answered from what this node has applied, which lags behind the leader by a round trip, or by more
//! while the node is cut off. Two things make it wait: `Reelraft-Min-Index: N`, for a client that wants to read what it wrote,
//! and `?consistency=linearizable`, which asks a majority what the newest index is.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::HeaderName;
use axum::http::request::Parts;
use tokio::time::{Instant, timeout_at};

use crate::backend::Unavailable;
use crate::error::ApiError;
use crate::state::{Gateway, Shared};

/// A client's demand: the log index that must be applied before the answer is made.
pub(crate) const MIN_INDEX: HeaderName = HeaderName::from_static("reelraft-min-index");

/// A wait longer than this is of no use to anybody; the contract says 5 s, and the answer has to travel too.
pub(crate) const WAIT_MAX: Duration = Duration::from_millis(4_500);

/// Extracting it waits until the catalog is as new as the request demands.
pub(crate) struct Fresh {
    /// Whether anything was demanded, so that caches must be passed by.
    pub(crate) demanded: bool,
}

impl FromRequestParts<Shared> for Fresh {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Shared) -> Result<Self, ApiError> {
        let least = match parts.headers.get(MIN_INDEX) {
            None => None,
            Some(value) => Some(
                value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok()).ok_or_else(
                    || ApiError::InvalidRequest("Reelraft-Min-Index takes one number.".to_owned()),
                )?,
            ),
        };
        let linearizable = linearizable(parts.uri.query())?;
        if least.is_none() && !linearizable {
            return Ok(Self { demanded: false });
        }
        let deadline = Instant::now() + WAIT_MAX;
        let mut wanted = least.unwrap_or(0);
        if linearizable {
            let newest = timeout_at(deadline, gateway.backend.read_index())
                .await
                .map_err(|_| Unavailable::Timeout("confirm the newest index".to_owned()))??;
            wanted = wanted.max(newest);
        }
        gateway.wait_applied(wanted, deadline).await?;
        Ok(Self { demanded: true })
    }
}

impl Gateway {
    async fn wait_applied(&self, wanted: u64, deadline: Instant) -> Result<(), ApiError> {
        let mut applied = self.backend.applied();
        let reached = timeout_at(deadline, applied.wait_for(|index| *index >= wanted)).await;
        match reached.map(|waited| waited.is_ok()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Unavailable::NotInService("the node stops".to_owned()).into()),
            Err(_) => Err(ApiError::IndexNotApplied { wanted, applied: *applied.borrow() }),
        }
    }
}

fn linearizable(query: Option<&str>) -> Result<bool, ApiError> {
    let Some(value) = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .find_map(|pair| pair.strip_prefix("consistency="))
    else {
        return Ok(false);
    };
    if value == "linearizable" {
        Ok(true)
    } else {
        Err(ApiError::InvalidRequest(
            "The only consistency that can be asked for is `linearizable`.".to_owned(),
        ))
    }
}
