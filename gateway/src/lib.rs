//! What people see: the HTTP API, uploads, playlists, playback and the web app.
//!
//! The gateway knows HTTP and how a site looks. It does not know how a cluster decides, where bytes are or how media is made:
//! all that it needs of a node is behind the [`Backend`](backend::Backend) trait.
//!
//! # Invariants
//!
//! - It keeps nothing between requests that matters; any node can answer any request.
//! - A write is acknowledged after it was applied here, with its log index (`Reelraft-Index`).
//! - Bytes are named in the catalog only after the backend said that they are durable.
//! - Memory is bounded: by connections, by uploads and blocks in flight, and by the sizes of the caches.
//! - Every error is a problem (RFC 9457) with a stable code, and says nothing of the inside.
//!
//! # Map
//!
//! `routes` has the table of addresses, `respond` what every answer has, `error` what goes wrong; then one module per
//! resource: `videos`, `events`, `views` (heartbeats), [`upload`], [`playback`], `status`, `web`.

pub mod api;
pub mod backend;
mod consistency;
mod docs;
mod error;
mod events;
mod extract;
mod meters;
pub mod playback;
mod precondition;
mod range;
mod respond;
mod routes;
mod server;
mod settings;
mod state;
mod status;
pub mod upload;
mod videos;
mod views;
mod web;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use error::ApiError;
pub use server::serve;
pub use settings::Settings;

/// All routes as a service without a socket. Unlike [`serve`] it never stops by itself and reports no views.
pub fn router(backend: Arc<dyn backend::Backend>, settings: Settings) -> axum::Router {
    routes::router(state::Gateway::new(backend, settings, CancellationToken::new()))
}

/// The description of the API, as `GET /api/openapi.json` gives it.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes::documented().into_openapi()
}
