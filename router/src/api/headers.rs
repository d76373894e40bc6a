//! TGI's `x-*` response headers (reference/tgi.md §2c).

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::service::Generation;

/// The device class TGI's launcher would report.
const COMPUTE_TYPE: &str = "cpu";

/// What is known before anything is generated; `characters` are the input's.
pub(super) fn compute_headers(characters: usize) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("x-compute-type"), HeaderValue::from_static(COMPUTE_TYPE));
    headers.insert(HeaderName::from_static("x-compute-characters"), HeaderValue::from(characters));
    headers
}

/// Tokens and times of a finished request; times in whole milliseconds, `x-compute-time` in seconds.
pub(super) fn figure_headers(headers: &mut HeaderMap, generation: &Generation) {
    let figures = generation.figures();
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if let Ok(seconds) = HeaderValue::try_from(figures.total.as_secs_f64().to_string()) {
        headers.insert(HeaderName::from_static("x-compute-time"), seconds);
    }
    for (name, value) in [
        ("x-prompt-tokens", generation.facts.prompt.len() as u64),
        ("x-generated-tokens", u64::from(figures.generated_tokens)),
        ("x-total-time", milliseconds(figures.total)),
        ("x-validation-time", milliseconds(figures.validation)),
        ("x-queue-time", milliseconds(figures.queue)),
        ("x-inference-time", milliseconds(figures.inference)),
        ("x-time-per-token", milliseconds(figures.time_per_token())),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
    }
}
