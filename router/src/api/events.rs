//! Server-sent events.

use axum::response::sse::Event;
use serde::Serialize;
use serde_json::Value;

/// An event whose data is `body` in JSON: a struct of numbers and strings, which always serializes; NaN becomes null.
pub(super) fn json_event(body: &impl Serialize) -> Event {
    // Written as a whole: the event looks for line breaks in every piece that it is given.
    Event::default().data(serde_json::to_string(body).unwrap_or_default())
}

/// The same of a body with a `type`, which is the event's name, too.
pub(super) fn named_event(body: &impl Serialize) -> Event {
    let body = serde_json::to_value(body).unwrap_or_default();
    let name = body.get("type").and_then(Value::as_str).unwrap_or_default();
    Event::default().event(name).data(body.to_string())
}
