//! What the handlers share.
//!
//! The gateway keeps nothing between requests that matters: all of this can be lost at any time, and only costs time.

use std::sync::{Arc, OnceLock};

use axum::http::HeaderValue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::Backend;
use crate::meters::Meters;
use crate::playback::cache::Caches;
use crate::settings::Settings;
use crate::upload::limits::UploadLimits;
use crate::views::Views;

/// One per node, shared by all requests.
pub(crate) struct Gateway {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) settings: Settings,
    pub(crate) meters: Meters,
    pub(crate) caches: Caches,
    pub(crate) uploads: UploadLimits,
    pub(crate) views: Views,
    /// Event streams open at present.
    pub(crate) event_streams: Arc<tokio::sync::Semaphore>,
    /// Cancelled when the node stops: what would go on for ever ends then.
    pub(crate) stopping: CancellationToken,
    /// What outlives its request: uploads end in order even when their client has gone.
    pub(crate) tasks: TaskTracker,
    node: OnceLock<HeaderValue>,
}

pub(crate) type Shared = Arc<Gateway>;

impl Gateway {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        settings: Settings,
        stopping: CancellationToken,
    ) -> Shared {
        Arc::new(Self {
            uploads: UploadLimits::new(&settings),
            meters: Meters::new(),
            caches: Caches::new(),
            views: Views::new(),
            event_streams: Arc::new(tokio::sync::Semaphore::new(crate::events::STREAMS_MAX)),
            tasks: TaskTracker::new(),
            node: OnceLock::new(),
            stopping,
            backend,
            settings,
        })
    }

    /// The value of `Reelraft-Node`. A node's id is unknown until it belongs to a cluster and never changes after.
    pub(crate) fn node(&self) -> Option<&HeaderValue> {
        if let Some(known) = self.node.get() {
            return Some(known);
        }
        let id = self.backend.this_node()?;
        Some(self.node.get_or_init(|| HeaderValue::from(id.0)))
    }
}
