//! How much memory all uploads of a node may take together: a block that is being filled for each, and a number of blocks on
//! their way that they share.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;
use crate::settings::Settings;

pub(crate) struct UploadLimits {
    uploads: Arc<Semaphore>,
    /// One permit for each block that is on its way to its holders.
    pub(crate) blocks: Arc<Semaphore>,
    /// The most of them that one upload may have.
    pub(crate) blocks_per_upload: usize,
}

impl UploadLimits {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            uploads: Arc::new(Semaphore::new(settings.uploads_max.max(1))),
            blocks: Arc::new(Semaphore::new(settings.upload_blocks_in_flight_total.max(1))),
            blocks_per_upload: settings.upload_blocks_in_flight.max(1),
        }
    }

    /// The right to upload, or a refusal that says to come back.
    pub(crate) fn begin(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.uploads).try_acquire_owned().map_err(|_| ApiError::Busy("uploads"))
    }
}
