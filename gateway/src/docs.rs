//! The description of the API (OpenAPI 3.1) and the page that shows it.
//!
//! The page is Swagger UI out of the binary; nothing comes from the network.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use utoipa::{IntoParams, IntoResponses, OpenApi};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::api;
use crate::state::Shared;

const DESCRIPTION_PATH: &str = "/api/openapi.json";

/// Swagger UI sets styles in attributes and draws its icons from data addresses; scripts are files of ours.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Reelraft",
        description = "Any node answers any request. Answers to writes carry `Reelraft-Index`; a read with `Reelraft-Min-Index: N` \
            waits, 5 s at most, until the node has applied N. Without it, or `?consistency=linearizable`, a read shows what the node \
            asked has applied, which is usually milliseconds behind the leader and without bound while the node is cut off; playback \
            may serve what it resolved up to 5 s ago. Errors are RFC 9457 problems with a stable `code`.",
    ),
    tags(
        (name = "videos", description = "Upload, find, change, follow"),
        (name = "playback", description = "HLS, DASH and what belongs to them"),
        (name = "cluster", description = "The nodes and how they are"),
    ),
)]
struct Description;

pub(crate) fn description() -> utoipa::openapi::OpenApi {
    let mut description = Description::openapi();
    description.info.version = env!("CARGO_PKG_VERSION").to_owned();
    description
}

/// The page itself is ours, so that it comes without a redirect and uncompressed; what it loads is Swagger UI's, which the
/// binary holds compressed and sends so, as every browser takes it.
const PAGE: &str = r#"<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <title>Reelraft API</title>
    <link rel="stylesheet" href="/api/docs/ui/swagger-ui.css" />
    <link rel="icon" type="image/png" href="/api/docs/ui/favicon-32x32.png" />
  </head>
  <body>
    <div id="swagger-ui"></div>
    <noscript>This page needs JavaScript. The description it shows is <a href="/api/openapi.json">here</a>.</noscript>
    <script src="/api/docs/ui/swagger-ui-bundle.js"></script>
    <script src="/api/docs/ui/swagger-ui-standalone-preset.js"></script>
    <script src="/api/docs/ui/swagger-initializer.js"></script>
  </body>
</html>
"#;

/// `/api/openapi.json`, `/api/docs`, and what the latter loads.
pub(crate) fn pages(description: utoipa::openapi::OpenApi) -> Router<Shared> {
    let config = Config::new([DESCRIPTION_PATH]).try_it_out_enabled(true);
    let files = SwaggerUi::new("/api/docs/ui").url(DESCRIPTION_PATH, description).config(config);
    Router::from(files).route("/api/docs", get(page))
}

async fn page() -> impl IntoResponse {
    ([(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(PAGE))
}

/// Headers that every read takes.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents what the `Fresh` extractor reads")]
pub(crate) struct ReadHeaders {
    /// Wait, 5 s at most, until the node has applied this log index.
    #[param(rename = "Reelraft-Min-Index")]
    reelraft_min_index: Option<u64>,
}

/// What a read may meet.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents what errors look like")]
pub(crate) enum ReadProblems {
    /// What is asked for cannot be understood
    #[response(status = BAD_REQUEST, content_type = "application/problem+json")]
    BadRequest(api::Problem),
    /// Cannot be had now; try again after `Retry-After` seconds
    #[response(status = SERVICE_UNAVAILABLE, content_type = "application/problem+json", headers(("Retry-After" = u32)))]
    Unavailable(api::Problem),
}

/// What a request about one video may meet.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents what errors look like")]
pub(crate) enum VideoProblems {
    /// There is no such video
    #[response(status = NOT_FOUND, content_type = "application/problem+json")]
    NotFound(api::Problem),
}

/// What a write may meet.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents what errors look like")]
pub(crate) enum WriteProblems {
    /// What is sent cannot be understood
    #[response(status = BAD_REQUEST, content_type = "application/problem+json")]
    BadRequest(api::Problem),
    /// The video's state does not allow it
    #[response(status = CONFLICT, content_type = "application/problem+json")]
    Conflict(api::Problem),
    /// The video has another version by now
    #[response(status = PRECONDITION_FAILED, content_type = "application/problem+json")]
    Precondition(api::Problem),
    /// A value is not allowed
    #[response(status = UNPROCESSABLE_ENTITY, content_type = "application/problem+json")]
    Unprocessable(api::Problem),
    /// Cannot be done now; try again after `Retry-After` seconds
    #[response(status = SERVICE_UNAVAILABLE, content_type = "application/problem+json", headers(("Retry-After" = u32)))]
    Unavailable(api::Problem),
}
