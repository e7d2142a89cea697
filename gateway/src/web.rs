//! The web app, out of the binary: one document for all its pages, and files whose names change with their contents.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{LazyLock, OnceLock};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{
    HeaderMap, HeaderValue, Method, Response as HttpResponse, StatusCode, Uri, header,
};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cluster::ids::BlockHash;
use rust_embed::RustEmbed;

use crate::api::Video;
use crate::error::ApiError;
use crate::extract::VideoPath;
use crate::precondition::{etag_of_block, none_match};
use crate::state::Shared;
use crate::videos;

/// The app as `make web` built it, or a page that says how to build it: see `build.rs`.
#[derive(RustEmbed)]
#[folder = "$GATEWAY_WEB_DIST"]
struct Dist;

const SHELL: &str = "index.html";

/// Files in this folder have a hash in their name.
const HASHED: &str = "assets/";

/// Smaller files gain nothing that the headers do not lose.
const GZIP_BYTES_MIN: usize = 1024;

const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// Scripts and fonts are ours alone. Media, pictures and requests may go to every node of the cluster, whose addresses are
/// not known here; hls.js works in a worker made from a blob and feeds the player with blobs.
macro_rules! policy {
    ($ancestors:literal) => {
        HeaderValue::from_static(concat!(
            "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self'; ",
            "img-src * data: blob:; media-src * blob:; connect-src *; worker-src 'self' blob:; manifest-src 'self'; ",
            "base-uri 'none'; form-action 'self'; object-src 'none'; frame-ancestors ",
            $ancestors
        ))
    };
}
const POLICY: HeaderValue = policy!("'none'");
const EMBED_POLICY: HeaderValue = policy!("*");
const REFERRER: HeaderValue = HeaderValue::from_static("strict-origin-when-cross-origin");

/// A file of the app, ready to be sent.
struct Asset {
    bytes: Bytes,
    content_type: HeaderValue,
    etag: HeaderValue,
    caching: HeaderValue,
    /// Made when it is first asked for; `None` when it is not worth it.
    gzip: OnceLock<Option<Bytes>>,
}

static ASSETS: LazyLock<HashMap<String, Asset>> = LazyLock::new(|| {
    let assets = Dist::iter().filter_map(|path| Some((path.to_string(), Asset::load(&path)?)));
    assets.collect()
});

impl Asset {
    fn load(path: &str) -> Option<Self> {
        let bytes = match Dist::get(path)?.data {
            std::borrow::Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            std::borrow::Cow::Owned(bytes) => Bytes::from(bytes),
        };
        let mime = mime_guess::from_path(path).first_or_octet_stream();
        let mut content_type = mime.to_string();
        if mime.type_() == mime_guess::mime::TEXT {
            content_type.push_str("; charset=utf-8");
        }
        Some(Self {
            etag: etag_of_block(&BlockHash::of(&bytes)),
            content_type: HeaderValue::try_from(content_type).ok()?,
            caching: if path.starts_with(HASHED) { IMMUTABLE } else { NO_CACHE },
            gzip: OnceLock::new(),
            bytes,
        })
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let mut response = if none_match(headers, &self.etag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else if let Some(gzip) = self.gzip().filter(|_| takes_gzip(headers)) {
            let mut response = HttpResponse::new(Body::from(gzip.clone()));
            response.headers_mut().insert(header::CONTENT_ENCODING, GZIP);
            response
        } else {
            HttpResponse::new(Body::from(self.bytes.clone()))
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, self.content_type.clone());
        headers.insert(header::ETAG, self.etag.clone());
        headers.insert(header::CACHE_CONTROL, self.caching.clone());
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        response
    }

    fn gzip(&self) -> Option<&Bytes> {
        let made = self.gzip.get_or_init(|| {
            if self.bytes.len() < GZIP_BYTES_MIN {
                return None;
            }
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&self.bytes).ok()?;
            let small = encoder.finish().ok()?;
            // Fonts and pictures are compressed already.
            (small.len() < self.bytes.len() * 9 / 10).then(|| Bytes::from(small))
        });
        made.as_ref()
    }
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    accepted.unwrap_or_default().split(',').any(|coding| {
        let mut parts = coding.split(';');
        parts.next().is_some_and(|name| name.trim() == "gzip")
            && !parts.any(|part| matches!(part.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// A page of the app.
pub(crate) async fn page() -> Response {
    shell(StatusCode::OK, "", None, POLICY)
}

/// The page of a video, with what other sites show of it when somebody links to it.
pub(crate) async fn watch(
    State(gateway): State<Shared>,
    id: Result<VideoPath, ApiError>,
    headers: HeaderMap,
) -> Response {
    let view = gateway.backend.catalog();
    let video = id.and_then(|VideoPath(id)| videos::present(&*view, videos::visible(&*view, id)?));
    match video {
        Ok(video) => {
            let tags = link_tags(&video, &gateway.settings.site_name, origin(&headers).as_deref());
            shell(StatusCode::OK, &tags, Some(&video.title), POLICY)
        }
        // The app says it in words. It may also be that this node has not heard of the video yet.
        Err(error) if error.status() == StatusCode::NOT_FOUND => {
            shell(StatusCode::NOT_FOUND, "", None, POLICY)
        }
        Err(_) => shell(StatusCode::OK, "", None, POLICY),
    }
}

/// The player alone, which other sites may frame.
pub(crate) async fn embed() -> Response {
    shell(StatusCode::OK, "", None, EMBED_POLICY)
}

/// A file of the app; else there is nothing here, said in JSON to programs and with the app to people.
pub(crate) async fn file(request: Request) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let path = request.uri().path().trim_start_matches('/');
    if reads
        && path != SHELL
        && let Some(asset) = ASSETS.get(path)
    {
        return asset.answer(request.headers());
    }
    if reads && is_page(request.uri(), request.headers()) {
        return shell(StatusCode::NOT_FOUND, "", None, POLICY);
    }
    ApiError::UnknownRoute.into_response()
}

fn is_page(uri: &Uri, headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let data = ["/api/", "/v/", "/assets/"].iter().any(|prefix| uri.path().starts_with(prefix));
    !data && accepts.is_some_and(|accepts| accepts.contains("text/html"))
}

/// The one document, with `tags` at the end of its head.
fn shell(status: StatusCode, tags: &str, title: Option<&str>, policy: HeaderValue) -> Response {
    let Some(asset) = ASSETS.get(SHELL) else {
        return ApiError::Internal("the web app has no index.html".to_owned()).into_response();
    };
    let mut html = String::from_utf8_lossy(&asset.bytes).into_owned();
    if let Some(title) = title
        && let Some((before, rest)) = html.split_once("<title>")
        && let Some((name, after)) = rest.split_once("</title>")
    {
        html = format!("{before}<title>{} · {name}</title>{after}", Escaped(title));
    }
    if !tags.is_empty() {
        html = html.replacen("</head>", &format!("{tags}</head>"), 1);
    }
    let mut response = HttpResponse::new(Body::from(html));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HTML);
    headers.insert(header::CACHE_CONTROL, NO_CACHE);
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(header::REFERRER_POLICY, REFERRER);
    response
}

/// The Open Graph protocol, as chat programs and social sites read it.
fn link_tags(video: &Video, site: &str, origin: Option<&str>) -> String {
    let mut tags = String::new();
    let mut tag = |property: &str, content: &str| {
        writeln!(tags, "<meta property=\"{property}\" content=\"{}\" />", Escaped(content))
            .expect("writing to a string does not fail");
    };
    tag("og:type", "video.other");
    tag("og:site_name", site);
    tag("og:title", &video.title);
    if !video.description.is_empty() {
        tag("og:description", &video.description);
    }
    // Only full addresses are allowed here.
    if let Some(origin) = origin {
        tag("og:url", &format!("{origin}{}", video.urls.watch));
        if let Some(thumbnail) = &video.urls.thumbnail {
            tag("og:image", &format!("{origin}{thumbnail}"));
        }
        tag("og:video:url", &format!("{origin}{}", video.urls.embed));
        tag("og:video:type", "text/html");
    }
    tags
}

/// How the client got here, if it says so in a way that can be an address.
fn origin(headers: &HeaderMap) -> Option<String> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    if host.is_empty() || !host.chars().all(plain) {
        return None;
    }
    let secure = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    Some(format!("{}://{host}", if secure { "https" } else { "http" }))
}

/// Text in HTML, also within an attribute.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_to_those_who_take_it() {
        let takes = |value: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(
                header::ACCEPT_ENCODING,
                HeaderValue::from_static(value),
            )]))
        };
        assert!(takes("br, gzip;q=0.8"));
        assert!(takes("gzip"));
        assert!(!takes("br"));
        assert!(!takes("gzip;q=0, br"));
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn only_a_plain_host_becomes_an_address() {
        let of = |host: &'static str| {
            origin(&HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]))
        };
        assert_eq!(of("a.example:8080").as_deref(), Some("http://a.example:8080"));
        assert_eq!(of("[::1]:8080").as_deref(), Some("http://[::1]:8080"));
        assert_eq!(of("a\"><script>"), None);
        assert_eq!(of("user@host"), None);
    }
}
