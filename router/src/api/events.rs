//! Server-sent events.

use axum::response::sse::Event;
use serde::Serialize;

/// An event whose data is `body` in JSON: a struct of numbers and strings, which always serializes; NaN becomes null.
pub(super) fn json_event(body: &impl Serialize) -> Event {
    // Written as a whole: the event looks for line breaks in every piece that it is given.
    Event::default().data(serde_json::to_string(body).unwrap_or_default())
}
