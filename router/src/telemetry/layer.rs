//! The layer that finds out which trace a request belongs to.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use super::Tracer;
use super::context::TraceContext;

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// The trace of the request that the calling task handles.
pub(super) fn current() -> Option<TraceContext> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Runs the handlers within the caller's trace, or within a new one if traces are recorded.
pub(crate) async fn trace(State(tracer): State<Tracer>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let name = format!("{} {route}", request.method());
    let context = TraceContext::from_headers(request.headers(), &name)
        .or_else(|| tracer.records().then(|| TraceContext::begin(&name)));
    let Some(context) = context else { return next.run(request).await };
    let log = tracing::info_span!("request", trace_id = %context.trace);
    CURRENT.scope(context, next.run(request)).instrument(log).await
}
