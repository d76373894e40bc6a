//! Swagger UI from the binary itself: it loads nothing from anywhere else.

use std::io::Read;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::read::GzDecoder;

use super::{DOCUMENT, MANAGEMENT_DOCUMENT, MANAGEMENT_PREFIX, PREFIX};

/// Relative addresses, so that it also works below a proxy's prefix.
const PAGE: &str = include_str!("index.html");
const START: &str = include_str!("start.js");
/// Swagger UI sets styles on its elements and shows small images from its style sheet.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
/// The files come with the binary, so a day later they are the same or the server was replaced.
const CACHE: &str = "public, max-age=86400";

/// A file of Swagger UI's, compressed as `tools/swagger_ui` leaves it.
#[derive(Clone, Copy)]
struct Packed {
    media_type: &'static str,
    gzip: &'static [u8],
}

const SCRIPT: Packed = Packed {
    media_type: "text/javascript; charset=utf-8",
    gzip: include_bytes!("swagger-ui/swagger-ui-bundle.js.gz"),
};
const STYLE: Packed =
    Packed { media_type: "text/css; charset=utf-8", gzip: include_bytes!("swagger-ui/swagger-ui.css.gz") };

pub(super) fn routes<S: Clone + Send + Sync + 'static>(document: String) -> Router<S> {
    let document = Bytes::from(document);
    let json = || {
        let document = document.clone();
        get(async move || ([(header::CONTENT_TYPE, "application/json")], document))
    };
    // The address of the document in the script is relative to the page.
    let beside = START.replace("api-doc/openapi.json", "openapi.json");
    Router::new()
        .route(DOCUMENT, json())
        .route(PREFIX, get(|| async { page(PAGE.to_owned()) }))
        .route(
            &format!("{PREFIX}/"),
            get(|| async { (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, "../docs")]) }),
        )
        .merge(files(PREFIX, START.to_owned()))
        .route(MANAGEMENT_DOCUMENT, json())
        .route(&format!("{MANAGEMENT_PREFIX}/openapi.json"), json())
        .route(MANAGEMENT_PREFIX, get(|| async { page(PAGE.to_owned()) }))
        .route(&format!("{MANAGEMENT_PREFIX}/"), get(|| async { page(PAGE.replace("\"docs/", "\"")) }))
        .merge(files(MANAGEMENT_PREFIX, beside))
}

/// What the page loads.
fn files<S: Clone + Send + Sync + 'static>(prefix: &str, start: String) -> Router<S> {
    let start = Bytes::from(start);
    Router::new()
        .route(
            &format!("{prefix}/start.js"),
            get(async move || ([(header::CONTENT_TYPE, SCRIPT.media_type)], start)),
        )
        .route(
            &format!("{prefix}/swagger-ui-bundle.js"),
            get(|headers: HeaderMap| async move { packed(SCRIPT, &headers) }),
        )
        .route(
            &format!("{prefix}/swagger-ui.css"),
            get(|headers: HeaderMap| async move { packed(STYLE, &headers) }),
        )
}

fn page(text: String) -> impl IntoResponse {
    const NOSNIFF: HeaderName = header::X_CONTENT_TYPE_OPTIONS;
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (NOSNIFF, "nosniff"),
    ];
    (headers, text)
}

/// Every browser takes gzip; whoever does not say so gets the file unpacked.
fn packed(file: Packed, request: &HeaderMap) -> Response {
    let headers = [
        (header::CONTENT_TYPE, file.media_type),
        (header::CACHE_CONTROL, CACHE),
        (header::VARY, "accept-encoding"),
    ];
    if accepts_gzip(request) {
        return (headers, [(header::CONTENT_ENCODING, "gzip")], file.gzip).into_response();
    }
    let mut plain = Vec::new();
    match GzDecoder::new(file.gzip).read_to_end(&mut plain) {
        Ok(_) => (headers, plain).into_response(),
        Err(_) => StatusCode::NOT_ACCEPTABLE.into_response(),
    }
}

/// Whether `Accept-Encoding` names gzip and does not refuse it with `q=0`.
fn accepts_gzip(request: &HeaderMap) -> bool {
    let values = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let refused = |weight: &str| {
            weight.strip_prefix("q=").is_some_and(|weight| weight.parse::<f32>().is_ok_and(|q| q == 0.0))
        };
        parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip")) && !parts.any(refused)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_read_as_http_means_it() {
        let cases = [
            ("gzip", true),
            ("deflate, GZIP;q=0.5, br", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000, identity", false),
            ("identity", false),
            ("xgzip", false),
            ("", false),
        ];
        for (value, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, value.parse().unwrap());
            assert_eq!(accepts_gzip(&headers), expected, "{value:?}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
