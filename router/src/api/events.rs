//! Server-sent events.

use std::convert::Infallible;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use serde::Serialize;

/// An event whose data is `body` in JSON: a struct of numbers and strings, which always serializes; NaN becomes null.
pub(super) fn json_event(body: &impl Serialize) -> Event {
    // Written as a whole: the event looks for line breaks in every piece that it is given.
    Event::default().data(serde_json::to_string(body).unwrap_or_default())
}

/// The same of a body that begins with its `type`, which is the event's name, too.
pub(super) fn named_event(body: &impl Serialize) -> Event {
    let body = serde_json::to_string(body).unwrap_or_default();
    let name = body.strip_prefix(r#"{"type":""#).and_then(|rest| rest.split('"').next());
    Event::default().event(name.unwrap_or_default()).data(&body)
}

/// The response that brings events as they come, which no proxy is to hold back.
pub(super) fn respond(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))];
    let events = Sse::new(events.map(Ok::<_, Infallible>)).keep_alive(KeepAlive::default());
    (unbuffered, events).into_response()
}
