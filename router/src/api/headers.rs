//! TGI's `x-*` response headers (reference/tgi.md §2c), and when to come again.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;

use super::Settings;
use crate::service::Generation;

/// Tells who found no place, or came too early, to come again in a second.
pub(super) fn with_retry_after(mut response: Response) -> Response {
    if matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// What is known before anything is generated; `characters` are the input's.
pub(super) fn compute_headers(settings: &Settings, characters: usize) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(compute_type) = HeaderValue::try_from(&settings.compute_type) {
        headers.insert(HeaderName::from_static("x-compute-type"), compute_type);
    }
    headers.insert(HeaderName::from_static("x-compute-characters"), HeaderValue::from(characters));
    headers
}

/// Tokens and times of a finished request; times in whole milliseconds, `x-compute-time` in seconds.
pub(super) fn figure_headers(headers: &mut HeaderMap, generation: &Generation) {
    if let Ok(seconds) = HeaderValue::try_from(generation.figures().total.as_secs_f64().to_string()) {
        headers.insert(HeaderName::from_static("x-compute-time"), seconds);
    }
    summed_figure_headers(headers, std::slice::from_ref(generation));
}

/// Sums over the prompts of a request; there is no `x-compute-time` of several.
pub(super) fn summed_figure_headers(headers: &mut HeaderMap, generations: &[Generation]) {
    let names = [
        "x-prompt-tokens",
        "x-generated-tokens",
        "x-total-time",
        "x-validation-time",
        "x-queue-time",
        "x-inference-time",
        "x-time-per-token",
    ];
    let mut sums = [0u64; 7];
    for generation in generations {
        for (sum, figure) in sums.iter_mut().zip(figures(generation)) {
            *sum = sum.saturating_add(figure);
        }
    }
    for (name, sum) in names.into_iter().zip(sums) {
        headers.insert(HeaderName::from_static(name), HeaderValue::from(sum));
    }
}

/// In the order of the names above.
fn figures(generation: &Generation) -> [u64; 7] {
    let figures = generation.figures();
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    [
        generation.facts.prompt.len() as u64,
        u64::from(figures.generated_tokens),
        milliseconds(figures.total),
        milliseconds(figures.validation),
        milliseconds(figures.queue),
        milliseconds(figures.inference),
        milliseconds(figures.time_per_token()),
    ]
}
