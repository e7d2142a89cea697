//! The table of addresses.

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::ApiError;
use crate::state::Shared;
use crate::{docs, events, playback, respond, status, upload, videos, views, web};

/// What the API's description describes: the handlers themselves say what they take and give.
pub(crate) fn documented() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(docs::description())
        .routes(routes!(videos::list, upload::create))
        .routes(routes!(videos::get, videos::patch, videos::delete))
        .routes(routes!(events::events))
        .routes(routes!(views::heartbeat))
        .routes(routes!(playback::master))
        .routes(routes!(playback::manifest))
        .routes(routes!(playback::thumbnail))
        .routes(routes!(playback::sprites))
        .routes(routes!(playback::source::source))
        .routes(routes!(playback::playlist))
        .routes(routes!(playback::segment))
        .routes(routes!(status::cluster))
        .routes(routes!(status::site))
        .routes(routes!(status::healthz))
        .routes(routes!(status::readyz))
        .routes(routes!(status::metrics))
}

/// Everything.
pub(crate) fn router(gateway: Shared) -> Router {
    let (router, description) = documented().split_for_parts();
    router
        .merge(docs::pages(description))
        .route("/api/v1/uploads", get(tus).post(tus).options(tus))
        .route("/", get(web::page))
        .route("/upload", get(web::page))
        .route("/cluster", get(web::page))
        .route("/watch/{id}", get(web::watch))
        .route("/embed/{id}", get(web::embed))
        .fallback(web::file)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(axum::middleware::from_fn_with_state(gateway.clone(), respond::finish))
        .layer(respond::cors())
        .with_state(gateway)
}

/// Resumable uploads have their address already, so that clients get a clear answer.
async fn tus(State(_): State<Shared>) -> impl IntoResponse {
    ApiError::NotAvailableYet(
        "Resumable uploads are not available on this version; send the file in one request to /api/v1/videos.",
    )
}
